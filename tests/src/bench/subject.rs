//! Ourselves under measurement: a daemon, a libvirtd, running VMs with the measured disks.
//!
//! Times are those of a client: from the call until the daemon answers that it is done, asked often enough that the
//! asking costs neither precision nor the processor (a hundredth of the time passed, 5 ms to 50 ms).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::content::{Dirt, settle};
use super::cpu;
use crate::cloud::{Cloud, datastore_template};
use crate::command::{ORDINARY, wait_for};
use crate::daemon::Options;
use crate::xml::{self, Element};

/// Moving gigabytes on a slow disk.
const PATIENCE: Duration = Duration::from_secs(1800);
/// The datastore of images that every cloud has.
const IMAGES: i64 = 1;

/// STATE and LCM_STATE of a VM that runs.
const RUNNING: (i64, i64) = (3, 3);
/// STATE and LCM_STATE of a VM that is off.
const OFF: (i64, i64) = (8, 0);

/// A cloud.
#[derive(Debug)]
pub struct Subject {
    cloud: Cloud,
}

/// Which driver a backup datastore has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A repository in restic format for each VM.
    Restic,
    /// One repository for all VMs.
    SharedRestic,
    /// Plain qcow2 files.
    Plain,
}

/// One restore point as the daemon describes it.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// From the call until the VM was back.
    pub took: Duration,
    /// Seconds of processor time that the daemon and QEMU used meanwhile.
    pub cpu_s: f64,
    /// The backup image.
    pub image: i64,
    /// Bytes read from the VM's disk.
    pub read_bytes: u64,
    /// Bytes that the repository grew by.
    pub stored_bytes: u64,
}

impl Subject {
    /// Starts all of it below `folder`.
    ///
    /// # Errors
    /// When any step fails.
    pub fn start(folder: &Path) -> Result<Self> {
        // A regular comparison of the whole disk is no increment to measure.
        let conf = "BACKUP_COMPARE_EVERY = 0\nDATASTORE_CAPACITY_CHECK = \"no\"\n".to_owned();
        let cloud = Cloud::start(Options { state: Some(folder.join("one")), conf, ..Options::default() })?;
        let safe = folder.join("default.tmpl");
        fs::write(&safe, format!("SAFE_DIRS = \"{}\"\n", folder.display()))?;
        cloud.one.ok("onedatastore", &["update", &IMAGES.to_string(), &safe.to_string_lossy(), "--append"])?;
        Ok(Self { cloud })
    }

    /// A running VM whose disk begins as the content of `qcow2`, which lies in the folder of the start; its id. The guest
    /// has no system: who writes is the monitor, through the guest's own device.
    ///
    /// # Errors
    /// When any step fails.
    pub fn machine(&self, name: &str, qcow2: &Path) -> Result<i64> {
        let image = self.cloud.image(&format!("{name}-disk"), qcow2)?;
        let text = format!(
            "NAME = \"{name}\"\nCPU = \"0.1\"\nVCPU = \"1\"\nMEMORY = \"64\"\n\
             OS = [ ARCH = \"x86_64\", MACHINE = \"q35\" ]\nDISK = [ IMAGE_ID = \"{image}\" ]\n\
             BACKUP_CONFIG = [ MODE = \"INCREMENT\", FS_FREEZE = \"NONE\" ]\n"
        );
        let template = self.cloud.one.create("onetemplate", &text, &[])?;
        self.cloud.instantiate(template, name)
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<i32> {
        self.cloud.one.pid().context("the daemon does not run")
    }

    /// All of it.
    #[must_use]
    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// The hypervisor.
    #[must_use]
    pub fn libvirtd(&self) -> &crate::libvirtd::Libvirtd {
        &self.cloud.libvirtd
    }

    /// A VM's name there.
    #[must_use]
    pub fn domain(vm: i64) -> String {
        format!("one-{vm}")
    }

    /// The file that takes what the daemon logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.cloud.one.log()
    }

