//! The EVENTS block of pages: what was done to a VM or by a backup job, when, and what came of it.
//!
//! The daemon puts the newest events into its documents as BACKUP_EVENT vectors; numbers and texts that say nothing are
//! left out of them.

use crate::show::{Page, or_dash};
use crate::units;
use crate::xml::Element;

/// The vector of one event.
pub const BACKUP_EVENT: &str = "BACKUP_EVENT";

/// Writes the block for the events in `template`, newest first; nothing without events. `with_vms` adds the column of VMs.
pub fn block(page: &mut Page, template: Option<&Element>, with_vms: bool) {
    let mut events: Vec<&Element> = template.into_iter().flat_map(|template| template.all(BACKUP_EVENT)).collect();
    if events.is_empty() {
        return;
    }
    // Stable: of events of one second the daemon's order, newest first, stays.
    events.sort_by_key(|event| std::cmp::Reverse(event.int_at("TIME")));
    let mut titles = vec![("TIME", 14, true), ("ACTION", 6, true), ("RESULT", 6, true), ("VM", 3, false)];
    titles.extend([("BY", 6, true), ("READ", 7, false), ("STORED", 7, false), ("TOOK", 6, false), ("REASON", 6, true)]);
    let mut rows: Vec<Vec<String>> = events.iter().map(|event| row(event)).collect();
    if !with_vms {
        titles.remove(3);
        rows.iter_mut().for_each(|row| drop(row.remove(3)));
    }
    page.header("EVENTS").table(&titles, &rows);
}

fn row(event: &Element) -> Vec<String> {
    let text = |name| event.text_at(name).to_owned();
    let took = event.int_at("DURATION").filter(|seconds| *seconds > 0).map(units::duration);
    let size = |name| bytes(event, name).map(units::bytes);
    let or_dash_of = |text: Option<String>| or_dash(&text.unwrap_or_default());
    vec![
        units::time(event.int_at("TIME").unwrap_or(0)),
        text("ACTION"),
        text("RESULT").to_lowercase(),
        or_dash(event.text_at("VM_ID")),
        by(event),
        or_dash_of(size("READ")),
        or_dash_of(size("STORED")),
        or_dash_of(took),
        text("REASON"),
    ]
}

/// `READ_BYTES` or, rounded up by the daemon, `READ_MB`; None when nothing was moved.
#[must_use]
pub fn bytes(event: &Element, what: &str) -> Option<i64> {
    let exact = event.int_at(&format!("{what}_BYTES"));
    let number = exact.or_else(|| event.int_at(&format!("{what}_MB")).map(|mb| mb.saturating_mul(1 << 20)));
    number.filter(|bytes| *bytes > 0)
}

/// Who asked for it.
fn by(event: &Element) -> String {
    let id = |names: [&str; 2]| names.into_iter().find_map(|name| event.int_at(name)).filter(|id| *id >= 0);
    match (id(["SCHED_ID", "SCHEDULE_ID"]), id(["BACKUP_JOB_ID", "JOB_ID"]), id(["UID", "UID"])) {
        (Some(schedule), ..) => format!("schedule {schedule}"),
        (None, Some(job), _) => format!("job {job}"),
        (None, None, Some(user)) => format!("user {user}"),
        (None, None, None) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stand_newest_first_with_what_is_known() {
        let template = Element::parse(
            "<T><BACKUP_EVENT><TIME>0</TIME><ACTION>backup</ACTION><RESULT>REFUSED</RESULT><UID>2</UID><VM_ID>3</VM_ID><REASON>no space</REASON></BACKUP_EVENT>\
             <BACKUP_EVENT><TIME>5</TIME><ACTION>backup</ACTION><RESULT>DONE</RESULT><UID>0</UID><VM_ID>3</VM_ID><SCHED_ID>4</SCHED_ID><READ_MB>12</READ_MB><STORED_BYTES>1536</STORED_BYTES><DURATION>65</DURATION></BACKUP_EVENT></T>",
        )
        .unwrap();
        let rows: Vec<_> = template.all(BACKUP_EVENT).map(|event| row(event)[1..].join("|")).collect();
        assert_eq!(rows, ["backup|refused|3|user 2|-|-|-|no space", "backup|done|3|schedule 4|12M|1.5K|1m05s|"]);
        let mut page = Page::new(15);
        block(&mut page, Some(&template), false);
        let lines: Vec<_> = page.finish().lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "EVENTS");
        assert!(lines[1].contains("RESULT") && !lines[1].contains("VM") && lines[2].contains("done"), "{lines:?}");
        let mut empty = Page::new(15);
        block(&mut empty, None, true);
        assert_eq!(empty.finish(), "");
    }
}
