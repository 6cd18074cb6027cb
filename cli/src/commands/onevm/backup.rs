//! `onevm backup`: at once, or on a schedule; with `--wait` until there is a restore point or a reason why not.

use anyhow::{Error, Result, anyhow, bail};
use clap::Args;
use one_core::lifecycle::LcmState;

use super::datastore_id;
use super::reach::reason;
use crate::commands::scheduling;
use crate::objects::{IMAGE, VM, parse_ids};
use crate::schedule::{KeepOptions, ScheduleOptions};
use crate::states;
use crate::terminal;
use crate::units;
use crate::watch::{self, Cancel, Look, Scene, WaitOptions};
use crate::wire::{Client, Refused};
use crate::xml::Element;

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name of the VM
    #[arg(value_name = "ID")]
    id: String,
    /// Backup datastore, id or name; inside a chain its own datastore is used
    #[arg(short, long, value_name = "DATASTORE")]
    datastore: Option<String>,
    /// Begin a new chain with a full backup
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    schedule: ScheduleOptions,
    #[command(flatten)]
    keep: KeepOptions,
    #[command(flatten)]
    wait: WaitOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    // A list would be read as a name that is not found; say what is wrong instead.
    if options.id.contains([',', '.']) && !matches!(parse_ids(&options.id), Ok(None)) {
        bail!("one VM at a time can be backed up by this command; a backup job takes several");
    }
    let plan = options.schedule.plan(chrono::Local::now())?;
    let at_once = match options.schedule.schedule.as_deref() {
        Some(when) => when.trim().eq_ignore_ascii_case("now"),
        None => options.schedule.cron.is_none(),
    };
    if options.wait.wait && !at_once {
        bail!("--wait goes with a backup that starts at once: leave --schedule out, or say --schedule now");
    }
    if plan.is_none() {
        options.keep.must_be_unsaid()?;
    }
    let id = VM.id(client, &options.id)?;
    let datastore = datastore_id(client, options.datastore.as_deref())?;
    // An action that names no datastore means that of the chain; there may be none.
    let means_chain = plan.is_some() && datastore < 0;
    let before = if options.wait.wait || means_chain { Some(Backups::of(&VM.info(client, id, false)?)) } else { None };
    let schedule = match plan {
        None => {
            client
                .call("one.vm.backup", [id.into(), datastore.into(), options.reset.into()])
                .map_err(|error| if datastore < 0 { where_to(id, error) } else { error })?;
            None
        }
        Some(plan) => {
            let text = plan.text("backup", &format!("{datastore},{}", i64::from(options.reset)), &options.keep)?;
            let schedule = scheduling::add(client, &VM, id, &plan, &text, "backup")?;
            if means_chain && before.as_ref().is_some_and(|before| before.chain < 0) {
                terminal::warn(&format!(
                    "VM {id} has no chain of backups yet, so that the action does not know where to: back the VM up with -d DATASTORE before it is due, or make the action with it"
                ));
            }
            Some(schedule)
        }
    };
    match before {
        Some(before) if options.wait.wait => wait(client, id, &before, schedule, &options.wait),
        _ => Ok(()),
    }
}

/// Without a datastore that of the chain is meant, and there may be no chain.
fn where_to(id: i64, error: Error) -> Error {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.text.contains("Error getting datastore") => anyhow!(
            "VM {id} has no chain whose datastore could be used: add -d DATASTORE; onedatastore list -f TYPE=bck shows those for backups"
        ),
        _ => error,
    }
}

/// What tells one restore point from the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backups {
    ids: Vec<i64>,
    chain: i64,
    increment: i64,
    error: String,
}

impl Backups {
    fn of(vm: &Element) -> Self {
        Self {
            ids: vm.ids_at("BACKUPS/BACKUP_IDS"),
            chain: vm.int_at("BACKUPS/BACKUP_CONFIG/INCREMENTAL_BACKUP_ID").unwrap_or(-1),
            increment: vm.int_at("BACKUPS/BACKUP_CONFIG/LAST_INCREMENT_ID").unwrap_or(-1),
            error: vm.text_at("USER_TEMPLATE/ERROR").to_owned(),
        }
    }

