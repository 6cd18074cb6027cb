//! From facts to findings: what is good, what is not, and what to do about it. Pure; every rule is in this file.

use std::net::IpAddr;

use super::facts::{
    BackupsFacts, ClockFacts, DatabaseFacts, DirectoryFacts, EntryFacts, Fact, HostFacts, JobFacts, PlaceFacts,
    QemuFacts, RoundFacts, Space, VmFacts,
};
use super::{Finding, Outcome};

/// libvirt makes checkpoints and incremental backups without a switch since 7.6 (its news of August 2021) with QEMU 6.1.
const LIBVIRT_NEEDED: [u32; 2] = [7, 6];
const QEMU_NEEDED: [u32; 2] = [6, 1];

/// QEMU's user where qemu.conf names none, on Debian.
const QEMU_USER: &str = "libvirt-qemu";

/// Less is as good as full, bytes.
const FULL: u64 = 64 << 20;
/// Less is little, bytes, and so is less than a twentieth of a file system, as long as that is less than [`PLENTY`].
const LITTLE: u64 = 1 << 30;
const PLENTY: u64 = 50 << 30;

/// Seconds by which a clock may be behind what is recorded: daemons of other machines made imported points.
const BEHIND_S: i64 = 120;

/// A loop that began no round for so long hangs, seconds.
const ROUND_S: u64 = 120;

/// A job that did not move for so long is worth a look, seconds.
const STILL_S: i64 = 86_400;

/// Attempts after which a job that waits is worth a look.
const ATTEMPTS: i64 = 2;

/// A VM without a good backup for so long is, seconds: a week, and a day for what runs once a week.
const OLD_S: i64 = 8 * 86_400;

/// Failures in a row after which a VM is.
const FAILURES: i64 = 2;

/// Jobs and VMs that are told one by one; the rest is counted.
const LISTED: usize = 20;

/// What facts mean, in their order.
#[must_use]
pub fn judge(facts: &[Fact]) -> Vec<Finding> {
    facts.iter().flat_map(of).collect()
}

fn of(fact: &Fact) -> Vec<Finding> {
    match fact {
        Fact::Place(place) => of_place(place),
        Fact::Database(database) => vec![of_database(database)],
        Fact::Clock(clock) => of_clock(*clock),
        Fact::Door { endpoint, listen, tls } => vec![of_door(endpoint, *listen, *tls)],
        Fact::Rounds(rounds) => of_rounds(*rounds),
        Fact::Jobs(jobs) => of_jobs(jobs),
        Fact::Hosts(0) => vec![warning(
            "libvirt",
            "",
            "there is no host, so no VM can run",
            "onehost create localhost --im kvm --vm kvm",
        )],
        Fact::Hosts(_) => Vec::new(),
        Fact::Host(host) => of_host(host),
        Fact::Qemu(qemu) => vec![of_qemu(qemu)],
        Fact::Directory(directory) => of_directory(directory),
        Fact::Backups(backups) => of_backups(backups),
        Fact::Scratch { path, space, reserve_mb } => vec![of_scratch(path, space, *reserve_mb)],
        Fact::Vms(vms) => of_vms(vms),
        Fact::Late { name, subject, seconds } => vec![failure(
            name,
            subject,
            format!("no answer within {seconds} s"),
            "whatever is behind it hangs or is far too slow: look at its server and at oned.log",
        )],
        Fact::Unread(reason) => vec![failure("database", "", reason.as_str(), "the daemon's log says why")],
    }
}

fn finding(name: &'static str, subject: &str, outcome: Outcome, text: impl Into<String>, remedy: &str) -> Finding {
    Finding { name, subject: subject.to_owned(), outcome, text: text.into(), remedy: remedy.to_owned() }
}

fn good(name: &'static str, subject: &str, text: impl Into<String>) -> Finding {
    finding(name, subject, Outcome::Ok, text, "")
}

fn warning(name: &'static str, subject: &str, text: impl Into<String>, remedy: &str) -> Finding {
    finding(name, subject, Outcome::Warning, text, remedy)
}

