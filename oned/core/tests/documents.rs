//! Every document, full and minimal, against OpenNebula's response schemas and against golden files.
//!
//! `UPDATE_GOLDEN=1` rewrites `tests/golden/doc`. The golden files have a line break between elements so that
//! differences can be read; the documents themselves have none.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use one_core::access::{Bits, Permissions};
use one_core::doc::{self, writer::element_name};
use one_core::doc::{
    AclView, BackupJobView, ClusterView, Count, DatastoreQuotaView, DatastoreView, DiskSnapshotsView, GroupView,
    HistoryView, HostDatastoreView, HostMonitoringView, HostShareView, HostView, ImageQuotaView, ImageView,
    IncrementView, Lock, LoginTokenView, NetworkQuotaView, Owner, QuotasView, ServerView, Share, SnapshotView,
    SnapshotsView, TemplateView, UserView, VmQuotaView, VmView, ZoneView,
};
use one_core::id::ScheduleId;
use one_core::schedule::{End, Parent, Repeat, ScheduledAction};
use one_core::template::{Template, Value, Vector};

/// What a stranger may put into a name or a value.
const NASTY: [&str; 9] = [
    "",
    "a]]>b]]>",
    "]]\u{0}>",
    "<ID>7</ID>&amp;\"'",
    "</NAME><NAME>",
    "\u{1}\u{b}\u{1f}\u{fffe}\u{ffff}",
    "cr\r\nlf\ttab",
    "]]]]>>\r]]>\r",
    "🜁 ünï \u{202e} \u{7f}\u{85}",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Holds a document against a schema, or panics with what is wrong.
fn validate(document: &str, schema: &str) {
    let end = document.find(['>', '/']).expect("a document has a tag");
    let (tag, rest) = document.split_at(end);
    let document = format!("{tag} xmlns=\"http://opennebula.org/XMLSchema\"{rest}");
    let mut child = Command::new("xmllint")
        .args(["--noout", "--schema"])
        .arg(root().join("../../tests/xsd").join(schema))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xmllint does not start; install it: apt-get install libxml2-utils");
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{schema}: {complaint}\n{document}");
}

/// Validates a document alone and twice in its pool.
fn validate_both(document: &str, schema: &str, pool: &str, pool_schema: &str) {
    validate(document, schema);
    let twice = [document.to_owned(), document.to_owned()];
    validate(&doc::pool(pool, twice.into_iter()), pool_schema);
    validate(&doc::pool(pool, std::iter::empty()), pool_schema);
}

fn golden(name: &str, document: &str) {
    let path = root().join("tests/golden/doc").join(format!("{name}.xml"));
    let text = document.replace("><", ">\n<") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(text, expected, "{name}: differs from the golden file; UPDATE_GOLDEN=1 rewrites it");
}

fn owner() -> Owner {
    Owner { uid: 2, gid: 1, uname: "ana".into(), gname: "users".into() }
}

fn permissions() -> Permissions {
    let bits = |use_, manage, admin| Bits { use_, manage, admin };
    Permissions { owner: bits(true, true, false), group: bits(true, false, false), other: bits(false, false, true) }
}

fn lock() -> Option<Lock> {
    Some(Lock { level: 1, owner: 2, time: 1_669_900_000, request_id: -1 })
}

fn action(parent: Parent) -> ScheduledAction {
    ScheduledAction {
        id: ScheduleId(4),
        parent_id: 0,
        parent,
        action: "backup".into(),
        args: "100,0".into(),
        time: 1_669_901_324,
        time_of_day: None,
        repeat: Some(Repeat::Weekly),
        days: vec![1, 3],
        end: End::Runs(5),
        done: Some(1_669_901_330),
        message: String::new(),
        warning: 0,
    }
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn vm() -> VmView {
    let history = HistoryView {
        hostname: "localhost".into(),
        stime: 1_669_900_000,
        tm_mad: "shared".into(),
        pstime: 1_669_900_000,
        petime: 1_669_900_001,
        rstime: 1_669_900_001,
        action: 50,
        ..HistoryView::default()
    };
    let snapshot = SnapshotView {
        id: 0,
        name: "clean".into(),
        parent: -1,
        children: vec![1, 2],
        date: 1_669_900_500,
        size_mb: 256,
        active: true,
    };
    VmView {
        id: 0,
        owner: owner(),
        name: "alpine-0".into(),
        permissions: permissions(),
        lock: lock(),
        last_poll: 1_669_900_100,
        state: 3,
        lcm_state: 69,
        prev_state: 3,
        prev_lcm_state: 3,
        resched: true,
        stime: 1_669_900_000,
        etime: 0,
        deploy_id: "one-0".into(),
        monitoring: template(
            "CPU=12.5\nMEMORY=131072\nNETRX=1\nDISKRDBYTES_BW_FORECAST_FAR=0.5\nTIMESTAMP=1669900100\nSTATE=a\nNETTX=NaN\n\
             CPU=13\nID=1.5\nDISK_SIZE=[ID=0,SIZE=20]\nDISK_SIZE=[ID=1,SIZE=30]\n",
        ),
        sched_actions: vec![
            action(Parent::Vm),
            ScheduledAction { id: ScheduleId(1), repeat: None, ..action(Parent::Vm) },
        ],
        template: template(
            "VIDEO=[TYPE=virtio,ATS=YES,VRAM=16384,RESOLUTION=800x600]\nCPU=1\nMEMORY=128\nVCPU=2\nMEMORY_SLOTS=2\nMEMORY_RESIZE_MODE=BALLOONING\n\
             GRAPHICS=[TYPE=vnc,PORT=5900,LISTEN=\"0.0.0.0\",PASSWD=secret]\nHYPERV_OPTIONS=[A=b]\nIMPORTED=NO\nFEATURES=[ACPI=yes]\n\
             DISK=[TARGET=vda,DISK_ID=0,IMAGE=alpine,IMAGE_ID=0,SIZE=256,FORMAT=qcow2]\nDISK=[DISK_ID=1,TYPE=fs,SIZE=10]\n\
             NIC=[NIC_ID=0,IP=\"192.168.0.1\",MAC=\"02:00:c0:a8:00:01\",NETWORK=net,BRIDGE=br0]\nTEMPLATE_ID=0\n\
             AUTOMATIC_REQUIREMENTS=\"!(PUBLIC_CLOUD = YES)\"\nOS=[ARCH=x86_64]\nTPM=[MODEL=tpm-crb]\nMEMORY_ENCRYPTION=[TYPE=tdx]\n\
             SCHED_ACTION=[ACTION=backup]\nBACKUP_CONFIG=[MODE=FULL]\n",
        ),
        user_template: template(
            "LABELS=a\nERROR=\"Fri : <bad> & ]] > worse\"\nSCHED_REQUIREMENTS=\"ID = 0\"\nZ=1\nB=[Y=1,X=2]\n",
        ),
        history: vec![HistoryView { seq: 0, ..history.clone() }, HistoryView { seq: 1, hid: 3, ..history }],
        snapshots: vec![DiskSnapshotsView {
            disk_id: 0,
            allow_orphans: "NO".into(),
            current_base: 0,
            next_snapshot: 1,
            snapshots: vec![snapshot],
        }],
        backup_config: [
            ("MODE", "INCREMENT"),
            ("BACKUP_VOLATILE", "NO"),
            ("FS_FREEZE", "NONE"),
            ("INCREMENTAL_BACKUP_ID", "1"),
            ("INCREMENT_MODE", "CBT"),
            ("KEEP_LAST", "4"),
            ("LAST_INCREMENT_ID", "1"),
        ]
        .into_iter()
        .collect(),
        backup_ids: vec![9, 1],
    }
}

fn image() -> ImageView {
    let increment = IncrementView {
        id: 0,
        parent_id: -1,
        date: 1_669_901_816,
        size_mb: 172,
        source: "25f4b298".into(),
        full: true,
    };
    let second = IncrementView { id: 1, parent_id: 0, size_mb: 0, source: "6968545c".into(), full: false, ..increment };
    ImageView {
        id: 1,
        owner: owner(),
        name: "0 01-Dec 13.36.56".into(),
        lock: lock(),
        permissions: permissions(),
        kind: 6,
        persistent: true,
        regtime: 1_669_901_816,
        source: "25f4b298".into(),
        format: "raw".into(),
        size_mb: 172,
        state: 1,
        prev_state: 4,
        running_vms: 1,
        datastore_id: 100,
        datastore: "RBackups".into(),
        vms: vec![0],
        template: template("BACKUP_JOB_ID=3\n"),
        increments: vec![increment, second],
        backup_disk_ids: vec![2, 0],
        ..ImageView::default()
    }
}

fn snapshotted_image() -> ImageView {
    let snapshot = SnapshotView { id: 2, parent: -1, children: vec![3], active: true, ..SnapshotView::default() };
    let snapshots =
        SnapshotsView { current_base: 2, next_snapshot: 3, snapshots: vec![snapshot], ..Default::default() };
    ImageView { snapshots, clones: vec![5], app_clones: vec![6], ..ImageView::default() }
}

fn datastore() -> DatastoreView {
    DatastoreView {
        id: 100,
        owner: owner(),
        name: "RBackups".into(),
        permissions: permissions(),
        ds_mad: "restic".into(),
        tm_mad: "-".into(),
        base_path: "/var/lib/one//datastores/100".into(),
        kind: 3,
        clusters: vec![0],
        total_mb: 1000,
        free_mb: 900,
        used_mb: 100,
        images: vec![3, 1, 3],
        template: template("TYPE=BACKUP_DS\nDS_MAD=restic\n"),
        ..DatastoreView::default()
    }
}

fn host() -> HostView {
    HostView {
        id: 0,
        name: "localhost".into(),
        state: 2,
        prev_state: 2,
        im_mad: "kvm".into(),
        vm_mad: "kvm".into(),
        cluster: "default".into(),
        share: HostShareView {
            mem_usage: 131_072,
            running_vms: 1,
            datastores: vec![HostDatastoreView { id: 0, free_mb: 9, total_mb: 10, used_mb: 1 }],
            ..HostShareView::default()
        },
        vms: vec![0],
        template: template("ARCH=x86_64\n"),
        monitoring: Some(HostMonitoringView {
            timestamp: 1_669_900_000,
            free_cpu: 190,
            ..HostMonitoringView::default()
        }),
        ..HostView::default()
    }
}

fn quotas() -> QuotasView {
    QuotasView {
        datastores: vec![DatastoreQuotaView {
            id: 100,
            images: Count { limit: 10, used: 1 },
            size_mb: Count { limit: -2, used: 172 },
        }],
        networks: vec![NetworkQuotaView { id: 0, leases: Count::default() }],
        vms: vec![VmQuotaView {
            cluster_ids: "0,1".into(),
            cpu: Share { limit: 1.5, used: 0.25 },
            ..VmQuotaView::default()
        }],
        images: vec![ImageQuotaView { id: 1, rvms: Count::default() }],
    }
}

fn user() -> UserView {
    UserView {
        id: 2,
        gid: 1,
        groups: vec![1, 0],
        gname: "users".into(),
        name: "ana".into(),
        password: "hash".into(),
        auth_driver: "core".into(),
        enabled: true,
        login_tokens: vec![LoginTokenView { token: "t".into(), expiration_time: -1, egid: -1 }],
        template: template("UMASK=177\n"),
        quotas: quotas(),
        default_quotas: quotas(),
    }
}

fn group() -> GroupView {
    GroupView {
        id: 1,
        name: "users".into(),
        template: template("A=b\n"),
        users: vec![2],
        admins: vec![2],
        quotas: quotas(),
        default_quotas: quotas(),
    }
}

fn backup_job() -> BackupJobView {
    BackupJobView {
        id: 0,
        owner: owner(),
        name: "nightly".into(),
        lock: lock(),
        permissions: permissions(),
        priority: 50,
        last_backup_time: 1_669_901_816,
        last_backup_duration: 61,
        sched_actions: vec![action(Parent::BackupJob)],
        updated_vms: vec![0],
        outdated_vms: vec![2, 1],
        backing_up_vms: vec![3],
        error_vms: vec![4],
        template: template(
            "MODE=FULL\nBACKUP_VMS=\"0,1\"\nBACKUP_VOLATILE=NO\nDATASTORE_ID=100\nDISK_IDS=0\nERROR=e\nEXECUTION=SEQUENTIAL\n\
             FS_FREEZE=NONE\nKEEP_LAST=4\nRESET=NO\n",
        ),
    }
}

fn cluster() -> ClusterView {
    ClusterView {
        id: 0,
        name: "default".into(),
        hosts: vec![0],
        datastores: vec![100, 1, 0],
        vnets: vec![],
        template: template("A=1\n"),
    }
}

fn vm_template() -> TemplateView {
    TemplateView {
        id: 3,
        owner: owner(),
        name: "tmpl".into(),
        lock: lock(),
        permissions: permissions(),
        regtime: 1_669_901_816,
        template: template(
            "MEMORY=128\nDISK=[SIZE=1,IMAGE_ID=2]\nDISK=[IMAGE_ID=1]\nCPU=1\nBACKUP_CONFIG=[MODE=FULL]\n",
        ),
    }
}

fn zone() -> ZoneView {
    let servers = vec![ServerView { id: 0, name: "a".into(), endpoint: "http://a:2633/RPC2".into() }];
    ZoneView { id: 0, name: "OpenNebula".into(), state: 0, endpoint: "http://localhost:2633/RPC2".into(), servers }
}

fn acl() -> AclView {
    AclView {
        id: 0,
        user: "200000001".into(),
        resource: "2d0000400000000".into(),
        rights: "8".into(),
        zone: "400000000".into(),
        string: "@1 VM/* CREATE *".into(),
    }
}

fn acl_pool(view: &AclView) -> String {
    doc::pool("ACL_POOL", std::iter::once(doc::acl(view)))
}

#[test]
fn documents_are_those_of_the_golden_files() {
    golden("vm", &doc::vm(&vm()));
    golden("vm_minimal", &doc::vm(&VmView::default()));
    golden("vm_short", &doc::vm_short(&vm()));
    golden("vm_pool_empty", &doc::pool("VM_POOL", std::iter::empty()));
    golden("image", &doc::image(&image()));
    golden("image_minimal", &doc::image(&ImageView::default()));
    golden("image_snapshots", &doc::image(&snapshotted_image()));
    golden("datastore", &doc::datastore(&datastore()));
    golden("host", &doc::host(&host()));
    golden("cluster", &doc::cluster(&cluster()));
    golden("vm_template", &doc::vm_template(&vm_template()));
    golden("user", &doc::user(&user()));
    golden("user_pool", &doc::user_pool([&user()].into_iter(), &QuotasView::default()));
    golden("group", &doc::group(&group()));
    golden("group_pool", &doc::group_pool([&group()].into_iter(), &QuotasView::default()));
    golden("zone", &doc::zone(&zone()));
    golden("acl_pool", &acl_pool(&acl()));
    golden("backup_job", &doc::backup_job(&backup_job()));
    golden("backup_job_minimal", &doc::backup_job(&BackupJobView::default()));
}

#[test]
#[should_panic(expected = "vm.xsd")]
fn the_schema_check_notices_a_missing_element() {
    validate(&doc::vm(&vm()).replace("<RESCHED>1</RESCHED>", ""), "vm.xsd");
}

#[test]
fn virtual_machines_follow_the_schemas() {
    for view in [vm(), VmView::default()] {
        validate_both(&doc::vm(&view), "vm.xsd", "VM_POOL", "vm_pool_extended.xsd");
        let short = [doc::vm_short(&view), doc::vm_short(&view)];
        validate(&doc::pool("VM_POOL", short.into_iter()), "vm_pool.xsd");
    }
    validate(&doc::pool("VM_POOL", std::iter::empty()), "vm_pool.xsd");
}

#[test]
fn images_follow_the_schemas() {
    for view in [image(), snapshotted_image(), ImageView::default()] {
        validate_both(&doc::image(&view), "image.xsd", "IMAGE_POOL", "image_pool.xsd");
    }
}

#[test]
fn datastores_hosts_and_clusters_follow_the_schemas() {
    for view in [datastore(), DatastoreView::default()] {
        validate_both(&doc::datastore(&view), "datastore.xsd", "DATASTORE_POOL", "datastore_pool.xsd");
    }
    for view in [host(), HostView::default()] {
        validate_both(&doc::host(&view), "host.xsd", "HOST_POOL", "host_pool.xsd");
    }
    for view in [cluster(), ClusterView::default()] {
        validate_both(&doc::cluster(&view), "cluster.xsd", "CLUSTER_POOL", "cluster_pool.xsd");
    }
}

#[test]
fn templates_and_jobs_follow_the_schemas() {
    for view in [vm_template(), TemplateView::default()] {
        validate_both(&doc::vm_template(&view), "vmtemplate.xsd", "VMTEMPLATE_POOL", "vmtemplate_pool.xsd");
    }
    for view in [backup_job(), BackupJobView::default()] {
        validate_both(&doc::backup_job(&view), "backupjob.xsd", "BACKUPJOB_POOL", "backupjob_pool.xsd");
    }
}

#[test]
fn users_and_groups_follow_the_schemas() {
    for (user, group) in [(user(), group()), (UserView::default(), GroupView::default())] {
        validate(&doc::user(&user), "user.xsd");
        validate(&doc::group(&group), "group.xsd");
        for defaults in [QuotasView::default(), quotas()] {
            validate(&doc::user_pool([&user, &user].into_iter(), &defaults), "user_pool.xsd");
            validate(&doc::group_pool([&group, &group].into_iter(), &defaults), "group_pool.xsd");
            validate(&doc::user_pool(std::iter::empty(), &defaults), "user_pool.xsd");
            validate(&doc::group_pool(std::iter::empty(), &defaults), "group_pool.xsd");
        }
    }
}

#[test]
fn zones_and_rules_follow_the_schemas() {
    for view in [zone(), ZoneView::default()] {
        validate(&doc::zone(&view), "zone.xsd");
        validate(&doc::pool("ZONE_POOL", std::iter::once(doc::zone(&view))), "zone_pool.xsd");
    }
    for view in [acl(), AclView::default()] {
        validate(&acl_pool(&view), "acl_pool.xsd");
    }
    validate(&doc::pool("ACL_POOL", std::iter::empty()), "acl_pool.xsd");
}

/// A template whose names and values are all a stranger's. Names of documents in the schema itself (VM in a VM) are left
/// out: `xs:anyType` would check them as such.
fn nasty_template(text: &str) -> Template {
    let mut template = Template::new();
    for name in ["A", "9P", "A:B", "-X", ".Y", "Ü", "A B", "<A", "", "A>B/", "XML", "_"] {
        template.push(name, text);
        template.push_vector(name, [(name, text), ("K", text)].into_iter().collect());
    }
    template.push_vector("EMPTY", Vector::new());
    template
}

#[test]
fn no_string_breaks_a_document() {
    for text in NASTY {
        let owner = Owner { uname: text.into(), gname: text.into(), ..owner() };
        let free = nasty_template(text);
        let name = text.to_owned();
        let action = ScheduledAction { message: name.clone(), args: name.clone(), ..action(Parent::Vm) };
        let mut device = Template::new();
        device.push_vector("DISK", [("9P", text), ("IMAGE", text)].into_iter().collect());
        device.push_vector("NIC", [("IP", text), ("A:B", text)].into_iter().collect());
        let view = VmView {
            name: name.clone(),
            owner: owner.clone(),
            deploy_id: name.clone(),
            monitoring: free.clone(),
            template: device,
            user_template: free.clone(),
            sched_actions: vec![action.clone()],
            history: vec![HistoryView { hostname: name.clone(), tm_mad: name.clone(), ..HistoryView::default() }],
            ..vm()
        };
        validate(&doc::vm(&view), "vm.xsd");
        validate(&doc::pool("VM_POOL", std::iter::once(doc::vm_short(&view))), "vm_pool.xsd");
        let view = ImageView {
            name: name.clone(),
            owner: owner.clone(),
            source: name.clone(),
            path: name.clone(),
            template: free.clone(),
            ..image()
        };
        validate(&doc::image(&view), "image.xsd");
        let view = DatastoreView { name: name.clone(), base_path: name.clone(), template: free.clone(), ..datastore() };
        validate(&doc::datastore(&view), "datastore.xsd");
        let view = TemplateView { name: name.clone(), owner, template: free.clone(), ..vm_template() };
        validate(&doc::vm_template(&view), "vmtemplate.xsd");
        let view = BackupJobView { name: name.clone(), sched_actions: vec![action], ..backup_job() };
        validate(&doc::backup_job(&view), "backupjob.xsd");
        let view = UserView { name: name.clone(), password: name.clone(), template: free.clone(), ..user() };
        validate(&doc::user(&view), "user.xsd");
        validate(&doc::group(&GroupView { name: name.clone(), template: free.clone(), ..group() }), "group.xsd");
        validate(&doc::host(&HostView { name: name.clone(), template: free.clone(), ..host() }), "host.xsd");
        validate(&doc::cluster(&ClusterView { name: name.clone(), template: free, ..cluster() }), "cluster.xsd");
        validate(&doc::zone(&ZoneView { name: name.clone(), endpoint: name.clone(), ..zone() }), "zone.xsd");
        validate(&acl_pool(&AclView { string: name, ..acl() }), "acl_pool.xsd");
    }
}

/// The value that a reader finds in the element NAME of a document.
fn read_back(document: &str) -> String {
    let output = {
        let mut child = Command::new("xmllint")
            .args(["--xpath", "string(/CLUSTER/NAME)", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("xmllint does not start; install it: apt-get install libxml2-utils");
        child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let text = String::from_utf8(output.stdout).unwrap();
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

#[test]
fn a_reader_gets_each_string_back_but_for_forbidden_characters() {
    for text in NASTY {
        let expected: String = text.chars().filter(|c| !"\u{0}\u{1}\u{b}\u{1f}\u{fffe}\u{ffff}".contains(*c)).collect();
        let document = doc::cluster(&ClusterView { name: text.into(), ..ClusterView::default() });
        assert_eq!(read_back(&document), expected, "{text:?}");
    }
}

#[test]
fn attribute_names_become_element_names() {
    for (name, element) in [
        ("CPU", Some("CPU")),
        ("_A-B.C9", Some("_A-B.C9")),
        ("9P", Some("_9P")),
        ("-A", Some("_-A")),
        ("A:B", Some("A_B")),
        (":A", Some("_A")),
        ("A><B", Some("A__B")),
        ("Ü", Some("_")),
        ("A B", Some("A_B")),
        ("", None),
    ] {
        assert_eq!(element_name(name).as_deref(), element, "{name:?}");
    }
    assert!(element_name(&"A".repeat(100_000)).unwrap().len() <= 1025);
}

#[test]
fn a_template_read_from_a_document_is_the_template_that_was_shown() {
    let view = vm_template();
    let document = doc::vm_template(&view);
    let start = document.find("<TEMPLATE>").unwrap();
    let end = document.find("</VMTEMPLATE>").unwrap();
    let again = Template::parse(document.get(start..end).unwrap()).unwrap();
    assert_eq!(again, view.template.sorted());
    let disks: Vec<&Vector> = again.vectors("DISK").collect();
    assert_eq!(disks.iter().map(|disk| disk.get("IMAGE_ID")).collect::<Vec<_>>(), [Some("2"), Some("1")]);
    assert!(again.attributes().iter().any(|a| matches!(&a.value, Value::Scalar(text) if text == "128")));
}

#[test]
fn the_short_form_of_a_vm_holds_no_secrets_and_no_backups() {
    let short = doc::vm_short(&vm());
    for absent in ["PASSWD", "BACKUPS", "PERMISSIONS", "SCHED_ACTIONS", "<Z>", "<SEQ>0</SEQ>"] {
        assert!(!short.contains(absent), "{absent} in {short}");
    }
}
