//! What stories about faults are made with: small file systems, data that no store makes smaller, backups held in the
//! middle, image files that are not what they say, and the table of calls that are refused.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use system_tests::cloud::Cloud;
use system_tests::command::{self, LONG, ORDINARY, wait_for};
use system_tests::daemon::Daemon;
use system_tests::rpc::{Answer, Value};
use system_tests::xml::{self, Element};

const MIB: u64 = 1 << 20;

/// A small file system in memory. Declare it before the cloud that uses it, so that it goes after that.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(at: &Path, mib: u64) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "tmpfs"]).arg(at);
        command::run(&mut mount, ORDINARY).unwrap().checked("mount (the tests must run as root)").unwrap();
        Self(at.to_owned())
    }

    pub fn free_mib(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.0).unwrap();
        space.f_bavail * space.f_frsize / MIB
    }

    /// Takes space until only `mib` are free.
    pub fn fill_up_to(&self, mib: u64) {
        let mut ballast = File::options().append(true).create(true).open(self.0.join("ballast")).unwrap();
        let piece = vec![1; 64 << 10];
        while self.free_mib() > mib && ballast.write_all(&piece).is_ok() {}
        // The rest of a page, when nothing is to be left.
        while mib == 0 && ballast.write_all(&piece[..512]).is_ok() {}
    }

    /// Gives the space back.
    pub fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        // Lazily: a process that a failed test left must not keep it for ever.
        command::run(umount.arg("-l").arg(&self.0), ORDINARY).ok();
    }
}

/// A state directory with a small file system where one of its datastores will be (0 VMs' disks, 1 images, 100 the
/// first one that is created). Keep the parts in this order.
pub fn state_with_small_datastore(datastore: i64, mib: u64) -> (tempfile::TempDir, SmallDisk) {
    let state = tempfile::Builder::new().prefix("one").tempdir_in("/tmp").unwrap();
    let disk = SmallDisk::mount(&state.path().join(format!("datastores/{datastore}")), mib);
    (state, disk)
}

/// A file of random bytes, which neither compress nor repeat.
pub fn noise(path: &Path, mib: u64) {
    let mut source = File::open("/dev/urandom").unwrap().take(mib * MIB);
    std::io::copy(&mut source, &mut File::create(path).unwrap()).unwrap();
}

/// Has the guest of a VM write random bytes.
pub fn write_noise(cloud: &Cloud, vm: i64, at_mib: u64, mib: u64) {
    let file = cloud.work.path().join("noise");
    noise(&file, mib);
    let order = format!("write -s {} {at_mib}M {mib}M", file.display());
    cloud.libvirtd.qemu_io(&format!("one-{vm}"), "vda", &order).unwrap();
}

/// The text that the owner of a VM finds when something went wrong.
pub fn error_of(vm: &Element) -> String {
    vm.text("USER_TEMPLATE/ERROR").to_owned()
}

/// Starts a backup and waits until it has ended, well or not; the VM.
pub fn backup_to_the_end(cloud: &Cloud, vm: i64) -> Element {
    cloud.one.call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]).unwrap().id().unwrap();
    after_backup(cloud, vm)
}

/// Waits until a VM is in no backup any more; the VM.
pub fn after_backup(cloud: &Cloud, vm: i64) -> Element {
    wait_for(&format!("the end of VM {vm}'s backup"), Duration::from_secs(60), || {
        let vm = cloud.one.vm(vm)?;
        Ok(!(vm.text("STATE") == "3" && ["69", "70"].contains(&vm.text("LCM_STATE")))).map(|over| over.then_some(vm))
    })
    .unwrap()
}

/// What is recorded of the last restore point of a backup image: type, and why everything was read.
pub fn last_point(cloud: &Cloud, image: i64) -> (String, String) {
    let image = cloud.one.show("oneimage", image).unwrap();
    // A backup that stands alone lists none.
    let kind = image.texts("BACKUP_INCREMENTS/INCREMENT/TYPE").last().map_or("FULL", |kind| *kind).to_owned();
    let reason = image.find_all("TEMPLATE/INCREMENT_INFO").last().map_or("", |info| info.text("REASON")).to_owned();
    (kind, reason)
}

