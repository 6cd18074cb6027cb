//! A libvirtd of the test's own, with real QEMUs, beside which the host's libvirt is neither seen nor touched.
//!
//! It runs in *session* mode: every directory of it lies below one of ours, it needs no mount namespace (so it sees
//! mounts made later) and no root. Root itself it would serve in system mode only, so for root it is put into a
//! user namespace that shows root as user 1 (`daemon`; libvirt wants one that has a name); files stay root's. Not possible there: `type='kvm'` domains, bridges.
//! Where the kernel refuses user namespaces (in a chroot, in many containers) root gets *system* mode in a mount
//! namespace instead, with our directories in the places of libvirt's own.
//!
//! The capability cache, which costs seconds to fill, is shared by all of them below the build directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::command::{self, ORDINARY, Output, wait_for};
use crate::place;
use crate::supervisor::{Order, Supervisor, tail};

/// A Unix socket path holds 107 bytes, and the guest agent's is the longest below the directory:
/// `cfg/libvirt/qemu/channel/target/domain-NNN-NAME/org.qemu.guest_agent.0`. This leaves 16 letters for NAME.
const DIRECTORY_BYTES_MAX: usize = 24;

/// The two ways to have a libvirtd of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As an ordinary user has it; root is shown to it as user 1.
    Session,
    /// As the machine has it, in a mount namespace. Root only.
    System,
}

impl Mode {
    /// Session where that is possible.
    fn possible() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Session;
        }
        let mut probe = Command::new("unshare");
        probe.args(["--user", "--map-user=1", "--map-group=1", "true"]);
        let allowed = command::run(&mut probe, ORDINARY).is_ok_and(|output| output.success());
        if allowed { Self::Session } else { Self::System }
    }
}

/// In a mount namespace of its own: our directories over libvirt's, then libvirtd. $0 is ours, $1 the program.
const SYSTEM_SCRIPT: &str = r#"set -e
for pair in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
    mkdir -p "${pair#*:}"
    mount --bind "$0/${pair%%:*}" "${pair#*:}"
done
mount --bind "$2" /var/cache/libvirt/qemu
exec "$1" -f "$0/libvirtd.conf" -p "$0/libvirtd.pid"
"#;

/// A running private libvirtd. Dropping it ends it and its QEMUs.
#[derive(Debug)]
pub struct Libvirtd {
    mode: Mode,
    /// The directory by a name short enough for sockets.
    short: PathBuf,
    link: Option<PathBuf>,
    pid: Mutex<Option<i32>>,
    supervisor: Supervisor,
}

impl Libvirtd {
    /// Starts a libvirtd that keeps everything below `dir` (made when missing) and waits until it answers.
    ///
    /// # Errors
    /// When libvirtd is missing or does not come up within 30 s; the message holds its log.
    pub fn start(dir: impl AsRef<Path>) -> Result<Self> {
        Self::start_in(dir, Mode::possible())
    }

