//! What each verb calls and prints.

use crate::door::{Door, assert_golden, document, restrict};

fn named() -> Door {
    Door::open()
        .says("one.vmpool.info", document("one.vmpool.info"))
        .says("one.datastorepool.info", document("one.datastorepool.info"))
        .says("one.imagepool.info", document("one.imagepool.info"))
        .says("one.templatepool.info", document("one.templatepool.info"))
        .says("one.clusterpool.info", document("one.clusterpool.info"))
}

#[test]
fn silent_verbs_call_what_the_protocol_says() {
    let methods = [
        "one.vm.backup",
        "one.vm.backupcancel",
        "one.vm.restore",
        "one.vm.updateconf",
        "one.vm.update",
        "one.vm.action",
        "one.vm.recover",
        "one.vm.scheddelete",
        "one.vm.schedupdate",
        "one.vm.rename",
        "one.template.delete",
        "one.template.rename",
        "one.template.update",
        "one.image.delete",
        "one.image.rename",
        "one.image.persistent",
        "one.image.update",
        "one.image.verify",
        "one.image.verifycancel",
        "one.datastore.importbackups",
        "one.datastore.delete",
        "one.datastore.update",
        "one.host.delete",
        "one.host.update",
    ];
    let door = methods.into_iter().fold(named(), |door, method| door.says(method, 0));
    let verbs: [(&str, &[&str]); 33] = [
        ("onevm", &["backup", "0"]),
        ("onevm", &["backup", "alpine-0", "-d", "RBackups", "--reset"]),
        ("onevm", &["backup-cancel", "0"]),
        ("onevm", &["restore", "0", "1"]),
        ("onevm", &["restore", "alpine-0", "1", "--disk-id", "0", "--increment", "2"]),
        ("onevm", &["backupmode", "0", "increment"]),
        ("onevm", &["updateconf", "0", "config", "-a"]),
        ("onevm", &["updateconf", "0", "config"]),
        ("onevm", &["update", "0", "config"]),
        ("onevm", &["poweroff", "0,2..3"]),
        ("onevm", &["poweroff", "--hard", "0"]),
        ("onevm", &["resume", "0"]),
        ("onevm", &["reboot", "0", "--hard"]),
        ("onevm", &["terminate", "0", "--hard"]),
        ("onevm", &["recover", "0", "--failure"]),
        ("onevm", &["recover", "0", "--success"]),
        ("onevm", &["recover", "0", "--delete-db"]),
        ("onevm", &["sched-update", "0", "4", "config"]),
        ("onevm", &["sched-delete", "0", "4"]),
        ("onevm", &["rename", "0", "new"]),
        ("onetemplate", &["delete", "tmpl", "--recursive"]),
        ("oneimage", &["delete", "1,2", "--force"]),
        ("oneimage", &["rename", "alpine", "new"]),
        ("oneimage", &["nonpersistent", "0"]),
        ("onedatastore", &["delete", "RBackups"]),
        ("onedatastore", &["update", "100", "config", "-a"]),
        ("onehost", &["delete", "0"]),
        ("onehost", &["update", "0", "config"]),
        ("oneimage", &["update", "0", "config"]),
        ("oneimage", &["verify", "1"]),
        ("oneimage", &["verify", "1", "--deep", "--increment", "3"]),
        ("oneimage", &["verify", "1", "--cancel"]),
        ("onedatastore", &["import-backups", "RBackups"]),
    ];
    std::fs::write(door.home().join("config"), "BACKUP_CONFIG = [ KEEP_LAST = \"4\" ]\n").unwrap();
    for (tool, arguments) in verbs {
        assert_eq!(door.run(tool, arguments).good(), "", "{tool} {arguments:?}");
    }
    assert_golden("calls-verbs", &door.calls());
}

#[test]
fn a_scheduled_backup_is_told() {
    let vm = |chain: i64| {
        format!(
            "<VM><ID>0</ID><BACKUPS><BACKUP_CONFIG><INCREMENTAL_BACKUP_ID>{chain}</INCREMENTAL_BACKUP_ID></BACKUP_CONFIG></BACKUPS></VM>"
        )
    };
    let door = named().says("one.vm.schedadd", 7).says("one.vm.info", vm(4));
    let arguments =
        ["backup", "0", "-d", "100", "--schedule", "2026-12-01 10:00", "--weekly", "1,3", "--end", "2026-12-31"];
    assert_eq!(door.run("onevm", &arguments).good(), "VM 0: backup scheduled at 2026-12-01 10:00:00 +0000\n");
    let arguments = ["backup", "0", "--schedule", "+3600", "--hourly", "5", "--reset"];
    assert_eq!(door.run("onevm", &arguments).good(), "VM 0: backup scheduled after +3600s from start\n");
    assert_golden("calls-schedule", &door.calls());
    door.changes_to("one.vm.info", &vm(-1));
    let ran = door.run("onevm", &arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.starts_with("warning: VM 0 has no chain of backups yet, "), "{}", ran.err);
}

