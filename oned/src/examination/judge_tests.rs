//! Every rule of the judgement once on each of its sides.

use super::facts::{
    BackupsFacts, ClockFacts, DatabaseFacts, DirectoryFacts, EntryFacts, Fact, HostFacts, JobFacts, PlaceFacts,
    QemuFacts, RoundFacts, Space, VmFacts,
};
use super::judge;

const GIB: u64 = 1 << 30;

fn space(total_gib: u64, free_mib: u64) -> Result<Space, String> {
    Ok(Space { total: total_gib * GIB, free: free_mib << 20 })
}

/// `name: outcome: text`, and ` -> remedy` where there is one; the subject is left out.
fn said(fact: &Fact) -> Vec<String> {
    let line = |finding: super::Finding| {
        let remedy = if finding.remedy.is_empty() { String::new() } else { format!(" -> {}", finding.remedy) };
        assert_eq!(finding.remedy.is_empty(), finding.outcome == super::Outcome::Ok, "{finding:?}");
        format!("{}: {}: {}{remedy}", finding.name, finding.outcome.as_str(), finding.text)
    };
    judge(std::slice::from_ref(fact)).into_iter().map(line).collect()
}

/// Of each finding, `ok`, `warning` or `failure` with the pieces that its line must have.
fn assert_said(fact: &Fact, expected: &[&[&str]]) {
    let lines = said(fact);
    assert_eq!(lines.len(), expected.len(), "{fact:?}: {lines:#?}");
    for (line, pieces) in lines.iter().zip(expected) {
        for piece in *pieces {
            assert!(line.contains(piece), "{line:?} has no {piece:?}");
        }
    }
}

fn place(entries: Vec<EntryFacts>) -> Fact {
    Fact::Place(PlaceFacts { path: "/s".into(), entries, space: space(100, 50 << 10) })
}

fn entry(mode: Option<u32>, ours: bool, is_directory: bool) -> EntryFacts {
    EntryFacts { path: "/s/x".into(), is_directory, seen: mode.map(|mode| (mode, ours)), is_needed: true }
}

#[test]
fn what_others_can_read_of_the_state_is_told_with_the_command_that_ends_it() {
    let room: &[&str] = &["free space: ok"];
    let good = vec![entry(Some(0o600), true, false), entry(Some(0o700), true, true)];
    assert_said(&place(good), &[&["state directory: ok"], room]);
    assert_said(
        &place(vec![entry(Some(0o644), true, false)]),
        &[&["failure", "0644 instead of 0600", "-> chmod 600 /s/x"], room],
    );
    assert_said(
        &place(vec![entry(Some(0o755), true, true)]),
        &[&["warning", "0755 instead of 0700", "-> chmod 700 /s/x"], room],
    );
    assert_said(&place(vec![entry(Some(0o600), false, false)]), &[&["failure", "another user", "chown"], room]);
    assert_said(&place(vec![entry(None, true, false)]), &[&["failure", "not there", "from your copy"], room]);
    let spare = EntryFacts { is_needed: false, ..entry(None, true, false) };
    assert_said(&place(vec![spare]), &[&["state directory: ok"], room]);
}

#[test]
fn free_space_is_judged_by_bytes_and_by_its_share() {
    let of =
        |space| Fact::Directory(DirectoryFacts { id: 1, name: "d".into(), path: "/d".into(), writable: Ok(()), space });
    let cases: [(Result<Space, String>, &[&str]); 6] = [
        (space(100, 0), &["failure", "full: 0.0 MiB of 100.0 GiB free", "make room"]),
        (space(100, 63), &["failure"]),
        (space(10, 1000), &["warning", "nearly full"]),
        (space(100, 4 << 10), &["warning", "4.0 GiB of 100.0 GiB"]),
        (space(10_000, 60 << 10), &["ok"]),
        (Err("gone".into()), &["failure", "cannot be measured: gone"]),
    ];
    for (space, pieces) in cases {
        assert_said(&of(space), &[&["datastore: ok"], pieces]);
    }
    let refused = DirectoryFacts {
        id: 1,
        name: "d".into(),
        path: "/d".into(),
        writable: Err("read-only".into()),
        space: space(1, 1),
    };
    assert_said(&Fact::Directory(refused), &[&["datastore: failure", "/d cannot be written to: read-only"]]);
}

