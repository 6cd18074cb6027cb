//! `onevm show`.

use anyhow::Result;
use one_core::backup::config::{BACKUP_INFO, USER_KEYS};
use one_core::lifecycle::VmState;

use super::{disks, last_record, networking};
use crate::commands::snapshots;
use crate::commands::verbs::put_document;
use crate::events::{self, BACKUP_EVENT};
use crate::objects::{CLUSTER, VM};
use crate::schedule::{self, SCHED_INFO};
use crate::show::{Page, ShowOptions, join, lock, or_dash, template_text, yes_no};
use crate::states;
use crate::terminal::one_line;
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

/// Labels of `onevm show` are wider than those of the other tools.
const LABEL_WIDTH: usize = 20;

/// Keys of BACKUP_CONFIG that the daemon sets itself.
const CORE_KEYS: [&str; 9] = [
    "INCREMENTAL_BACKUP_ID",
    "LAST_INCREMENT_ID",
    "BACKUP_JOB_ID",
    "LAST_DATASTORE_ID",
    "LAST_BACKUP_ID",
    "LAST_BACKUP_SIZE",
    "LAST_BACKUP_FORMAT",
    "LAST_BRIDGE",
    "ACTIVE_FLATTEN",
];

/// Sections of TEMPLATE that `updateconf` replaces.
const CONFIGURATION: [&str; 8] = ["OS", "FEATURES", "INPUT", "GRAPHICS", "VIDEO", "RAW", "CPU_MODEL", "CONTEXT"];

/// Vectors of USER_TEMPLATE that are the daemon's and have blocks of their own.
const SHOWN_ELSEWHERE: [&str; 3] = [BACKUP_INFO, SCHED_INFO, BACKUP_EVENT];

/// The page of a VM; with `all` its template shows also what has a block of its own.
pub fn show(client: &Client, argument: &str, options: &ShowOptions, all: bool) -> Result<()> {
    let vm = VM.info(client, VM.id(client, argument)?, options.decrypt)?;
    let record = last_record(&vm).filter(|_| states::vm_is_on_host(&vm));
    let cluster_id = record.and_then(|record| record.int_at("CID")).filter(|id| *id >= 0);
    // The name of the cluster is a courtesy: without the right to see it the page is still good.
    let cluster = match cluster_id {
        Some(id) if options.raw(&vm).is_none() => CLUSTER.info(client, id, false).ok(),
        _ => None,
    };
    put_document(&vm, options, LABEL_WIDTH, |page, vm| {
        information(page, vm, cluster_id, cluster.as_ref());
        monitoring(page, vm);
        page.permissions(vm);
        if let Some(template) = vm.at("TEMPLATE") {
            disks::block(page, vm, template);
            if vm.all("SNAPSHOTS").any(snapshots::is_any) {
                page.header("VM DISK SNAPSHOTS");
                snapshots::of_disks(page, vm.all("SNAPSHOTS"), vm.at("MONITORING"));
            }
            networking::cards(page, template);
            networking::security(page, template);
            if template.child("SNAPSHOT").is_some() {
                page.header("SNAPSHOTS");
                snapshots::of_vm(page, template);
            }
        }
        history(page, vm);
        actions(page, vm);
        backups(page, vm);
        events::block(page, vm.at("USER_TEMPLATE"), false);
        page.template("USER TEMPLATE", vm.at("USER_TEMPLATE"), &SHOWN_ELSEWHERE);
        let shown_above = ["DISK", "NIC", "NIC_ALIAS", "SNAPSHOT", "SECURITY_GROUP_RULE", "SCHED_ACTION"];
        let hidden = if all { &[] } else { &shown_above[..] };
        page.template("VIRTUAL MACHINE TEMPLATE", vm.at("TEMPLATE"), hidden);
    })
}

/// The text that an editor begins with for `updateconf`: what the VM has now, without what the daemon sets itself.
pub fn present_configuration(vm: &Element) -> String {
    let mut shown = Element { name: "T".to_owned(), ..Element::default() };
    if let Some(template) = vm.at("TEMPLATE") {
        shown
            .children
            .extend(template.children.iter().filter(|part| CONFIGURATION.contains(&part.name.as_str())).cloned());
    }
    if let Some(mut backup) = backup_config(vm) {
        backup.children.retain(|key| !CORE_KEYS.contains(&key.name.as_str()));
        if !backup.children.is_empty() {
            shown.children.push(backup);
        }
    }
    template_text(&shown, &[])
}

