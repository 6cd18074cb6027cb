use proptest::prelude::*;

use super::cost::{self, Owned};
use super::*;
use crate::doc;
use crate::lifecycle::VmState;
use crate::template::Template;

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn limits(text: &str) -> Limits {
    let mut limits = Limits::new();
    limits.update(&template(text)).unwrap();
    limits
}

fn refusal_of(text: &str) -> String {
    let mut limits = limits("DATASTORE = [ ID = 7, SIZE = 7 ]");
    let before = limits.clone();
    let refusal = limits.update(&template(text)).unwrap_err();
    assert_eq!(refusal.code(), crate::refusal::ACTION);
    assert_eq!(limits, before, "a refusal changes nothing");
    refusal.to_string()
}

fn applied(demands: &[Demand]) -> Usage {
    let mut usage = Usage::new();
    for demand in demands {
        assert_eq!(usage.apply(demand), []);
    }
    usage
}

const USER: Owner = Owner::User(2);

const VM: &str = r#"
    CPU = "1.5" MEMORY = "1024"
    DISK = [ DISK_ID = 0, IMAGE_ID = 4, CLONE = YES, SIZE = 2048, TYPE = FILE ]
    DISK = [ DISK_ID = 1, IMAGE_ID = 5, CLONE = NO, PERSISTENT = YES, SIZE = 100, TYPE = FILE ]
    DISK = [ DISK_ID = 2, IMAGE_ID = 6, CLONE = NO, SIZE = 300, TYPE = CDROM ]
    DISK = [ DISK_ID = 3, SIZE = 512, TYPE = fs ]
    DISK = [ DISK_ID = 4, SIZE = 64, TYPE = swap ]
    DISK = [ DISK_ID = 5, IMAGE_ID = 4, CLONE = YES, SIZE = 2048, TYPE = FILE ]
    NIC = [ NETWORK_ID = 1 ]
    NIC = [ NETWORK_ID = 1 ]
    NIC_ALIAS = [ NETWORK_ID = 3 ]
    PCI = [ VENDOR = "10de" ]
    PCI = [ TYPE = NIC, NETWORK_ID = 9 ]
"#;

#[test]
fn every_metric_and_resource_comes_back_from_its_name() {
    for section in Section::ALL {
        assert_eq!(Section::from_name(section.name()), Some(section));
        for metric in section.metrics() {
            assert_eq!(Metric::from_name(metric.name()), Some(*metric));
        }
    }
    for resource in [
        Resource::Datastore(100),
        Resource::Network(0),
        Resource::Image(3),
        Resource::all_vms(),
        Resource::Vm("1,20".into()),
    ] {
        assert_eq!(Resource::from_key(resource.section(), &resource.key()), Some(resource));
    }
    assert_eq!(Resource::from_key(Section::Vm, "20, 1,1"), Some(Resource::Vm("1,20".into())));
    assert_eq!(Resource::from_key(Section::Vm, "1,,2"), None);
    assert_eq!(Resource::from_key(Section::Datastore, "-1"), None);
}

