//! Quotas: what sets and shows them, what each operation takes, which limit refuses it, and that the books are right
//! whatever happens. (Every test of this binary ends with a recount: see `World`.)

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use one_core::access::Caller;
use one_core::quota::{Metric, Owner, Resource, Usage};
use one_core::refusal::Refusal;
use oned::api::quota::Defaults;
use oned::api::{self, Cloud};
use oned::engine::{Engine, Isolation, Outside, Stores};
use oned::quota;
use oned::store::JobFilter;
use oned::store::rows::{HostRow, VmRow};
use proptest::prelude::*;

use crate::world::{IMAGES, SIZE, TEAM, World, valid};

const ALICE: i64 = 2;

/// What is counted for an owner.
fn usage(world: &World, owner: Owner) -> Usage {
    world.read(|tx| quota::load(tx, owner)).1
}

fn used(world: &World, resource: &Resource, metric: Metric) -> i64 {
    let (own, group) = (usage(world, Owner::User(ALICE)), usage(world, Owner::Group(TEAM)));
    assert_eq!(own.used(resource, metric), group.used(resource, metric), "all that alice has is of her group");
    own.used(resource, metric)
}

/// (SIZE, IMAGES) of a datastore.
fn space(world: &World, datastore: i64) -> (i64, i64) {
    let of = |metric| used(world, &Resource::Datastore(datastore), metric);
    (of(Metric::Size), of(Metric::Images))
}

fn limit(world: &World, text: &str) {
    api::quota::user(&world.cloud, &world.admin, ALICE, text).unwrap();
}

fn user_document(world: &World, caller: &Caller, id: i64) -> String {
    valid(api::people::info(&world.cloud, caller, id, false).unwrap())
}

#[test]
fn limits_and_use_are_in_the_documents_of_users_and_groups_and_of_their_pools() {
    let world = World::new();
    assert_eq!(api::quota::user(&world.cloud, &world.admin, ALICE, "VM=[VMS=10,CPU=2.5]").unwrap(), ALICE);
    api::quota::user(&world.cloud, &world.admin, ALICE, "DATASTORE=[ID=100,SIZE=20480]\nVM=[VMS=12]").unwrap();
    assert_eq!(api::quota::group(&world.cloud, &world.admin, TEAM, "IMAGE=[ID=4,RVMS=-2]").unwrap(), TEAM);
    world.add_running_vm("");
    let user = user_document(&world, &world.alice, -1);
    for part in ["<VMS>12</VMS><VMS_USED>1</VMS_USED>", "<CPU>2.5</CPU><CPU_USED>0.5</CPU_USED>", "<SIZE>20480</SIZE>"]
    {
        assert!(user.contains(part), "{part} in {user}");
    }
    let group = valid(api::people::group(&world.cloud, &world.alice, -1).unwrap());
    for part in ["<RVMS>-2</RVMS>", "<RUNNING_VMS_USED>1</RUNNING_VMS_USED>", "<VMS>-1</VMS><VMS_USED>1</VMS_USED>"] {
        assert!(group.contains(part), "{part} in {group}");
    }
    let users = valid(api::people::pool(&world.cloud, &world.admin).unwrap());
    assert!(users.contains("<VMS>12</VMS><VMS_USED>1</VMS_USED>"), "{users}");
    let groups = valid(api::people::group_pool(&world.cloud, &world.admin).unwrap());
    assert!(groups.contains("<RVMS>-2</RVMS>"), "{groups}");
}

#[test]
fn defaults_hold_for_all_who_have_no_limit_of_their_own() {
    let world = World::new();
    let update =
        |whose, text: &str| valid(api::quota::update_defaults(&world.cloud, &world.admin, whose, text).unwrap());
    let document = update(Defaults::Users, "VM=[VMS=1]");
    assert!(document.starts_with("<DEFAULT_USER_QUOTAS>") && document.contains("<VMS>1</VMS>"), "{document}");
    assert_eq!(api::quota::defaults(&world.cloud, Defaults::Users).unwrap(), document);
    assert!(user_document(&world, &world.alice, -1).contains("<VMS>1</VMS>"));
    let make = |cloud: &Cloud| api::vm::allocate(cloud, &world.alice, SIZE, false);
    make(&world.cloud).unwrap();
    world.refuses(512, "User [2] : user [2] limit of 1 reached for VMS quota in VM.", make);
    limit(&world, "VM=[VMS=2]");
    make(&world.cloud).unwrap();
    limit(&world, "VM=[VMS=-2]");
    make(&world.cloud).unwrap();
    limit(&world, "VM=[VMS=-1]");
    world.refuses(512, "User [2] : user [2] limit of 1 reached for VMS quota in VM.", make);
    // Either number takes a default away, and its entry with it.
    assert!(!update(Defaults::Users, "VM=[VMS=-2]").contains("<VMS>"));
    make(&world.cloud).unwrap();

    let document = update(Defaults::Groups, "VM=[MEMORY=1100]");
    assert!(document.starts_with("<DEFAULT_GROUP_QUOTAS>") && document.contains("<MEMORY>1100</MEMORY>"), "{document}");
    world.refuses(512, "User [2] : group [100] limit of 1100 reached for MEMORY quota in VM.", make);
    assert!(!update(Defaults::Groups, "VM=[MEMORY=-1]").contains("<MEMORY>"));
    make(&world.cloud).unwrap();
}

