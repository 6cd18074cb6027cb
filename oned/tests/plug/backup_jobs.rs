//! Runs of backup jobs over the dummy drivers, with a clock that stands until it is told to go on: order, limits, failures,
//! what is done to a job in the middle of its run, and a daemon that ends there.

use one_core::lifecycle::VmPhase;
use oned::store::RunList;
use oned::store::rows::BackupJobRow;
use oned::{api, ledger};

use super::world::{Base, Memory, World, wait};

/// Keeps every backup in the middle of its copy.
const HELD: &str = r#"{"rules":[{"operation":"store","until_cancelled":true}]}"#;
/// Lets them go on.
const FREE: &str = "{}";

/// Every copy of a VM's disks in a job fails.
fn fails(job: i64, vm: i64) -> String {
    format!(
        "{{\"rules\":[{{\"operation\":\"store\",\"of\":\"job-{job}/{vm}\",\"fail\":{{\"kind\":\"permanent\",\
         \"reason\":\"the shelf is stuck\"}}}}]}}"
    )
}

impl World {
    /// A backup job of some VMs.
    pub fn backup_job(&self, vms: &[i64], text: &str) -> i64 {
        let list: Vec<String> = vms.iter().map(i64::to_string).collect();
        let name = format!("job of {}", list.join(" and "));
        let head =
            format!("NAME=\"{name}\"\nBACKUP_VMS=\"{}\"\nDATASTORE_ID={}\n", list.join(","), self.memory.datastore);
        api::backup_job::allocate(&self.cloud, &self.owner, &(head + text)).unwrap()
    }

    /// A run that must come to its end.
    pub fn run_of(&mut self, job: i64) {
        self.begin(job);
        self.settle();
    }

    fn begin(&self, job: i64) {
        api::backup_job::backup(&self.cloud, &self.owner, job).unwrap();
    }

    /// The VMs of a run: to do, at work, done, failed.
    pub fn lists(&self, job: i64) -> [Vec<i64>; 4] {
        let entries = self.read(|tx| tx.backup_job_vms(job));
        [RunList::Outdated, RunList::BackingUp, RunList::Updated, RunList::Error]
            .map(|list| api::view::in_list(&entries, list))
    }

    fn job_row(&self, job: i64) -> BackupJobRow {
        self.read(|tx| tx.backup_job_find(job)).unwrap()
    }

    fn job_error(&self, job: i64) -> String {
        ledger::stored(&self.job_row(job).template).scalar("ERROR").unwrap_or_default().to_owned()
    }

    /// Works until the copies of that many backups are under way, held by [`HELD`], and no more are begun.
    fn works_until_held(&self, count: usize) {
        let prepared = |world: &Self| world.jobs().iter().filter(|job| job.phase == "prepared").count() == count;
        wait("backups to be held", || {
            self.round();
            prepared(self).then_some(())
        });
        (0..3).for_each(|_| self.round());
        assert!(prepared(self) && self.jobs().len() == count, "{:?}", self.jobs());
    }

    /// The VMs of the points that were made, in the order of their backups.
    fn order(&self, vms: &[i64]) -> Vec<i64> {
        let mut made: Vec<(i64, i64)> = Vec::new();
        for vm in vms {
            let jobs =
                self.points(*vm).into_iter().map(|point| point.checkpoint.rsplit('-').next().unwrap().to_owned());
            made.extend(jobs.map(|job| (job.parse().unwrap(), *vm)));
        }
        made.sort_unstable();
        made.into_iter().map(|(_, vm)| vm).collect()
    }

    /// Everything holds, and a VM can be backed up by itself when it is in no job any more.
    fn ends_well(mut self, jobs: &[i64], vm: i64) {
        self.is_sound(false);
        for job in jobs {
            api::backup_job::delete(&self.cloud, &self.owner, *job).unwrap();
        }
        self.goes_on(vm);
        self.is_sound(false);
        self.close();
    }
}

/// A new cloud with so many VMs.
fn with_vms(count: usize) -> (Base, World, Vec<i64>) {
    let base = Base::new(|world| {
        for number in 0..count {
            let vm = world.vm(&format!("vm{number}"), 1, "MODE=INCREMENT");
            world.write(vm, 0, 0, 10 + u8::try_from(number).unwrap());
        }
    });
    let memory: Memory = base.restore();
    let vms = memory.disks.keys().copied().collect();
    let world = World::open(&base.state(), memory);
    (base, world, vms)
}

#[test]
fn a_sequential_job_backs_up_one_vm_after_the_other_in_its_order_and_again_by_increments() {
    let (_base, mut world, vms) = with_vms(3);
    let [a, b, c] = vms[..] else { panic!() };
    let job = world.backup_job(&[c, a, b], "MODE=INCREMENT\nKEEP_LAST=2\n");
    for run in 0..3 {
        world.begin(job);
        world.settle_with(|world| assert!(world.lists(job)[1].len() <= 1, "two at a time"));
        assert_eq!(world.lists(job), [vec![], vec![], vec![c, a, b], vec![]]);
        vms.iter().for_each(|vm| world.write(*vm, 0, 2, 50 + run));
    }
    // KEEP_LAST is the job's; the chains were shortened to it.
    assert_eq!(world.order(&vms), [c, a, b, c, a, b]);
    for vm in &vms {
        let points = world.points(*vm);
        assert_eq!(points.iter().map(|point| point.increment_id).collect::<Vec<_>>(), [1, 2]);
        assert!(points.iter().all(|point| point.series == format!("job-{job}/{vm}")), "{points:?}");
        let images = world.ask_restore(points[1].image_id, 1, &format!("again {vm}"));
        world.settle();
        assert!(world.restored(&images, &world.memory.points[&points[0].point].clone()));
    }
    world.ends_well(&[job], a);
}

