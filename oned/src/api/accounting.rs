//! What VMs did and used: samples, history as accounting, and its price (showback).
//!
//! Costs are computed when they are asked for, from the history, so there is nothing to be calculated beforehand. A VM says
//! what it costs in CPU_COST (one processor for an hour), MEMORY_COST (a MB for an hour) and DISK_COST (a MB for an hour);
//! what it does not say is free. Processors and memory count while it runs, disks as long as it is on a host.

use std::collections::BTreeMap;

use chrono::{Datelike as _, TimeZone as _};
use chrono_tz::Tz;
use one_core::access::Caller;
use one_core::doc::{self, AccountingRecord, HistoryView, ShowbackView, VmSampleView, VmView};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::pool::PoolFilter;
use super::{Cloud, only_admin, owned, view};
use crate::ledger::stored;
use crate::store::rows::{SampleRow, VmRow};
use crate::store::{StoreError, Tx, VmFilter};

/// How far back samples are asked for, seconds: −1 all that there are, 0 the last only.
#[derive(Debug, Clone, Copy)]
pub struct Period(pub i64);

impl Period {
    /// The samples of an object within the period that ends now, oldest first.
    ///
    /// # Errors
    /// The database's failure.
    pub fn samples(self, tx: &mut Tx<'_>, kind: &str, id: i64, now: i64) -> Result<Vec<SampleRow>, StoreError> {
        match self.0 {
            0 => Ok(tx.sample_last(kind, id)?.into_iter().collect()),
            seconds if seconds < 0 => tx.samples(kind, id, i64::MIN),
            seconds => tx.samples(kind, id, now.saturating_sub(seconds)),
        }
    }
}

fn push_samples(
    tx: &mut Tx<'_>,
    pool: &mut doc::Pool<'_>,
    vm: i64,
    period: Period,
    now: i64,
) -> Result<(), StoreError> {
    for row in period.samples(tx, "VM", vm, now)? {
        pool.push(&VmSampleView { vm, timestamp: row.time, values: stored(&row.body) });
    }
    Ok(())
}

/// `one.vm.monitoring`: the samples of a VM, oldest first.
///
/// # Errors
/// Not authorised (USE), unknown VM.
pub fn monitoring(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let _: VmRow = owned::to_show(tx, caller, id)?;
        let mut pool = doc::Pool::begin("MONITORING_DATA");
        push_samples(tx, &mut pool, id, Period(-1), cloud.clock.now())?;
        Ok(pool.finish())
    })
}

/// `one.vmpool.monitoring`: the samples of all VMs that are asked for and not DONE.
///
/// # Errors
/// A bad filter.
pub fn pool_monitoring(cloud: &Cloud, caller: &Caller, flag: i64, seconds: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, -1, -1)?;
    cloud.store.read(|tx| {
        let mut pool = doc::Pool::begin("MONITORING_DATA");
        for vm in filter.select(caller, tx.vms(VmFilter::default())?) {
            push_samples(tx, &mut pool, vm.id, Period(seconds), cloud.clock.now())?;
        }
        Ok(pool.finish())
    })
}

/// The VMs of a filter, DONE ones too: they were used.
fn vms(tx: &mut Tx<'_>, caller: &Caller, filter: PoolFilter) -> Result<Vec<VmRow>, StoreError> {
    Ok(filter.select(caller, tx.vms(VmFilter { with_done: true, ..VmFilter::default() })?))
}

/// `one.vmpool.accounting`: the history records that were open at some time between `start` and `end`, epoch seconds; −1 is
/// open.
///
/// # Errors
/// A bad filter.
pub fn accounting(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, -1, -1)?;
    let wanted = |record: &HistoryView| {
        (start < 0 || record.etime == 0 || record.etime >= start) && (end < 0 || record.stime <= end)
    };
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut pool = doc::Pool::begin("HISTORY_RECORDS");
        for row in vms(tx, caller, filter)? {
            let vm: VmView = view::vm(tx, &names, &cloud.board, &row)?;
            for record in vm.history.iter().filter(|record| wanted(record)) {
                pool.push(&AccountingRecord { vm: &vm, record });
            }
        }
        Ok(pool.finish())
    })
}

/// A month: year and 1 to 12, so that months order as they come.
type Month = (i32, u32);

/// First and last month of a call: month and year of each, −1 for open.
#[derive(Debug, Clone, Copy)]
pub struct Months {
    first: Option<Month>,
    last: Option<Month>,
}