#[test]
fn the_database_is_sound_damaged_too_large_to_check_or_unreadable() {
    let of = |facts| Fact::Database(Ok(facts));
    assert_said(&of(DatabaseFacts::Sound), &[&["database: ok"]]);
    assert_said(&of(DatabaseFacts::Large(3 * GIB)), &[&["database: ok", "3.0 GiB", "quick_check"]]);
    assert_said(&of(DatabaseFacts::Damaged("page 7".into())), &[&["failure", "damaged: page 7", "import-backups"]]);
    assert_said(&Fact::Database(Err("locked".into())), &[&["failure", "locked"]]);
    assert_said(&Fact::Unread("no".into()), &[&["database: failure"]]);
}

#[test]
fn a_clock_that_jumped_back_or_follows_nobody_is_told() {
    let of = |synchronised, behind_s| Fact::Clock(ClockFacts { synchronised, behind_s });
    assert_said(&of(Some(true), 120), &[&["clock: ok", "is synchronised"]]);
    assert_said(&of(Some(false), -5), &[&["warning", "not synchronised", "timedatectl"]]);
    assert_said(&of(None, 0), &[&["warning", "nobody here can tell"]]);
    assert_said(&of(Some(true), 7300), &[&["failure", "2 hours behind"], &["ok"]]);
}

#[test]
fn only_an_address_that_others_reach_needs_tls() {
    let of =
        |address: &str, tls| Fact::Door { endpoint: "http://x/RPC2".into(), listen: address.parse().unwrap(), tls };
    assert_said(&of("127.0.0.1", false), &[&["listening: ok", "this machine only"]]);
    assert_said(&of("::1", false), &[&["listening: ok"]]);
    assert_said(&of("0.0.0.0", true), &[&["listening: ok", "TLS"]]);
    for open in ["0.0.0.0", "::", "192.168.0.1"] {
        assert_said(&of(open, false), &[&["warning", "in clear", "TLS_CERTIFICATE"]]);
    }
}

#[test]
fn a_scheduler_that_stands_still_and_actions_left_over_are_told() {
    let of = |since_s, overdue, refused| Fact::Rounds(RoundFacts { since_s, overdue, refused });
    assert_said(&of(Some(1), 0, 0), &[&["scheduler: ok", "1 s ago"]]);
    assert_said(&of(Some(600), 0, 0), &[&["failure", "no round for 600 s", "restart"]]);
    assert_said(&of(None, 0, 0), &[&["failure"]]);
    assert_said(&of(Some(1), 3, 2), &[&["ok"], &["warning", "3 scheduled"], &["warning", "2 scheduled", "events"]]);
}

#[test]
fn jobs_that_fail_again_and_again_or_do_not_move_are_told() {
    let job = |attempts, error: &str, still_s| JobFacts {
        id: 42,
        what: "BACKUP of VM 7".into(),
        attempts,
        error: error.into(),
        still_s,
    };
    assert_said(&Fact::Jobs(vec![]), &[&["jobs: ok", "0 under way"]]);
    assert_said(&Fact::Jobs(vec![job(1, "", 60), job(1, "once", 60)]), &[&["jobs: ok", "2 under way"]]);
    assert_said(&Fact::Jobs(vec![job(3, "no route", 5)]), &[&["warning", "tried 3 times: no route"]]);
    assert_said(
        &Fact::Jobs(vec![job(0, "", 172_800)]),
        &[&["warning", "waiting for a place for 2 days", "MAX_BACKUPS"]],
    );
    assert_said(&Fact::Jobs(vec![job(1, "", 172_800)]), &[&["warning", "not moved for 2 days", "recover"]]);
    let many = said(&Fact::Jobs(vec![job(3, "no route", 5); 30]));
    assert_eq!((many.len(), many[20].contains("and 10 more jobs")), (21, true), "{many:?}");
}

