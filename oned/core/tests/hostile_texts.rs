//! Texts that strangers send for options, configurations, schedules, paths and documents: half right, and never trusted.
//!
//! The same properties run for hours in `tests/fuzz`; here they run in seconds with every change.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is wrong")]

use chrono_tz::Tz;
use one_core::backup::{BackupConfig, BackupPath, Disks, RestoreOptions};
use one_core::doc::{self, VmView};
use one_core::id::ScheduleId;
use one_core::schedule::{Parent, Reading, ScheduledAction};
use one_core::template::Template;
use proptest::prelude::*;

const NOW: i64 = 1_700_000_000;
const SECRET: &str = "hidden-word";

/// A value as users get it wrong: a number at an edge, a word, a list, rubbish.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(-1), Just(0), Just(253_402_300_799)]
            .prop_map(|n| n.to_string()),
        "[+-]?[0-9]{1,22}",
        "[0-9]{1,3}(,[0-9]{1,3}){0,6}",
        prop_oneof![Just("YES"), Just("no"), Just("INCREMENT"), Just("FULL"), Just("backup"), Just("poweroff")]
            .prop_map(str::to_owned),
        "[^\"\\\\]{0,12}".prop_map(|text: String| text.replace("]]>", "")),
    ]
}

fn pairs(keys: &'static [&'static str]) -> impl Strategy<Value = Vec<(&'static str, String)>> {
    proptest::collection::vec((proptest::sample::select(keys), value()), 0..7)
}

fn text(pairs: &[(&str, String)], separator: &str) -> String {
    pairs.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect::<Vec<_>>().join(separator)
}

const RESTORE: &[&str] = &["NAME", "NO_IP", "NO_NIC", "INCREMENT_ID", "DISK_ID"];
const BACKUP: &[&str] = &[
    "BACKUP_VOLATILE",
    "DISK_IDS",
    "FS_FREEZE",
    "INCREMENT_MODE",
    "INTERACTIVE",
    "KEEP_LAST",
    "MODE",
    "INCREMENTAL_BACKUP_ID",
    "LAST_INCREMENT_ID",
    "BACKUP_JOB_ID",
    "LAST_BACKUP_SIZE",
];
const SCHEDULE: &[&str] = &[
    "ACTION",
    "ARGS",
    "TIME",
    "REPEAT",
    "DAYS",
    "END_TYPE",
    "END_VALUE",
    "WARNING",
    "ID",
    "TIMEZONE",
    "CRON",
    "JITTER",
    "WINDOW_END",
    "KEEP_LAST",
    "RETRY",
];

