//! Users, groups and access rules: what the verbs call and print, and where passwords and tokens go.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::door::{Door, assert_golden, document, restrict};

/// SHA-256 of the word `token` (sha256sum), as the daemon's documents would show it.
const DIGEST: &str = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0";

fn people() -> Door {
    let users = "<USER_POOL><USER><ID>0</ID><NAME>oneadmin</NAME></USER><USER><ID>2</ID><NAME>alice</NAME></USER>\
                 <USER><ID>3</ID><NAME>bob</NAME></USER></USER_POOL>";
    Door::open()
        .says("one.userpool.info", users)
        .says("one.grouppool.info", document("one.grouppool.info"))
        .says("one.clusterpool.info", document("one.clusterpool.info"))
        .says("one.vmpool.info", document("one.vmpool.info"))
}

fn user_with_tokens(template: &str) -> String {
    let token = |digest: &str, end: i64, egid: i64| {
        format!(
            "<LOGIN_TOKEN><TOKEN>{digest}</TOKEN><EXPIRATION_TIME>{end}</EXPIRATION_TIME><EGID>{egid}</EGID></LOGIN_TOKEN>"
        )
    };
    let other = "ab".repeat(32);
    let third = "abc".repeat(21) + "0";
    let tokens = token(DIGEST, 4_000_000_000, 100) + &token(&other, -1, -1) + &token(&third, 1, -1);
    format!(
        "<USER><ID>0</ID><GID>0</GID><GROUPS><ID>0</ID></GROUPS><GNAME>oneadmin</GNAME><NAME>oneadmin</NAME>\
         <PASSWORD>digest</PASSWORD><AUTH_DRIVER>core</AUTH_DRIVER><ENABLED>1</ENABLED>{tokens}{template}</USER>"
    )
}

#[test]
fn groups_and_rules_look_as_users_know_them() {
    let door =
        people().says("one.acl.info", document("one.acl.info")).says("one.group.info", document("one.group.info"));
    assert_golden("onegroup-list", &door.run("onegroup", &["list"]).good());
    assert_golden("onegroup-show", &door.run("onegroup", &["show", "devs"]).good());
    assert_golden("oneacl-list", &door.run("oneacl", &["list"]).good());
    assert_eq!(
        door.run("oneacl", &["list", "-l", "ID,STRING", "-f", "USER=#5", "--no-header"]).good(),
        "    7 #5 VM+VDC/#100 USE+MANAGE+ADMIN #0\n"
    );
    door.run("onegroup", &["show"]).good();
    assert!(door.calls().ends_with("one.group.info(-1, false)"), "{}", door.calls());
}

#[test]
fn a_user_is_shown_with_his_tokens_but_without_what_lets_anybody_in() {
    let door = Door::open().says("one.user.info", user_with_tokens("<TEMPLATE><UMASK>077</UMASK></TEMPLATE>"));
    let page = door.run("oneuser", &["show"]).good();
    assert!(!page.contains(DIGEST) && !page.contains("digest"), "{page}");
    assert_golden("oneuser-show-tokens", &page);
}