/// A backup in the middle of its copy: QEMU, from which it is read, stands still until this is dropped or let go.
pub struct Held {
    qemu: Pid,
}

impl Held {
    /// Starts a backup of a VM and holds it. The VM needs some hundred MiB of noise on its disk.
    pub fn backup(cloud: &Cloud, vm: i64) -> Self {
        let raw = cloud.libvirtd.domain_pid(&format!("one-{vm}")).unwrap();
        let held = Self { qemu: Pid::from_raw(raw).unwrap() };
        cloud.one.call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]).unwrap().id().unwrap();
        wait_for("the copy to begin", Duration::from_secs(30), || {
            let vm = cloud.one.vm(vm)?;
            anyhow::ensure!(vm.text("LCM_STATE") == "69", "the backup ended early: {}", error_of(&vm));
            Ok((vm.number("USER_TEMPLATE/PROGRESS/DONE_BYTES").unwrap_or(0) > 0).then_some(()))
        })
        .unwrap();
        kill_process(held.qemu, Signal::STOP).unwrap();
        let progress = cloud.one.vm(vm).unwrap();
        let [done, total] =
            ["DONE_BYTES", "TOTAL_BYTES"].map(|name| progress.number(&format!("USER_TEMPLATE/PROGRESS/{name}")));
        assert!(done.unwrap() < total.unwrap(), "the copy was too quick to be held");
        held
    }

    pub fn let_go(self) {}

    /// The guest dies as it stands.
    pub fn kill_guest(self) {
        kill_process(self.qemu, Signal::KILL).unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        kill_process(self.qemu, Signal::CONT).ok();
    }
}

/// All text files of the daemon that people read, and all documents that it gives away.
pub fn everything_shown(one: &Daemon) -> String {
    let mut shown = String::new();
    for name in ["oned.log", "oned.out"] {
        shown += &fs::read_to_string(one.state().join(name)).unwrap_or_default();
    }
    let everything = [(-2).into(), (-1).into(), (-1).into()];
    let vms = [(-2).into(), (-1).into(), (-1).into(), (-2).into()];
    let calls: [(&str, &[Value]); 7] = [
        ("one.vmpool.infoextended", &vms),
        ("one.imagepool.info", &everything),
        ("one.datastorepool.info", &[]),
        ("one.templatepool.info", &everything),
        ("one.hostpool.info", &[]),
        ("one.userpool.info", &[]),
        ("one.system.config", &[]),
    ];
    for (method, parameters) in calls {
        shown += one.call(method, parameters).unwrap().text().unwrap();
    }
    shown
}

/// Waits until an image is in ERROR; the sentence that says why.
pub fn wait_image_error(cloud: &Cloud, image: i64) -> String {
    wait_for(&format!("image {image} to be in ERROR"), Duration::from_secs(60), || {
        let image = xml::parse(cloud.one.call("one.image.info", &[image.into()])?.text()?)?;
        anyhow::ensure!(image.text("STATE") != "1", "image {} was taken: {image:?}", image.text("ID"));
        Ok((image.text("STATE") == "5").then(|| image.text("TEMPLATE/ERROR").to_owned()))
    })
    .unwrap()
}

