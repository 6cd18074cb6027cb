//! Disks of VMs come, go, grow, are snapshot and copied by the real daemon over the dummy drivers; and the daemon is killed
//! at each named point of those jobs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

#[path = "devices/backup_jobs.rs"]
mod backup_jobs;
#[path = "devices/backups.rs"]
mod backups;
#[path = "devices/cancels.rs"]
mod cancels;
#[path = "devices/catalogue.rs"]
mod catalogue;
#[path = "devices/limits.rs"]
mod limits;
#[path = "devices/modes.rs"]
mod modes;
#[path = "devices/retention.rs"]
mod retention;
#[path = "devices/room.rs"]
mod room;
#[path = "devices/told.rs"]
mod told;
#[path = "devices/verifications.rs"]
mod verifications;
#[path = "devices/vm_restores.rs"]
mod vm_restores;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const WITHIN: Duration = Duration::from_secs(60);

enum Arg<'a> {
    Int(i64),
    Bool(bool),
    Text(&'a str),
}
use Arg::{Bool, Int, Text};

/// A daemon in a directory of its own; ended when dropped.
struct Cloud {
    folder: tempfile::TempDir,
    child: Child,
    address: String,
}

fn spawn(folder: &Path, crash_at: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oned"));
    command.arg("--state-dir").arg(folder).args(["--listen", "127.0.0.1:0"]);
    command
        .env_remove("ONE_AUTH")
        .env_remove("KEEPLAST_LOG")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("KEEPLAST_CRASH_AT");
    command.env("TZ", "UTC").envs(crash_at.map(|point| ("KEEPLAST_CRASH_AT", point)));
    command.stderr(Stdio::null()).spawn().unwrap()
}

impl Cloud {
    /// A cloud with one dummy host.
    fn start() -> Self {
        Self::start_with("")
    }

    /// The same with more in its oned.conf.
    fn start_with(conf: &str) -> Self {
        if !cfg!(feature = "testing") {
            panic!("run with --features testing: without, the daemon has no crash points");
        }
        let folder = tempfile::tempdir().unwrap();
        let conf = format!("DUMMY_DRIVERS = \"YES\"\n{conf}");
        std::fs::write(folder.path().join("oned.conf"), conf).unwrap();
        let child = spawn(folder.path(), None);
        let mut cloud = Self { folder, child, address: String::new() };
        cloud.find_address();
        for host in cloud.ids("one.hostpool.info", "HOST") {
            cloud.call("one.host.delete", &[Int(host)]);
        }
        cloud.call("one.host.allocate", &[Text("pretended"), Text("dummy"), Text("dummy"), Int(0)]);
        cloud
    }

    /// The document of the only network.
    fn network(&self) -> String {
        self.call("one.vn.info", &[Int(0)])
    }

    fn endpoint(&self) -> PathBuf {
        self.folder.path().join(".one/one_endpoint")
    }

    fn find_address(&mut self) {
        let file = self.endpoint();
        let found = wait("the endpoint", || {
            std::fs::read_to_string(&file).ok().filter(|text| text.ends_with("/RPC2\n") || text.ends_with("/RPC2"))
        });
        self.address = found.trim().strip_prefix("http://").unwrap().strip_suffix("/RPC2").unwrap().to_owned();
    }

