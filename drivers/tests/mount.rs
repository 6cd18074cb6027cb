//! Mounts for real: sshfs over a private sshd, ext4 in a file, NFS in a kernel in user mode. Fakes only where a fault has to
//! be made.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use drivers::mount::{FSTAB, MountSpec, MountState, probe_writable};
use drivers::{Cancel, Kind, Secret};
use system_tests::command::{self, LONG, ORDINARY};
use system_tests::nfs::NfsRig;
use system_tests::share::{MountDir, SshShare, ext4_image, mounts_below};

/// What no test on a busy machine needs, and no wait of mount(8) itself is shorter than.
const IN_TIME: Duration = Duration::from_secs(60);

fn spec(kind: &str, address: impl Into<String>, dir: &Path) -> MountSpec {
    MountSpec {
        kind: kind.into(),
        address: address.into(),
        options: Vec::new(),
        secrets: Vec::new(),
        point: dir.join("stores/point"),
        attempts: 1,
        timeout: Duration::from_secs(30),
        privileged: Vec::new(),
        run_dir: dir.join("run"),
    }
}

fn over_ssh(share: &SshShare) -> MountSpec {
    MountSpec { options: share.options.clone(), ..spec("fuse.sshfs", share.address.as_str(), share.dir()) }
}

/// An image of its own in `dir`, and how it is mounted.
fn in_file(dir: &Path, name: &str) -> MountSpec {
    let image = dir.join(name);
    ext4_image(&image).unwrap();
    MountSpec { options: vec!["loop".into()], ..spec("ext4", image.to_string_lossy(), dir) }
}

fn ensure(spec: &MountSpec) -> drivers::Result<()> {
    spec.ensure(&Cancel::default())
}

/// A program to stand before `mount`, with `script` in it. Its arguments begin with `mount` or `umount`.
fn fake(dir: &Path, script: &str) -> Vec<String> {
    let path = dir.join("fake");
    fs::write(&path, script).unwrap();
    vec!["sh".into(), path.to_string_lossy().into_owned()]
}

fn processes_with(word: &str) -> Vec<(i32, Vec<u8>)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let lines = ids.filter_map(|pid| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?)));
    lines.filter(|(_, line)| String::from_utf8_lossy(line).contains(word)).collect()
}

#[test]
fn a_share_is_mounted_once_however_often_and_by_how_many_it_is_asked_for() {
    let share = SshShare::start().unwrap();
    let spec = over_ssh(&share);
    assert_eq!(spec.state().unwrap(), MountState::Absent);
    std::thread::scope(|scope| {
        for thread in (0..3).map(|_| scope.spawn(|| ensure(&spec))).collect::<Vec<_>>() {
            thread.join().unwrap().unwrap();
        }
    });
    ensure(&spec).unwrap();
    assert_eq!(spec.state().unwrap(), MountState::Ours);
    assert_eq!(mounts_below(share.dir()).unwrap(), [spec.point.as_path()]);
    probe_writable(&spec.point).unwrap();
    fs::write(spec.point.join("file"), "words").unwrap();
    assert_eq!(fs::read_to_string(share.served().join("file")).unwrap(), "words");

    // The file system's process dies: its mount stays in the table and answers nobody.
    let sshfs = processes_with(&share.address);
    let serving = |line: &[u8]| line.split(|byte| *byte == 0).next().is_some_and(|name| name.ends_with(b"sshfs"));
    for (pid, _) in sshfs.iter().filter(|(_, line)| serving(line)) {
        let pid = rustix::process::Pid::from_raw(*pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    command::wait_for("the end of sshfs", ORDINARY, || Ok(fs::metadata(&spec.point).is_err().then_some(()))).unwrap();
    ensure(&spec).unwrap();
    assert_eq!(fs::read_to_string(spec.point.join("file")).unwrap(), "words");

    spec.unmount(false).unwrap();
    assert_eq!(spec.state().unwrap(), MountState::Absent);
    spec.unmount(false).unwrap();
    let mode = fs::metadata(&spec.point).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o500, "nobody fills the bare directory by mistake");
}

#[test]
fn a_file_system_in_a_file_is_known_again_and_another_one_there_is_refused() {
    let dir = MountDir::new().unwrap();
    let (one, two) = (in_file(dir.path(), "one"), in_file(dir.path(), "two"));
    ensure(&one).unwrap();
    // Also by somebody who has no notes of it.
    fs::remove_dir_all(&one.run_dir).unwrap();
    assert_eq!(one.state().unwrap(), MountState::Ours);

    let MountState::Foreign { what } = two.state().unwrap() else { panic!() };
    assert_eq!(what, format!("{} (ext4)", one.address));
    for error in [ensure(&two).unwrap_err(), two.unmount(true).unwrap_err()] {
        assert_eq!(error.kind, Kind::Permanent);
        assert!(error.to_string().contains(&format!("something else is mounted there: {what}")), "{error}");
    }
    assert_eq!(one.state().unwrap(), MountState::Ours);
    one.unmount(false).unwrap();

    let read_only = MountSpec { options: vec!["loop".into(), "ro".into()], ..two };
    ensure(&read_only).unwrap();
    let error = probe_writable(&read_only.point).unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    // In use: refused, unless it is forced.
    let user = fs::File::open(&read_only.point).unwrap();
    let error = read_only.unmount(false).unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains("busy"), "{error}");
    read_only.unmount(true).unwrap();
    drop(user);
}

