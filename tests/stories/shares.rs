//! Backup datastores on a share that is mounted for them: what users do with it, and what a server that stops answering, or
//! dies, does to them. The share is served by a real sshd and mounted by a real sshfs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use system_tests::cloud::Cloud;
use system_tests::command::wait_for;
use system_tests::daemon::Options;
use system_tests::invariants;
use system_tests::restic::image_digest;
use system_tests::share::{Server, SshShare, mounts_below};

use crate::faults_data::{files_below, write_noise};

const MIB: u64 = 1 << 20;

/// A cloud whose state lies in the rig's directory, so that no mount outlives the rig; its datastore is the share.
fn cloud_on(share: &SshShare, more: &str) -> Cloud {
    cloud_with(share, more, "")
}

/// As [`cloud_on`], with more lines of oned.conf.
fn cloud_with(share: &SshShare, more: &str, conf: &str) -> Cloud {
    let conf = format!("LOG = [ DEBUG_LEVEL = 2 ]\nMONITORING_INTERVAL_DATASTORE = 2\n{conf}");
    let options = Options { state: Some(share.dir().join("one")), conf, ..Options::default() };
    let mut cloud = Cloud::start(options).unwrap();
    let template = format!(
        "NAME = \"shared\"\nTYPE = \"BACKUP_DS\"\nDS_MAD = \"nfs\"\nSHARE = \"{}\"\nSHARE_TYPE = \"fuse.sshfs\"\n\
         MOUNT_OPTIONS = \"{}\"\nMOUNT_ATTEMPTS = \"1\"\nTIMEOUT = \"5\"\n{more}",
        share.address,
        share.options.join(","),
    );
    cloud.datastore = cloud.one.create("onedatastore", &template, &[]).unwrap();
    cloud
}

fn mount_point(cloud: &Cloud) -> PathBuf {
    cloud.one.state().join(format!("datastores/{}", cloud.datastore))
}

/// Restores the newest point of a backup image and compares it with what the guest of `vm` has. The VM is off afterwards.
fn restore_equals_the_disk(cloud: &Cloud, vm: i64, image: i64) {
    let (_, images) = cloud.restore(image, &["--name", &format!("compared-{vm}-{image}")]).unwrap();
    let restored = cloud.one.show("oneimage", images[0]).unwrap();
    if cloud.one.vm(vm).unwrap().text("STATE") != "8" {
        cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    }
    let disk = cloud.one.state().join(format!("datastores/0/{vm}/disk.0"));
    assert_eq!(image_digest(restored.text("SOURCE").as_ref()).unwrap(), image_digest(&disk).unwrap());
}

/// The folders of restore points, as the server sees them.
fn points_on(share: &SshShare) -> BTreeSet<PathBuf> {
    let manifests = files_below(&share.served()).into_iter().filter(|path| path.ends_with("manifest.json"));
    manifests.filter_map(|path| path.parent().map(Path::to_owned)).collect()
}

/// Starts the server of the share again after it was killed.
fn revive(share: &mut SshShare) {
    let at = |name: &str| share.dir().join(name);
    let argv = ["/usr/sbin/sshd", "-D", "-e", "-f"].map(str::to_owned).into_iter();
    let argv = argv.chain([at("sshd_config").to_string_lossy().into_owned()]).collect();
    let settings = fs::read_to_string(at("sshd_config")).unwrap();
    let port: u16 = settings.lines().find_map(|line| line.strip_prefix("Port ")).unwrap().trim().parse().unwrap();
    share.server =
        Server::start(argv, &at("sshd.log"), || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())).unwrap();
}

/// Starts a backup onto the share and waits until some of it is written there.
fn begin_backup(cloud: &Cloud, vm: i64) {
    cloud.one.call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]).unwrap().id().unwrap();
    wait_for("the copy to begin", Duration::from_secs(60), || {
        let vm = cloud.one.vm(vm)?;
        Ok((vm.number("USER_TEMPLATE/PROGRESS/DONE_BYTES").unwrap_or(0) > 0).then_some(()))
    })
    .unwrap();
}

