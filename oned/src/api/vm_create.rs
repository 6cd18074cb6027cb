//! A VM from a template: attributes sorted into their places, disks resolved, presets copied.

use one_core::access::{Caller, may, may_create, valid_name};
use one_core::backup::config::SHOWN_ONLY;
use one_core::backup::{BackupConfig, Disks};
use one_core::lifecycle::{ImageState, VmState};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Value, Vector};
use std::collections::BTreeSet;

use super::{Cloud, Owned, attributes, view, vm_nics};
use crate::cloud::{hex, random};
use crate::devices;
use crate::ledger;
use crate::quota;
use crate::store::Tx;
use crate::store::rows::{ImageRow, VmRow};

/// Attributes of the system part; everything else is the user's.
const SYSTEM: [&str; 22] = [
    "CPU",
    "VCPU",
    "MEMORY",
    "MEMORY_MAX",
    "VCPU_MAX",
    "DISK",
    "NIC",
    "NIC_ALIAS",
    "OS",
    "FEATURES",
    "INPUT",
    "GRAPHICS",
    "VIDEO",
    "RAW",
    "CPU_MODEL",
    "CONTEXT",
    "TOPOLOGY",
    "NUMA_NODE",
    "PCI",
    "TPM",
    "MEMORY_SLOTS",
    "TEMPLATE_ID",
];

/// Buses of disks, as their names begin.
const PREFIXES: [&str; 3] = ["vd", "sd", "hd"];
/// Most disks of one VM.
pub(super) const DISKS_MAX: usize = 25;
const MEMORY_MAX_MB: i64 = 64 << 20;
const VCPUS_MAX: i64 = 1024;
/// Largest volatile disk, MB: 64 TiB.
pub(super) const VOLATILE_MAX_MB: i64 = 64 << 20;

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Allocate { kind: ObjectKind::Vm, reason: reason.into() })
}

/// What a VM is made of.
pub struct NewVm<'a> {
    /// The template with everything merged, secrets sealed.
    pub template: Template,
    /// An administrator's template that it came from: restricted attributes that it holds are allowed to everybody.
    pub vouched: Option<&'a Template>,
    /// Stored template it came from.
    pub template_id: Option<i64>,
    /// Name the caller wants.
    pub name: Option<String>,
    /// Name to build one from when there is none.
    pub base_name: Option<&'a str>,
    /// Start in HOLD.
    pub hold: bool,
}

/// Makes the VM's records; returns its id.
///
/// # Errors
/// Not authorised for an image or a scheduled datastore; restricted attributes; attributes that make no VM. Nothing is
/// changed then.
pub fn create(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, new: NewVm<'_>) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Vm)?;
    let NewVm { mut template, vouched, template_id, name, base_name, hold } = new;
    attributes::check(cloud, caller, ObjectKind::Vm, vouched, &template)?;
    template = attributes::bounded(template)?;
    let id = tx.next_id("vm")?;
    let own_name = template.scalar("NAME").filter(|_| base_name.is_none()).map(String::from);
    let name = name
        .or(own_name)
        .unwrap_or_else(|| base_name.map_or_else(|| format!("one-{id}"), |base| format!("{base}-{id}")));
    valid_name(&name, ObjectKind::Vm)?;
    template.remove("NAME");
    check_size(&template)?;

    let schedules = template.remove("SCHED_ACTION");
    // Shown in the document, kept elsewhere.
    for name in SHOWN_ONLY {
        template.remove(name);
    }
    let wish = template.vector("BACKUP_CONFIG").cloned();
    template.remove("BACKUP_CONFIG");
    template.remove("SECURITY_GROUP_RULE");
    let (mut system, user) = split(&template);
    let disks = disks(cloud, tx, caller, &system)?;
    system.remove("DISK");
    for (disk, image) in &disks {
        system.push_vector("DISK", disk.clone());
        if let Some(image) = image {
            take_image(tx, image, id)?;
        }
    }
    vm_nics::bind_all(tx, caller, id, &mut system, user.vector("NIC_DEFAULT"))?;
    if let Some(template_id) = template_id {
        system.set("TEMPLATE_ID", template_id.to_string());
    }
    system.set("VMID", id.to_string());
    // Documents take it from the history, where the VM's system datastore stands.
    system.remove("TM_MAD_SYSTEM");

    // A persistent image brings its snapshots with it.
    let snapshots: Vec<_> =
        disks.iter().filter_map(|(disk, image)| devices::snapshots_brought(disk, image.as_ref()?)).collect();
    let with_snapshots: Vec<i64> = snapshots.iter().map(|list| list.disk_id).collect();
    let backup_config = BackupConfig::for_new_vm(wish.as_ref(), &Disks::from_template(&system, &with_snapshots))?;
    let now = cloud.clock.now();
    let state = if hold { VmState::Hold } else { VmState::Pending };
    let row = VmRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name,
        permissions: cloud.new_permissions(caller).to_i64(),
        last_poll: 0,
        state: state.number(),
        lcm_state: 0,
        prev_state: state.number(),
        prev_lcm_state: 0,
        stime: now,
        etime: 0,
        deploy_id: String::new(),
        uuid: random_uuid()?,
        host_id: None,
        resched: 0,
        lock: String::new(),
        snapshots: devices::snapshots_text(&snapshots),
        backup_config: ledger::config_text(&backup_config),
        monitoring: String::new(),
        template: system.to_text(),
        user_template: user.to_text(),
    };
    quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
    for schedule in schedules {
        match schedule {
            Value::Vector(vector) => super::schedule::add_preset(cloud, tx, caller, id, &vector)?,
            Value::Scalar(_) => return Err(Refusal::NoScheduledAction),
        };
    }
    Ok(id)
}

