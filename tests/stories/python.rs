//! Clients that exist already.

use std::process::Command;

use system_tests::cloud::Cloud;
use system_tests::command::{self, LONG};
use system_tests::daemon::{Daemon, Options};
use system_tests::place;

/// Runs a Python script with ENDPOINT and SESSION in its environment; what it printed.
fn python(interpreter: &std::path::Path, one: &Daemon, script: &str) -> String {
    let mut python = Command::new(interpreter);
    python.arg("-c").arg(script);
    python.env("ENDPOINT", one.endpoint().unwrap()).env("SESSION", one.session().unwrap());
    command::run(&mut python, LONG).unwrap().checked("python").unwrap()
}

#[test]
fn pyone_reads_every_document() {
    let interpreter = place::target().unwrap().join("pyone/bin/python");
    assert!(interpreter.exists(), "pyone is missing; run tests/setup/packages.sh");
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("read", "64M", "MODE = \"INCREMENT\", KEEP_LAST = \"3\"").unwrap();
    cloud.backup(vm).unwrap();
    let script = r#"
import os, pyone
one = pyone.OneServer(os.environ["ENDPOINT"], session=os.environ["SESSION"])
vm = one.vm.info(VM)
assert vm.ID == VM and vm.NAME == "read" and vm.STATE == 3, (vm.ID, vm.NAME, vm.STATE)
assert vm.BACKUPS.BACKUP_CONFIG.MODE == "INCREMENT", vm.BACKUPS.BACKUP_CONFIG
backup = one.image.info(vm.BACKUPS.BACKUP_IDS.ID[0])
assert backup.TYPE == 6 and backup.STATE == 1, (backup.TYPE, backup.STATE)
points = backup.BACKUP_INCREMENTS.INCREMENT
assert [point.TYPE for point in points] == ["FULL"], points
assert [one_vm.ID for one_vm in one.vmpool.info(-2, -1, -1, -1).VM] == [VM]
assert [one_vm.ID for one_vm in one.vmpool.infoextended(-2, -1, -1, -1).VM] == [VM]
assert len(one.imagepool.info(-2, -1, -1).IMAGE) == 2
assert {store.NAME for store in one.datastorepool.info().DATASTORE} >= {"system", "default", "files", "backups"}
assert one.datastore.info(DATASTORE).TYPE == 3
assert one.host.info(0).NAME == "localhost"
assert len(one.hostpool.info().HOST) == 1
assert one.template.info(0).NAME == "read"
assert len(one.templatepool.info(-2, -1, -1).VMTEMPLATE) == 1
assert one.user.info(0).NAME == "oneadmin"
assert {user.NAME for user in one.userpool.info().USER} >= {"oneadmin", "serveradmin"}
assert {group.NAME for group in one.grouppool.info().GROUP} >= {"oneadmin", "users"}
assert one.cluster.info(0).NAME == "default"
try:
    one.vm.info(4711)
    raise SystemExit("VM 4711 was found")
except pyone.OneNoExistsException:
    pass
try:
    pyone.OneServer(os.environ["ENDPOINT"], session="oneadmin:wrong").vmpool.info(-2, -1, -1, -1)
    raise SystemExit("a wrong password was accepted")
except pyone.OneAuthenticationException:
    pass
print("read")
"#;
    let script = format!("VM = {vm}\nDATASTORE = {}\n{script}", cloud.datastore);
    assert_eq!(python(&interpreter, &cloud.one, &script), "read\n");
}

#[test]
fn pythons_own_xmlrpc_client_is_served_over_one_connection() {
    let one = Daemon::start(Options::default()).unwrap();
    let script = r#"
import os, xmlrpc.client
one = xmlrpc.client.ServerProxy(os.environ["ENDPOINT"])
for _ in range(40):
    ok, version, code = one.one.system.version(os.environ["SESSION"])[:3]
    assert ok is True and code == 0 and version.startswith("7.0."), (ok, version, code)
answer = one.one.vm.info(os.environ["SESSION"], 4711)
assert answer[0] is False and answer[2] == 1024 and answer[3] == 4711, answer
try:
    one.one.no.such.method(os.environ["SESSION"])
    raise SystemExit("an unknown method was served")
except xmlrpc.client.Fault as fault:
    assert fault.faultCode == -506, fault
print("served")
"#;
    assert_eq!(python("python3".as_ref(), &one, script), "served\n");
}
