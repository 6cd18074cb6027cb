//! The daemon about itself.

use one_core::access::Caller;
use one_core::doc::{self, CheckView, ExaminationView};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, only_admin};
use crate::examination::{Finding, judge};
use crate::ledger;

/// The OpenNebula line whose documents and answers we follow.
pub const VERSION: &str = "7.0.2";

/// `one.system.version`.
///
/// # Errors
/// None.
pub fn version(_cloud: &Cloud, _caller: &Caller) -> Result<String, Refusal> {
    Ok(VERSION.into())
}

/// `one.system.config`: oned.conf as elements, secrets hidden.
///
/// # Errors
/// None.
pub fn config(cloud: &Cloud, _caller: &Caller) -> Result<String, Refusal> {
    Ok(cloud.config.to_document())
}

/// The zone that this daemon is.
const ZONE: i64 = 0;

/// `one.system.examine`: what is good and what is not about the daemon and all that it works with. Takes up to half a minute.
///
/// # Errors
/// Anybody but administrators, another examination under way.
pub fn examine(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    only_admin(caller, Right::Admin, ObjectKind::Zone, ZONE)?;
    let facts = cloud.desk.examine().map_err(|sentence| Refusal::Internal(sentence.into()))?;
    let check = |finding: Finding| CheckView {
        name: finding.name.into(),
        subject: ledger::flat(&finding.subject),
        result: finding.outcome.as_str().into(),
        text: ledger::flat(&finding.text),
        remedy: ledger::flat(&finding.remedy),
    };
    Ok(doc::examination(&ExaminationView {
        time: cloud.clock.now(),
        version: env!("CARGO_PKG_VERSION").into(),
        checks: judge(&facts).into_iter().map(check).collect(),
    }))
}
