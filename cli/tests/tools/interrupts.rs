//! Ctrl-C while waiting, on a real pseudo terminal: the question, its answers, and what the terminal is like afterwards.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::door::{Door, pseudo_terminal};

const RUNNING: &str = "<STATE>3</STATE><LCM_STATE>3</LCM_STATE>";
const BACKUP: &str = "<STATE>3</STATE><LCM_STATE>69</LCM_STATE>";
const CTRL_C: &str = "\u{3}";
const QUESTION: &str = "Cancel the backup, or only stop watching? [c/s/Enter goes on] ";

/// Longer than anything takes on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command on a terminal of its own, with 80 columns.
struct Terminal {
    controller: File,
    child: Child,
    reader: JoinHandle<()>,
    seen: Arc<(Mutex<String>, Condvar)>,
    cooked: LocalModes,
}

impl Terminal {
    /// `line` is what follows `keeplast`. setsid(1) makes the terminal the one that Ctrl-C is pressed on.
    fn run(door: &Door, line: &str) -> Self {
        let (controller, end) = pseudo_terminal();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&controller, size).unwrap();
        let tool = door.tool("keeplast", &[]);
        let mut command = Command::new("setsid");
        command.env_clear().envs(tool.get_envs().filter_map(|(key, value)| Some((key, value?)))).env("TERM", "xterm");
        command.args(["--ctty", "--wait"]).arg(tool.get_program()).args(line.split(' ')).current_dir(door.home());
        let end = || Stdio::from(end.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn();
        let child = child.unwrap_or_else(|error| panic!("setsid: {error}; apt-get install util-linux"));
        let controller = File::from(controller);
        let seen = Arc::<(Mutex<String>, Condvar)>::default();
        let (mut reader, shown) = (controller.try_clone().unwrap(), Arc::clone(&seen));
        // It ends with an error when nobody has the other end any more.
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.0.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
                shown.1.notify_all();
            }
        });
        let cooked = tcgetattr(&controller).unwrap().local_modes;
        Self { controller, child, reader, seen, cooked }
    }

    /// Waits until `text` is there behind what was there at `from`; gives where it ends.
    fn sees_after(&self, from: usize, text: &str) -> usize {
        let begin = Instant::now();
        let mut seen = self.seen.0.lock().unwrap();
        loop {
            if let Some(at) = seen[from..].find(text) {
                return from + at + text.len();
            }
            assert!(begin.elapsed() < PATIENCE, "{text:?} did not come, but {seen:?}");
            seen = self.seen.1.wait_timeout(seen, Duration::from_millis(100)).unwrap().0;
        }
    }

    fn sees(&self, text: &str) -> usize {
        self.sees_after(0, text)
    }

    fn types(&self, text: &str) {
        (&self.controller).write_all(text.as_bytes()).unwrap();
    }

    /// The end: status and all that was shown. The terminal is as it was before.
    fn ends(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        assert_eq!(tcgetattr(&self.controller).unwrap().local_modes, self.cooked, "the terminal was left in disorder");
        self.reader.join().unwrap();
        let seen = self.seen.0.lock().unwrap().clone();
        assert_eq!(seen.matches("\u{1b}[?25l").count(), seen.matches("\u{1b}[?25h").count(), "the cursor: {seen:?}");
        (status, seen)
    }
}

fn vm(state: &str, last_increment: i64, rest: &str) -> String {
    format!(
        "<VM><ID>0</ID>{state}{rest}<BACKUPS><BACKUP_CONFIG><INCREMENTAL_BACKUP_ID>3</INCREMENTAL_BACKUP_ID><LAST_INCREMENT_ID>{last_increment}</LAST_INCREMENT_ID></BACKUP_CONFIG><BACKUP_IDS><ID>3</ID></BACKUP_IDS></BACKUPS></VM>"
    )
}

fn bytes(name: &str, head: &str, done: u64, total: u64) -> String {
    format!("<{name}>{head}<DONE_BYTES>{done}</DONE_BYTES><TOTAL_BYTES>{total}</TOTAL_BYTES></{name}>")
}

/// A backup of two disks under way.
fn moving() -> String {
    let disk = |id: u64, done, total| bytes("DISK_PROGRESS", &format!("<DISK_ID>{id}</DISK_ID>"), done, total);
    let all = bytes("PROGRESS", "<ACTION>backup</ACTION>", 3 << 20, 8 << 20);
    let parts = [disk(0, 2 << 20, 4 << 20), disk(2, 1 << 20, 4 << 20)].concat();
    vm(BACKUP, 0, &format!("<USER_TEMPLATE>{all}{parts}</USER_TEMPLATE>"))
}

