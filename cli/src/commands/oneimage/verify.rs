//! `oneimage verify`: has a backup looked at, and tells what was seen.

use anyhow::{Result, bail};
use clap::Args;

use crate::objects::IMAGE;
use crate::show::join;
use crate::terminal;
use crate::units;
use crate::watch::{self, Cancel, Look, Scene, WaitOptions};
use crate::wire::Client;
use crate::xml::Element;

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name of the backup image
    #[arg(value_name = "ID")]
    id: String,
    /// Read every byte; without it only structure and presence are looked at
    #[arg(long)]
    deep: bool,
    /// Only this increment; default is all
    #[arg(long, value_name = "INCREMENT")]
    increment: Option<u32>,
    /// End a verification that runs
    #[arg(long, conflicts_with_all = ["deep", "increment", "wait"])]
    cancel: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

/// What a document says of one increment.
struct Seen {
    increment: i64,
    job: i64,
    read_bytes: i64,
    damages: i64,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let id = IMAGE.id(client, &options.id)?;
    if options.cancel {
        return client.call("one.image.verifycancel", [id.into()]).map(|_| ());
    }
    let before = if options.wait.wait { newest_job(&IMAGE.info(client, id, false)?) } else { 0 };
    let increment = options.increment.map_or(-1, i64::from);
    client.call("one.image.verify", [id.into(), options.deep.into(), increment.into()])?;
    if !options.wait.wait {
        return Ok(());
    }
    let call = || client.call("one.image.verifycancel", [id.into()]).map(drop);
    let cancel = Cancel::new("verification", &call);
    let image = watch::until_or_cancelled(&format!("Image {id}"), &options.wait, &cancel, || {
        let image = IMAGE.info(client, id, false)?;
        if image.at("TEMPLATE/VERIFYING").is_none() {
            return Ok(Look::Done(image));
        }
        Ok(Look::Moving(Scene::of(&image, "TEMPLATE", "verify")))
    })?;
    tell(&image, id, before)
}

fn seen(image: &Element) -> Vec<Seen> {
    let infos = image.at("TEMPLATE").into_iter().flat_map(|template| template.all("INCREMENT_INFO"));
    let read = |info: &Element| {
        Some(Seen {
            increment: info.int_at("ID")?,
            job: info.int_at("VERIFY_JOB")?,
            read_bytes: info.int_at("VERIFY_BYTES")?,
            damages: info.int_at("DAMAGES")?,
        })
    };
    infos.filter_map(read).collect()
}

fn newest_job(image: &Element) -> i64 {
    seen(image).iter().map(|seen| seen.job).max().unwrap_or(0)
}

/// One line of what was read; a line for each damage. Damage is a failure, so that a script sees it.
fn tell(image: &Element, id: i64, before: i64) -> Result<()> {
    let job = newest_job(image);
    let seen: Vec<Seen> = seen(image).into_iter().filter(|seen| seen.job == job).collect();
    if job <= before {
        match image.text_at("TEMPLATE/ERROR") {
            "" => bail!("image {id}: the verification ended without a result; it was cancelled"),
            text => bail!("image {id}: {text}"),
        }
    }
    let increments: Vec<i64> = seen.iter().map(|seen| seen.increment).collect();
    let read = units::bytes(seen.first().map_or(0, |seen| seen.read_bytes));
    let damaged: Vec<i64> = seen.iter().filter(|seen| seen.damages > 0).map(|seen| seen.increment).collect();
    let mut line = format!("Image {id}: read {read} of {}", named(&increments));
    if damaged.is_empty() {
        line.push_str("; no damage");
        return terminal::put_line(&line);
    }
    line.push_str(&format!("; damage in {}", named(&damaged)));
    terminal::put_line(&line)?;
    for (text, increments) in damages(image, &damaged) {
        terminal::put_line(&format!("  {} ({})", terminal::one_line(&text), named(&increments)))?;
    }
    bail!("image {id}: damage in {}", named(&damaged))
}

/// `increment 1`, `increments 0,1`
fn named(increments: &[i64]) -> String {
    format!("increment{} {}", if increments.len() == 1 { "" } else { "s" }, join(increments))
}

/// Each damage once, with the increments that it belongs to.
pub fn damages(image: &Element, increments: &[i64]) -> Vec<(String, Vec<i64>)> {
    let mut list: Vec<(String, Vec<i64>)> = Vec::new();
    let all = image.at("TEMPLATE").into_iter().flat_map(|template| template.all("INCREMENT_DAMAGE"));
    for damage in all {
        let Some(id) = damage.int_at("ID").filter(|id| increments.contains(id)) else { continue };
        let what = damage.text_at("WHAT");
        let text = match (damage.int_at("DISK"), damage.text_at("LENGTH")) {
            (None, _) => what.to_owned(),
            (Some(disk), length) => {
                format!("disk {disk}, offset {}, {length} bytes: {what}", damage.text_at("OFFSET"))
            }
        };
        match list.iter_mut().find(|(other, _)| *other == text) {
            Some((_, ids)) => ids.push(id),
            None => list.push((text, vec![id])),
        }
    }
    list
}
