//! The commands against a daemon of dummy drivers: what an administrator types for backup jobs and schedules.

use system_tests::command::{ORDINARY, wait_for};
use system_tests::daemon::{Daemon, Options};
use system_tests::invariants;

const CONF: &str = "DUMMY_DRIVERS = \"YES\"\n";

/// Three small VMs that run, called web-0 to web-2, and a backup datastore called backups.
fn cloud() -> Daemon {
    let one = Daemon::start(Options { conf: CONF.into(), ..Options::default() }).unwrap();
    one.ok("onehost", &["create", "pretended", "--im", "dummy", "--vm", "dummy"]).unwrap();
    let backups = "NAME = \"backups\"\nTYPE = \"BACKUP_DS\"\nDS_MAD = \"dummy\"\nTM_MAD = \"-\"\n";
    one.create("onedatastore", backups, &[]).unwrap();
    let vm = "CPU = \"0.1\"\nMEMORY = \"16\"\nDISK = [ TYPE = \"fs\", FORMAT = \"qcow2\", SIZE = \"8\" ]\n\
              BACKUP_CONFIG = [ MODE = \"INCREMENT\", BACKUP_VOLATILE = \"YES\" ]\n";
    for number in 0..3 {
        let name = format!("web-{number}");
        one.create("onevm", vm, &["--name", &name, "--wait"]).unwrap();
    }
    one
}

#[test]
fn an_administrator_leads_a_backup_job_through_its_life() {
    let one = cloud();
    let job = |arguments: &[&str]| one.ok("onebackupjob", arguments).unwrap();
    let made = job(&[
        "create",
        "--name",
        "nightly",
        "--vms",
        "web-2,0..1",
        "-d",
        "backups",
        "--keep",
        "2",
        "--mode",
        "increment",
        "--backup-volatile",
        "--schedule",
        "2100-01-04 02:30",
        "--weekly",
        "1,3",
        "--timezone",
        "Europe/Berlin",
    ]);
    assert_eq!(made, "ID: 0\nBACKUPJOB 0: backup scheduled at 2100-01-04 02:30:00 +0100\n");
    let refused = one.run("onebackupjob", &["create", "--name", "second", "--vms", "web-1", "-d", "backups"]).unwrap();
    assert!(!refused.success() && refused.stderr.contains("already in Backup Job 0"), "{refused:?}");
    for run in 0..2 {
        let told = job(&["backup", "nightly", "--wait"]);
        assert!(told.starts_with("Backup job 0: 3 VMs backed up in "), "run {run}: {told}");
    }
    let page = job(&["show", "nightly"]);
    for line in [
        "UPDATED        : 0,1,2",
        "ERROR          :",
        "    0 backup     - 01/04 01:30 Weekly 1,3  None",
        "BACKUP_VMS=\"2,0,1\"",
        "KEEP_LAST=\"2\"",
    ] {
        assert!(page.lines().any(|shown| shown.starts_with(line)), "{line}\n{page}");
    }
    // Two runs are two restore points in one image each.
    let chains = one.ok("oneimage", &["list", "--backup", "--csv", "-l", "VM,TYPE", "--no-header"]).unwrap();
    assert_eq!(
        chains.lines().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(),
        ["0,BK", "1,BK", "2,BK"]
    );
    job(&["sched-update", "0", "0", "--cron", "30 2 1 * *", "--window-end", "06:00"]);
    job(&["priority", "0", "40"]);
    one.run_with_input("onebackupjob", &["update", "0", "--append"], "EXECUTION = \"PARALLEL\"\n")
        .unwrap()
        .checked("update")
        .unwrap();
    assert!(job(&["show", "0"]).contains("EXECUTION=\"PARALLEL\""));
    job(&["chmod", "0", "640"]);
    job(&["lock", "0", "--admin"]);
    job(&["unlock", "0"]);
    job(&["rename", "0", "monthly"]);
    assert_eq!(job(&["list", "--csv", "-l", "NAME,PRIO,VMS", "--no-header"]), "monthly,40,\"2,0,1\"\n");
    job(&["sched-delete", "monthly", "0"]);
    job(&["retry", "monthly"]);
    job(&["cancel", "monthly"]);
    job(&["delete", "monthly"]);
    assert_eq!(job(&["list", "--no-header"]), "");
    // What follows a backup may still be at work.
    wait_for("the jobs to end", ORDINARY, || Ok(invariants::no_job_is_open(&one).ok())).unwrap();
    invariants::no_process_is_left(&one).unwrap();
}

