//! A whole cloud of dummy drivers through pyone: every family of calls once, as client libraries make them, without a
//! hypervisor. What it leaves behind must be nothing.

use std::process::Command;

use system_tests::command::{self, LONG, ORDINARY, wait_for};
use system_tests::daemon::{Daemon, Options};
use system_tests::{invariants, place};

const CONF: &str = "DUMMY_DRIVERS = \"YES\"\n";

fn pyone(one: &Daemon, script: &str) -> String {
    let interpreter = place::target().unwrap().join("pyone/bin/python");
    assert!(interpreter.exists(), "pyone is missing; run tests/setup/packages.sh");
    let mut python = Command::new(interpreter);
    python.arg("-c").arg(format!("{PRELUDE}\n{script}"));
    python.env("ENDPOINT", one.endpoint().unwrap()).env("SESSION", one.session().unwrap());
    command::run(&mut python, LONG).unwrap().checked("python").unwrap()
}

const PRELUDE: &str = r#"
import os, time, pyone
endpoint, session = os.environ["ENDPOINT"], os.environ["SESSION"]
one = pyone.OneServer(endpoint, session=session)
PENDING, HOLD, ACTIVE, STOPPED, SUSPENDED, DONE, POWEROFF, UNDEPLOYED = 1, 2, 3, 4, 5, 6, 8, 9
RUNNING, BACKUP = 3, 69

def wait(what, get, wanted):
    end = time.time() + 60
    while True:
        seen = get()
        if seen == wanted:
            return
        assert time.time() < end, (what, "is", seen, "and not", wanted)
        time.sleep(0.05)

def state(vm, wanted, lcm=0):
    def get():
        document = one.vm.info(vm)
        return (document.STATE, document.LCM_STATE)
    wait("VM %d" % vm, get, (wanted, lcm))