impl Months {
    /// From the four numbers of the call.
    ///
    /// # Errors
    /// A month that is none, or one without its year.
    pub fn new([first_month, first_year, last_month, last_year]: [i64; 4]) -> Result<Self, Refusal> {
        let month = |month: i64, year: i64| match (u32::try_from(month), i32::try_from(year)) {
            (Ok(month @ 1..=12), Ok(year @ 0..=9999)) => Ok(Some((year, month))),
            _ if month == -1 && year == -1 => Ok(None),
            _ => Err(Refusal::Api("Wrong month or year: give month (1 to 12) and year, or -1 for both".into())),
        };
        Ok(Self { first: month(first_month, first_year)?, last: month(last_month, last_year)? })
    }

    fn hold(self, month: Month) -> bool {
        self.first.is_none_or(|first| first <= month) && self.last.is_none_or(|last| month <= last)
    }
}

/// `one.vmpool.calculateshowback`: nothing is left to be done, since costs are computed when they are asked for.
///
/// # Errors
/// Not an administrator, a wrong month.
pub fn calculate_showback(_cloud: &Cloud, caller: &Caller, months: [i64; 4]) -> Result<String, Refusal> {
    only_admin(caller, Right::Admin, ObjectKind::Vm, -1)?;
    Months::new(months)?;
    Ok("Costs are computed from the history whenever they are asked for.".into())
}

/// `one.vmpool.showback`: what each VM cost in each month.
///
/// # Errors
/// A bad filter, a wrong month.
pub fn showback(cloud: &Cloud, caller: &Caller, flag: i64, months: [i64; 4]) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, -1, -1)?;
    let months = Months::new(months)?;
    let (now, zone) = (cloud.clock.now(), cloud.config.timezone);
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut pool = doc::Pool::begin("SHOWBACK_RECORDS");
        for row in vms(tx, caller, filter)? {
            let price = Price::of(&stored(&row.template), &stored(&row.user_template));
            let mut hours: BTreeMap<Month, Hours> = BTreeMap::new();
            for record in tx.history(row.id)? {
                let end = |time: i64| if time == 0 { now } else { time };
                spread(zone, record.stime, end(record.etime), |month, h| hours.entry(month).or_default().existed += h);
                if record.rstime != 0 {
                    let until = end(record.retime).min(end(record.etime));
                    spread(zone, record.rstime, until, |month, h| hours.entry(month).or_default().ran += h);
                }
            }
            for ((year, month), hours) in hours.into_iter().filter(|(month, _)| months.hold(*month)) {
                pool.push(&ShowbackView {
                    vm: row.id,
                    vm_name: row.name.clone(),
                    owner: names.owner(row.uid, row.gid),
                    year,
                    month,
                    cpu_cost: price.cpu * hours.ran,
                    memory_cost: price.memory * hours.ran,
                    disk_cost: price.disk * hours.existed,
                    total_cost: (price.cpu + price.memory) * hours.ran + price.disk * hours.existed,
                    hours: hours.existed,
                    running_hours: hours.ran,
                });
            }
        }
        Ok(pool.finish())
    })
}

#[derive(Default)]
struct Hours {
    existed: f64,
    ran: f64,
}

/// What an hour of a VM costs.
struct Price {
    cpu: f64,
    memory: f64,
    disk: f64,
}

impl Price {
    /// From a VM's templates; what stands in the first counts.
    fn of(template: &Template, user_template: &Template) -> Self {
        let number = |name: &str| {
            let text = template.scalar(name).or_else(|| user_template.scalar(name));
            text.and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        let disk_mb: i64 = template
            .vectors("DISK")
            .filter_map(|disk| disk.int("SIZE"))
            .fold(0, |sum: i64, size| sum.saturating_add(size.max(0)));
        Self {
            cpu: number("CPU_COST") * number("CPU"),
            memory: number("MEMORY_COST") * number("MEMORY"),
            disk: number("DISK_COST") * disk_mb as f64,
        }
    }
}

/// Gives each month its hours of the time from `start` to `end`, on the local calendar.
fn spread(zone: Tz, start: i64, end: i64, mut add: impl FnMut(Month, f64)) {
    let mut from = start;
    while from < end {
        let Some(date) = zone.timestamp_opt(from, 0).single() else { return };
        let month = (date.year(), date.month());
        let (year, next) = if month.1 == 12 { (month.0.saturating_add(1), 1) } else { (month.0, month.1 + 1) };
        let next = zone.with_ymd_and_hms(year, next, 1, 0, 0, 0).earliest().map_or(end, |date| date.timestamp());
        let until = if next > from { next.min(end) } else { end };
        add(month, (until - from) as f64 / 3600.0);
        from = until;
    }
}
