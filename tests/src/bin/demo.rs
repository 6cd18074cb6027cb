//! The demonstration: a real guest on a real QEMU is backed up twice, restored and compared, all by the commands a
//! user would type. Everything lies below one directory; every process ends with this one.
//!
//! `demo [--dir DIR] [--stay]`: with `--stay` everything runs on after the last step until Enter is pressed, so that
//! one can look around with the commands printed.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]
#![expect(clippy::print_stderr, reason = "a program for a terminal")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use system_tests::cloud::datastore_template;
use system_tests::command::{self, LONG, ORDINARY};
use system_tests::daemon::{Daemon, Options, id_in, labelled};
use system_tests::guest::{self, Guest};
use system_tests::libvirtd::Libvirtd;
use system_tests::restic::Repository;
use system_tests::supervisor::tail;
use system_tests::xml::Element;
use system_tests::{place, xml};

const DISK_MIB: u64 = 512;
const WRITTEN_MIB: u64 = 16;
const PASSWORD: &str = "demo password, not a secret";
const MARKER: &str = "written before the first backup";

struct Demo {
    one: Daemon,
    libvirtd: Libvirtd,
    guest: Guest,
    dir: PathBuf,
    begun: Instant,
    steps: Vec<(String, Duration)>,
}

fn main() -> ExitCode {
    let mut dir = place::source().join(".demo");
    let mut stay = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.len()) {
            ("--stay", _) => stay = true,
            ("--dir", 1..) => dir = arguments.next().unwrap_or_default().into(),
            _ => {
                eprintln!("usage: demo [--dir DIR] [--stay]");
                return ExitCode::from(2);
            }
        }
    }
    match run(&dir, stay) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            let log = dir.join("one/oned.out");
            if log.exists() {
                eprintln!("\nThe daemon's log ({}) ends with:\n{}", log.display(), tail(&log, 25));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, stay: bool) -> Result<()> {
    let mut demo = Demo::start(dir)?;
    let (template, datastore) = demo.prepare()?;
    let vm = demo.vm(template)?;
    let image = demo.backups(vm, datastore)?;
    demo.judge()?;
    demo.restore(image)?;
    demo.summary()?;
    if stay {
        demo.look_around()?;
    }
    println!("\nEnding the daemon, libvirtd and the guests.");
    demo.one.stop()
}

