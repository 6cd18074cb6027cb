//! `oneimage show`.

use anyhow::Result;

use crate::commands::verbs::{LABEL_WIDTH, Show};
use crate::commands::{onevm, snapshots};
use crate::objects::{IMAGE, VM};
use crate::show::{Page, join, lock, or_dash, yes_no};
use crate::states;
use crate::table::ListOptions;
use crate::terminal;
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

/// Prints the page; below it the VMs that use the image, for which the daemon is asked.
pub fn show(client: &Client, options: &Show) -> Result<()> {
    let Show { id, options } = options;
    let image = IMAGE.info(client, IMAGE.id(client, id)?, options.decrypt)?;
    if let Some(raw) = options.raw(&image) {
        return terminal::put(&raw);
    }
    let mut page = Page::new(LABEL_WIDTH);
    fill(&mut page, &image);
    let vms = image.ids_at("VMS");
    if vms.is_empty() || states::is_backup(&image) {
        return terminal::put(page.finish());
    }
    let mut pool = VM.pool_of_all(client)?;
    pool.children.retain(|vm| vm.int_at("ID").is_some_and(|id| vms.contains(&id)));
    page.header("VIRTUAL MACHINES");
    terminal::put(page.finish())?;
    onevm::FACE.table(&pool, &ListOptions { no_pager: true, ..ListOptions::default() })
}

fn fill(page: &mut Page, image: &Element) {
    information(page, image);
    page.permissions(image);
    if let Some(list) = image.at("SNAPSHOTS").filter(|list| snapshots::is_any(list)) {
        page.header("IMAGE SNAPSHOTS");
        snapshots::of_image(page, list);
    }
    // Progress and restore points have forms of their own below.
    page.template(
        "IMAGE TEMPLATE",
        image.at("TEMPLATE"),
        &["INCREMENT_INFO", "INCREMENT_DAMAGE", "VERIFYING", "PROGRESS", "DISK_PROGRESS"],
    );
    if states::is_backup(image) {
        backup(page, image);
    }
}

