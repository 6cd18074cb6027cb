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
}

/// Whether nothing is under way that could lead the VM elsewhere: it stays as it is until somebody acts. A VM that waits
/// for a host moves on by itself, and so does one whose host is lost when that is back.
fn is_settled(vm: &Element) -> bool {
    match states::vm(vm) {
        None | Some(VmState::Init | VmState::Pending | VmState::Cloning) => false,
        Some(VmState::Active) => states::lcm(vm) == Some(LcmState::Running),
        Some(_) => true,
    }
}

/// Looks in a row at a VM that rests elsewhere and was not seen to move before the goal counts as lost. The daemon answers
/// the call when the state has changed, so one would do; three cost little.
const RESTING_LOOKS_MAX: u32 = 3;

/// Whether the goal is lost: the VM rests elsewhere. It came back (the guest ignored the request, the start failed), or it
/// went somewhere else.
#[derive(Default)]
struct Rest {
    has_moved: bool,
    looks: u32,
}

impl Rest {
    /// Takes in a look at a VM that has not reached its goal.
    fn is_elsewhere(&mut self, vm: &Element) -> bool {
        if !is_settled(vm) {
            self.has_moved = true;
            return false;
        }
        self.looks += 1;
        self.has_moved || self.looks >= RESTING_LOOKS_MAX || states::vm(vm) == Some(VmState::Done)
    }
}

/// Waits until the VM is there.
///
/// # Errors
/// When it ends in a failure state or rests in another one, with the VM's own ERROR text; when the time is over.
pub fn reach(client: &Client, id: i64, goal: Goal, options: &WaitOptions) -> Result<()> {
    let mut rest = Rest::default();
    watch::until(&format!("VM {id}"), options, || {
        let vm = VM.info(client, id, false)?;
        if goal.reached(&vm) {
            return Ok(Look::Done(()));
        }
        let phase = states::vm_phase(&vm);
        if states::vm_failed(&vm) || rest.is_elsewhere(&vm) {
            bail!("VM {id} is in {phase}{}", reason(&vm));
        }
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

    fn vm(state: i64, lcm: i64) -> Element {
        Element::parse(&format!("<VM><STATE>{state}</STATE><LCM_STATE>{lcm}</LCM_STATE></VM>")).unwrap()
    }

    /// Whether the goal is lost at the last of some looks.
    fn is_lost(looks: &[(i64, i64)]) -> bool {
        let mut rest = Rest::default();
        let seen: Vec<bool> = looks.iter().map(|(state, lcm)| rest.is_elsewhere(&vm(*state, *lcm))).collect();
        let (last, before) = seen.split_last().unwrap();
        assert!(!before.contains(&true), "{looks:?} was lost before: {seen:?}");
        *last
    }

    #[test]
    fn a_vm_that_came_to_rest_elsewhere_has_lost_its_goal() {
        const RUNNING: (i64, i64) = (3, 3);
        const OFF: (i64, i64) = (8, 0);
        const BOOT_POWEROFF: (i64, i64) = (3, 24);
        const PENDING: (i64, i64) = (1, 0);
        const UNKNOWN: (i64, i64) = (3, 16);
        // The guest ignores the request; the start fails; a deploy ends where it began.
        assert!(is_lost(&[(3, 18), RUNNING]));
        assert!(is_lost(&[BOOT_POWEROFF, OFF]));
        assert!(is_lost(&[PENDING, (3, 1), (9, 0)]));
        // Over before the first look.
        assert!(!is_lost(&[OFF]) && !is_lost(&[OFF, OFF]) && is_lost(&[OFF, OFF, OFF]));
        assert!(!is_lost(&[RUNNING, RUNNING, (3, 18)]) && is_lost(&[RUNNING, RUNNING, (3, 18), RUNNING]));
        // What is gone does not come back; what waits for a host may.
        assert!(is_lost(&[(6, 0)]));
        assert!(!is_lost(&[PENDING; 9]) && !is_lost(&[UNKNOWN; 9]) && !is_lost(&[BOOT_POWEROFF; 9]));
    }

    #[test]
    fn each_goal_is_a_state() {
        for (goal, state) in [
            (Goal::Running, (3, 3)),
            (Goal::Held, (2, 0)),
            (Goal::PowerOff, (8, 0)),
            (Goal::Undeployed, (9, 0)),
            (Goal::Stopped, (4, 0)),
            (Goal::Suspended, (5, 0)),
            (Goal::Gone, (6, 0)),
        ] {
            assert!(goal.reached(&vm(state.0, state.1)), "{goal:?}");
            assert!(!goal.reached(&vm(3, 18)), "{goal:?}");
        }
    }
}