#[test]
fn limits_are_read_as_the_guide_writes_them() {
    let limits = limits(
        "DATASTORE = [ ID = 100, SIZE = 20480, IMAGES = 10 ] VM = [ VMS = 5, CPU = 2.5, MEMORY = -2, RUNNING_CPU = \"-2.00\" ]
         NETWORK = [ID=1, LEASES=5] IMAGE=[ID=77777, RVMS=0] VM = [ CLUSTER_IDS = \"3,1\", VMS = 1, VMS_USED = 4 ]",
    );
    let kept: Vec<_> = limits.iter().map(|(r, m, l)| format!("{r} {} {}", m.name(), l.number())).collect();
    assert_eq!(
        kept,
        [
            "DATASTORE with ID: 100 SIZE 20480",
            "DATASTORE with ID: 100 IMAGES 10",
            "VM VMS 5",
            "VM CPU 250",
            "VM MEMORY -2",
            "VM RUNNING_CPU -2",
            "VM with CLUSTER_IDS: 1,3 VMS 1",
            "NETWORK with ID: 1 LEASES 5",
            "IMAGE with ID: 77777 RVMS 0",
        ]
    );
}

#[test]
fn a_limit_that_is_left_out_stays_and_minus_one_takes_it_away() {
    let mut limits = limits("DATASTORE = [ ID = 100, SIZE = 20480, IMAGES = 10 ] VM = [ VMS = 5 ]");
    limits.update(&template("DATASTORE = [ ID = 100, SIZE = -1 ]")).unwrap();
    let store = Resource::Datastore(100);
    assert_eq!(limits.get(&store, Metric::Size), Limit::Default);
    assert_eq!(limits.get(&store, Metric::Images), Limit::Most(10));
    assert_eq!(limits.get(&Resource::all_vms(), Metric::Vms), Limit::Most(5));
}

#[test]
fn what_is_no_limit_is_refused_by_name() {
    let cases = [
        ("DATASTORE = [ ID = 100, SIZE = -3 ]", "DATASTORE with ID: 100 has SIZE \"-3\""),
        ("DATASTORE = [ ID = 100, SIZE = 2.5 ]", "a whole number from 0"),
        ("DATASTORE = [ ID = 100, SIZE = 99999999999999999999 ]", "SIZE"),
        ("DATASTORE = [ ID = 100, SIZE = \"\" ]", "SIZE"),
        ("VM = [ CPU = 0.001 ]", "at most two decimals"),
        ("VM = [ CPU = -0.01 ]", "VM has CPU"),
        ("VM = [ CPU = 99999999999999999 ]", "CPU"),
        ("VM = [ CPU = nan ]", "CPU"),
        ("VM = [ CPU = \"1.\" ]", "CPU"),
        ("DATASTORE = [ SIZE = 1 ]", "DATASTORE needs ID"),
        ("NETWORK = [ ID = x, LEASES = 1 ]", "NETWORK needs ID to be an id, it is \"x\""),
        ("VM = [ CLUSTER_IDS = a, VMS = 1 ]", "CLUSTER_IDS"),
        ("IMAGE = [ ID = 1, LEASES = 1 ]", "IMAGE knows no LEASES; it has RVMS"),
        ("DATASTORE = 5", "has to be a list"),
        ("DISK = [ ID = 1 ]", "DISK is no quota"),
        ("DATASTORE = [ ID = 7, SIZE = 8 ] VM = [ VMS = x ]", "VMS"),
    ];
    for (text, expected) in cases {
        let refusal = refusal_of(text);
        assert!(refusal.contains(expected), "{text}: {refusal}");
    }
}

#[test]
fn more_limits_than_one_owner_can_have_are_refused() {
    let many: String = (0..10_001).map(|id| format!("NETWORK = [ ID = {id}, LEASES = 1 ]\n")).collect();
    assert!(refusal_of(&many).contains("More than 10000 limits"));
    let clusters = (0..1001).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    assert!(refusal_of(&format!("VM = [ CLUSTER_IDS = \"{clusters}\", VMS = 1 ]")).contains("CLUSTER_IDS"));
}

#[test]
fn defaults_hold_for_all_clusters_together() {
    let mut defaults = Limits::new();
    let refusal = defaults.update_defaults(&template("VM = [ CLUSTER_IDS = 1, VMS = 1 ]")).unwrap_err();
    assert!(refusal.to_string().contains("cannot be a default"), "{refusal}");
    defaults.update_defaults(&template("VM = [ CLUSTER_IDS = \"\", VMS = 1 ]")).unwrap();
    assert_eq!(defaults.get(&Resource::all_vms(), Metric::Vms), Limit::Most(1));
}

#[test]
fn a_passed_limit_is_told_in_the_sentence_that_clients_know() {
    let mine = limits("DATASTORE = [ ID = 100, IMAGES = 10 ] VM = [ CPU = 2.5 ]");
    let none = Limits::new();
    let usage = applied(&vec![cost::image(100, 5); 10]);
    let backup = cost::backup_start(100, 50, true);
    let refused = check(USER, &mine, &none, &usage, &backup).unwrap_err();
    let sentence = "user [2] limit of 10 reached for IMAGES quota in DATASTORE with ID: 100";
    assert_eq!(refused.to_string(), sentence);
    let answer = refused.refusal(7);
    assert_eq!((answer.code(), answer.to_string()), (512, format!("User [7] : {sentence}.")));
    let group = check(Owner::Group(1), &mine, &none, &usage, &backup).unwrap_err();
    assert!(group.to_string().starts_with("group [1] limit of 10 reached"));
    let vm = cost::vm(&template("CPU = 2.51 MEMORY = 1"), None);
    let refused = check(USER, &mine, &none, &Usage::new(), &vm).unwrap_err();
    assert_eq!(refused.to_string(), "user [2] limit of 2.5 reached for CPU quota in VM");
    // A chain counts as one image.
    assert_eq!(check(USER, &mine, &none, &usage, &cost::backup_start(100, 50, false)), Ok(()));
}

#[test]
fn zero_allows_nothing_minus_one_asks_the_default_and_minus_two_asks_nobody() {
    let defaults = limits("DATASTORE = [ ID = 100, IMAGES = 1 ]");
    let take = |limits: &Limits, count: usize| {
        let demand = cost::image(100, 0);
        check(USER, limits, &defaults, &applied(&vec![demand.clone(); count]), &demand).is_ok()
    };
    let zero = limits("DATASTORE = [ ID = 100, IMAGES = 0 ]");
    let default = limits("DATASTORE = [ ID = 100, IMAGES = -1 ]");
    let unlimited = limits("DATASTORE = [ ID = 100, IMAGES = -2 ]");
    let more = limits("DATASTORE = [ ID = 100, IMAGES = 3 ]");
    assert!(!take(&zero, 0));
    assert!(take(&default, 0) && !take(&default, 1));
    assert!(take(&unlimited, 50));
    assert!(take(&more, 2) && !take(&more, 3));
    assert_eq!(check(USER, &Limits::new(), &Limits::new(), &Usage::new(), &cost::image(100, i64::MAX)), Ok(()));
}

#[test]
fn oneadmin_and_his_group_are_exempt_each_for_itself() {
    let zero = limits("DATASTORE = [ ID = 100, IMAGES = 0 ]");
    let ask = |owner| check(owner, &zero, &Limits::new(), &Usage::new(), &cost::image(100, 1)).is_ok();
    assert!(ask(Owner::User(0)) && ask(Owner::Group(0)));
    assert!(!ask(Owner::User(1)) && !ask(Owner::Group(1)));
}

#[test]
fn what_is_given_back_is_never_refused_and_never_goes_below_nothing() {
    let zero = limits("DATASTORE = [ ID = 100, SIZE = 0, IMAGES = 0 ]");
    let mut usage = applied(&[cost::image(100, 50)]);
    let back = cost::image(100, 50).negated();
    assert_eq!(check(USER, &zero, &Limits::new(), &usage, &back), Ok(()));
    assert_eq!(usage.apply(&back), []);
    assert!(usage.is_empty());
    let found = usage.apply(&back);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].to_string(), "SIZE of DATASTORE with ID: 100 was 0 when 50 were given back");
    assert!(usage.is_empty());
}

