//! `oneimage restore`, and waiting for images.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use one_core::lifecycle::ImageState;

use crate::objects::{DATASTORE, IMAGE};
use crate::states;
use crate::watch::{self, Look, Scene, WaitOptions};
use crate::wire::{Client, Refused};
use crate::{each, template_text, terminal};

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name of the backup image
    #[arg(value_name = "ID")]
    id: String,
    /// Image datastore for the restored disks, id or name
    #[arg(short, long, value_name = "DATASTORE")]
    datastore: Option<String>,
    /// Let the restored VM get new addresses
    #[arg(long = "no_ip", alias = "no-ip")]
    no_ip: bool,
    /// Leave the network cards out
    #[arg(long = "no_nic", alias = "no-nic")]
    no_nic: bool,
    /// Name of the template, and first part of the images' names
    #[arg(long)]
    name: Option<String>,
    /// Restore up to this increment; default is the last
    #[arg(long, value_name = "INCREMENT")]
    increment: Option<u32>,
    /// Only this disk, without a template
    #[arg(long = "disk-id", alias = "disk_id", value_name = "DISK")]
    disk_id: Option<u32>,
    /// Leave damaged parts as zeros instead of giving up; the image says which
    #[arg(long = "skip-bad", alias = "skip_bad")]
    skip_bad: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let Some(datastore) = &options.datastore else {
        bail!("Datastore to restore the backup is mandatory: -d datastore_id | name");
    };
    let image = IMAGE.id(client, &options.id)?;
    let datastore = DATASTORE.id(client, datastore)?;
    let answer = client.call("one.image.restore", [image.into(), datastore.into(), text(options)?.into()])?.text();
    let (template, images) =
        parse(&answer).with_context(|| format!("the restore began, but its answer was not understood: {answer}"))?;
    if template >= 0 {
        terminal::put_line(&format!("VM Template: {template}"))?;
    }
    let words: Vec<_> = images.iter().map(i64::to_string).collect();
    terminal::put_line(&format!("Images: {}", words.join(" ")))?;
    if options.wait.wait { each(&images, |id| until_ready(client, id, &options.wait)) } else { Ok(()) }
}

fn text(options: &Options) -> Result<String> {
    let yes = |flag: bool| flag.then(|| "YES".to_owned());
    let given = [
        ("NO_IP", yes(options.no_ip)),
        ("NO_NIC", yes(options.no_nic)),
        ("NAME", options.name.clone()),
        ("INCREMENT_ID", options.increment.map(|id| id.to_string())),
        ("DISK_ID", options.disk_id.map(|id| id.to_string())),
        ("SKIP_BAD", yes(options.skip_bad)),
    ];
    let parts = given.into_iter().filter_map(|(key, value)| value.map(|value| template_text::attribute(key, &value)));
    parts.collect()
}

/// Template id first, −1 when there is none, then the images.
fn parse(answer: &str) -> Option<(i64, Vec<i64>)> {
    let mut ids = answer.split_whitespace().map(|word| word.parse::<i64>().ok());
    let template = ids.next()??;
    Some((template, ids.collect::<Option<Vec<_>>>()?))
}

/// Waits until an image is READY.
///
/// # Errors
/// When it ends in ERROR, with the image's own text; when the time is over.
pub fn until_ready(client: &Client, id: i64, options: &WaitOptions) -> Result<()> {
    watch::until(&format!("Image {id}"), options, || {
        let image = IMAGE.info(client, id, false)?;
        match states::image(&image) {
            Some(ImageState::Ready) => {
                let warning = image.text_at("TEMPLATE/RESTORE_WARNING");
                if !warning.is_empty() {
                    terminal::complain(&format!("Image {id}: {warning}"));
                }
                Ok(Look::Done(()))
            }
            Some(ImageState::Error) => match image.text_at("TEMPLATE/ERROR") {
                "" => bail!("image {id} is in ERROR; the daemon's log has the reason"),
                text => bail!("image {id} is in ERROR: {text}"),
            },
            _ => {
                let phrase = match image.text_at("TEMPLATE/PROGRESS/ACTION") {
                    "" => states::image_state(&image).to_owned(),
                    action => action.to_owned(),
                };
                Ok(Look::Moving(Scene::of(&image, "TEMPLATE", &phrase)))
            }
        }
    })
}

/// Waits until an image is gone.
///
/// # Errors
/// When it could not be removed, with the image's own text; when the time is over.
pub fn until_gone(client: &Client, id: i64, options: &WaitOptions) -> Result<()> {
    watch::until(&format!("Image {id}"), options, || {
        let image = match IMAGE.info(client, id, false) {
            Ok(image) => image,
            Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == Refused::NO_EXISTS) => {
                return Ok(Look::Done(()));
            }
            Err(error) => return Err(error),
        };
        if states::image(&image) == Some(ImageState::Delete) {
            return Ok(Look::Moving(Scene::of(&image, "TEMPLATE", "delete")));
        }
        let reason = match image.text_at("TEMPLATE/ERROR") {
            "" => String::new(),
            text => format!(": {text}"),
        };
        bail!("image {id} was not removed, it is in {}{reason}", states::image_state(&image))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_the_template_and_the_images() {
        assert_eq!(parse("1 2 3"), Some((1, vec![2, 3])));
        assert_eq!(parse("-1 2"), Some((-1, vec![2])));
        assert_eq!(parse(""), None);
        assert_eq!(parse("1 x"), None);
    }
}
