//! Virtual machines: making them, looking at them, configuring them and their backups. What moves them is in
//! [`super::vm_action`] and [`super::vm_recover`].

use one_core::access::{Caller, may_unlocked};
use one_core::backup::config::SHOWN_ONLY;
use one_core::doc;
use one_core::lifecycle::{LcmState, VmOperation, VmPhase, VmState};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::pool::{BATCH, PoolFilter};
pub use super::vm_action::action;
use super::vm_create::{self, NewVm};
pub use super::vm_recover::recover;

use super::{Cloud, Owned, attributes, owned, parse, view, vm_for};
use crate::devices;
use crate::ledger;
use crate::store::rows::VmRow;
use crate::store::{Release, Tx, VmFilter};

/// Most ids that one `infoset` call may name.
const INFOSET_MAX: usize = 10_000;

/// `one.vm.allocate`: makes a VM without a stored template.
///
/// # Errors
/// As [`vm_create::create`].
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str, hold: bool) -> Result<i64, Refusal> {
    let template = attributes::sealed(cloud, ObjectKind::Vm, &parse(text)?, None)?;
    let new = NewVm { template, vouched: None, template_id: None, name: None, base_name: None, hold };
    let id = cloud.store.write(|tx| vm_create::create(cloud, tx, caller, new))?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.vm.info`.
///
/// # Errors
/// Not authorised, unknown VM.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    info_decrypt(cloud, caller, id, false)
}

/// The same with the flag `decrypt`, which shows secrets to administrators.
///
/// # Errors
/// As [`info`]; a secret that the daemon's key does not open.
pub fn info_decrypt(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: VmRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Vm, &mut row.template)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Vm, &mut row.user_template)?;
        let names = view::Names::read(tx)?;
        Ok(doc::vm(&view::vm_told(tx, &names, &cloud.board, &row)?))
    })
}

/// Which VMs a pool call asks for.
#[derive(Debug, Clone, Copy)]
pub struct PoolWish<'a> {
    /// Filter flag.
    pub flag: i64,
    /// Start of the range.
    pub start: i64,
    /// End of the range.
    pub end: i64,
    /// −2 any, −1 any except DONE, else that STATE.
    pub state: i64,
    /// Search text; only the empty one is supported.
    pub search: &'a str,
    /// Full documents.
    pub extended: bool,
}

/// `one.vmpool.info` and `infoextended`.
///
/// # Errors
/// A bad filter, a search text.
pub fn pool(cloud: &Cloud, caller: &Caller, wish: PoolWish<'_>) -> Result<String, Refusal> {
    let filter = PoolFilter::new(wish.flag, wish.start, wish.end)?;
    if !wish.search.is_empty() {
        return Err(Refusal::Internal("JSON query search is not supported by the SQL backend".into()));
    }
    let (state, with_done) = match wish.state {
        -2 => (None, true),
        -1 => (None, false),
        state @ 0..=11 => (Some(state), true),
        _ => return Err(Refusal::Api("Incorrect filter_flag, state".into())),
    };
    cloud.store.read(|tx| {
        let ids = filter.ids(caller, ObjectKind::Vm, |first_id, last_id, see| {
            tx.vm_heads(VmFilter { state, with_done, first_id, last_id, host_id: None }, see)
        })?;
        documents(cloud, tx, &ids, wish.extended, |_| true)
    })
}

/// `one.vmpool.infoset`: the VMs of a comma list; unknown ids and foreign VMs are left out.
///
/// # Errors
/// A list that is too long.
pub fn info_set(cloud: &Cloud, caller: &Caller, ids: &str, extended: bool) -> Result<String, Refusal> {
    let mut ids: Vec<i64> = ids.split(',').take(INFOSET_MAX + 1).filter_map(|id| id.trim().parse().ok()).collect();
    if ids.len() > INFOSET_MAX {
        return Err(Refusal::Api(format!("At most {INFOSET_MAX} ids can be asked for at once")));
    }
    ids.sort_unstable();
    ids.dedup();
    let seen = |row: &VmRow| may_unlocked(caller, Right::Use, &row.object()).is_ok();
    cloud.store.read(|tx| documents(cloud, tx, &ids, extended, seen))
}

/// The pool of the VMs of these ids that `keep` takes.
fn documents(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    ids: &[i64],
    extended: bool,
    keep: impl Fn(&VmRow) -> bool,
) -> Result<String, Refusal> {
    let names = view::Names::read(tx)?;
    let mut pool = doc::Pool::begin("VM_POOL");
    for ids in ids.chunks(BATCH) {
        let rows = tx.vms_of(ids)?;
        let mut related = if extended { view::VmRelated::of(tx, ids)? } else { view::VmRelated::last_of(tx, ids)? };
        for row in rows.iter().filter(|row| keep(row)) {
            if extended {
                pool.push(&view::vm_with(&names, &cloud.board, row, &mut related));
            } else {
                pool.push(&doc::VmShort(&view::vm_short_with(&names, &cloud.board, row, &mut related)));
            }
        }
    }
    Ok(pool.finish())
}

/// `one.vm.rename`.
///
/// # Errors
/// Not authorised, a bad name.
pub fn rename(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    owned::rename_with::<VmRow>(cloud, caller, caller.vm_rights.right_for(VmOperation::Rename), id, name)
}

/// `one.vm.update`: the user's part of the template.
///
/// # Errors
/// Not authorised, a text that does not parse, restricted attributes.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let mut new = parse(text)?;
    // Shown in the document, kept elsewhere.
    for name in SHOWN_ONLY {
        new.remove(name);
    }
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Update), id)?;
        let old = view::stored(&row.user_template);
        row.user_template = attributes::updated(cloud, caller, ObjectKind::Vm, &old, &new, kind)?.to_text();
        tx.vm_update(&row)?;
        Ok(id)
    })
}

/// Sections that updateconf takes beside BACKUP_CONFIG; a replace removes those that the text leaves out, CONTEXT excepted.
const CONF_SECTIONS: [&str; 7] = ["OS", "FEATURES", "INPUT", "GRAPHICS", "VIDEO", "RAW", "CPU_MODEL"];

/// `one.vm.updateconf`: BACKUP_CONFIG and the domain's configuration (the latter takes effect at the next boot).
///
/// # Errors
/// Not authorised, a state in which the configuration is fixed, a mode that the VM cannot do, restricted attributes.
pub fn update_conf(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    if !matches!(kind, 0 | 1) {
        return Err(Refusal::UpdateType);
    }
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::UpdateConf), id)?;
        let phase = ledger::phase(&row);
        if !conf_is_changeable(phase) {
            return Err(Refusal::ConfigState { phase });
        }
        let mut system = view::stored(&row.template);
        let new = attributes::sealed(cloud, ObjectKind::Vm, &new, Some(&system))?;
        if let Some(wish) = new.vector("BACKUP_CONFIG") {
            let mut config = ledger::config_of(&row);
            config.update(wish, kind == 0, &devices::of_backup(&row))?;
            row.backup_config = ledger::config_text(&config);
        }
        let sections =
            new.attributes().iter().filter(|a| CONF_SECTIONS.contains(&a.name.as_str()) || a.name == "CONTEXT");
        let sections: Vec<_> = sections.cloned().collect();
        // A text that is only about backups leaves the domain alone, also as a replace: nobody means to lose the kernel by it.
        if !sections.is_empty() {
            attributes::check(cloud, caller, ObjectKind::Vm, Some(&system), &new)?;
            let old = system.clone();
            for name in CONF_SECTIONS.iter().filter(|name| kind == 0 || new.contains(name)) {
                system.remove(name);
            }
            if new.contains("CONTEXT") {
                system.remove("CONTEXT");
            }
            for section in sections {
                if let one_core::template::Value::Vector(vector) = section.value {
                    system.push_vector(&section.name, vector);
                }
            }
            attributes::keep(cloud, caller, ObjectKind::Vm, &old, &mut system);
            row.template = attributes::bounded(system)?.to_text();
        }
        tx.vm_update(&row)?;
        // What the configuration stood in the way of can be tried again.
        tx.schedules_release(Release::Vm(id))?;
        Ok(id)
    })
}

/// In which states `one.vm.updateconf` works (OpenNebula's list).
fn conf_is_changeable(phase: VmPhase) -> bool {
    use LcmState as L;
    match phase.state {
        VmState::Pending
        | VmState::Hold
        | VmState::Poweroff
        | VmState::Undeployed
        | VmState::Cloning
        | VmState::CloningFailure => true,
        VmState::Active => match phase.lcm {
            L::LcmInit | L::Prolog | L::Running | L::Epilog => true,
            L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy | L::CleanupResubmit | L::CleanupDelete => true,
            L::EpilogUndeploy | L::PrologUndeploy | L::PrologMigratePoweroff | L::HotplugSaveasPoweroff => true,
            L::HotplugPrologPoweroff | L::HotplugEpilogPoweroff | L::DiskSnapshotPoweroff => true,
            L::DiskSnapshotRevertPoweroff | L::DiskSnapshotDeletePoweroff => true,
            // A boot, prolog or epilog that failed.
            lcm => lcm.name().ends_with("_FAILURE"),
        },
        _ => false,
    }
}