#[test]
fn a_vm_takes_what_its_template_says() {
    let demand = cost::vm(&template(VM), Some(3));
    let all = Resource::all_vms();
    for (resource, metric, amount) in [
        (all.clone(), Metric::Vms, 1),
        (all.clone(), Metric::Cpu, 150),
        (all.clone(), Metric::Memory, 1024),
        (all.clone(), Metric::SystemDiskSize, 2048 + 512 + 64 + 2048),
        (all.clone(), Metric::PciDev, 1),
        (all.clone(), Metric::PciNic, 1),
        (all.clone(), Metric::RunningVms, 0),
        (Resource::Vm("3".into()), Metric::Cpu, 150),
        (Resource::Network(1), Metric::Leases, 2),
        (Resource::Network(3), Metric::Leases, 1),
        (Resource::Image(4), Metric::Rvms, 1),
        (Resource::Image(5), Metric::Rvms, 0),
        (Resource::Image(6), Metric::Rvms, 1),
    ] {
        assert_eq!(demand.amount(&resource, metric), amount, "{resource} {}", metric.name());
    }
    let running = cost::running_vm(&template(VM), None);
    assert_eq!(running.amount(&all, Metric::RunningVms), 1);
    assert_eq!(running.amount(&all, Metric::RunningCpu), 150);
    assert_eq!(running.amount(&all, Metric::RunningMemory), 1024);
    assert_eq!(running.amount(&all, Metric::Vms), 0);
}

#[test]
fn parts_of_processors_are_counted_in_hundredths_and_rounded_up() {
    for (cpu, expected) in
        [("0.07", 7), ("0.29", 29), ("1", 100), ("0.001", 1), ("nan", 0), ("inf", 0), ("-4", 0), ("1e30", i64::MAX)]
    {
        let demand = cost::vm(&template(&format!("CPU = {cpu} MEMORY = 64")), None);
        assert_eq!(demand.amount(&Resource::all_vms(), Metric::Cpu), expected, "{cpu}");
    }
}

