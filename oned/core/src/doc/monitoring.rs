//! `MONITORING`: measured values of VMs, inside their document and as samples in MONITORING_DATA (`one.vm.monitoring`,
//! `one.vmpool.monitoring`). Samples of hosts are [`super::HostSample`].
//!
//! The schema decides what is shown: `vm.xsd` takes decimals, bandwidths and forecasts, `monitoring_data.xsd` the
//! measured values only, as whole numbers all but CPU.

use super::Render;
use super::writer::Writer;
use crate::template::{Template, Value};

/// MONITORING elements of the schema, in its order (which is that of ASCII). TIMESTAMP and ID are integers, all
/// others decimals.
const MONITORED: [&str; 10] =
    ["CPU", "DISKRDBYTES", "DISKRDIOPS", "DISKWRBYTES", "DISKWRIOPS", "ID", "MEMORY", "NETRX", "NETTX", "TIMESTAMP"];
/// What may follow such a name.
const MONITORED_SUFFIXES: [&str; 4] = ["", "_BW", "_FORECAST", "_BW_FORECAST"];

/// One sample of a VM (an element of MONITORING_DATA).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmSampleView {
    /// VM id.
    pub vm: i64,
    /// When, epoch seconds.
    pub timestamp: i64,
    /// Values as in [`super::VmView::monitoring`]. Bandwidths and forecasts are left out and fractions cut off, as the
    /// schema wants; an ID or TIMESTAMP in it is ignored.
    pub values: Template,
}

impl Render for VmSampleView {
    fn render(&self, w: &mut Writer) {
        let (id, timestamp) = (Value::Scalar(self.vm.to_string()), Value::Scalar(self.timestamp.to_string()));
        let mut shown = known(&self.values);
        shown.retain(|(name, _)| match *name {
            "ID" | "TIMESTAMP" => false,
            name => name == "DISK_SIZE" || MONITORED.contains(&name),
        });
        shown.extend([("ID", &id), ("TIMESTAMP", &timestamp)]);
        shown.sort_by_key(|(name, _)| *name);
        w.open("MONITORING");
        for (name, value) in shown {
            match value {
                Value::Scalar(text) if name != "CPU" => {
                    w.number(name, text.split_once('.').map_or(text.as_str(), |(whole, _)| whole));
                }
                value => write(w, name, value),
            }
        }
        w.close("MONITORING");
    }
}

/// The element inside a VM's document.
pub(super) fn of_vm(w: &mut Writer, values: &Template) {
    w.open("MONITORING");
    for (name, value) in known(values) {
        write(w, name, value);
    }
    w.close("MONITORING");
}

/// The values that `vm.xsd` knows, in its order; each name once but for DISK_SIZE.
fn known(values: &Template) -> Vec<(&str, &Value)> {
    let mut seen: Vec<(&str, &Value)> = Vec::new();
    for attribute in values.attributes() {
        let known = match &attribute.value {
            Value::Scalar(text) => is_monitored(&attribute.name) && is_decimal(&attribute.name, text),
            Value::Vector(_) => attribute.name == "DISK_SIZE",
        };
        let repeated = attribute.name != "DISK_SIZE" && seen.iter().any(|(name, _)| *name == attribute.name);
        if known && !repeated {
            seen.push((&attribute.name, &attribute.value));
        }
    }
    seen.sort_by_key(|(name, _)| *name);
    seen
}

fn write(w: &mut Writer, name: &str, value: &Value) {
    match value {
        Value::Scalar(text) => w.number(name, text),
        Value::Vector(disk) => {
            if let (Some(id), Some(size)) = (disk.int("ID"), disk.int("SIZE")) {
                w.open(name);
                w.number("ID", id);
                w.number("SIZE", size);
                w.close(name);
            }
        }
    }
}

fn is_monitored(name: &str) -> bool {
    let name = name.strip_suffix("_FAR").filter(|rest| rest.ends_with("_FORECAST")).unwrap_or(name);
    MONITORED.iter().any(|base| {
        name.strip_prefix(base).is_some_and(|suffix| match *base {
            "ID" | "TIMESTAMP" => suffix.is_empty(),
            "CPU" | "MEMORY" => suffix.is_empty() || suffix == "_FORECAST",
            _ => MONITORED_SUFFIXES.contains(&suffix) && suffix != "_FORECAST",
        })
    })
}

/// Would the schema take this as `xs:decimal` (`xs:integer` for ID and TIMESTAMP)? No exponent, no NaN, no blanks.
fn is_decimal(name: &str, text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let integer = !matches!(name, "ID" | "TIMESTAMP") || !digits.contains('.');
    integer && all_digits(whole) && all_digits(fraction)
}
