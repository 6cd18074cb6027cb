//! Domains come and go: define, start, pause, stop, remove; and the facts about their host.
//!
//! Each is idempotent by name, so it looks at what is there before and after.

use std::time::Duration;

use virt::error::Error;
use virt::sys;

use super::connection::Connection;
use super::deadline::poll;
use super::{code, domain, domain_state, failed, ffi, is_off};
use crate::hypervisor::{DomainSpec, DomainState, HostFacts};
use crate::{DriverError, Kind, Result};

/// Whether libvirt refuses because of a job that it found when it was started and that nobody can end: the job's owner is the
/// thread `init-DOMAIN`, which is gone since. Seen with 9.0 after it was killed while it began a backup; it outlasts the
/// guest's end, but not the definition of the domain.
fn is_held_for_ever(error: &Error) -> bool {
    code(error) == sys::VIR_ERR_OPERATION_TIMEOUT && error.message().contains("=init-")
}

/// What [`crate::Hypervisor`] says of the methods of these names.
impl Connection {
    pub(super) fn facts(&self) -> Result<HostFacts> {
        let wrong = |error: Error| failed("asking for facts about the host", &error);
        let connect = self.connect()?;
        let version = |number: u32| {
            let (major, minor, patch) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
            format!("{major}.{minor}.{patch}")
        };
        let node = connect.node_info().map_err(wrong)?;
        let kind = connect.driver_type().map_err(wrong)?;
        let hypervisor = version(connect.hyp_version().map_err(wrong)?);
        let library = version(connect.lib_version().map_err(wrong)?);
        Ok(HostFacts {
            hypervisor: format!("{kind} {hypervisor}, libvirt {library}"),
            cpus: node.cpus,
            memory_kb: node.memory,
            free_memory_kb: connect.free_memory().map_err(wrong)? / 1024,
        })
    }

    pub(super) fn deploy(&self, spec: &DomainSpec) -> Result<()> {
        let doing = format!("deploying domain {}", spec.name);
        let wrong = |error: Error| failed(&doing, &error);
        if let Some(domain) = self.lookup(&spec.name)?
            && !is_off(domain_state(&domain)?)
        {
            return Ok(());
        }
        let document = domain::document(spec)?;
        let connect = self.connect()?;
        let start = || connect.define_domain_xml(&document).and_then(|domain| domain.create());
        match start() {
            Err(error) if is_held_for_ever(&error) => {
                tracing::warn!(domain = spec.name, error = error.message(), "defining a domain anew that libvirt held");
                if let Some(domain) = self.lookup(&spec.name)? {
                    // Not with snapshots: what libvirt knows of them would be lost. Checkpoints are described again when needed.
                    let flags = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
                    domain.undefine_flags(flags).map_err(wrong)?;
                }
                start().map_err(wrong)
            }
            done => done.map_err(wrong),
        }
    }

    pub(super) fn resume(&self, name: &str) -> Result<()> {
        let doing = format!("resuming domain {name}");
        let domain = self.existing(name, &doing)?;
        let done = match ffi::state(&domain).map_err(|error| failed(&doing, &error))?.0 {
            sys::VIR_DOMAIN_PMSUSPENDED => domain.pm_wakeup(0),
            sys::VIR_DOMAIN_PAUSED => domain.resume(),
            sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED => domain.create(),
            _ => Ok(()),
        };
        done.map_err(|error| failed(&doing, &error))
    }

    pub(super) fn pause(&self, name: &str) -> Result<()> {
        let doing = format!("pausing domain {name}");
        let domain = self.existing(name, &doing)?;
        match domain_state(&domain)? {
            DomainState::Paused | DomainState::PausedIoError => Ok(()),
            state if is_off(state) => {
                Err(DriverError::new(Kind::Permanent, doing, "the domain does not run; start it first"))
            }
            _ => domain.suspend().map_err(|error| failed(&doing, &error)),
        }
    }

    pub(super) fn shutdown(&self, name: &str, timeout: Duration) -> Result<()> {
        let doing = format!("shutting down domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        let off = || Ok(is_off(domain_state(&domain)?));
        if off()? {
            return Ok(());
        }
        // A dead agent must not hold the call; ACPI comes next then.
        drop(ffi::set_agent_timeout(&domain, 5));
        let ways = sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN;
        if let Err(error) = domain.shutdown_flags(ways)
            && !off()?
        {
            return Err(failed(&doing, &error));
        }
        if poll(timeout, off)? {
            return Ok(());
        }
        let reason = format!("the guest still runs after {} s; wait longer or stop it hard", timeout.as_secs());
        Err(DriverError::new(Kind::Retry, doing, reason))
    }

    pub(super) fn destroy(&self, name: &str) -> Result<()> {
        let doing = format!("destroying domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        match domain.destroy() {
            Ok(()) => Ok(()),
            Err(error) if code(&error) == sys::VIR_ERR_NO_DOMAIN => Ok(()),
            // "Domain is not running" has the number of any wrong moment; so look.
            Err(_) if is_off(domain_state(&domain)?) => Ok(()),
            Err(error) => Err(failed(&doing, &error)),
        }
    }

    pub(super) fn reboot(&self, name: &str, hard: bool) -> Result<()> {
        let doing = format!("rebooting domain {name}");
        let domain = self.existing(name, &doing)?;
        let done = if hard {
            domain.reset()
        } else {
            drop(ffi::set_agent_timeout(&domain, 5));
            domain.reboot(sys::VIR_DOMAIN_REBOOT_GUEST_AGENT | sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
        };
        done.map_err(|error| failed(&doing, &error))
    }

    pub(super) fn undefine(&self, name: &str) -> Result<()> {
        let doing = format!("undefining domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        if !is_off(domain_state(&domain)?) {
            return Err(DriverError::new(Kind::Permanent, doing, "the domain runs; stop it first"));
        }
        let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        let done = domain.undefine_flags(all | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA);
        let done = match done {
            // A driver without checkpoints does not know the flag.
            Err(error) if matches!(code(&error), sys::VIR_ERR_INVALID_ARG | sys::VIR_ERR_ARGUMENT_UNSUPPORTED) => {
                domain.undefine_flags(all)
            }
            other => other,
        };
        match done {
            Err(error) if code(&error) != sys::VIR_ERR_NO_DOMAIN => Err(failed(&doing, &error)),
            _ => Ok(()),
        }
    }
}