#[test]
fn a_limit_that_is_none_or_that_would_hold_for_nobody_is_refused() {
    let world = World::new();
    let set = |caller: &Caller, id, text: &'static str| {
        let caller = caller.clone();
        move |cloud: &Cloud| api::quota::user(cloud, &caller, id, text)
    };
    let no = "User [2] : Not authorized to perform ADMIN USER [2].";
    world.refuses(512, no, set(&world.alice, ALICE, "VM=[VMS=9]"));
    // Rights come before what the text says.
    world.refuses(512, no, set(&world.alice, ALICE, "VM=["));
    assert_eq!(world.refusal(set(&world.admin, 99, "VM=[VMS=1]")).code(), 1024);
    assert_eq!(world.refusal(set(&world.admin, ALICE, "VM=[")).code(), 8192);
    let why = "Cannot set quotas for oneadmin: nothing is counted for user [0].";
    world.refuses(2048, why, set(&world.admin, 0, "VM=[VMS=1]"));
    let why = "Cannot set quotas for oneadmin: nothing is counted for group [0].";
    world.refuses(2048, why, |cloud| api::quota::group(cloud, &world.admin, 0, "VM=[VMS=1]"));
    for text in ["DISK=[SIZE=1]", "VM=[VMS=-3]", "VM=[VMS=x]", "VM=[SIZE=1]", "DATASTORE=[SIZE=1]", "VM=5"] {
        assert_eq!(world.refusal(set(&world.admin, ALICE, text)).code(), 2048, "{text}");
    }
    for (whose, kind) in [(Defaults::Users, "USER"), (Defaults::Groups, "GROUP")] {
        let update = |caller, text| move |cloud: &Cloud| api::quota::update_defaults(cloud, caller, whose, text);
        let no = format!("User [2] : Not authorized to perform ADMIN {kind}.");
        world.refuses(512, &no, update(&world.alice, "VM=[VMS=9]"));
        assert_eq!(world.refusal(update(&world.admin, "VM=[VMS=1,CLUSTER_IDS=\"0\"]")).code(), 2048);
    }
}

#[test]
fn a_vm_beyond_any_of_its_limits_is_not_made() {
    let world = World::new();
    let image = world.add_image("base");
    let text = format!("{SIZE}DISK=[IMAGE_ID={image}]\nDISK=[TYPE=fs,SIZE=44]\n");
    let make = |cloud: &Cloud| api::vm::allocate(cloud, &world.alice, &text, false);
    make(&world.cloud).unwrap();
    for (name, most, shown) in [
        ("VMS", "1", "1"),
        ("CPU", "0.99", "0.99"),
        ("MEMORY", "511", "511"),
        ("SYSTEM_DISK_SIZE", "599", "599"),
        ("RUNNING_VMS", "1", "1"),
        ("RUNNING_CPU", "0.5", "0.5"),
        ("RUNNING_MEMORY", "300", "300"),
    ] {
        limit(&world, &format!("VM=[{name}={most}]"));
        world.refuses(512, &format!("User [2] : user [2] limit of {shown} reached for {name} quota in VM."), make);
        limit(&world, &format!("VM=[{name}=-1]"));
    }
    limit(&world, &format!("IMAGE=[ID={image},RVMS=1]"));
    world.refuses(
        512,
        &format!("User [2] : user [2] limit of 1 reached for RVMS quota in IMAGE with ID: {image}."),
        make,
    );
    limit(
        &world,
        &format!("IMAGE=[ID={image},RVMS=2]\nVM=[VMS=2,CPU=1,MEMORY=512,SYSTEM_DISK_SIZE=600,RUNNING_VMS=2]"),
    );
    api::quota::group(&world.cloud, &world.admin, TEAM, "VM=[VMS=1]").unwrap();
    world.refuses(512, "User [2] : group [100] limit of 1 reached for VMS quota in VM.", make);
    api::quota::group(&world.cloud, &world.admin, TEAM, "VM=[VMS=2]").unwrap();
    // Exactly as much as there may be.
    make(&world.cloud).unwrap();
}

