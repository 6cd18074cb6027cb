//! What is done while the plug is pulled or something fails.

use oned::api::vm_restore::InPlace;
use oned::{api, ledger};

use super::world::{Disks, World};

/// One thing that a user does to the VM of a cloud, and what has to come of it.
pub struct Story {
    pub name: &'static str,
    /// Makes the VM and what the story begins with.
    prepare: fn(&mut World) -> i64,
    /// Asks for it.
    ask: fn(&World, i64),
    /// Whether the backup is held in the middle and cancelled there.
    pub cancels: bool,
    /// Whether it came out as it has to when nothing fails for good.
    came: fn(&World, i64) -> bool,
}

/// The only VM is the first, and so is the only backup job.
const VM: i64 = 0;

/// The story of more than one VM.
const JOB: &str = "run of a backup job";

impl Story {
    pub fn prepare(&self, world: &mut World) {
        assert_eq!((self.prepare)(world), VM);
    }

    pub fn ask(&self, world: &World) {
        (self.ask)(world, VM);
    }

    #[track_caller]
    pub fn came_true(&self, world: &World) {
        assert!((self.came)(world, VM), "the story did not come true: {}", world.vm_row(VM).user_template);
    }

    /// All that has to hold after the story, and a further backup. `may_fail`: something was refused for good.
    #[track_caller]
    pub fn ends(&self, world: &mut World, may_fail: bool) {
        world.is_sound(may_fail);
        if self.name == "restore in place" {
            world.wakes(VM);
        }
        let restored = world.restored_images();
        if !restored.is_empty() {
            let wanted = world.memory.disks[&VM].clone();
            assert!(world.restored(&restored, &wanted) || may_fail, "the restore came to nothing");
        }
        if !may_fail {
            self.came_true(world);
        }
        if self.name == JOB {
            // What fails once is done again in the same run, so nothing has failed in the end.
            self.came_true(world);
            api::backup_job::delete(&world.cloud, &world.owner, 0).unwrap();
        }
        world.goes_on(VM);
        world.is_sound(may_fail);
    }
}

impl World {
    /// The images that the story restored.
    fn restored_images(&self) -> Vec<i64> {
        let images = self.read(|tx| tx.image_list());
        images.into_iter().filter(|image| image.name.starts_with("again")).map(|image| image.id).collect()
    }

    /// A VM with `points` backups of which each has something new.
    fn vm_with_backups(&mut self, disks: u32, config: &str, points: u8) -> i64 {
        let vm = self.vm("one", disks, config);
        for number in 0..points {
            for disk in 0..disks {
                self.write(vm, disk, 0, 10 + number);
                self.write(vm, disk, 1 + usize::from(number), 20 + number);
            }
            self.backup(vm, false);
        }
        self.write(vm, 0, 5, 55);
        self.write(vm, disks - 1, 0, 0);
        vm
    }

    /// What the first restore point of a VM holds.
    fn first_state(&self, vm: i64) -> Disks {
        self.memory.points[&self.points(vm)[0].point].clone()
    }

    /// A VM that was to be put back is off. All its disks are those of the backup, or all are as before; it runs again.
    #[track_caller]
    fn wakes(&mut self, vm: i64) {
        let first = self.first_state(vm);
        if self.holds(vm, &first) {
            self.memory.disks.insert(vm, first);
        }
        assert!(self.holds(vm, &self.memory.disks[&vm]), "some disks are put back, and some are not");
        self.power_on(vm);
    }

    /// The checkpoints are gone, as after a power cut.
    fn lose_checkpoints(&self) {
        for host in std::fs::read_dir(self.folder.join("dummy")).unwrap() {
            let Ok(domains) = std::fs::read_dir(host.unwrap().path().join("domains")) else { continue };
            for domain in domains {
                std::fs::remove_dir_all(domain.unwrap().path().join("checkpoints")).ok();
            }
        }
    }

    fn increment_ids(&self, vm: i64) -> Vec<i64> {
        self.points(vm).iter().map(|point| point.increment_id).collect()
    }
}

fn back_up(world: &World, vm: i64) {
    world.ask_backup(vm, false).unwrap();
}