impl Demo {
    fn start(dir: &Path) -> Result<Self> {
        let begun = Instant::now();
        heading("A guest, a hypervisor, a daemon");
        if dir.exists() {
            // Only what an earlier demo made; anything else we would rather not touch.
            if !dir.join("demo").exists() {
                bail!("{} exists and is not of an earlier demo; remove it first", dir.display());
            }
            fs::remove_dir_all(dir).with_context(|| format!("clearing {}", dir.display()))?;
        }
        fs::create_dir_all(dir)?;
        fs::write(dir.join("demo"), "Made by `make demo`; `make clean-demo` removes it.\n")?;
        let dir = fs::canonicalize(dir)?;
        let built = Guest::built()?;
        // Beside the disks, so that what the demonstration leaves is whole.
        let guest = Guest { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") };
        fs::copy(&built.kernel, &guest.kernel)?;
        fs::copy(&built.initrd, &guest.initrd)?;
        println!("guest:    {} + {}", guest.kernel.display(), guest.initrd.display());
        let libvirtd = Libvirtd::start(dir.join("v"))?;
        println!("libvirtd: {}", libvirtd.uri());
        // Kernels and images may come from these directories only.
        let conf = format!("SAFE_DIRS = \"{}\"\n", dir.display());
        let state = Some(dir.join("one"));
        let one = Daemon::start(Options { state, conf, ..Options::default() })?;
        println!("oned:     {}", one.endpoint()?);
        let steps = vec![("guest built, libvirtd and oned up".to_owned(), begun.elapsed())];
        Ok(Self { one, libvirtd, guest, dir, begun, steps })
    }

    /// Host, datastore, image, template; the ids of the template and of the datastore.
    fn prepare(&mut self) -> Result<(i64, i64)> {
        heading("A host, a backup datastore, an image, a template");
        let host = id_in(&self.one("onehost", &["create", "localhost", "--im", "qemu", "--vm", "qemu"])?)?.to_string();
        let file = self.file("host.tmpl", &format!("LIBVIRT_URI = \"{}\"\n", self.libvirtd.uri()))?;
        self.one("onehost", &["update", &host, &file, "--append"])?;

        let file = self.file("backups.tmpl", &datastore_template("backups", PASSWORD))?;
        let datastore = id_in(&self.one("onedatastore", &["create", &file])?)?;

        let disk = self.dir.join("guest.qcow2");
        guest::make_disk(&disk, DISK_MIB << 20, MARKER)?;
        let text =
            format!("NAME   = \"guest-disk\"\nTYPE   = \"OS\"\nFORMAT = \"qcow2\"\nPATH   = \"{}\"\n", disk.display());
        let file = self.file("guest-disk.tmpl", &text)?;
        let image = id_in(&self.one("oneimage", &["create", &file, "-d", "default"])?)?;
        self.image_ready(image)?;

        let preset = place::source().join("templates/nightly-incremental.tmpl");
        let preset = fs::read_to_string(&preset).with_context(|| preset.display().to_string())?;
        let text = adjusted(&preset, &self.guest, datastore)?;
        let file = self.file("guest.tmpl", &text)?;
        let template = id_in(&self.one("onetemplate", &["create", &file])?)?;
        Ok((template, datastore))
    }

    /// The VM, booted and configured for backups; its id.
    fn vm(&mut self, template: i64) -> Result<i64> {
        heading("The VM");
        let started = Instant::now();
        let template = template.to_string();
        let order = ["instantiate", &template, "--name", "guest", "--wait"];
        let vm = id_in(&self.one("onetemplate", &order)?)?;
        let console = self.boot(vm)?;
        if console.markers.get("vda").map(String::as_str) != Some(MARKER) {
            bail!("the guest does not see its marker: {console:?}");
        }
        self.step("VM made and booted", started);
        let text = "BACKUP_CONFIG = [\n  MODE            = \"INCREMENT\",\n  KEEP_LAST       = \"4\",\n  \
                    FS_FREEZE       = \"AGENT\",\n  BACKUP_VOLATILE = \"NO\" ]\n";
        let file = self.file("backup.conf", text)?;
        self.one("onevm", &["updateconf", &vm.to_string(), &file])?;
        Ok(vm)
    }

    /// A full backup, a write, an increment; the backup image's id.
    fn backups(&mut self, vm: i64, datastore: i64) -> Result<i64> {
        let (id, datastore) = (vm.to_string(), datastore.to_string());
        let order = ["backup", &id, "-d", &datastore, "--schedule", "now", "--wait"];
        heading("The first backup: the whole disk");
        let started = Instant::now();
        self.one("onevm", &order)?;
        self.step("first backup", started);

        heading(&format!("The guest writes {WRITTEN_MIB} MiB"));
        let script = format!(
            "dd if=/dev/urandom of=/mnt/vda/data bs=1M count={WRITTEN_MIB} 2>/dev/null; sync; sha256sum /mnt/vda/data"
        );
        println!("(in the guest) # {script}");
        let domain = format!("one-{vm}");
        let digest = guest::exec_ok(&self.libvirtd.uri(), &domain, &script)?;
        print!("{digest}");
        fs::write(self.dir.join("data.sha256"), digest.split(' ').next().unwrap_or_default())?;

        heading("The second backup: what changed");
        let started = Instant::now();
        self.one("onevm", &order)?;
        self.step("second backup", started);
        let image = self.one.vm(vm)?.number("BACKUPS/BACKUP_IDS/ID")?;
        self.one("oneimage", &["show", &image.to_string()])?;
        let document = self.one.show("oneimage", image)?;
        let points = document.find_all("TEMPLATE/INCREMENT_INFO");
        let [full, increment] = &points[..] else {
            bail!("expected two restore points, image {image} has {}", points.len())
        };
        let kib = |point: &Element, name| Ok::<_, anyhow::Error>(point.number(name)? / 1024);
        println!(
            "\nThe disk has {} KiB; the first backup read {} KiB and stored {} KiB.\nThe guest then wrote {} KiB; the increment \
             read {} KiB and stored {} KiB.",
            DISK_MIB * 1024,
            kib(full, "READ_BYTES")?,
            kib(full, "STORED_BYTES")?,
            WRITTEN_MIB * 1024,
            kib(increment, "READ_BYTES")?,
            kib(increment, "STORED_BYTES")?,
        );
        Ok(image)
    }

    /// Stock restic on the repository.
    fn judge(&mut self) -> Result<()> {
        heading("What stock restic says");
        let found = Repository::find(self.one.state(), PASSWORD)?;
        if found.is_empty() {
            bail!("there is no restic repository below {}", self.one.state().display());
        }
        let started = Instant::now();
        for repository in found {
            for arguments in [&["check", "--read-data"][..], &["snapshots"]] {
                let mut restic = Command::new("restic");
                restic.args(["--no-cache", "-r"]).arg(&repository.path).args(arguments);
                restic.env("RESTIC_PASSWORD", PASSWORD).env_remove("RESTIC_REPOSITORY");
                shown(&mut restic)?;
            }
        }
        self.step("restic's own check of every byte", started);
        Ok(())
    }

    /// Restores the last point as a new VM, boots it and compares.
    fn restore(&mut self, image: i64) -> Result<()> {
        heading("Restore");
        let started = Instant::now();
        let said =
            self.one("oneimage", &["restore", &image.to_string(), "-d", "default", "--name", "restored", "--wait"])?;
        let template = labelled(&said, "Template")?.first().copied().context("no template id")?;
        for image in labelled(&said, "Images")? {
            self.image_ready(image)?;
        }
        self.step("restored", started);
        let started = Instant::now();
        let vm = id_in(
            &self.one("onetemplate", &["instantiate", &template.to_string(), "--name", "restored-guest", "--wait"])?,
        )?;
        let console = self.boot(vm)?;
        self.step("restored VM made and booted", started);
        let expected = fs::read_to_string(self.dir.join("data.sha256"))?;
        let found = console.digests.get(&("vda".to_owned(), "data".to_owned())).cloned().unwrap_or_default();
        if console.markers.get("vda").map(String::as_str) != Some(MARKER) || found != expected {
            bail!("the restored guest's disk differs: data should be {expected}; it said {console:?}");
        }
        println!(
            "\nThe restored guest sees the marker {MARKER:?} and the {WRITTEN_MIB} MiB written before the second backup, bit for bit."
        );
        Ok(())
    }

    fn summary(&self) -> Result<()> {
        heading("In the end");
        self.one("onevm", &["list"])?;
        self.one("oneimage", &["list"])?;
        println!();
        for (what, took) in &self.steps {
            println!("{:>7.1} s  {what}", took.as_secs_f64());
        }
        println!("{:>7.1} s  in all", self.begun.elapsed().as_secs_f64());
        println!(
            "\nThe state lies in {}: one/ (the daemon: database, log, disks, repository), v/ (libvirtd),",
            self.dir.display()
        );
        println!(
            "and the templates used. `make demo STAY=1` leaves it all running to look around; `make clean-demo` removes it."
        );
        for repository in Repository::find(self.one.state(), PASSWORD)? {
            println!(
                "Without the daemon: RESTIC_PASSWORD='{PASSWORD}' restic -r {} snapshots",
                repository.path.display()
            );
        }
        Ok(())
    }

    fn look_around(&self) -> Result<()> {
        println!("\nIn another terminal:\n");
        println!("  export ONE_AUTH={}", self.one.state().join(".one/one_auth").display());
        println!("  export ONE_XMLRPC={}", self.one.endpoint()?);
        println!("  export PATH=$PATH:{}", place::binary("oned")?.parent().unwrap_or(Path::new(".")).display());
        println!("  onevm list");
        println!("  virsh -c '{}' list", self.libvirtd.uri());
        println!("\nPress Enter to end.");
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    }

    /// Runs a command of ours, shown as it would be typed, with its output; that output.
    fn one(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        shown(&mut self.one.command(tool, arguments)?)
    }

    /// Writes a template and shows it; its path.
    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        println!("\n$ cat {}", path.display());
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let secret = line.starts_with("RESTIC_PASSWORD");
            println!("{}", if secret { "RESTIC_PASSWORD = \"***\"" } else { line });
        }
        Ok(path.to_string_lossy().into_owned())
    }

    /// Waits until a VM's guest has booted, and shows what it says.
    fn boot(&self, vm: i64) -> Result<guest::Console> {
        let domain = format!("one-{vm}");
        let log = guest::serial_log(&self.libvirtd.uri(), &domain)?;
        println!("waiting for the guest of VM {vm} to boot (without KVM: some seconds)");
        let console = guest::wait_ready(&log)?;
        guest::wait_agent(&self.libvirtd.uri(), &domain)?;
        println!("(on its serial console)");
        let text = fs::read(&log)?;
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some((_, said)) = line.split_once("GUEST ") {
                println!("  GUEST {}", said.trim());
            }
        }
        Ok(console)
    }

    fn image_ready(&self, image: i64) -> Result<()> {
        command::wait_for(&format!("image {image} to be ready"), LONG, || {
            let document = xml::parse(self.one.call("one.image.info", &[image.into()])?.text()?)?;
            match document.number("STATE")? {
                1 | 2 => Ok(Some(())),
                5 => bail!("image {image} is in ERROR: {}", document.text("TEMPLATE/ERROR")),
                _ => Ok(None),
            }
        })
    }

    fn step(&mut self, what: &str, started: Instant) {
        self.steps.push((what.to_owned(), started.elapsed()));
    }
}

fn heading(text: &str) {
    println!("\n=== {text}");
}

fn shown(command: &mut Command) -> Result<String> {
    let what = command::spell(command);
    println!("\n$ {what}");
    command::run_shown(command, LONG.max(ORDINARY))?.checked(&what)
}

/// The preset template with our guest's kernel, the backup datastore's id, and a first scheduled run tomorrow
/// instead of one that is overdue.
fn adjusted(preset: &str, guest: &Guest, datastore: i64) -> Result<String> {
    let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 24 * 3600;
    let mut text = String::new();
    let mut lines = preset.lines();
    while let Some(line) = lines.next() {
        let key = line.split('=').next().unwrap_or_default().trim();
        match key {
            "OS" => {
                let mut rest = line;
                while !rest.trim_end().ends_with(']') {
                    rest = lines.next().context("the preset's OS has no end")?;
                }
                text.push_str(&guest.os_attribute());
            }
            "ARGS" => text.push_str(&format!("  ARGS     = \"{datastore},0\",")),
            "TIME" => text.push_str(&format!("  TIME     = \"{tomorrow}\",")),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    Ok(text)
}
