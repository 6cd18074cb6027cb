//! Stored VM templates.

use one_core::access::{Caller, may, may_create, valid_name};
use one_core::doc;
use one_core::lifecycle::ImageState;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::pool::PoolFilter;
use super::vm_create::{self, NewVm};
use super::{Cloud, Owned as _, attributes, image, image_verbs, owned, parse, people, template_for, view};
use crate::store::Tx;
use crate::store::rows::{ImageRow, NetworkRow, TemplateRow};

/// `one.template.allocate`.
///
/// # Errors
/// Not authorised, a template that does not parse, restricted attributes, no or a bad or taken NAME.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Template)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::Vm, &parse(text)?)?;
    let name = template.scalar("NAME").unwrap_or_default().to_string();
    template.remove("NAME");
    cloud.store.write(|tx| insert(cloud, tx, caller, &name, &template))
}

/// Stores a template, its secrets sealed, within a transaction; also the end of a restore.
///
/// # Errors
/// As [`allocate`].
pub fn insert(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    name: &str,
    template: &Template,
) -> Result<i64, Refusal> {
    if name.is_empty() {
        return Err(Refusal::Allocate { kind: ObjectKind::Template, reason: "No NAME in template".into() });
    }
    valid_name(name, ObjectKind::Template)?;
    if let Some(other) = tx.template_by_name(caller.uid, name)? {
        return Err(Refusal::NameTaken { kind: ObjectKind::Template, other_id: other.id });
    }
    let id = tx.next_id("vm_template")?;
    tx.template_insert(&TemplateRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name: name.into(),
        permissions: cloud.new_permissions(caller).to_i64(),
        regtime: cloud.clock.now(),
        lock: String::new(),
        template: template.to_text(),
    })?;
    Ok(id)
}

/// `one.template.info`. `extended` shows each DISK and NIC with what its image or network gives it, as far as the caller may
/// use them.
///
/// # Errors
/// Not authorised, unknown template.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64, extended: bool) -> Result<String, Refusal> {
    info_of(cloud, caller, id, extended, false)
}

/// The same with the flag `decrypt`, which shows secrets to administrators.
///
/// # Errors
/// As [`info`]; a secret that the daemon's key does not open.
pub fn info_of(cloud: &Cloud, caller: &Caller, id: i64, extended: bool, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: TemplateRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Vm, &mut row.template)?;
        let names = view::Names::read(tx)?;
        let mut shown = view::template(&names, &row);
        if extended {
            extend(tx, caller, &mut shown.template)?;
        }
        Ok(doc::vm_template(&shown))
    })
}

/// Adds to DISK and NIC what a VM would get. What the caller may not use, or is not there, stays as it is written.
fn extend(tx: &mut Tx<'_>, caller: &Caller, template: &mut Template) -> Result<(), Refusal> {
    for disk in template.vectors_mut("DISK") {
        let found = match vm_create::find_image(tx, caller, disk) {
            Err(Refusal::Internal(text)) => return Err(Refusal::Internal(text)),
            other => other.ok().flatten(),
        };
        let Some(image) = found else { continue };
        // Which state an image is in does not matter for what a disk of it would be.
        let image = ImageRow { state: ImageState::Ready.number(), ..image };
        if let Ok(mut whole) = vm_create::image_disk(tx, disk, &image, &[]) {
            whole.remove("DISK_ID");
            *disk = whole;
        }
    }
    let networks = tx.network_list()?;
    for nic in template.vectors_mut("NIC") {
        let named = |row: &&NetworkRow| match (nic.int("NETWORK_ID"), nic.get("NETWORK")) {
            (Some(id), _) => row.id == id,
            (None, Some(name)) => row.name == name && row.uid == nic.int("NETWORK_UID").unwrap_or(caller.uid),
            (None, None) => false,
        };
        let Some(network) = networks.iter().find(named) else { continue };
        if may(caller, Right::Use, &network.object()).is_err() {
            continue;
        }
        nic.set("NETWORK", network.name.clone());
        nic.set("NETWORK_ID", network.id.to_string());
        nic.set("BRIDGE", network.bridge.clone());
        nic.set("VN_MAD", network.vn_mad.clone());
    }
    Ok(())
}

/// `one.templatepool.info`.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let rows = filter.select(caller, tx.template_list()?);
        let mut pool = doc::Pool::begin("VMTEMPLATE_POOL");
        rows.iter().for_each(|row| pool.push(&view::template(&names, row)));
        Ok(pool.finish())
    })
}

/// `one.template.update`.
///
/// # Errors
/// Not authorised, unknown template, a text that does not parse, restricted attributes.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = template_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Vm, &old, &new, kind)?.to_text();
        tx.template_update(&row)?;
        Ok(id)
    })
}