def refused(kind, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    raise SystemExit("%s%r was not refused" % (call, arguments))
"#;

#[test]
fn pyone_leads_a_vm_through_its_whole_life_on_dummy_drivers() {
    let one = Daemon::start(Options { conf: CONF.into(), ..Options::default() }).unwrap();
    let script = r#"
host = one.host.allocate("pretended", "dummy", "dummy", 0)
wait("the host", lambda: one.host.info(host).STATE, 2)
image = one.image.allocate('NAME = "disk"\nTYPE = "DATABLOCK"\nSIZE = "16"\n', 1)
wait("the image", lambda: one.image.info(image).STATE, 1)
net = one.vn.allocate('NAME = "net"\nVN_MAD = "dummy"\nBRIDGE = "br0"\nAR = [ TYPE = "IP4", IP = "10.0.0.1", SIZE = "10" ]\n', -1)
group = one.secgroup.allocate('NAME = "web"\nRULE = [ PROTOCOL = "TCP", RULE_TYPE = "inbound", RANGE = "80" ]\n')
backups = one.datastore.allocate('NAME = "backups"\nTYPE = "BACKUP_DS"\nDS_MAD = "dummy"\nTM_MAD = "-"\n', 0)
template = one.template.allocate('''
NAME = "small"
CPU = "0.5"
MEMORY = "64"
DISK = [ IMAGE_ID = "%d" ]
NIC = [ NETWORK_ID = "%d", SECURITY_GROUPS = "0,%d" ]
BACKUP_CONFIG = [ MODE = "INCREMENT", KEEP_LAST = "2" ]
SCHED_ACTION = [ ACTION = "backup", ARGS = "%d", TIME = "+100000", REPEAT = "3", DAYS = "24" ]
''' % (image, net, group, backups))

vm = one.template.instantiate(template, "one", True, "", False)
assert one.vm.info(vm).STATE == HOLD
nic = one.vm.info(vm).TEMPLATE["NIC"]
assert (nic["IP"], nic["MAC"]) == ("10.0.0.1", "02:00:0a:00:00:01"), nic
assert one.vm.info(vm).TEMPLATE["SCHED_ACTION"]["ACTION"] == "backup"
one.vm.deploy(vm, host)
state(vm, ACTIVE, RUNNING)
for word, resting, lcm in [("suspend", SUSPENDED, 0), ("resume", ACTIVE, RUNNING), ("poweroff", POWEROFF, 0),
                           ("resume", ACTIVE, RUNNING), ("reboot", ACTIVE, RUNNING)]:
    one.vm.action(word, vm)
    state(vm, resting, lcm)
one.vm.action("stop", vm)
state(vm, STOPPED)
one.vm.deploy(vm, host)
state(vm, ACTIVE, RUNNING)
one.vm.action("undeploy", vm)
state(vm, UNDEPLOYED)
one.vm.resize(vm, 'CPU = "1"\nMEMORY = "128"\n', False)
one.vm.deploy(vm, host)
state(vm, ACTIVE, RUNNING)
assert one.vm.info(vm).TEMPLATE["MEMORY"] == "128"
assert "is not supported" in refused(pyone.OneActionException, one.vm.action, "fly", vm)
assert "not available for state" in refused(pyone.OneActionException, one.vm.action, "release", vm)

for count in (1, 2, 3):
    one.vm.backup(vm, backups, False)
    state(vm, ACTIVE, RUNNING)
chain = one.vm.info(vm).BACKUPS.BACKUP_IDS.ID[0]
def points():
    return [int(point.ID) for point in one.image.info(chain).BACKUP_INCREMENTS.INCREMENT]
wait("the chain", points, [1, 2])
assert "no backup in progress" in refused(pyone.OneInternalException, one.vm.backupcancel, vm)

made = [int(word) for word in one.image.restore(chain, 1, 'NAME = "back"\nNO_IP = "YES"\n').split()]
for restored in made[1:]:
    wait("image %d" % restored, lambda: one.image.info(restored).STATE, 1)
again = one.template.instantiate(made[0], "again", False, "", False)
state(again, ACTIVE, RUNNING)
assert one.vm.info(again).TEMPLATE["NIC"]["IP"] == "10.0.0.2", one.vm.info(again).TEMPLATE["NIC"]
assert one.vn.info(net).USED_LEASES == 2

for each in (vm, again):
    one.vm.action("terminate-hard", each)
    state(each, DONE)
    one.vm.recover(each, 3)
assert one.vn.info(net).USED_LEASES == 0
for each in made[1:] + [chain, image]:
    one.image.delete(each)
wait("the images", lambda: len(one.imagepool.info(-2, -1, -1).IMAGE), 0)
for each in made[:1] + [template]:
    one.template.delete(each)
one.vn.delete(net)
one.secgroup.delete(group)
one.datastore.delete(backups)
one.host.delete(host)
print("done")
"#;
    assert_eq!(pyone(&one, script), "done\n");
    // What follows a backup may still be at work.
    wait_for("the jobs to end", ORDINARY, || Ok(invariants::no_job_is_open(&one).ok())).unwrap();
    invariants::no_process_is_left(&one).unwrap();
    invariants::every_quota_is_what_its_owner_has(&one).unwrap();
}

#[test]
fn pyone_gives_and_takes_rights_and_each_holds_at_once() {
    let one = Daemon::start(Options { conf: CONF.into(), ..Options::default() }).unwrap();
    let script = r#"
team = one.group.allocate("team")
alice = one.user.allocate("alice", "alice-pw", "core", [team])
bob = one.user.allocate("bob", "bob-pw", "core", [team])
as_alice = pyone.OneServer(endpoint, session="alice:alice-pw")
as_bob = pyone.OneServer(endpoint, session="bob:bob-pw")
text = 'NAME = "mine"\nCPU = "1"\nMEMORY = "64"\n'

refused(pyone.OneAuthorizationException, as_alice.template.allocate, text)
rule = one.acl.addrule("2%08x" % team, "20400000000", "8", "")
mine = as_alice.template.allocate(text)
refused(pyone.OneAuthorizationException, as_bob.template.info, mine)
as_alice.template.chmod(mine, -1, -1, -1, 1, -1, -1, -1, -1, -1)
assert as_bob.template.info(mine).NAME == "mine"
refused(pyone.OneAuthorizationException, as_bob.template.rename, mine, "ours")
one.group.addadmin(team, bob)
as_bob.template.rename(mine, "ours")
one.group.deladmin(team, bob)
refused(pyone.OneAuthorizationException, as_bob.template.rename, mine, "his")

as_alice.template.lock(mine, 4, False)
assert "locked" in refused(pyone.OneAuthorizationException, as_alice.template.update, mine, "A=B", 1)
as_alice.template.unlock(mine)
as_alice.template.update(mine, "A=B", 1)

token = as_alice.user.login("alice", "", 3600, -1)
by_token = pyone.OneServer(endpoint, session="alice:" + token)
assert by_token.user.info(-1).NAME == "alice"
one.user.passwd(alice, "other")
refused(pyone.OneAuthenticationException, by_token.user.info, -1)
refused(pyone.OneAuthenticationException, as_alice.user.info, -1)
one.user.enable(bob, False)
refused(pyone.OneAuthenticationException, as_bob.user.info, -1)

one.acl.delrule(rule)
refused(pyone.OneAuthorizationException, pyone.OneServer(endpoint, session="alice:other").template.allocate, text)
one.template.chown(mine, bob, -1)
assert one.template.info(mine).UNAME == "bob"
one.template.delete(mine)
for each in (alice, bob):
    one.user.delete(each)
one.group.delete(team)
print("done")
"#;
    assert_eq!(pyone(&one, script), "done\n");
}

#[test]
fn pyone_meets_quotas_that_count_vms_images_and_backups() {
    let one = Daemon::start(Options { conf: CONF.into(), ..Options::default() }).unwrap();
    let script = r#"
one.acl.addrule("200000001", "1400000000", "4", "")   # @1 VM/* ADMIN: users may back up directly
host = one.host.allocate("pretended", "dummy", "dummy", 0)
wait("the host", lambda: one.host.info(host).STATE, 2)
backups = one.datastore.allocate('NAME = "backups"\nTYPE = "BACKUP_DS"\nDS_MAD = "dummy"\nTM_MAD = "-"\n', 0)
alice = one.user.allocate("alice", "alice-pw", "core", [1])
mine = pyone.OneServer(endpoint, session="alice:alice-pw")
one.user.quota(alice, 'VM = [ VMS = "1", MEMORY = "100" ]\nDATASTORE = [ ID = "1", SIZE = "40", IMAGES = "2" ]\n'
                      'DATASTORE = [ ID = "%d", SIZE = "-1", IMAGES = "1" ]\n' % backups)

def used(section, **key):
    quotas = getattr(mine.user.info(-1), section + "_QUOTA")
    entries = getattr(quotas, section)
    entries = entries if isinstance(entries, list) else [entries]
    return [entry for entry in entries if all(str(getattr(entry, name)) == str(value) for name, value in key.items())][0]

image = mine.image.allocate('NAME = "disk"\nTYPE = "DATABLOCK"\nSIZE = "16"\n', 1)
wait("the image", lambda: mine.image.info(image).STATE, 1)
assert (int(used("DATASTORE", ID=1).IMAGES_USED), int(used("DATASTORE", ID=1).SIZE_USED)) == (1, 16)
said = refused(pyone.OneAuthorizationException, mine.image.allocate, 'NAME = "big"\nTYPE = "DATABLOCK"\nSIZE = "32"\n', 1)
assert "quota" in said and "limit of 40" in said, said
text = 'NAME = "vm"\nCPU = "0.5"\nMEMORY = "64"\nDISK = [ IMAGE_ID = "%d" ]\nBACKUP_CONFIG = [ MODE = "INCREMENT" ]\n' % image
vm = mine.vm.allocate(text)
state(vm, ACTIVE, RUNNING)
assert int(used("VM").VMS_USED) == 1 and int(used("VM").RUNNING_VMS_USED) == 1
refused(pyone.OneAuthorizationException, mine.vm.allocate, 'NAME = "two"\nCPU = "1"\nMEMORY = "10"\n')
mine.vm.backup(vm, backups, False)
state(vm, ACTIVE, RUNNING)
assert int(used("DATASTORE", ID=backups).IMAGES_USED) == 1
mine.vm.backup(vm, backups, False)                     # an increment is no new image
state(vm, ACTIVE, RUNNING)
assert int(used("DATASTORE", ID=backups).IMAGES_USED) == 1
refused(pyone.OneAuthorizationException, mine.vm.backup, vm, backups, True)
chain = mine.vm.info(vm).BACKUPS.BACKUP_IDS.ID[0]
mine.vm.action("terminate-hard", vm)
state(vm, DONE)
assert int(used("VM").VMS_USED) == 0 and int(used("VM").RUNNING_VMS_USED) == 0
mine.image.delete(chain)
mine.image.delete(image)
wait("the images", lambda: len(mine.imagepool.info(-3, -1, -1).IMAGE), 0)
assert (int(used("DATASTORE", ID=1).IMAGES_USED), int(used("DATASTORE", ID=1).SIZE_USED)) == (0, 0)
assert int(used("DATASTORE", ID=backups).IMAGES_USED) == 0
print("done")
"#;
    assert_eq!(pyone(&one, script), "done\n");
    invariants::every_quota_is_what_its_owner_has(&one).unwrap();
}

#[test]
fn pyone_schedules_backups_and_leads_a_backup_job_over_two_vms() {
    let one = Daemon::start(Options { conf: CONF.into(), ..Options::default() }).unwrap();
    let script = r#"
host = one.host.allocate("pretended", "dummy", "dummy", 0)
wait("the host", lambda: one.host.info(host).STATE, 2)
backups = one.datastore.allocate('NAME = "backups"\nTYPE = "BACKUP_DS"\nDS_MAD = "dummy"\nTM_MAD = "-"\n', 0)
image = one.image.allocate('NAME = "disk"\nTYPE = "DATABLOCK"\nSIZE = "16"\n', 1)
wait("the image", lambda: one.image.info(image).STATE, 1)

# A template with a preset: every VM of it has the schedule, ours and theirs.
far = 4102444800
template = one.template.allocate('NAME = "web"\nCPU = "0.5"\nMEMORY = "64"\nDISK = [ IMAGE_ID = "%d" ]\n'
    'BACKUP_CONFIG = [ MODE = "INCREMENT", KEEP_LAST = "3" ]\n'
    'SCHED_ACTION = [ ACTION = "backup", ARGS = "%d", TIME = "%d", REPEAT = "0", DAYS = "0,3", TIMEZONE = "Europe/Madrid" ]\n'
    % (image, backups, far))
vms = [one.template.instantiate(template, "web-%d" % n, False, "", False) for n in range(2)]
for vm in vms:
    state(vm, ACTIVE, RUNNING)

def action(vm):
    found = one.vm.info(vm).TEMPLATE["SCHED_ACTION"]
    return found if isinstance(found, dict) else found[0]

preset = action(vms[0])
assert (preset["ACTION"], preset["REPEAT"], preset["DAYS"], preset["TIME"]) == ("backup", "0", "0,3", str(far)), preset
assert one.vm.info(vms[0]).USER_TEMPLATE["SCHED_INFO"]["TIMEZONE"] == "Europe/Madrid"

# An update of one key leaves the others; a wrong one changes nothing.
one.vm.schedupdate(vms[0], int(preset["ID"]), 'SCHED_ACTION = [ DAYS = "1" ]')
assert (action(vms[0])["DAYS"], action(vms[0])["REPEAT"]) == ("1", "0")
said = refused(pyone.OneActionException, one.vm.schedupdate, vms[0], int(preset["ID"]), 'SCHED_ACTION = [ REPEAT = "7" ]')
assert "Wrong REPEAT value: 7" in said, said
assert action(vms[0])["DAYS"] == "1"

# One shot, due now.
one.vm.schedadd(vms[0], 'SCHED_ACTION = [ ACTION = "backup", ARGS = "%d", TIME = "1" ]' % backups)
wait("the backup", lambda: len(one.vm.info(vms[0]).BACKUPS.BACKUP_IDS.ID), 1)
state(vms[0], ACTIVE, RUNNING)
for vm in vms:
    for found in [one.vm.info(vm).TEMPLATE["SCHED_ACTION"]]:
        for one_action in found if isinstance(found, list) else [found]:
            one.vm.scheddelete(vm, int(one_action["ID"]))
assert "SCHED_ACTION" not in one.vm.info(vms[0]).TEMPLATE

# A job: its whole life.
job = one.backupjob.allocate('NAME = "nightly"\nBACKUP_VMS = "%d,%d,99"\nDATASTORE_ID = "%d"\nMODE = "INCREMENT"\nKEEP_LAST = "2"\n'
    'SCHED_ACTION = [ TIME = "%d", REPEAT = "3", DAYS = "24" ]\n' % (vms[0], vms[1], backups, far))
refused(pyone.OneInternalException, one.vm.backup, vms[0], backups, False)

def ids(name):
    return sorted(getattr(one.backupjob.info(job), name).ID)

def run():
    assert one.backupjob.backup(job) == job
    wait("the run", lambda: ids("UPDATED_VMS"), sorted(vms))
    assert (ids("OUTDATED_VMS"), ids("BACKING_UP_VMS"), ids("ERROR_VMS")) == ([], [], [])

for _ in range(3):
    run()
for vm in vms:
    state(vm, ACTIVE, RUNNING)
    chain = max(one.vm.info(vm).BACKUPS.BACKUP_IDS.ID)
    wait("KEEP_LAST of VM %d" % vm, lambda: len(one.image.info(chain).BACKUP_INCREMENTS.INCREMENT), 2)
document = one.backupjob.info(job)
assert document.LAST_BACKUP_TIME > 0 and document.PRIORITY == 50
one.backupjob.priority(job, 7)
assert one.backupjob.info(job).PRIORITY == 7
assert [j.ID for j in one.backupjobpool.info(-2, -1, -1).BACKUPJOB] == [job]
assert (one.backupjob.retry(job), one.backupjob.cancel(job)) == (job, job)
one.backupjob.delete(job)
config = one.vm.info(vms[0]).BACKUPS.BACKUP_CONFIG
assert config.BACKUP_JOB_ID is None and int(config.INCREMENTAL_BACKUP_ID) == -1, vars(config)

for vm in vms:
    one.vm.action("terminate-hard", vm)
    state(vm, DONE)
for backup in [i.ID for i in one.imagepool.info(-2, -1, -1).IMAGE if i.TYPE == 6]:
    one.image.delete(backup)
one.image.delete(image)
wait("the images", lambda: len(one.imagepool.info(-2, -1, -1).IMAGE), 0)
print("done")
"#;
    assert_eq!(pyone(&one, script), "done\n");
    invariants::every_quota_is_what_its_owner_has(&one).unwrap();
}
