//! The tour of README.md, played: its commands on a real libvirt and a real guest, its output compared with what comes.
//!
//! Of the sections in [`SECTIONS`] each code block that begins with a prompt is played: `$ ` is the shell, `web# ` the guest of
//! the VM called web, `...` any lines. What the README leaves to the reader's machine is put in its place here: where state
//! and images lie, the hypervisor, and the kernel of the tests' guest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use system_tests::command::LONG;
use system_tests::daemon::{Daemon, Options};
use system_tests::guest::{self, Guest};
use system_tests::libvirtd::Libvirtd;
use system_tests::screen::{self, Line, Screen};
use system_tests::{command, mask, place, session};
use tempfile::TempDir;

const SECTIONS: [&str; 4] = ["## Start", "## The first backup", "## A tour", "## Restore"];

/// A command of the README and the output that stands below it.
#[derive(Debug)]
struct Step {
    /// The name of the VM in whose guest it is run; none = the shell.
    guest: Option<String>,
    text: String,
    expected: Vec<String>,
}

/// `web# ls` is (web, ls).
fn in_guest(line: &str) -> Option<(&str, &str)> {
    let (vm, command) = line.split_once("# ")?;
    vm.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-').then_some((vm, command)).filter(|_| !vm.is_empty())
}

fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let sections = readme.split("\n## ").map(|section| format!("## {section}"));
    for section in sections.filter(|section| SECTIONS.iter().any(|name| section.starts_with(&format!("{name}\n")))) {
        let blocks = section.split("```\n").skip(1).step_by(2);
        for block in blocks.filter(|block| block.starts_with("$ ") || in_guest(block).is_some()) {
            let mut lines = block.lines();
            while let Some(line) = lines.next() {
                if let Some(command) = line.strip_prefix("$ ") {
                    let text = session::whole(command, &mut lines).unwrap();
                    steps.push(Step { guest: None, text, expected: Vec::new() });
                } else if let Some((vm, command)) = in_guest(line) {
                    steps.push(Step { guest: Some(vm.into()), text: command.into(), expected: Vec::new() });
                } else {
                    steps.last_mut().unwrap().expected.push(line.into());
                }
            }
        }
    }
    steps
}

/// The bytes that `41.2K`, `300M` or `0B` mean, the share that `(93%),` means; and how far each may be from another.
fn measure(word: &str) -> Option<(f64, f64)> {
    let word = word.trim_end_matches(',');
    if let Some(percent) = word.strip_prefix('(').and_then(|rest| rest.strip_suffix("%)")) {
        return Some((percent.parse().ok()?, 10.0));
    }
    let at = "BKMGT".find(word.chars().next_back()?)?;
    let number: f64 = word[..word.len() - 1].parse().ok()?;
    let bytes = number * 1024_f64.powi(i32::try_from(at).ok()?);
    Some((bytes, (bytes / 4.0).max(262_144.0)))
}

/// Whether two lines say the same. How large something is depends a little on the machine and the day.
fn alike(expected: &str, line: &str) -> bool {
    // A minute is no other duration than seconds.
    let plain = |line: &str| mask::apply(line, &[]).replace("NmNNs", "Ns");
    let words = |line: &str| plain(line).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (expected, line) = (words(expected), words(line));
    expected.len() == line.len()
        && expected.iter().zip(&line).all(|(a, b)| match (measure(a), measure(b)) {
            (Some((a, reach)), Some((b, _))) => (a - b).abs() <= reach,
            _ => a == b,
        })
}

/// Whether the lines are those expected, `...` being any number of them.
fn matches(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "..." => {
            matches(rest, lines) || lines.split_first().is_some_and(|(_, lines)| matches(expected, lines))
        }
        (Some((first, rest)), Some((line, lines))) => alike(first, line) && matches(rest, lines),
        _ => false,
    }
}

