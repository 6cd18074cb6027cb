//! Snapshots: their ids by name; tables of those of disks and images (SNAPSHOTS elements) and of whole VMs (vectors in
//! TEMPLATE).

use anyhow::{Result, bail};

use crate::objects::VM;
use crate::show::{Page, or_dash};
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

/// The id of a snapshot of one VM, or of one of its disks, by id or name.
///
/// # Errors
/// A name that no snapshot has, or several; a name with several VMs, which may each have another.
pub fn id(client: &Client, vm: &str, disk: Option<u32>, word: &str) -> Result<i64> {
    if let Ok(id) = word.parse::<u32>() {
        return Ok(id.into());
    }
    let ids = VM.ids(client, vm)?;
    let [vm] = ids.as_slice() else {
        bail!("a snapshot of several VMs is named by its id: write a number in place of {word}");
    };
    let document = VM.info(client, *vm, false)?;
    let (of_what, show, snapshots): (String, _, Vec<&Element>) = match disk {
        None => {
            let list = document.at("TEMPLATE").into_iter().flat_map(|template| template.all("SNAPSHOT"));
            (format!("VM {vm}"), format!("onevm snapshot-list {vm}"), list.collect())
        }
        Some(disk) => {
            let lists = document.all("SNAPSHOTS").filter(|list| list.int_at("DISK_ID") == Some(disk.into()));
            let list = lists.flat_map(|list| list.all("SNAPSHOT"));
            (format!("disk {disk} of VM {vm}"), format!("onevm disk-snapshot-list {vm} {disk}"), list.collect())
        }
    };
    let key = if disk.is_some() { "ID" } else { "SNAPSHOT_ID" };
    let named = snapshots.iter().filter(|snapshot| snapshot.text_at("NAME") == word);
    match named.filter_map(|snapshot| snapshot.int_at(key)).collect::<Vec<_>>()[..] {
        [id] => Ok(id),
        [] => bail!("{of_what} has no snapshot named {word}; {show} shows all"),
        _ => bail!("{of_what} has several snapshots named {word}: name one by its id; {show} shows them"),
    }
}

/// Does the list hold a snapshot?
pub fn is_any(list: &Element) -> bool {
    list.child("SNAPSHOT").is_some()
}

/// The snapshots of disks. The one that a disk is at, or came from, has an arrow; sizes are what is measured and what the
/// guest sees.
pub fn of_disks<'a>(page: &mut Page, lists: impl Iterator<Item = &'a Element>, monitoring: Option<&Element>) {
    let measured = |snapshot: &Element, disk: Option<i64>| {
        let mut sizes = monitoring.into_iter().flat_map(|figures| figures.all("SNAPSHOT_SIZE"));
        let size = sizes.find(|size| size.int_at("ID") == snapshot.int_at("ID") && size.int_at("DISK_ID") == disk)?;
        size.int_at("SIZE").map(units::mib)
    };
    let mut rows = Vec::new();
    for list in lists {
        let disk = list.int_at("DISK_ID");
        for snapshot in list.all("SNAPSHOT") {
            let [active, id, parent, date, size, name] = cells(snapshot);
            let used = measured(snapshot, disk).unwrap_or_else(|| "-".to_owned());
            rows.push(vec![active, id, or_dash(list.text_at("DISK_ID")), parent, date, format!("{used}/{size}"), name]);
        }
    }
    let titles = [
        ("AC", 2, true),
        ("ID", 3, false),
        ("DISK", 4, false),
        ("PARENT", 6, false),
        ("DATE", 15, false),
        ("SIZE", 12, true),
        ("NAME", 15, true),
    ];
    page.table(&titles, &rows);
}

/// The snapshots of an image.
pub fn of_image(page: &mut Page, list: &Element) {
    let rows: Vec<_> = list.all("SNAPSHOT").map(|snapshot| cells(snapshot).to_vec()).collect();
    let titles = [
        ("AC", 2, true),
        ("ID", 3, false),
        ("PARENT", 6, false),
        ("DATE", 15, false),
        ("SIZE", 8, true),
        ("NAME", 15, true),
    ];
    page.table(&titles, &rows);
}

fn cells(snapshot: &Element) -> [String; 6] {
    let active = snapshot.text_at("ACTIVE").eq_ignore_ascii_case("YES");
    [
        if active { "=>".to_owned() } else { String::new() },
        snapshot.text_at("ID").to_owned(),
        or_dash(snapshot.text_at("PARENT")),
        units::time(snapshot.int_at("DATE").unwrap_or(0)),
        units::mib(snapshot.int_at("SIZE").unwrap_or(0)),
        snapshot.text_at("NAME").to_owned(),
    ]
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