fn wait_log(cloud: &Cloud, pieces: &[&str], within: Duration) {
    let found = wait_for(&format!("{pieces:?} in the log"), within, || {
        let log = fs::read_to_string(cloud.one.state().join("oned.log"))?;
        Ok(log.lines().any(|line| pieces.iter().all(|piece| line.contains(piece))).then_some(()))
    });
    found.unwrap();
}

fn other_datastore(cloud: &Cloud) -> i64 {
    let list = cloud.one.list("onedatastore").unwrap();
    let backups = list.find_all("DATASTORE").into_iter().find(|datastore| datastore.text("NAME") == "backups").unwrap();
    backups.number("ID").unwrap()
}

#[test]
fn backups_on_a_share_are_made_restored_kept_and_deleted_and_the_mount_goes_with_the_daemon() {
    let share = SshShare::start().unwrap();
    let cloud = cloud_on(&share, "COMPRESSION = \"zstd\"\n");
    let vm = cloud.blank_vm("shared", "32M", "MODE = \"INCREMENT\", KEEP_LAST = \"2\"").unwrap();
    for value in 1..=4_u8 {
        cloud.libvirtd.write(&format!("one-{vm}"), "vda", value, u64::from(value) * MIB, MIB).unwrap();
        cloud.backup(vm).unwrap();
        invariants::settle(&cloud).unwrap();
    }
    assert_eq!(mounts_below(cloud.one.state()).unwrap(), [mount_point(&cloud)]);
    let images = cloud.backup_images(vm).unwrap();
    let image = cloud.one.show("oneimage", images[0]).unwrap();
    assert_eq!(image.find_all("BACKUP_INCREMENTS/INCREMENT").len(), 2);
    // What others may look at shows neither options nor passwords.
    let shown = cloud.one.ok("onedatastore", &["show", &cloud.datastore.to_string(), "--xml"]).unwrap();
    assert!(shown.contains("MOUNT_OPTIONS") && shown.contains("***") && !shown.contains("IdentityFile"), "{shown}");
    cloud.one.call("one.vm.backup", &[vm.into(), other_datastore(&cloud).into(), true.into()]).unwrap().id().unwrap();
    invariants::settle(&cloud).unwrap();
    let processes = cloud.one.datastore_processes().unwrap();
    assert_eq!(processes.len(), 2, "each of the two datastores has a process");
    for pid in &processes {
        for file in ["cmdline", "environ"] {
            let text = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned();
            assert!(!text.contains(&cloud.password) && !text.contains("IdentityFile"), "{file}: {text}");
        }
    }
    restore_equals_the_disk(&cloud, vm, images[0]);
    for image in cloud.backup_images(vm).unwrap() {
        cloud.one.ok("oneimage", &["delete", &image.to_string()]).unwrap();
    }
    wait_for("the points to go", Duration::from_secs(60), || Ok(points_on(&share).is_empty().then_some(()))).unwrap();
    invariants::settle(&cloud).unwrap();

    // A killed daemon leaves the mount to the next one, and no process.
    cloud.one.kill9().unwrap();
    invariants::no_process_is_left(&cloud.one).unwrap();
    assert_eq!(mounts_below(cloud.one.state()).unwrap(), [mount_point(&cloud)]);
    cloud.one.restart().unwrap();
    cloud.one.stop().unwrap();
    invariants::no_mount_is_left(&cloud.one).unwrap();
    invariants::no_process_is_left(&cloud.one).unwrap();
    cloud.one.restart().unwrap();
    wait_for("the share to be mounted again", Duration::from_secs(60), || {
        Ok((mounts_below(cloud.one.state())? == [mount_point(&cloud)]).then_some(()))
    })
    .unwrap();
    cloud.one.ok("onedatastore", &["delete", &cloud.datastore.to_string()]).unwrap();
    wait_for("the mount to go with its datastore", Duration::from_secs(60), || {
        Ok(mounts_below(cloud.one.state())?.is_empty().then_some(()))
    })
    .unwrap();
}