const IMAGE: &str = "<IMAGE><ID>3</ID><SIZE>172</SIZE><TEMPLATE><INCREMENT_INFO><ID>1</ID><READ_BYTES>4404019</READ_BYTES><STORED_BYTES>1153434</STORED_BYTES><SAVED_BYTES>3145728</SAVED_BYTES><DURATION>2</DURATION></INCREMENT_INFO></TEMPLATE></IMAGE>";
const END: &str = "Backup 3, increment 1: read 4.2M, stored 1.1M, saved 3M by deduplication (71%), in 2s";

fn backing_up() -> Door {
    Door::open()
        .says("one.vm.info", vm(RUNNING, 0, ""))
        .says("one.vm.info", moving())
        .says("one.vm.backup", 0)
        .says("one.image.info", IMAGE)
}

fn asked(terminal: &Terminal) -> usize {
    let at = terminal.sees("disk 2");
    terminal.types(CTRL_C);
    terminal.sees_after(at, QUESTION)
}

#[test]
fn c_cancels_the_backup_and_watches_it_go() {
    let door = backing_up().says("one.vm.backupcancel", 0);
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    terminal.sees("2M of 4M (50%)");
    let at = asked(&terminal);
    terminal.types("c\n");
    let at = terminal.sees_after(at, "VM 0: the backup is being cancelled");
    // Asked for once; now there is only the watching to be ended.
    terminal.types(CTRL_C);
    let at = terminal.sees_after(at, "Stop watching? It goes on without. [s/Enter goes on] ");
    terminal.types("\n");
    terminal.sees_after(at, "disk 2");
    door.changes_to("one.vm.info", &vm(RUNNING, 0, ""));
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(255), "{seen:?}");
    assert!(seen.contains("VM 0: the backup was cancelled\r\n"), "{seen:?}");
    assert_eq!(door.calls().matches("one.vm.backupcancel(0)").count(), 1);
}

#[test]
fn s_ends_the_watching_only() {
    let door = backing_up();
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    asked(&terminal);
    terminal.types("s\n");
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(130), "{seen:?}");
    assert!(seen.contains("VM 0: it goes on without being watched\r\n"), "{seen:?}");
    assert!(!door.calls().contains("backupcancel"), "{}", door.calls());
}

#[test]
fn enter_goes_on_and_anything_else_is_asked_again() {
    let door = backing_up();
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    let at = asked(&terminal);
    terminal.types("no\n");
    let at = terminal.sees_after(at, QUESTION);
    terminal.types("\n");
    let at = terminal.sees_after(at, "disk 2");
    // And again from the beginning.
    terminal.types(CTRL_C);
    let at = terminal.sees_after(at, QUESTION);
    terminal.types("\n");
    terminal.sees_after(at, "disk 2");
    door.changes_to("one.vm.info", &vm(RUNNING, 1, ""));
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(0), "{seen:?}");
    assert!(seen.contains(&format!("{END}\r\n")), "{seen:?}");
    assert!(!door.calls().contains("backupcancel"), "{}", door.calls());
}

#[test]
fn ctrl_c_as_soon_as_the_bars_are_back_asks_anew() {
    let door = backing_up();
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    // Often, for the moment in which it could be taken for a second one is short.
    let mut at = asked(&terminal);
    for _ in 0..30 {
        terminal.types("\n");
        at = terminal.sees_after(at, "VM 0: backup [");
        terminal.types(CTRL_C);
        at = terminal.sees_after(at, QUESTION);
    }
    terminal.types("s\n");
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(130), "{seen:?}");
}

#[test]
fn a_second_ctrl_c_ends_the_watching() {
    let door = backing_up();
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    asked(&terminal);
    terminal.types(CTRL_C);
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(130), "{seen:?}");
    assert!(seen.contains("VM 0: it goes on without being watched\r\n"), "{seen:?}");
    assert!(!door.calls().contains("backupcancel"), "{}", door.calls());
}

#[test]
fn a_cancel_that_is_refused_is_told_and_the_end_is_waited_for() {
    let door = backing_up().refuses("one.vm.backupcancel", 0x0800, "no backup in progress");
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    let at = asked(&terminal);
    terminal.types("c\n");
    terminal.sees_after(at, "VM 0: not cancelled: no backup in progress");
    door.changes_to("one.vm.info", &vm(RUNNING, 1, ""));
    let (status, seen) = terminal.ends();
    assert!(status.code() == Some(0) && seen.contains(END), "{status} {seen:?}");
}

#[test]
fn a_daemon_that_restarts_is_waited_for_with_bars_that_begin_anew() {
    let door = Door::open()
        .says("one.vm.info", vm(RUNNING, 0, ""))
        .says("one.vm.info", moving())
        .goes_away_at("one.vm.info")
        .says("one.vm.info", moving())
        .says("one.vm.backup", 0)
        .says("one.image.info", IMAGE);
    let terminal = Terminal::run(&door, "vm backup 0 --wait");
    let at = terminal.sees("disk 2");
    let at = terminal.sees_after(at, "VM 0: waiting for the daemon to come back");
    terminal.sees_after(at, "disk 2");
    door.changes_to("one.vm.info", &vm(RUNNING, 1, ""));
    let (status, seen) = terminal.ends();
    assert!(status.code() == Some(0) && seen.contains(END), "{status} {seen:?}");
}

