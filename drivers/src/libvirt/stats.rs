//! What a domain uses: processor, memory, disks, network.
//!
//! libvirt counts; the only thing kept here is the last processor time of each domain, so that the next question can tell a
//! rate. Losing it costs one short wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::connection::Connection;
use super::{domain_state, failed, is_off, xml};
use crate::Result;
use crate::hypervisor::DomainStats;

/// A rate over less than this says little.
const SHORTEST: Duration = Duration::from_millis(200);
/// A sample older than this tells of another time, and is forgotten.
const OLDEST: Duration = Duration::from_secs(600);

/// Processor time of a domain (its UUID and number, which differs after each start) at one moment.
#[derive(Default)]
pub(super) struct Samples(Mutex<HashMap<(String, u32), (Instant, u64)>>);

impl Samples {
    /// Puts in a new sample and hands out the one before, if it is fit for a rate.
    fn replace(&self, key: (String, u32), now: Instant, nanoseconds: u64) -> Option<(Instant, u64)> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|_, (at, _)| now.saturating_duration_since(*at) < OLDEST);
        let before = samples.get(&key).copied();
        let fit = before.filter(|(at, _)| now.saturating_duration_since(*at) >= SHORTEST);
        // A flood of questions must not keep the window from ever opening.
        if fit.is_some() || before.is_none() {
            samples.insert(key, (now, nanoseconds));
        }
        fit
    }
}

fn percent(from: (Instant, u64), to: (Instant, u64)) -> f64 {
    let elapsed = to.0.saturating_duration_since(from.0).as_secs_f64();
    let used = Duration::from_nanos(to.1.saturating_sub(from.1)).as_secs_f64();
    if elapsed > 0.0 { used / elapsed * 100.0 } else { 0.0 }
}

/// libvirt says -1 for what it cannot count.
fn counted(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl Connection {
    /// What [`crate::Hypervisor::stats`] says.
    pub(super) fn stats(&self, name: &str) -> Result<Option<DomainStats>> {
        let Some(domain) = self.lookup(name)? else { return Ok(None) };
        if is_off(domain_state(&domain)?) {
            return Ok(None);
        }
        match self.measure(&domain) {
            Ok(stats) => Ok(Some(stats)),
            // It may have stopped between two questions.
            Err(_) if is_off(domain_state(&domain)?) => Ok(None),
            Err(error) => Err(failed(&format!("asking what domain {name} uses"), &error)),
        }
    }

    fn measure(&self, domain: &Domain) -> std::result::Result<DomainStats, Error> {
        let used = || domain.info().map(|info| (Instant::now(), info.cpu_time));
        let mut now = used()?;
        let key = (domain.uuid_string()?, domain.id().unwrap_or(0));
        let before = match self.samples().replace(key, now.0, now.1) {
            Some(before) => before,
            None => {
                std::thread::sleep(SHORTEST);
                std::mem::replace(&mut now, used()?)
            }
        };
        let memory = domain.memory_stats(0)?;
        let resident = memory.iter().find(|one| one.tag == sys::VIR_DOMAIN_MEMORY_STAT_RSS).map(|one| one.val);
        let mut stats = DomainStats {
            cpu_percent: percent(before, now),
            memory_kb: resident.map_or_else(|| domain.info().map(|info| info.memory), Ok)?,
            ..DomainStats::default()
        };
        let document = domain.xml_desc(0)?;
        // The empty name stands for all disks together, which fails for a domain without any.
        if let Ok(disks) = domain.block_stats("") {
            stats.disk_read_bytes = counted(disks.rd_bytes);
            stats.disk_write_bytes = counted(disks.wr_bytes);
            stats.disk_read_ops = counted(disks.rd_req);
            stats.disk_write_ops = counted(disks.wr_req);
        }
        for target in xml::interface_targets(&document).unwrap_or_default() {
            if let Ok(nic) = domain.interface_stats(&target) {
                stats.net_rx_bytes = stats.net_rx_bytes.saturating_add(counted(nic.rx_bytes));
                stats.net_tx_bytes = stats.net_tx_bytes.saturating_add(counted(nic.tx_bytes));
            }
        }
        Ok(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_that_are_neither_too_close_nor_too_old() {
        let samples = Samples::default();
        let start = Instant::now();
        let key = || ("u".to_owned(), 1);
        assert_eq!(samples.replace(key(), start, 0), None);
        assert_eq!(samples.replace(key(), start + SHORTEST / 2, 5), None);
        let second = start + Duration::from_secs(1);
        let before = samples.replace(key(), second, 500_000_000).unwrap();
        assert_eq!(before, (start, 0), "the sample in between was too close");
        assert!((percent(before, (second, 500_000_000)) - 50.0).abs() < 0.001);
        assert_eq!(samples.replace(key(), second + OLDEST, 1), None);
        assert_eq!(samples.replace(("u".to_owned(), 2), second + OLDEST, 1), None, "another start");
        assert_eq!(percent((start, 7), (start, 9)), 0.0);
    }
}