#[test]
fn hosts_must_answer_be_new_enough_and_have_what_their_guests_need() {
    let host = |answer: Option<Result<&str, &str>>| HostFacts {
        id: 0,
        name: "localhost".into(),
        vm_mad: "kvm".into(),
        is_local: true,
        answer: answer.map(|answer| answer.map(String::from).map_err(String::from)),
        has_kvm: true,
    };
    let present = host(Some(Ok("QEMU 7.2.22, libvirt 9.0.0")));
    let kvm: &[&str] = &["virtualisation: ok: KVM"];
    assert_said(&Fact::Host(present.clone()), &[&["libvirt: ok", "QEMU 7.2.22"], kvm]);
    assert_said(&Fact::Host(host(Some(Err("refused")))), &[&["failure", "refused", "systemctl status libvirtd"]]);
    assert_said(&Fact::Host(host(None)), &[&["libvirt: ok", "OFFLINE"]]);
    for (old, needed) in [
        ("QEMU 6.0.9, libvirt 9.0.0", "need QEMU 6.1"),
        ("QEMU 5.2.0, libvirt 7.0.0", "need QEMU 6.1"),
        ("QEMU 6.1.0, libvirt 7.5.0", "need libvirt 7.6"),
    ] {
        assert_said(&Fact::Host(host(Some(Ok(old)))), &[&["failure", needed, "upgrade"], kvm]);
    }
    assert_said(&Fact::Host(host(Some(Ok("something else")))), &[&["libvirt: ok"], kvm]);
    let without = HostFacts { has_kvm: false, ..present.clone() };
    assert_said(&Fact::Host(without.clone()), &[&["ok"], &["virtualisation: failure", "no /dev/kvm", "--vm qemu"]]);
    let emulated = HostFacts { vm_mad: "qemu".into(), ..without };
    assert_said(&Fact::Host(emulated.clone()), &[&["ok"], &["virtualisation: ok", "emulation"]]);
    assert_said(&Fact::Host(HostFacts { has_kvm: true, ..emulated }), &[&["ok"], &["warning", "slow", "--vm kvm"]]);
    let remote = HostFacts { is_local: false, ..present.clone() };
    assert_said(&Fact::Host(remote), &[&["ok"], &["warning", "cannot be backed up from here"]]);
    let dummy = HostFacts { vm_mad: "dummy".into(), has_kvm: false, ..present };
    assert_said(&Fact::Host(dummy), &[&["libvirt: ok"]]);
    assert_said(&Fact::Hosts(0), &[&["warning", "there is no host", "onehost create"]]);
    assert_said(&Fact::Hosts(3), &[]);
}

#[test]
fn qemu_must_run_as_the_daemon_does() {
    let qemu = |user: Option<&str>, ownership: Option<&str>| {
        Fact::Qemu(QemuFacts {
            file: "/q.conf".into(),
            user: user.map(String::from),
            dynamic_ownership: ownership.map(String::from),
            daemon_uid: 0,
            daemon_name: "root".into(),
        })
    };
    for user in ["root", "0", "+0"] {
        assert_said(&qemu(Some(user), Some("0")), &[&["sockets: ok"]]);
    }
    assert_said(
        &qemu(None, Some("0")),
        &[&["failure", "as libvirt-qemu and oned as root", "user = \"root\" in /q.conf"]],
    );
    assert_said(&qemu(Some("one"), None), &[&["failure", "QEMU runs as one"]]);
    assert_said(&qemu(Some("root"), None), &[&["warning", "changes the owner", "dynamic_ownership = 0"]]);
}