    /// Makes an empty backup datastore; its id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn datastore(&self, name: &str, driver: Driver) -> Result<i64> {
        let restic = datastore_template(name, "bench");
        let text = match driver {
            Driver::Restic => restic,
            Driver::SharedRestic => format!("{restic}RESTIC_SHARED = \"YES\"\n"),
            Driver::Plain => {
                format!("NAME = \"{name}\"\nTYPE = \"BACKUP_DS\"\nDS_MAD = \"nfs\"\nTM_MAD = \"-\"\n")
            }
        };
        self.cloud.one.create("onedatastore", &text, &[])
    }

    /// Makes an empty backup datastore that takes 4 MiB a second; its id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn slow_datastore(&self, name: &str) -> Result<i64> {
        let text = datastore_template(name, "bench");
        self.cloud.one.create("onedatastore", &format!("{text}LIMIT_MB_S = \"4\"\n"), &[])
    }

    /// Begins a backup of everything, overwrites the disk meanwhile, and gives the backup up; bytes that its scratch file
    /// took.
    ///
    /// # Errors
    /// When a step is refused or fails, or the backup was over before the writes were.
    pub fn scratch_bytes(&self, vm: i64, datastore: i64, dirt: &Dirt) -> Result<u64> {
        let before = self.state(vm)?;
        self.cloud.one.call("one.vm.backup", &[vm.into(), datastore.into(), true.into()])?.id()?;
        let folder = self.cloud.one.state().join(format!("datastores/0/{vm}"));
        let scratch = wait_for("the scratch file", ORDINARY, || {
            let files = fs::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
            Ok(files.into_iter().find(|path| path.to_string_lossy().contains(".scratch-")))
        })?;
        dirt.write_to_guest(self.libvirtd(), &Self::domain(vm))?;
        settle();
        let taken = fs::metadata(&scratch).context("the backup was over too soon")?.blocks() * 512;
        self.cloud.one.call("one.vm.backupcancel", &[vm.into()])?.id()?;
        wait(Instant::now(), || Ok(self.state(vm)? == before))?;
        Ok(taken)
    }

    /// A first backup into an empty datastore, its repository made on the way.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn full(&self, vm: i64, datastore: i64) -> Result<Point> {
        self.backup(vm, datastore, true, "FULL")
    }

    /// The next increment of the chain in `datastore`.
    ///
    /// # Errors
    /// When it is refused or fails, or when everything was read.
    pub fn increment(&self, vm: i64, datastore: i64) -> Result<Point> {
        self.backup(vm, datastore, false, "INCREMENT")
    }

    fn backup(&self, vm: i64, datastore: i64, reset: bool, kind: &str) -> Result<Point> {
        let before = self.state(vm)?;
        // By number: KEEP_LAST may take the oldest before we look.
        let last_before = self.points(vm)?.map_or(-1, |(_, document)| last_increment(&document));
        settle();
        let cpu = self.cpu_s(vm)?;
        let started = Instant::now();
        let answer = self.cloud.one.call("one.vm.backup", &[vm.into(), datastore.into(), reset.into()])?;
        answer.id()?;
        let took = wait(started, || Ok(self.state(vm)? == before))?;
        let cpu_s = self.cpu_s(vm)? - cpu;
        let (image, document) = self.points(vm)?.context("the VM has no backup")?;
        let points = increments(&document);
        let made = last_increment(&document) == if reset { 0 } else { last_before + 1 };
        let last = points.last().context("the backup has no restore point")?;
        if !made || last.text("TYPE") != kind {
            let vm = self.cloud.one.vm(vm)?;
            bail!("no restore point of type {kind} was made; {}", vm.text("USER_TEMPLATE/ERROR"));
        }
        let info = document.find_all("TEMPLATE/INCREMENT_INFO").into_iter().last().context("no INCREMENT_INFO")?;
        if kind == "INCREMENT" && !info.text("REASON").is_empty() {
            bail!("this increment is none: {}", info.text("REASON"));
        }
        let bytes = |name| Ok::<_, anyhow::Error>(u64::try_from(info.number(name)?)?);
        Ok(Point { took, cpu_s, image, read_bytes: bytes("READ_BYTES")?, stored_bytes: bytes("STORED_BYTES")? })
    }

    /// Restores a point of a backup image (none = the last) into the image datastore; how long until the image is READY, its id and
    /// its file.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn restore(&self, backup: i64, increment: Option<usize>, name: &str) -> Result<(Duration, i64, PathBuf)> {
        settle();
        let increment = increment.map_or_else(String::new, |id| format!("INCREMENT_ID = \"{id}\"\n"));
        let options = format!("NAME = \"{name}\"\n{increment}");
        let started = Instant::now();
        let call =
            self.cloud.one.call("one.image.restore", &[backup.into(), IMAGES.into(), options.as_str().into()])?;
        let ids = call.text()?;
        let image = ids.split(' ').nth(1).and_then(|id| id.parse().ok()).with_context(|| format!("ids {ids:?}"))?;
        let took = wait(started, || {
            let document = self.image(image)?;
            match document.number("STATE")? {
                1 => Ok(true),
                5 => bail!("restoring ended in an error: {}", document.text("TEMPLATE/ERROR")),
                _ => Ok(false),
            }
        })?;
        Ok((took, image, PathBuf::from(self.image(image)?.text("SOURCE"))))
    }

    /// Removes an image and waits until its file is gone.
    ///
    /// # Errors
    /// When it is refused, or the file is still there after a minute.
    pub fn delete_image(&self, image: i64, file: &Path) -> Result<()> {
        self.cloud.one.call("one.image.delete", &[image.into()])?.id()?;
        wait_for("the image's file to go", ORDINARY, || Ok((!file.exists()).then_some(())))
    }

    /// Switches the VM off.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn power_off(&self, vm: i64) -> Result<()> {
        self.cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"])?;
        self.cloud.one.wait_vm(vm, OFF.0, OFF.1).map(drop)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn resume(&self, vm: i64) -> Result<()> {
        self.cloud.one.ok("onevm", &["resume", &vm.to_string()])?;
        self.cloud.one.wait_vm(vm, RUNNING.0, RUNNING.1).map(drop)
    }

    /// First backups of several VMs into one datastore, all asked for at once; until the last VM is back.
    ///
    /// # Errors
    /// When one is refused or fails.
    pub fn at_once(&self, vms: &[i64], datastore: i64) -> Result<Duration> {
        settle();
        let started = Instant::now();
        for vm in vms {
            self.cloud.one.call("one.vm.backup", &[(*vm).into(), datastore.into(), true.into()])?.id()?;
        }
        for vm in vms {
            wait(started, || Ok(self.state(*vm)? == RUNNING))?;
        }
        let took = started.elapsed();
        for vm in vms {
            self.points(*vm)?.with_context(|| format!("VM {vm} has no backup"))?;
        }
        Ok(took)
    }

    /// Sets KEEP_LAST of a VM.
    ///
    /// # Errors
    /// When it is refused.
    pub fn keep_last(&self, vm: i64, count: usize) -> Result<()> {
        let text = format!("BACKUP_CONFIG = [ MODE = \"INCREMENT\", FS_FREEZE = \"NONE\", KEEP_LAST = \"{count}\" ]");
        self.cloud.one.call("one.vm.updateconf", &[vm.into(), text.as_str().into(), 1.into()])?.id().map(drop)
    }

    /// The number of restore points of a backup image.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn count(&self, image: i64) -> Result<usize> {
        Ok(increments(&self.image(image)?).len())
    }

    /// Waits until a backup image has only `count` restore points.
    ///
    /// # Errors
    /// When that does not come.
    pub fn wait_count(&self, image: i64, count: usize) -> Result<()> {
        wait(Instant::now(), || Ok(self.count(image)? == count)).map(drop)
    }

    /// Reads every byte of a backup image, until the answer is known.
    ///
    /// # Errors
    /// When it is refused or finds something.
    pub fn verify(&self, image: i64) -> Result<Duration> {
        settle();
        let started = Instant::now();
        self.cloud.one.ok("oneimage", &["verify", &image.to_string(), "--deep", "--wait"])?;
        Ok(started.elapsed())
    }

    /// Ends it all in good order.
    ///
    /// # Errors
    /// When the daemon does not end.
    pub fn stop(self) -> Result<()> {
        self.cloud.one.stop()
    }

    /// Processor time of the daemon, of its children, and of the VM's QEMU if it runs.
    fn cpu_s(&self, vm: i64) -> Result<f64> {
        let daemon = self.pid()?;
        let qemu = self.cloud.libvirtd.domain_pid(&Self::domain(vm)).ok();
        let of_qemu = qemu.and_then(|pid| cpu::of_process(&pid.to_string()).ok()).unwrap_or(0.0);
        Ok(cpu::of_tree(daemon)? + of_qemu)
    }

    fn state(&self, vm: i64) -> Result<(i64, i64)> {
        let vm = self.cloud.one.vm(vm)?;
        Ok((vm.number("STATE")?, vm.number("LCM_STATE")?))
    }

    fn image(&self, id: i64) -> Result<Element> {
        xml::parse(self.cloud.one.call("one.image.info", &[id.into()])?.text()?)
    }

    /// A VM's newest backup image.
    fn points(&self, vm: i64) -> Result<Option<(i64, Element)>> {
        let Some(image) = self.cloud.backup_images(vm)?.into_iter().max() else { return Ok(None) };
        Ok(Some((image, self.image(image)?)))
    }
}

fn increments(image: &Element) -> Vec<&Element> {
    image.find_all("BACKUP_INCREMENTS/INCREMENT")
}

/// Number of the last one; −1 when there is none.
fn last_increment(image: &Element) -> i64 {
    increments(image).last().and_then(|point| point.number("ID").ok()).unwrap_or(-1)
}

fn wait(started: Instant, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    loop {
        let passed = started.elapsed();
        if done()? {
            return Ok(started.elapsed());
        }
        if passed > PATIENCE {
            bail!("not done after {passed:?}");
        }
        std::thread::sleep((passed / 100).clamp(Duration::from_millis(5), Duration::from_millis(50)));
    }
}