/// Every file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Image files that must not be taken: path, the FORMAT to claim, and a word that the reason holds.
pub fn bad_images(dir: &Path) -> Vec<(PathBuf, &'static str, &'static str)> {
    let make = |name: &str, arguments: &[&str]| {
        let path = dir.join(name);
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q"]).args(arguments).arg(&path).arg("1M");
        command::run(&mut create, LONG).unwrap().checked("qemu-img create").unwrap();
        path
    };
    let write = |name: &str, content: &[u8]| {
        fs::write(dir.join(name), content).unwrap();
        dir.join(name)
    };
    let link = |name: &str, to: &Path| {
        std::os::unix::fs::symlink(to, dir.join(name)).unwrap();
        dir.join(name)
    };
    let pipe = dir.join("pipe");
    command::output("mkfifo", &[&pipe]).unwrap();
    fs::create_dir(dir.join("folder")).unwrap();
    let data = format!("data_file={},data_file_raw=on", dir.join("elsewhere.raw").display());
    let whole = fs::read(make("whole.qcow2", &["-f", "qcow2"])).unwrap();
    vec![
        ("/etc/passwd".into(), "raw", "SAFE_DIRS"),
        (link("link", Path::new("/etc/passwd")), "raw", "SAFE_DIRS"),
        (link("etc", Path::new("/etc")).join("passwd"), "raw", "SAFE_DIRS"),
        (dir.join("../../../etc/passwd"), "raw", "SAFE_DIRS"),
        (link("dangling", Path::new("/nowhere")), "raw", "No such file"),
        (dir.join("absent"), "qcow2", "No such file"),
        (dir.join("folder"), "raw", "regular file"),
        (pipe, "raw", "regular file"),
        ("/dev/zero".into(), "raw", "SAFE_DIRS"),
        (write("empty", b""), "raw", "empty"),
        (make("backed", &["-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"]), "qcow2", "needs another file"),
        (
            make("json", &["-u", "-f", "qcow2", "-F", "raw", "-b", "json:{\"file.filename\":\"/etc/passwd\"}"]),
            "qcow2",
            "needs another file",
        ),
        (make("external", &["-f", "qcow2", "-o", &data]), "qcow2", "another file"),
        (write("called-qcow2", &[7; 4096]), "qcow2", "raw"),
        (make("vmdk", &["-f", "vmdk"]), "qcow2", "vmdk"),
        (make("vmdk2", &["-f", "vmdk"]), "", "vmdk"),
        (write("short.qcow2", &whole[..60]), "qcow2", ""),
    ]
}

/// The objects that the table of refusals speaks of.
pub struct Objects {
    /// A running VM.
    pub vm: i64,
    /// A VM in HOLD, never placed.
    pub held: i64,
    /// The image of the running VM.
    pub image: i64,
    /// A backup.
    pub backup: i64,
    /// The backup datastore.
    pub datastore: i64,
    /// The host.
    pub host: i64,
}

/// No object of any kind has this id.
pub const NOBODY: i64 = 4711;

const NO_EXISTS: i64 = 1024;
const ACTION: i64 = 2048;
const API: i64 = 4096;
const INTERNAL: i64 = 8192;
const ALLOCATE: i64 = 16384;

/// Methods whose parameter at this place is the id of an object that must be there, with parameters that are otherwise
/// right.
pub fn methods_with_ids(o: &Objects) -> Vec<(&'static str, usize, Vec<Value>)> {
    let text = |text: &str| Value::from(text);
    vec![
        ("one.cluster.info", 0, vec![0.into(), false.into()]),
        ("one.datastore.delete", 0, vec![o.datastore.into()]),
        ("one.datastore.info", 0, vec![o.datastore.into()]),
        ("one.datastore.update", 0, vec![o.datastore.into(), text("A = 1"), 1.into()]),
        ("one.datastore.allocate", 1, vec![text("NAME = x\nTYPE = IMAGE_DS\nDS_MAD = fs\nTM_MAD = qcow2"), 0.into()]),
        ("one.group.info", 0, vec![0.into()]),
        ("one.host.allocate", 3, vec![text("x"), text("qemu"), text("qemu"), 0.into()]),
        ("one.host.delete", 0, vec![o.host.into()]),
        ("one.host.info", 0, vec![o.host.into()]),
        ("one.host.update", 0, vec![o.host.into(), text("A = 1"), 1.into()]),
        ("one.image.allocate", 1, vec![text("NAME = x\nPATH = /x"), 1.into()]),
        ("one.image.delete", 0, vec![o.image.into()]),
        ("one.image.info", 0, vec![o.image.into()]),
        ("one.image.persistent", 0, vec![o.image.into(), true.into()]),
        ("one.image.rename", 0, vec![o.image.into(), text("x")]),
        ("one.image.restore", 0, vec![o.backup.into(), 1.into(), text("")]),
        ("one.image.restore", 1, vec![o.backup.into(), 1.into(), text("")]),
        ("one.template.delete", 0, vec![0.into()]),
        ("one.template.info", 0, vec![0.into()]),
        ("one.template.instantiate", 0, vec![0.into()]),
        ("one.template.update", 0, vec![0.into(), text("A = 1"), 1.into()]),
        ("one.user.info", 0, vec![0.into()]),
        ("one.vm.action", 1, vec![text("poweroff"), o.vm.into()]),
        ("one.vm.backup", 0, vec![o.vm.into(), o.datastore.into(), false.into()]),
        ("one.vm.backup", 1, vec![o.vm.into(), o.datastore.into(), true.into()]),
        ("one.vm.backupcancel", 0, vec![o.vm.into()]),
        ("one.vm.deploy", 0, vec![o.held.into(), o.host.into()]),
        ("one.vm.deploy", 1, vec![o.held.into(), o.host.into()]),
        ("one.vm.info", 0, vec![o.vm.into()]),
        ("one.vm.migrate", 0, vec![o.vm.into(), o.host.into(), false.into()]),
        ("one.vm.migrate", 1, vec![o.vm.into(), o.host.into(), false.into()]),
        ("one.vm.resize", 0, vec![o.held.into(), text("CPU=1")]),
        ("one.vm.recover", 0, vec![o.vm.into(), 2.into()]),
        ("one.vm.rename", 0, vec![o.vm.into(), text("x")]),
        (
            "one.vm.schedadd",
            0,
            vec![o.vm.into(), text("SCHED_ACTION = [ ACTION = backup, TIME = \"+3600\", ARGS = \"100,NO\" ]")],
        ),
        ("one.vm.scheddelete", 0, vec![o.vm.into(), 0.into()]),
        ("one.vm.schedupdate", 0, vec![o.vm.into(), 0.into(), text("SCHED_ACTION = [ TIME = \"+3600\" ]")]),
        ("one.vm.update", 0, vec![o.vm.into(), text("A = 1"), 1.into()]),
        ("one.vm.updateconf", 0, vec![o.vm.into(), text("BACKUP_CONFIG = [ KEEP_LAST = 1 ]"), 1.into()]),
        ("one.zone.info", 0, vec![0.into()]),
    ]
}