#[test]
fn addresses_count_in_the_network_of_each_nic() {
    let world = World::new();
    let vm = world.add_running_vm("");
    limit(&world, "NETWORK=[ID=3,LEASES=1]");
    let attach = |nics: &str| {
        let row = world.vm_row(vm);
        let row = VmRow { template: format!("{}{nics}", row.template), ..row };
        world.cloud.store.write(|tx| quota::save_vm(tx, &row)?.allowed(tx, ALICE))
    };
    let nic = "NIC=[NETWORK_ID=\"3\"]\n";
    let refused: Result<(), Refusal> = attach(&nic.repeat(2));
    let why = "User [2] : user [2] limit of 1 reached for LEASES quota in NETWORK with ID: 3.";
    assert_eq!(refused.unwrap_err().to_string(), why);
    attach(nic).unwrap();
    assert_eq!(used(&world, &Resource::Network(3), Metric::Leases), 1);
}

#[test]
fn running_is_counted_when_the_vm_waits_or_runs_and_resuming_asks_again() {
    let world = World::new();
    let running = || {
        let of = |metric| used(&world, &Resource::all_vms(), metric);
        assert_eq!(of(Metric::RunningMemory), 256 * of(Metric::RunningVms));
        (of(Metric::Vms), of(Metric::RunningVms))
    };
    let vm = world.add_running_vm("");
    assert_eq!(running(), (1, 1));
    // Where it runs is counted too.
    assert_eq!(used(&world, &Resource::Vm("0".into()), Metric::RunningVms), 1);
    world.power_off(vm);
    assert_eq!(running(), (1, 0));
    let resume = |cloud: &Cloud| api::vm::action(cloud, &world.alice, "resume", vm);
    limit(&world, "VM=[RUNNING_VMS=0]");
    world.refuses(512, "User [2] : user [2] limit of 0 reached for RUNNING_VMS quota in VM.", resume);
    limit(&world, "VM=[RUNNING_VMS=-1]\nVM=[CLUSTER_IDS=\"0,7\",RUNNING_MEMORY=255]");
    let why = "User [2] : user [2] limit of 255 reached for RUNNING_MEMORY quota in VM with CLUSTER_IDS: 0,7.";
    world.refuses(512, why, resume);
    limit(&world, "VM=[CLUSTER_IDS=\"0,7\",RUNNING_MEMORY=256]");
    resume(&world.cloud).unwrap();
    assert_eq!(running(), (1, 1));
    // One that was never placed is gone at once; a placed one when the engine says so.
    let waiting = api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    assert_eq!(running(), (2, 2));
    api::vm::action(&world.cloud, &world.alice, "terminate", waiting).unwrap();
    assert_eq!(running(), (1, 1));
    let stuck = api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    api::vm::recover(&world.cloud, &world.admin, stuck, 3).unwrap();
    assert_eq!(running(), (1, 1));
}

#[test]
fn a_host_takes_what_its_vms_use_to_another_cluster() {
    let world = World::new();
    world.add_running_vm("");
    world.write(|tx| {
        tx.cluster_insert(&oned::store::rows::ClusterRow { id: 100, name: "far".into(), template: String::new() })?;
        let host = tx.host(0)?;
        quota::save_host(tx, &HostRow { cluster_id: 100, ..host })
    });
    let vms = |cluster: &str| used(&world, &Resource::Vm(cluster.into()), Metric::Vms);
    assert_eq!((vms(""), vms("0"), vms("100")), (1, 0, 1));
    api::cluster::remove_host(&world.cloud, &world.admin, 100, 0).unwrap();
    assert_eq!((vms(""), vms("0"), vms("100")), (1, 1, 0));
    api::cluster::add_host(&world.cloud, &world.admin, 100, 0).unwrap();
    assert_eq!((vms(""), vms("0"), vms("100")), (1, 0, 1));
}

