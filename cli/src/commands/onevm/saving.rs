//! `onevm save`: a VM that is off as a new template, with copies of its disks.
//!
//! The daemon has no call for all of it. So it is done in steps, each of which stands by itself: a copy of each disk as an
//! image, then a copy of the template that the VM was made from, whose disks become those images.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use one_core::lifecycle::VmState;

use super::reach::{self, Goal};
use crate::commands::verbs::One;
use crate::objects::{IMAGE, TEMPLATE, VM};
use crate::show::join;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{states, template_text, terminal};

/// Attributes of a disk that its copy keeps, and those that make a volatile one.
const KEPT: [&str; 4] = ["DEV_PREFIX", "CACHE", "DISCARD", "IO"];
const VOLATILE: [&str; 3] = ["TYPE", "SIZE", "FORMAT"];

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    vm: One,
    /// Name of the template, and first part of the images' names
    #[arg(value_name = "NAME")]
    name: String,
    /// Make the images persistent
    #[arg(long)]
    persistent: bool,
    /// Longest time to wait for the copy of a disk
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let id = VM.id(client, &options.vm.id)?;
    let vm = VM.info(client, id, false)?;
    if states::vm(&vm) != Some(VmState::Poweroff) {
        bail!("VM {id} is {}; power it off to save it", states::vm_phase(&vm));
    }
    let template = vm.int_at("TEMPLATE/TEMPLATE_ID");
    let template =
        template.with_context(|| format!("VM {id} was made without a template; save its disks one by one"))?;
    let mut images = Vec::new();
    match save(client, options, &vm, template, &mut images) {
        Ok(template) => terminal::put_line(&format!("Template ID: {template}")),
        Err(error) if images.is_empty() => Err(error),
        Err(error) => {
            Err(error.context(format!("there is no template yet, but images {} were made of the disks", join(&images))))
        }
    }
}

fn save(client: &Client, options: &Options, vm: &Element, template: i64, images: &mut Vec<i64>) -> Result<i64> {
    let id = vm.int_at("ID").unwrap_or(-1);
    let mut disks = String::new();
    for disk in vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("DISK")) {
        let number = disk.int_at("DISK_ID").unwrap_or(-1);
        let (keys, image): (Vec<&str>, _) = match disk.int_at("IMAGE_ID") {
            None => ([&VOLATILE[..], &KEPT[..]].concat(), None),
            Some(image) if disk.text_at("TYPE").eq_ignore_ascii_case("CDROM") => (KEPT.to_vec(), Some(image)),
            Some(_) => {
                let name = format!("{}-disk-{number}", options.name);
                let params = [id.into(), number.into(), name.into(), "".into(), (-1).into()];
                let image = client.call("one.vm.disksaveas", params)?.id()?;
                images.push(image);
                reach::reach(client, id, Goal::PowerOff, &WaitOptions { wait: true, timeout: Some(options.timeout) })?;
                if options.persistent {
                    client.call(&IMAGE.method("persistent"), [image.into(), true.into()])?;
                }
                (KEPT.to_vec(), Some(image))
            }
        };
        let mut parts: Vec<(&str, String)> = image.map(|image| ("IMAGE_ID", image.to_string())).into_iter().collect();
        let kept = keys.into_iter().map(|key| (key, disk.text_at(key).to_owned()));
        parts.extend(kept.filter(|(_, value)| !value.is_empty()));
        disks.push_str(&template_text::vector("DISK", &parts)?);
    }
    let name = options.name.as_str();
    let copy = client.call(&TEMPLATE.method("clone"), [template.into(), name.into(), false.into()])?.id()?;
    if !disks.is_empty() {
        let changed = client.call(&TEMPLATE.method("update"), [copy.into(), disks.into(), 1.into()]);
        changed.with_context(|| format!("template {copy} has the disks of template {template} still"))?;
    }
    Ok(copy)
}
