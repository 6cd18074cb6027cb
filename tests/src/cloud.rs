//! A whole small cloud for a story: a daemon, a libvirtd as its only host, a backup datastore, and the steps that
//! nearly every story about backups takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::command::{self, wait_for};
use crate::daemon::{Daemon, Options, id_in, labelled};
use crate::guest::{self, Guest};
use crate::libvirtd::Libvirtd;
use crate::xml::{self, Element};

/// A daemon, a libvirtd, and what every story about backups begins with.
#[derive(Debug)]
pub struct Cloud {
    /// The daemon. Before the libvirtd: it is ended first.
    pub one: Daemon,
    /// Its only host's hypervisor.
    pub libvirtd: Libvirtd,
    /// The host.
    pub host: i64,
    /// A restic backup datastore.
    pub datastore: i64,
    /// The password of that datastore's repositories.
    pub password: String,
    /// Where the stories keep their disks.
    pub work: TempDir,
}

impl Cloud {
    /// Starts both and registers the host and the datastore.
    ///
    /// # Errors
    /// When any step fails.
    pub fn start(mut options: Options) -> Result<Self> {
        let work = tempfile::Builder::new().prefix("kl").tempdir_in("/tmp")?;
        let libvirtd = Libvirtd::start(work.path().join("v"))?;
        // Images may be made of files in these directories only.
        options.conf.push_str(&format!("\nSAFE_DIRS = \"{}\"\n", work.path().display()));
        let one = Daemon::start(options)?;
        let host = id_in(&one.ok("onehost", &["create", "localhost", "--im", "qemu", "--vm", "qemu"])?)?;
        let uri = work.path().join("host.tmpl");
        fs::write(&uri, format!("LIBVIRT_URI = \"{}\"\n", libvirtd.uri()))?;
        one.ok("onehost", &["update", &host.to_string(), &uri.to_string_lossy(), "--append"])?;
        let password = "pass: word \"with' quotes".to_owned();
        let datastore = one.create("onedatastore", &datastore_template("backups", &password), &[])?;
        Ok(Self { one, libvirtd, host, datastore, password, work })
    }

    /// Registers an image from a file and waits until it is ready; its id.
    ///
    /// # Errors
    /// When it is refused or ends in an error.
    pub fn image(&self, name: &str, file: &Path) -> Result<i64> {
        let text = format!("NAME = \"{name}\"\nTYPE = \"OS\"\nPATH = \"{}\"\nFORMAT = \"qcow2\"\n", file.display());
        let id = self.one.create("oneimage", &text, &["-d", "default"])?;
        self.wait_image(id)?;
        Ok(id)
    }

    /// The guest's kernel and initial RAM disk in a place that VMs may boot from.
    ///
    /// # Errors
    /// When the guest cannot be built or copied.
    pub fn guest(&self) -> Result<Guest> {
        let built = Guest::built()?;
        // Beside the disks: kernels may come from the safe directories only.
        let here = |file: &Path, name: &str| -> Result<PathBuf> {
            let copy = self.work.path().join(name);
            fs::copy(file, &copy)?;
            Ok(copy)
        };
        Ok(Guest { kernel: here(&built.kernel, "vmlinuz")?, initrd: here(&built.initrd, "initrd")? })
    }

    /// Waits until the system of a VM's guest is up and its agent answers.
    ///
    /// # Errors
    /// When that takes longer than two minutes each.
    pub fn wait_guest(&self, vm: i64) -> Result<()> {
        let (uri, domain) = (self.libvirtd.uri(), format!("one-{vm}"));
        guest::wait_ready(&guest::serial_log(&uri, &domain)?)?;
        guest::wait_agent(&uri, &domain)
    }

    /// Waits until an image is READY (1) or USED (2); its document.
    ///
    /// # Errors
    /// When it is in ERROR (5), or not ready within two minutes.
    pub fn wait_image(&self, id: i64) -> Result<Element> {
        wait_for(&format!("image {id} to be ready"), Duration::from_secs(120), || {
            let image = xml::parse(self.one.call("one.image.info", &[id.into()])?.text()?)?;
            match image.number("STATE")? {
                1 | 2 => Ok(Some(image)),
                5 => bail!("image {id} is in ERROR: {}", image.text("TEMPLATE/ERROR")),
                _ => Ok(None),
            }
        })
    }

    /// Makes a VM whose disk is a new empty qcow2 image, with nothing to boot, and waits until it runs; its id.
    ///
    /// It uses no guest; disk writes come from the monitor ([`Libvirtd::write`] on domain `one-ID`).
    ///
    /// # Errors
    /// When any step fails.
    pub fn blank_vm(&self, name: &str, size: &str, backup_config: &str) -> Result<i64> {
        let disk = self.work.path().join(format!("{name}.qcow2"));
        command::output("qemu-img", &["create", "-q", "-f", "qcow2", &disk.to_string_lossy(), size])?;
        let image = self.image(&format!("{name}-disk"), &disk)?;
        let text = format!(
            "NAME = \"{name}\"\nCPU = \"0.1\"\nVCPU = \"1\"\nMEMORY = \"32\"\n\
             OS = [ ARCH = \"x86_64\", MACHINE = \"q35\" ]\nDISK = [ IMAGE_ID = \"{image}\" ]\n\
             BACKUP_CONFIG = [ {backup_config} ]\n"
        );
        let template = self.one.create("onetemplate", &text, &[])?;
        self.instantiate(template, name)
    }

    /// Instantiates a template and waits until the VM runs; its id.
    ///
    /// # Errors
    /// When it is refused or fails to start.
    pub fn instantiate(&self, template: i64, name: &str) -> Result<i64> {
        let template = template.to_string();
        id_in(&self.one.ok("onetemplate", &["instantiate", &template, "--name", name, "--wait"])?)
    }

    /// Backs a VM up now and waits for the end.
    ///
    /// # Errors
    /// When the backup is refused or fails.
    pub fn backup(&self, vm: i64) -> Result<String> {
        let (vm, datastore) = (vm.to_string(), self.datastore.to_string());
        self.one.ok("onevm", &["backup", &vm, "-d", &datastore, "--wait"])
    }

    /// The ids of a VM's backup images.
    ///
    /// # Errors
    /// When the VM is unknown.
    pub fn backup_images(&self, vm: i64) -> Result<Vec<i64>> {
        let vm = self.one.vm(vm)?;
        vm.texts("BACKUPS/BACKUP_IDS/ID").into_iter().map(|id| id.parse().context("BACKUP_IDS")).collect()
    }

    /// Restores a backup image into the default datastore and waits for the data; template id and image ids.
    ///
    /// # Errors
    /// When it is refused or fails.
    pub fn restore(&self, image: i64, more: &[&str]) -> Result<(i64, Vec<i64>)> {
        let image = image.to_string();
        let arguments: Vec<&str> =
            ["restore", &image, "-d", "default", "--wait"].into_iter().chain(more.iter().copied()).collect();
        let said = self.one.ok("oneimage", &arguments)?;
        let template = labelled(&said, "Template").ok().and_then(|ids| ids.first().copied()).unwrap_or(-1);
        Ok((template, labelled(&said, "Images")?))
    }
}

/// The template of a restic backup datastore.
#[must_use]
pub fn datastore_template(name: &str, password: &str) -> String {
    let password = password.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "NAME = \"{name}\"\nTYPE = \"BACKUP_DS\"\nDS_MAD = \"restic\"\nTM_MAD = \"-\"\nRESTIC_PASSWORD = \"{password}\"\n"
    )
}