#[test]
fn an_administrator_gives_actions_a_time_and_sees_what_came_of_them() {
    let one = cloud();
    let vm = |arguments: &[&str]| one.ok("onevm", arguments).unwrap();
    let told = vm(&["backup", "0", "-d", "backups", "--schedule", "now", "--wait"]);
    assert!(told.contains("Backup "), "{told}");
    let told =
        vm(&["backup", "0", "-d", "backups", "--cron", "30 2 * * mon-fri", "--timezone", "UTC", "--keep-last", "7"]);
    assert_eq!(told, "VM 0: backup scheduled by cron expression 30 2 * * mon-fri\n");
    vm(&["poweroff", "0..2", "--schedule", "2100-01-01 20:00", "--end", "3", "--yearly", "0"]);
    vm(&["snapshot-create", "1", "before", "--schedule", "2100-01-01"]);
    let page = vm(&["show", "web-0"]);
    for part in ["Done on ", "Cron 30 2 * * mon-fri", "UTC, keep 7", "Yearly 0", "After 3 times"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("SCHED_INFO"), "{page}");
    let refused = one.run("onevm", &["poweroff", "0", "--cron", "0 20 30 2 *"]).unwrap();
    assert!(!refused.success() && refused.stderr.contains("never"), "{refused:?}");
    for word in ["suspend", "resume", "stop", "resume", "undeploy"] {
        vm(&[word, "2", "--wait"]);
    }
}

#[test]
fn the_doctor_finds_a_repository_that_the_password_does_not_open_or_that_is_gone_and_never_tells_the_password() {
    const RIGHT: &str = "the-right-words";
    const WRONG: &str = "words-that-open-nothing";
    let one = cloud();
    let restic = format!(
        "NAME = \"vault\"\nTYPE = \"BACKUP_DS\"\nDS_MAD = \"restic\"\nTM_MAD = \"-\"\nRESTIC_PASSWORD = \"{RIGHT}\"\n"
    );
    let vault = one.create("onedatastore", &restic, &[]).unwrap();
    one.ok("onevm", &["backup", "web-0", "-d", "vault", "--wait"]).unwrap();
    let doctor = || {
        let told = one.run("keeplast", &["doctor"]).unwrap();
        let all = format!("{}{}", told.stdout, told.stderr);
        assert!(!all.contains(RIGHT) && !all.contains(WRONG), "{all}");
        let line = all.lines().find(|line| line.contains("repository, datastore") && line.contains("(vault)"));
        (told.success(), line.map(str::to_owned).unwrap_or_default(), all)
    };
    let (_, line, all) = doctor();
    assert!(line.starts_with("ok "), "{all}");

    let set = |password: &str| {
        let text = format!("RESTIC_PASSWORD = \"{password}\"\n");
        one.run_with_input("onedatastore", &["update", "vault", "-", "--append"], &text)
            .unwrap()
            .checked("update")
            .unwrap()
    };
    set(WRONG);
    let (is_well, line, all) = doctor();
    assert!(!is_well && line.starts_with("FAIL "), "{all}");
    assert!(line.contains("opens none of its keys; correct the password of the datastore"), "{all}");

    set(RIGHT);
    let base = one.show("onedatastore", vault).unwrap().text("BASE_PATH").to_owned();
    let repository =
        std::fs::read_dir(&base).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let away = repository.with_extension("away");
    std::fs::rename(&repository, &away).unwrap();
    let (is_well, line, all) = doctor();
    assert!(!is_well && line.starts_with("FAIL "), "{all}");
    std::fs::rename(&away, &repository).unwrap();
    let (_, line, all) = doctor();
    assert!(line.starts_with("ok"), "{all}");
}