#[test]
fn a_parallel_job_fills_the_slots_that_there_are_and_takes_the_next_when_one_is_free() {
    let (_base, mut world, vms) = with_vms(4);
    let job = world.backup_job(&vms, "MODE=INCREMENT\nEXECUTION=PARALLEL\n");
    world.script(HELD);
    world.begin(job);
    // MAX_BACKUPS_HOST is 2.
    world.works_until_held(2);
    assert_eq!(world.lists(job), [vms[2..].to_vec(), vms[..2].to_vec(), vec![], vec![]]);
    world.script(FREE);
    world.settle_with(|world| assert!(world.lists(job)[1].len() <= 2, "more than the host may have"));
    assert_eq!(world.lists(job)[2], vms);
    world.ends_well(&[job], vms[0]);
}

#[test]
fn the_job_of_higher_priority_goes_first() {
    let (_base, mut world, vms) = with_vms(4);
    let parallel = "MODE=INCREMENT\nEXECUTION=PARALLEL\n";
    let low = world.backup_job(&vms[..2], &format!("{parallel}PRIORITY=10\n"));
    let high = world.backup_job(&vms[2..], &format!("{parallel}PRIORITY=20\n"));
    world.script(HELD);
    world.begin(low);
    world.begin(high);
    world.works_until_held(2);
    assert_eq!((world.lists(low)[0].clone(), world.lists(high)[1].clone()), (vms[..2].to_vec(), vms[2..].to_vec()));
    world.script(FREE);
    world.settle();
    assert_eq!((world.lists(low)[2].clone(), world.lists(high)[2].clone()), (vms[..2].to_vec(), vms[2..].to_vec()));
    world.ends_well(&[low, high], vms[0]);
}

