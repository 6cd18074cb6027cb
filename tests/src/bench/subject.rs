//! Ourselves under measurement: a daemon, a libvirtd, one running VM with the measured disk.
//!
//! Times are those of a client: from the call until the daemon answers that it is done, asked often enough that the
//! asking costs neither precision nor the processor (a hundredth of the time passed, 5 ms to 50 ms).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::content::settle;
use super::cpu;
use crate::cloud::{Cloud, datastore_template};
use crate::command;
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

/// A cloud with one VM.
#[derive(Debug)]
pub struct Subject {
    cloud: Cloud,
    vm: i64,
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
    /// Starts all of it below `folder`; the VM's disk begins as the content of `qcow2`, which lies in `folder` too.
    /// The guest has no system: who writes is the monitor, through the guest's own device.
    ///
    /// # Errors
    /// When any step fails.
    pub fn start(folder: &Path, qcow2: &Path) -> Result<Self> {
        let cloud = Cloud::start(Options { state: Some(folder.join("one")), ..Options::default() })?;
        let safe = folder.join("default.tmpl");
        fs::write(&safe, format!("SAFE_DIRS = \"{}\"\n", folder.display()))?;
        cloud.one.ok("onedatastore", &["update", &IMAGES.to_string(), &safe.to_string_lossy(), "--append"])?;
        let image = cloud.image("bench-disk", qcow2)?;
        let text = format!(
            "NAME = \"bench\"\nCPU = \"0.1\"\nVCPU = \"1\"\nMEMORY = \"64\"\n\
             OS = [ ARCH = \"x86_64\", MACHINE = \"q35\" ]\nDISK = [ IMAGE_ID = \"{image}\" ]\n\
             BACKUP_CONFIG = [ MODE = \"INCREMENT\", FS_FREEZE = \"NONE\" ]\n"
        );
        let template = cloud.one.create("onetemplate", &text, &[])?;
        let vm = cloud.instantiate(template, "bench")?;
        Ok(Self { cloud, vm })
    }

    /// The hypervisor.
    #[must_use]
    pub fn libvirtd(&self) -> &crate::libvirtd::Libvirtd {
        &self.cloud.libvirtd
    }

    /// The VM's name there.
    #[must_use]
    pub fn domain(&self) -> String {
        format!("one-{}", self.vm)
    }

    /// The file that takes what the daemon logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.cloud.one.log()
    }

    /// Makes an empty backup datastore; its id. `more` is added to its template.
    ///
    /// # Errors
    /// When it is refused.
    pub fn datastore(&self, name: &str, more: &str) -> Result<i64> {
        self.cloud.one.create("onedatastore", &format!("{}{more}\n", datastore_template(name, "bench")), &[])
    }

    /// A first backup into an empty datastore, its repository made on the way.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn full(&self, datastore: i64) -> Result<Point> {
        self.backup(datastore, true, "FULL")
    }

    /// The next increment of the chain in `datastore`.
    ///
    /// # Errors
    /// When it is refused or fails, or when everything was read.
    pub fn increment(&self, datastore: i64) -> Result<Point> {
        self.backup(datastore, false, "INCREMENT")
    }

    fn backup(&self, datastore: i64, reset: bool, kind: &str) -> Result<Point> {
        let before = self.state()?;
        let points_before = self.points()?.map_or(0, |(_, document)| increments(&document).len());
        settle();
        let cpu = self.cpu_s()?;
        let started = Instant::now();
        let answer = self.cloud.one.call("one.vm.backup", &[self.vm.into(), datastore.into(), reset.into()])?;
        answer.id()?;
        let took = wait(started, || Ok(self.state()? == before))?;
        let cpu_s = self.cpu_s()? - cpu;
        let (image, document) = self.points()?.context("the VM has no backup")?;
        let points = increments(&document);
        let made = if reset { points.len() == 1 } else { points.len() == points_before + 1 };
        let last = points.last().context("the backup has no restore point")?;
        if !made || last.text("TYPE") != kind {
            let vm = self.cloud.one.vm(self.vm)?;
            bail!("no restore point of type {kind} was made; {}", vm.text("USER_TEMPLATE/ERROR"));
        }
        let info = document.find_all("TEMPLATE/INCREMENT_INFO").into_iter().last().context("no INCREMENT_INFO")?;
        if kind == "INCREMENT" && !info.text("REASON").is_empty() {
            bail!("this increment is none: {}", info.text("REASON"));
        }
        let bytes = |name| Ok::<_, anyhow::Error>(u64::try_from(info.number(name)?)?);
        Ok(Point { took, cpu_s, image, read_bytes: bytes("READ_BYTES")?, stored_bytes: bytes("STORED_BYTES")? })
    }

    /// Restores the last point of a backup image into the image datastore; how long until the image is READY, its id and
    /// its file.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn restore(&self, backup: i64, name: &str) -> Result<(Duration, i64, PathBuf)> {
        settle();
        let options = format!("NAME = \"{name}\"");
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
        command::wait_for("the image's file to go", command::ORDINARY, || Ok((!file.exists()).then_some(())))
    }

    /// Switches the VM off.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn power_off(&self) -> Result<()> {
        self.cloud.one.ok("onevm", &["poweroff", &self.vm.to_string(), "--hard", "--wait"])?;
        self.cloud.one.wait_vm(self.vm, OFF.0, OFF.1).map(drop)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn resume(&self) -> Result<()> {
        self.cloud.one.ok("onevm", &["resume", &self.vm.to_string()])?;
        self.cloud.one.wait_vm(self.vm, RUNNING.0, RUNNING.1).map(drop)
    }

    /// Ends it all in good order.
    ///
    /// # Errors
    /// When the daemon does not end.
    pub fn stop(self) -> Result<()> {
        self.cloud.one.stop()
    }

    /// Processor time of the daemon, of the children that it has waited for, and of the VM's QEMU if it runs.
    fn cpu_s(&self) -> Result<f64> {
        let daemon = self.cloud.one.pid().context("the daemon does not run")?;
        let qemu = self.cloud.libvirtd.domain_pid(&self.domain()).ok();
        let of_qemu = qemu.and_then(|pid| cpu::of_process(&pid.to_string()).ok()).unwrap_or(0.0);
        Ok(cpu::of_process(&daemon.to_string())? + cpu::of_children(&daemon.to_string())? + of_qemu)
    }

    fn state(&self) -> Result<(i64, i64)> {
        let vm = self.cloud.one.vm(self.vm)?;
        Ok((vm.number("STATE")?, vm.number("LCM_STATE")?))
    }

    fn image(&self, id: i64) -> Result<Element> {
        xml::parse(self.cloud.one.call("one.image.info", &[id.into()])?.text()?)
    }

    /// The VM's newest backup image.
    fn points(&self) -> Result<Option<(i64, Element)>> {
        let Some(image) = self.cloud.backup_images(self.vm)?.into_iter().max() else { return Ok(None) };
        Ok(Some((image, self.image(image)?)))
    }
}

fn increments(image: &Element) -> Vec<&Element> {
    image.find_all("BACKUP_INCREMENTS/INCREMENT")
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
