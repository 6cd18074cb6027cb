//! TIMEZONE, CRON, JITTER, WINDOW_END, KEEP_LAST and RETRY of scheduled actions through the calls and documents, and texts
//! that are no schedule.

use one_core::schedule::ScheduledAction;
use oned::api::{self, Cloud};

use crate::world::{World, element, valid};

const OURS: &str =
    "CRON=\"30 2 * * mon-fri\",TIMEZONE=\"America/New_York\",JITTER=900,WINDOW_END=\"05:00\",KEEP_LAST=14,RETRY=2";

fn world() -> (World, i64) {
    let world = World::new();
    world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    (world, vm)
}

fn add(world: &World, vm: i64, keys: &str) -> i64 {
    let text = format!("SCHED_ACTION=[ACTION=backup,ARGS=\"100\",{keys}]");
    api::schedule::add(&world.cloud, &world.alice, vm, &text).unwrap()
}

/// The keys of the only SCHED_INFO of a document.
fn info(world: &World, vm: i64) -> Vec<String> {
    let document = world.vm_document(&world.alice, vm);
    let user = element(&document, "USER_TEMPLATE");
    assert_eq!(user.matches("<SCHED_INFO>").count(), 1, "{user}");
    let keys = ["CRON", "ID", "JITTER", "KEEP_LAST", "RETRY", "TIMEZONE", "WINDOW_END"];
    let shown = keys.iter().filter(|key| user.contains(&format!("<{key}>")));
    shown.map(|key| format!("{key}={}", element(&user, key))).collect()
}

#[test]
fn our_attributes_are_shown_beside_the_action_and_only_in_full_documents() {
    let (world, vm) = world();
    add(&world, vm, "TIME=\"+60\"");
    let id = add(&world, vm, OURS);
    let cdata = |text: &str| format!("<![CDATA[{text}]]>");
    let shown = info(&world, vm).join(" ");
    for (key, value) in
        [("CRON", "30 2 * * mon-fri"), ("ID", "1"), ("JITTER", "900"), ("KEEP_LAST", "14"), ("RETRY", "2")]
    {
        assert!(shown.contains(&cdata(value)), "{key}: {shown}");
    }
    assert!(shown.contains(&cdata("America/New_York")) && shown.contains(&cdata("05:00")), "{shown}");
    let pool = valid(api::vm::info_set(&world.cloud, &world.admin, &vm.to_string(), false).unwrap());
    assert!(!pool.contains("SCHED_INFO"), "{pool}");
    api::schedule::update(
        &world.cloud,
        &world.alice,
        vm,
        id,
        "SCHED_ACTION=[CRON=\"\",TIMEZONE=\"\",JITTER=\"\",WINDOW_END=\"\",KEEP_LAST=\"\",RETRY=\"\"]",
    )
    .unwrap();
    assert!(!world.vm_document(&world.alice, vm).contains("SCHED_INFO"));
}

#[test]
fn an_update_of_the_user_s_template_neither_stores_nor_removes_what_is_shown() {
    let (world, vm) = world();
    let id = add(&world, vm, OURS);
    let before = world.action(id);
    for kind in [0, 1] {
        let forged = "SCHED_INFO=[ID=0,CRON=\"* * * * *\"]\nNOTE=x\n";
        api::vm::update(&world.cloud, &world.alice, vm, forged, kind).unwrap();
        assert!(!world.vm_row(vm).user_template.contains("SCHED_INFO"));
        assert!(info(&world, vm).join(" ").contains("30 2 * * mon-fri"));
    }
    assert_eq!(world.action(id), before);
    let text = "CPU=1\nMEMORY=1\nSCHED_INFO=[ID=0,CRON=\"* * * * *\"]\n";
    let forged = api::vm::allocate(&world.cloud, &world.alice, text, true).unwrap();
    assert!(!world.vm_row(forged).user_template.contains("SCHED_INFO"));
}

#[test]
fn a_preset_in_a_stored_template_stays_text_and_becomes_an_action_with_all_its_attributes() {
    let (world, _) = world();
    let odd = "NAME=odd\nCPU=1\nMEMORY=1\nSCHED_ACTION=[ACTION=dance,CRON=never]\n";
    let odd = world.allocate_template(odd);
    let sentence = "dance is not supported.";
    world.refuses(2048, sentence, |_| world.instantiate(&world.alice, odd, ""));
    let text = format!("NAME=kept\nCPU=1\nMEMORY=1\nSCHED_ACTION=[ACTION=backup,ARGS=\"100\",{OURS}]\n");
    let template = world.allocate_template(&text);
    world.clock.advance(90 * 86_400);
    let vm = world.instantiate(&world.alice, template, "").unwrap();
    let ScheduledAction { time, cron, timezone, jitter, window_end, keep_last, retry, .. } =
        world.actions(vm).remove(0);
    assert!(time > world.clock_now(), "a new VM has missed nothing");
    assert_eq!((cron.as_deref(), timezone.as_deref()), (Some("30 2 * * mon-fri"), Some("America/New_York")));
    assert_eq!((jitter, window_end, keep_last, retry), (900, Some(18_000), Some(14), 2));
}

#[test]
fn what_is_no_schedule_is_refused_with_the_attribute_and_leaves_nothing() {
    let (world, vm) = world();
    let every = |text: String| {
        let alice = world.alice.clone();
        move |cloud: &Cloud| {
            api::schedule::add(cloud, &alice, vm, &format!("SCHED_ACTION=[ACTION=backup,ARGS=\"100\",{text}]"))
        }
    };
    let refused = [
        ("CRON=\"0 0 30 2 *\"", "Wrong CRON value: 0 0 30 2 *, it never fires again; it must name a date that exists"),
        (
            "CRON=\"61 * * * *\"",
            "Wrong CRON value: 61 as minute, it must be *, numbers from 0 to 59, ranges a-b and steps */n or a-b/n, with commas between them",
        ),
        (
            "TIME=1,TIMEZONE=\"Europe/Atlantis\"",
            "Wrong TIMEZONE value: Europe/Atlantis, it must be the IANA name of a zone, such as Europe/Madrid",
        ),
        ("TIME=1,JITTER=90000", "Wrong JITTER value: 90000, it must be seconds from 0 to 86400"),
        ("TIME=253402300800", "Unable to parse the time value or value is empty: 253402300800"),
        ("TIME=-5", "Unable to parse the time value or value is empty: -5"),
        ("TIME=\"+9223372036854775807\"", "Unable to parse the time value or value is empty: +9223372036854775807"),
    ];
    for (text, sentence) in refused {
        world.refuses(2048, sentence, every(text.to_owned()));
    }
    let days = vec!["5"; 10_000].join(",");
    let sentence = "Wrong DAYS value: it lists more than 366 numbers";
    world.refuses(2048, sentence, every(format!("TIME=1,REPEAT=0,DAYS=\"{days}\"")));
}

#[test]
fn a_template_with_a_thousand_presets_makes_no_vm() {
    let (world, _) = world();
    let preset = "SCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=\"+60\"]\n".repeat(1000);
    let template = world.allocate_template(&format!("NAME=many\nCPU=1\nMEMORY=1\n{preset}"));
    world.refuses(2048, "A VM can have at most 100 scheduled actions.", |_| {
        world.instantiate(&world.alice, template, "")
    });
}