    /// Kills the daemon if it runs and starts it again, to die at a point or not.
    fn restart(&mut self, crash_at: Option<&str>) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        std::fs::remove_file(self.endpoint()).ok();
        self.child = spawn(self.folder.path(), crash_at);
        self.find_address();
    }

    fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The answer: whether it went well, and the text or id. None when the daemon died over it.
    fn ask(&self, method: &str, args: &[Arg<'_>]) -> Option<(bool, String)> {
        let session = std::fs::read_to_string(self.folder.path().join(".one/one_auth")).unwrap();
        let mut params = format!("<param><value><string>{}</string></value></param>", session.trim());
        for arg in args {
            let value = match arg {
                Int(number) => format!("<int>{number}</int>"),
                Bool(value) => format!("<boolean>{}</boolean>", i32::from(*value)),
                Text(text) => format!("<string>{}</string>", text.replace('&', "&amp;").replace('<', "&lt;")),
            };
            params += &format!("<param><value>{value}</value></param>");
        }
        let body = format!("<methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>");
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let head =
            format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let values: Vec<&str> = answer.split_once("<data>")?.1.split("<value>").skip(1).collect();
        let plain = |value: &str| -> Option<String> {
            let value = value.split_once("</value>")?.0;
            let inner = &value[value.find('>')? + 1..value.rfind('<')?];
            Some(
                inner
                    .replace("&lt;", "<")
                    .replace("&gt;", ">")
                    .replace("&quot;", "\"")
                    .replace("&apos;", "'")
                    .replace("&amp;", "&"),
            )
        };
        Some((plain(values[0])? == "1", plain(values[1])?))
    }

    /// A call that must go well.
    #[track_caller]
    fn call(&self, method: &str, args: &[Arg<'_>]) -> String {
        let (good, text) = self.ask(method, args).unwrap_or_else(|| panic!("{method}: no answer: {}", self.log()));
        assert!(good, "{method}: {text}");
        text
    }

    fn id(&self, method: &str, args: &[Arg<'_>]) -> i64 {
        self.call(method, args).parse().unwrap()
    }

    fn ids(&self, pool: &str, element: &str) -> Vec<i64> {
        let document = self.call(pool, &[]);
        document
            .split(&format!("<{element}><ID>"))
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().parse().unwrap())
            .collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("oned.log")).unwrap_or_default()
    }

    fn vm(&self, id: i64) -> String {
        self.call("one.vm.info", &[Int(id)])
    }

    fn image(&self, id: i64) -> String {
        self.call("one.image.info", &[Int(id)])
    }

    /// Waits until the VM rests in STATE and LCM_STATE.
    #[track_caller]
    fn rests(&self, vm: i64, state: i64, lcm: i64) -> String {
        wait(&format!("VM {vm} in {state}/{lcm}"), || {
            let document = self.vm(vm);
            let there =
                text(&document, "STATE") == state.to_string() && text(&document, "LCM_STATE") == lcm.to_string();
            there.then_some(document)
        })
    }

    #[track_caller]
    fn running(&self, vm: i64) -> String {
        self.rests(vm, 3, 3)
    }

    #[track_caller]
    fn off(&self, vm: i64) -> String {
        self.rests(vm, 8, 0)
    }

    #[track_caller]
    fn image_in(&self, id: i64, state: i64) -> String {
        wait(&format!("image {id} in {state}"), || {
            Some(self.image(id)).filter(|document| text(document, "STATE") == state.to_string())
        })
    }

    fn datablock(&self, name: &str) -> i64 {
        let id = self.id("one.image.allocate", &[Text(&format!("NAME={name}\nTYPE=DATABLOCK\nSIZE=1\n")), Int(1)]);
        self.image_in(id, 1);
        id
    }

    /// A running VM with one disk of an image of its own; the ids of both.
    fn vm_with_disk(&self, name: &str) -> (i64, i64) {
        let image = self.datablock(&format!("{name}-disk"));
        let template = format!("NAME={name}\nCPU=0.1\nMEMORY=64\nDISK=[IMAGE_ID={image}]\n");
        let vm = self.id("one.vm.allocate", &[Text(&template)]);
        self.running(vm);
        (vm, image)
    }

    fn power_off(&self, vm: i64) {
        self.call("one.vm.action", &[Text("poweroff-hard"), Int(vm)]);
        self.off(vm);
    }

    fn disk_file(&self, vm: i64, disk: i64) -> PathBuf {
        self.folder.path().join(format!("datastores/0/{vm}/disk.{disk}"))
    }

    /// What the dummy drivers are to do.
    fn script(&self, text: &str) {
        for driver in std::fs::read_dir(self.folder.path().join("dummy")).unwrap() {
            let driver = driver.unwrap().path();
            // Whole at once: it may be read at any time.
            std::fs::write(driver.join("script.new"), text).unwrap();
            std::fs::rename(driver.join("script.new"), driver.join("script.json")).unwrap();
        }
    }

    /// Nothing unfinished lies about: no half-made files, sockets or scratch files, no open jobs' states.
    fn is_tidy(&self) {
        let mut open = vec![self.folder.path().to_owned()];
        while let Some(folder) = open.pop() {
            for path in entries(&folder) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let unfinished = [".part", ".scratch-", ".new-"].iter().any(|piece| name.contains(piece));
                assert!(!unfinished, "{} is left", path.display());
                assert!(!name.ends_with(".sock"), "{} is left", path.display());
                if path.is_dir() {
                    open.push(path);
                }
            }
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What lies in a folder; nothing when there is none any more, for the daemon may be taking it away just now.
fn entries(folder: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        found => found.unwrap().map(|entry| entry.unwrap().path()).collect(),
    }
}

/// The text of the first element of that name.
fn text(document: &str, element: &str) -> String {
    let open = format!("<{element}>");
    let Some(start) = document.find(&open).map(|at| at + open.len()) else { return String::new() };
    let rest = &document[start..];
    let inner = &rest[..rest.find(&format!("</{element}>")).unwrap()];
    inner.trim_start_matches("<![CDATA[").trim_end_matches("]]>").to_owned()
}

/// The DISK vectors of a VM.
fn disks(document: &str) -> Vec<String> {
    document.split("<DISK>").skip(1).map(|rest| rest.split("</DISK>").next().unwrap().to_owned()).collect()
}

#[test]
fn a_disk_lives_from_attachment_to_removal() {
    let cloud = Cloud::start();
    let (vm, _) = cloud.vm_with_disk("one");
    let image = cloud.datablock("more");
    cloud.call("one.vm.attach", &[Int(vm), Text(&format!("\n\t\tDISK = [IMAGE_ID = {image}]"))]);
    let document = cloud.running(vm);
    assert_eq!((disks(&document).len(), text(&disks(&document)[1], "TARGET").as_str()), (2, "vdb"));
    assert!(!document.contains("ATTACH") && cloud.disk_file(vm, 1).is_file());

    let saved = cloud.id("one.vm.disksaveas", &[Int(vm), Int(1), Text("saved"), Text(""), Int(-1)]);
    cloud.running(vm);
    assert_eq!(text(&cloud.image(saved), "STATE"), "1", "READY as soon as the VM runs again");
    cloud.call("one.vm.diskresize", &[Int(vm), Int(1), Text("32")]);
    assert_eq!(text(&disks(&cloud.running(vm))[1], "SIZE"), "32");
    cloud.call("one.vm.detach", &[Int(vm), Int(1)]);
    assert_eq!(disks(&cloud.running(vm)).len(), 1);
    assert_eq!(text(&cloud.image(image), "STATE"), "1");
    assert!(!cloud.disk_file(vm, 1).exists());
    cloud.call("one.image.delete", &[Int(saved), Bool(false)]);

    cloud.power_off(vm);
    cloud.call("one.vm.attach", &[Int(vm), Text("DISK=[TYPE=swap,SIZE=2]")]);
    cloud.off(vm);
    cloud.call("one.vm.action", &[Text("resume"), Int(vm)]);
    assert_eq!(disks(&cloud.running(vm)).len(), 2);
    cloud.is_tidy();
}

#[test]
fn snapshots_bring_disks_and_vms_back() {
    let cloud = Cloud::start();
    let (vm, _) = cloud.vm_with_disk("one");
    assert_eq!(cloud.id("one.vm.snapshotcreate", &[Int(vm), Text("whole")]), 0);
    assert!(cloud.running(vm).contains("<HYPERVISOR_ID><![CDATA[system-0]]>"));
    assert_eq!(cloud.id("one.vm.snapshotrevert", &[Int(vm), Int(0)]), 0);
    cloud.running(vm);
    assert_eq!(cloud.id("one.vm.snapshotdelete", &[Int(vm), Int(0)]), 0);
    assert!(!cloud.running(vm).contains("<SNAPSHOT>"));

    cloud.power_off(vm);
    let before = std::fs::read(cloud.disk_file(vm, 0)).unwrap();
    assert_eq!(cloud.id("one.vm.disksnapshotcreate", &[Int(vm), Int(0), Text("first")]), 0);
    cloud.off(vm);
    std::fs::OpenOptions::new().append(true).open(cloud.disk_file(vm, 0)).unwrap().write_all(&[7; 512]).unwrap();
    cloud.call("one.vm.disksnapshotrevert", &[Int(vm), Int(0), Int(0)]);
    let document = cloud.off(vm);
    assert_eq!(text(&document, "DISK_SNAPSHOT_TOTAL_SIZE"), "1");
    assert_eq!(std::fs::read(cloud.disk_file(vm, 0)).unwrap(), before);
    cloud.call("one.vm.disksnapshotrename", &[Int(vm), Int(0), Int(0), Text("better")]);
    cloud.call("one.vm.disksnapshotdelete", &[Int(vm), Int(0), Int(0)]);
    assert!(!cloud.off(vm).contains("<SNAPSHOTS>"));
}

#[test]
fn a_refused_change_leaves_the_vm_as_it_was_and_says_why() {
    let cloud = Cloud::start();
    let (vm, _) = cloud.vm_with_disk("one");
    let image = cloud.datablock("more");
    let fail = |operation: &str| {
        cloud.script(&format!(
            "{{\"rules\":[{{\"operation\":\"{operation}\",\"fail\":{{\"kind\":\"permanent\",\"reason\":\"the bus is full\"}}}}]}}"
        ));
    };
    fail("attach_disk");
    cloud.call("one.vm.attach", &[Int(vm), Text(&format!("DISK=[IMAGE_ID={image}]"))]);
    let document = cloud.running(vm);
    assert!(text(&document, "ERROR").contains("ATTACH_DISK") && text(&document, "ERROR").contains("the bus is full"));
    assert_eq!((disks(&document).len(), text(&cloud.image(image), "STATE").as_str()), (1, "1"));
    assert!(!cloud.disk_file(vm, 1).exists());

    fail("detach_disk");
    cloud.call("one.vm.detach", &[Int(vm), Int(0)]);
    let document = cloud.running(vm);
    assert!(text(&document, "ERROR").contains("DETACH_DISK") && !document.contains("DETACH>"), "{document}");
    assert!(cloud.disk_file(vm, 0).is_file());

    fail("resize_disk");
    cloud.call("one.vm.diskresize", &[Int(vm), Int(0), Text("9")]);
    assert_eq!(text(&disks(&cloud.running(vm))[0], "SIZE"), "1");

    fail("system_snapshot_create");
    cloud.call("one.vm.snapshotcreate", &[Int(vm), Text("a")]);
    assert!(!cloud.running(vm).contains("<SNAPSHOT>"));

    fail("begin_backup");
    let saved = cloud.id("one.vm.disksaveas", &[Int(vm), Int(0), Text("saved"), Text(""), Int(-1)]);
    cloud.running(vm);
    let document = cloud.image_in(saved, 5);
    assert!(text(&document, "ERROR").contains("the bus is full"), "{document}");

    cloud.script("{}");
    cloud.call("one.vm.attach", &[Int(vm), Text(&format!("DISK=[IMAGE_ID={image}]"))]);
    let document = cloud.running(vm);
    assert_eq!((disks(&document).len(), text(&document, "ERROR").as_str()), (2, ""));
    cloud.is_tidy();
}

#[test]
fn images_are_copied_and_grow_while_they_are_taken_in() {
    let cloud = Cloud::start();
    let source = cloud.datablock("source");
    let copy = cloud.id("one.image.clone", &[Int(source), Text("copy"), Int(1)]);
    let document = cloud.image_in(copy, 1);
    assert_eq!((text(&document, "SIZE").as_str(), text(&document, "FORMAT").as_str()), ("1", "qcow2"));
    cloud.image_in(source, 1);

    let file = tempfile::Builder::new().prefix("keeplast").tempfile_in("/var/tmp").unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let path = file.path().display();
    let take = |name: &str, size: i64| {
        let wish = format!("NAME={name}\nPATH=\"{path}\"\nFORMAT=raw\nSIZE={size}\n");
        cloud.id("one.image.allocate", &[Text(&wish), Int(1)])
    };
    assert!(text(&cloud.image_in(take("small", 1), 5), "ERROR").contains("cannot shrink"));
    let grown = cloud.image_in(take("large", 5), 1);
    assert_eq!(text(&grown, "SIZE"), "5");
    assert_eq!(std::fs::metadata(text(&grown, "SOURCE")).unwrap().len(), 5 << 20);
}

/// The crash points in these files of the engine.
fn points_in(files: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine").join(file);
        let source = std::fs::read_to_string(source).unwrap();
        let all = source.split("crash::point(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        found.extend(all);
    }
    found
}

/// The crash points in the code of changes of devices and of images.
fn points() -> BTreeSet<String> {
    let files = ["disk_jobs.rs", "nic_jobs.rs", "snapshot_jobs.rs", "saveas_jobs.rs", "image_jobs.rs"];
    let mut found = points_in(&files);
    // A copy of a real disk is tried by the system's stories, the others with backups.
    found.retain(|point| point != "import.copied" && !backups::is_about_backups(point));
    found
}

/// Does what reaches `point`, on objects of its own, restarts the daemon, and checks the end.
fn crash(cloud: &mut Cloud, point: &str) {
    let name = point.replace('.', "-");
    let (vm, _) = cloud.vm_with_disk(&name);
    let image = cloud.datablock(&format!("{name}-more"));
    let attach = format!("DISK=[IMAGE_ID={image}]");
    let set_off = |cloud: &mut Cloud, method: &str, args: &[Arg<'_>]| {
        cloud.restart(Some(point));
        cloud.ask(method, args);
        wait(&format!("the crash at {point}"), || cloud.is_dead().then_some(()));
        cloud.restart(None);
    };
    let job = point.split('.').next().unwrap();
    match job {
        "attach" => {
            set_off(cloud, "one.vm.attach", &[Int(vm), Text(&attach)]);
            let document = cloud.running(vm);
            assert_eq!((disks(&document).len(), text(&document, "ERROR").as_str()), (2, ""));
            assert!(cloud.disk_file(vm, 1).is_file() && !document.contains("ATTACH"));
        }
        "detach" => {
            cloud.call("one.vm.attach", &[Int(vm), Text(&attach)]);
            cloud.running(vm);
            set_off(cloud, "one.vm.detach", &[Int(vm), Int(1)]);
            let document = cloud.running(vm);
            assert_eq!((disks(&document).len(), text(&document, "ERROR").as_str()), (1, ""));
            assert!(!cloud.disk_file(vm, 1).exists());
            assert_eq!(text(&cloud.image(image), "STATE"), "1");
        }
        "resize" => {
            set_off(cloud, "one.vm.diskresize", &[Int(vm), Int(0), Text("8")]);
            assert_eq!(text(&disks(&cloud.running(vm))[0], "SIZE"), "8");
        }
        "disk-snapshot" => {
            cloud.power_off(vm);
            set_off(cloud, "one.vm.disksnapshotcreate", &[Int(vm), Int(0), Text("first")]);
            assert!(cloud.off(vm).contains("<![CDATA[first]]>"));
        }
        "system-snapshot" => {
            set_off(cloud, "one.vm.snapshotcreate", &[Int(vm), Text("whole")]);
            let document = cloud.running(vm);
            assert!(document.contains("system-0") && !document.contains("<ACTION><![CDATA[CREATE]]>"), "{document}");
        }
        "image-snapshot" => {
            cloud.power_off(vm);
            cloud.call("one.image.persistent", &[Int(image), Bool(true)]);
            cloud.call("one.vm.attach", &[Int(vm), Text(&attach)]);
            cloud.off(vm);
            cloud.call("one.vm.disksnapshotcreate", &[Int(vm), Int(1), Text("kept")]);
            cloud.off(vm);
            cloud.call("one.vm.detach", &[Int(vm), Int(1)]);
            cloud.off(vm);
            assert!(cloud.image(image).contains("<![CDATA[kept]]>"));
            set_off(cloud, "one.image.snapshotdelete", &[Int(image), Int(0)]);
            assert!(!cloud.image_in(image, 1).contains("<![CDATA[kept]]>"));
        }
        "save-as" => {
            set_off(cloud, "one.vm.disksaveas", &[Int(vm), Int(0), Text("saved"), Text(""), Int(-1)]);
            cloud.running(vm);
            let saved = *cloud.ids("one.imagepool.info", "IMAGE").last().unwrap();
            let document = cloud.image_in(saved, 1);
            assert_eq!(text(&document, "NAME"), "saved");
            cloud.call("one.image.rename", &[Int(saved), Text(&name)]);
        }
        "clone" => {
            set_off(cloud, "one.image.clone", &[Int(image), Text(&name)]);
            let copy = *cloud.ids("one.imagepool.info", "IMAGE").last().unwrap();
            cloud.image_in(copy, 1);
            cloud.image_in(image, 1);
        }
        "import" => {
            let wish = format!("NAME={name}\nTYPE=DATABLOCK\nSIZE=3\n");
            set_off(cloud, "one.image.allocate", &[Text(&wish), Int(1)]);
            let made = *cloud.ids("one.imagepool.info", "IMAGE").last().unwrap();
            assert_eq!(text(&cloud.image_in(made, 1), "SIZE"), "3");
        }
        "nic" => {
            let nics = |document: &str| document.matches("<NIC_ID>").count();
            let leased = |cloud: &Cloud| text(&cloud.network(), "USED_LEASES");
            let attach: &[Arg<'_>] = &[Int(vm), Text("NIC=[NETWORK_ID=0]")];
            if point == "nic.attached" {
                set_off(cloud, "one.vm.attachnic", attach);
                let document = cloud.running(vm);
                assert_eq!((nics(&document), text(&document, "ERROR").as_str()), (1, ""));
                assert_eq!(leased(cloud), "1");
            } else {
                cloud.call("one.vm.attachnic", attach);
                cloud.running(vm);
                set_off(cloud, "one.vm.detachnic", &[Int(vm), Int(0)]);
                let document = cloud.running(vm);
                assert_eq!((nics(&document), text(&document, "ERROR").as_str()), (0, ""));
                assert_eq!(leased(cloud), "0");
            }
        }
        "change" => {
            let script =
                "{\"rules\":[{\"operation\":\"attach_disk\",\"fail\":{\"kind\":\"permanent\",\"reason\":\"no\"}}]}";
            cloud.script(script);
            set_off(cloud, "one.vm.attach", &[Int(vm), Text(&attach)]);
            let document = cloud.running(vm);
            assert!(disks(&document).len() == 1 && text(&document, "ERROR").contains("ATTACH_DISK"), "{document}");
            assert_eq!(text(&cloud.image(image), "STATE"), "1");
            assert!(!cloud.disk_file(vm, 1).exists());
            cloud.script("{}");
        }
        other => panic!("no step reaches the crash points of {other}"),
    }
    cloud.is_tidy();
    // Whatever became of it, the VM can be used on.
    let state = text(&cloud.vm(vm), "STATE");
    if state == "3" {
        cloud.call("one.vm.action", &[Text("terminate-hard"), Int(vm)]);
        cloud.rests(vm, 6, 0);
    }
}

#[test]
fn a_daemon_killed_at_any_point_of_a_change_comes_to_the_same_end() {
    let mut cloud = Cloud::start();
    let points = points();
    assert!(points.len() >= 15, "{points:?}");
    let network = "NAME=lan\nVN_MAD=dummy\nBRIDGE=br0\nAR=[TYPE=IP4,IP=\"10.0.0.1\",SIZE=9]\n";
    cloud.call("one.vn.allocate", &[Text(network), Int(-1)]);
    for point in points {
        crash(&mut cloud, &point);
    }
}

#[test]
fn disks_of_vms_that_rest_are_saved_and_grow_where_they_lie() {
    let cloud = Cloud::start();
    // The action that leads there, and STATE; SUSPENDED and STOPPED have saved memory that knows the disks' sizes.
    for (action, state, grows) in
        [("undeploy-hard", 9, true), ("poweroff-hard", 8, true), ("stop", 4, false), ("suspend", 5, false)]
    {
        let (vm, _) = cloud.vm_with_disk(action);
        cloud.call("one.vm.action", &[Text(action), Int(vm)]);
        cloud.rests(vm, state, 0);
        let saved =
            cloud.id("one.vm.disksaveas", &[Int(vm), Int(0), Text(&format!("{action}-saved")), Text(""), Int(-1)]);
        let document = cloud.rests(vm, state, 0);
        assert_eq!(text(&document, "ERROR"), "", "{action}");
        assert_eq!(text(&cloud.image_in(saved, 1), "SIZE"), "1", "{action}");
        let (done, told) = cloud.ask("one.vm.diskresize", &[Int(vm), Int(0), Text("16")]).unwrap();
        assert_eq!(done, grows, "{action}: {told}");
        let document = cloud.rests(vm, state, 0);
        assert_eq!(text(&disks(&document)[0], "SIZE"), if grows { "16" } else { "1" }, "{action}: {document}");
        cloud.call("one.vm.action", &[Text("resume"), Int(vm)]);
        let document = cloud.running(vm);
        assert_eq!(text(&document, "ERROR"), "", "{action}");
    }
    cloud.is_tidy();
}