/// The text that an editor begins with for `update`: the user's own attributes.
pub fn present_user_template(vm: &Element) -> String {
    let hidden = [BACKUP_INFO, SCHED_INFO, BACKUP_EVENT, "PROGRESS", "DISK_PROGRESS"];
    vm.at("USER_TEMPLATE").map(|template| template_text(template, &hidden)).unwrap_or_default()
}

fn information(page: &mut Page, vm: &Element, cluster_id: Option<i64>, cluster: Option<&Element>) {
    page.header(&format!("VIRTUAL MACHINE {} INFORMATION", vm.text_at("ID")))
        .line("ID", vm.text_at("ID"))
        .line("NAME", vm.text_at("NAME"))
        .line("USER", vm.text_at("UNAME"))
        .line("GROUP", vm.text_at("GNAME"))
        .line("STATE", states::vm_state(vm));
    if states::vm(vm) == Some(VmState::Active) {
        page.line("LCM_STATE", states::vm_lcm_state(vm));
    }
    page.line("LOCK", lock(vm)).line("RESCHED", yes_no(vm.text_at("RESCHED")));
    if let Some(record) = last_record(vm).filter(|_| states::vm_is_on_host(vm)) {
        page.line("HOST", record.text_at("HOSTNAME"));
    }
    if let Some(id) = cluster_id {
        page.line("CLUSTER ID", id.to_string());
    }
    if let Some(cluster) = cluster {
        page.line("CLUSTER", cluster.text_at("NAME"));
    }
    let time = |name| units::time(vm.int_at(name).unwrap_or(0));
    page.line("START TIME", time("STIME"))
        .line("END TIME", time("ETIME"))
        .line("DEPLOY ID", or_dash(vm.text_at("DEPLOY_ID")));
}

/// What stands first among the measured, and what is told elsewhere.
const FIRST: [&str; 4] = ["CPU", "MEMORY", "NETTX", "NETRX"];
const NOT_MEASURED: [&str; 1] = ["STATE"];

fn monitoring(page: &mut Page, vm: &Element) {
    let Some(monitoring) = vm.at("MONITORING") else { return };
    let is_shown = |figure: &&Element| figure.children.is_empty() && !NOT_MEASURED.contains(&figure.name.as_str());
    let mut figures: Vec<&Element> = monitoring.children.iter().filter(is_shown).collect();
    if figures.is_empty() {
        return;
    }
    figures.sort_by_key(|figure| FIRST.iter().position(|first| *first == figure.name).unwrap_or(FIRST.len()));
    page.header("VIRTUAL MACHINE MONITORING");
    for figure in figures {
        let number = figure.text.trim().parse::<f64>().unwrap_or(0.0) as i64;
        let value = match figure.name.as_str() {
            "MEMORY" => units::kib(number),
            "NETRX" | "NETTX" | "DISKRDBYTES" | "DISKWRBYTES" => units::bytes(number),
            "TIMESTAMP" => units::time(number),
            _ => figure.text.trim().to_owned(),
        };
        page.line(&figure.name, value);
    }
}

fn history(page: &mut Page, vm: &Element) {
    let row = |record: &Element| {
        let number = |name| record.int_at(name).unwrap_or(-1);
        let or_dash_id = |name| if number(name) < 0 { "-".to_owned() } else { number(name).to_string() };
        let end = if number("ETIME") > 0 { number("ETIME") } else { units::now() };
        let prolog = if number("PETIME") > 0 { number("PETIME").saturating_sub(number("PSTIME")) } else { 0 };
        vec![
            number("SEQ").to_string(),
            or_dash_id("UID"),
            or_dash_id("REQUEST_ID"),
            record.text_at("HOSTNAME").to_owned(),
            states::history_action(number("ACTION").max(0)),
            or_dash_id("DS_ID"),
            units::time(number("STIME")),
            units::days(end.saturating_sub(number("STIME"))),
            units::hours(prolog),
        ]
    };
    let rows: Vec<_> =
        vm.at("HISTORY_RECORDS").into_iter().flat_map(|records| records.all("HISTORY")).map(row).collect();
    if !rows.is_empty() {
        let titles = [
            ("SEQ", 3, false),
            ("UID", 4, true),
            ("REQ", 5, true),
            ("HOST", 12, true),
            ("ACTION", 10, true),
            ("DS", 4, false),
            ("START", 15, false),
            ("TIME", 11, false),
            ("PROLOG", 10, false),
        ];
        page.header("VIRTUAL MACHINE HISTORY").table(&titles, &rows);
    }
}

