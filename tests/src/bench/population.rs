//! A database of many VMs, users and backups for the table "cloud core", the same in every run.
//!
//! The only part of this package that knows one of our own: it writes rows through the daemon's store, since ten thousand
//! VMs made through its door would take longer than everything that is measured. The daemon must not run meanwhile, and
//! must have run once, so that its own first rows are there.

use std::path::Path;

use anyhow::Result;
use oned::cloud::password_digest;
use oned::store::rows::{
    DatastoreRow, GroupRow, HistoryRow, HostRow, ImageRow, IncrementRow, ScheduleRow, UserRow, VmRow,
};
use oned::store::{Store, StoreError, Tx};
use serde_json::json;

use super::content::Numbers;

/// VMs, each with a chain of backups.
pub const VMS: i64 = 10_000;
/// Users beside the administrators.
pub const USERS: i64 = 1_000;
/// Their groups.
pub const GROUPS: i64 = 50;
/// Restore points of each chain.
pub const POINTS: i64 = 10;
/// Hosts.
const HOSTS: i64 = 20;
/// History records of each VM.
const RECORDS: i64 = 3;
/// Disk images; each is used by many VMs.
const DISK_IMAGES: i64 = 100;
/// The first user's id.
pub const FIRST_USER: i64 = 2;
/// The first id of other objects.
const FIRST_FREE: i64 = 100;
/// Some time in 2026; nothing depends on today.
pub const EPOCH: i64 = 1_767_225_600;
/// Some time in 2100: nothing is due while we measure.
const FAR: i64 = 4_102_444_800;
/// The backup datastore.
pub const BACKUPS: i64 = FIRST_FREE;

/// Name and password of the `number`th user, as a session string.
#[must_use]
pub fn session(number: i64) -> String {
    format!("user-{number}:secret-{number}")
}

/// The user (by number) who owns a VM: neighbours belong to different users.
#[must_use]
pub fn owner(vm: i64) -> i64 {
    vm.wrapping_mul(7919).rem_euclid(USERS)
}

/// The ids of the VMs that the `number`th user owns.
#[must_use]
pub fn vms_of(number: i64) -> Vec<i64> {
    (0..VMS).filter(|vm| owner(*vm) == number).collect()
}

/// Fills the database in one transaction; `now` keeps monitoring away from the hosts for its interval.
///
/// # Errors
/// When it cannot be opened or written.
pub fn fill(database: &Path, now: i64) -> Result<()> {
    fill_store(&Store::open(database)?, now, VMS, true)
}