#[test]
fn images_count_in_their_datastore_and_beyond_the_limit_none_is_made_or_restored() {
    let world = World::new();
    let backups = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    assert_eq!(space(&world, IMAGES), (256, 1));
    let image = |cloud: &Cloud| api::image::allocate(cloud, &world.alice, "NAME=b\nPATH=\"/var/tmp/b\"\n", IMAGES);
    limit(&world, "DATASTORE=[ID=1,IMAGES=1]");
    world.refuses(512, "User [2] : user [2] limit of 1 reached for IMAGES quota in DATASTORE with ID: 1.", image);
    let backup = world.add_backup(vm, backups, 1, false);
    let restore = |cloud: &Cloud| api::restore::restore(cloud, &world.alice, backup, IMAGES, "");
    world.refuses(512, "User [2] : user [2] limit of 1 reached for IMAGES quota in DATASTORE with ID: 1.", restore);
    limit(&world, "DATASTORE=[ID=1,IMAGES=-1,SIZE=511]");
    world.refuses(512, "User [2] : user [2] limit of 511 reached for SIZE quota in DATASTORE with ID: 1.", restore);
    // For who asks, not for whose backup it was.
    api::restore::restore(&world.cloud, &world.admin, backup, IMAGES, "").unwrap();
    assert_eq!((space(&world, IMAGES), space(&world, backups)), ((256, 1), (172, 1)));
    limit(&world, "DATASTORE=[ID=1,SIZE=512]");
    restore(&world.cloud).unwrap();
    assert_eq!(space(&world, IMAGES), (512, 2));
}

#[test]
fn a_backup_reserves_the_disks_size_for_the_vms_owner_and_is_refused_before_anything_happens() {
    let world = World::new();
    let backups = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("DISK=[TYPE=fs,SIZE=44]");
    // oneadmin asks, alice pays.
    let backup = |cloud: &Cloud| api::backup::backup(cloud, &world.admin, vm, backups, false);
    limit(&world, "DATASTORE=[ID=100,SIZE=255]");
    world.refuses(512, "User [0] : user [2] limit of 255 reached for SIZE quota in DATASTORE with ID: 100.", backup);
    limit(&world, "DATASTORE=[ID=100,SIZE=256,IMAGES=0]");
    world.refuses(512, "User [0] : user [2] limit of 0 reached for IMAGES quota in DATASTORE with ID: 100.", backup);
    limit(&world, "DATASTORE=[ID=100,IMAGES=1]");
    api::quota::group(&world.cloud, &world.admin, TEAM, "DATASTORE=[ID=100,SIZE=200]").unwrap();
    world.refuses(512, "User [0] : group [100] limit of 200 reached for SIZE quota in DATASTORE with ID: 100.", backup);
    api::quota::group(&world.cloud, &world.admin, TEAM, "DATASTORE=[ID=100,SIZE=-1]").unwrap();
    // A state in which nothing is backed up is told also to who has room, and takes none.
    world.power_off(vm);
    world.edit_vm(vm, |row| row.state = 5);
    assert_eq!(world.refusal(backup).code(), 8192);
    world.edit_vm(vm, |row| row.state = 8);
    backup(&world.cloud).unwrap();
    assert_eq!(space(&world, backups), (256, 1));
    let (_, plan) = world.backup_plan();
    assert_eq!((plan.reserved.uid, plan.reserved.gid), (ALICE, TEAM));
}

#[test]
fn an_increment_reserves_no_image() {
    let world = World::new();
    let backups = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]");
    world.add_backup(vm, backups, 2, true);
    limit(&world, "DATASTORE=[ID=100,IMAGES=1]");
    api::backup::backup(&world.cloud, &world.admin, vm, backups, false).unwrap();
    assert_eq!(space(&world, backups), (172 + 256, 1));
}