    /// The restore point that is here and was not there before.
    fn new_since(&self, before: &Self) -> Option<Point> {
        let new_image = self.ids.iter().copied().filter(|id| !before.ids.contains(id)).max();
        match new_image {
            Some(image) => Some(Point { image, increment: (image == self.chain).then_some(self.increment) }),
            None if self.increment >= 0
                && self.chain >= 0
                && (self.chain, self.increment) != (before.chain, before.increment) =>
            {
                Some(Point { image: self.chain, increment: Some(self.increment) })
            }
            None => None,
        }
    }
}

/// A restore point: a backup image, and the increment in it unless it is a FULL-mode backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    image: i64,
    increment: Option<i64>,
}

/// Looks in a row that show an idle VM without a new point before a directly started backup counts as failed. The
/// daemon says "started" only when the state has changed, so one would do; three cost little.
const IDLE_LOOKS_MAX: u32 = 3;

fn wait(client: &Client, id: i64, before: &Backups, schedule: Option<i64>, options: &WaitOptions) -> Result<()> {
    let mut started = schedule.is_none();
    let mut seen_running = false;
    let mut idle_looks = 0;
    let call = || client.call("one.vm.backupcancel", [id.into()]).map(drop);
    let cancel = Cancel::new("backup", &call);
    let point = watch::until_or_cancelled(&format!("VM {id}"), options, &cancel, || {
        let vm = VM.info(client, id, false)?;
        if in_backup(&vm) {
            (started, seen_running) = (true, true);
            return Ok(Look::Moving(Scene::of(&vm, "USER_TEMPLATE", "backup")));
        }
        let now = Backups::of(&vm);
        if let Some(point) = now.new_since(before) {
            return Ok(Look::Done(point));
        }
        if now.error != before.error && !now.error.is_empty() {
            bail!("VM {id}: {}", now.error);
        }
        if let Some(schedule) = schedule {
            started |= schedule_ran(&vm, id, schedule)?;
        }
        if !started {
            return Ok(Look::Busy("waiting for the backup to start".to_owned(), None));
        }
        idle_looks += 1;
        if seen_running || idle_looks >= IDLE_LOOKS_MAX {
            bail!("VM {id}: the backup ended without a restore point{}", reason(&vm));
        }
        Ok(Look::Busy("backup".to_owned(), None))
    })?;
    if cancel.is_asked() {
        terminal::complain(&format!("VM {id}: the cancel came when the restore point was complete; it stays"));
    }
    put_point(client, point)
}

fn in_backup(vm: &Element) -> bool {
    matches!(states::lcm(vm), Some(LcmState::Backup | LcmState::BackupPoweroff))
}

/// Has the scheduled action been taken up? One that is gone ran, too.
fn schedule_ran(vm: &Element, id: i64, schedule: i64) -> Result<bool> {
    let action = vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("SCHED_ACTION"));
    let Some(action) = action.into_iter().find(|action| action.int_at("ID") == Some(schedule)) else { return Ok(true) };
    match action.text_at("MESSAGE") {
        "" => Ok(action.int_at("DONE").unwrap_or(-1) > 0),
        message => bail!("VM {id}: scheduled action {schedule} failed: {message}"),
    }
}

/// `Backup 3, increment 1: read 4.2M, stored 1.1M, saved 3M by deduplication (71%), in 2s`
fn put_point(client: &Client, point: Point) -> Result<()> {
    let image = IMAGE.info(client, point.image, false)?;
    let (line, notes) = describe(&image, point);
    terminal::put_line(&line)?;
    for note in notes {
        terminal::complain(&note);
    }
    Ok(())
}

