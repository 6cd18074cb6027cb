//! Who may call what: every method of the table by every kind of caller, against `golden/rights.txt`. The calls go through
//! the door, for only it makes the arguments that the table's functions take.

mod rights_devices;
mod rights_documents;
mod rights_infrastructure;
pub use rights_infrastructure::network;
mod rights_life;
mod rights_networks;
mod rights_quotas;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use oned::methods::METHODS;
use oned::rpc::{Limits, serve};
use oned::session::authenticate;
use tokio::sync::oneshot;

use crate::world::{IMAGES, TEAM, World, golden, octal, session, unchanged, valid};

/// The columns of the golden file, and the session of each.
const CALLERS: [(&str, &str); 7] = [
    ("bad-session", "alice:wrong"),
    ("foreign", "mallory"),
    ("group", "bob"),
    ("owner", "alice"),
    ("group-admin", "carol"),
    ("by-rule", "dave"),
    ("oneadmin", "oneadmin"),
];

/// Where the objects of [`furnished`] are.
mod at {
    pub const RUNNING: i64 = 0;
    pub const BACKING_UP: i64 = 1;
    pub const SCHEDULE: i64 = 0;
    pub const TEMPLATE: i64 = 0;
    pub const FREE_IMAGE: i64 = 2;
    pub const BACKUP_IMAGE: i64 = 3;
    pub const BACKUPS: i64 = 100;
    pub const EMPTY: i64 = 101;
    pub const SYSTEM: i64 = 0;
    pub const EMPTY_HOST: i64 = 1;
    pub const EMPTY_GROUP: i64 = 101;
    pub const OWNER: i64 = 2;
    pub const LEADER: i64 = 5;
}

/// A cloud with one of everything of alice's, which her group may use.
fn furnished() -> World {
    let world = World::new();
    let (datastore, empty) = (world.add_backup_datastore("backups"), world.add_backup_datastore("empty"));
    let running =
        world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]\nSCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=\"+60\"]");
    let backing_up = world.add_running_vm("");
    let free = world.add_image("free");
    let backup = world.add_backup(running, datastore, 2, true);
    world.edit_image(backup, |row| row.permissions = octal(0o640));
    oned::api::backup::backup(&world.cloud, &world.admin, backing_up, datastore, false).unwrap();
    let template = world.allocate_template("NAME=small\nCPU=1\nMEMORY=128\n");
    world.edit_template(template, |row| row.permissions = octal(0o640));
    for vm in [running, backing_up] {
        world.edit_vm(vm, |row| row.permissions = octal(0o640));
    }
    let host = world.add_host("node1");
    let group = oned::api::people::group_allocate(&world.cloud, &world.admin, "empty").unwrap();
    assert_eq!(group, at::EMPTY_GROUP);
    assert_eq!(
        (running, backing_up, world.actions(running)[0].id.0, template, free, backup, datastore, empty, host),
        (
            at::RUNNING,
            at::BACKING_UP,
            at::SCHEDULE,
            at::TEMPLATE,
            at::FREE_IMAGE,
            at::BACKUP_IMAGE,
            at::BACKUPS,
            at::EMPTY,
            at::EMPTY_HOST
        )
    );
    FAMILIES.iter().for_each(|family| (family.furnish)(&world));
    world.cloud.desk.install(|| Some(Vec::new()));
    world
}

