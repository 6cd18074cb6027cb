//! Waiting until a VM rests again after something was changed on it: whatever it was doing, it is RUNNING, off or away.

use anyhow::{Result, bail};
use one_core::lifecycle::{LcmState, VmState};

use super::reach::reason;
use crate::objects::VM;
use crate::states;
use crate::watch::{self, Look, WaitOptions};
use crate::wire::Client;
use crate::xml::Element;

/// Does something to the VM and waits, if the options say so, until it rests again.
///
/// # Errors
/// What `act` says; when the VM ends in a failure state or has a new ERROR afterwards, with that text; when the time is over.
pub fn settled<T>(client: &Client, id: i64, options: &WaitOptions, act: impl FnOnce() -> Result<T>) -> Result<T> {
    if !options.wait {
        return act();
    }
    // An ERROR of earlier days may still stand there.
    let before = reason(&VM.info(client, id, false)?);
    let answer = act()?;
    watch::until(&format!("VM {id}"), options, || {
        let vm = VM.info(client, id, false)?;
        let phase = states::vm_phase(&vm);
        let reason = reason(&vm);
        if states::vm_failed(&vm) {
            bail!("VM {id} is in {phase}{reason}");
        }
        match rests(&vm) {
            false => Ok(Look::Busy(phase.to_owned(), None)),
            true if reason.is_empty() || reason == before => Ok(Look::Done(())),
            true => bail!("VM {id}{reason}"),
        }
    })?;
    Ok(answer)
}

fn rests(vm: &Element) -> bool {
    states::vm(vm) != Some(VmState::Active) || states::lcm(vm) == Some(LcmState::Running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_rests_when_it_runs_or_is_not_active() {
        let vm = |state: i64, lcm: i64| {
            Element::parse(&format!("<VM><STATE>{state}</STATE><LCM_STATE>{lcm}</LCM_STATE></VM>")).unwrap()
        };
        // RUNNING, POWEROFF; then HOTPLUG, HOTPLUG_SAVEAS_POWEROFF.
        assert!(rests(&vm(3, 3)) && rests(&vm(8, 0)));
        assert!(!rests(&vm(3, 17)) && !rests(&vm(3, 26)));
    }
}