#[test]
fn silent_verbs_about_people_call_what_the_protocol_says() {
    let methods = [
        "one.user.delete",
        "one.user.enable",
        "one.user.addgroup",
        "one.user.delgroup",
        "one.user.chgrp",
        "one.user.update",
        "one.user.quota",
        "one.user.passwd",
        "one.user.chauth",
        "one.group.delete",
        "one.group.update",
        "one.group.quota",
        "one.group.addadmin",
        "one.group.deladmin",
        "one.acl.delrule",
    ];
    let door = methods
        .into_iter()
        .fold(people(), |door, method| door.says(method, 0))
        .says("one.user.info", user_with_tokens("<TEMPLATE><UMASK>077</UMASK><A>b</A></TEMPLATE>"))
        .says("one.userquota.update", "<DEFAULT_USER_QUOTAS/>")
        .says("one.groupquota.update", "<DEFAULT_GROUP_QUOTAS/>");
    let write = |name: &str, text: &str| {
        std::fs::write(door.home().join(name), text).unwrap();
        restrict(&door.home().join(name), 0o600);
    };
    write("limits", "VM = [ VMS = 3 ]\n");
    write("word", "new\n");
    let verbs: [(&str, &[&str]); 25] = [
        ("oneuser", &["delete", "alice,3"]),
        ("oneuser", &["disable", "2..3"]),
        ("oneuser", &["enable", "alice"]),
        ("oneuser", &["addgroup", "alice,bob", "devs"]),
        ("oneuser", &["delgroup", "2", "100"]),
        ("oneuser", &["chgrp", "2", "devs"]),
        ("oneuser", &["umask", "2,3", "077"]),
        ("oneuser", &["umask", "0"]),
        ("oneuser", &["quota", "alice", "limits"]),
        ("oneuser", &["batchquota", "2,3", "limits"]),
        ("oneuser", &["defaultquota", "limits"]),
        ("oneuser", &["passwd", "alice", "word", "--read-file"]),
        ("oneuser", &["chauth", "alice", "public"]),
        ("oneuser", &["chauth", "alice", "core", "word", "-r"]),
        ("oneuser", &["chauth", "alice", "--driver", "core", "--password-file", "word"]),
        ("onegroup", &["delete", "devs"]),
        ("onegroup", &["update", "devs", "limits", "-a"]),
        ("onegroup", &["quota", "devs", "limits"]),
        ("onegroup", &["batchquota", "100,101", "limits"]),
        ("onegroup", &["defaultquota", "limits"]),
        ("onegroup", &["addadmin", "devs,101", "alice"]),
        ("onegroup", &["deladmin", "100", "2"]),
        ("oneacl", &["delete", "0,3..4"]),
        ("keeplast", &["user", "enable", "2"]),
        ("keeplast", &["acl", "delete", "1"]),
    ];
    for (tool, arguments) in verbs {
        assert_eq!(door.run(tool, arguments).good(), "", "{tool} {arguments:?}");
    }
    assert_golden("calls-people", &door.calls());
}

#[test]
fn people_and_rules_are_made_and_their_ids_told() {
    let door = people()
        .says("one.user.allocate", 7)
        .says("one.group.allocate", 102)
        .says("one.group.addadmin", 102)
        .says("one.acl.addrule", 9);
    std::fs::write(door.home().join("word"), "pass:word\nmore\n").unwrap();
    restrict(&door.home().join("word"), 0o600);
    let creates: [(&str, &[&str], &str); 13] = [
        ("oneuser", &["create", "carl", "--password-file", "word"], "ID: 7\n"),
        ("oneuser", &["create", "carl", "word", "-r", "--group", "devs,1"], "ID: 7\n"),
        ("oneuser", &["create", "carl", "--driver", "public"], "ID: 7\n"),
        ("onegroup", &["create", "ops"], "ID: 102\n"),
        ("onegroup", &["create", "--name", "ops", "--resources", "vm+net"], "ID: 102\n"),
        (
            "onegroup",
            &["create", "-n", "ops", "-u", "carl", "--admin_password_file", "word", "-r", "VM", "-d", "core"],
            "ID: 102\n",
        ),
        ("oneacl", &["create", "@1 VM+NET/* USE+MANAGE"], "ID: 9\n"),
        ("oneacl", &["create", "#alice VM/#alpine-0 ADMIN *"], "ID: 9\n"),
        ("oneacl", &["create", "@devs HOST/%default manage #0"], "ID: 9\n"),
        ("oneacl", &["create", "@1", "DATASTORE/@100", "USE"], "ID: 9\n"),
        ("oneacl", &["create", "200000001", "0x100400000000", "1"], "ID: 9\n"),
        ("oneacl", &["create", "200000001", "100400000000", "1", "400000000"], "ID: 9\n"),
        ("keeplast", &["acl", "create", "* ZONE/* USE *"], "ID: 9\n"),
    ];
    for (tool, arguments, told) in creates {
        assert_eq!(door.run(tool, arguments).good(), told, "{tool} {arguments:?}");
    }
    let typed = door.run_with_input("oneuser", &["create", "dora", "--password-file", "-"], "from a pipe\n");
    assert_eq!(typed.good(), "ID: 7\n");
    assert_golden("calls-people-create", &door.calls());
}

