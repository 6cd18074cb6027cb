//! Every document, full and minimal, against OpenNebula's response schemas and against golden files.
//!
//! `UPDATE_GOLDEN=1` rewrites `tests/golden/doc`. The golden files have a line break between elements so that
//! differences can be read; the documents themselves have none.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use one_core::doc::{self, writer::element_name};
use one_core::doc::{
    AccountingRecord, AclView, BackupJobView, ClusterView, DatastoreView, DocumentView, GroupPool, GroupView,
    HistoryView, HostSample, HostView, ImageView, Owner, Pool, QuotasView, RaftView, ShowbackView, TemplateView,
    UserPool, UserView, VdcView, VmSampleView, VmShort, VmView, ZoneView,
};
use one_core::schedule::{Parent, ScheduledAction};
use one_core::template::{Template, Value, Vector};

use samples::*;

mod samples;

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

fn acl_pool(view: &AclView) -> String {
    doc::pool("ACL_POOL", std::iter::once(doc::acl(view)))
}

/// A pool that is written object by object.
fn pieces<'a, T: doc::Render + 'a>(root: &str, objects: impl IntoIterator<Item = &'a T>) -> String {
    let mut pool = Pool::begin(root);
    objects.into_iter().for_each(|object| pool.push(object));
    pool.finish()
}

fn accounting(view: &VmView) -> String {
    let records: Vec<_> = view.history.iter().map(|record| AccountingRecord { vm: view, record }).collect();
    pieces("HISTORY_RECORDS", &records)
}

/// Every schema that answers are held against, and the golden files that follow it.
const SCHEMAS: [(&str, &[&str]); 32] = [
    ("acct", &["accounting"]),
    ("acl_pool", &["acl_pool"]),
    ("backupjob", &["backup_job", "backup_job_minimal"]),
    ("backupjob_pool", &["backup_job_pool"]),
    ("cluster", &["cluster"]),
    ("cluster_pool", &["cluster_pool"]),
    ("datastore", &["datastore"]),
    ("datastore_pool", &["datastore_pool"]),
    ("document", &["document"]),
    ("document_pool", &["document_pool"]),
    ("examination", &["examination"]),
    ("group", &["group"]),
    ("group_pool", &["group_pool"]),
    ("host", &["host"]),
    ("host_pool", &["host_pool"]),
    ("image", &["image", "image_minimal", "image_snapshots"]),
    ("image_pool", &["image_pool"]),
    ("monitoring_data", &["monitoring_data"]),
    ("raftstatus", &["raft"]),
    ("showback", &["showback"]),
    ("user", &["user"]),
    ("user_pool", &["user_pool"]),
    ("vdc", &["vdc"]),
    ("vdc_pool", &["vdc_pool"]),
    ("vm", &["vm", "vm_minimal", "vm_in_backup"]),
    ("vm_pool", &["vm_pool", "vm_pool_empty"]),
    ("vm_pool_extended", &["vm_pool_extended"]),
    ("vmtemplate", &["vm_template"]),
    ("vmtemplate_pool", &["vm_template_pool"]),
    ("zone", &["zone"]),
    ("zone_pool", &["zone_pool"]),
    // Types only; used by the others.
    ("shared", &[]),
];

/// Schemas of documents that have tests of their own elsewhere.
const ELSEWHERE: [&str; 7] = [
    "events",
    "opennebula_configuration",
    "security_group",
    "security_group_pool",
    "vnet",
    "vnet_pool",
    "vnet_pool_extended",
];