#[test]
fn a_daemon_that_ends_while_it_mounts_leaves_no_mount() {
    let share = SshShare::start().unwrap();
    let at = |name: &str| share.dir().join(name);
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in *umount) exec \"$@\";; esac\n\
         touch {0}/begun\nsleep 2\n\"$@\"\nstatus=$?\ntouch {0}/mounted\nexit $status\n",
        share.dir().display()
    );
    fs::write(at("slowly"), script).unwrap();
    fs::set_permissions(at("slowly"), fs::Permissions::from_mode(0o700)).unwrap();
    let cloud = cloud_with(&share, "", &format!("MOUNT_COMMAND = \"{}\"\n", at("slowly").display()));
    let appears = |name: &str| wait_for(name, Duration::from_secs(60), || Ok(at(name).exists().then_some(()))).unwrap();
    appears("begun");
    assert!(!at("mounted").exists(), "too late to see anything");
    cloud.one.stop().unwrap();
    appears("mounted");
    invariants::no_mount_is_left(&cloud.one).unwrap();
    invariants::no_process_is_left(&cloud.one).unwrap();
}

#[test]
fn a_server_that_stops_answering_holds_up_only_its_own_backups_and_not_the_daemons_end() {
    let share = SshShare::start().unwrap();
    let cloud = cloud_on(&share, "LIMIT_MB_S = \"4\"\n");
    let vm = cloud.blank_vm("held", "128M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 0, 64);
    let other = cloud.blank_vm("free", "16M", "MODE = \"INCREMENT\"").unwrap();
    begin_backup(&cloud, vm);
    share.server.pause().unwrap();

    let store = other_datastore(&cloud).to_string();
    cloud.one.ok("onevm", &["backup", &other.to_string(), "-d", &store, "--wait"]).unwrap();
    let sentence = format!("datastore {} (shared, {})", cloud.datastore, share.address);
    wait_log(&cloud, &["(BACKUP)", &sentence], Duration::from_secs(60));
    cloud.one.ok("onevm", &["backup", &other.to_string(), "-d", &store, "--wait"]).unwrap();
    let asked = Instant::now();
    cloud.one.stop().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(30), "SHUTDOWN_TIMEOUT was used up");

    share.server.resume().unwrap();
    cloud.one.restart().unwrap();
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    wait_log(&cloud, &["listening"], Duration::from_secs(60));
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();
    restore_equals_the_disk(&cloud, vm, *cloud.backup_images(vm).unwrap().last().unwrap());
    cloud.one.stop().unwrap();
    invariants::no_mount_is_left(&cloud.one).unwrap();
    invariants::no_process_is_left(&cloud.one).unwrap();
}

#[test]
fn a_server_that_dies_leaves_nothing_in_the_bare_directory_and_the_backup_comes_when_it_is_back() {
    let mut share = SshShare::start().unwrap();
    let cloud = cloud_on(&share, "LIMIT_MB_S = \"4\"\n");
    let vm = cloud.blank_vm("cut", "128M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 0, 64);
    begin_backup(&cloud, vm);
    share.server.kill().unwrap();
    wait_log(&cloud, &["(BACKUP)", "datastore"], Duration::from_secs(60));
    let bare = mount_point(&cloud);
    if mounts_below(cloud.one.state()).unwrap().is_empty() {
        assert_eq!(fs::read_dir(&bare).unwrap().count(), 0, "{:?}", files_below(&bare));
    }
    revive(&mut share);
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    if cloud.backup_images(vm).unwrap().is_empty() {
        cloud.backup(vm).unwrap();
    }
    invariants::settle(&cloud).unwrap();
    restore_equals_the_disk(&cloud, vm, *cloud.backup_images(vm).unwrap().last().unwrap());
    cloud.one.stop().unwrap();
    invariants::no_mount_is_left(&cloud.one).unwrap();
    assert_eq!(fs::read_dir(&bare).unwrap().count(), 0, "{:?}", files_below(&bare));
}
