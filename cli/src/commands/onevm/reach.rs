//! Waiting until a VM is in the state that an action leads to.

use anyhow::{Result, bail};
use one_core::lifecycle::{LcmState, VmState};

use crate::objects::VM;
use crate::states;
use crate::watch::{self, Look, WaitOptions};
use crate::wire::Client;
use crate::xml::Element;

/// Where a VM is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// ACTIVE, RUNNING.
    Running,
    /// HOLD.
    Held,
    /// POWEROFF.
    PowerOff,
    /// UNDEPLOYED.
    Undeployed,
    /// STOPPED.
    Stopped,
    /// SUSPENDED.
    Suspended,
    /// DONE.
    Gone,
}

impl Goal {
    fn reached(self, vm: &Element) -> bool {
        match self {
            Self::Running => states::lcm(vm) == Some(LcmState::Running),
            Self::Held => states::vm(vm) == Some(VmState::Hold),
            Self::PowerOff => states::vm(vm) == Some(VmState::Poweroff),
            Self::Undeployed => states::vm(vm) == Some(VmState::Undeployed),
            Self::Stopped => states::vm(vm) == Some(VmState::Stopped),
            Self::Suspended => states::vm(vm) == Some(VmState::Suspended),
            Self::Gone => states::vm(vm) == Some(VmState::Done),
        }
    }

    /// States from which the goal is out of reach: a VM that is gone, and one that came back to RUNNING when it was told
    /// to go (the guest ignored the request).
    fn lost(self, vm: &Element, left_running: bool) -> bool {
        let gone = states::vm(vm) == Some(VmState::Done);
        let back = left_running && Self::Running.reached(vm);
        match self {
            Self::Running | Self::Held => gone,
            Self::PowerOff | Self::Undeployed | Self::Stopped | Self::Suspended => gone || back,
            Self::Gone => back,
        }
    }
}

/// Waits until the VM is there.
///
/// # Errors
/// When it ends in a failure state, with the VM's own ERROR text; when the time is over.
pub fn reach(client: &Client, id: i64, goal: Goal, options: &WaitOptions) -> Result<()> {
    let mut left_running = false;
    watch::until(&format!("VM {id}"), options, || {
        let vm = VM.info(client, id, false)?;
        if goal.reached(&vm) {
            return Ok(Look::Done(()));
        }
        let phase = states::vm_phase(&vm);
        if states::vm_failed(&vm) || goal.lost(&vm, left_running) {
            bail!("VM {id} is in {phase}{}", reason(&vm));
        }
        left_running |= !Goal::Running.reached(&vm);
        Ok(Look::Busy(phase.to_owned(), None))
    })
}

/// `: <USER_TEMPLATE/ERROR>`, or nothing.
pub fn reason(vm: &Element) -> String {
    match vm.text_at("USER_TEMPLATE/ERROR") {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_ignores_the_shutdown_loses_the_goal() {
        let running = Element::parse("<VM><STATE>3</STATE><LCM_STATE>3</LCM_STATE></VM>").unwrap();
        assert!(!Goal::PowerOff.lost(&running, false));
        assert!(Goal::PowerOff.lost(&running, true));
        let done = Element::parse("<VM><STATE>6</STATE><LCM_STATE>0</LCM_STATE></VM>").unwrap();
        assert!(Goal::Gone.reached(&done) && Goal::Running.lost(&done, false) && Goal::PowerOff.lost(&done, false));
    }
}
