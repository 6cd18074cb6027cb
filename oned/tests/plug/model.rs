//! Random histories of VMs and their backups, against a model that says which restore points there must be and what each
//! holds: made, shortened by KEEP_LAST, deleted, restored, with restarts in between and backups cut off by a crash.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use one_core::lifecycle::JobPhase;
use oned::api;

use super::crash::until_it_crashes;
use super::world::{BLOCKS, Base, Content, World};

/// Most VMs of a history.
const VMS: usize = 2;

/// One backup image: its restore points by id.
type Backup = Vec<(i64, Content)>;

/// What one VM must be.
#[derive(Clone, Debug)]
struct Vm {
    /// Whether its backups form chains.
    chained: bool,
    keep: usize,
    disk: Content,
    /// Oldest first.
    backups: Vec<Backup>,
    /// Whether the last one is a chain that goes on.
    goes_on: bool,
}

impl Vm {
    /// What comes of a backup.
    fn back_up(&mut self, reset: bool) {
        let chain = self.backups.last_mut().filter(|_| self.chained && self.goes_on && !reset);
        if let Some(chain) = chain {
            let id = chain.last().map_or(0, |(id, _)| id + 1);
            chain.push((id, self.disk));
            shorten(chain, self.keep);
            return;
        }
        self.backups.push(vec![(0, self.disk)]);
        self.goes_on = true;
        shorten(&mut self.backups, self.keep);
    }
}

/// Drops the oldest.
fn shorten<T>(list: &mut Vec<T>, keep: usize) {
    if keep > 0 {
        list.drain(..list.len().saturating_sub(keep));
    }
}

/// What can happen next; VMs, images and points by their place in the lists.
#[derive(Clone, Debug)]
enum Step {
    Allocate {
        chained: bool,
    },
    Write {
        vm: usize,
        block: usize,
        byte: u8,
    },
    BackUp {
        vm: usize,
        reset: bool,
    },
    /// The daemon works on it and dies at that point, if it gets so far.
    BackUpAndCrash {
        vm: usize,
        reset: bool,
        point: usize,
    },
    Keep {
        vm: usize,
        keep: usize,
    },
    Delete {
        vm: usize,
        backup: usize,
    },
    Restore {
        vm: usize,
        backup: usize,
        point: usize,
    },
    Restart,
}

struct Model;

impl ReferenceStateMachine for Model {
    type State = Vec<Vm>;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Vec<Vm>> {
        Just(Vec::new()).boxed()
    }

    fn transitions(vms: &Vec<Vm>) -> BoxedStrategy<Step> {
        let mut steps: Vec<(u32, BoxedStrategy<Step>)> = Vec::new();
        if vms.len() < VMS {
            let allocate = prop::bool::weighted(0.7).prop_map(|chained| Step::Allocate { chained });
            steps.push((if vms.is_empty() { 100 } else { 1 }, allocate.boxed()));
        }
        if !vms.is_empty() {
            let vm = 0..vms.len();
            let reset = || prop::bool::weighted(0.2);
            let write = (vm.clone(), 0..BLOCKS, 0..4_u8).prop_map(|(vm, block, byte)| Step::Write { vm, block, byte });
            steps.push((5, write.boxed()));
            let back_up = (vm.clone(), reset()).prop_map(|(vm, reset)| Step::BackUp { vm, reset });
            steps.push((5, back_up.boxed()));
            let crash = (vm.clone(), reset(), 1..50_usize);
            let crash = crash.prop_map(|(vm, reset, point)| Step::BackUpAndCrash { vm, reset, point });
            steps.push((3, crash.boxed()));
            let keep = (vm.clone(), 0..4_usize).prop_map(|(vm, keep)| Step::Keep { vm, keep });
            steps.push((1, keep.boxed()));
            steps.push((1, Just(Step::Restart).boxed()));
            let delete = (vm.clone(), 0..3_usize).prop_map(|(vm, backup)| Step::Delete { vm, backup });
            steps.push((1, delete.boxed()));
            let restore = (vm, 0..3_usize, 0..4_usize);
            let restore = restore.prop_map(|(vm, backup, point)| Step::Restore { vm, backup, point });
            steps.push((2, restore.boxed()));
        }
        prop::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(vms: &Vec<Vm>, step: &Step) -> bool {
        match *step {
            Step::Allocate { .. } => vms.len() < VMS,
            Step::Restart => true,
            Step::Write { vm, .. } | Step::Keep { vm, .. } => vm < vms.len(),
            Step::BackUp { vm, reset } | Step::BackUpAndCrash { vm, reset, .. } => {
                vms.get(vm).is_some_and(|vm| vm.chained || !reset)
            }
            Step::Delete { vm, backup } => vms.get(vm).is_some_and(|vm| backup < vm.backups.len()),
            Step::Restore { vm, backup, point } => {
                vms.get(vm).and_then(|vm| vm.backups.get(backup)).is_some_and(|points| point < points.len())
            }
        }
    }

    fn apply(mut vms: Vec<Vm>, step: &Step) -> Vec<Vm> {
        match *step {
            Step::Allocate { chained } => {
                let disk = Content::default();
                vms.push(Vm { chained, keep: 0, disk, backups: Vec::new(), goes_on: false });
            }
            Step::Write { vm, block, byte } => vms[vm].disk[block] = byte,
            Step::BackUp { vm, reset } | Step::BackUpAndCrash { vm, reset, .. } => vms[vm].back_up(reset),
            Step::Keep { vm, keep } => vms[vm].keep = keep,
            Step::Delete { vm, backup } => {
                let vm = &mut vms[vm];
                vm.backups.remove(backup);
                vm.goes_on &= backup < vm.backups.len();
            }
            Step::Restore { .. } | Step::Restart => {}
        }
        vms
    }
}

/// The cloud that has to do the same.
struct Tested {
    world: World,
    base: Base,
    restores: u32,
}

impl Tested {
    /// Ends the engine and begins anew; `meanwhile` nobody works on the directory.
    fn restart(self, meanwhile: impl FnOnce(&Base)) -> Self {
        let Self { world, base, restores } = self;
        let memory = world.close();
        meanwhile(&base);
        let mut world = World::open(&base.state(), memory);
        world.settle();
        Self { world, base, restores }
    }
}

/// The id of a VM by its place.
fn id(vm: usize) -> i64 {
    i64::try_from(vm).unwrap()
}

impl StateMachineTest for Tested {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Vec<Vm>) -> Self {
        let base = Base::new(|_| ());
        let memory = base.restore();
        Self { world: World::open(&base.state(), memory), base, restores: 0 }
    }

