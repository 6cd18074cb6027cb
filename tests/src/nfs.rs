//! Real NFS on a machine whose kernel has none: nfs-ganesha as the server, and a Linux kernel in user mode whose root is
//! this machine's own file system, so that any program here runs there unchanged, as root, with NFS mounts of its own.
//!
//! Server and client live in a network namespace of the rig, so rigs do not see each other. A result comes back through
//! files: the client's root *is* this machine's. What it mounts is seen by its own processes only.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::command::{self, ORDINARY, Output, wait_for};
use crate::share::{MountDir, Server, program};
use crate::supervisor::{Order, Supervisor, tail};

/// Server and client, with the wire between them.
#[derive(Debug)]
pub struct NfsRig {
    /// The server; paused or killed by tests.
    pub server: Server,
    // Fields are dropped in this order: the namespace after those who are in it, the directory at last.
    clients: Supervisor,
    namespace: i32,
    kernel: &'static str,
    modules: Vec<PathBuf>,
    runs: AtomicU32,
    dir: MountDir,
}

/// The server's address, as clients see it.
const SERVER: &str = "192.168.99.1";

impl NfsRig {
    /// Starts the server; it speaks version 4.0 to 4.2 and has two exports, one of them read-only.
    ///
    /// # Errors
    /// When a package is missing, or tap devices cannot be made.
    pub fn start() -> Result<Self> {
        let ganesha = program(&["/usr/bin/ganesha.nfsd"], "nfs-ganesha nfs-ganesha-vfs")?;
        let kernel = program(&["/usr/bin/linux.uml"], "user-mode-linux")?;
        program(&["/usr/sbin/mount.nfs", "/sbin/mount.nfs"], "nfs-common")?;
        program(&["/usr/bin/busybox", "/bin/busybox"], "busybox-static")?;
        program(&["/usr/sbin/ip", "/usr/bin/ip", "/sbin/ip"], "iproute2")?;
        let dir = MountDir::new()?;
        let clients = Supervisor::new()?;
        let namespace = wire(&clients, dir.path())?;
        for name in ["served", "recovery"] {
            fs::create_dir(dir.path().join(name))?;
        }
        fs::write(dir.path().join("ganesha.conf"), settings(dir.path()))?;
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let log = dir.path().join("ganesha.log");
        let mut argv = inside(namespace);
        argv.extend([ganesha.into(), "-F".into(), "-L".into(), at("ganesha.log")]);
        argv.extend(["-f".into(), at("ganesha.conf"), "-p".into(), at("ganesha.pid")]);
        let server = Server::start(argv, &log, || Ok(is_served(namespace)))?;
        Ok(Self { server, clients, namespace, kernel, modules: modules(kernel)?, runs: AtomicU32::new(0), dir })
    }

    /// The share, as mount(8) takes it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{SERVER}:/share")
    }

    /// The same directory, exported read-only.
    #[must_use]
    pub fn address_read_only(&self) -> String {
        format!("{SERVER}:/readonly")
    }

    /// The served directory, as the server sees it.
    #[must_use]
    pub fn served(&self) -> PathBuf {
        self.dir.path().join("served")
    }

    /// A directory that client and test share through no NFS.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Boots the client, runs a program in it as root and halts it. /run, /mnt and /tmp are empty there, but for the rig's
    /// own directory; everything else is this machine's.
    ///
    /// # Errors
    /// When the client does not boot, or the program does not end within `deadline`, with what was said until then.
    pub fn run(&self, argv: &[&str], env: &[(&str, &str)], deadline: Duration) -> Result<Output> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let work = self.dir.path().join(format!("run-{number}"));
        fs::create_dir(&work)?;
        let at = |name: &str| work.join(name).to_string_lossy().into_owned();
        fs::write(work.join("init"), self.init(&work, argv, env))?;
        fs::set_permissions(work.join("init"), fs::Permissions::from_mode(0o755))?;
        let mut order = inside(self.namespace);
        let words = [self.kernel, "mem=384M", "rootfstype=hostfs", "rw", "vec0:transport=tap,ifname=nfs0,depth=128"];
        order.extend(words.map(String::from));
        order.extend(["con0=null,fd:1", "con=null", "quiet"].map(String::from));
        order.extend([format!("init={}", at("init")), format!("umid=nfs{number}"), format!("uml_dir={}", at(""))]);
        let console = work.join("console");
        let order = Order { argv: order, env: BTreeMap::new(), log: console.clone() };
        let pid = self.clients.start(&order)?;
        let ended = wait_for("the client to halt", deadline, || self.clients.status(pid));
        let read = |name: &str| fs::read(work.join(name)).map(|text| String::from_utf8_lossy(&text).into_owned());
        let (stdout, stderr) = (read("stdout").unwrap_or_default(), read("stderr").unwrap_or_default());
        if let Err(error) = ended {
            self.clients.end(pid, Signal::KILL, ORDINARY).ok();
            return Err(error.context(format!("{argv:?}\n{stderr}{stdout}{}", tail(&console, 20))));
        }
        let code = read("code").ok().and_then(|text| text.trim().parse().ok());
        let code = code.with_context(|| format!("the client did not boot\n{stderr}{stdout}{}", tail(&console, 30)))?;
        Ok(Output { stdout, stderr, code })
    }

    /// The first process of the client.
    fn init(&self, work: &Path, argv: &[&str], env: &[(&str, &str)]) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
        let insert: String =
            self.modules.iter().map(|module| format!("busybox insmod {}\n", module.display())).collect();
        let exports: String = env.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
        let command: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
        let (dir, work) = (quoted(&self.dir.path().to_string_lossy()), quoted(&work.to_string_lossy()));
        format!(
            "#!/bin/sh\n\
             export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C\n\
             mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /mnt\n\
             {insert}\
             busybox ip link set lo up; busybox ip link set vec0 up; busybox ip addr add 192.168.99.2/24 dev vec0\n\
             {exports}\
             cd {dir}\n\
             {command} </dev/null >{work}/stdout 2>{work}/stderr; echo $? >{work}/code\n\
             sync; busybox poweroff -f\n",
            command = command.join(" "),
        )
    }
}