/// Refuses processors and memory that no VM can have.
///
/// # Errors
/// [`Refusal::Allocate`] naming the attribute.
pub fn check_size(template: &Template) -> Result<(), Refusal> {
    let number = |name: &str, default: f64| match template.scalar(name) {
        None => Some(default),
        Some(text) => text.trim().parse::<f64>().ok().filter(|value| value.is_finite()),
    };
    match number("CPU", 1.0) {
        Some(cpu) if cpu > 0.0 && cpu <= 1024.0 => {}
        _ => return refuse("CPU must be a positive number, at most 1024."),
    }
    match number("VCPU", 1.0) {
        Some(vcpu) if vcpu >= 1.0 && vcpu <= VCPUS_MAX as f64 && vcpu.fract() == 0.0 => {}
        _ => return refuse(format!("VCPU must be a whole number from 1 to {VCPUS_MAX}.")),
    }
    match template.int("MEMORY") {
        Some(memory) if (1..=MEMORY_MAX_MB).contains(&memory) => Ok(()),
        None if !template.contains("MEMORY") => refuse("MEMORY attribute must be set, in MB."),
        _ => refuse(format!("MEMORY must be a whole number of MB from 1 to {MEMORY_MAX_MB}.")),
    }
}

fn split(template: &Template) -> (Template, Template) {
    let (mut system, mut user) = (Template::new(), Template::new());
    for attribute in template.attributes() {
        let part = if SYSTEM.contains(&attribute.name.as_str()) { &mut system } else { &mut user };
        match &attribute.value {
            Value::Scalar(text) => part.push(&attribute.name, text.clone()),
            Value::Vector(vector) => part.push_vector(&attribute.name, vector.clone()),
        }
    }
    (system, user)
}

pub(super) type Disk = (Vector, Option<ImageRow>);

fn disks(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, system: &Template) -> Result<Vec<Disk>, Refusal> {
    let wishes: Vec<Vector> = system.vectors("DISK").cloned().collect();
    if wishes.len() > DISKS_MAX {
        return refuse(format!("A VM can have at most {DISKS_MAX} disks."));
    }
    // What disks wish for is not given to those that wish for nothing, whatever their order.
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for wish in &wishes {
        if let Some(target) = wished_target(wish, |target| !taken.contains(target)).or_else(refuse)? {
            taken.insert(target.to_owned());
        }
    }
    let mut disks: Vec<Disk> = Vec::new();
    for (id, wish) in wishes.into_iter().enumerate() {
        let (mut disk, image) = match find_image(tx, caller, &wish)? {
            Some(image) => (image_disk(tx, &wish, &image, &disks)?, Some(image)),
            None => (volatile_disk(&wish)?, None),
        };
        let prefix = [wish.get("DEV_PREFIX"), disk.get("DEV_PREFIX")]
            .into_iter()
            .flatten()
            .find(|prefix| matches!(*prefix, "vd" | "sd" | "hd"))
            .unwrap_or(&cloud.config.default_device_prefix);
        let target = match wish.get("TARGET").filter(|target| !target.is_empty()) {
            Some(target) => target.to_owned(),
            None => match free_target(prefix, |target| !taken.contains(target)) {
                Some(target) => target,
                None => return refuse(format!("There is no free TARGET {prefix}*.")),
            },
        };
        taken.insert(target.clone());
        set_target(&mut disk, target);
        disk.set("DISK_ID", id.to_string());
        disks.push((disk, image));
    }
    Ok(disks)
}