    fn apply(mut tested: Self, vms: &Vec<Vm>, step: Step) -> Self {
        let world = &mut tested.world;
        match step {
            Step::Allocate { chained } => {
                let mode = if chained { "INCREMENT" } else { "FULL" };
                let place = vms.len() - 1;
                assert_eq!(world.vm(&format!("vm-{place}"), 1, &format!("MODE={mode}")), id(place));
            }
            Step::Write { vm, block, byte } => world.write(id(vm), 0, block, byte),
            Step::BackUp { vm, reset } => drop(world.backup(id(vm), reset)),
            Step::BackUpAndCrash { vm, reset, point } => {
                world.ask_backup(id(vm), reset).unwrap();
                return tested.restart(|base| {
                    until_it_crashes(&base.state(), &point.to_string(), false);
                });
            }
            Step::Keep { vm, keep } => {
                let text = format!("BACKUP_CONFIG=[KEEP_LAST={keep}]");
                api::vm::update_conf(&world.cloud, &world.admin, id(vm), &text, 1).unwrap();
            }
            Step::Delete { vm, backup } => {
                let image = world.backups(id(vm))[backup].id;
                api::image::delete(&world.cloud, &world.owner, image, false).unwrap();
                world.settle();
            }
            Step::Restore { vm, backup, point } => {
                let (increment, content) = vms[vm].backups[backup][point];
                let image = world.backups(id(vm))[backup].id;
                let images = world.ask_restore(image, increment, &format!("restore-{}", tested.restores));
                world.settle();
                assert!(world.restored(&images, &[(0, content)].into()), "a restore came to nothing");
                tested.restores += 1;
            }
            Step::Restart => return tested.restart(|_| ()),
        }
        tested
    }

    fn check_invariants(tested: &Self, vms: &Vec<Vm>) {
        let world = &tested.world;
        world.is_sound(false);
        for (place, vm) in vms.iter().enumerate() {
            let backups: Vec<Backup> = world
                .backups(id(place))
                .iter()
                .map(|image| {
                    let points = world.read(|tx| tx.increments(image.id));
                    points.iter().map(|point| (point.increment_id, world.memory.points[&point.point][&0])).collect()
                })
                .collect();
            assert_eq!(backups, vm.backups, "restore points of VM {place}");
        }
        let failed = world.read(|tx| tx.job_list()).into_iter().find(|job| job.phase == JobPhase::Failed.as_str());
        assert!(failed.is_none(), "{failed:?}");
    }

    fn teardown(tested: Self, _: Vec<Vm>) {
        tested.world.close();
    }
}

/// `PROPTEST_RNG_SEED` repeats a run, `PROPTEST_CASES` makes it longer.
static CONFIG: LazyLock<ProptestConfig> = LazyLock::new(|| {
    let mut config = ProptestConfig { max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 36;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(u64::from_ne_bytes(oned::cloud::random().unwrap()));
    }
    println!("PROPTEST_RNG_SEED={}", config.rng_seed);
    config
});

prop_state_machine! {
    #![proptest_config(CONFIG.clone())]

    #[test]
    fn histories_of_backups_come_out_as_the_model_says(sequential 4..24 => Tested);
}
