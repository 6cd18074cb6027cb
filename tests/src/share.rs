//! Network shares of a test's own, mounted for real: sshfs over a private sshd, and a file system in a file. For NFS see
//! [`crate::nfs`].
//!
//! Invariant: when a rig is dropped, its server is gone and nothing that it served, and nothing below its directory, is
//! mounted any more.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{self, ORDINARY, wait_for};
use crate::supervisor::{Order, Supervisor, children_of, tail};

/// A server that can be stopped (it keeps its connections and answers nobody), go on, or die.
#[derive(Debug)]
pub struct Server {
    supervisor: Supervisor,
    pid: i32,
}

impl Server {
    /// Starts a server; `ready` says when it answers.
    ///
    /// # Errors
    /// When it ends at once or is not ready within a minute, with the end of its log.
    pub fn start(argv: Vec<String>, log: &Path, mut ready: impl FnMut() -> Result<bool>) -> Result<Self> {
        let supervisor = Supervisor::new()?;
        let what = argv.join(" ");
        let pid = supervisor.start(&Order { argv, env: BTreeMap::new(), log: log.to_owned() })?;
        let started = wait_for("a server", ORDINARY, || {
            if let Some(code) = supervisor.status(pid)? {
                bail!("it ended with status {code}");
            }
            Ok(ready()?.then_some(()))
        });
        started.with_context(|| format!("starting {what}\n{}", tail(log, 20)))?;
        Ok(Self { supervisor, pid })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Stops the server and all that it started: its clients wait.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Undoes [`Self::pause`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills the server and all that it started, as a power cut would.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL).ok();
        wait_for("the server to be gone", ORDINARY, || self.supervisor.status(self.pid))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut open = vec![self.pid];
        let mut found = Vec::new();
        while let Some(pid) = open.pop() {
            found.push(pid);
            let below = children_of(u32::try_from(pid)?).unwrap_or_default();
            open.extend(below.into_iter().map(|(pid, _)| pid));
        }
        for pid in found {
            // One that has ended meanwhile needs no signal.
            let sent = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
            if pid == self.pid {
                sent.context("no process")?.with_context(|| format!("{signal:?} to the server {pid}"))?;
            }
        }
        Ok(())
    }
}

/// Mount points below `dir`, deepest first.
///
/// # Errors
/// When the kernel's table cannot be read.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the table of mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    points.sort();
    points.reverse();
    Ok(points)
}

/// Takes away every mount below `dir`, also those of dead servers.
pub fn unmount_below(dir: &Path) {
    // Not by canonicalize(): the end of the path may be such a mount.
    for point in mounts_below(dir).unwrap_or_default() {
        unmount(&point, UnmountFlags::FORCE).ok();
        unmount(&point, UnmountFlags::DETACH).ok();
    }
}

/// A directory of a test, with nothing mounted below it when it goes.
#[derive(Debug)]
pub struct MountDir(tempfile::TempDir);