#[test]
fn nothing_is_hidden_under_a_mount() {
    let dir = MountDir::new().unwrap();
    let spec = in_file(dir.path(), "image");
    fs::create_dir_all(&spec.point).unwrap();
    fs::write(spec.point.join("written-before"), "").unwrap();
    let error = ensure(&spec).unwrap_err();
    assert!(error.kind == Kind::Permanent && error.to_string().contains("'written-before'"), "{error}");
}

#[test]
fn an_entry_of_fstab_is_mounted_by_its_point() {
    let dir = MountDir::new().unwrap();
    let image = in_file(dir.path(), "image").address;
    let spec = spec(FSTAB, image.as_str(), dir.path());
    let table = dir.path().join("fstab");
    fs::write(&table, format!("{image} {} ext4 loop,noauto 0 0\n", spec.point.display())).unwrap();
    let spec = MountSpec { privileged: vec!["env".into(), format!("LIBMOUNT_FSTAB={}", table.display())], ..spec };
    ensure(&spec).unwrap();
    ensure(&spec).unwrap();
    assert_eq!(spec.state().unwrap(), MountState::Ours);
    spec.unmount(false).unwrap();
}

#[test]
fn wrong_names_are_errors_in_time_with_mounts_own_words() {
    let share = SshShare::start().unwrap();
    let right = over_ssh(&share);
    let path = MountSpec { address: format!("{}/missing", share.address), ..right.clone() };
    let error = ensure(&path).unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains("No such file or directory"), "{error}");
    let mut port = right;
    port.options[0] = "port=1".into();
    assert!(ensure(&port).unwrap_err().to_string().contains("reset by peer"));
    assert!(mounts_below(share.dir()).unwrap().is_empty());
}

#[test]
fn a_dead_server_is_an_error_in_time_and_force_gets_rid_of_it() {
    let share = SshShare::start().unwrap();
    let spec = MountSpec { timeout: Duration::from_secs(2), ..over_ssh(&share) };
    share.server.pause().unwrap();
    let started = Instant::now();
    let error = ensure(&spec).unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains("did not answer within 2 s"), "{error}");
    assert_eq!(spec.state().unwrap(), MountState::Absent);

    share.server.resume().unwrap();
    ensure(&MountSpec { timeout: Duration::from_secs(30), ..spec.clone() }).unwrap();
    share.server.pause().unwrap();
    for error in [ensure(&spec).unwrap_err(), ensure(&spec).unwrap_err()] {
        assert!(error.kind == Kind::Retry && error.to_string().contains("does not answer"), "{error}");
    }
    assert_eq!(spec.state().unwrap(), MountState::Ours);
    spec.unmount(true).unwrap();
    assert_eq!(spec.state().unwrap(), MountState::Absent);
    assert!(started.elapsed() < IN_TIME);
}