/// As [`fill`], with so many VMs, and without backups if it is only about VMs.
///
/// # Errors
/// When it cannot be written.
pub fn fill_store(store: &Store, now: i64, vms: i64, with_backups: bool) -> Result<()> {
    store.write(|tx| {
        people(tx)?;
        places(tx, now)?;
        disk_images(tx)?;
        let mut numbers = Numbers::new(1);
        for id in 0..vms {
            vm(tx, id, &mut numbers)?;
            if with_backups {
                chain(tx, id, &mut numbers)?;
            }
        }
        for (pool, next) in [
            ("user", FIRST_USER + USERS),
            ("user_group", FIRST_FREE + GROUPS),
            ("host", HOSTS),
            ("datastore", BACKUPS + 1),
            ("image", DISK_IMAGES + VMS),
            ("vm", VMS),
            ("schedule", VMS),
        ] {
            tx.reserve_ids(pool, next)?;
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(())
}

fn group_of(user: i64) -> i64 {
    FIRST_FREE + user % GROUPS
}

fn people(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    for id in FIRST_FREE..FIRST_FREE + GROUPS {
        tx.group_insert(&GroupRow { id, name: format!("group-{id}"), template: String::new() })?;
    }
    for number in 0..USERS {
        let (id, gid) = (FIRST_USER + number, group_of(number));
        tx.user_insert(&UserRow {
            id,
            gid,
            name: format!("user-{number}"),
            password_sha256: password_digest(&format!("secret-{number}")),
            auth_driver: "core".into(),
            enabled: 1,
            template: String::new(),
        })?;
        tx.membership_add(id, gid)?;
    }
    Ok(())
}

fn places(tx: &mut Tx<'_>, now: i64) -> Result<(), StoreError> {
    for id in 0..HOSTS {
        tx.host_insert(&HostRow {
            id,
            cluster_id: 0,
            name: format!("node-{id}"),
            state: 2,
            prev_state: 2,
            // Not allowed by the configuration: nobody looks for a hypervisor that is not there.
            im_mad: "dummy".into(),
            vm_mad: "dummy".into(),
            cpus: 64,
            memory_kb: 512 << 20,
            free_memory_kb: 128 << 20,
            monitored_at: now,
            template: "HYPERVISOR=\"kvm\"".into(),
        })?;
    }
    tx.datastore_insert(&DatastoreRow {
        id: BACKUPS,
        uid: 0,
        gid: 0,
        name: "backups".into(),
        permissions: 0o644,
        ds_mad: "restic".into(),
        tm_mad: "-".into(),
        base_path: "/var/lib/one/datastores/100".into(),
        kind: 3,
        disk_type: 0,
        state: 0,
        clusters: "0".into(),
        total_mb: 1 << 20,
        free_mb: 1 << 19,
        used_mb: 1 << 19,
        monitored_at: now,
        template: "RESTIC_SFTP_SERVER=\"backup-host\"".into(),
    })
}

fn image(id: i64, user: i64, name: String) -> ImageRow {
    ImageRow {
        id,
        uid: FIRST_USER + user,
        gid: group_of(user),
        name,
        permissions: 0o600,
        kind: 0,
        disk_type: 0,
        persistent: 0,
        regtime: EPOCH,
        modtime: EPOCH,
        source: format!("/var/lib/one/datastores/1/{:x}/image-{id}", id & 15),
        path: "/var/tmp/system.qcow2".into(),
        format: "qcow2".into(),
        fs: String::new(),
        size_mb: 20_480,
        state: 2,
        prev_state: 1,
        datastore_id: 1,
        backup_vm_id: None,
        backup_mode: None,
        snapshots: String::new(),
        lock: String::new(),
        template: "DEV_PREFIX=\"vd\"\nDESCRIPTION=\"A system to start from\"".into(),
    }
}

fn disk_images(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    for id in 0..DISK_IMAGES {
        let row = ImageRow { permissions: 0o644, ..image(id, id, format!("system-{id}")) };
        tx.image_insert(&row)?;
    }
    Ok(())
}

fn vm(tx: &mut Tx<'_>, id: i64, numbers: &mut Numbers) -> Result<(), StoreError> {
    let user = owner(id);
    let images = [id % DISK_IMAGES, (id / DISK_IMAGES) % DISK_IMAGES];
    tx.vm_insert(&VmRow {
        id,
        uid: FIRST_USER + user,
        gid: group_of(user),
        name: format!("vm-{id}"),
        // One of eight is shared with the group.
        permissions: if numbers.draw().is_multiple_of(8) { 0o640 } else { 0o600 },
        last_poll: EPOCH,
        state: 3,
        lcm_state: 3,
        prev_state: 3,
        prev_lcm_state: 3,
        stime: EPOCH + id,
        etime: 0,
        deploy_id: format!("one-{id}"),
        uuid: format!("{id:032x}"),
        host_id: Some(id % HOSTS),
        resched: 0,
        lock: String::new(),
        snapshots: String::new(),
        template: system_template(id, images),
        user_template: format!(
            "DESCRIPTION=\"Machine {id} of the bench\"\nLABELS=\"bench,tier-{}\"\nLOGO=\"images/logos/debian.png\"\n\
             SCHED_REQUIREMENTS=\"CLUSTER_ID=0\"",
            id % 3
        ),
        backup_config: "BACKUP_CONFIG=[BACKUP_VOLATILE=\"NO\",FS_FREEZE=\"NONE\",INCREMENTAL_BACKUP_ID=\"9\",\
                        KEEP_LAST=\"10\",MODE=\"INCREMENT\"]"
            .into(),
        monitoring: format!(
            "CPU=\"12.50\"\nMEMORY=\"1048576\"\nDISKRDBYTES=\"{id}000000\"\nDISKWRBYTES=\"{id}00000\"\nDISKRDIOPS=\"{id}00\"\n\
             DISKWRIOPS=\"{id}0\"\nNETRX=\"{id}0000\"\nNETTX=\"{id}000\"\nTIMESTAMP=\"{EPOCH}\""
        ),
    })?;
    for image in images {
        tx.image_use_add(image, id)?;
    }
    for seq in 0..RECORDS {
        tx.history_put(&history(id, seq))?;
    }
    let body = json!({
        "id": id, "parent_id": id, "parent": "Vm", "action": "backup", "args": BACKUPS.to_string(), "time": FAR,
        "time_of_day": null, "repeat": "Weekly", "days": [0, 3], "end": "Never", "done": null, "message": "",
        "warning": 0,
    });
    tx.schedule_insert(&ScheduleRow {
        id,
        vm_id: Some(id),
        backup_job_id: None,
        uid: FIRST_USER + user,
        body: body.to_string(),
        datastore_id: Some(BACKUPS),
        due_at: Some(FAR),
        not_before: 0,
        refusals: 0,
        failures: 0,
        retry_at: None,
        closes_at: None,
        retry_until: None,
        planned_at: None,
    })
}

fn system_template(id: i64, images: [i64; 2]) -> String {
    let disks = images.iter().enumerate().map(|(number, image)| {
        let letter = if number == 0 { 'a' } else { 'b' };
        format!(
            "DISK=[CLONE=\"YES\",CLONE_TARGET=\"SYSTEM\",CLUSTER_ID=\"0\",DATASTORE=\"default\",DATASTORE_ID=\"1\",\
             DEV_PREFIX=\"vd\",DISK_ID=\"{number}\",DISK_TYPE=\"FILE\",DRIVER=\"qcow2\",FORMAT=\"qcow2\",\
             IMAGE=\"system-{image}\",IMAGE_ID=\"{image}\",IMAGE_STATE=\"2\",LN_TARGET=\"NONE\",READONLY=\"NO\",\
             SAVE=\"NO\",SIZE=\"20480\",SOURCE=\"/var/lib/one/datastores/1/{:x}/image-{image}\",TARGET=\"vd{letter}\",\
             TM_MAD=\"qcow2\",TYPE=\"FILE\"]\n",
            image & 15
        )
    });
    let [_, _, a, b, c, d, e, f] = id.to_be_bytes();
    let disks: String = disks.collect();
    format!(
        "AUTOMATIC_DS_REQUIREMENTS=\"(\\\"CLUSTERS/ID\\\" @> 0)\"\nAUTOMATIC_REQUIREMENTS=\"(CLUSTER_ID = 0)\"\nCPU=\"1\"\n\
         {disks}GRAPHICS=[LISTEN=\"127.0.0.1\",PORT=\"{}\",TYPE=\"VNC\"]\nMEMORY=\"2048\"\n\
         NIC=[AR_ID=\"0\",BRIDGE=\"br0\",CLUSTER_ID=\"0\",IP=\"10.{c}.{e}.{f}\",MAC=\"02:{a:02x}:{b:02x}:{d:02x}:{e:02x}:{f:02x}\",\
         MODEL=\"virtio\",NAME=\"NIC0\",NETWORK=\"lan\",NETWORK_ID=\"0\",NIC_ID=\"0\",SECURITY_GROUPS=\"0\",\
         TARGET=\"one-{id}-0\",VN_MAD=\"bridge\"]\nOS=[ARCH=\"x86_64\",MACHINE=\"q35\"]\nTEMPLATE_ID=\"0\"\nVCPU=\"2\"\nVMID=\"{id}\"",
        5900 + id % 50_000
    )
}

fn history(vm_id: i64, seq: i64) -> HistoryRow {
    let start = EPOCH + seq * 86_400;
    let end = if seq + 1 < RECORDS { start + 86_400 } else { 0 };
    let host = (vm_id + seq + 1 - RECORDS).rem_euclid(HOSTS);
    HistoryRow {
        vm_id,
        seq,
        host_id: host,
        hostname: format!("node-{host}"),
        cluster_id: 0,
        vm_mad: "kvm".into(),
        tm_mad: "qcow2".into(),
        ds_id: 0,
        stime: start,
        etime: end,
        pstime: start,
        petime: start + 2,
        rstime: start + 2,
        retime: end,
        estime: 0,
        eetime: 0,
        action: if end == 0 { 0 } else { 50 },
        uid: 0,
        gid: 0,
    }
}

/// A VM's backup image with its restore points.
fn chain(tx: &mut Tx<'_>, vm: i64, numbers: &mut Numbers) -> Result<(), StoreError> {
    let id = DISK_IMAGES + vm;
    let points: Vec<String> =
        (0..POINTS).map(|_| (0..4).fold(String::new(), |text, _| text + &format!("{:016x}", numbers.draw()))).collect();
    tx.image_insert(&ImageRow {
        kind: 6,
        persistent: 1,
        source: points.first().map_or(String::new(), |point| point.chars().take(8).collect()),
        path: String::new(),
        format: "raw".into(),
        state: 1,
        datastore_id: BACKUPS,
        backup_vm_id: Some(vm),
        backup_mode: Some("INCREMENT".into()),
        template: String::new(),
        ..image(id, owner(vm), format!("{vm} backup"))
    })?;
    for (number, point) in (0..POINTS).zip(points) {
        tx.increment_append(&IncrementRow {
            image_id: id,
            increment_id: number,
            parent_id: number - 1,
            kind: if number == 0 { "FULL" } else { "INCREMENT" }.into(),
            date: EPOCH + number * 86_400,
            size_mb: if number == 0 { 4096 } else { 128 },
            series: vm.to_string(),
            point,
            checkpoint: format!("one-{vm}-{number}"),
            read_bytes: 1 << 27,
            stored_bytes: 1 << 26,
            duration_s: 9,
            reason: String::new(),
            warning: String::new(),
            disks: "0,1".into(),
            // What is kept of the VM with each point.
            document: system_template(vm, [0, 1]),
            compare_age: number,
            unmarked_bytes: 0,
            verified_at: 0,
            verify_depth: String::new(),
            verify_result: String::new(),
            schedule_id: None,
            saved_bytes: -1,
        })?;
    }
    Ok(())
}