#[test]
fn a_limit_for_clusters_counts_the_vms_in_any_of_them() {
    let mine = limits("VM = [ CLUSTER_IDS = \"1,2\", VMS = 2 ]");
    let vm = |cluster| cost::vm(&template("CPU = 1 MEMORY = 1"), Some(cluster));
    let usage = applied(&[vm(1), vm(2), vm(3)]);
    let ask = |cluster| check(USER, &mine, &Limits::new(), &usage, &vm(cluster));
    assert_eq!(ask(3), Ok(()));
    let refused = ask(1).unwrap_err().to_string();
    assert_eq!(refused, "user [2] limit of 2 reached for VMS quota in VM with CLUSTER_IDS: 1,2");
    // Moving from one to the other of the same list takes nothing more.
    assert_eq!(check(USER, &mine, &Limits::new(), &usage, &vm(1).minus(&vm(2))), Ok(()));
}

#[test]
fn documents_have_an_entry_where_there_is_a_limit_or_use() {
    assert_eq!(view(&Limits::new(), &Usage::new()), doc::QuotasView::default());
    let mine = limits(
        "DATASTORE = [ ID = 100, SIZE = 20480 ] VM = [ CPU = 2.5, MEMORY = -2 ] VM = [ CLUSTER_IDS = 1, VMS = 9 ]",
    );
    let usage = applied(&[cost::vm(&template(VM), Some(1)), cost::vm(&template(VM), Some(2)), cost::image(1, 77)]);
    let shown = view(&mine, &usage);
    let stores: Vec<_> = shown.datastores.iter().map(|d| (d.id, d.images, d.size_mb)).collect();
    let count = |limit, used| doc::Count { limit, used };
    assert_eq!(stores, [(1, count(-1, 1), count(-1, 77)), (100, count(-1, 0), count(20480, 0))]);
    let vms: Vec<_> = shown.vms.iter().map(|v| (v.cluster_ids.as_str(), v.vms, v.memory_mb)).collect();
    assert_eq!(vms, [("", count(-1, 2), count(-2, 2048)), ("1", count(9, 1), count(-1, 1024))]);
    assert_eq!(shown.vms[0].cpu, doc::Share { limit: 2.5, used: 3.0 });
    assert_eq!(shown.vms[1].cpu, doc::Share { limit: -1.0, used: 1.5 });
    assert_eq!(shown.networks.iter().map(|n| (n.id, n.leases.used)).collect::<Vec<_>>(), [(1, 4), (3, 2)]);
    assert_eq!(shown.images.iter().map(|i| (i.id, i.rvms.used)).collect::<Vec<_>>(), [(4, 2), (6, 2)]);
    let xml = doc::user(&doc::UserView { quotas: shown, ..doc::UserView::default() });
    assert!(xml.contains("<CPU>2.5</CPU><CPU_USED>3</CPU_USED><MEMORY>-2</MEMORY>"), "{xml}");
    assert_eq!(defaults_view(&limits("DATASTORE = [ ID = 3, IMAGES = 4 ]")).datastores[0].images, count(4, 0));
}

/// One step of a user's life with backups: chain or single backups in two datastores, VMs.
#[derive(Debug, Clone)]
enum Step {
    BackupStart { datastore: i64, disks_mb: i64, chain: bool },
    BackupSucceed { which: usize, share: i64 },
    BackupFail { which: usize },
    Flatten { which: usize, share: i64 },
    ImageDelete { which: usize },
    VmCreate { cpu: i64, memory_mb: i64, disk_mb: i64, cluster: Option<i64> },
    VmState { which: usize, state: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..8usize;
    prop_oneof![
        4 => (1..3i64, 0..400i64, any::<bool>())
            .prop_map(|(datastore, disks_mb, chain)| Step::BackupStart { datastore, disks_mb, chain }),
        2 => (which.clone(), 0..=100i64).prop_map(|(which, share)| Step::BackupSucceed { which, share }),
        1 => which.clone().prop_map(|which| Step::BackupFail { which }),
        1 => (which.clone(), 0..=100i64).prop_map(|(which, share)| Step::Flatten { which, share }),
        1 => which.clone().prop_map(|which| Step::ImageDelete { which }),
        2 => (0..300i64, 0..900i64, 0..900i64, proptest::option::of(0..3i64))
            .prop_map(|(cpu, memory_mb, disk_mb, cluster)| Step::VmCreate { cpu, memory_mb, disk_mb, cluster }),
        2 => (which, 0..VmState::ALL.len()).prop_map(|(which, state)| Step::VmState { which, state }),
    ]
}

/// A backup under way: what it reserved, and the image that it adds to.
#[derive(Debug, Clone)]
struct Backup {
    datastore: i64,
    disks_mb: i64,
    image: Option<usize>,
}

impl Backup {
    fn reserved(&self) -> Demand {
        cost::backup_start(self.datastore, self.disks_mb, self.image.is_none())
    }
}

#[derive(Default)]
struct World {
    /// Images by place: datastore and size; deleted ones leave their place empty.
    images: Vec<Option<(i64, i64)>>,
    backups: Vec<Backup>,
    vms: Vec<(Template, VmState, Option<i64>)>,
    usage: Usage,
    mine: Limits,
    defaults: Limits,
}

impl World {
    fn take(&mut self, demand: &Demand) -> bool {
        if check(USER, &self.mine, &self.defaults, &self.usage, demand).is_err() {
            return false;
        }
        assert_eq!(self.usage.apply(demand), []);
        true
    }