/// The name in the guest's bus that a DISK wishes for; none when it wishes for none.
///
/// # Errors
/// A sentence why it cannot have it.
pub(super) fn wished_target(wish: &Vector, is_free: impl Fn(&str) -> bool) -> Result<Option<&str>, String> {
    let Some(target) = wish.get("TARGET").filter(|target| !target.is_empty()) else { return Ok(None) };
    let is_letter = |rest: &str| matches!(rest.as_bytes(), [b'a'..=b'z']);
    if !PREFIXES.iter().any(|prefix| target.strip_prefix(prefix).is_some_and(is_letter)) {
        let shown: String = target.chars().take(64).collect();
        return Err(format!("TARGET \"{shown}\" is not known; use vd, sd or hd and a letter."));
    }
    if !is_free(target) {
        return Err(format!("TARGET {target} is in use by another disk of the VM."));
    }
    Ok(Some(target))
}

/// The first free name of a bus.
pub(super) fn free_target(prefix: &str, is_free: impl Fn(&str) -> bool) -> Option<String> {
    (b'a'..=b'z').map(|letter| format!("{prefix}{}", char::from(letter))).find(|name| is_free(name))
}

/// Gives a disk its name in the guest's bus.
pub(super) fn set_target(disk: &mut Vector, target: String) {
    disk.set("DEV_PREFIX", target.chars().take(2).collect::<String>());
    disk.set("TARGET", target);
}

/// The image that a DISK names by id, or by name among the caller's (or IMAGE_UNAME's, IMAGE_UID's); none = volatile.
pub(super) fn find_image(tx: &mut Tx<'_>, caller: &Caller, wish: &Vector) -> Result<Option<ImageRow>, Refusal> {
    let image = if let Some(text) = wish.get("IMAGE_ID") {
        let Ok(id) = text.trim().parse::<i64>() else {
            return refuse(format!("IMAGE_ID \"{text}\" is not a number."));
        };
        tx.image_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Image, id })?
    } else if let Some(name) = wish.get("IMAGE") {
        let uid = match (wish.get("IMAGE_UID"), wish.get("IMAGE_UNAME")) {
            (Some(uid), _) => uid.trim().parse().unwrap_or(-1),
            (None, Some(user)) => tx.user_by_name(user)?.map_or(-1, |row| row.id),
            (None, None) => caller.uid,
        };
        match tx.image_by_name(uid, name)? {
            Some(image) => image,
            None => {
                return refuse(format!(
                    "User {uid} does not own an image with name: {name} . Set IMAGE_UNAME or IMAGE_UID of owner in DISK."
                ));
            }
        }
    } else {
        return Ok(None);
    };
    may(caller, Right::Use, &image.object())?;
    Ok(Some(image))
}

