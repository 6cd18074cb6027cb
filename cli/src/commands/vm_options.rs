//! What a VM is to be, said by options instead of a template: `onevm create`, `onetemplate create` and `instantiate`.
//!
//! The options are OpenNebula's, but for passwords, which have no place in an argument list: they go into a template.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::template_text::{attribute, in_front, vector};
use crate::{input, units};

/// The options; each becomes an attribute or part of one.
#[derive(Args, Clone, Debug, Default)]
pub struct VmOptions {
    /// Share of the host's processors, like 0.5
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<f64>,
    /// Virtual processors
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    vcpu: Option<u32>,
    /// Memory: 512m, 8g; without a unit MB
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Architecture of the guest, like x86_64
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Images by id, name or USER[NAME], each with attributes if need be: alpine:size=2048:target=vdb
    #[arg(long, value_name = "IMAGE,...", value_delimiter = ',')]
    disk: Vec<String>,
    /// Networks by id, name or USER[NAME], each with attributes if need be: lan:ip=10.0.0.7
    #[arg(long, alias = "network", value_name = "NETWORK,...", value_delimiter = ',')]
    nic: Vec<String>,
    /// Order in which devices are tried at boot, like disk0,nic0
    #[arg(long, value_name = "DEVICE,...")]
    boot: Option<String>,
    #[command(flatten)]
    screen: Screen,
    #[command(flatten)]
    context: Context,
    /// Template text that goes in as it is
    #[arg(long, value_name = "TEXT")]
    raw: Option<String>,
}

/// How the guest is looked at.
#[derive(Args, Clone, Debug, Default)]
struct Screen {
    /// A screen over VNC
    #[arg(long, conflicts_with = "spice")]
    vnc: bool,
    /// Address that VNC listens on; without it every one (0.0.0.0)
    #[arg(long, value_name = "ADDRESS", requires = "vnc")]
    vnc_listen: Option<String>,
    /// Keyboard of VNC, like de
    #[arg(long, value_name = "KEYMAP", requires = "vnc")]
    vnc_keymap: Option<String>,
    /// A screen over SPICE
    #[arg(long)]
    spice: bool,
    /// Address that SPICE listens on; without it every one (0.0.0.0)
    #[arg(long, value_name = "ADDRESS", requires = "spice")]
    spice_listen: Option<String>,
    /// Keyboard of SPICE, like de
    #[arg(long, value_name = "KEYMAP", requires = "spice")]
    spice_keymap: Option<String>,
    /// Graphics card: vga, cirrus, virtio, none
    #[arg(long, value_name = "TYPE")]
    video: Option<String>,
    /// An IOMMU for the graphics card
    #[arg(long, requires = "video")]
    video_iommu: bool,
    /// Address translation services for the graphics card
    #[arg(long, requires = "video")]
    video_ats: bool,
    /// Memory of the graphics card: 16m; without a unit MB
    #[arg(long, value_name = "SIZE", requires = "video")]
    video_vram: Option<String>,
    /// Resolution of the graphics card, like 1280x720
    #[arg(long, value_name = "SIZE", requires = "video")]
    video_resolution: Option<String>,
}

/// What the guest is told.
#[derive(Args, Clone, Debug, Default)]
struct Context {
    /// File with a public key for the guest
    #[arg(long, value_name = "FILE")]
    ssh: Option<PathBuf>,
    /// Tell the guest its addresses
    #[arg(long = "net_context", alias = "net-context")]
    net_context: bool,
    /// More lines of CONTEXT
    #[arg(long, value_name = "NAME=VALUE,...", value_delimiter = ',')]
    context: Vec<String>,
    /// File with a script that the guest runs when it starts
    #[arg(long, value_name = "FILE")]
    startscript: Option<PathBuf>,
    /// The guest reports to OneGate when it is up
    #[arg(long = "report_ready", alias = "report-ready")]
    report_ready: bool,
}

