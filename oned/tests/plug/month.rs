//! A month of a VM whose template holds its schedule: over a change of the clocks, a restart of the daemon in each week, two
//! days of sleep, and a death right after a backup was begun. What exists at its end is a golden file.

use std::fmt::Write as _;
use std::path::Path;

use chrono::TimeZone;
use chrono_tz::Europe::Madrid;
use one_core::lifecycle::VmPhase;
use oned::store::rows::{DatastoreRow, IncrementRow};
use oned::{api, ledger, scheduler};

use super::world::{BLOCKS, Base, Content, Disks, IMAGES, Memory, World, wait};

/// Seconds that the daemon looks late.
const LATE_SECONDS: i64 = 7;

fn madrid(text: &str) -> i64 {
    let local = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
    Madrid.from_local_datetime(&local).single().unwrap().timestamp()
}

fn local(time: i64) -> String {
    Madrid.timestamp_opt(time, 0).unwrap().format("%a %Y-%m-%d %H:%M:%S %Z").to_string()
}

impl World {
    /// A running VM of a template.
    fn vm_of(&mut self, template: i64) -> i64 {
        let wish = api::template::Instantiation { name: "", hold: false, extra: "", persistent: false };
        let vm = api::template::instantiate(&self.cloud, &self.owner, template, &wish).unwrap();
        wait("the VM to run", || {
            self.settle();
            (ledger::phase(&self.vm_row(vm)) == VmPhase::RUNNING).then_some(())
        });
        vm
    }
}

/// A daemon that is stopped and started, and the list of what it has made.
struct Month {
    base: Base,
    world: Option<World>,
    vm: i64,
    now: i64,
    known: Vec<String>,
    made: String,
}

impl Month {
    /// A VM instantiated from a template that is older than it.
    fn begin() -> Self {
        let base = Base::new(|_| ());
        let now = madrid("2027-03-01 00:00");
        let mut world = World::open_at(&base.state(), base.restore(), now);
        let datastore = world.memory.datastore;
        let usable = [1, 1, 0, 1, 0, 0, 1, 0, 0];
        api::owned::chmod::<DatastoreRow>(&world.cloud, &world.admin, datastore, &usable).unwrap();
        let image = "NAME=disk\nTYPE=DATABLOCK\nSIZE=1\n";
        let image = api::image::allocate(&world.cloud, &world.owner, image, IMAGES).unwrap();
        world.settle();
        let template = format!(
            "NAME=kept\nCPU=0.1\nMEMORY=64\nDISK=[IMAGE_ID={image}]\nBACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=4]\n\
             SCHED_ACTION=[ACTION=backup,ARGS=\"{datastore},0\",TIME={},REPEAT=0,DAYS=\"0,1,2,3,4,5,6\",TIMEZONE=\"Europe/Madrid\"]\n\
             SCHED_ACTION=[ACTION=backup,ARGS=\"{datastore},1\",CRON=\"0 4 * * sun\",TIMEZONE=\"Europe/Madrid\",WINDOW_END=\"06:00\",JITTER=600]\n",
            madrid("2027-01-11 02:30"),
        );
        let template = api::template::allocate(&world.cloud, &world.owner, &template).unwrap();
        let vm = world.vm_of(template);
        world.memory.disks.insert(vm, Disks::from([(0, Content::default())]));
        Self { base, world: Some(world), vm, now, known: Vec::new(), made: String::new() }
    }

    fn world(&mut self) -> &mut World {
        self.world.as_mut().unwrap()
    }

    fn close(&mut self) -> Memory {
        self.world.take().unwrap().close()
    }

    /// The daemon ends, and starts again at another time.
    fn restart(&mut self, now: i64) {
        let memory = self.close();
        self.now = now;
        self.world = Some(World::open_at(&self.base.state(), memory, now));
        writeln!(self.made, "{}  the daemon is started again", local(now)).unwrap();
    }