/// Every story of backups.
pub const STORIES: [Story; 12] = [
    Story {
        name: "full",
        prepare: |world| world.vm_with_backups(2, "MODE=FULL", 1),
        ask: back_up,
        cancels: false,
        came: |world, vm| world.backups(vm).len() == 2,
    },
    Story {
        name: "increment",
        prepare: |world| world.vm_with_backups(1, "MODE=INCREMENT", 2),
        ask: back_up,
        cancels: false,
        came: |world, vm| world.increment_ids(vm) == [0, 1, 2],
    },
    Story {
        name: "increment of a VM that is off",
        prepare: |world| {
            let vm = world.vm_with_backups(1, "MODE=INCREMENT", 2);
            world.power_off(vm);
            vm
        },
        ask: back_up,
        cancels: false,
        came: |world, vm| world.increment_ids(vm) == [0, 1, 2],
    },
    Story {
        name: "reset",
        prepare: |world| world.vm_with_backups(1, "MODE=INCREMENT", 2),
        ask: |world, vm| world.ask_backup(vm, true).unwrap(),
        cancels: false,
        came: |world, vm| world.backups(vm).len() == 2 && world.increment_ids(vm) == [0, 1, 0],
    },
    Story {
        name: "fallback",
        prepare: |world| {
            let vm = world.vm_with_backups(1, "MODE=INCREMENT", 2);
            world.lose_checkpoints();
            vm
        },
        ask: back_up,
        cancels: false,
        came: |world, vm| {
            let points = world.points(vm);
            points.len() == 3 && !points[2].reason.is_empty()
        },
    },
    Story {
        name: "restore",
        prepare: |world| {
            let vm = world.vm_with_backups(2, "MODE=INCREMENT", 1);
            world.backup(vm, false);
            vm
        },
        ask: |world, vm| {
            let image = world.backups(vm)[0].id;
            world.ask_restore(image, 1, "again");
        },
        cancels: false,
        came: |world, _| world.restored_images().len() == 2,
    },
    Story {
        name: "restore in place",
        prepare: |world| {
            let vm = world.vm_with_backups(2, "MODE=INCREMENT", 2);
            world.power_off(vm);
            vm
        },
        ask: |world, vm| {
            let wish = InPlace { image_id: world.backups(vm)[0].id, increment: 0, disk: -1 };
            api::vm_restore::restore(&world.cloud, &world.admin, vm, wish).unwrap();
        },
        cancels: false,
        came: |world, vm| {
            let chain = ledger::config_of(&world.vm_row(vm)).chain();
            world.memory.disks[&vm] == world.first_state(vm) && chain.is_none()
        },
    },
    Story {
        name: "prune a chain",
        // Its first point goes and one in its middle: the one between them is that of a schedule.
        prepare: |world| {
            let vm = world.vm_with_backups(1, "MODE=INCREMENT,KEEP_LAST=2", 1);
            let schedule = world.schedule(vm, 1);
            world.backup_by(vm, schedule);
            world.write(vm, 0, 6, 66);
            world.backup(vm, false);
            world.write(vm, 0, 7, 77);
            api::vm::update_conf(&world.cloud, &world.admin, vm, "BACKUP_CONFIG=[KEEP_LAST=1]", 1).unwrap();
            vm
        },
        ask: back_up,
        cancels: false,
        came: |world, vm| {
            let chain: Vec<_> = world.points(vm).iter().map(|point| (point.increment_id, point.parent_id)).collect();
            chain == [(1, -1), (3, 1)]
        },
    },
    Story {
        name: "prune full images",
        prepare: |world| world.vm_with_backups(1, "MODE=FULL,KEEP_LAST=2", 2),
        ask: back_up,
        cancels: false,
        came: |world, vm| world.backups(vm).len() == 2,
    },
    Story {
        name: "delete",
        prepare: |world| world.vm_with_backups(1, "MODE=INCREMENT", 2),
        ask: |world, vm| {
            let image = world.backups(vm)[0].id;
            api::image::delete(&world.cloud, &world.owner, image, false).unwrap();
        },
        cancels: false,
        came: |world, vm| world.backups(vm).is_empty(),
    },
    Story {
        name: "cancel",
        prepare: |world| {
            let vm = world.vm_with_backups(1, "MODE=INCREMENT", 1);
            world.script(r#"{"rules":[{"operation":"store","until_cancelled":true}]}"#);
            vm
        },
        ask: back_up,
        cancels: true,
        // A crash may come before the cancel.
        came: |world, vm| world.points(vm).len() <= 2,
    },
    Story {
        name: JOB,
        prepare: |world| {
            let vms = [world.vm("one", 1, "MODE=INCREMENT"), world.vm("two", 1, "MODE=INCREMENT")];
            let job = world.backup_job(&vms, "MODE=INCREMENT\n");
            world.write(vms[0], 0, 0, 11);
            world.run_of(job);
            vms.iter().for_each(|vm| world.write(*vm, 0, 3, 33));
            vms[0]
        },
        ask: |world, _| {
            api::backup_job::backup(&world.cloud, &world.owner, 0).unwrap();
        },
        cancels: false,
        came: |world, vm| {
            // Whoever failed first is the last.
            let mut updated = world.lists(0)[2].clone();
            updated.sort_unstable();
            updated == [vm, vm + 1] && updated.iter().all(|vm| world.increment_ids(*vm) == [0, 1])
        },
    },
];

/// The story of that name.
pub fn story(name: &str) -> &'static Story {
    STORIES.iter().find(|story| story.name == name).unwrap()
}