#[test]
fn a_group_that_cannot_be_made_whole_is_not_made() {
    let door = people()
        .says("one.group.allocate", 102)
        .says("one.acl.addrule", 9)
        .refuses("one.user.allocate", 16384, "[one.user.allocate] NAME is already taken by USER 2.")
        .says("one.group.delete", 102);
    std::fs::write(door.home().join("word"), "secret word\n").unwrap();
    restrict(&door.home().join("word"), 0o600);
    let told = door.run("onegroup", &["create", "ops", "-u", "alice", "--admin_password_file", "word"]).bad();
    assert_eq!(told, "group ops was not made: [one.user.allocate] NAME is already taken by USER 2.");
    assert!(door.calls().ends_with("one.group.delete(102)"), "{}", door.calls());
}

#[test]
fn mistakes_about_people_are_one_line_that_says_what_to_do() {
    let door = people().says("one.user.info", user_with_tokens("<TEMPLATE/>")).refuses(
        "one.user.passwd",
        8192,
        "[one.user.passwd] A password needs 1 to 1024 bytes.",
    );
    std::fs::write(door.home().join("empty"), "\nsecond line\n").unwrap();
    restrict(&door.home().join("empty"), 0o600);
    let failures: [(&str, &[&str]); 34] = [
        ("oneuser", &["create", "carl", "hunter2"]),
        ("oneuser", &["create", "carl"]),
        ("oneuser", &["create", "carl", "-r"]),
        ("oneuser", &["create", "carl", "empty", "-r"]),
        ("oneuser", &["create", "carl", "absent", "-r"]),
        ("oneuser", &["create", "carl", "empty", "-r", "--password-file", "empty"]),
        ("oneuser", &["create", "a:b"]),
        ("oneuser", &["create", "carl", "--driver", "public", "--group", "nobodies"]),
        ("oneuser", &["passwd", "alice", "hunter2"]),
        ("oneuser", &["passwd"]),
        ("oneuser", &["chauth", "alice"]),
        ("oneuser", &["chauth", "alice", "core", "hunter2"]),
        ("oneuser", &["encode", "alice", "hunter2"]),
        ("oneuser", &["addgroup", "alice", "nobodies"]),
        ("oneuser", &["delete", "carol"]),
        ("oneuser", &["umask", "alice", "8"]),
        ("oneuser", &["quota", "alice", "absent"]),
        ("oneuser", &["quota", "alice"]),
        ("oneuser", &["token-create", "2"]),
        ("oneuser", &["token-create", "--time", "0"]),
        ("oneuser", &["token-set"]),
        ("oneuser", &["token-set", "--token", "a", "--global"]),
        ("oneuser", &["token-set", "--token", "ab"]),
        ("oneuser", &["token-set", "--group", "devs"]),
        ("oneuser", &["token-set", "--group", "1"]),
        ("oneuser", &["token-delete", "hunter2"]),
        ("oneuser", &["shwo"]),
        ("onegroup", &["create"]),
        ("onegroup", &["create", "ops", "-u", "carl", "--admin_password", "hunter2"]),
        ("onegroup", &["create", "ops", "--resources", "VM+NETS"]),
        ("oneacl", &["create", "@1 VM USE"]),
        ("oneacl", &["create", "@1 VM/* USE+MANGE"]),
        ("oneacl", &["delete", "users"]),
        ("oneacl", &["list", "m"]),
    ];
    let mut told = String::new();
    for (tool, arguments) in failures {
        let line = door.run(tool, arguments).bad();
        assert!(!line.contains("hunter2"), "{line}");
        let line = line.replace(&door.home().display().to_string(), "HOME");
        told.push_str(&format!("$ {tool} {}\n{line}\n", arguments.join(" ")));
    }
    assert_golden("failures-people", &told);
}

