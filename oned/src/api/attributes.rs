//! Attributes with rules of their own, as the configuration lists them by kind of object: *restricted* ones, which only
//! administrators may set, and *secret* ones, which the database holds sealed and documents show as `***`.
//!
//! What it is not: it makes no ciphertext ([`crate::secret`]) and renders no document (`super::view`). Kinds: templates of
//! VMs are [`ObjectKind::Vm`] like the VMs themselves, so that a sealed value can move from one to the other.
//!
//! Invariants:
//! - what [`sealed`] and [`updated`] return holds no listed secret in clear, and only that goes into a row;
//! - `***` is never stored as a secret: it stands for the value that the same place of the object has already;
//! - who is no administrator neither sets, nor changes, nor removes a restricted attribute of a stored object.

use one_core::access::Caller;
use one_core::refusal::{ObjectKind, Refusal};
use one_core::template::{Attribute, MAX_ATTRIBUTES, Template, Value, Vector};
use std::collections::{HashMap, VecDeque};

use super::Cloud;
use crate::cards;
use crate::config::{AttributeList, AttributePath};
use crate::ledger::stored;
use crate::secret::{MARK, SecretError, is_sealed};
use crate::store::rows::NetworkRow;
use crate::store::{Tx, VmFilter};

/// What documents show in place of a secret.
pub const HIDDEN: &str = "***";

/// Longest template of one object that is stored, bytes: what a client may send, and room for sealing.
const STORED_MAX_BYTES: usize = 4 << 20;

/// The note in a restored template: the secrets, as a comma list, that its backup did not hold and that are to be set anew.
pub const LEFT_OUT: &str = "SECRETS_LEFT_OUT";

/// Sections that occur once per device. A device that a change drops takes its restricted keys with it.
const DEVICES: [&str; 4] = ["DISK", "NIC", "NIC_ALIAS", "AR"];
/// By which the same device is known before and after a change: the first of these that it has.
const IDENTITY: [&str; 6] = ["AR_ID", "IMAGE_ID", "IMAGE", "NETWORK_ID", "NETWORK", "TYPE"];

impl From<SecretError> for Refusal {
    fn from(error: SecretError) -> Self {
        // Its sentences name attributes and files, never values.
        tracing::error!(target: "KEY", "{error}");
        Self::Internal(error.to_string())
    }
}

/// Refuses restricted attributes that `new` has and `old` has not, or not with that value. Administrators may set all.
///
/// # Errors
/// [`Refusal::RestrictedAttribute`] naming the first one as `NAME` or `NAME/KEY`.
pub fn check(
    cloud: &Cloud,
    caller: &Caller,
    kind: ObjectKind,
    old: Option<&Template>,
    new: &Template,
) -> Result<(), Refusal> {
    if caller.is_admin() {
        return Ok(());
    }
    let (old, new) = (old.map(Template::sorted).unwrap_or_default(), new.sorted());
    for path in cloud.config.restricted(kind).iter() {
        let mut known: HashMap<String, usize> = HashMap::new();
        values(&old, path).for_each(|value| *known.entry(value).or_default() += 1);
        for value in values(&new, path) {
            match known.get_mut(&value) {
                Some(count) if *count > 0 => *count -= 1,
                _ => return Err(Refusal::RestrictedAttribute { user: caller.uid, attribute: path.to_string() }),
            }
        }
    }
    Ok(())
}

/// The same for one section alone, e.g. the DISK or NIC that is to be attached to a VM.
///
/// # Errors
/// As [`check`].
pub fn check_vector(
    cloud: &Cloud,
    caller: &Caller,
    kind: ObjectKind,
    name: &str,
    old: Option<&Vector>,
    new: &Vector,
) -> Result<(), Refusal> {
    let alone = |vector: &Vector| {
        let mut template = Template::new();
        template.push_vector(name, vector.clone());
        template
    };
    check(cloud, caller, kind, old.map(alone).as_ref(), &alone(new))
}

/// What a path names in a sorted template, as texts that are equal when the values are.
fn values<'t>(template: &'t Template, path: &'t AttributePath) -> impl Iterator<Item = String> {
    let named = template.attributes().iter().filter(|attribute| attribute.name == path.name);
    named.filter_map(|attribute| match (&path.key, &attribute.value) {
        (None, value) => Some(format!("{value:?}")),
        (Some(key), Value::Vector(vector)) => vector.get(key).map(str::to_owned),
        (Some(_), Value::Scalar(_)) => None,
    })
}