#[test]
fn a_new_owner_takes_over_what_is_counted_unless_a_limit_of_his_forbids_it() {
    let world = &World::new();
    let bob = world.bob.uid;
    let (vm, image) = (world.add_running_vm(""), world.add_image("given"));
    let give = |uid, gid| {
        move |cloud: &Cloud| api::owned::chown::<VmRow>(cloud, &world.admin, vm, (uid, gid), quota::vm_moved)
    };
    let give_image = |cloud: &Cloud| {
        api::owned::chown::<oned::store::rows::ImageRow>(cloud, &world.admin, image, (bob, -1), quota::image_moved)
    };
    api::quota::user(&world.cloud, &world.admin, bob, "VM=[VMS=0]\nDATASTORE=[ID=1,IMAGES=0]").unwrap();
    world.refuses(512, "User [0] : user [3] limit of 0 reached for VMS quota in VM.", give(bob, -1));
    world.refuses(512, "User [0] : user [3] limit of 0 reached for IMAGES quota in DATASTORE with ID: 1.", give_image);
    api::quota::group(&world.cloud, &world.admin, 1, "VM=[MEMORY=255]").unwrap();
    world.refuses(512, "User [0] : group [1] limit of 255 reached for MEMORY quota in VM.", give(-1, 1));
    api::quota::user(&world.cloud, &world.admin, bob, "VM=[VMS=1]\nDATASTORE=[ID=1,IMAGES=1]").unwrap();
    give(bob, -1)(&world.cloud).unwrap();
    give_image(&world.cloud).unwrap();
    let vms = |owner| usage(world, owner).used(&Resource::all_vms(), Metric::Vms);
    assert_eq!((vms(Owner::User(ALICE)), vms(Owner::User(bob)), vms(Owner::Group(TEAM))), (0, 1, 1));
    // For the first administrator nothing is counted.
    give(0, 0)(&world.cloud).unwrap();
    assert_eq!((vms(Owner::User(bob)), vms(Owner::User(0)), vms(Owner::Group(TEAM))), (0, 0, 0));
}

#[test]
fn wrong_books_are_put_right_and_limits_kept_when_the_daemon_starts() {
    let world = World::new();
    world.add_running_vm("");
    limit(&world, "VM=[VMS=7]");
    let right = world.read(quota::recount);
    world.sql(
        "UPDATE quota SET used = used + 5 WHERE metric = 'VMS';
         DELETE FROM quota WHERE metric = 'SIZE';
         INSERT INTO quota VALUES ('USER', 55, 'DATASTORE', '100', 'SIZE', NULL, 9);",
    );
    assert_eq!(world.read(quota::differences).len(), 3);
    assert_eq!(counted_by_others(&world).lines().count(), 7, "{}", counted_by_others(&world));
    world.write(quota::repair);
    assert_eq!(world.read(quota::recount), right);
    assert!(world.read(quota::differences).is_empty());
    assert!(user_document(&world, &world.alice, -1).contains("<VMS>7</VMS><VMS_USED>1</VMS_USED>"));
}

#[test]
fn what_a_user_leaves_behind_still_counts_for_his_group_and_his_limits_go() {
    let world = World::new();
    let vm = api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    limit(&world, "VM=[VMS=7,RUNNING_VMS=7]\nDATASTORE=[ID=100,SIZE=1]");
    api::people::delete(&world.cloud, &world.admin, ALICE).unwrap();
    let (limits, usage) = world.read(|tx| quota::load(tx, Owner::User(ALICE)));
    assert_eq!((limits.iter().count(), usage.used(&Resource::all_vms(), Metric::Vms)), (0, 1));
    api::vm::action(&world.cloud, &world.admin, "terminate", vm).unwrap();
    assert!(world.read(|tx| tx.quotas("USER", ALICE)).is_empty(), "nothing is left of her");
}

#[test]
fn ten_thousand_vms_are_recounted() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let row = world.vm_row(vm);
    world.write(|tx| {
        for id in 1000..11_000 {
            tx.vm_insert(&VmRow { id, ..row.clone() })?;
        }
        Ok(())
    });
    world.write(quota::repair);
    assert_eq!(used(&world, &Resource::all_vms(), Metric::Memory), 10_001 * 256);
}

/// A cloud with an engine, on dummy drivers; its hosts and backup datastores fail when they are told to.
struct Site {
    world: World,
    engine: Option<Arc<Engine>>,
    dummies: PathBuf,
    files: tempfile::TempDir,
    backups: i64,
}