#[test]
fn a_secret_is_in_a_private_file_while_mount_runs_and_nowhere_else() {
    let dir = MountDir::new().unwrap();
    // Shows what it was given, and waits to be looked at.
    let script = "shift 4; file=${1##*credentials=}; file=${file%%,*}; cat $file; stat -c %a $file; touch \"$0.here\"\n\
                  while [ ! -e \"$0.go\" ]; do sleep 0.01; done; exit 32";
    let spec = MountSpec {
        options: vec!["username=one".into()],
        secrets: vec![("password".into(), Secret::new("very-private".into()))],
        privileged: fake(dir.path(), script),
        ..spec("cifs", "//server/share", dir.path())
    };
    let at = |name: &str| dir.path().join(name);
    let error = std::thread::scope(|scope| {
        let mounting = scope.spawn(|| ensure(&spec).unwrap_err());
        command::wait_for("mount", ORDINARY, || Ok(at("fake.here").exists().then_some(()))).unwrap();
        let found = processes_with("//server/share");
        assert!(!found.is_empty());
        for (pid, line) in found {
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains("very-private"), "{line}");
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&environment).contains("very-private"));
        }
        fs::write(at("fake.go"), "").unwrap();
        mounting.join().unwrap()
    });
    assert!(error.to_string().contains("password=***; 600"), "{error}");
    assert!(!format!("{error} {error:?} {spec:?}").contains("very-private"));
    let left: Vec<PathBuf> = fs::read_dir(&spec.run_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|ending| ending == "lock")), "{left:?}");
    assert_eq!(fs::metadata(&spec.run_dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn each_attempt_tries_each_version_unless_one_is_given() {
    let dir = MountDir::new().unwrap();
    let calls = dir.path().join("calls");
    let script = format!("echo \"$*\" >> {}; echo no luck; exit 32", calls.display());
    let spec =
        MountSpec { attempts: 2, privileged: fake(dir.path(), &script), ..spec("nfs", "nas:/share", dir.path()) };
    let error = ensure(&spec).unwrap_err();
    assert!(error.to_string().ends_with("vers=4.2: no luck; vers=4.1: no luck; no luck"), "{error}");
    let point = spec.point.display().to_string();
    let call = |options: &str| format!("mount -t nfs -o {options}retry=0,nosuid,nodev nas:/share {point}");
    let round = [call("vers=4.2,"), call("vers=4.1,"), call("")];
    let made = fs::read_to_string(&calls).unwrap();
    assert_eq!(made.lines().collect::<Vec<_>>(), [&round[..], &round[..]].concat());

    fs::remove_file(&calls).unwrap();
    let given = MountSpec { options: vec!["v4.1".into()], attempts: 1, ..spec };
    ensure(&given).unwrap_err();
    assert_eq!(fs::read_to_string(&calls).unwrap().trim(), call("v4.1,"));

    fs::remove_file(&calls).unwrap();
    ensure(&MountSpec { kind: FSTAB.into(), options: Vec::new(), ..given }).unwrap_err();
    assert_eq!(fs::read_to_string(&calls).unwrap().trim(), format!("mount {point}"));
}

#[test]
fn mounts_word_counts_less_than_the_table() {
    let dir = MountDir::new().unwrap();
    let real = in_file(dir.path(), "image");
    // Mounted by somebody else in between, and mount complains: fine.
    let busy = fake(dir.path(), "\"$@\"; echo 'already mounted or mount point busy'; exit 32");
    let spec = MountSpec { privileged: busy, ..real.clone() };
    ensure(&spec).unwrap();
    // umount warns, and it is gone: fine as well.
    spec.unmount(false).unwrap();
    assert_eq!(spec.state().unwrap(), MountState::Absent);
    // Success, and nothing is there.
    let liar = MountSpec { privileged: fake(dir.path(), "exit 0"), ..real };
    let error = ensure(&liar).unwrap_err();
    assert!(error.to_string().contains("nothing is mounted"), "{error}");
}

#[test]
fn a_cancel_and_a_missing_program_end_it_at_once() {
    let dir = MountDir::new().unwrap();
    let slow = spec("nfs", "nas:/share", dir.path());
    let slow = MountSpec { privileged: fake(dir.path(), "touch \"$0.here\"; sleep 600"), timeout: LONG, ..slow };
    let cancel = Cancel::default();
    let error = std::thread::scope(|scope| {
        let mounting = scope.spawn(|| slow.ensure(&cancel).unwrap_err());
        let here = dir.path().join("fake.here");
        command::wait_for("mount", ORDINARY, || Ok(here.exists().then_some(()))).unwrap();
        cancel.cancel();
        mounting.join().unwrap()
    });
    assert_eq!(error.kind, Kind::Cancelled);
    let missing = MountSpec { privileged: vec!["keeplast-no-such-sudo".into()], attempts: 10, ..slow };
    let error = ensure(&missing).unwrap_err();
    assert!(error.kind == Kind::Permanent && error.to_string().contains("keeplast-no-such-sudo"), "{error}");
}

#[test]
fn what_mount_would_misread_never_reaches_it() {
    let dir = MountDir::new().unwrap();
    let ran = dir.path().join("ran");
    let good = spec("nfs", "nas:/share", dir.path());
    let good = MountSpec { privileged: fake(dir.path(), &format!("touch {}", ran.display())), ..good };
    let option = |option: &str| MountSpec { options: vec![option.into()], ..good.clone() };
    let secret = |name: &str, text: &str| vec![(name.to_owned(), Secret::new(text.into()))];
    for bad in [
        MountSpec { kind: "nfs -o x".into(), ..good.clone() },
        MountSpec { kind: "-a".into(), ..good.clone() },
        MountSpec { address: "--bind".into(), ..good.clone() },
        MountSpec { address: String::new(), ..good.clone() },
        MountSpec { address: "nas:/a\nb".into(), ..good.clone() },
        MountSpec { point: "relative".into(), ..good.clone() },
        MountSpec { point: "/".into(), ..good.clone() },
        option(""),
        option("ro,remount"),
        option("-v"),
        option("remount"),
        option("a b"),
        MountSpec { secrets: secret("password", "geheim"), ..good.clone() },
        MountSpec { kind: "cifs".into(), secrets: secret("password", "geheim\nx"), ..good.clone() },
        MountSpec { kind: "cifs".into(), secrets: secret("password", "geheim"), ..option("credentials=/x") },
    ] {
        let error = ensure(&bad).unwrap_err();
        assert!(error.kind == Kind::Permanent && !error.to_string().contains("geheim"), "{error}");
    }
    assert!(!ran.exists());
}

#[test]
fn nfs_is_mounted_for_real_and_a_dead_server_is_an_error_in_time() {
    let rig = NfsRig::start().unwrap();
    let this = std::env::current_exe().unwrap();
    let program = this.to_string_lossy();
    let arguments = [program.as_ref(), "--ignored", "--exact", "inside_the_nfs_client", "--test-threads=1"];
    let dir = rig.dir().to_string_lossy().into_owned();
    let (share, read_only) = (rig.address(), rig.address_read_only());
    let env = [("RIG_DIR", dir.as_str()), ("RIG_SHARE", share.as_str()), ("RIG_READ_ONLY", read_only.as_str())];
    let out = std::thread::scope(|scope| {
        let running = scope.spawn(|| rig.run(&arguments, &env, LONG));
        while !running.is_finished() && !rig.dir().join("kill-it").exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        rig.server.pause().unwrap();
        fs::write(rig.dir().join("killed"), "").unwrap();
        running.join().unwrap().unwrap()
    });
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    assert!(out.stdout.contains("1 passed"), "{}", out.stdout);
    assert_eq!(fs::read_to_string(rig.served().join("file")).unwrap(), "words");
}

#[test]
#[ignore = "runs in the client that nfs_is_mounted_for_real_and_a_dead_server_is_an_error_in_time boots"]
fn inside_the_nfs_client() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let dir = PathBuf::from(variable("RIG_DIR"));
    let spec = MountSpec { point: "/mnt/share".into(), ..spec("nfs", variable("RIG_SHARE"), &dir) };
    ensure(&spec).unwrap();
    ensure(&spec).unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(" /mnt/share ")).unwrap();
    assert!(line.contains(" - nfs4 ") && line.contains("vers=4.2") && line.contains("hard"), "{line}");
    assert!(line.contains("nosuid,nodev"), "{line}");
    probe_writable(&spec.point).unwrap();
    fs::write(spec.point.join("file"), "words").unwrap();
    spec.unmount(false).unwrap();

    let given = MountSpec { options: vec!["nfsvers=4.1".into()], ..spec.clone() };
    ensure(&given).unwrap();
    assert!(fs::read_to_string("/proc/self/mountinfo").unwrap().contains("vers=4.1"));
    given.unmount(false).unwrap();

    let read_only = MountSpec { address: variable("RIG_READ_ONLY"), point: "/mnt/ro".into(), ..spec.clone() };
    ensure(&read_only).unwrap();
    let error = probe_writable(&read_only.point).unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    read_only.unmount(false).unwrap();

    let wrong = MountSpec { address: spec.address.replace("/share", "/wrong"), ..spec.clone() };
    let error = ensure(&wrong).unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains("vers=4.2: "), "{error}");

    ensure(&spec).unwrap();
    fs::write(dir.join("kill-it"), "").unwrap();
    command::wait_for("the server to be stopped", LONG, || Ok(dir.join("killed").exists().then_some(()))).unwrap();
    let dead = MountSpec { timeout: Duration::from_secs(2), ..spec };
    let error = ensure(&dead).unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains("does not answer"), "{error}");
    dead.unmount(true).unwrap();
    assert_eq!(dead.state().unwrap(), MountState::Absent);
    // One that was never mounted.
    let error = ensure(&dead).unwrap_err();
    assert!(error.kind == Kind::Retry, "{error}");
    let mut halt = Command::new("umount");
    command::run(halt.args(["-a", "-l", "-t", "nfs4"]), ORDINARY).ok();
}