fn failure(name: &'static str, subject: &str, text: impl Into<String>, remedy: &str) -> Finding {
    finding(name, subject, Outcome::Failure, text, remedy)
}

/// `1.5 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64 / f64::from(1 << 20), 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `3 days`, `5 hours`.
fn long(seconds: i64) -> String {
    match seconds {
        s if s >= 2 * 86_400 => format!("{} days", s / 86_400),
        s if s >= 2 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} minutes", s.max(0) / 60),
    }
}

fn of_space(subject: &str, space: &Result<Space, String>, remedy: &str) -> Finding {
    let space = match space {
        Ok(space) => space,
        Err(reason) => {
            return failure("free space", subject, format!("cannot be measured: {reason}"), "see that it is there");
        }
    };
    let text = format!("{} of {} free", size(space.free), size(space.total));
    if space.free < FULL {
        return failure("free space", subject, format!("full: {text}"), remedy);
    }
    if space.free < LITTLE || space.free < space.total / 20 && space.free < PLENTY {
        return warning("free space", subject, format!("nearly full: {text}"), remedy);
    }
    good("free space", subject, text)
}

fn of_place(place: &PlaceFacts) -> Vec<Finding> {
    let name = "state directory";
    let mut findings: Vec<Finding> = place.entries.iter().filter_map(|entry| of_entry(name, entry)).collect();
    if findings.is_empty() {
        findings.push(good(name, &place.path, "nobody else can read it"));
    }
    findings.push(of_space(
        &place.path,
        &place.space,
        "make room: the daemon cannot write down what it does without it",
    ));
    findings
}

/// None = as it should be.
fn of_entry(name: &'static str, entry: &EntryFacts) -> Option<Finding> {
    let path = &entry.path;
    let Some((mode, is_ours)) = entry.seen else {
        let remedy = "bring it back from your copy before the daemon is started again; without it secrets are lost";
        return entry.is_needed.then(|| failure(name, path, "is not there", remedy));
    };
    if !is_ours {
        let remedy = format!("chown it to the user that oned runs as: {path}");
        return Some(failure(name, path, "belongs to another user", &remedy));
    }
    if mode & 0o077 == 0 {
        return None;
    }
    let wanted = if entry.is_directory { 0o700 } else { 0o600 };
    let outcome = if entry.is_directory { Outcome::Warning } else { Outcome::Failure };
    let text = format!("others may use it: mode {mode:04o} instead of {wanted:04o}");
    Some(finding(name, path, outcome, text, &format!("chmod {wanted:o} {path}")))
}

fn of_database(database: &Result<DatabaseFacts, String>) -> Finding {
    let name = "database";
    match database {
        Ok(DatabaseFacts::Sound) => good(name, "", "SQLite's quick check finds nothing wrong"),
        Ok(DatabaseFacts::Large(bytes)) => {
            let text = format!("has {} and was not checked, for that would take long", size(*bytes));
            good(name, "", format!("{text}; `sqlite3 one.db 'PRAGMA quick_check'` does"))
        }
        Ok(DatabaseFacts::Damaged(words)) => {
            let remedy = "stop oned, keep one.db, -wal and -shm, bring back your last copy; `onedatastore import-backups` \
                          takes up what was backed up since";
            failure(name, "", format!("is damaged: {words}"), remedy)
        }
        Err(reason) => failure(name, "", format!("cannot be read: {reason}"), "the daemon's log says why"),
    }
}

fn of_clock(clock: ClockFacts) -> Vec<Finding> {
    let name = "clock";
    let mut findings = Vec::new();
    if clock.behind_s > BEHIND_S {
        let text = format!("is {} behind what the database already recorded: it was put back", long(clock.behind_s));
        let remedy =
            "set the clock; schedules wait for the right time, and new restore points look older than they are";
        findings.push(failure(name, "", text, remedy));
    }
    findings.push(match clock.synchronised {
        Some(true) => good(name, "", "is synchronised"),
        Some(false) => {
            let remedy = "timedatectl set-ntp true (package systemd-timesyncd), or install chrony";
            warning(name, "", "is not synchronised with any server of time", remedy)
        }
        None => {
            let remedy = "see that chrony, ntpd or the machine's host keeps it right";
            warning(name, "", "nobody here can tell whether it is synchronised", remedy)
        }
    });
    findings
}