impl Site {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let safe = files.path().to_owned();
        let world = World::configured(move |config| {
            config.dummy_drivers = true;
            config.safe_dirs = vec![safe];
        });
        let dummies = world.cloud.config.dummy_directory.clone();
        world.write(|tx| {
            let host = tx.host(0)?;
            tx.host_update(&HostRow { vm_mad: "dummy".into(), im_mad: "dummy".into(), ..host })
        });
        let text = "NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=dummy\nTM_MAD=dummy\n";
        let backups = api::datastore::allocate(&world.cloud, &world.admin, text, -1).unwrap();
        world.edit_datastore(backups, |row| row.permissions = crate::world::octal(0o644));
        for mb in [1, 3] {
            std::fs::write(files.path().join(format!("{mb}.raw")), vec![7_u8; mb << 20]).unwrap();
        }
        let mut site = Self { world, engine: None, dummies, files, backups };
        site.start();
        site
    }

    fn cloud(&self) -> &Cloud {
        &self.world.cloud
    }

    /// Ends the engine and starts another over the same database, as a daemon that was restarted.
    fn start(&mut self) {
        if let Some(old) = self.engine.take() {
            old.stop(Duration::from_secs(20));
        }
        let (sender, _events) = mpsc::channel();
        let outside =
            Outside::new(sender, Some(self.dummies.clone()), Stores::new(&self.world.cloud, Isolation::InProcess));
        let engine = Engine::new(Arc::clone(&self.world.cloud), Arc::new(outside));
        engine.start().unwrap();
        self.world.write(|tx| {
            assert!(quota::differences(tx)?.is_empty());
            Ok(())
        });
        self.engine = Some(engine);
    }

    fn tick(&self) {
        self.engine.as_ref().unwrap().tick();
    }

    /// Ticks until no job is open, or `rounds` times: some jobs never end while a driver fails.
    fn run(&self, rounds: u32) {
        for _ in 0..rounds {
            self.tick();
            std::thread::sleep(Duration::from_millis(4));
            let jobs = self.world.read(|tx| tx.jobs_open(JobFilter::All));
            let now = self.world.clock_now();
            if jobs.is_empty() {
                return;
            }
            if jobs.iter().all(|job| job.not_before > now) {
                self.world.clock.advance(15);
            }
        }
    }

    /// Makes these operations of host and datastore fail from now on.
    fn fail(&self, operations: &[&str], kind: &str) {
        let rules: Vec<String> = operations
            .iter()
            .map(|name| format!("{{\"operation\":\"{name}\",\"fail\":{{\"kind\":\"{kind}\",\"reason\":\"told so\"}}}}"))
            .collect();
        for driver in ["host-0".to_owned(), format!("datastore-{}", self.backups)] {
            let directory = self.dummies.join(driver);
            std::fs::create_dir_all(&directory).unwrap();
            let script = format!("{{\"rules\":[{}]}}", rules.join(","));
            std::fs::write(directory.join("script.json.new"), script).unwrap();
            std::fs::rename(directory.join("script.json.new"), directory.join("script.json")).unwrap();
        }
    }

    fn import(&self, caller: &Caller, name: &str, file: &Path) -> Result<i64, Refusal> {
        let text = format!("NAME=\"{name}\"\nPATH=\"{}\"\nDRIVER=raw\n", file.display());
        api::image::allocate(self.cloud(), caller, &text, IMAGES)
    }

    /// A running VM of alice's from an image of 3 MB.
    fn vm(&self, more: &str) -> i64 {
        let image = self.import(&self.world.alice, "base", &self.files.path().join("3.raw")).unwrap();
        self.run(2000);
        let text = format!("{SIZE}DISK=[IMAGE_ID={image}]\n{more}");
        let vm = api::vm::allocate(self.cloud(), &self.world.alice, &text, false).unwrap();
        self.run(2000);
        // Placing writes a job after the first look at open jobs.
        self.run(2000);
        assert_eq!(self.world.phase(vm), one_core::lifecycle::VmPhase::RUNNING);
        vm
    }

    fn backup(&self, vm: i64) -> Result<i64, Refusal> {
        api::backup::backup(self.cloud(), &self.world.admin, vm, self.backups, false)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop(Duration::from_secs(20));
        }
    }
}

#[test]
fn a_backup_that_fails_gives_back_all_and_one_that_works_keeps_its_real_size() {
    let mut site = Site::new();
    let vm = site.vm("BACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=2]\n");
    let backups = site.backups;
    assert_eq!(space(&site.world, IMAGES), (3, 1));
    for operation in ["begin_backup", "store", "seal"] {
        site.fail(&[operation], "permanent");
        site.backup(vm).unwrap();
        assert_eq!(space(&site.world, backups), (3, 1));
        site.run(2000);
        assert_eq!(space(&site.world, backups), (0, 0), "{operation}");
    }
    // What cannot be cleaned up is not the owner's to pay.
    site.fail(&["store", "sweep", "abandon_backup"], "retry");
    site.backup(vm).unwrap();
    api::backup::cancel(site.cloud(), &site.world.admin, vm).unwrap();
    site.run(2000);
    assert_eq!(space(&site.world, backups), (0, 0));
    site.fail(&[], "retry");
    site.run(2000);

    let recorded = |site: &Site| {
        let images = site.world.read(|tx| tx.backups_of_vm(vm));
        (images.iter().map(|image| image.size_mb).sum::<i64>(), i64::try_from(images.len()).unwrap())
    };
    for _ in 0..3 {
        site.backup(vm).unwrap();
        site.tick();
        site.start();
        site.run(2000);
        assert_eq!(space(&site.world, backups), recorded(&site));
        assert_eq!(recorded(&site).1, 1);
    }
    let image = site.world.read(|tx| tx.backups_of_vm(vm))[0].id;
    api::image::delete(site.cloud(), &site.world.admin, image, false).unwrap();
    site.run(2000);
    assert_eq!(space(&site.world, backups), (0, 0));
}