fn information(page: &mut Page, image: &Element) {
    let text = |name| image.text_at(name);
    page.header(&format!("IMAGE {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("USER", text("UNAME"))
        .line("GROUP", text("GNAME"))
        .line("LOCK", lock(image))
        .line("DATASTORE", text("DATASTORE"))
        .line("TYPE", states::image_type(image))
        .line("REGISTER TIME", units::time(image.int_at("REGTIME").unwrap_or(0)));
    if let Some(modified) = image.int_at("MODTIME").filter(|time| *time > 0) {
        page.line("LAST MODIFIED", units::time(modified));
    }
    page.line("PERSISTENT", yes_no(text("PERSISTENT"))).line("SOURCE", text("SOURCE"));
    if !text("PATH").is_empty() {
        page.line("PATH", text("PATH"));
    }
    if !text("FORMAT").is_empty() {
        page.line("FORMAT", text("FORMAT"));
    }
    page.line("SIZE", units::mib(image.int_at("SIZE").unwrap_or(0)))
        .line("STATE", states::image_short(image))
        .line("RUNNING_VMS", text("RUNNING_VMS"));
    if let Some(progress) = crate::watch::Progress::at(image, "TEMPLATE/PROGRESS") {
        let size = |bytes: u64| units::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        page.line("PROGRESS", format!("{} of {}", size(progress.done), size(progress.total)));
    }
}

fn backup(page: &mut Page, image: &Element) {
    let increments: Vec<&Element> =
        image.at("BACKUP_INCREMENTS").into_iter().flat_map(|list| list.all("INCREMENT")).collect();
    let infos: Vec<&Element> =
        image.at("TEMPLATE").into_iter().flat_map(|template| template.all("INCREMENT_INFO")).collect();
    page.header("BACKUP INFORMATION").line("VM", or_dash(&join(&image.ids_at("VMS"))));
    let disks = image.ids_at("BACKUP_DISK_IDS");
    if !disks.is_empty() {
        page.line("DISK IDS", join(&disks));
    }
    page.line("TYPE", if increments.is_empty() { "FULL" } else { "INCREMENTAL" });
    if increments.is_empty() {
        if let Some(info) = infos.first() {
            let [read, stored, took] = figures(Some(info));
            page.line("READ", read).line("STORED", stored).line("DURATION", took);
        }
    } else {
        page.header("BACKUP INCREMENTS");
        put_increments(page, &increments, &infos);
    }
    put_notes(page, &infos);
    put_verifications(page, image, &infos);
}

/// When which increment was looked at and what was seen; nothing when none ever was.
fn put_verifications(page: &mut Page, image: &Element, infos: &[&Element]) {
    let verified: Vec<&Element> =
        infos.iter().copied().filter(|info| info.int_at("VERIFIED_AT").is_some_and(|time| time > 0)).collect();
    let under_way = image.text_at("TEMPLATE/VERIFYING/DEPTH");
    if verified.is_empty() && under_way.is_empty() {
        return;
    }
    page.header("VERIFICATION");
    if !under_way.is_empty() {
        page.line("UNDER WAY", under_way);
    }
    let row = |info: &&Element| {
        let result = match info.int_at("DAMAGES") {
            Some(0) => "good".to_owned(),
            count => format!("{} damages", count.unwrap_or(-1)),
        };
        let time = units::time(info.int_at("VERIFIED_AT").unwrap_or(0));
        vec![info.text_at("ID").to_owned(), info.text_at("VERIFY_DEPTH").to_owned(), time, result]
    };
    let rows: Vec<_> = verified.iter().map(row).collect();
    if !rows.is_empty() {
        page.table(&[("ID", 3, false), ("DEPTH", 5, true), ("DATE", 14, false), ("RESULT", 8, true)], &rows);
    }
    let ids: Vec<i64> = verified.iter().filter_map(|info| info.int_at("ID")).collect();
    for (text, increments) in super::verify::damages(image, &ids) {
        page.raw(&terminal::one_line(&format!("Increments {}: {text}", join(&increments))));
    }
}

/// The columns of the original, then ours, so that scripts which count columns still find what they look for.
fn put_increments(page: &mut Page, increments: &[&Element], infos: &[&Element]) {
    let info_of = |id: Option<i64>| infos.iter().copied().find(|info| info.int_at("ID") == id);
    let row = |increment: &&Element| {
        let id = increment.int_at("ID");
        let kind = if increment.text_at("TYPE") == "FULL" { "F" } else { "I" };
        let mut row = vec![
            increment.text_at("ID").to_owned(),
            increment.text_at("PARENT_ID").to_owned(),
            kind.to_owned(),
            units::mib(increment.int_at("SIZE").unwrap_or(0)),
            units::time(increment.int_at("DATE").unwrap_or(0)),
            increment.text_at("SOURCE").to_owned(),
        ];
        if !infos.is_empty() {
            row.extend(figures(info_of(id)));
        }
        row
    };
    let rows: Vec<_> = increments.iter().map(row).collect();
    let mut titles = vec![
        ("ID", 3, false),
        ("PID", 3, false),
        ("T", 1, true),
        ("SIZE", 8, true),
        ("DATE", 15, false),
        ("SOURCE", 8, true),
    ];
    if !infos.is_empty() {
        titles.extend([("READ", 7, false), ("STORED", 7, false), ("TIME", 6, false)]);
    }
    page.table(&titles, &rows);
}

/// Bytes read and stored, and the time it took.
fn figures(info: Option<&Element>) -> [String; 3] {
    let number = |name| info.and_then(|info| info.int_at(name));
    let size = |name| number(name).map_or("-".to_owned(), units::bytes);
    [size("READ_BYTES"), size("STORED_BYTES"), number("DURATION").map_or("-".to_owned(), units::duration)]
}

/// Why a restore point is a full one, and what went wrong beside it.
fn put_notes(page: &mut Page, infos: &[&Element]) {
    for info in infos {
        for name in ["REASON", "WARNING"] {
            let text = info.text_at(name);
            if !text.is_empty() {
                let line = format!("Increment {}: {text}", info.text_at("ID"));
                page.raw(&terminal::one_line(&line));
            }
        }
    }
}