#[test]
fn every_schema_has_a_golden_file_that_follows_it() {
    for entry in std::fs::read_dir(root().join("../../tests/xsd")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(schema) = file.strip_suffix(".xsd") else { continue };
        let known = SCHEMAS.iter().any(|(known, _)| *known == schema) || ELSEWHERE.contains(&schema);
        assert!(known, "tests/xsd/{file}: no golden file is held against it; add one to SCHEMAS");
    }
    for (schema, golden) in SCHEMAS {
        for name in golden {
            let path = root().join("tests/golden/doc").join(format!("{name}.xml"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            validate(&text, &format!("{schema}.xsd"));
        }
    }
}

#[test]
fn pools_are_those_of_the_golden_files() {
    let vm = VmView::default();
    golden("vm_pool", &pieces("VM_POOL", [&VmShort(&self::vm()), &VmShort(&vm)]));
    golden("vm_pool_extended", &pieces("VM_POOL", [&vm_in_backup(), &vm]));
    golden("image_pool", &pieces("IMAGE_POOL", [&image(), &ImageView::default()]));
    golden("datastore_pool", &pieces("DATASTORE_POOL", [&datastore(), &DatastoreView::default()]));
    golden("host_pool", &pieces("HOST_POOL", [&host(), &HostView::default()]));
    golden("cluster_pool", &pieces("CLUSTER_POOL", [&cluster(), &ClusterView::default()]));
    golden("vm_template_pool", &pieces("VMTEMPLATE_POOL", [&vm_template(), &TemplateView::default()]));
    golden("backup_job_pool", &pieces("BACKUPJOB_POOL", [&backup_job(), &BackupJobView::default()]));
    golden("zone_pool", &pieces("ZONE_POOL", [&zone(), &ZoneView::default()]));
    golden("vdc_pool", &pieces("VDC_POOL", [&vdc(), &VdcView::default()]));
    golden("document_pool", &pieces("DOCUMENT_POOL", [&document(), &DocumentView::default()]));
    golden("accounting", &accounting(&self::vm()));
    golden("showback", &pieces("SHOWBACK_RECORDS", [&showback(), &ShowbackView::default()]));
    golden("monitoring_data", &pieces("MONITORING_DATA", [&vm_sample(), &VmSampleView::default()]));
}

#[test]
fn a_pool_written_object_by_object_is_the_pool_of_finished_documents() {
    let views = [vm(), VmView::default(), vm_in_backup()];
    assert_eq!(pieces("VM_POOL", &views), doc::pool("VM_POOL", views.iter().map(doc::vm)));
    let short: Vec<_> = views.iter().map(VmShort).collect();
    assert_eq!(pieces("VM_POOL", &short), doc::pool("VM_POOL", views.iter().map(doc::vm_short)));
    assert_eq!(pieces::<VmView>("VM_POOL", []), "<VM_POOL></VM_POOL>");
    let (mut users, mut groups) = (UserPool::begin(), GroupPool::begin());
    users.push(&user());
    groups.push(&group());
    assert_eq!(users.finish(&quotas()), doc::user_pool([&user()].into_iter(), &quotas()));
    assert_eq!(groups.finish(&quotas()), doc::group_pool([&group()].into_iter(), &quotas()));
}

#[test]
fn default_quotas_are_those_at_the_end_of_a_pool() {
    for defaults in [quotas(), QuotasView::default()] {
        let users = doc::default_user_quotas(&defaults);
        assert_eq!(doc::user_pool(std::iter::empty(), &defaults), format!("<USER_POOL>{users}</USER_POOL>"));
        let groups = doc::default_group_quotas(&defaults);
        assert_eq!(doc::group_pool(std::iter::empty(), &defaults), format!("<GROUP_POOL>{groups}</GROUP_POOL>"));
    }
}

#[test]
fn a_sample_of_a_host_is_the_monitoring_of_its_document() {
    let host = host();
    let seen = host.monitoring.as_ref().unwrap();
    let sample = doc::alone(&HostSample { host: host.id, seen });
    assert!(doc::host(&host).contains(&sample));
    golden("host_monitoring_data", &pieces("MONITORING_DATA", [&HostSample { host: host.id, seen }]));
}

#[test]
fn accounting_shows_a_vm_in_each_of_its_records_without_repeating_the_records_in_it() {
    let document = accounting(&vm());
    assert_eq!(document.matches("<HISTORY>").count(), vm().history.len());
    assert_eq!(document.matches("<HISTORY_RECORDS/>").count(), vm().history.len());
    validate(&accounting(&VmView { history: vec![HistoryView::default()], ..VmView::default() }), "acct.xsd");
    validate(&pieces::<AccountingRecord<'_>>("HISTORY_RECORDS", []), "acct.xsd");
}

#[test]
fn records_and_samples_follow_the_schemas() {
    validate(&pieces("SHOWBACK_RECORDS", [&showback(), &showback_of_nothing()]), "showback.xsd");
    validate(&pieces::<ShowbackView>("SHOWBACK_RECORDS", []), "showback.xsd");
    validate(&pieces("MONITORING_DATA", [&vm_sample(), &vm_sample()]), "monitoring_data.xsd");
    validate(&pieces::<VmSampleView>("MONITORING_DATA", []), "monitoring_data.xsd");
}

#[test]
fn vdcs_and_documents_follow_the_schemas() {
    for view in [vdc(), VdcView::default()] {
        validate_both(&doc::vdc(&view), "vdc.xsd", "VDC_POOL", "vdc_pool.xsd");
    }
    for view in [document(), DocumentView::default()] {
        validate_both(&doc::document(&view), "document.xsd", "DOCUMENT_POOL", "document_pool.xsd");
    }
}

#[test]
fn documents_are_those_of_the_golden_files() {
    golden("vm", &doc::vm(&vm()));
    golden("vm_minimal", &doc::vm(&VmView::default()));
    golden("vm_in_backup", &doc::vm(&vm_in_backup()));
    golden("vdc", &doc::vdc(&vdc()));
    golden("document", &doc::document(&document()));
    golden("default_user_quotas", &doc::default_user_quotas(&quotas()));
    golden("default_group_quotas", &doc::default_group_quotas(&quotas()));
    golden("raft", &doc::raft(&RaftView::default()));
    golden("examination", &doc::examination(&examination()));
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
    for view in [vm(), vm_in_backup(), VmView::default()] {
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
        validate(
            &doc::cluster(&ClusterView { name: name.clone(), template: free.clone(), ..cluster() }),
            "cluster.xsd",
        );
        let view = DocumentView { name: name.clone(), template: free.clone(), ..document() };
        validate(&doc::document(&view), "document.xsd");
        validate(&doc::vdc(&VdcView { name: name.clone(), template: free.clone(), ..vdc() }), "vdc.xsd");
        let view = ShowbackView { vm_name: name.clone(), ..showback() };
        validate(&pieces("SHOWBACK_RECORDS", [&view]), "showback.xsd");
        validate(&pieces("MONITORING_DATA", [&VmSampleView { values: free, ..vm_sample() }]), "monitoring_data.xsd");
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