/// Calls with ids that exist, but not as it must be: method, parameters, code, and a piece of the sentence.
pub fn refused_calls(o: &Objects) -> Vec<(&'static str, Vec<Value>, i64, &'static str)> {
    let text = |text: &str| Value::from(text);
    let action = |word: &str, vm: i64| vec![text(word), vm.into()];
    let image = |template: &str, datastore: i64| vec![text(template), datastore.into()];
    let schedule = |template: &str| vec![o.vm.into(), text(template)];
    let mut calls = vec![
        // Wrong datastores.
        ("one.vm.backup", vec![o.vm.into(), 1.into(), true.into()], ACTION, "needs to be of type BACKUP"),
        ("one.vm.backup", vec![o.vm.into(), 0.into(), true.into()], ACTION, "needs to be of type BACKUP"),
        ("one.image.allocate", image("NAME = x\nPATH = /x", 0), ALLOCATE, "image datastore"),
        ("one.image.allocate", image("NAME = x\nPATH = /x", o.datastore), ALLOCATE, "image datastore"),
        ("one.image.restore", vec![o.backup.into(), o.datastore.into(), text("")], ACTION, "image datastore"),
        ("one.image.restore", vec![o.backup.into(), 0.into(), text("")], ACTION, "image datastore"),
        (
            "one.vm.schedadd",
            schedule("SCHED_ACTION = [ ACTION = backup, TIME = \"+9\", ARGS = \"1,NO\" ]"),
            ACTION,
            "type BACKUP",
        ),
        // Wrong states.
        ("one.vm.backup", vec![o.held.into(), o.datastore.into(), false.into()], INTERNAL, "wrong state HOLD."),
        ("one.vm.backupcancel", vec![o.vm.into()], INTERNAL, "no backup in progress"),
        ("one.vm.action", action("resume", o.vm), ACTION, "RUNNING"),
        ("one.vm.action", action("release", o.vm), ACTION, "RUNNING"),
        ("one.vm.action", action("hold", o.vm), ACTION, "RUNNING"),
        ("one.vm.action", action("poweroff", o.held), ACTION, "HOLD"),
        ("one.vm.action", action("reboot", o.held), ACTION, "HOLD"),
        ("one.vm.action", action("resume", o.held), ACTION, "HOLD"),
        ("one.vm.action", action("fly", o.vm), ACTION, "fly"),
        ("one.vm.action", action("", o.vm), ACTION, ""),
        ("one.vm.recover", vec![o.held.into(), 0.into()], ACTION, "HOLD"),
        ("one.vm.recover", vec![o.held.into(), 2.into()], ACTION, "HOLD"),
        ("one.vm.recover", vec![o.vm.into(), 77.into()], ACTION, ""),
        // Wrong objects.
        ("one.image.delete", vec![o.image.into()], INTERNAL, "USED"),
        ("one.image.persistent", vec![o.image.into(), true.into()], INTERNAL, "USED"),
        ("one.image.persistent", vec![o.backup.into(), false.into()], ACTION, "backup"),
        ("one.image.restore", vec![o.image.into(), 1.into(), text("")], ACTION, "type BACKUP"),
        ("one.image.restore", vec![o.backup.into(), 1.into(), text("INCREMENT_ID = 99")], ACTION, "increment"),
        ("one.image.restore", vec![o.backup.into(), 1.into(), text("DISK_ID = 9")], ACTION, "disk"),
        ("one.datastore.delete", vec![o.datastore.into()], INTERNAL, ""),
        ("one.datastore.delete", vec![1.into()], ACTION, "stays"),
        ("one.host.delete", vec![o.host.into()], INTERNAL, "VM"),
        ("one.vm.scheddelete", vec![o.vm.into(), NOBODY.into()], NO_EXISTS, "scheduled action"),
        ("one.vm.schedupdate", vec![o.vm.into(), NOBODY.into(), text("SCHED_ACTION = [ TIME = 1 ]")], ACTION, "4711"),
        // Wrong words and numbers.
        ("one.vm.update", vec![o.vm.into(), text("A = 1"), 7.into()], API, "update type"),
        ("one.vm.updateconf", vec![o.vm.into(), text("A = 1"), 7.into()], API, "update type"),
        ("one.datastore.update", vec![o.datastore.into(), text("A = 1"), 7.into()], API, "update type"),
        ("one.host.update", vec![o.host.into(), text("A = 1"), 7.into()], API, "update type"),
        ("one.template.update", vec![0.into(), text("A = 1"), 7.into()], API, "update type"),
        (
            "one.datastore.update",
            vec![o.datastore.into(), text("RESTIC_PASSWORD = \"\""), 1.into()],
            ALLOCATE,
            "RESTIC_PASSWORD",
        ),
        ("one.vmpool.info", vec![(-9).into(), (-1).into(), (-1).into(), (-1).into()], API, "filter_flag"),
        ("one.vmpool.info", vec![(-2).into(), (-1).into(), (-1).into(), 99.into()], API, "state"),
        ("one.imagepool.info", vec![(-9).into(), (-1).into(), (-1).into()], API, "filter_flag"),
        ("one.vm.schedadd", schedule("A = 1"), ACTION, "SCHED_ACTION"),
        ("one.vm.schedadd", schedule("SCHED_ACTION = [ ACTION = fly, TIME = 1 ]"), ACTION, ""),
        ("one.vm.schedadd", schedule("SCHED_ACTION = [ ACTION = backup, TIME = soon, ARGS = \"100\" ]"), ACTION, ""),
        ("one.template.delete", vec![0.into(), true.into()], INTERNAL, "delete image"),
        (
            "one.template.instantiate",
            vec![0.into(), text("x"), false.into(), text(""), true.into()],
            ACTION,
            "ersistent",
        ),
    ];
    for (template, word) in [
        ("CPU = 1", "MEMORY"),
        ("MEMORY = 0", "MEMORY"),
        ("MEMORY = -5", "MEMORY"),
        ("MEMORY = 32\nCPU = 0", "CPU"),
        ("MEMORY = 32\nCPU = nan", "CPU"),
        ("MEMORY = 32\nVCPU = 1.5", "VCPU"),
        ("MEMORY = 32\nDISK = [ TYPE = fs ]", "SIZE"),
        ("MEMORY = 32\nDISK = [ TYPE = fs, SIZE = 0 ]", "SIZE"),
        ("MEMORY = 32\nDISK = [ IMAGE = \"none of mine\" ]", "none of mine"),
        ("MEMORY = 32\nDISK = [ IMAGE_ID = one ]", "one"),
    ] {
        calls.push(("one.vm.allocate", vec![text(template)], ALLOCATE, word));
    }
    calls.push(("one.vm.allocate", vec![text("MEMORY = 32\nDISK = [ IMAGE_ID = 4711 ]")], NO_EXISTS, "4711"));
    for (template, word) in [
        ("PATH = /x", "NAME"),
        ("NAME = x", "PATH"),
        ("NAME = x\nPATH = relative", "absolute"),
        ("NAME = x\nPATH = \"http://localhost/x\"", "file"),
        ("NAME = x\nPATH = /x\nFORMAT = vmdk", "vmdk"),
        ("NAME = x\nPATH = /x\nTYPE = BACKUP", "one.vm.backup"),
        ("NAME = x\nPATH = /x\nTYPE = CAKE", "CAKE"),
        ("NAME = x\nPATH = /x\nSOURCE = /etc/passwd", "SOURCE"),
        ("NAME = \"refused-disk\"\nPATH = /x", "taken"),
    ] {
        calls.push(("one.image.allocate", image(template, 1), ALLOCATE, word));
    }
    for (template, word) in [
        ("TYPE = BACKUP_DS\nDS_MAD = restic\nRESTIC_PASSWORD = x", "NAME"),
        ("NAME = x\nTYPE = CAKE_DS\nDS_MAD = fs", "CAKE_DS"),
        ("NAME = x\nTYPE = BACKUP_DS\nDS_MAD = restic", "RESTIC_PASSWORD"),
        ("NAME = x\nTYPE = BACKUP_DS\nDS_MAD = tape\nRESTIC_PASSWORD = x", "tape"),
        ("NAME = x\nTYPE = IMAGE_DS\nDS_MAD = restic", "restic"),
        ("NAME = x\nTYPE = BACKUP_DS\nDS_MAD = restic\nRESTIC_PASSWORD = x\nBASE_PATH = \"/a/../b\"", "BASE_PATH"),
        ("NAME = backups\nTYPE = BACKUP_DS\nDS_MAD = restic\nRESTIC_PASSWORD = x", "taken"),
    ] {
        calls.push(("one.datastore.allocate", vec![text(template)], ALLOCATE, word));
    }
    calls.push(("one.host.allocate", vec![text("localhost"), text("qemu"), text("qemu")], ALLOCATE, "taken"));
    calls.push(("one.host.allocate", vec![text("other"), text("qemu"), text("vcenter")], ALLOCATE, "vcenter"));
    for method in ["one.vm.allocate", "one.template.allocate", "one.datastore.allocate"] {
        calls.push((method, vec![text("NAME = [ broken")], INTERNAL, "syntax error"));
    }
    calls.push(("one.image.allocate", image("NAME = [ broken", 1), INTERNAL, "syntax error"));
    calls
}