fn actions(page: &mut Page, vm: &Element) {
    let start = vm.int_at("STIME").unwrap_or(0);
    schedule::block(page, vm.at("TEMPLATE"), vm.at("USER_TEMPLATE"), start, units::now());
}

/// BACKUP_CONFIG with the daemon's own settings in it, which documents show in BACKUP_INFO.
fn backup_config(vm: &Element) -> Option<Element> {
    let mut config = vm.at("BACKUPS/BACKUP_CONFIG")?.clone();
    let info = vm.at("USER_TEMPLATE").and_then(|template| template.at(BACKUP_INFO));
    let ours = info.into_iter().flat_map(|info| &info.children);
    config.children.extend(ours.filter(|key| USER_KEYS.contains(&key.name.as_str())).cloned());
    config.children.sort_by(|a, b| a.name.cmp(&b.name));
    Some(config)
}

fn backups(page: &mut Page, vm: &Element) {
    page.template("BACKUP CONFIGURATION", backup_config(vm).as_ref(), &[]);
    let ids = vm.ids_at("BACKUPS/BACKUP_IDS");
    if ids.is_empty() {
        return;
    }
    page.header("VM BACKUPS").raw(&format!("IMAGE IDS: {}", join(&ids)));
    if let Some(success) = vm.int_at(&format!("USER_TEMPLATE/{BACKUP_INFO}/LAST_SUCCESS")).filter(|time| *time > 0) {
        page.raw(&format!("Last success: {}", units::time(success)));
    }
    for (key, word) in [("LAST_REASON", "note"), ("LAST_WARNING", "warning")] {
        let text = vm.text_at(&format!("USER_TEMPLATE/{BACKUP_INFO}/{key}"));
        if !text.is_empty() {
            page.raw(&one_line(&format!("Last backup, {word}: {text}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_begins_with_what_may_be_changed() {
        let vm = Element::parse(
            "<VM><TEMPLATE><CPU>1</CPU><OS><ARCH>x86_64</ARCH></OS></TEMPLATE><BACKUPS><BACKUP_CONFIG><KEEP_LAST>4</KEEP_LAST><LAST_INCREMENT_ID>1</LAST_INCREMENT_ID><MODE>FULL</MODE></BACKUP_CONFIG></BACKUPS></VM>",
        )
        .unwrap();
        assert_eq!(
            present_configuration(&vm),
            "BACKUP_CONFIG=[\n  KEEP_LAST=\"4\",\n  MODE=\"FULL\" ]\nOS=[\n  ARCH=\"x86_64\" ]\n"
        );
    }

    const WITH_INFO: &str = "<VM><USER_TEMPLATE><BACKUP_INFO><FS_FREEZE_FAIL>ABORT</FS_FREEZE_FAIL>\
        <LAST_REASON>the bitmap is gone; everything was read</LAST_REASON><LAST_WARNING>crash-consistent: no agent</LAST_WARNING>\
        </BACKUP_INFO><LABELS>a</LABELS></USER_TEMPLATE><BACKUPS><BACKUP_CONFIG><MODE>FULL</MODE></BACKUP_CONFIG>\
        <BACKUP_IDS><ID>3</ID></BACKUP_IDS></BACKUPS></VM>";

    #[test]
    fn what_is_to_be_said_of_the_last_backup_stands_with_the_backups() {
        let mut page = Page::new(LABEL_WIDTH);
        backups(&mut page, &Element::parse(WITH_INFO).unwrap());
        let lines: Vec<&str> = page.finish().lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "BACKUP CONFIGURATION",
                "FS_FREEZE_FAIL=\"ABORT\"",
                "MODE=\"FULL\"",
                "",
                "VM BACKUPS",
                "IMAGE IDS: 3",
                "Last backup, note: the bitmap is gone; everything was read",
                "Last backup, warning: crash-consistent: no agent",
            ]
        );
    }

    #[test]
    fn an_editor_gives_our_own_settings_back_and_nothing_of_the_last_backup() {
        let vm = Element::parse(WITH_INFO).unwrap();
        assert_eq!(present_configuration(&vm), "BACKUP_CONFIG=[\n  FS_FREEZE_FAIL=\"ABORT\",\n  MODE=\"FULL\" ]\n");
    }
}