fn describe(image: &Element, point: Point) -> (String, Vec<String>) {
    let mut line = format!("Backup {}", point.image);
    if let Some(increment) = point.increment {
        line.push_str(&format!(", increment {increment}"));
    }
    let Some(info) = increment_info(image, point.increment.unwrap_or(0)) else {
        line.push_str(&format!(": {}", units::mib(image.int_at("SIZE").unwrap_or(0))));
        return (line, Vec::new());
    };
    let size = |name| units::bytes(info.int_at(name).unwrap_or(0));
    let took = units::duration(info.int_at("DURATION").unwrap_or(0));
    line.push_str(&format!(": read {}, stored {}{} in {took}", size("READ_BYTES"), size("STORED_BYTES"), saved(info)));
    let notes = [("REASON", "note"), ("WARNING", "warning")];
    let notes = notes.iter().filter(|(name, _)| !info.text_at(name).is_empty());
    (line, notes.map(|(name, word)| format!("{word}: {}", info.text_at(name))).collect())
}

/// `, saved 3M by deduplication (71%),`: the share of what was read that needed no storing, because the datastore had it or
/// it is zeros. Nothing when that was not counted, or nothing was read.
fn saved(info: &Element) -> String {
    let read = info.int_at("READ_BYTES").unwrap_or(0);
    match info.int_at("SAVED_BYTES") {
        Some(saved) if read > 0 => {
            let percent = i128::from(saved) * 100 / i128::from(read);
            format!(", saved {} by deduplication ({percent}%),", units::bytes(saved))
        }
        _ => String::new(),
    }
}

/// What the daemon recorded about one restore point.
fn increment_info(image: &Element, increment: i64) -> Option<&Element> {
    image.at("TEMPLATE")?.all("INCREMENT_INFO").find(|info| info.int_at("ID") == Some(increment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backups(ids: &[i64], chain: i64, increment: i64) -> Backups {
        Backups { ids: ids.to_vec(), chain, increment, error: String::new() }
    }

    #[test]
    fn a_new_point_is_a_new_image_or_a_moved_pointer() {
        let before = backups(&[1], 1, 0);
        assert_eq!(before.new_since(&before), None);
        assert_eq!(backups(&[1], 1, 1).new_since(&before), Some(Point { image: 1, increment: Some(1) }));
        assert_eq!(backups(&[4], 4, 0).new_since(&before), Some(Point { image: 4, increment: Some(0) }));
        assert_eq!(backups(&[1, 5], -1, -1).new_since(&before), Some(Point { image: 5, increment: None }));
        // A chain that was reset without a backup is not a new point.
        assert_eq!(backups(&[1], -1, -1).new_since(&before), None);
    }

    #[test]
    fn a_point_is_described_with_what_is_known() {
        let image = Element::parse(
            "<IMAGE><SIZE>172</SIZE><TEMPLATE><INCREMENT_INFO><ID>1</ID><READ_BYTES>4404019</READ_BYTES><STORED_BYTES>1153434</STORED_BYTES><SAVED_BYTES>3145728</SAVED_BYTES><DURATION>2</DURATION><REASON>the bitmap was lost</REASON></INCREMENT_INFO></TEMPLATE></IMAGE>",
        )
        .unwrap();
        let described = |increment| describe(&image, Point { image: 3, increment });
        assert_eq!(
            described(Some(1)).0,
            "Backup 3, increment 1: read 4.2M, stored 1.1M, saved 3M by deduplication (71%), in 2s"
        );
        assert_eq!(described(Some(1)).1, ["note: the bitmap was lost"]);
        assert_eq!(described(None).0, "Backup 3: 172M");
        let of = |info: &str| {
            let info = Element::parse(&format!("<I>{info}</I>")).unwrap();
            saved(&info)
        };
        // A point of a version that did not count, and one that had nothing to read.
        assert_eq!(of("<READ_BYTES>5</READ_BYTES>"), "");
        assert_eq!(of("<READ_BYTES>0</READ_BYTES><SAVED_BYTES>0</SAVED_BYTES>"), "");
        assert_eq!(of("<READ_BYTES>5</READ_BYTES><SAVED_BYTES>0</SAVED_BYTES>"), ", saved 0B by deduplication (0%),");
    }
}