    /// As [`Self::start`], in the mode given.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(dir: impl AsRef<Path>, mode: Mode) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = fs::canonicalize(dir)?;
        let (short, link) = shorten(&dir)?;
        let daemon = Self { mode, short, link, pid: Mutex::new(None), supervisor: Supervisor::new()? };
        daemon.configure()?;
        daemon.launch()?;
        Ok(daemon)
    }

    /// The address for `virsh -c`, LIBVIRT_URI and libvirt's own calls; it works from any process.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket().display())
    }

    /// The daemon's log file.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.short.join("libvirtd.log")
    }

    /// The log of one domain's QEMU.
    #[must_use]
    pub fn domain_log(&self, domain: &str) -> PathBuf {
        self.short.join(match self.mode {
            Mode::Session => format!("cache/libvirt/qemu/log/{domain}.log"),
            Mode::System => format!("log/qemu/{domain}.log"),
        })
    }

    /// The process id of a domain's QEMU.
    ///
    /// # Errors
    /// When no such domain runs.
    pub fn domain_pid(&self, domain: &str) -> Result<i32> {
        let path = self.short.join(match self.mode {
            Mode::Session => format!("run/libvirt/qemu/run/{domain}.pid"),
            Mode::System => format!("run/qemu/{domain}.pid"),
        });
        let text = fs::read_to_string(&path).with_context(|| format!("domain {domain} has no {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} holds no pid", path.display()))
    }

    /// What libvirtd remembers of a running domain over its own restarts.
    ///
    /// # Errors
    /// When no such domain runs.
    pub fn domain_status(&self, domain: &str) -> Result<String> {
        let path = self.short.join(match self.mode {
            Mode::Session => format!("run/libvirt/qemu/run/{domain}.xml"),
            Mode::System => format!("run/qemu/{domain}.xml"),
        });
        fs::read_to_string(&path).with_context(|| format!("domain {domain} has no {}", path.display()))
    }

    /// Runs `virsh` against this daemon; whatever the outcome.
    ///
    /// # Errors
    /// When virsh is missing or does not end within a minute.
    pub fn virsh_output(&self, arguments: &[&str]) -> Result<Output> {
        let mut virsh = Command::new("virsh");
        virsh.args(["-q", "-c", &self.uri()]).args(arguments);
        command::run(&mut virsh, ORDINARY)
    }

    /// Runs `virsh` against this daemon; what it printed, without the white space around it.
    ///
    /// # Errors
    /// As [`Self::virsh_output`], and when virsh fails.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let text = self.virsh_output(arguments)?.checked(&format!("virsh {}", arguments.join(" ")))?;
        Ok(text.trim().to_owned())
    }

    /// Creates a transient domain from its XML, its CPUs not running: a real QEMU with real disks that uses no time.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn create_paused(&self, xml: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), xml)?;
        let path = file.path().to_string_lossy();
        self.virsh(&["create", &path, "--paused"]).map(drop)
    }

    /// Runs one `qemu-io` command on a virtio disk (`target` as in `vda`) through the guest's own device, as the
    /// guest would: `write -P 0x5a 100M 4M`, `write -z 0 64k`, `discard 1M 1M`, `read -P 0 0 64k`, `flush`. What
    /// QEMU said about it.
    ///
    /// # Errors
    /// When the domain is not there, or the command failed or found another pattern than it was told.
    pub fn qemu_io(&self, domain: &str, target: &str, order: &str) -> Result<String> {
        let letter = target.bytes().last().unwrap_or(b'a');
        let index = letter.wrapping_sub(b'a');
        let log = self.domain_log(domain);
        let before = fs::metadata(&log).map_or(0, |meta| meta.len());
        // The node of the image itself is refused: its permissions belong to the device.
        let hmp = format!("qemu-io -d /machine/peripheral/virtio-disk{index}/virtio-backend \"{order}\"");
        let answer = self.virsh(&["qemu-monitor-command", domain, "--hmp", &hmp])?;
        if !answer.is_empty() {
            bail!("qemu-io {order} on {target} of {domain}: {answer}");
        }
        if order.starts_with("flush") {
            return Ok(String::new());
        }
        // The outcome goes to QEMU's standard output, which is the domain's log.
        let said = wait_for(&format!("the outcome of qemu-io {order} in {}", log.display()), ORDINARY, || {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(text.get(usize::try_from(before)?..).unwrap_or_default()).into_owned();
            Ok((text.contains(" ops; ") || text.contains("failed") || text.contains("rror")).then_some(text))
        })?;
        if said.contains("failed") || said.contains("rror") || !said.contains("bytes at offset") {
            bail!("qemu-io {order} on {target} of {domain}: {}", said.trim());
        }
        Ok(said)
    }

    /// Fills `length_bytes` from `offset_bytes` on with one byte value.
    ///
    /// # Errors
    /// As [`Self::qemu_io`].
    pub fn write(&self, domain: &str, target: &str, value: u8, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let said = self.qemu_io(domain, target, &format!("write -P {value:#x} {offset_bytes} {length_bytes}"))?;
        let expected = format!("wrote {length_bytes}/{length_bytes} bytes at offset {offset_bytes}");
        if !said.contains(&expected) {
            bail!("asked for {expected:?}, QEMU said {:?}", said.trim());
        }
        Ok(())
    }

    /// Ends libvirtd by SIGKILL; its QEMUs run on, as after a crash.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill9(&self) -> Result<()> {
        self.end(Signal::KILL)
    }

    /// Ends libvirtd in good order; its QEMUs run on.
    ///
    /// # Errors
    /// When it does not go.
    pub fn terminate(&self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Starts libvirtd again (after ending it, if it runs); it finds the domains that still run.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&self) -> Result<()> {
        self.end(Signal::TERM)?;
        self.launch()
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pid) = pid {
            self.supervisor.end(pid, signal, ORDINARY)?;
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.socket_dir().join("libvirt-sock")
    }

    fn socket_dir(&self) -> PathBuf {
        self.short.join(match self.mode {
            Mode::Session => "run/libvirt",
            Mode::System => "run",
        })
    }

    fn configure(&self) -> Result<()> {
        let dir = &self.short;
        match self.mode {
            Mode::Session => {
                for name in ["run/libvirt", "cfg/libvirt", "cache/libvirt/qemu/cache", "data", "home"] {
                    fs::create_dir_all(dir.join(name))?;
                }
                let shared = place::cache("libvirt-capabilities")?;
                let link = dir.join("cache/libvirt/qemu/cache/capabilities");
                if fs::symlink_metadata(&link).is_err() {
                    std::os::unix::fs::symlink(&shared, &link)?;
                }
                // "file": without it every start of a domain wants a virtlogd.
                fs::write(dir.join("cfg/libvirt/qemu.conf"), "stdio_handler = \"file\"\nsecurity_driver = \"none\"\n")?;
            }
            Mode::System => {
                for name in ["etc", "run", "lib", "log", "cache/qemu"] {
                    fs::create_dir_all(dir.join(name))?;
                }
                place::cache("libvirt-system-capabilities")?;
                // QEMU as root, since the files are root's; no cgroups, which another libvirtd may use already.
                fs::write(
                    dir.join("etc/qemu.conf"),
                    "stdio_handler = \"file\"\nsecurity_driver = \"none\"\nuser = \"root\"\ngroup = \"root\"\n\
                     dynamic_ownership = 0\nremember_owner = 0\nnamespaces = [ ]\ncgroup_controllers = [ ]\n\
                     max_processes = 0\n",
                )?;
            }
        }
        fs::write(
            dir.join("libvirtd.conf"),
            format!(
                "unix_sock_dir = \"{}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
                 host_uuid_source = \"machine-id\"\nmax_clients = 500\nmax_client_requests = 20\n\
                 log_outputs = \"3:file:{}\"\n",
                self.socket_dir().display(),
                self.log().display()
            ),
        )?;
        Ok(())
    }

    fn launch(&self) -> Result<()> {
        // A killed daemon leaves its socket behind; a test that the socket exists would take that for life.
        fs::remove_file(self.socket()).ok();
        let output = self.short.join("libvirtd.out");
        let order = self.order(output.clone())?;
        let pid = self.supervisor.start(&order)?;
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        let logs = || format!("\n{}\n{}", tail(&output, 20), tail(&self.log(), 20));
        // The first call waits for the capability probe, which takes seconds when the cache is cold.
        wait_for("libvirtd to answer", Duration::from_secs(60), || {
            if let Some(code) = self.supervisor.status(pid)? {
                bail!("libvirtd ended at once with status {code}");
            }
            if !self.socket().exists() {
                return Ok(None);
            }
            Ok(self.virsh_output(&["version"])?.success().then_some(()))
        })
        .with_context(|| format!("starting a private libvirtd in {}{}", self.short.display(), logs()))
    }

    fn order(&self, log: PathBuf) -> Result<Order> {
        let dir = &self.short;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let program = ["/usr/sbin/libvirtd", "/usr/local/sbin/libvirtd"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("libvirtd is missing; install it with: apt-get install libvirt-daemon-system")?;
        if self.mode == Mode::System {
            let words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", SYSTEM_SCRIPT];
            let mut argv: Vec<String> = words.map(String::from).to_vec();
            let capabilities = place::cache("libvirt-system-capabilities")?;
            argv.extend([text(dir), program.into(), text(&capabilities)]);
            return Ok(Order { argv, env: BTreeMap::new(), log });
        }
        let mut argv: Vec<String> = Vec::new();
        if rustix::process::geteuid().is_root() {
            argv.extend(["unshare", "--user", "--map-user=1", "--map-group=1"].map(String::from));
        }
        let (conf, pid) = (dir.join("libvirtd.conf"), dir.join("libvirtd.pid"));
        argv.extend([program.into(), "-f".into(), text(&conf), "-p".into(), text(&pid)]);
        let mut env: BTreeMap<String, Option<String>> = BTreeMap::from([("DBUS_SESSION_BUS_ADDRESS".into(), None)]);
        for (name, below) in [
            ("XDG_RUNTIME_DIR", "run"),
            ("XDG_CONFIG_HOME", "cfg"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
            ("HOME", "home"),
        ] {
            env.insert(name.into(), Some(text(&dir.join(below))));
        }
        Ok(Order { argv, env, log })
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        self.end(Signal::TERM).ok();
        if let Some(link) = &self.link {
            fs::remove_file(link).ok();
        }
        // The supervisor, dropped next, ends the QEMUs.
    }
}

/// A name for `dir` that leaves room for the sockets below it: itself, or a symbolic link to it.
fn shorten(dir: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if dir.as_os_str().len() <= DIRECTORY_BYTES_MAX {
        return Ok((dir.to_owned(), None));
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    // Not $TMPDIR, which may be long itself.
    let link = Path::new("/tmp").join(format!("klv-{}-{number}", std::process::id()));
    fs::remove_file(&link).ok();
    std::os::unix::fs::symlink(dir, &link).with_context(|| format!("making {}", link.display()))?;
    Ok((link.clone(), Some(link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, disk: &Path) -> String {
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk><controller type='usb' model='none'/>\
             <memballoon model='none'/></devices></domain>",
            disk.display()
        )
    }

    #[test]
    fn a_domain_is_written_to_and_outlives_its_libvirtd() {
        story(Mode::possible());
    }

    #[test]
    fn system_mode_does_the_same_for_root() {
        assert!(rustix::process::geteuid().is_root(), "run the tests as root");
        story(Mode::System);
    }

    fn story(mode: Mode) {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("a.qcow2");
        command::output("qemu-img", &["create", "-q", "-f", "qcow2", &disk.to_string_lossy(), "64M"]).unwrap();
        let long = dir.path().join("libvirt-in-a-directory-with-a-rather-long-name-that-sockets-hate");
        let libvirtd = Libvirtd::start_in(long, mode).unwrap();
        libvirtd.create_paused(&domain("one-1", &disk)).unwrap();
        libvirtd.write("one-1", "vda", 0x5a, 1 << 20, 256 << 10).unwrap();
        libvirtd.qemu_io("one-1", "vda", "read -P 0x5a 1M 256k").unwrap();
        let wrong = libvirtd.qemu_io("one-1", "vda", "read -P 0x5b 1M 256k").unwrap_err().to_string();
        assert!(wrong.contains("Pattern verification failed"), "{wrong}");
        let beyond = libvirtd.qemu_io("one-1", "vda", "write -P 1 64M 64k");
        assert!(beyond.is_err(), "{beyond:?}");

        let qemu = libvirtd.domain_pid("one-1").unwrap();
        libvirtd.kill9().unwrap();
        assert!(!libvirtd.virsh_output(&["list"]).unwrap().success());
        libvirtd.restart().unwrap();
        assert_eq!(libvirtd.virsh(&["domstate", "one-1"]).unwrap(), "paused");
        assert_eq!(libvirtd.domain_pid("one-1").unwrap(), qemu);
        libvirtd.qemu_io("one-1", "vda", "discard 1M 64k").unwrap();
        libvirtd.qemu_io("one-1", "vda", "write -z 2M 64k").unwrap();
        drop(libvirtd);
        assert!(!Path::new(&format!("/proc/{qemu}")).exists());
    }
}