type Pairs = Vec<(&'static str, String)>;

impl VmOptions {
    /// The template text of what was said; empty when nothing was.
    ///
    /// # Errors
    /// For a value that cannot be understood, a file that cannot be read.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        let memory = self.memory.as_deref().map(|size| mib("--memory", size)).transpose()?;
        if self.cpu.is_some_and(|cpu| !cpu.is_finite() || cpu <= 0.0) {
            bail!("--cpu: write a number above 0, like 0.5");
        }
        let numbers = [
            ("CPU", self.cpu.map(|cpu| cpu.to_string())),
            ("VCPU", self.vcpu.map(|count| count.to_string())),
            ("MEMORY", memory),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                text.push_str(&attribute(name, &value)?);
            }
        }
        push(&mut text, "OS", &given([("ARCH", self.arch.clone()), ("BOOT", self.boot.clone())]))?;
        for disk in &self.disk {
            text.push_str(&device("DISK", "IMAGE", disk)?);
        }
        for nic in &self.nic {
            text.push_str(&device("NIC", "NETWORK", nic)?);
        }
        self.screen.push(&mut text)?;
        self.context.push(&mut text)?;
        if let Some(raw) = &self.raw {
            text.push_str(raw.trim_end());
            text.push('\n');
        }
        Ok(text)
    }

    /// Does any option say something?
    ///
    /// # Errors
    /// As [`VmOptions::text`].
    pub fn is_given(&self) -> Result<bool> {
        Ok(!self.text()?.is_empty())
    }

    /// The text of the options and the template of `file` (`-` is standard input), or of standard input when no option says
    /// anything. Options go first: of two scalars of one name the first counts.
    ///
    /// # Errors
    /// As [`VmOptions::text`] and [`input::read_required`].
    pub fn with_file(&self, name: Option<&str>, file: Option<&Path>) -> Result<String> {
        let options = self.text()?;
        let mut text = name.map(|name| attribute("NAME", name)).transpose()?.unwrap_or_default();
        text.push_str(&options);
        // With options and no file, whatever standard input is is nobody's business.
        if file.is_some() || options.is_empty() {
            text = in_front(&text, &input::read_required(file)?)?;
        }
        Ok(text)
    }
}

impl Screen {
    fn push(&self, text: &mut String) -> Result<()> {
        let (kind, listen, keymap) = match (self.vnc, self.spice) {
            (true, _) => ("VNC", &self.vnc_listen, &self.vnc_keymap),
            (_, true) => ("SPICE", &self.spice_listen, &self.spice_keymap),
            _ => ("", &None, &None),
        };
        if !kind.is_empty() {
            let listen = Some(listen.clone().unwrap_or_else(|| "0.0.0.0".to_owned()));
            push(
                text,
                "GRAPHICS",
                &given([("TYPE", Some(kind.to_owned())), ("LISTEN", listen), ("KEYMAP", keymap.clone())]),
            )?;
        }
        let vram = self.video_vram.as_deref().map(|size| mib("--video-vram", size)).transpose()?;
        // VRAM is in KiB.
        let vram = vram.and_then(|mib| mib.parse::<u64>().ok()).map(|mib| mib.saturating_mul(1024).to_string());
        push(
            text,
            "VIDEO",
            &given([
                ("TYPE", self.video.clone()),
                ("IOMMU", yes(self.video_iommu)),
                ("ATS", yes(self.video_ats)),
                ("VRAM", vram),
                ("RESOLUTION", self.video_resolution.clone()),
            ]),
        )
    }
}

impl Context {
    fn push(&self, text: &mut String) -> Result<()> {
        let key = self.ssh.as_deref().map(|file| input::read_required(Some(file))).transpose()?;
        let script = self.startscript.as_deref().map(|file| input::read_required(Some(file))).transpose()?;
        let mut pairs: Vec<(&str, String)> = given([
            ("NETWORK", yes(self.net_context)),
            ("SSH_PUBLIC_KEY", key.map(|key| key.trim().to_owned())),
            // Scripts have quotes and backslashes, which template text cannot carry together.
            ("START_SCRIPT_BASE64", script.map(|script| base64(script.as_bytes()))),
            ("REPORT_READY", yes(self.report_ready)),
            ("TOKEN", yes(self.report_ready)),
        ]);
        for line in &self.context {
            let (name, value) = pair("--context", line)?;
            pairs.push((name, value.trim_matches('"').to_owned()));
        }
        push(text, "CONTEXT", &pairs)
    }
}

fn yes(flag: bool) -> Option<String> {
    flag.then(|| "YES".to_owned())
}