pub(super) fn image_disk(
    tx: &mut Tx<'_>,
    wish: &Vector,
    image: &ImageRow,
    earlier: &[Disk],
) -> Result<Vector, Refusal> {
    if image.kind > 2 {
        return refuse(format!("Image {} is not of a type that can be a disk; restore a backup first.", image.id));
    }
    let twice =
        image.persistent == 1 && earlier.iter().any(|(_, other)| other.as_ref().is_some_and(|o| o.id == image.id));
    if !view::image_is_usable(image) || twice {
        let state = ImageState::from_number(image.state).map_or("?", ImageState::name);
        return refuse(format!("Cannot acquire image {}: it is in state {state}.", image.id));
    }
    let datastore = tx.datastore(image.datastore_id)?;
    let cdrom = image.kind == 1;
    let persistent = image.persistent == 1;
    let mut disk = wish.clone();
    let yes = |is: bool| if is { "YES" } else { "NO" };
    for (key, value) in [
        ("IMAGE", image.name.clone()),
        ("IMAGE_ID", image.id.to_string()),
        ("DATASTORE", datastore.name.clone()),
        ("DATASTORE_ID", datastore.id.to_string()),
        ("CLUSTER_ID", datastore.clusters.clone()),
        ("TM_MAD", datastore.tm_mad.clone()),
        ("SOURCE", image.source.clone()),
        ("DISK_TYPE", if cdrom { "CDROM" } else { "FILE" }.into()),
        ("TYPE", if cdrom { "CDROM" } else { "FILE" }.into()),
        ("SIZE", image.size_mb.to_string()),
        ("ORIGINAL_SIZE", image.size_mb.to_string()),
        ("READONLY", yes(cdrom).into()),
        ("CLONE", yes(!persistent && !cdrom).into()),
        ("SAVE", yes(persistent).into()),
        // Snapshots inside an image do not need each other.
        ("ALLOW_ORPHANS", "YES".into()),
        ("CLONE_TARGET", "SYSTEM".into()),
        ("LN_TARGET", "NONE".into()),
        ("DISK_SNAPSHOT_TOTAL_SIZE", "0".into()),
        // What the guest's disk file is: a copy-on-write overlay of a non-persistent image is always qcow2.
        ("FORMAT", if persistent || cdrom { image.format.clone() } else { "qcow2".into() }),
        ("DRIVER", if persistent || cdrom { image.format.clone() } else { "qcow2".into() }),
    ] {
        disk.set(key, value);
    }
    if persistent {
        disk.set("PERSISTENT", "YES");
    }
    if let Some(prefix) =
        view::stored(&image.template).scalar("DEV_PREFIX").filter(|_| wish.get("DEV_PREFIX").is_none())
    {
        disk.set("DEV_PREFIX", prefix);
    }
    Ok(disk)
}

pub(super) fn volatile_disk(wish: &Vector) -> Result<Vector, Refusal> {
    let kind = wish.get("TYPE").unwrap_or_default().to_ascii_lowercase();
    if !matches!(kind.as_str(), "fs" | "swap") {
        return refuse("A DISK needs IMAGE_ID or IMAGE, or TYPE = fs or swap for a volatile one.");
    }
    match wish.int("SIZE") {
        Some(size) if (1..=VOLATILE_MAX_MB).contains(&size) => {}
        _ => return refuse(format!("A volatile DISK needs SIZE, a whole number of MB from 1 to {VOLATILE_MAX_MB}.")),
    }
    let format = match wish.get("FORMAT").map(str::to_ascii_lowercase).as_deref() {
        None | Some("qcow2") => "qcow2",
        Some("raw") => "raw",
        Some(other) => return refuse(format!("FORMAT \"{other}\" of a volatile disk is not known; use qcow2 or raw.")),
    };
    let mut disk = wish.clone();
    // Keys of disks that come from images: a volatile one is always a new file of the VM's own.
    for key in ["SOURCE", "CLONE", "PERSISTENT", "DATASTORE", "DATASTORE_ID", "TM_MAD", "DISK_TYPE"] {
        disk.remove(key);
    }
    for (key, value) in
        [("TYPE", kind.as_str()), ("FORMAT", format), ("DRIVER", format), ("READONLY", "NO"), ("SAVE", "NO")]
    {
        disk.set(key, value);
    }
    Ok(disk)
}

pub(super) fn take_image(tx: &mut Tx<'_>, image: &ImageRow, vm_id: i64) -> Result<(), Refusal> {
    tx.image_use_add(image.id, vm_id)?;
    let mut row = tx.image(image.id)?;
    let used = if row.persistent == 1 { ImageState::UsedPers } else { ImageState::Used };
    if row.state != used.number() {
        row.prev_state = row.state;
        row.state = used.number();
        tx.image_update(&row)?;
    }
    Ok(())
}

/// A random (version 4) UUID.
fn random_uuid() -> Result<String, Refusal> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| text.get(range).unwrap_or_default());
    Ok(parts.join("-"))
}