    fn give(&mut self, demand: &Demand) {
        assert_eq!(self.usage.apply(demand), []);
    }

    fn recounted(&self) -> Usage {
        let reserved: Vec<Demand> = self.backups.iter().map(Backup::reserved).collect();
        let images = self
            .images
            .iter()
            .flatten()
            .map(|(datastore, size_mb)| Owned::Image { datastore: *datastore, size_mb: *size_mb });
        let vms =
            self.vms.iter().map(|(template, state, cluster)| Owned::Vm { template, state: *state, cluster: *cluster });
        cost::recount(images.chain(vms).chain(reserved.iter().map(Owned::Reserved)))
    }

    fn vm_demand(&self, at: usize) -> Demand {
        let (template, state, cluster) = &self.vms[at];
        Owned::Vm { template, state: *state, cluster: *cluster }.demand()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::BackupStart { datastore, disks_mb, chain } => {
                let busy = |at: usize| self.backups.iter().any(|backup| backup.image == Some(at));
                let here = |at: &usize| self.images[*at].is_some_and(|image| image.0 == datastore) && !busy(*at);
                let image = (0..self.images.len()).find(|at| chain && here(at));
                let backup = Backup { datastore, disks_mb, image };
                if self.take(&backup.reserved()) {
                    self.backups.push(backup);
                }
            }
            Step::BackupSucceed { which, share } if which < self.backups.len() => {
                let backup = self.backups.remove(which);
                let real_mb = backup.disks_mb * share / 100;
                self.give(&cost::resized(backup.datastore, backup.disks_mb, real_mb));
                match backup.image {
                    Some(at) => {
                        let image = self.images[at].as_mut().unwrap();
                        image.1 += real_mb;
                    }
                    None => self.images.push(Some((backup.datastore, real_mb))),
                }
            }
            Step::BackupFail { which } if which < self.backups.len() => {
                let backup = self.backups.remove(which);
                self.give(&backup.reserved().negated());
            }
            Step::Flatten { which, share } if which < self.images.len() => {
                if let Some((datastore, size_mb)) = self.images[which] {
                    let kept_mb = size_mb * share / 100;
                    self.give(&cost::resized(datastore, size_mb, kept_mb));
                    self.images[which] = Some((datastore, kept_mb));
                }
            }
            Step::ImageDelete { which } if which < self.images.len() => {
                let busy = self.backups.iter().any(|backup| backup.image == Some(which));
                if let Some((datastore, size_mb)) = self.images[which].filter(|_| !busy) {
                    self.give(&cost::image(datastore, size_mb).negated());
                    self.images[which] = None;
                }
            }
            Step::VmCreate { cpu, memory_mb, disk_mb, cluster } => {
                let text = format!(
                    "CPU = {}.{:02} MEMORY = {memory_mb} NIC = [ NETWORK_ID = 1 ] DISK = [ IMAGE_ID = 2, CLONE = YES, SIZE = {disk_mb} ]",
                    cpu / 100,
                    cpu % 100
                );
                self.vms.push((template(&text), VmState::Pending, cluster));
                if !self.take(&self.vm_demand(self.vms.len() - 1)) {
                    self.vms.pop();
                }
            }
            Step::VmState { which, state } if which < self.vms.len() => {
                if self.vms[which].1 == VmState::Done {
                    return;
                }
                let before = (self.vms[which].1, self.vm_demand(which));
                self.vms[which].1 = VmState::ALL[state];
                if !self.take(&self.vm_demand(which).minus(&before.1)) {
                    self.vms[which].1 = before.0;
                }
            }
            _ => {}
        }
    }

