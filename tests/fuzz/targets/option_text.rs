//! Texts of options: restore, BACKUP_CONFIG, scheduled actions with their arithmetic, PATH of a restored image.
#![no_main]

use chrono_tz::Tz;
use libfuzzer_sys::fuzz_target;
use one_core::backup::{BackupConfig, BackupPath, Disks, RestoreOptions};
use one_core::id::ScheduleId;
use one_core::schedule::{Parent, Reading, ScheduledAction};
use one_core::template::Template;

const NOW: i64 = 1_700_000_000;
const READING: Reading = Reading { start: NOW, now: NOW, zone: Tz::UTC };
const ZONES: [Tz; 3] = [Tz::UTC, Tz::Europe__Madrid, Tz::Australia__Lord_Howe];

fuzz_target!(|text: &str| {
    if let Ok(path) = text.parse::<BackupPath>() {
        assert_eq!(path.to_string().parse::<BackupPath>(), Ok(path));
    }
    let Ok(template) = Template::parse(text) else { return };
    if let Ok(options) = RestoreOptions::parse(&template) {
        assert!(options.increment_id.is_none_or(|id| id >= 0) && options.disk_id.is_none_or(|id| id >= 0));
    }
    backup_config(&template);
    for vector in template.vectors("SCHED_ACTION") {
        for parent in [Parent::Vm, Parent::BackupJob] {
            if let Ok(action) = ScheduledAction::parse(vector, ScheduleId(1), parent, 7, READING) {
                scheduled(&action);
            }
        }
    }
});

fn backup_config(template: &Template) {
    let disks = Disks::from_template(template, &[]);
    let given = template.vector("BACKUP_CONFIG");
    let _ = BackupConfig::for_new_vm(given, &disks);
    let Some(given) = given else { return };
    let mut config = BackupConfig::from_vector(given);
    let shown = config.to_vector();
    assert_eq!(BackupConfig::from_vector(&shown).to_vector(), shown);
    for replace in [false, true] {
        let before = config.clone();
        if config.update(given, replace, &disks).is_err() {
            assert_eq!(config, before, "a refusal changes nothing");
        }
        assert!(config.keep() >= 0);
        let _ = disks.chosen(&config);
    }
}

fn scheduled(action: &ScheduledAction) {
    let vector = action.to_vector();
    let again = action.updated(&vector, READING).expect("what was shown is accepted again");
    assert_eq!(again.time, action.time);
    if let Some(info) = action.info_vector() {
        assert_eq!(action.updated(&info, READING).as_ref(), Ok(action));
    }
    let _ = action.backup_args();
    for zone in ZONES {
        let mut run = action.clone();
        for _ in 0..3 {
            let now = run.time.max(NOW);
            let next = run.after_run(now, zone);
            assert!(next.time >= run.time, "time goes forward");
            assert!(!next.is_due(now), "what has run is not due again");
            let _ = (run.after_skip(now, zone), next.after_step_back(NOW, zone));
            run = next;
        }
        let _ = action.starting_after(NOW, zone);
        let _ = action.after_failure(NOW, zone, "reason");
    }
}