/// The images that a template's disks are of, each once. Those that are gone already are left out.
fn images(tx: &mut Tx<'_>, caller: &Caller, template: &Template) -> Result<Vec<i64>, Refusal> {
    let mut ids = Vec::new();
    for disk in template.vectors("DISK") {
        match vm_create::find_image(tx, caller, disk) {
            Ok(image) => ids.extend(image.map(|image| image.id).filter(|id| !ids.contains(id))),
            Err(Refusal::NoSuch { .. } | Refusal::Allocate { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(ids)
}

/// `one.template.delete`; `recursive` with the images of its disks: all of it, or, on any refusal, nothing.
///
/// # Errors
/// Not authorised (MANAGE on the template, and on the images), unknown template, an image that cannot be deleted now.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64, recursive: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = template_for(tx, caller, Right::Manage, id)?;
        if recursive {
            for image_id in images(tx, caller, &view::stored(&row.template))? {
                image::delete_within(cloud, tx, caller, image_id, false)?;
            }
        }
        tx.template_delete(id)?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.template.chmod`; `recursive` also the images of its disks.
///
/// # Errors
/// As [`owned::chmod`], for the template and each image; nothing is changed then.
pub fn chmod(cloud: &Cloud, caller: &Caller, id: i64, bits: &[i64; 9], recursive: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = template_for(tx, caller, Right::Manage, id)?;
        owned::chmod_row(cloud, caller, &mut row, bits)?;
        tx.template_update(&row)?;
        if recursive {
            for image_id in images(tx, caller, &view::stored(&row.template))? {
                let mut image: ImageRow = owned::to_use(tx, caller, Right::Manage, image_id)?;
                owned::chmod_row(cloud, caller, &mut image, bits)?;
                tx.image_update(&image)?;
            }
        }
        Ok(id)
    })
}

/// `one.template.clone`: a copy under another name; `recursive` with copies of the images, called `NAME-disk-N`. Returns its
/// id.
///
/// # Errors
/// Not authorised (USE, CREATE; for images as `image_verbs::clone`), a bad or taken name.
pub fn clone(cloud: &Cloud, caller: &Caller, id: i64, name: &str, recursive: bool) -> Result<i64, Refusal> {
    let new_id = cloud.store.write(|tx| {
        let row = template_for(tx, caller, Right::Use, id)?;
        may_create(caller, ObjectKind::Template)?;
        let mut template = view::stored(&row.template);
        if recursive {
            for (number, disk) in template.vectors_mut("DISK").enumerate() {
                let Some(image) = vm_create::find_image(tx, caller, disk)? else { continue };
                let copy = format!("{name}-disk-{number}");
                let copy_id = image_verbs::clone_within(cloud, tx, caller, image.id, &copy, -1)?;
                for key in ["IMAGE", "IMAGE_UID", "IMAGE_UNAME"] {
                    disk.remove(key);
                }
                disk.set("IMAGE_ID", copy_id.to_string());
            }
        }
        insert(cloud, tx, caller, name, &template)
    })?;
    cloud.wake.ring();
    Ok(new_id)
}

/// What `one.template.instantiate` takes beside the template's id.
pub struct Instantiation<'a> {
    /// VM name; empty = template name and VM id.
    pub name: &'a str,
    /// Start in HOLD.
    pub hold: bool,
    /// Attributes that replace those of the template.
    pub extra: &'a str,
    /// Persistent copies of the images.
    pub persistent: bool,
}

/// `one.template.instantiate`: makes a VM; returns its id.
///
/// # Errors
/// Not authorised for the template or an image, attributes that make no VM, restricted attributes: those that `extra` adds
/// or changes, and any in a template whose owner is no administrator.
pub fn instantiate(cloud: &Cloud, caller: &Caller, id: i64, wish: &Instantiation<'_>) -> Result<i64, Refusal> {
    let extra = parse(wish.extra)?;
    let vm_id = cloud.store.write(|tx| {
        let row = template_for(tx, caller, Right::Use, id)?;
        if wish.persistent {
            return Err(Refusal::Action(
                "Persistent instantiation is not available; mark the images persistent instead.".into(),
            ));
        }
        let stored = view::stored(&row.template);
        let extra = attributes::sealed(cloud, ObjectKind::Vm, &extra, Some(&stored))?;
        attributes::check(cloud, caller, ObjectKind::Vm, Some(&stored), &extra)?;
        let mut template = stored.clone();
        template.overlay(&extra);
        // What an administrator's template holds he gave to those who may use it. Anybody else cannot have been allowed to.
        let vouched = people::is_admin(tx, row.uid)?.then_some(&stored);
        let name = [wish.name, extra.scalar("NAME").unwrap_or_default()].into_iter().find(|name| !name.is_empty());
        let base = row.name.as_str();
        vm_create::create(
            cloud,
            tx,
            caller,
            NewVm {
                template,
                vouched,
                template_id: Some(id),
                name: name.map(String::from),
                base_name: Some(base),
                hold: wish.hold,
            },
        )
    })?;
    cloud.wake.ring();
    Ok(vm_id)
}