#[test]
fn a_vm_that_fails_holds_up_nobody_is_tried_again_after_a_while_and_by_hand() {
    let (_base, mut world, vms) = with_vms(2);
    let [a, b] = vms[..] else { panic!() };
    let job = world.backup_job(&vms, "MODE=INCREMENT\n");
    world.script(&fails(job, a));
    world.run_of(job);
    assert_eq!(world.lists(job), [vec![], vec![], vec![b], vec![a]]);
    assert!(world.job_error(job).contains(&format!("[backup] VM {a}: ")), "{}", world.job_error(job));
    assert!(world.job_error(job).contains("the shelf is stuck"), "{}", world.job_error(job));
    assert!(world.job_row(job).last_backup_duration >= 300, "RETRY is 1, after five minutes");
    let entry = world.read(|tx| tx.backup_job_vm(job, a)).unwrap();
    assert_eq!(entry.failures, 2);
    world.script(FREE);
    api::backup_job::retry(&world.cloud, &world.owner, job).unwrap();
    world.settle();
    assert_eq!((world.lists(job), world.job_error(job)), ([vec![], vec![], vec![b, a], vec![]], String::new()));

    // One that fails once only needs nobody.
    world.write(a, 0, 3, 77);
    world.script(r#"{"rules":[{"operation":"store","call":1,"fail":{"kind":"permanent","reason":"once"}}]}"#);
    world.run_of(job);
    assert_eq!((world.lists(job), world.job_error(job)), ([vec![], vec![], vec![b, a], vec![]], String::new()));
    world.ends_well(&[job], a);
}

#[test]
fn a_cancel_in_the_middle_leaves_nothing_and_the_next_run_makes_it_good() {
    let (_base, mut world, vms) = with_vms(3);
    let job = world.backup_job(&vms, "MODE=INCREMENT\nEXECUTION=PARALLEL\n");
    world.script(HELD);
    world.begin(job);
    world.works_until_held(2);
    api::backup_job::cancel(&world.cloud, &world.owner, job).unwrap();
    assert_eq!(world.lists(job), <[Vec<i64>; 4]>::default());
    world.settle();
    assert!(vms.iter().all(|vm| world.points(*vm).is_empty()));
    assert_eq!((world.lists(job), world.job_error(job)), (<[Vec<i64>; 4]>::default(), String::new()));
    world.is_sound(true);
    world.script(FREE);
    world.run_of(job);
    assert_eq!(world.lists(job)[2], vms);
    world.ends_well(&[job], vms[0]);
}

#[test]
fn one_backup_of_a_run_that_is_cancelled_alone_is_an_error_of_the_run() {
    let (_base, mut world, vms) = with_vms(2);
    let job = world.backup_job(&vms, "MODE=INCREMENT\n");
    world.script(HELD);
    world.begin(job);
    world.works_until_held(1);
    api::backup::cancel(&world.cloud, &world.admin, vms[0]).unwrap();
    wait("the second backup", || {
        world.round();
        world.lists(job)[1].contains(&vms[1]).then_some(())
    });
    world.script(FREE);
    world.settle();
    assert_eq!(world.lists(job), [vec![], vec![], vec![vms[1]], vec![vms[0]]]);
    assert!(world.job_error(job).contains("cancelled on request"), "{}", world.job_error(job));
    world.ends_well(&[job], vms[0]);
}

#[test]
fn vms_that_end_in_the_middle_of_a_run_are_dropped_and_the_others_go_on() {
    let (_base, mut world, vms) = with_vms(3);
    let [a, b, c] = vms[..] else { panic!() };
    let job = world.backup_job(&vms, "MODE=INCREMENT\n");
    world.script(HELD);
    world.begin(job);
    world.works_until_held(1);
    api::vm_action::action(&world.cloud, &world.admin, "terminate-hard", b).unwrap();
    // 3 = delete, the only way out of BACKUP.
    api::vm_recover::recover(&world.cloud, &world.admin, a, 3).unwrap();
    for gone in [a, b] {
        world.memory.disks.remove(&gone);
    }
    wait("the last backup", || {
        world.round();
        world.lists(job)[1].contains(&c).then_some(())
    });
    world.script(FREE);
    world.settle();
    assert_eq!(world.lists(job), [vec![], vec![], vec![c], vec![]]);
    for gone in [a, b] {
        let row = world.vm_row(gone);
        assert_eq!((ledger::phase(&row), ledger::config_of(&row).backup_job_id), (VmPhase::DONE, None));
    }
    world.ends_well(&[job], c);
}

#[test]
fn a_job_that_is_deleted_in_the_middle_leaves_a_backup_that_is_whole_and_starts_nothing_more() {
    let (_base, mut world, vms) = with_vms(2);
    let [a, b] = vms[..] else { panic!() };
    let job = world.backup_job(&vms, "MODE=INCREMENT\n");
    world.script(HELD);
    world.begin(job);
    world.works_until_held(1);
    api::backup_job::delete(&world.cloud, &world.owner, job).unwrap();
    world.script(FREE);
    world.settle();
    assert_eq!((world.points(a).len(), world.points(b).len()), (1, 0));
    // It is kept, but the VM begins a chain of its own.
    let config = ledger::config_of(&world.vm_row(a));
    assert_eq!((config.backup_job_id, config.chain()), (None, None));
    let next = world.backup(a, false);
    assert_eq!((next.increment_id, next.series), (0, a.to_string()));
    world.ends_well(&[], b);
}

#[test]
fn a_run_goes_on_where_it_was_when_the_daemon_ended() {
    let (base, world, vms) = with_vms(3);
    let job = world.backup_job(&vms, "MODE=INCREMENT\n");
    world.script(HELD);
    world.begin(job);
    world.works_until_held(1);
    let before = world.lists(job);
    let memory = world.close();
    let mut world = World::open(&base.state(), memory);
    assert_eq!(world.lists(job), before);
    world.script(FREE);
    world.settle_with(|world| assert!(world.lists(job)[1].len() <= 1, "two at a time"));
    assert_eq!(world.lists(job), [vec![], vec![], vms.clone(), vec![]]);
    assert_eq!(world.order(&vms), vms);
    world.ends_well(&[job], vms[0]);
}

#[test]
fn a_jobs_schedule_runs_it_and_waits_while_a_run_is_not_over() {
    let (_base, mut world, vms) = with_vms(2);
    let start = world.pass(0) + 600;
    let daily = format!("SCHED_ACTION=[TIME=\"{start}\",REPEAT=3,DAYS=\"1\"]\n");
    let job = world.backup_job(&vms, &format!("MODE=INCREMENT\n{daily}"));
    world.settle();
    assert_eq!(world.lists(job), <[Vec<i64>; 4]>::default(), "before its time");
    world.pass(600);
    world.script(HELD);
    world.works_until_held(1);
    let schedule = world.read(|tx| tx.schedules_of_backup_job(job)).remove(0);
    let action = ledger::read_schedule(&schedule).unwrap();
    assert_eq!((action.done, action.time), (Some(start), start + 3600));
    // The next one comes while this one still runs.
    world.pass(3600);
    (0..3).for_each(|_| world.round());
    let action = ledger::read_schedule(&world.read(|tx| tx.schedules_of_backup_job(job)).remove(0)).unwrap();
    assert_eq!(action.done, Some(start));
    assert!(action.message.contains("pending backups in progress"), "{}", action.message);
    world.script(FREE);
    world.settle();
    assert_eq!(world.lists(job)[2], vms);
    // It is made up for, late.
    world.pass(3600);
    world.settle();
    assert_eq!(world.lists(job)[2], vms);
    for vm in &vms {
        let points = world.points(*vm);
        assert_eq!(points.len(), 2);
        assert!(points.iter().all(|point| point.schedule_id == Some(schedule.id)), "{points:?}");
    }
    world.ends_well(&[job], vms[0]);
}