/// Gives back the restricted attributes of `old` that a user's change, already checked, left out: to remove them is not for
/// him either.
pub fn keep(cloud: &Cloud, caller: &Caller, kind: ObjectKind, old: &Template, new: &mut Template) {
    if caller.is_admin() {
        return;
    }
    for path in cloud.config.restricted(kind).iter() {
        match &path.key {
            None => keep_whole(old, new, &path.name),
            Some(key) if DEVICES.contains(&path.name.as_str()) => keep_of_devices(old, new, &path.name, key),
            Some(key) => keep_key(old, new, &path.name, key),
        }
    }
}

fn keep_whole(old: &Template, new: &mut Template, name: &str) {
    let mut was = old.attributes().iter().filter(|attribute| attribute.name == name).peekable();
    if was.peek().is_some() {
        new.remove(name);
        was.for_each(|attribute| push(new, name, attribute.value.clone()));
    }
}

fn keep_key(old: &Template, new: &mut Template, name: &str, key: &str) {
    let Some(value) = old.vectors(name).find_map(|vector| vector.get(key)) else { return };
    if new.vectors(name).any(|vector| vector.contains(key)) {
        return;
    }
    if let Some(vector) = new.vectors_mut(name).next() {
        vector.set(key, value);
        return;
    }
    new.remove(name);
    new.push_vector(name, [(key, value)].into_iter().collect());
}

fn keep_of_devices(old: &Template, new: &mut Template, name: &str, key: &str) {
    if !old.vectors(name).any(|vector| vector.contains(key)) {
        return;
    }
    let mut now: HashMap<Identity, VecDeque<&mut Vector>> = HashMap::new();
    for device in new.vectors_mut(name) {
        now.entry(identity(device)).or_default().push_back(device);
    }
    for was in old.vectors(name) {
        let device = now.get_mut(&identity(was)).and_then(VecDeque::pop_front);
        if let (Some(value), Some(device)) = (was.get(key), device)
            && !device.contains(key)
        {
            device.set(key, value);
        }
    }
}