enum Arg {
    Int(i64),
    Bool(bool),
    Text(&'static str),
    Ints(&'static [i64]),
}
use Arg::{Bool, Int, Ints, Text};

/// What a family of methods needs here beside what every family uses.
struct Family {
    furnish: fn(&World),
    arguments: fn(&str) -> Option<Vec<Arg>>,
    object_of: fn(&str) -> Option<i64>,
}

macro_rules! family {
    ($name:ident) => {
        Family { furnish: $name::furnish, arguments: $name::arguments, object_of: $name::object_of }
    };
}

const FAMILIES: [Family; 6] = [
    family!(rights_devices),
    family!(rights_documents),
    family!(rights_infrastructure),
    family!(rights_life),
    family!(rights_networks),
    family!(rights_quotas),
];

/// The object that the verbs which all kinds have are tried on.
fn object_of(method: &str) -> Option<i64> {
    Some(match method.split('.').nth(1)? {
        "datastore" => at::EMPTY,
        "image" => at::FREE_IMAGE,
        "template" => at::TEMPLATE,
        "vm" => at::RUNNING,
        kind => FAMILIES.iter().find_map(|family| (family.object_of)(kind))?,
    })
}

/// What each method is called with. A method that is not here fails the test: who may call it has to be decided.
fn arguments(method: &str) -> Option<Vec<Arg>> {
    let schedule = "SCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=\"+3600\"]";
    Some(match method {
        "one.acl.addrule" => vec![Text("100000002"), Text("1400000000"), Text("1"), Text("")],
        "one.acl.delrule" => vec![Int(0)],
        "one.group.addadmin" | "one.group.deladmin" => {
            vec![Int(TEAM), Int(if method.ends_with("deladmin") { at::LEADER } else { at::OWNER })]
        }
        "one.group.allocate" => vec![Text("crew")],
        "one.group.delete" => vec![Int(at::EMPTY_GROUP)],
        "one.group.update" => vec![Int(TEAM), Text("NOTE=x\n"), Int(1)],
        "one.user.addgroup" => vec![Int(at::OWNER), Int(at::EMPTY_GROUP)],
        "one.user.allocate" => vec![Text("eve"), Text("eve-pw"), Text(""), Ints(&[TEAM])],
        "one.user.chauth" => vec![Int(at::OWNER), Text("public")],
        "one.user.chgrp" => vec![Int(at::OWNER), Int(1)],
        "one.user.delete" => vec![Int(at::OWNER)],
        "one.user.delgroup" => vec![Int(at::OWNER), Int(1)],
        "one.user.enable" => vec![Int(at::OWNER), Bool(false)],
        "one.user.login" => vec![Text("alice"), Text(""), Int(60)],
        "one.user.passwd" => vec![Int(at::OWNER), Text("new")],
        "one.user.update" => vec![Int(at::OWNER), Text("NOTE=x\n"), Int(1)],
        "one.acl.info" | "one.clusterpool.info" | "one.datastorepool.info" | "one.grouppool.info" => vec![],
        "one.hostpool.info" | "one.imagepool.info" | "one.system.config" | "one.system.version" => vec![],
        "one.system.examine" => vec![],
        "one.templatepool.info" | "one.userpool.info" | "one.vmpool.info" | "one.vmpool.infoextended" => vec![],
        "one.zonepool.info" => vec![],
        "one.cluster.info" | "one.zone.info" => vec![Int(0)],
        "one.datastore.allocate" => vec![Text("NAME=more\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=x\n")],
        "one.datastore.delete" => vec![Int(at::EMPTY)],
        "one.datastore.info" => vec![Int(at::BACKUPS)],
        "one.datastore.update" => vec![Int(at::BACKUPS), Text("LABELS=far\n"), Int(1)],
        "one.group.info" => vec![Int(TEAM)],
        "one.host.allocate" => vec![Text("node2"), Text("kvm"), Text("kvm")],
        "one.host.delete" => vec![Int(at::EMPTY_HOST)],
        "one.host.info" => vec![Int(0)],
        "one.host.update" => vec![Int(0), Text("NOTE=x\n"), Int(1)],
        "one.image.allocate" => vec![Text("NAME=new\nPATH=\"/var/tmp/new.qcow2\"\n"), Int(IMAGES)],
        "one.image.delete" | "one.image.info" => vec![Int(at::FREE_IMAGE)],
        "one.image.persistent" => vec![Int(at::FREE_IMAGE), Bool(true)],
        "one.datastore.enable" => vec![Int(at::SYSTEM), Bool(false)],
        "one.datastore.rename" => vec![Int(at::EMPTY), Text("other")],
        "one.host.rename" => vec![Int(at::EMPTY_HOST), Text("other")],
        "one.template.rename" => vec![Int(at::TEMPLATE), Text("other")],
        "one.image.update" => vec![Int(at::FREE_IMAGE), Text("NOTE=x\n"), Int(1)],
        "one.image.rename" => vec![Int(at::FREE_IMAGE), Text("other")],
        "one.image.verify" => vec![Int(at::BACKUP_IMAGE), Bool(true), Int(-1)],
        "one.image.verifycancel" => vec![Int(at::BACKUP_IMAGE)],
        "one.datastore.importbackups" => vec![Int(at::EMPTY)],
        "one.image.restore" => vec![Int(at::BACKUP_IMAGE), Int(IMAGES), Text("")],
        "one.template.allocate" => vec![Text("NAME=more\nCPU=1\nMEMORY=128\n")],
        "one.template.delete" | "one.template.info" | "one.template.instantiate" => vec![Int(at::TEMPLATE)],
        "one.template.update" => vec![Int(at::TEMPLATE), Text("NOTE=x\n"), Int(1)],
        "one.user.info" => vec![Int(2)],
        "one.vm.action" => vec![Text("poweroff"), Int(at::RUNNING)],
        "one.vm.allocate" => vec![Text("CPU=1\nMEMORY=128\n")],
        "one.vm.backup" => vec![Int(at::RUNNING), Int(at::BACKUPS)],
        "one.vm.backupcancel" => vec![Int(at::BACKING_UP)],
        "one.vm.events" | "one.vm.info" => vec![Int(at::RUNNING)],
        "one.vm.recover" => vec![Int(at::BACKING_UP), Int(0)],
        "one.vm.rename" => vec![Int(at::RUNNING), Text("other")],
        "one.vm.schedadd" => vec![Int(at::RUNNING), Text(schedule)],
        "one.vm.scheddelete" => vec![Int(at::RUNNING), Int(at::SCHEDULE)],
        "one.vm.schedupdate" => vec![Int(at::RUNNING), Int(at::SCHEDULE), Text("SCHED_ACTION=[ARGS=\"100,1\"]")],
        "one.vm.update" => vec![Int(at::RUNNING), Text("NOTE=x\n"), Int(1)],
        "one.vm.updateconf" => vec![Int(at::RUNNING), Text("BACKUP_CONFIG=[KEEP_LAST=3]"), Int(1)],
        chmod if chmod.ends_with(".chmod") => {
            let mut args = vec![Int(object_of(chmod)?)];
            args.extend((0..9).map(|bit| Int(if bit == 3 { 1 } else { -1 })));
            args
        }
        chown if chown.ends_with(".chown") => vec![Int(object_of(chown)?), Int(-1), Int(1)],
        lock if lock.ends_with(".lock") => vec![Int(object_of(lock)?), Int(2)],
        unlock if unlock.ends_with(".unlock") => vec![Int(object_of(unlock)?)],
        "one.vmpool.infoset" => vec![Text("0,1")],
        other => FAMILIES.iter().find_map(|family| (family.arguments)(other))?,
    })
}

/// Whether a call that went well has changed nothing.
fn only_reads(method: &str) -> bool {
    [
        ".accounting",
        ".config",
        ".events",
        ".info",
        ".infoextended",
        ".infoset",
        ".monitoring",
        ".raftstatus",
        ".showback",
        ".version",
    ]
    .iter()
    .any(|end| method.ends_with(end))
}

#[test]
fn every_method_is_open_to_exactly_the_callers_of_the_golden_table() {
    let mut place = Place::new();
    let head: Vec<&str> = CALLERS.iter().map(|(name, _)| *name).collect();
    let mut table = row("# method", &head);
    for method in METHODS.iter() {
        let args = arguments(method.name).unwrap_or_else(|| {
            panic!("{} has no arguments here, so nobody knows who may call it; add it to `arguments`", method.name)
        });
        let cells: Vec<String> = CALLERS.iter().map(|(_, user)| place.cell(method.name, user, &args)).collect();
        table += &row(method.name, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    golden("rights.txt", &table);
}

fn row(name: &str, cells: &[&str]) -> String {
    let mut line = format!("{name:<26}");
    for cell in cells {
        // Writing to a String cannot fail.
        let _ = write!(line, " {cell:<11}");
    }
    line.trim_end().to_owned() + "\n"
}

/// A furnished cloud behind its door, made anew after each call that changed it.
struct Place {
    world: World,
    server: Server,
}

impl Place {
    fn new() -> Self {
        let world = furnished();
        let server = Server::start(&world);
        Self { world, server }
    }

    /// `ok`, with the number of objects for pools, or the code of the refusal.
    fn cell(&mut self, method: &str, user: &str, args: &[Arg]) -> String {
        let before = self.world.records();
        let session = if user.contains(':') { user.to_owned() } else { session(user) };
        let (good, text, code) = self.server.call(method, &session, args);
        if !good || only_reads(method) {
            unchanged(&before, &self.world.records(), &format!("{method} of {user} answered {code}"));
        } else {
            *self = Self::new();
        }
        if !good {
            let (head, sentence) = text.split_once("] ").unwrap();
            assert_eq!(head, format!("[{method}"), "{text}");
            assert!(sentence.len() > 10, "{text}");
            return code.to_string();
        }
        if !text.starts_with('<') || text.starts_with("<OPENNEBULA_CONFIGURATION>") {
            return "ok".into();
        }
        let text = valid(text);
        let root = &text[1..text.find(['>', '/']).unwrap()];
        let object = root.strip_suffix("_POOL").map(|object| format!("<{object}><ID>"));
        object.map_or_else(|| "ok".into(), |object| format!("ok:{}", text.matches(&object).count()))
    }
}

/// The door of one world on a free port.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(world: &World) -> Self {
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let door = Arc::clone(&world.cloud);
        let limits = Limits { refusal_delay: Duration::ZERO, ..Limits::default() };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                serve(listener, door, &METHODS, limits, stopped).await.unwrap();
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Calls a method: whether it went well, the text or id, and the code.
    fn call(&self, method: &str, session: &str, args: &[Arg]) -> (bool, String, i32) {
        let mut params = param("string", session);
        for arg in args {
            params += &match arg {
                Int(number) => param("int", &number.to_string()),
                Bool(value) => param("boolean", if *value { "1" } else { "0" }),
                Ints(numbers) => {
                    let values: String =
                        numbers.iter().map(|number| format!("<value><int>{number}</int></value>")).collect();
                    param("array", &format!("<data>{values}</data>"))
                }
                Text(text) => param("string", &text.replace('&', "&amp;").replace('<', "&lt;")),
            };
        }
        let body = format!(
            "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>{params}</params></methodCall>"
        );
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head =
            format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("<data>").unwrap_or_else(|| panic!("{method}: {answer}"));
        let values: Vec<&str> =
            body.split("<value>").skip(1).map(|value| &value[..value.find("</value>").unwrap()]).collect();
        let plain = |value: &str| {
            let inner = &value[value.find('>').unwrap() + 1..value.rfind('<').unwrap()];
            inner
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&quot;", "\"")
                .replace("&apos;", "'")
                .replace("&amp;", "&")
        };
        (plain(values[0]) == "1", plain(values[1]), plain(values[2]).parse().unwrap())
    }
}

fn param(kind: &str, value: &str) -> String {
    format!("<param><value><{kind}>{value}</{kind}></value></param>")
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn no_method_of_the_table_is_tried_with_arguments_of_another_shape() {
    let by_name: HashMap<&str, _> = METHODS.iter().map(|method| (method.name, method.params)).collect();
    for (name, params) in by_name {
        let given = arguments(name).unwrap().len();
        let required = params.iter().filter(|param| param.default.is_none()).count();
        assert!((required..=params.len()).contains(&given), "{name} takes {required} to {}, not {given}", params.len());
    }
}

#[test]
fn a_session_is_refused_for_a_wrong_password_an_unknown_or_disabled_user_and_another_login_driver() {
    let world = World::new();
    world.write(|tx| {
        let bob = tx.user(world.bob.uid)?;
        tx.user_update(&oned::store::rows::UserRow { enabled: 0, ..bob })?;
        let mallory = tx.user(world.mallory.uid)?;
        tx.user_update(&oned::store::rows::UserRow { auth_driver: "ldap".into(), ..mallory })
    });
    for session in ["", "alice", "alice:", ":", "alice:wrong", "nobody:nobody-pw", "bob:bob-pw", "mallory:mallory-pw"] {
        world.refuses(256, "User couldn't be authenticated, aborting call.", |cloud| authenticate(cloud, session));
    }
    assert_eq!(authenticate(&world.cloud, "alice:alice-pw").unwrap(), world.alice);
}

/// The marks around the list of methods in ARCHITECTURE.md.
const LIST: (&str, &str) = ("<!-- methods: begin -->\n", "<!-- methods: end -->");

#[test]
fn architecture_md_lists_each_method_that_is_answered_and_each_that_is_refused() {
    let mut objects: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for method in METHODS.iter() {
        let (object, verb) = method.name.rsplit_once('.').unwrap();
        objects.entry(object).or_default().push(verb);
    }
    let mut list = String::from("| object | methods |\n|---|---|\n");
    for (object, verbs) in objects {
        let _ = writeln!(list, "| `{object}` | {} |", verbs.join(", "));
    }
    let path = crate::world::folder("../ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(LIST.0).expect("no list of methods in ARCHITECTURE.md") + LIST.0.len();
    let end = begin + text[begin..].find(LIST.1).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{}{list}{}", &text[..begin], &text[end..])).unwrap();
        return;
    }
    assert_eq!(&text[begin..end], list, "the list differs from the table; UPDATE_GOLDEN=1 rewrites it");
}