impl MountDir {
    /// A new one. Its path has no symbolic links and no blanks.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("kl-share-").tempdir_in(std::env::temp_dir().canonicalize()?)?))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for MountDir {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}

/// A directory served by a private sshd on 127.0.0.1, for `mount -t fuse.sshfs`.
#[derive(Debug)]
pub struct SshShare {
    /// The server; paused or killed by tests.
    pub server: Server,
    /// How mount(8) names the share.
    pub address: String,
    /// Options for it.
    pub options: Vec<String>,
    dir: MountDir,
}

impl SshShare {
    /// Starts sshd with keys made for it.
    ///
    /// # Errors
    /// When sshd or sshfs is missing.
    pub fn start() -> Result<Self> {
        let dir = MountDir::new()?;
        let at = |name: &str| dir.path().join(name);
        let text = |name: &str| at(name).to_string_lossy().into_owned();
        let sshd = program(&["/usr/sbin/sshd"], "openssh-server")?;
        program(&["/usr/bin/sshfs"], "sshfs")?;
        if !Path::new("/dev/fuse").exists() {
            bail!("there is no /dev/fuse here, so sshfs cannot work; run the tests where FUSE is allowed");
        }
        for key in ["host", "id"] {
            command::output("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &text(key)])?;
        }
        fs::copy(at("id.pub"), at("authorized"))?;
        fs::set_permissions(at("authorized"), fs::Permissions::from_mode(0o600))?;
        fs::create_dir(at("served"))?;
        // sshd wants it for the separation of its privileges, and its package's service is not started here.
        fs::create_dir_all("/run/sshd").context("making /run/sshd (the tests run as root)")?;
        let port = free_port()?;
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n",
            text("host"),
            text("authorized"),
        );
        fs::write(at("sshd_config"), settings)?;
        let argv = vec![sshd.into(), "-D".into(), "-e".into(), "-f".into(), text("sshd_config")];
        let server = Server::start(argv, &at("sshd.log"), || listens("127.0.0.1", port))?;
        let user = command::output("id", &["-un"])?;
        let options = vec![
            format!("port={port}"),
            format!("IdentityFile={}", text("id")),
            format!("UserKnownHostsFile={}", text("known")),
            "StrictHostKeyChecking=no".into(),
            "BatchMode=yes".into(),
        ];
        Ok(Self { server, address: format!("{}@127.0.0.1:{}", user.trim(), text("served")), options, dir })
    }

    /// The served directory, as the server sees it.
    #[must_use]
    pub fn served(&self) -> PathBuf {
        self.dir.path().join("served")
    }

    /// A place for mount points that is cleaned with the rig.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SshShare {
    fn drop(&mut self) {
        // Without its server sshfs lets go of everything; a stopped one does not even die of its connection's end.
        self.server.kill().ok();
    }
}

/// A file with an ext4 file system in it, for `mount -t ext4 -o loop`.
///
/// # Errors
/// When mkfs.ext4 is missing.
pub fn ext4_image(path: &Path) -> Result<()> {
    fs::File::create(path)?.set_len(16 << 20)?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F"]).arg(path);
    command::run(&mut make, ORDINARY)?.checked("mkfs.ext4")?;
    Ok(())
}

/// The first of `paths` that is there.
///
/// # Errors
/// When none is, with the package to install.
pub fn program(paths: &[&'static str], package: &str) -> Result<&'static str> {
    let found = paths.iter().find(|path| Path::new(path).exists());
    found
        .copied()
        .with_context(|| format!("{} is missing; install it with: apt-get install {package}", paths.join(", ")))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn listens(host: &str, port: u16) -> Result<bool> {
    let address = format!("{host}:{port}").parse()?;
    Ok(std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &str, share: &str, point: &Path) {
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", options, share]).arg(point);
        command::run(&mut mount, ORDINARY).unwrap().checked("mount").unwrap();
    }

    #[test]
    fn a_share_over_ssh_is_mounted_and_nothing_stays() {
        let share = SshShare::start().unwrap();
        let (point, pid) = (share.dir().join("point"), share.server.pid());
        fs::create_dir(&point).unwrap();
        mount("fuse.sshfs", &share.options.join(","), &share.address, &point);
        fs::write(point.join("file"), "words").unwrap();
        assert_eq!(fs::read_to_string(share.served().join("file")).unwrap(), "words");
        let dir = share.dir().to_owned();
        share.server.pause().unwrap();
        drop(share);
        assert!(mounts_below(&dir).unwrap().is_empty());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!dir.exists());
    }

    #[test]
    fn a_file_system_in_a_file_is_mounted_and_nothing_stays() {
        let dir = MountDir::new().unwrap();
        let (image, point) = (dir.path().join("image"), dir.path().join("point"));
        fs::create_dir(&point).unwrap();
        ext4_image(&image).unwrap();
        mount("ext4", "loop", &image.to_string_lossy(), &point);
        fs::write(point.join("file"), "words").unwrap();
        assert_eq!(mounts_below(dir.path()).unwrap(), [point]);
        let path = dir.path().to_owned();
        drop(dir);
        assert!(mounts_below(&path).unwrap().is_empty());
        assert!(!path.exists());
    }
}
