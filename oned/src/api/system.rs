//! The daemon about itself.

use one_core::access::Caller;
use one_core::refusal::Refusal;

use super::Cloud;

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