/// The key and the value by which a device is known; none for one that has no such key.
type Identity = Option<(&'static str, String)>;

fn identity(device: &Vector) -> Identity {
    IDENTITY.iter().find_map(|key| Some((*key, device.get(key)?.to_owned())))
}

fn push(template: &mut Template, name: &str, value: Value) {
    match value {
        Value::Scalar(text) => template.push(name, text),
        Value::Vector(vector) => template.push_vector(name, vector),
    }
}

/// What a client sent, ready to be stored: listed secrets sealed, `***` replaced by what the same place of `old`, the
/// object's stored template, holds. A listed `***` with nothing behind it is left out.
///
/// # Errors
/// When the system gives no random numbers.
pub fn sealed(cloud: &Cloud, kind: ObjectKind, sent: &Template, old: Option<&Template>) -> Result<Template, Refusal> {
    let list = cloud.config.encrypted(kind);
    let empty = Template::new();
    let meant = with_hidden(sent, old.unwrap_or(&empty), list);
    Ok(cloud.secret.seal_sent(kind, &meant, old, list)?)
}

fn with_hidden(sent: &Template, old: &Template, list: &AttributeList) -> Template {
    // Values of one name and form pair up in their order.
    let form = |attribute: &Attribute| matches!(attribute.value, Value::Vector(_));
    let mut stored: HashMap<(&str, bool), VecDeque<&Value>> = HashMap::new();
    for attribute in old.attributes() {
        stored.entry((&attribute.name, form(attribute))).or_default().push_back(&attribute.value);
    }
    let mut meant = Template::new();
    for attribute in sent.attributes() {
        let name = &attribute.name;
        let was = stored.get_mut(&(name.as_str(), form(attribute))).and_then(VecDeque::pop_front);
        match (&attribute.value, was) {
            (Value::Scalar(text), was) => {
                let was = was.and_then(|was| if let Value::Scalar(was) = was { Some(was.as_str()) } else { None });
                if let Some(text) = behind(text, was, list.holds(name, None)) {
                    meant.push(name, text);
                }
            }
            (Value::Vector(vector), was) => {
                let was = was.and_then(|was| if let Value::Vector(was) = was { Some(was) } else { None });
                let pairs = vector.iter().filter_map(|(key, text)| {
                    let was = was.and_then(|was| was.get(key));
                    Some((key, behind(text, was, list.holds(name, Some(key)))?))
                });
                meant.push_vector(name, pairs.collect());
            }
        }
    }
    meant
}

/// What a sent value means where `was` is stored; none = it is left out.
fn behind<'t>(sent: &'t str, was: Option<&'t str>, listed: bool) -> Option<&'t str> {
    if sent != HIDDEN {
        return Some(sent);
    }
    match was {
        Some(was) if listed || is_sealed(was) => Some(was),
        _ if listed => None,
        _ => Some(sent),
    }
}

/// One update of an object's template, with all rules: `how` 0 replaces, 1 appends.
///
/// # Errors
/// [`Refusal::UpdateType`]; as [`check`], [`sealed`] and [`bounded`].
pub fn updated(
    cloud: &Cloud,
    caller: &Caller,
    kind: ObjectKind,
    old: &Template,
    sent: &Template,
    how: i64,
) -> Result<Template, Refusal> {
    let sent = sealed(cloud, kind, sent, Some(old))?;
    check(cloud, caller, kind, Some(old), &sent)?;
    let mut new = super::updated(old, &sent, how)?;
    keep(cloud, caller, kind, old, &mut new);
    bounded(new)
}

/// A new object's template, with all rules.
///
/// # Errors
/// As [`check`], [`sealed`] and [`bounded`].
pub fn admitted(cloud: &Cloud, caller: &Caller, kind: ObjectKind, sent: &Template) -> Result<Template, Refusal> {
    check(cloud, caller, kind, None, sent)?;
    bounded(sealed(cloud, kind, sent, None)?)
}

/// A template as it is to be stored, within its bounds: appending again and again must not grow an object without end, and
/// sealing makes each secret some 50 bytes longer.
///
/// # Errors
/// [`Refusal::Internal`] with the bound.
pub fn bounded(template: Template) -> Result<Template, Refusal> {
    let bytes = template.to_text().len();
    let pairs = |attribute: &Attribute| match &attribute.value {
        Value::Scalar(_) => 1,
        Value::Vector(vector) => 1 + vector.iter().count(),
    };
    // What is longer could not be read again.
    let count: usize = template.attributes().iter().map(pairs).sum();
    let reason = if bytes > STORED_MAX_BYTES {
        format!("The template would have {bytes} bytes; at most {STORED_MAX_BYTES} are kept of one object.")
    } else if count > MAX_ATTRIBUTES {
        format!("The template would have {count} attributes; at most {MAX_ATTRIBUTES} are kept of one object.")
    } else {
        return Ok(template);
    };
    Err(Refusal::Internal(reason))
}

/// A template for a document: `***` in place of what is sealed.
#[must_use]
pub fn hidden(template: Template) -> Template {
    let sealed = |attribute: &Attribute| match &attribute.value {
        Value::Scalar(text) => is_sealed(text),
        Value::Vector(vector) => vector.iter().any(|(_, text)| is_sealed(text)),
    };
    if !template.attributes().iter().any(sealed) {
        return template;
    }
    let shown = |text: &str| if is_sealed(text) { HIDDEN.to_owned() } else { text.to_owned() };
    let mut document = Template::new();
    for Attribute { name, value } in template.attributes() {
        match value {
            Value::Scalar(text) => document.push(name, shown(text)),
            Value::Vector(vector) => {
                document.push_vector(name, vector.iter().map(|(key, text)| (key, shown(text))).collect());
            }
        }
    }
    document
}

/// The flag `decrypt` of info calls: puts the clear text into a row's template column, for administrators who ask. For
/// all others it does nothing.
///
/// # Errors
/// A value that the daemon's key does not open.
pub fn reveal(
    cloud: &Cloud,
    caller: &Caller,
    decrypt: bool,
    kind: ObjectKind,
    column: &mut String,
) -> Result<(), Refusal> {
    if decrypt && caller.is_admin() {
        *column = cloud.secret.open(kind, &stored(column), cloud.config.encrypted(kind))?.to_text();
    }
    Ok(())
}

/// The same for a network: its template and its address ranges.
///
/// # Errors
/// As [`reveal`].
pub fn reveal_network(cloud: &Cloud, caller: &Caller, decrypt: bool, row: &mut NetworkRow) -> Result<(), Refusal> {
    reveal(cloud, caller, decrypt, ObjectKind::Network, &mut row.template)?;
    if decrypt && caller.is_admin() && row.ranges.contains(MARK) {
        let list = cloud.config.encrypted(ObjectKind::Network);
        let clear = cloud.secret.open(ObjectKind::Network, &cards::ranges_template(row), list)?;
        cards::set_ranges_template(row, &clear)?;
    }
    Ok(())
}

/// A template out of a backup's document, which holds `***` where the VM had secrets: these are left out and named in the
/// attribute [`LEFT_OUT`], all others sealed.
///
/// # Errors
/// As [`sealed`].
pub fn restored(cloud: &Cloud, mut template: Template) -> Result<Template, Refusal> {
    let list = cloud.config.encrypted(ObjectKind::Vm);
    template.remove(LEFT_OUT);
    let mut lost = Vec::new();
    for Attribute { name, value } in template.attributes() {
        match value {
            Value::Scalar(text) if text == HIDDEN && list.holds(name, None) => lost.push(name.clone()),
            Value::Scalar(_) => {}
            Value::Vector(vector) => {
                let gone = vector.iter().filter(|(key, text)| *text == HIDDEN && list.holds(name, Some(key)));
                lost.extend(gone.map(|(key, _)| format!("{name}/{key}")));
            }
        }
    }
    if !lost.is_empty() {
        template.set(LEFT_OUT, lost.join(","));
    }
    sealed(cloud, ObjectKind::Vm, &template, None)
}

/// Seals what an earlier version, or a shorter list of secrets, left in clear. How many objects that were.
///
/// # Errors
/// The database's failure, no random numbers; nothing is changed then.
pub fn seal_stored(cloud: &Cloud) -> Result<usize, Refusal> {
    let changed = cloud.store.write(|tx| seal_rows(cloud, tx))?;
    if changed > 0 {
        tracing::info!(target: "KEY", "Sealed secrets of {changed} objects that the database held in clear.");
        // The replaced texts are still in unused parts of the file. For want of room nobody needs to stay down.
        if let Err(error) = cloud.store.forget_replaced() {
            tracing::warn!(
                target: "KEY",
                "Unused parts of one.db may still hold them in clear, for it could not be written anew: {error}. \
                 Make room, stop oned and run: sqlite3 one.db VACUUM"
            );
        }
    }
    Ok(changed)
}

/// Seals one column of every row of a table.
macro_rules! seal_rows {
    ($cloud:ident, $tx:ident, $changed:ident, $kind:ident, $rows:expr, $update:ident, $($column:ident),+) => {
        for mut row in $rows {
            let mut here = false;
            $(here |= seal_text($cloud, ObjectKind::$kind, &mut row.$column)?;)+
            if here {
                $tx.$update(&row)?;
                $changed += 1;
            }
        }
    };
}

fn seal_rows(cloud: &Cloud, tx: &mut Tx<'_>) -> Result<usize, Refusal> {
    let mut changed = 0;
    seal_rows!(cloud, tx, changed, User, tx.user_list()?, user_update, template);
    seal_rows!(cloud, tx, changed, Datastore, tx.datastore_list()?, datastore_update, template);
    seal_rows!(cloud, tx, changed, Host, tx.host_list()?, host_update, template);
    seal_rows!(cloud, tx, changed, Cluster, tx.cluster_list()?, cluster_update, template);
    seal_rows!(cloud, tx, changed, Image, tx.image_list()?, image_update, template);
    seal_rows!(cloud, tx, changed, Vm, tx.template_list()?, template_update, template);
    seal_rows!(cloud, tx, changed, Document, tx.document_list()?, document_update, template);
    seal_rows!(cloud, tx, changed, Network, tx.network_list()?, network_update, template);
    changed += seal_ranges(cloud, tx)?;
    let all = VmFilter { with_done: true, ..VmFilter::default() };
    seal_rows!(cloud, tx, changed, Vm, tx.vms(all)?, vm_update, template, user_template);
    Ok(changed)
}

/// Seals the address ranges of networks; how many networks had something in clear.
fn seal_ranges(cloud: &Cloud, tx: &mut Tx<'_>) -> Result<usize, Refusal> {
    let list = cloud.config.encrypted(ObjectKind::Network);
    if !list.iter().any(|path| path.name == "AR") {
        return Ok(0);
    }
    let mut changed = 0;
    for mut row in tx.network_list()? {
        let old = cards::ranges_template(&row);
        let new = cloud.secret.seal(ObjectKind::Network, &old, list)?;
        if new != old {
            cards::set_ranges_template(&mut row, &new)?;
            tx.network_update(&row)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// Seals a column; whether anything in it was in clear.
fn seal_text(cloud: &Cloud, kind: ObjectKind, column: &mut String) -> Result<bool, Refusal> {
    let list = cloud.config.encrypted(kind);
    // Most texts hold no secret; ten thousand VMs must not be parsed for that at each start.
    let named = |path: &AttributePath| {
        column.contains(&path.name) && path.key.as_ref().is_none_or(|key| column.contains(key.as_str()))
    };
    if !list.iter().any(named) {
        return Ok(false);
    }
    let old = stored(column);
    let new = cloud.secret.seal(kind, &old, list)?;
    if new == old {
        return Ok(false);
    }
    *column = new.to_text();
    Ok(true)
}