    fn passed_limit(&self) -> Option<String> {
        for (resource, metric, _) in self.mine.iter().chain(self.defaults.iter()) {
            let limit = self.mine.effective(&self.defaults, resource, metric).unwrap_or(i64::MAX);
            if self.usage.used(resource, metric) > limit {
                return Some(format!("{resource} {}", metric.name()));
            }
        }
        None
    }
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let limit = prop_oneof![Just(-1), Just(-2), 0..1500i64];
    proptest::collection::vec(limit, 9).prop_map(|l| {
        limits(&format!(
            "DATASTORE = [ ID = 1, SIZE = {}, IMAGES = {} ] DATASTORE = [ ID = 2, SIZE = {} ] NETWORK = [ ID = 1, LEASES = {} ]
             VM = [ CPU = {}, MEMORY = {}, RUNNING_VMS = {}, SYSTEM_DISK_SIZE = {} ] IMAGE = [ ID = 2, RVMS = {} ]",
            l[0],
            l[1].min(6),
            l[2],
            l[3].min(4),
            l[4].min(9),
            l[5],
            l[6].min(3),
            l[7],
            l[8].min(5)
        ))
    })
}

fn any_demand() -> impl Strategy<Value = Demand> {
    let resources = prop_oneof![
        Just(Resource::Datastore(1)),
        Just(Resource::all_vms()),
        Just(Resource::Vm("1".into())),
        Just(Resource::Vm("2".into())),
    ];
    let metrics = prop_oneof![Just(Metric::Size), Just(Metric::Vms)];
    proptest::collection::vec((resources, metrics, any::<i64>()), 0..5).prop_map(Demand::from)
}

proptest! {
    #[test]
    fn after_any_life_the_usage_is_what_a_recount_finds_and_below_every_limit(
        steps in proptest::collection::vec(step(), 0..60), mine in any_limits(), defaults in any_limits()
    ) {
        let mut mine = mine;
        mine.update(&template("VM = [ CLUSTER_IDS = \"0,1\", VMS = 2 ]")).unwrap();
        let mut world = World { mine, defaults, ..World::default() };
        for step in &steps {
            world.step(step);
            prop_assert_eq!(&world.usage, &world.recounted(), "after {:?}", step);
            prop_assert_eq!(world.passed_limit(), None, "after {:?}", step);
        }
    }

    #[test]
    fn no_amounts_however_large_make_usage_negative_or_pass_a_checked_limit(
        demands in proptest::collection::vec(any_demand(), 0..8), limit in 0..i64::MAX
    ) {
        let mut mine = Limits::new();
        mine.set(Resource::Vm("1,2".into()), Metric::Vms, Limit::Most(limit));
        mine.set(Resource::Datastore(1), Metric::Size, Limit::Most(limit));
        let mut usage = Usage::new();
        for demand in demands {
            if check(USER, &mine, &Limits::new(), &usage, &demand).is_ok() {
                let _ = usage.apply(&demand);
            }
            prop_assert!(usage.iter().all(|(_, _, amount)| amount > 0));
            prop_assert!(usage.used(&Resource::Datastore(1), Metric::Size) <= limit);
        }
    }

    #[test]
    fn giving_back_undoes_taking(a in any_demand(), b in any_demand()) {
        let small = |demand: Demand| Demand::from(
            Vec::from(demand).into_iter().map(|(r, m, amount)| (r, m, amount / 16)).collect::<Vec<_>>()
        );
        let (a, b) = (small(a), small(b));
        prop_assert!(a.minus(&a).is_empty());
        prop_assert_eq!(a.plus(&b).minus(&b), a.clone());
        prop_assert_eq!(b.plus(&a), a.plus(&b));
        prop_assert_eq!(Demand::from(Vec::from(a.clone())), a);
    }

    #[test]
    fn no_quota_text_makes_a_panic_or_a_refused_change(
        text in r#"(VM|DATASTORE|NETWORK|IMAGE)=\[(ID|CLUSTER_IDS|CPU|SIZE|VMS)="?[-0-9.,x]{0,22}"?(,(ID|SIZE|CPU|VMS)=[-0-9.x]{0,22}){0,3}\]"#
    ) {
        if let Ok(text) = Template::parse(&text) {
            let mut limits = Limits::new();
            let accepted = limits.update(&text).is_ok();
            prop_assert!(accepted || limits == Limits::new());
            prop_assert!(limits.iter().all(|(_, _, limit)| Limit::from_number(limit.number()) == Some(limit)));
        }
    }
}