#[test]
fn who_changes_his_own_password_is_told_that_his_session_ended() {
    let door = Door::open().says("one.user.info", document("one.user.info")).says("one.user.passwd", 0);
    let ran = door.run_with_input("oneuser", &["passwd", "--password-file", "-"], "new\n");
    let file = door.home().join(".one/one_auth");
    let told = format!(
        "warning: the session in {} ended with the old password: oneuser login oneadmin --force\n",
        file.display()
    );
    assert_eq!((ran.code, ran.out.as_str(), ran.err), (Some(0), "", told));
    assert_eq!(door.calls(), "one.user.info(-1, false)\none.user.passwd(0, \"new\")");
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_token_is_kept_in_files_of_its_owner_and_the_session_that_is_there_stays() {
    let door = people().says("one.user.login", "token");
    let one = door.home().join(".one");
    let auth = one.join("one_auth");
    let file = one.join(format!("{}.token", &DIGEST[..16]));
    let told = door.run("oneuser", &["token-create", "--time", "3600", "--group", "devs"]).good();
    assert!(told.contains(&file.display().to_string()) && told.contains("use --force to overwrite"), "{told}");
    assert_eq!(std::fs::read_to_string(&auth).unwrap(), "oneadmin:secret\n");
    assert_eq!((std::fs::read_to_string(&file).unwrap().as_str(), mode(&file)), ("oneadmin:token\n", 0o600));
    assert_eq!(std::fs::read_dir(&one).unwrap().count(), 2, "nothing else is left");

    let real = door.home().join("real_auth");
    std::fs::rename(&auth, &real).unwrap();
    std::os::unix::fs::symlink(&real, &auth).unwrap();
    restrict(&real, 0o600);
    let told = door.run("oneuser", &["login", "oneadmin", "--force", "--time", "-1"]).good();
    assert!(told.contains("good for ever") && told.contains("Logged in as oneadmin"), "{told}");
    assert!(auth.is_symlink(), "a link stays one");
    assert_eq!((std::fs::read_to_string(&real).unwrap().as_str(), mode(&real)), ("oneadmin:token\n", 0o600));
    assert_golden("calls-token-create", &door.calls());
}

#[test]
fn a_token_is_chosen_by_its_id_its_group_or_for_all_groups() {
    let door = people().says("one.user.info", user_with_tokens("<TEMPLATE/>")).says("one.user.login", "x");
    let file = |digest: &str| door.home().join(".one").join(format!("{}.token", &digest[..16]));
    for digest in [DIGEST, &"ab".repeat(32)] {
        std::fs::write(file(digest), "oneadmin:token\n").unwrap();
    }
    let exported =
        |digest: &str, group: i64| format!("export ONE_AUTH={}; export ONE_EGID={group}\n", file(digest).display());
    assert_eq!(door.run("oneuser", &["token-set", "--token", "3c4"]).good(), exported(DIGEST, 100));
    assert_eq!(door.run("oneuser", &["token-set", "oneadmin", "--group", "devs"]).good(), exported(DIGEST, 100));
    assert_eq!(door.run("oneuser", &["token-set", "--global"]).good(), exported(&"ab".repeat(32), -1));
    let told = door.run("oneuser", &["token-set", "--token", "abca"]).bad();
    assert!(told.contains("was made elsewhere"), "{told}");
    assert_eq!(door.run("oneuser", &["token-delete", "3c4"]).good(), "");
    assert!(!file(DIGEST).exists());
    assert_eq!(door.run("oneuser", &["token-delete", "oneadmin", "abab"]).good(), "");
    assert_eq!(door.run("oneuser", &["token-delete-all", "oneadmin"]).good(), "");
    let ended: Vec<_> = door.calls().lines().filter(|call| call.contains("login")).map(str::to_owned).collect();
    let call = |digest: &str| format!("one.user.login(\"oneadmin\", \"{digest}\", 0)");
    assert_eq!(ended, [call(DIGEST), call(&"ab".repeat(32)), call("")]);
}

#[test]
fn limits_are_edited_from_what_they_are() {
    let door = people().says("one.group.info", document("one.group.info")).says("one.group.quota", 100);
    let editor = door.home().join("editor");
    std::fs::write(&editor, "#!/bin/sh\ncp \"$1\" \"$HOME/seen\"\necho 'VM = [ VMS = 2 ]' > \"$1\"\n").unwrap();
    restrict(&editor, 0o700);
    let output = door.run_on_a_terminal("onegroup quota devs", &editor);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_golden("onegroup-quota-editor", &std::fs::read_to_string(door.home().join("seen")).unwrap());
    assert!(door.calls().ends_with("one.group.quota(100, \"VM = [ VMS = 2 ]\\n\")"), "{}", door.calls());
}

#[test]
fn a_session_needs_no_daemon_to_be_encoded() {
    let door = Door::open();
    std::fs::remove_file(door.home().join(".one/one_auth")).unwrap();
    let ran = door.run_with_input("oneuser", &["encode", "alice", "--password-file", "-"], "p:w é\n");
    assert_eq!(ran.good(), "alice:p%3Aw%20%C3%A9\n");
    assert_eq!(door.calls(), "");
}
