//! Runs of backup jobs by the real daemon over the dummy drivers, through the door.

use super::*;

/// Holds every backup in the middle of its copy.
const HELD: &str = "{\"rules\":[{\"operation\":\"store\",\"until_cancelled\":true}]}";

/// The VMs of a run: to do, at work, done, failed.
type Lists = [Vec<i64>; 4];

impl Cloud {
    fn backup_job(&self, vms: &[i64], datastore: i64) -> i64 {
        let list: Vec<String> = vms.iter().map(i64::to_string).collect();
        let text = format!(
            "NAME=\"nightly {}\"\nBACKUP_VMS=\"{}\"\nDATASTORE_ID={datastore}\nMODE=INCREMENT\n",
            list.join(" "),
            list.join(",")
        );
        self.id("one.backupjob.allocate", &[Text(&text)])
    }

    /// A job that has run once, so that its datastore can be told what to do.
    fn job_that_ran(&self, vms: &[i64], datastore: i64) -> i64 {
        let job = self.backup_job(vms, datastore);
        self.call("one.backupjob.backup", &[Int(job)]);
        let mut all = vms.to_vec();
        all.sort_unstable();
        self.lists_are(job, &[vec![], vec![], all, vec![]]);
        job
    }

    fn lists(&self, job: i64) -> Lists {
        let document = self.call("one.backupjob.info", &[Int(job)]);
        ["OUTDATED_VMS", "BACKING_UP_VMS", "UPDATED_VMS", "ERROR_VMS"].map(|list| {
            let list = text(&document, list);
            list.split("<ID>").skip(1).map(|id| id.split('<').next().unwrap().parse().unwrap()).collect()
        })
    }

    #[track_caller]
    fn lists_are(&self, job: i64, lists: &Lists) {
        let until = Instant::now() + WITHIN;
        while self.lists(job) != *lists {
            assert!(Instant::now() < until, "{:?} never became {lists:?}\n{}", self.lists(job), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Increments of a VM's only backup.
    fn increments_of(&self, vm: i64) -> usize {
        let images = self.backups_of(vm);
        assert_eq!(images.len(), 1, "{images:?}");
        self.infos(images[0]).len()
    }
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_a_run_goes_on_with_it() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    let vms: Vec<i64> = ["one", "two", "three"].iter().map(|name| cloud.chained_vm(name)).collect();
    let [a, b, c] = vms[..] else { panic!() };
    let job = cloud.job_that_ran(&[b, a, c], datastore);
    cloud.script(HELD);
    cloud.call("one.backupjob.backup", &[Int(job)]);
    cloud.lists_are(job, &[vec![a, c], vec![b], vec![], vec![]]);
    cloud.is_begun(b);
    cloud.restart(None);
    assert_eq!(cloud.lists(job), [vec![a, c], vec![b], vec![], vec![]]);
    let (done, said) = cloud.ask("one.backupjob.backup", &[Int(job)]).unwrap();
    assert!(!done && said.contains("pending backups in progress"), "{said}");
    cloud.script("{}");
    cloud.lists_are(job, &[vec![], vec![], vec![a, b, c], vec![]]);
    for vm in &vms {
        cloud.running(*vm);
        assert_eq!(cloud.increments_of(*vm), 2);
    }
    // One of them alone is refused.
    let (done, said) = cloud.ask("one.vm.backup", &[Int(a), Int(datastore), Bool(false)]).unwrap();
    assert!(!done && said.contains(&format!("it is part of Backup Job ID {job}")), "{said}");
    assert_eq!(text(&cloud.call("one.backupjob.info", &[Int(job)]), "ERROR"), "");
    cloud.is_tidy();
}

#[test]
fn a_cancelled_backup_that_a_killed_daemon_was_taking_back_has_an_end_that_is_told() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    let vm = cloud.chained_vm("one");
    let job = cloud.job_that_ran(&[vm], datastore);
    // The hypervisor does not obey a cancel, so the daemon dies with the wish in its database.
    cloud.script("{\"rules\":[{\"operation\":\"begin_backup\",\"until_cancelled\":true}]}");
    cloud.call("one.backupjob.backup", &[Int(job)]);
    cloud.lists_are(job, &[vec![], vec![vm], vec![], vec![]]);
    cloud.rests(vm, 3, 69);
    wait("the job to be begun", || {
        (cloud.count("job WHERE kind = 'BACKUP' AND phase = 'planned' AND attempts = 1") == 1).then_some(())
    });
    cloud.call("one.vm.backupcancel", &[Int(vm)]);
    let _ = cloud.child.kill();
    cloud.script("{}");
    cloud.restart(None);
    cloud.lists_are(job, &[vec![], vec![], vec![], vec![vm]]);
    let document = cloud.call("one.backupjob.info", &[Int(job)]);
    assert!(text(&document, "ERROR").ends_with(&format!("[backup] VM {vm}: cancelled on request")), "{document}");
    cloud.running(vm);
    cloud.call("one.backupjob.retry", &[Int(job)]);
    cloud.lists_are(job, &[vec![], vec![], vec![vm], vec![]]);
    cloud.is_tidy();
}

#[test]
fn a_vm_that_is_terminated_in_a_run_is_dropped_from_it_and_from_the_job() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let vms: Vec<i64> = ["one", "two"].iter().map(|name| cloud.chained_vm(name)).collect();
    let job = cloud.job_that_ran(&vms, datastore);
    cloud.script(HELD);
    cloud.call("one.backupjob.backup", &[Int(job)]);
    cloud.is_begun(vms[0]);
    cloud.call("one.vm.action", &[Text("terminate-hard"), Int(vms[1])]);
    cloud.rests(vms[1], 6, 0);
    cloud.lists_are(job, &[vec![], vec![vms[0]], vec![], vec![]]);
    cloud.script("{}");
    cloud.lists_are(job, &[vec![], vec![], vec![vms[0]], vec![]]);
    cloud.call("one.backupjob.delete", &[Int(job)]);
    // Its chain was the job's; by itself it begins another.
    let first = cloud.backups_of(vms[0]);
    let alone = cloud.backup(vms[0], datastore);
    assert!(!first.contains(&alone), "{first:?}, {alone}");
    cloud.is_tidy();
}
