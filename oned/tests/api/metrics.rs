//! Figures for monitoring, read by a reader of the format's own rules (text format 0.0.4), not by ours.

use std::collections::{BTreeMap, BTreeSet};

use oned::api::{self, metrics::metrics};
use oned::job::JobKind;
use oned::rpc::Door as _;
use oned::store::rows::VmBackupRow;

use crate::world::{NOW, World};

/// Samples by metric: labels and value.
type Samples = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

/// The labels in front of `}`, and what follows it.
fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let (mut labels, mut rest) = (BTreeMap::new(), text);
    loop {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        let (mut read, mut letters) = (String::new(), value.char_indices());
        let end = loop {
            match letters.next().unwrap() {
                (at, '"') => break at + 1,
                (_, '\\') => read.push(match letters.next().unwrap().1 {
                    'n' => '\n',
                    letter @ ('\\' | '"') => letter,
                    other => panic!("\\{other} is no escape"),
                }),
                (_, letter) => read.push(letter),
            }
        };
        assert!(labels.insert(name.to_owned(), read).is_none(), "{name} twice");
        rest = &value[end..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, rest.strip_prefix('}').unwrap()),
        }
    }
}

/// Reads an exposition; panics where it breaks a rule.
fn read(text: &str) -> Samples {
    assert!(text.ends_with('\n'));
    let (mut samples, mut current, mut typed) = (Samples::new(), String::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, sentence) = help.split_once(' ').unwrap();
            assert!(!sentence.is_empty() && !samples.contains_key(name), "{name} is told in two places");
            name.clone_into(&mut current);
            samples.insert(current.clone(), Vec::new());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind, format!("{current} gauge"));
            assert!(typed.insert(current.clone()) && samples[&current].is_empty());
        } else {
            let end = line.find(['{', ' ']).unwrap();
            assert_eq!(&line[..end], current);
            let (labels, value) = line[end..].strip_prefix('{').map_or_else(|| (BTreeMap::new(), &line[end..]), labels);
            let value: f64 = value.strip_prefix(' ').unwrap().parse().unwrap();
            let of_metric = samples.get_mut(&current).unwrap();
            assert!(of_metric.iter().all(|(known, _)| *known != labels), "the same sample twice: {line}");
            of_metric.push((labels, value));
        }
    }
    assert_eq!(typed.len(), samples.len());
    samples
}

fn scraped(world: &World) -> Samples {
    read(&metrics(&world.cloud, &world.admin).unwrap().unwrap())
}

/// The values of a metric by one of its labels.
fn by(samples: &Samples, metric: &str, label: &str) -> BTreeMap<String, f64> {
    samples[metric].iter().map(|(labels, value)| (labels[label].clone(), *value)).collect()
}

fn of(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn figures_of_vms_are_there_for_those_that_are_to_be_backed_up() {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let vm = |more: &str| world.add_running_vm(more);
    let (backed_up, failing, gone, _plain) = (vm(""), vm(""), vm(""), vm(""));
    let scheduled = vm(&format!("SCHED_ACTION=[ACTION=backup,ARGS=\"{datastore}\",TIME=\"+9999999\"]"));
    let _other = vm("SCHED_ACTION=[ACTION=poweroff,TIME=\"+9999999\"]");
    world.write(|tx| {
        tx.vm_backup_put(&VmBackupRow { vm_id: backed_up, last_success: NOW - 100, failures: 0 })?;
        tx.vm_backup_put(&VmBackupRow { vm_id: failing, last_success: 0, failures: 4 })?;
        tx.vm_backup_put(&VmBackupRow { vm_id: gone, last_success: NOW, failures: 0 })
    });
    world.edit_vm(gone, |row| row.state = 6);
    world.clock.advance(50);
    let samples = scraped(&world);
    world.edit_vm(gone, |row| row.state = 3);
    let [one, two, three] = [backed_up, failing, scheduled].map(|vm| vm.to_string());
    let values = |metric: &str| by(&samples, metric, "vm_id");
    let expected = |values: [f64; 3]| of(&[(&one, values[0]), (&two, values[1]), (&three, values[2])]);
    #[expect(clippy::cast_precision_loss, reason = "a time of day is exact in it")]
    let success = (NOW - 100) as f64;
    assert_eq!(values("keeplast_vm_last_backup_success_timestamp_seconds"), expected([success, 0.0, 0.0]));
    assert_eq!(values("keeplast_vm_last_backup_age_seconds"), expected([150.0, 50.0, 50.0]));
    assert_eq!(values("keeplast_vm_backup_failures_since_success"), expected([0.0, 4.0, 0.0]));
}

#[test]
fn names_with_quotes_and_backslashes_come_out_as_they_are() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let name = "a \"quoted\\\" n\\ame {x=\"1\"},\u{fc}";
    world.edit_vm(vm, |row| row.name = format!("{name}\nb"));
    world.write(|tx| tx.vm_backup_put(&VmBackupRow { vm_id: vm, last_success: 1, failures: 0 }));
    let samples = scraped(&world);
    let names = by(&samples, "keeplast_vm_backup_failures_since_success", "name");
    assert_eq!(names, of(&[(&format!("{name}\nb"), 0.0)]));
}