/// Everything a user owns or sees, without what changes by itself: to tell that a refused call did nothing.
pub fn standing(one: &Daemon) -> String {
    let everything = [(-2).into(), (-1).into(), (-1).into()];
    let vms = [(-2).into(), (-1).into(), (-1).into(), (-2).into()];
    let calls: [(&str, &[Value], &[&str]); 5] = [
        ("one.vmpool.infoextended", &vms, &["LAST_POLL", "MONITORING"]),
        ("one.imagepool.info", &everything, &[]),
        ("one.templatepool.info", &everything, &[]),
        ("one.datastorepool.info", &[], &["TOTAL_MB", "FREE_MB", "USED_MB"]),
        ("one.hostpool.info", &[], &["HOST_SHARE", "MONITORING", "LAST_MON_TIME"]),
    ];
    let mut all = String::new();
    for (method, parameters, moving) in calls {
        let mut document = xml::parse(one.call(method, parameters).unwrap().text().unwrap()).unwrap();
        for object in &mut document.children {
            object.children.retain(|child| !moving.contains(&child.name.as_str()));
        }
        all += &format!("{document:?}\n");
    }
    all
}

/// The refusal that a call must get.
pub fn refusal(answer: &Answer, call: &str) -> (i64, String, i64) {
    match answer {
        Answer::Refused { code, message, object } => (*code, message.clone(), *object),
        #[expect(clippy::panic, reason = "tests")]
        other => panic!("{call} was not refused: {other:?}"),
    }
}