fn of_door(endpoint: &str, listen: IpAddr, tls: bool) -> Finding {
    let name = "listening";
    match (tls, listen.is_loopback()) {
        (true, _) => good(name, endpoint, "speaks TLS"),
        (false, true) => good(name, endpoint, "is reached from this machine only"),
        (false, false) => {
            let remedy = "set TLS_CERTIFICATE and TLS_KEY in oned.conf, or LISTEN_ADDRESS = \"127.0.0.1\"";
            warning(
                name,
                endpoint,
                "is reached from other machines without TLS, so passwords cross the network in clear",
                remedy,
            )
        }
    }
}

fn of_rounds(rounds: RoundFacts) -> Vec<Finding> {
    let name = "scheduler";
    let mut findings = vec![match rounds.since_s {
        Some(seconds) if seconds <= ROUND_S => good(name, "", format!("its last round began {seconds} s ago")),
        Some(seconds) => {
            let text = format!("began no round for {seconds} s");
            failure(name, "", text, "look at the end of oned.log and restart oned; nothing is lost by that")
        }
        None => failure(name, "", "began no round yet", "look at the end of oned.log"),
    }];
    if rounds.overdue > 0 {
        let text = format!("{} more than five minutes overdue", counted(rounds.overdue, "scheduled action"));
        let remedy =
            "MAX_BACKUPS in oned.conf or of a datastore may be too small; `onevm show` says what each waits for";
        findings.push(warning(name, "", text, remedy));
    }
    if rounds.refused > 0 {
        let text = format!("{} refused when due", counted(rounds.refused, "scheduled action"));
        findings.push(warning(name, "", text, "`onevm events VM` says why"));
    }
    findings
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn of_jobs(jobs: &[JobFacts]) -> Vec<Finding> {
    let name = "jobs";
    let mut findings: Vec<Finding> = jobs.iter().filter_map(|job| of_job(name, job)).collect();
    if findings.is_empty() {
        return vec![good(name, "", format!("{} under way, none stuck", jobs.len()))];
    }
    shorten(&mut findings, name, "jobs");
    findings
}

fn of_job(name: &'static str, job: &JobFacts) -> Option<Finding> {
    let subject = format!("job {} ({})", job.id, job.what);
    if !job.error.is_empty() && job.attempts >= ATTEMPTS {
        let text = format!("was tried {} times: {}", job.attempts, job.error);
        return Some(warning(name, &subject, text, "it is tried again by itself; take away what stands in its way"));
    }
    if job.still_s < STILL_S {
        return None;
    }
    let (text, remedy) = match job.attempts {
        0 => ("has been waiting for a place for", "limits (MAX_BACKUPS …) or what goes before it hold it up"),
        _ => ("has not moved for", "see what it does (onevm show, oneimage show); `onevm recover` ends it"),
    };
    Some(warning(name, &subject, format!("{text} {}", long(job.still_s)), remedy))
}

/// Keeps the first, and counts the others.
fn shorten(findings: &mut Vec<Finding>, name: &'static str, what: &str) {
    let more = findings.len().saturating_sub(LISTED);
    if more > 0 {
        findings.truncate(LISTED);
        findings.push(warning(name, "", format!("and {more} more {what} like these"), "as above"));
    }
}

fn of_host(host: &HostFacts) -> Vec<Finding> {
    let subject = format!("host {} ({})", host.id, host.name);
    let hypervisor = match &host.answer {
        None => return vec![good("libvirt", &subject, "is OFFLINE and was not asked")],
        Some(Err(reason)) => {
            let remedy = if host.is_local {
                "see that libvirtd runs (systemctl status libvirtd) and that the daemon's user may use it (group libvirt)"
            } else {
                "see that the machine is up, that ssh lets the daemon's user in without a password, and that libvirtd runs there"
            };
            return vec![failure("libvirt", &subject, reason.as_str(), remedy)];
        }
        Some(Ok(hypervisor)) => hypervisor,
    };
    let mut findings = vec![of_versions(&subject, hypervisor)];
    if host.vm_mad != "dummy" {
        findings.extend(of_virtualisation(&subject, host));
    }
    findings
}

fn of_versions(subject: &str, hypervisor: &str) -> Finding {
    let name = "libvirt";
    let needed = [("QEMU", QEMU_NEEDED), ("libvirt", LIBVIRT_NEEDED)];
    let old = needed.into_iter().find(|(what, needed)| version_of(hypervisor, what).is_some_and(|seen| seen < *needed));
    match old {
        None => good(name, subject, format!("answers: {hypervisor}")),
        Some((what, [major, minor])) => {
            let text = format!("{hypervisor}: incremental backups of running guests need {what} {major}.{minor}");
            failure(name, subject, text, "upgrade QEMU and libvirt (Debian 12 has what is needed)")
        }
    }
}

/// The first two numbers behind a name in `QEMU 7.2.22, libvirt 9.0.0`.
fn version_of(hypervisor: &str, name: &str) -> Option<[u32; 2]> {
    let words = hypervisor.split(',').map(str::trim);
    let version = words.filter_map(|word| word.strip_prefix(name)).find_map(|rest| rest.strip_prefix(' '))?;
    let mut numbers = version.split('.').map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

fn of_virtualisation(subject: &str, host: &HostFacts) -> Option<Finding> {
    let name = "virtualisation";
    if !host.is_local {
        let remedy = "run an oned on that machine for the VMs that are to be backed up there";
        return Some(warning(
            name,
            subject,
            "is another machine: its VMs run, but cannot be backed up from here",
            remedy,
        ));
    }
    Some(match (host.vm_mad == "kvm", host.has_kvm) {
        (true, true) => good(name, subject, "KVM"),
        (true, false) => failure(
            name,
            subject,
            "guests are to run with KVM, but there is no /dev/kvm, so they do not start",
            "switch virtualisation on in the machine's firmware (modprobe kvm_intel or kvm_amd), or make the host with --vm qemu",
        ),
        (false, true) => warning(
            name,
            subject,
            "guests are emulated, which is slow, though /dev/kvm is there",
            "make the host anew with --vm kvm if KVM works here",
        ),
        (false, false) => good(name, subject, "emulation: there is no /dev/kvm"),
    })
}

fn of_qemu(qemu: &QemuFacts) -> Finding {
    let (name, subject) = ("sockets", qemu.file.as_str());
    let user = qemu.user.as_deref().unwrap_or(QEMU_USER);
    let daemon = match qemu.daemon_name.as_str() {
        "" => qemu.daemon_uid.to_string(),
        name => name.to_owned(),
    };
    let number = user.trim_start_matches('+').parse::<u32>().ok();
    if user != daemon && number != Some(qemu.daemon_uid) {
        let text =
            format!("QEMU runs as {user} and oned as {daemon}, so QEMU reaches neither disks nor backup sockets");
        let remedy = format!("user = \"{daemon}\" in {subject}, then systemctl restart libvirtd");
        return failure(name, subject, text, &remedy);
    }
    if qemu.dynamic_ownership.as_deref() != Some("0") {
        let text = "libvirt changes the owner of disks and sockets";
        let remedy =
            format!("dynamic_ownership = 0 and remember_owner = 0 in {subject}, then systemctl restart libvirtd");
        return warning(name, subject, text, &remedy);
    }
    good(name, subject, format!("QEMU runs as {daemon}, as oned does"))
}

fn of_directory(directory: &DirectoryFacts) -> Vec<Finding> {
    let subject = format!("datastore {} ({})", directory.id, directory.name);
    if let Err(reason) = &directory.writable {
        let text = format!("{} cannot be written to: {reason}", directory.path);
        let remedy =
            "see that the directory is there, is the daemon's user's, and lies on a file system that is not read-only";
        return vec![failure("datastore", &subject, text, remedy)];
    }
    let remedy = "make room: delete images that nobody needs, or move DATASTORE_LOCATION to a larger disk";
    vec![good("datastore", &subject, "can be written to"), of_space(&subject, &directory.space, remedy)]
}

fn of_backups(backups: &BackupsFacts) -> Vec<Finding> {
    let subject = format!("datastore {} ({})", backups.id, backups.name);
    if let Err(reason) = &backups.writable {
        let remedy = match &backups.share {
            Some(share) => format!(
                "see that the server of {share} is up and lets this machine write; SHARE and \
                 MOUNT_OPTIONS are changed by onedatastore update {}",
                backups.id
            ),
            None => format!(
                "see that {} is there, mounted if it is a disk of its own, and the daemon's user's",
                backups.path
            ),
        };
        return vec![failure("datastore", &subject, reason.as_str(), &remedy)];
    }
    let mounted = backups.share.as_ref().map_or_else(String::new, |share| format!("{share} is mounted and "));
    let mut findings = vec![good("datastore", &subject, format!("{mounted}can be written to"))];
    findings.push(match &backups.newest {
        None => good("repository", &subject, "holds no backup yet"),
        Some(Ok(point)) => good("repository", &subject, format!("opens; its newest restore point {point} is there")),
        Some(Err(reason)) => {
            let remedy =
                "RESTIC_PASSWORD must be the one that the repository was made with; `oneimage verify` looks closer";
            failure("repository", &subject, reason.as_str(), remedy)
        }
    });
    if let Some(space) = backups.space {
        let remedy = "make room: lower KEEP_LAST, delete backups, or give it a larger disk; `onedatastore usage` says who takes most";
        findings.push(of_space(&subject, &Ok(space), remedy));
    }
    findings
}

fn of_scratch(path: &str, space: &Result<Space, String>, reserve_mb: u64) -> Finding {
    let name = "scratch space";
    let reserve = reserve_mb.saturating_mul(1 << 20);
    let remedy = "make room there, or lower SCRATCH_RESERVE_MB in oned.conf: guests' writes during a backup go there";
    match space {
        Err(reason) => failure(name, path, format!("cannot be measured: {reason}"), "see that it is there"),
        Ok(space) if space.free <= reserve => {
            let text = format!(
                "{} free, less than the reserve of {}: every backup is given up",
                size(space.free),
                size(reserve)
            );
            failure(name, path, text, remedy)
        }
        Ok(space) if space.free < reserve.saturating_mul(2).max(reserve.saturating_add(LITTLE)) => {
            let left = size(space.free.saturating_sub(reserve));
            warning(name, path, format!("only {left} above the reserve of {}", size(reserve)), remedy)
        }
        Ok(space) => good(name, path, format!("{} free, reserve {}", size(space.free), size(reserve))),
    }
}

fn of_vms(vms: &[VmFacts]) -> Vec<Finding> {
    let name = "backups";
    let mut findings: Vec<Finding> = vms.iter().filter_map(|vm| of_vm(name, vm)).collect();
    if findings.is_empty() {
        return vec![match vms.len() {
            0 => good(name, "", "no VM is to be backed up yet"),
            count => good(name, "", format!("no VM is without a good one for too long ({count} looked at)")),
        }];
    }
    shorten(&mut findings, name, "VMs");
    findings
}

fn of_vm(name: &'static str, vm: &VmFacts) -> Option<Finding> {
    let subject = format!("VM {} ({})", vm.id, vm.name);
    let age = long(vm.age_s);
    let seen = match (vm.failures >= FAILURES, vm.age_s > OLD_S, vm.had_backup) {
        (true, _, true) => format!("{} backups failed since the last good one {age} ago", vm.failures),
        (true, _, false) => format!("{} backups failed and none ever succeeded", vm.failures),
        (false, true, true) => format!("its last good backup was {age} ago"),
        (false, true, false) => format!("is to be backed up, but never was in {age}"),
        (false, false, _) => return None,
    };
    Some(warning(name, &subject, seen, &format!("`onevm events {}` says what became of the last ones", vm.id)))
}