#[test]
fn what_cannot_be_cancelled_is_only_watched_no_longer() {
    let state = |lcm: i64| format!("<VM><ID>0</ID><STATE>3</STATE><LCM_STATE>{lcm}</LCM_STATE></VM>");
    let door = Door::open().says("one.vm.action", 0).says("one.vm.info", state(18));
    // Of two the second is not watched either.
    let terminal = Terminal::run(&door, "vm poweroff 0,1 --wait");
    let at = terminal.sees("VM 0: SHUTDOWN_POWEROFF");
    terminal.types(CTRL_C);
    let at = terminal.sees_after(at, "Stop watching? It goes on without. [s/Enter goes on] ");
    terminal.types("c\n");
    terminal.sees_after(at, "Stop watching? It goes on without. [s/Enter goes on] ");
    terminal.types("s\n");
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(130), "{seen:?}");
    assert!(seen.contains("VM 0: it goes on without being watched\r\n") && !seen.contains("VM 1"), "{seen:?}");
}

#[test]
fn a_job_has_a_bar_for_each_vm_and_its_run_can_be_cancelled() {
    let job = |lists: &str| format!("<BACKUPJOB><ID>0</ID>{lists}<TEMPLATE></TEMPLATE></BACKUPJOB>");
    let ids = |name: &str, ids: &[i64]| {
        let ids: String = ids.iter().map(|id| format!("<ID>{id}</ID>")).collect();
        format!("<{name}>{ids}</{name}>")
    };
    let running = job(&(ids("UPDATED_VMS", &[2]) + &ids("OUTDATED_VMS", &[9]) + &ids("BACKING_UP_VMS", &[3, 4])));
    let door = Door::open()
        .says("one.backupjob.retry", 0)
        .says("one.backupjob.info", running)
        .says("one.vm.info", moving())
        .says("one.backupjob.cancel", 0);
    let terminal = Terminal::run(&door, "backupjob retry 0 --wait");
    let at = terminal.sees("VM 4");
    let seen = terminal.seen.0.lock().unwrap().clone();
    assert!(seen.contains("1 of 4 VMs done") && seen.contains("6M of 16M (37%)") && seen.contains("VM 3"), "{seen:?}");
    terminal.types(CTRL_C);
    let at = terminal.sees_after(at, "Cancel the run, or only stop watching? [c/s/Enter goes on] ");
    terminal.types("c\n");
    terminal.sees_after(at, "Backup job 0: the run is being cancelled");
    door.changes_to("one.backupjob.info", &job(&ids("UPDATED_VMS", &[2])));
    let (status, seen) = terminal.ends();
    assert_eq!(status.code(), Some(255), "{seen:?}");
    assert!(seen.contains("Backup job 0: the run was cancelled; 1 of 1 VMs done\r\n"), "{seen:?}");
    assert!(door.calls().contains("one.backupjob.cancel(0)"), "{}", door.calls());
}

#[test]
fn a_verification_can_be_cancelled() {
    let image = |template: &str| format!("<IMAGE><ID>3</ID><STATE>1</STATE><TEMPLATE>{template}</TEMPLATE></IMAGE>");
    let progress = bytes("PROGRESS", "<ACTION>verify</ACTION>", 1 << 20, 2 << 20);
    let door = Door::open()
        .says("one.image.verify", 3)
        .says("one.image.info", image(&format!("<VERIFYING><JOB>7</JOB></VERIFYING>{progress}")))
        .says("one.image.verifycancel", 3);
    let terminal = Terminal::run(&door, "image verify 3 --wait");
    let at = terminal.sees("1024K of 2M (50%)");
    terminal.types(CTRL_C);
    let at = terminal.sees_after(at, "Cancel the verification, or only stop watching? [c/s/Enter goes on] ");
    terminal.types("c\n");
    terminal.sees_after(at, "Image 3: the verification is being cancelled");
    door.changes_to("one.image.info", &image(""));
    let (status, seen) = terminal.ends();
    assert!(status.code() == Some(255) && seen.contains("it was cancelled\r\n"), "{status} {seen:?}");
    assert!(door.calls().contains("one.image.verifycancel(3)"), "{}", door.calls());
}

#[test]
fn off_a_terminal_an_interrupt_ends_the_process_as_always() {
    let door = backing_up();
    let tool = door.tool("keeplast", &["vm", "backup", "0", "--wait"]);
    // Whoever runs the tests in the background may have handed down that interrupts are ignored.
    let mut command = Command::new("env");
    command.env_clear().envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.arg("--default-signal=INT").arg(tool.get_program()).args(tool.get_args());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = [0; 12];
    child.stderr.as_mut().unwrap().read_exact(&mut told).unwrap();
    assert_eq!(&told, b"VM 0: backup");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}