#[test]
fn an_import_beyond_the_limit_ends_in_error_and_leaves_no_file() {
    let site = Site::new();
    limit(&site.world, "DATASTORE=[ID=1,SIZE=3]");
    let first = site.import(&site.world.alice, "first", &site.files.path().join("1.raw")).unwrap();
    // How large a file is shows when it is looked at.
    let second = site.import(&site.world.alice, "second", &site.files.path().join("3.raw")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !site.world.open_jobs().is_empty() && Instant::now() < deadline {
        site.run(1);
    }
    let states = [first, second].map(|id| site.world.image_row(id).state);
    assert_eq!(states.iter().filter(|state| **state == 1).count(), 1, "{states:?}");
    for (id, state) in [first, second].into_iter().zip(states) {
        let row = site.world.image_row(id);
        assert_eq!(Path::new(&row.source).exists(), state == 1);
        if state != 1 {
            let why = "User [2] : user [2] limit of 3 reached for SIZE quota in DATASTORE with ID: 1.";
            assert!((row.size_mb, state) == (0, 5) && row.template.contains(why), "{row:?}");
        }
    }
}

/// What the script that the system tests use finds wrong.
fn counted_by_others(world: &World) -> String {
    let script = include_str!("../../../tests/src/quotas.py");
    let done = Command::new("python3").args(["-c", script]).arg(world.database()).output();
    let done = done.expect("python3 is needed: apt install python3");
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

/// What may happen; numbers choose among what is there.
#[derive(Debug, Clone)]
enum Op {
    Limit(usize, i64),
    Import(bool, bool),
    Vm(bool, usize, bool),
    Act(usize, usize),
    Backup(usize),
    Cancel(usize),
    Recover(usize, i64),
    ChownVm(usize, usize),
    ChownImage(usize, usize),
    DeleteImage(usize),
    Restore(usize),
    DeleteUser,
    Fail(usize, bool),
    Work,
    Tick,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..6_usize, prop_oneof![Just(-1), 0..30_i64]).prop_map(|(which, most)| Op::Limit(which, most)),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(alice, large)| Op::Import(alice, large)),
        4 => (any::<bool>(), 0..9_usize, any::<bool>()).prop_map(|(alice, image, hold)| Op::Vm(alice, image, hold)),
        4 => (0..9_usize, 0..7_usize).prop_map(|(vm, word)| Op::Act(vm, word)),
        6 => (0..9_usize).prop_map(Op::Backup),
        1 => (0..9_usize).prop_map(Op::Cancel),
        1 => (0..9_usize, prop_oneof![Just(0), Just(2), Just(3)]).prop_map(|(vm, what)| Op::Recover(vm, what)),
        1 => (0..9_usize, 0..4_usize).prop_map(|(vm, to)| Op::ChownVm(vm, to)),
        1 => (0..9_usize, 0..4_usize).prop_map(|(image, to)| Op::ChownImage(image, to)),
        2 => (0..9_usize).prop_map(Op::DeleteImage),
        1 => (0..9_usize).prop_map(Op::Restore),
        1 => Just(Op::DeleteUser),
        1 => (0..16_usize, any::<bool>()).prop_map(|(what, passes)| Op::Fail(what, passes)),
        8 => Just(Op::Work),
        2 => Just(Op::Tick),
        1 => Just(Op::Restart),
    ]
}

const WORDS: [&str; 7] = ["poweroff-hard", "resume", "hold", "release", "terminate-hard", "poweroff", "reboot-hard"];
const FAULTS: [&[&str]; 8] = [
    &[],
    &["store"],
    &["seal"],
    &["begin_backup"],
    &["deploy"],
    &["restore", "forget"],
    &["destroy", "undefine"],
    &["store", "sweep"],
];