/// A disk of 1 GiB of which a part is in use.
fn make_disk(work: &Path, disk: &Path) {
    let (files, raw) = (work.join("files"), work.join("raw"));
    fs::create_dir(&files).unwrap();
    let text = |path: &Path| path.display().to_string();
    command::output("sh", &["-c", &format!("head -c 32M /dev/urandom > {}/site.tar", files.display())]).unwrap();
    fs::File::create(&raw).unwrap().set_len(1 << 30).unwrap();
    command::output("mkfs.ext4", &["-q", "-F", "-d", &text(&files), &text(&raw)]).unwrap();
    command::output("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &text(&raw), &text(disk)]).unwrap();
}

struct Tour {
    one: Daemon,
    libvirtd: Libvirtd,
    guest: Guest,
    images: PathBuf,
    env: BTreeMap<String, String>,
    home: TempDir,
    work: TempDir,
}

impl Tour {
    fn start() -> Self {
        let work = tempfile::Builder::new().prefix("kl").tempdir_in("/tmp").unwrap();
        let images = work.path().join("images");
        fs::create_dir(&images).unwrap();
        let built = Guest::built().unwrap();
        let guest = Guest { kernel: images.join("vmlinuz"), initrd: images.join("initrd") };
        fs::copy(&built.kernel, &guest.kernel).unwrap();
        fs::copy(&built.initrd, &guest.initrd).unwrap();
        make_disk(work.path(), &images.join("web.qcow2"));
        let libvirtd = Libvirtd::start(work.path().join("v")).unwrap();
        let conf = format!("SAFE_DIRS = \"{}\"\n", images.display());
        let state = Some(work.path().join("one"));
        let one = Daemon::start(Options { state, conf, ..Options::default() }).unwrap();
        let home = tempfile::tempdir().unwrap();
        let tools = place::tool("onevm").unwrap().parent().unwrap().display().to_string();
        let env = BTreeMap::from([
            ("PATH".to_owned(), format!("{tools}:/usr/sbin:/usr/bin:/sbin:/bin")),
            ("HOME".to_owned(), home.path().display().to_string()),
            ("ONE_AUTH".to_owned(), one.state().join(".one/one_auth").display().to_string()),
            ("ONE_XMLRPC".to_owned(), one.endpoint().unwrap()),
            ("TZ".to_owned(), "UTC".to_owned()),
        ]);
        Self { one, libvirtd, guest, images, env, home, work }
    }

    /// What the README says, and what it is here.
    fn places(&self) -> [(String, String); 5] {
        let text = |path: &Path| path.display().to_string();
        [
            ("/srv/one".into(), text(self.one.state())),
            ("/srv/images".into(), text(&self.images)),
            ("/srv/data".into(), "/mnt/vda/data".into()),
            ("/srv/copy".into(), "/mnt/vda/copy".into()),
            ("--im kvm --vm kvm".into(), "--im qemu --vm qemu".into()),
        ]
    }

    /// Runs a step; what a person would read.
    fn play(&mut self, step: &Step) -> String {
        let places = self.places();
        let text = places.iter().fold(step.text.clone(), |text, (from, to)| text.replace(from, to));
        let output = match &step.guest {
            Some(vm) => self.in_guest(vm, &text),
            None => self.in_shell(&text),
        };
        places.iter().fold(output, |output, (to, from)| output.replace(from, to))
    }

    fn in_shell(&mut self, text: &str) -> String {
        if let Some((name, value)) = text.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
            self.env.insert(name.into(), value.trim_matches('"').into());
            return String::new();
        }
        let line = Line { text, env: &self.env, directory: self.home.path(), deadline: LONG, interrupt: false };
        let output = screen::run(&line, Screen::Pipe).unwrap();
        assert!(output.success(), "{text}: {output:?}");
        let mut lines: Vec<&str> = output.stdout.lines().collect();
        lines.extend(session::kept(text, &output));
        let told = lines.iter().map(|line| format!("{line}\n")).collect();
        self.behind(text);
        told
    }

    /// What the README's reader has, and the tests' guest and libvirt have not.
    fn behind(&self, text: &str) {
        if text.starts_with("onehost create") {
            let uri = format!("LIBVIRT_URI = \"{}\"\n", self.libvirtd.uri());
            self.one.run_with_input("onehost", &["update", "0", "--append"], &uri).unwrap().checked("update").unwrap();
        }
        if text.starts_with("cat > web.tmpl") {
            let file = self.home.path().join("web.tmpl");
            let template = fs::read_to_string(&file).unwrap();
            fs::write(&file, format!("{template}{}\n", self.guest.os_attribute())).unwrap();
        }
        if text.starts_with("onetemplate instantiate web ") {
            self.wait_guest("web");
        }
    }

    /// Waits until the VM's guest can be told something; libvirt's address and the name of its domain.
    fn wait_guest(&self, vm: &str) -> (String, String) {
        let id = self.one.ok("onevm", &["list", "-l", "ID", "--no-header", "-f", &format!("NAME={vm}")]).unwrap();
        let (uri, domain) = (self.libvirtd.uri(), format!("one-{}", id.trim()));
        guest::wait_ready(&guest::serial_log(&uri, &domain).unwrap()).unwrap();
        guest::wait_agent(&uri, &domain).unwrap();
        (uri, domain)
    }

    fn in_guest(&self, vm: &str, text: &str) -> String {
        let (uri, domain) = self.wait_guest(vm);
        let output = guest::exec(&uri, &domain, text).unwrap();
        output.stdout + &output.stderr
    }
}

#[test]
fn what_the_readme_shows_is_what_happens() {
    let readme = fs::read_to_string(place::source().join("README.md")).unwrap();
    let steps = steps(&readme);
    assert!(steps.len() > 20, "the README has {} commands", steps.len());
    let mut tour = Tour::start();
    let (mut transcript, mut faults) = (String::new(), Vec::new());
    let mut digests = Vec::new();
    for step in &steps {
        let told = tour.play(step);
        let prompt = step.guest.as_ref().map_or("$ ".to_owned(), |vm| format!("{vm}# "));
        transcript.push_str(&format!("{prompt}{}\n{told}", step.text));
        if !matches(&step.expected, &told.lines().collect::<Vec<_>>()) {
            faults.push(format!("{prompt}{}", step.text));
        }
        digests.extend(told.lines().filter(|_| step.text.contains("md5sum")).map(str::to_owned));
    }
    assert!(
        faults.is_empty(),
        "README.md shows other output for:\n{}\n\nall of it is now:\n{transcript}",
        faults.join("\n")
    );
    assert!(digests.len() > 1 && digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    // The disk that stock restic gives back is whole.
    let raw = tour.home.path().join("web.raw");
    command::output("e2fsck", &["-fn", &raw.to_string_lossy()]).unwrap();
    drop(tour.one);
    tour.work.close().unwrap();
}

#[test]
fn lines_may_differ_in_size_and_dots_stand_for_any() {
    assert!(alike("read 300M, saved 41.2K (9%), in 6s", "read 310M, saved 41.9K (11%), in 12s"));
    assert!(alike("read 300M in 59s", "read 300M in 1m05s"));
    assert!(!alike("read 300M in 6s", "read 30M in 6s") && !alike("saved (9%)", "saved (90%)"));
    assert!(!alike("VM 0: done", "VM 1: done"));
    let text = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert!(matches(&text(&["...", "b", "..."]), &["a", "b"]));
    assert!(!matches(&text(&["a", "..."]), &["b", "a"]));
    assert_eq!(in_guest("web-back# ls /"), Some(("web-back", "ls /")));
    assert_eq!(in_guest("$ true # that"), None);
}