/// Schedules that are right often enough to be run.
fn schedule() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let time = prop_oneof![(0..253_402_300_800_i64).prop_map(|t| t.to_string()), "\\+[0-9]{1,11}"];
    let right = (time, 0..4u8, "[0-9]{1,3}(,[0-9]{1,2}){0,3}", 0..3u8, 0..99i64).prop_map(
        |(time, repeat, days, end, value)| {
            vec![
                ("ACTION", "backup".to_owned()),
                ("ARGS", "100".to_owned()),
                ("TIME", time),
                ("REPEAT", repeat.to_string()),
                ("DAYS", days),
                ("END_TYPE", end.to_string()),
                ("END_VALUE", value.to_string()),
            ]
        },
    );
    let zone = prop_oneof![Just("Europe/Madrid"), Just("America/New_York"), Just("Pacific/Apia")];
    let by_cron = (
        zone,
        "([0-9]{1,2}|\\*|\\*/[0-9]{1,2}) [0-9]{1,2} ([0-9]{1,2}|\\*) \\* \\*",
        0..90_000u32,
        "[0-2][0-9]:[0-5][0-9]",
    )
        .prop_map(|(zone, cron, jitter, window)| {
            vec![
                ("ACTION", "backup".to_owned()),
                ("TIMEZONE", zone.to_owned()),
                ("CRON", cron),
                ("JITTER", jitter.to_string()),
                ("WINDOW_END", window),
            ]
        });
    (prop_oneof![right, by_cron], pairs(SCHEDULE), any::<bool>())
        .prop_map(|(right, wrong, mixed)| if mixed { wrong.into_iter().take(2).chain(right).collect() } else { wrong })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn restore_options_are_ids_or_refused(options in pairs(RESTORE)) {
        let Ok(options) = Template::parse(&text(&options, "\n")) else { return Ok(()) };
        if let Ok(options) = RestoreOptions::parse(&options) {
            prop_assert!(options.increment_id.is_none_or(|id| id >= 0));
            prop_assert!(options.disk_id.is_none_or(|id| id >= 0));
        }
    }

    #[test]
    fn a_backup_configuration_is_taken_over_or_left_as_it_was(
        stored in pairs(BACKUP), given in pairs(BACKUP), replace in any::<bool>()
    ) {
        let disks = Template::parse("DISK=[DISK_ID=0,IMAGE_ID=1,FORMAT=qcow2] DISK=[DISK_ID=1,TYPE=swap]").unwrap();
        let disks = Disks::from_template(&disks, &[]);
        let config = |pairs: &[_]| Template::parse(&format!("C=[{}]", text(pairs, ","))).map(|t| t.vector("C").cloned());
        let (Ok(Some(stored)), Ok(Some(given))) = (config(&stored), config(&given)) else { return Ok(()) };
        let mut config = BackupConfig::from_vector(&stored);
        let before = config.clone();
        if config.update(&given, replace, &disks).is_err() {
            prop_assert_eq!(&config, &before);
        }
        prop_assert!(config.keep() >= 0);
        let shown = config.to_vector();
        prop_assert_eq!(BackupConfig::from_vector(&shown).to_vector(), shown);
    }

    #[test]
    fn a_schedule_that_is_accepted_can_be_shown_and_run_and_never_goes_back_in_time(pairs in schedule()) {
        let Ok(template) = Template::parse(&format!("SCHED_ACTION=[{}]", text(&pairs, ","))) else { return Ok(()) };
        let Some(vector) = template.vector("SCHED_ACTION") else { return Ok(()) };
        for parent in [Parent::Vm, Parent::BackupJob] {
            let reading = Reading { start: NOW, now: NOW, zone: Tz::UTC };
            let Ok(action) = ScheduledAction::parse(vector, ScheduleId(1), parent, 7, reading) else { continue };
            prop_assert_eq!(action.updated(&action.to_vector(), reading), Ok(action.clone()));
            if let Some(info) = action.info_vector() {
                prop_assert_eq!(action.updated(&info, reading), Ok(action.clone()));
            }
            for zone in [Tz::UTC, Tz::Europe__Madrid, Tz::Australia__Lord_Howe] {
                let mut run = action.clone();
                for _ in 0..3 {
                    let now = run.time.max(NOW);
                    let next = run.after_run(now, zone);
                    let _ = (run.after_skip(now, zone), next.after_step_back(now - 90_000, zone));
                    prop_assert!(next.time >= run.time && !next.is_due(now), "{:?} after {:?}", next, run);
                    run = next;
                }
            }
        }
    }

    #[test]
    fn a_path_of_a_backup_is_refused_or_written_as_it_was_meant(
        text in "(restic|rsync|Nfs)?:?//?[0-9]{0,3}/[0-9]{0,2}/?[0-9]{1,2}:[a-f0-9/]{1,6}(,[0-9]:[a-f]{1,4}){0,3}/{0,2}[a-z./]{0,10}"
    ) {
        if let Ok(path) = text.parse::<BackupPath>() {
            prop_assert!(!path.chain.is_empty() && path.path.starts_with('/') && !path.path.contains("/../"));
            prop_assert_eq!(path.to_string().parse::<BackupPath>(), Ok(path));
        }
    }

    #[test]
    fn a_damaged_vm_document_is_read_or_refused_without_a_panic_or_a_secret(place in any::<usize>(), byte in any::<u8>()) {
        let mut view = VmView { id: 7, ..VmView::default() };
        view.template = Template::parse(&format!("CPU=1 CONTEXT=[PASSWORD=\"{SECRET}\"] DISK=[DISK_ID=0]")).unwrap();
        let mut document = doc::vm(&view).into_bytes();
        let place = place % document.len();
        document[place] = byte;
        match doc::read::vm(&String::from_utf8_lossy(&document)) {
            Ok(read) => {
                let view = VmView { template: read.template, user_template: read.user_template, ..VmView::default() };
                prop_assert!(doc::read::vm(&doc::vm(&view)).is_ok());
            }
            Err(error) => prop_assert!(!error.to_string().contains(SECRET), "{}", error),
        }
    }

    #[test]
    fn a_damaged_template_s_error_does_not_repeat_what_it_holds(place in any::<usize>(), byte in 0..128u8, xml in any::<bool>()) {
        let text = if xml {
            format!("<T><A>b</A><CONTEXT><PASSWORD><![CDATA[{SECRET}]]></PASSWORD></CONTEXT><C>d</C></T>")
        } else {
            format!("A=b\nCONTEXT=[PASSWORD=\"{SECRET}\",USER=x] # end\nC=\"d\"\n")
        };
        let mut text = text.into_bytes();
        let place = place % text.len();
        text[place] = byte;
        if let Err(error) = Template::parse(&String::from_utf8_lossy(&text)) {
            prop_assert!(!error.to_string().contains(SECRET), "{}", error);
        }
    }
}
