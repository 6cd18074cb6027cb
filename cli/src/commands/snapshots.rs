//! Tables of snapshots: of disks and images (SNAPSHOTS elements), and of whole VMs (vectors in TEMPLATE).

use crate::show::{Page, or_dash};
use crate::units;
use crate::xml::Element;

/// Does the list hold a snapshot?
pub fn is_any(list: &Element) -> bool {
    list.child("SNAPSHOT").is_some()
}

/// The snapshots of disks or of an image. The one that the disk is at, or came from, has an arrow.
pub fn table<'a>(page: &mut Page, lists: impl Iterator<Item = &'a Element>) {
    let mut rows = Vec::new();
    for snapshot in lists.flat_map(|list| list.all("SNAPSHOT")) {
        let active = snapshot.text_at("ACTIVE").eq_ignore_ascii_case("YES");
        rows.push(vec![
            if active { "=>".to_owned() } else { String::new() },
            snapshot.text_at("ID").to_owned(),
            or_dash(snapshot.text_at("PARENT")),
            units::time(snapshot.int_at("DATE").unwrap_or(0)),
            units::mib(snapshot.int_at("SIZE").unwrap_or(0)),
            snapshot.text_at("NAME").to_owned(),
        ]);
    }
    let titles = [
        ("AC", 2, true),
        ("ID", 3, false),
        ("PARENT", 6, false),
        ("DATE", 14, false),
        ("SIZE", 8, false),
        ("NAME", 15, true),
    ];
    page.table(&titles, &rows);
}

/// The snapshots of a whole VM.
pub fn of_vm(page: &mut Page, template: &Element) {
    let row = |snapshot: &Element| {
        let text = |name| or_dash(snapshot.text_at(name));
        vec![
            text("SNAPSHOT_ID"),
            units::time(snapshot.int_at("TIME").unwrap_or(0)),
            text("NAME"),
            text("HYPERVISOR_ID"),
        ]
    };
    let rows: Vec<_> = template.all("SNAPSHOT").map(row).collect();
    page.table(&[("ID", 3, false), ("TIME", 14, true), ("NAME", 15, true), ("HYPERVISOR_ID", 13, true)], &rows);
}