fn given<const N: usize>(pairs: [(&'static str, Option<String>); N]) -> Pairs {
    pairs.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

fn push(text: &mut String, name: &str, pairs: &[(&str, String)]) -> Result<()> {
    if !pairs.is_empty() {
        text.push_str(&vector(name, pairs)?);
    }
    Ok(())
}

/// `NAME=VALUE`.
///
/// # Errors
/// When it is none.
pub fn pair<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match text.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
        Some((name, value)) if is_name(name) => Ok((name, value)),
        _ => bail!("{option} {text}: write NAME=VALUE; names have letters, digits and _"),
    }
}

/// A DISK or NIC: `7`, `name`, `user[name]`, each with `:attribute=value` behind it.
fn device(name: &str, kind: &str, text: &str) -> Result<String> {
    let mut words = text.split(':');
    let object = words.next().unwrap_or_default().trim();
    let owned = object.strip_suffix(']').and_then(|object| object.split_once('['));
    let (id, uname) = (format!("{kind}_ID"), format!("{kind}_UNAME"));
    let mut pairs: Vec<(&str, String)> = match owned {
        _ if object.is_empty() => bail!("--{} {text}: name an {}", name.to_lowercase(), kind.to_lowercase()),
        // No name, but the wish that the daemon choose.
        None if name == "NIC" && object == "auto" => vec![("NETWORK_MODE", "auto".to_owned())],
        Some((user, object)) => vec![(kind, object.to_owned()), (&uname, user.to_owned())],
        None if object.parse::<u32>().is_ok() => vec![(&id, object.to_owned())],
        None => vec![(kind, object.to_owned())],
    };
    let upper: Vec<(String, String)> = words
        .map(|word| pair(&format!("--{}", name.to_lowercase()), word))
        .map(|pair| pair.map(|(key, value)| (key.to_uppercase(), value.to_owned())))
        .collect::<Result<_>>()?;
    pairs.extend(upper.iter().map(|(key, value)| (key.as_str(), value.clone())));
    vector(name, &pairs)
}

/// A size as template attributes have it: whole MiB.
///
/// # Errors
/// For a size that cannot be understood.
pub fn mib(option: &str, size: &str) -> Result<String> {
    let mib = units::parse_mib(size).filter(|mib| *mib > 0);
    Ok(mib.with_context(|| format!("{option} {size}: write a size like 512, 512m or 8g"))?.to_string())
}

/// Base64 of RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: VmOptions,
    }

    fn text(arguments: &[&str]) -> Result<String> {
        Line::try_parse_from(["x"].iter().chain(arguments)).unwrap().options.text()
    }

    #[test]
    fn options_become_attributes() {
        assert_eq!(text(&[]).unwrap(), "");
        assert_eq!(
            text(&["--cpu", "0.5", "--vcpu", "2", "--memory", "8g", "--arch", "x86_64", "--boot", "disk0,nic0"])
                .unwrap(),
            "CPU = \"0.5\"\nVCPU = \"2\"\nMEMORY = \"8192\"\nOS = [ ARCH = \"x86_64\", BOOT = \"disk0,nic0\" ]\n"
        );
        assert_eq!(
            text(&["--disk", "7,alpine:size=2048:target=vdb,ann[my disk]", "--nic", "lan:ip=10.0.0.7"]).unwrap(),
            "DISK = [ IMAGE_ID = \"7\" ]\nDISK = [ IMAGE = \"alpine\", SIZE = \"2048\", TARGET = \"vdb\" ]\n\
             DISK = [ IMAGE = \"my disk\", IMAGE_UNAME = \"ann\" ]\nNIC = [ NETWORK = \"lan\", IP = \"10.0.0.7\" ]\n"
        );
        assert_eq!(
            text(&["--vnc", "--video", "virtio", "--video-iommu", "--video-ats", "--video-vram", "16"]).unwrap(),
            "GRAPHICS = [ TYPE = \"VNC\", LISTEN = \"0.0.0.0\" ]\n\
             VIDEO = [ TYPE = \"virtio\", IOMMU = \"YES\", ATS = \"YES\", VRAM = \"16384\" ]\n"
        );
        assert_eq!(
            text(&["--network", "lan", "--nic", "auto:model=virtio"]).unwrap(),
            "NIC = [ NETWORK = \"lan\" ]\nNIC = [ NETWORK_MODE = \"auto\", MODEL = \"virtio\" ]\n"
        );
        assert_eq!(
            text(&["--net_context", "--context", "A=1,B=\"x y\"", "--raw", "X = 1"]).unwrap(),
            "CONTEXT = [ NETWORK = \"YES\", A = \"1\", B = \"x y\" ]\nX = 1\n"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for arguments in [
            &["--cpu", "0"][..],
            &["--cpu", "nan"],
            &["--memory", "much"],
            &["--memory", "0"],
            &["--disk", "a:size"],
            &["--disk", ""],
            &["--nic", ":ip=1"],
            &["--context", "a b=c"],
            &["--startscript", "/nonexistent/file"],
        ] {
            assert!(text(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn scripts_are_encoded_as_the_standard_says() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
