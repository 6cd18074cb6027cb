//! The tests' guest: Debian's cloud kernel, busybox and the QEMU guest agent, a few MiB in all (see `tests/guest/`).
//!
//! It mounts every ext4 disk and tells its serial console what it found, so a restored disk can be judged without
//! any agent; with the agent, commands can be run in it. Boots in about five seconds without KVM.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::command::{self, LONG, ORDINARY, Output, wait_for};
use crate::{place, xml};

/// The kernel's command line for direct boot.
pub const KERNEL_CMD: &str = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off";

/// What to boot.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The kernel, for `OS = [ KERNEL = … ]`.
    pub kernel: PathBuf,
    /// The initial RAM disk that holds the whole guest, for `OS = [ INITRD = … ]`.
    pub initrd: PathBuf,
}

/// What a guest said on its serial console up to `GUEST ready`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Console {
    /// Disks that were mounted: `vda`.
    pub mounted: Vec<String>,
    /// First line of the file `marker`, by disk.
    pub markers: BTreeMap<String, String>,
    /// SHA-256 of each other file in a disk's root, by disk and file name.
    pub digests: BTreeMap<(String, String), String>,
    /// Whether the guest got as far as its `ready` line.
    pub ready: bool,
}

impl Guest {
    /// The guest, built first if there is none or its parts have changed (seconds; a lock keeps two from building).
    ///
    /// # Errors
    /// When the parts cannot be fetched or built; the message holds the script's words.
    pub fn built() -> Result<Self> {
        let dir = place::cache("guest")?;
        let _alone = place::lock(&dir.join("lock"))?;
        let scripts = place::source().join("tests/guest");
        let debs = dir.join("debs");
        if !debs.join("complete").exists() {
            let mut fetch = Command::new(scripts.join("fetch.sh"));
            command::run(fetch.arg(&debs), LONG)?.checked("tests/guest/fetch.sh")?;
        }
        let mut build = Command::new(scripts.join("build.sh"));
        command::run(build.args([&debs, &dir]), LONG)?.checked("tests/guest/build.sh")?;
        Ok(Self { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") })
    }

    /// The `OS` attribute of a VM template that boots it.
    #[must_use]
    pub fn os_attribute(&self) -> String {
        format!(
            "OS = [ ARCH = \"x86_64\", MACHINE = \"q35\", KERNEL = \"{}\", INITRD = \"{}\", KERNEL_CMD = \"{KERNEL_CMD}\" ]",
            self.kernel.display(),
            self.initrd.display()
        )
    }
}

/// Makes a qcow2 image of `size_bytes` with an ext4 file system that holds one file, `marker`.
///
/// # Errors
/// When mkfs.ext4 or qemu-img is missing or fails.
pub fn make_disk(path: &Path, size_bytes: u64, marker: &str) -> Result<()> {
    let work = tempfile::tempdir()?;
    let files = work.path().join("files");
    fs::create_dir(&files)?;
    fs::write(files.join("marker"), format!("{marker}\n"))?;
    let raw = work.path().join("raw");
    fs::File::create(&raw)?.set_len(size_bytes)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-d"]).arg(&files).arg(&raw);
    command::run(&mut mkfs, LONG)?.checked("mkfs.ext4")?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(path);
    command::run(&mut convert, LONG)?.checked("qemu-img convert").map(drop)
}

/// Reads what a guest has said so far.
///
/// # Errors
/// When the file exists and cannot be read.
pub fn console(serial_log: &Path) -> Result<Console> {
    let text = match fs::read(serial_log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(serial_log.display().to_string()),
    };
    let mut console = Console::default();
    for line in text.lines() {
        // A line of firmware or kernel may end without a line break.
        let Some((_, said)) = line.split_once("GUEST ") else {
            continue;
        };
        let words: Vec<&str> = said.split_whitespace().collect();
        match words[..] {
            // A later boot of the same VM starts over.
            ["mounted", disk] => {
                if console.ready {
                    console = Console::default();
                }
                console.mounted.push(disk.into());
            }
            ["marker", disk, ..] => {
                let content = said.splitn(3, ' ').nth(2).unwrap_or_default().trim();
                console.markers.insert(disk.into(), content.into());
            }
            ["digest", disk, file, digest] => {
                console.digests.insert((disk.into(), file.into()), digest.into());
            }
            ["ready"] => console.ready = true,
            ["off"] => console = Console::default(),
            _ => {}
        }
    }
    Ok(console)
}

/// Waits until the guest has booted.
///
/// # Errors
/// When it has not within two minutes; the message ends with the last lines of its console.
pub fn wait_ready(serial_log: &Path) -> Result<Console> {
    let what = format!("\"GUEST ready\" in {}", serial_log.display());
    wait_for(&what, Duration::from_secs(120), || {
        let console = console(serial_log)?;
        Ok(console.ready.then_some(console))
    })
    .with_context(|| format!("the guest's console ends with:\n{}", crate::supervisor::tail(serial_log, 15)))
}

/// The file that takes a domain's first serial port, as its description in libvirt says.
///
/// # Errors
/// When the domain is not there or its port does not go to a file.
pub fn serial_log(uri: &str, domain: &str) -> Result<PathBuf> {
    let description = command::output("virsh", &["-q", "-c", uri, "dumpxml", domain])?;
    let document = xml::parse(&description)?;
    let serial = document.find_all("devices/serial");
    let path = serial.iter().find_map(|port| port.find("source")?.attribute("path"));
    Ok(path.with_context(|| format!("domain {domain} has no serial port that goes to a file"))?.into())
}

/// Waits until the guest agent of a domain answers.
///
/// # Errors
/// When it has not within two minutes.
pub fn wait_agent(uri: &str, domain: &str) -> Result<()> {
    wait_for(&format!("the guest agent of {domain}"), Duration::from_secs(120), || {
        Ok(agent(uri, domain, &json!({ "execute": "guest-ping" })).ok())
    })
    .map(drop)
}

/// Runs a shell command in a domain's guest through the guest agent.
///
/// # Errors
/// When the agent does not answer, or the command has not ended within five minutes.
pub fn exec(uri: &str, domain: &str, script: &str) -> Result<Output> {
    let started = agent(
        uri,
        domain,
        &json!({ "execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": ["-c", script], "capture-output": true } }),
    )?;
    let question = json!({ "execute": "guest-exec-status", "arguments": { "pid": started["pid"] } });
    let end = wait_for(&format!("the end of `{script}` in {domain}"), LONG, || {
        let status = agent(uri, domain, &question)?;
        Ok((status["exited"] == true).then_some(status))
    })?;
    let text = |name: &str| -> Result<String> {
        let bytes = BASE64.decode(end[name].as_str().unwrap_or_default())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let code = end["exitcode"].as_i64().unwrap_or_else(|| 128 + end["signal"].as_i64().unwrap_or(0));
    Ok(Output { stdout: text("out-data")?, stderr: text("err-data")?, code: i32::try_from(code)? })
}

/// As [`exec`]; what the command printed.
///
/// # Errors
/// As [`exec`], and when the command fails.
pub fn exec_ok(uri: &str, domain: &str, script: &str) -> Result<String> {
    exec(uri, domain, script)?.checked(&format!("`{script}` in the guest of {domain}"))
}

fn agent(uri: &str, domain: &str, order: &Value) -> Result<Value> {
    let mut virsh = Command::new("virsh");
    virsh.args(["-q", "-c", uri, "qemu-agent-command", "--timeout", "20", domain, &order.to_string()]);
    let answer = command::run(&mut virsh, ORDINARY)?.checked("virsh qemu-agent-command")?;
    let mut answer: Value = serde_json::from_str(&answer).context("the agent's answer")?;
    if answer.get("return").is_none() {
        bail!("the agent of {domain} answered {answer}");
    }
    Ok(answer["return"].take())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirtd::Libvirtd;

    #[test]
    fn the_console_of_the_last_boot_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "SeaBIOS\x1b[2JGUEST mounted vda\nGUEST marker vda one two\nGUEST ready\nGUEST off\r\n\
                    GUEST mounted vda\r\nGUEST marker vda three\r\nGUEST digest vda data abc\r\n";
        fs::write(file.path(), text).unwrap();
        let console = console(file.path()).unwrap();
        assert_eq!(console.markers["vda"], "three");
        assert_eq!(console.digests[&("vda".to_owned(), "data".to_owned())], "abc");
        assert!(!console.ready);
    }

    #[test]
    fn the_guest_boots_tells_its_marker_obeys_and_shuts_down() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("a.qcow2");
        make_disk(&disk, 64 << 20, "first light").unwrap();
        let guest = Guest::built().unwrap();
        let libvirtd = Libvirtd::start(dir.path().join("v")).unwrap();
        let log = dir.path().join("serial");
        let description = format!(
            "<domain type='qemu'><name>one-1</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
             <cmdline>{KERNEL_CMD}</cmdline></os><features><acpi/></features><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk><controller type='usb' model='none'/><memballoon model='none'/>\
             <serial type='file'><source path='{}'/><target port='0'/></serial>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             </devices></domain>",
            guest.kernel.display(),
            guest.initrd.display(),
            disk.display(),
            log.display()
        );
        let file = dir.path().join("one-1.xml");
        fs::write(&file, description).unwrap();
        libvirtd.virsh(&["create", &file.to_string_lossy()]).unwrap();
        let uri = libvirtd.uri();
        assert_eq!(serial_log(&uri, "one-1").unwrap(), log);
        assert_eq!(wait_ready(&log).unwrap().markers["vda"], "first light");
        wait_agent(&uri, "one-1").unwrap();
        let said = exec(&uri, "one-1", "cat /mnt/vda/marker; echo no >&2; exit 3").unwrap();
        assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.code), ("first light\n", "no\n", 3));
        libvirtd.virsh(&["shutdown", "one-1", "--mode", "acpi"]).unwrap();
        wait_for("the guest to go", ORDINARY, || {
            Ok((!libvirtd.virsh_output(&["domstate", "one-1"])?.success()).then_some(()))
        })
        .unwrap();
    }
}
