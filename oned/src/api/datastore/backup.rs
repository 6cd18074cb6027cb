//! What the template of a backup datastore must be: the attributes of its driver, and who may set which.
//!
//! What it is not: the attributes' meaning is `one_core::backup::settings`, and nothing is opened or mounted here.

use one_core::access::Caller;
use one_core::backup::settings::{SECRET_ATTRIBUTES, SHARE_ATTRIBUTES, StoreSettings};
use one_core::refusal::{ObjectKind, Refusal};
use one_core::template::Template;

use super::{Cloud, refuse};
use crate::config::AttributeList;

/// Checks a template that is to be stored, sealed as it is; `old` is the one stored now.
///
/// # Errors
/// An attribute that the driver cannot work with, in a sentence; [`Refusal::RestrictedAttribute`] when somebody who is no
/// administrator changes what is mounted, for options of mount(8) can name programs that it runs as root.
pub(super) fn check(
    cloud: &Cloud,
    caller: &Caller,
    ds_mad: &str,
    old: Option<&Template>,
    new: &Template,
) -> Result<(), Refusal> {
    // Opened whatever the configuration lists now: it may have listed them when they were stored.
    let secrets: AttributeList = SECRET_ATTRIBUTES.into_iter().collect();
    let clear = |template: &Template| cloud.secret.open(ObjectKind::Datastore, template, &secrets);
    let new = clear(new)?;
    if !caller.is_admin() {
        let old = old.map(clear).transpose()?.unwrap_or_default();
        let values = |template: &Template, name: &str| -> Vec<String> {
            let named = template.attributes().iter().filter(|attribute| attribute.name == name);
            named.map(|attribute| format!("{:?}", attribute.value)).collect()
        };
        if let Some(name) = SHARE_ATTRIBUTES.into_iter().find(|name| values(&old, name) != values(&new, name)) {
            return Err(Refusal::RestrictedAttribute { user: caller.uid, attribute: name.to_owned() });
        }
    }
    match StoreSettings::from_template(ds_mad, &new) {
        Ok(_) => Ok(()),
        Err(sentence) => refuse(sentence),
    }
}
