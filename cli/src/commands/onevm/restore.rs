//! `onevm restore`: disks of a VM that is off, put back as a backup has them.

use anyhow::{Result, bail};
use clap::Args;
use one_core::lifecycle::{LcmState, VmState};

use super::reach::reason;
use crate::objects::{IMAGE, VM};
use crate::states;
use crate::terminal;
use crate::watch::{self, Look, Scene, WaitOptions};
use crate::wire::Client;

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name of the VM, which must be off
    #[arg(value_name = "VM")]
    id: String,
    /// Id or name of a backup of this VM
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Only this disk; default is all that the backup holds
    #[arg(long = "disk-id", alias = "disk_id", value_name = "DISK")]
    disk_id: Option<u32>,
    /// Put back as of this increment; default is the last
    #[arg(long, value_name = "INCREMENT")]
    increment: Option<u32>,
    #[command(flatten)]
    wait: WaitOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let id = VM.id(client, &options.id)?;
    let image = IMAGE.id(client, &options.image)?;
    let number = |wish: Option<u32>| wish.map_or(-1, i64::from);
    let (increment, disk) = (number(options.increment), number(options.disk_id));
    client.call("one.vm.restore", [id.into(), image.into(), increment.into(), disk.into()])?;
    if options.wait.wait { wait(client, id, image, &options.wait) } else { Ok(()) }
}

/// The daemon took the ERROR of earlier work away when it began, so one that is there tells of this restore.
fn wait(client: &Client, id: i64, image: i64, options: &WaitOptions) -> Result<()> {
    watch::until(&format!("VM {id}"), options, || {
        let vm = VM.info(client, id, false)?;
        if states::lcm(&vm) == Some(LcmState::Restore) {
            return Ok(Look::Moving(Scene::of(&vm, "USER_TEMPLATE", "restore")));
        }
        let is_back = matches!(states::vm(&vm), Some(VmState::Poweroff | VmState::Undeployed));
        if !is_back || !reason(&vm).is_empty() {
            bail!("VM {id} was not restored, it is in {}{}", states::vm_phase(&vm), reason(&vm));
        }
        Ok(Look::Done(()))
    })?;
    terminal::put_line(&format!("VM {id}: restored from backup {image}"))
}