#[test]
fn figures_of_the_cloud_are_there_also_when_nothing_goes_on() {
    let world = World::new();
    let samples = scraped(&world);
    assert_eq!(by(&samples, "keeplast_build_info", "version"), of(&[(env!("CARGO_PKG_VERSION"), 1.0)]));
    assert_eq!(by(&samples, "keeplast_jobs_open", "kind"), of(&[("BACKUP", 0.0)]));
    for metric in ["keeplast_backups_running", "keeplast_schedules_overdue", "keeplast_schedules_refused"] {
        assert_eq!(samples[metric], [(BTreeMap::new(), 0.0)], "{metric}");
    }
    assert!(samples["keeplast_vm_last_backup_age_seconds"].is_empty());

    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    world.edit_datastore(datastore, |row| (row.total_mb, row.free_mb, row.used_mb) = (1000, 400, 300));
    api::backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
    let samples = scraped(&world);
    let of_datastore = |metric: &str| by(&samples, metric, "name")["backups"];
    assert_eq!(of_datastore("keeplast_datastore_total_bytes"), f64::from(1000 << 20));
    assert_eq!(of_datastore("keeplast_datastore_free_bytes"), f64::from(400 << 20));
    assert_eq!(of_datastore("keeplast_datastore_used_bytes"), f64::from(300 << 20));
    let types = by(&samples, "keeplast_datastore_free_bytes", "type");
    assert!(types.contains_key("backup") && types.contains_key("image"), "{types:?}");
    let running = |samples: &Samples| samples["keeplast_backups_running"][0].1.total_cmp(&1.0).is_eq();
    assert_eq!(by(&samples, "keeplast_jobs_open", "kind")[JobKind::Backup.as_str()], 1.0);
    assert!(!running(&samples), "it waits for the engine");
    world.write(|tx| {
        let mut job = tx.jobs_open(oned::store::JobFilter::All)?.remove(0);
        job.attempts = 1;
        tx.job_update(&job)
    });
    assert!(running(&scraped(&world)));
}

#[test]
fn actions_that_should_have_run_are_counted() {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let action = format!("SCHED_ACTION=[ACTION=backup,ARGS=\"{datastore}\",TIME=\"+600\"]");
    let vms = [0, 1, 2].map(|_| world.add_running_vm(&action));
    let counts = || {
        let samples = scraped(&world);
        (samples["keeplast_schedules_overdue"][0].1, samples["keeplast_schedules_refused"][0].1)
    };
    assert_eq!(counts(), (0.0, 0.0));
    world.clock.advance(600);
    assert_eq!(counts(), (0.0, 0.0), "it may wait its turn for a moment");
    world.clock.advance(300);
    assert_eq!(counts(), (3.0, 0.0));
    world.write(|tx| {
        let mut row = tx.schedules_of_vm(vms[0])?.remove(0);
        (row.refusals, row.not_before) = (3, NOW + 9999);
        tx.schedule_update(&row)
    });
    assert_eq!(counts(), (3.0, 1.0));
}

#[test]
fn figures_are_there_unless_they_are_switched_off() {
    assert!(World::new().cloud.has_metrics());
    assert!(!World::configured(|config| config.metrics = false).cloud.has_metrics());
}

#[test]
fn figures_are_for_administrators() {
    let world = World::new();
    for caller in [&world.alice, &world.mallory] {
        assert_eq!(metrics(&world.cloud, caller).unwrap(), None);
    }
}