/// Does it. What is refused is refused: the books have to be right all the same.
fn happen(site: &mut Site, op: &Op, number: usize) -> Option<Refusal> {
    let (alice, bob, admin) = (site.world.alice.clone(), site.world.bob.clone(), site.world.admin.clone());
    let vms: Vec<i64> =
        site.world.read(|tx| tx.vms(oned::store::VmFilter::default())).iter().map(|row| row.id).collect();
    let rows = site.world.read(|tx| tx.image_list());
    let images: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let backups: Vec<i64> = rows.iter().filter(|row| row.kind == api::image::BACKUP).map(|row| row.id).collect();
    let of = |ids: &[i64], choice: usize| ids.get(choice % ids.len().max(1)).copied().unwrap_or(-1);
    let to = |choice: usize| [(0, 0), (alice.uid, TEAM), (bob.uid, 1), (-1, 1)][choice];
    let caller = |of_alice: bool| if of_alice { &alice } else { &bob };
    let cloud = &site.world.cloud;
    match *op {
        Op::Limit(which, most) => {
            let text = [
                format!("VM=[VMS={most}]"),
                format!("VM=[RUNNING_VMS={most},CPU={most}]"),
                format!("DATASTORE=[ID={},SIZE={most}]", site.backups),
                format!("DATASTORE=[ID={},IMAGES={most}]", site.backups),
                format!("DATASTORE=[ID=1,SIZE={most}]"),
                format!("VM=[CLUSTER_IDS=\"0,1\",VMS={most}]"),
            ];
            api::quota::user(cloud, &admin, alice.uid, &text[which]).err()
        }
        Op::Import(of_alice, large) => {
            let file = site.files.path().join(if large { "3.raw" } else { "1.raw" });
            site.import(caller(of_alice), &format!("image-{number}"), &file).err()
        }
        Op::Vm(of_alice, image, hold) => {
            // The first image is for everybody.
            let image = if image < 6 { of(&images, 0) } else { of(&images, image) };
            let disk = if image % 4 == 3 { "TYPE=fs,SIZE=2".into() } else { format!("IMAGE_ID={image}") };
            let text = format!("{SIZE}DISK=[{disk}]\nBACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=2,BACKUP_VOLATILE=YES]\n");
            api::vm::allocate(cloud, caller(of_alice), &text, hold).err()
        }
        Op::Act(vm, word) => api::vm::action(cloud, &admin, WORDS[word], of(&vms, vm)).err(),
        Op::Backup(vm) => site.backup(of(&vms, vm)).err(),
        Op::Cancel(vm) => api::backup::cancel(cloud, &admin, of(&vms, vm)).err(),
        Op::Recover(vm, operation) => api::vm::recover(cloud, &admin, of(&vms, vm), operation).err(),
        Op::ChownVm(vm, user) => {
            api::owned::chown::<VmRow>(cloud, &admin, of(&vms, vm), to(user), quota::vm_moved).err()
        }
        Op::ChownImage(image, user) => api::owned::chown::<oned::store::rows::ImageRow>(
            cloud,
            &admin,
            of(&images, image),
            to(user),
            quota::image_moved,
        )
        .err(),
        Op::DeleteImage(image) => api::image::delete(cloud, &admin, of(&images, image), number.is_multiple_of(2)).err(),
        Op::Restore(image) => api::restore::restore(cloud, &admin, of(&backups, image), IMAGES, "").err(),
        // Once: there is no other bob.
        Op::DeleteUser => api::people::delete(cloud, &admin, bob.uid).err(),
        Op::Fail(what, passes) => {
            site.fail(FAULTS.get(what).copied().unwrap_or_default(), if passes { "retry" } else { "permanent" });
            None
        }
        Op::Work => {
            site.run(100);
            None
        }
        Op::Tick => {
            site.tick();
            None
        }
        Op::Restart => {
            site.start();
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn usage_always_equals_a_recount(ops in proptest::collection::vec(op(), 30..80)) {
        let mut site = Site::new();
        let mode = "BACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=2]\n";
        site.vm(mode);
        site.world.edit_image(0, |row| row.permissions = crate::world::octal(0o644));
        for (number, op) in ops.iter().enumerate() {
            let refused = happen(&mut site, op, number);
            let wrong = site.world.read(quota::differences);
            prop_assert!(wrong.is_empty(), "after {op:?} ({refused:?}): {wrong:#?}");
            if number % 25 == 24 {
                prop_assert_eq!(counted_by_others(&site.world), "", "after {:?}", op);
            }
        }
        site.fail(&[], "retry");
        site.run(3000);
        let wrong = site.world.read(quota::differences);
        prop_assert!(wrong.is_empty(), "at rest: {wrong:#?}");
        prop_assert_eq!(counted_by_others(&site.world), "");
        prop_assert!(site.world.open_jobs().is_empty(), "{:#?}", site.world.open_jobs());
    }
}