#[test]
fn a_backup_datastore_must_be_there_take_files_and_open() {
    let good = BackupsFacts {
        id: 100,
        name: "nas".into(),
        path: "/mnt/b".into(),
        share: None,
        writable: Ok(()),
        newest: Some(Ok("3a09be0a".into())),
        space: Some(Space { total: 100 * GIB, free: 50 * GIB }),
    };
    let of = |change: fn(&mut BackupsFacts)| {
        let mut facts = good.clone();
        change(&mut facts);
        Fact::Backups(facts)
    };
    let (there, opens): (&[&str], &[&str]) = (&["datastore: ok"], &["repository: ok", "3a09be0a"]);
    assert_said(&of(|_| {}), &[there, opens, &["free space: ok"]]);
    assert_said(&of(|facts| facts.space = None), &[there, opens]);
    assert_said(
        &of(|facts| facts.writable = Err("not there".into())),
        &[&["datastore: failure", "not there", "see that /mnt/b is there"]],
    );
    let share = |facts: &mut BackupsFacts| {
        (facts.share, facts.writable) = (Some("nas:/b".into()), Err("timed out".into()));
    };
    assert_said(&of(share), &[&["failure", "timed out", "server of nas:/b is up", "onedatastore update 100"]]);
    let mounted = |facts: &mut BackupsFacts| (facts.share, facts.newest) = (Some("nas:/b".into()), None);
    assert_said(&of(mounted), &[&["ok", "nas:/b is mounted"], &["repository: ok", "no backup yet"], &["ok"]]);
    let locked = |facts: &mut BackupsFacts| facts.newest = Some(Err("wrong password".into()));
    assert_said(&of(locked), &[there, &["repository: failure", "wrong password", "RESTIC_PASSWORD"], &["ok"]]);
    let full = |facts: &mut BackupsFacts| facts.space = Some(Space { total: 100 * GIB, free: 0 });
    assert_said(&of(full), &[there, opens, &["free space: failure", "KEEP_LAST"]]);
}

#[test]
fn scratch_space_must_be_more_than_its_reserve() {
    let of = |space| Fact::Scratch { path: "/0".into(), space, reserve_mb: 1024 };
    assert_said(&of(space(100, 50 << 10)), &[&["scratch space: ok", "reserve 1.0 GiB"]]);
    assert_said(&of(space(100, 1536)), &[&["warning", "only 512.0 MiB above"]]);
    assert_said(&of(space(100, 1024)), &[&["failure", "every backup is given up", "SCRATCH_RESERVE_MB"]]);
    assert_said(&of(Err("gone".into())), &[&["failure"]]);
}

#[test]
fn vms_without_a_good_backup_for_long_are_told() {
    let vm = |had_backup, age_s, failures| VmFacts { id: 7, name: "web".into(), had_backup, age_s, failures };
    assert_said(&Fact::Vms(vec![]), &[&["backups: ok", "no VM is to be"]]);
    assert_said(&Fact::Vms(vec![vm(true, 86_400, 1), vm(false, 3600, 0)]), &[&["backups: ok", "(2 looked at)"]]);
    assert_said(&Fact::Vms(vec![vm(true, 20 * 86_400, 0)]), &[&["warning", "was 20 days ago", "onevm events 7"]]);
    assert_said(&Fact::Vms(vec![vm(false, 20 * 86_400, 0)]), &[&["warning", "never was in 20 days"]]);
    assert_said(&Fact::Vms(vec![vm(true, 7200, 3)]), &[&["warning", "3 backups failed", "2 hours ago"]]);
    assert_said(&Fact::Vms(vec![vm(false, 60, 3)]), &[&["warning", "none ever succeeded"]]);
    assert_eq!(said(&Fact::Vms(vec![vm(false, 60, 3); 500])).len(), 21);
}

#[test]
fn what_does_not_answer_is_a_failure() {
    let late = Fact::Late { name: "libvirt", subject: "host 3 (n3)".into(), seconds: 15 };
    let findings = judge(std::slice::from_ref(&late));
    assert_eq!((findings[0].name, findings[0].subject.as_str()), ("libvirt", "host 3 (n3)"));
    assert_said(&late, &[&["libvirt: failure", "no answer within 15 s"]]);
}