#[test]
fn create_verbs_print_the_id() {
    let door = [
        "one.vm.allocate",
        "one.template.allocate",
        "one.image.allocate",
        "one.datastore.allocate",
        "one.host.allocate",
    ]
    .into_iter()
    .fold(named(), |door, method| door.says(method, 7));
    std::fs::write(door.home().join("template"), "NAME = x\n").unwrap();
    let creates: [(&str, &[&str]); 7] = [
        ("onevm", &["create", "template", "--hold", "--name", "a \"b\""]),
        ("onetemplate", &["create", "template"]),
        (
            "oneimage",
            &[
                "create",
                "-d",
                "RBackups",
                "--name",
                "a",
                "--path",
                "/tmp/x",
                "--type",
                "os",
                "--format",
                "qcow2",
                "--persistent",
                "--prefix",
                "vd",
            ],
        ),
        ("oneimage", &["create", "-d", "1", "template"]),
        ("onedatastore", &["create", "template"]),
        ("onehost", &["create", "localhost", "-i", "kvm", "-v", "kvm"]),
        ("onehost", &["create", "localhost", "--im", "kvm", "--vm", "kvm", "--cluster", "default"]),
    ];
    for (tool, arguments) in creates {
        assert_eq!(door.run(tool, arguments).good(), "ID: 7\n", "{tool} {arguments:?}");
    }
    assert_eq!(door.run_with_input("onetemplate", &["create"], "NAME = piped").good(), "ID: 7\n");
    assert_golden("calls-create", &door.calls());
}

#[test]
fn instantiate_and_restore_print_what_was_made() {
    let door = named()
        .says("one.template.info", document("one.template.info"))
        .says("one.template.instantiate", 0)
        .says("one.image.restore", "1 2 3")
        .says("one.image.restore", "-1 2");
    assert_eq!(door.run("onetemplate", &["instantiate", "tmpl", "--name", "a", "--hold"]).good(), "VM ID: 0\n");
    let arguments = ["restore", "1", "-d", "RBackups", "--no_ip", "--no_nic", "--name", "back", "--increment", "1"];
    assert_eq!(door.run("oneimage", &arguments).good(), "VM Template: 1\nImages: 2 3\n");
    assert_eq!(
        door.run("oneimage", &["restore", "1", "-d", "1", "--disk-id", "0", "--skip-bad"]).good(),
        "Images: 2\n"
    );
    assert_golden("calls-restore", &door.calls());
}

#[test]
fn an_editor_fills_in_what_is_there_and_its_text_is_kept_when_refused() {
    let door = Door::open().says("one.vm.info", document("one.vm.info")).refuses(
        "one.vm.updateconf",
        8192,
        "[one.vm.updateconf] Parse error",
    );
    let editor = door.home().join("editor");
    std::fs::write(&editor, "#!/bin/sh\ncp \"$1\" \"$HOME/seen\"\necho 'KEEP = \"me\"' >> \"$1\"\n").unwrap();
    restrict(&editor, 0o700);
    let output = door.run_on_a_terminal("onevm updateconf 0", &editor);
    let seen = std::fs::read_to_string(door.home().join("seen")).unwrap();
    assert_golden("onevm-updateconf-editor", &seen);
    assert_eq!(output.status.code(), Some(255));
    let text = String::from_utf8(output.stdout).unwrap();
    let kept =
        text.split("kept in ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_else(|| panic!("{text}"));
    assert!(text.contains("Parse error"), "{text}");
    assert!(std::fs::read_to_string(kept).unwrap().ends_with("KEEP = \"me\"\n"));
}

#[test]
fn a_text_that_an_editor_leaves_as_it_is_changes_nothing_and_leaves_no_file() {
    let door = Door::open().says("one.vm.info", document("one.vm.info"));
    let editor = door.home().join("editor");
    let kept = || {
        let files = std::fs::read_dir(door.home()).unwrap().map(|entry| entry.unwrap().file_name());
        files.filter(|name| name.to_string_lossy().starts_with("one-template")).count()
    };
    let cases = [
        ("true", 0, "the text is as it was: nothing was changed", 0),
        (": > \"$1\"", 255, "the text came back empty: nothing was changed", 0),
        ("exit 3", 255, "nothing was changed: the editor", 0),
        ("echo x >> \"$1\"; exit 3", 255, "nothing was changed, your text is kept in", 1),
    ];
    for (line, status, told, files) in cases {
        std::fs::write(&editor, format!("#!/bin/sh\n{line}\n")).unwrap();
        restrict(&editor, 0o700);
        let output = door.run_on_a_terminal("onevm updateconf 0", &editor);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), kept()), (Some(status), files), "{line}: {said}");
        assert!(said.contains(told), "{line}: {said}");
    }
    let absent = door.run_on_a_terminal("onevm updateconf 0", &door.home().join("absent"));
    assert!(String::from_utf8_lossy(&absent.stdout).contains("nothing was changed: cannot start the editor"));
    assert_eq!(kept(), 1);
    assert!(!door.calls().contains("updateconf"), "{}", door.calls());
}