    /// When something is due next.
    fn next_due(&mut self) -> i64 {
        let vm = self.vm;
        let rows = self.world().read(|tx| tx.schedules_of_vm(vm));
        rows.iter().filter_map(|row| ledger::read_schedule(row)?.due_at()).min().unwrap()
    }

    /// The daemon looks: what is due begins.
    fn look(&mut self) {
        let now = self.now;
        self.world().set_clock(now);
        scheduler::tick(&self.world().cloud);
    }

    /// What was begun comes to its end, and is written down.
    fn settle(&mut self) {
        let vm = self.vm;
        self.world().settle();
        let mut new = self.world().points(vm);
        new.retain(|point| !self.known.contains(&point.point));
        for point in new {
            writeln!(self.made, "{}", line(&point)).unwrap();
            self.known.push(point.point);
        }
    }

    /// A VM made from the template that the newest backup is restored to.
    fn restored(&mut self) -> i64 {
        let vm = self.vm;
        let world = self.world();
        let image = world.backups(vm).last().unwrap().id;
        let ids = api::restore::restore(&world.cloud, &world.owner, image, IMAGES, "NAME=again\n").unwrap();
        let template = ids.split(' ').next().unwrap().parse().unwrap();
        world.settle();
        world.vm_of(template)
    }

    /// The guest writes, each day something else.
    fn guest_writes(&mut self) {
        let (vm, day) = (self.vm, usize::try_from(self.now / 86_400).unwrap());
        self.world().write(vm, 0, day % BLOCKS, u8::try_from(day % 251 + 1).unwrap());
    }

    /// Steps from one time when something is due to the next.
    fn run_until(&mut self, end: i64) {
        loop {
            let due = self.next_due();
            if due >= end {
                break;
            }
            self.guest_writes();
            self.now = self.now.max(due + LATE_SECONDS);
            self.look();
            self.settle();
        }
        self.now = self.now.max(end);
    }
}

fn line(point: &IncrementRow) -> String {
    format!(
        "{}  image {}, increment {}, parent {}: {}",
        local(point.date),
        point.image_id,
        point.increment_id,
        point.parent_id,
        point.kind
    )
}

#[test]
fn a_preset_schedule_runs_through_a_month_of_restarts_and_leaves_what_it_should() {
    let mut month = Month::begin();
    month.run_until(madrid("2027-03-03 12:00"));
    month.restart(madrid("2027-03-03 12:10"));
    // Nothing looks for two days: one run, late.
    month.run_until(madrid("2027-03-09 12:00"));
    month.restart(madrid("2027-03-11 09:00"));
    month.look();
    month.settle();
    // In the third week the daemon dies with a backup begun and nothing of it made.
    month.run_until(madrid("2027-03-18 02:00"));
    month.guest_writes();
    month.now = month.next_due() + LATE_SECONDS;
    month.look();
    month.restart(month.now + 60);
    month.settle();
    // In the fourth it is started again in the evening before the clocks change.
    month.run_until(madrid("2027-03-27 12:00"));
    month.restart(madrid("2027-03-27 23:00"));
    month.run_until(madrid("2027-04-01 00:00"));

    let (vm, mut text) = (month.vm, std::mem::take(&mut month.made));
    month.world().is_sound(false);
    writeln!(text, "\nleft, {}", local(month.now)).unwrap();
    for point in month.world().points(vm) {
        writeln!(text, "{}", line(&point)).unwrap();
    }
    let again = month.restored();
    writeln!(text, "\nof the VM that is restored from it").unwrap();
    for action in month.world().read(|tx| tx.schedules_of_vm(again)).iter().filter_map(ledger::read_schedule) {
        let rule = action.cron.clone().unwrap_or_else(|| format!("REPEAT {:?} DAYS {:?}", action.repeat, action.days));
        let zone = action.timezone.clone().unwrap_or_default();
        writeln!(text, "{}  first run of {rule}, {zone}, ARGS {}", local(action.due_at().unwrap()), action.args)
            .unwrap();
    }
    month.close();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/month.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "month.txt differs from the golden file; UPDATE_GOLDEN=1 rewrites it");
}