/// A network namespace with a tap device; the process that keeps it.
fn wire(supervisor: &Supervisor, dir: &Path) -> Result<i32> {
    let log = dir.join("wire.log");
    let script = format!(
        "ip link set lo up && ip tuntap add nfs0 mode tap && ip addr add {SERVER}/24 dev nfs0 && ip link set nfs0 up \
         && echo ready && exec sleep infinity"
    );
    let argv = ["unshare", "--net", "sh", "-c", &script].map(String::from).to_vec();
    let path = std::env::var("PATH").unwrap_or_default();
    let env = BTreeMap::from([("PATH".into(), Some(format!("{path}:/usr/sbin:/sbin")))]);
    let pid = supervisor.start(&Order { argv, env, log: log.clone() })?;
    let ready = wait_for("a network of the test's own", ORDINARY, || {
        if let Some(code) = supervisor.status(pid)? {
            anyhow::bail!("it ended with status {code}");
        }
        Ok((tail(&log, 1) == "ready").then_some(()))
    });
    let advice = "the tests run as root and need /dev/net/tun";
    ready.with_context(|| format!("making a tap device ({advice})\n{}", tail(&log, 5)))?;
    Ok(pid)
}

fn inside(namespace: i32) -> Vec<String> {
    vec!["nsenter".into(), format!("--net=/proc/{namespace}/ns/net")]
}

/// Whether somebody listens on NFS's port in the namespace: proc_pid_net(5), state 0A, addresses in hexadecimal.
fn is_served(namespace: i32) -> bool {
    ["tcp", "tcp6"].into_iter().any(|name| {
        let table = fs::read_to_string(format!("/proc/{namespace}/net/{name}")).unwrap_or_default();
        table.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.nth(1).is_some_and(|local| local.ends_with(":0801")) && fields.nth(1) == Some("0A")
        })
    })
}

/// Version 4 alone needs neither rpcbind nor dbus.
fn settings(dir: &Path) -> String {
    let dir = dir.display();
    let export = |id: u32, name: &str, access: &str| {
        format!(
            "EXPORT {{ Export_Id = {id}; Path = \"{dir}/served\"; Pseudo = /{name}; Access_Type = {access};\n\
             Squash = No_Root_Squash; Protocols = 4; Transports = TCP; SecType = sys; PrivilegedPort = false;\n\
             FSAL {{ Name = VFS; }} }}\n"
        )
    };
    format!(
        "NFS_CORE_PARAM {{ NFS_Port = 2049; MNT_Port = 2050; Protocols = 4; Bind_addr = {SERVER}; Enable_NLM = false;\n\
         Enable_RQUOTA = false; mount_path_pseudo = true; }}\n\
         NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = \"{dir}/recovery\";\n\
         Minor_Versions = 0,1,2; Only_Numeric_Owners = true; }}\n\
         NFS_KRB5 {{ Active_krb5 = false; }}\n{}{}",
        export(1, "share", "RW"),
        export(2, "readonly", "RO"),
    )
}

/// The files of the NFS client in the kernel for user mode, each after those that it needs.
fn modules(kernel: &str) -> Result<Vec<PathBuf>> {
    let version = command::output(kernel, &["--version"])?;
    let version = version.lines().last().unwrap_or_default().trim();
    let dir = Path::new("/usr/lib/uml/modules").join(version);
    let text = fs::read_to_string(dir.join("modules.dep")).with_context(|| format!("{}/modules.dep", dir.display()))?;
    let mut found: Vec<PathBuf> = Vec::new();
    for name in ["/nfsv4.ko", "/nfsv3.ko"] {
        let line = text.lines().find_map(|line| line.split_once(':').filter(|(module, _)| module.ends_with(name)));
        let (module, needs) = line.with_context(|| format!("{version} has no module {name}"))?;
        for file in needs.split_whitespace().rev().chain([module]) {
            let file = dir.join(file);
            if !found.contains(&file) {
                found.push(file);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_nfs_client_writes_and_its_status_comes_back() {
        let rig = NfsRig::start().unwrap();
        let pid = rig.server.pid();
        let script = "mount -t nfs -o vers=4.2 \"$SHARE\" /mnt && stat -f -c %T /mnt && echo words > /mnt/file; exit 7";
        let out = rig.run(&["sh", "-c", script], &[("SHARE", &rig.address())], command::LONG).unwrap();
        assert_eq!((out.code, out.stdout.as_str()), (7, "nfs\n"), "{}", out.stderr);
        assert_eq!(fs::read_to_string(rig.served().join("file")).unwrap(), "words\n");
        drop(rig);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
