//! The verbs of `onevm`, `oneimage` and `onetemplate` beside backups: the exact calls they make, and their refusals.

use crate::door::{Door, Ran, assert_golden, document, restrict};

/// A daemon that knows a name of each kind and answers 7 to what changes something.
fn cloud() -> Door {
    let methods = [
        "one.vm.action",
        "one.vm.allocate",
        "one.vm.attach",
        "one.vm.attachnic",
        "one.vm.attachpci",
        "one.vm.attachsg",
        "one.vm.chmod",
        "one.vm.deploy",
        "one.vm.detach",
        "one.vm.detachnic",
        "one.vm.detachpci",
        "one.vm.detachsg",
        "one.vm.diskresize",
        "one.vm.disksaveas",
        "one.vm.disksnapshotrename",
        "one.vm.migrate",
        "one.vm.resize",
        "one.vm.updatenic",
        "one.image.allocate",
        "one.image.chtype",
        "one.image.clone",
        "one.image.enable",
        "one.image.persistent",
        "one.image.snapshotdelete",
        "one.image.snapshotflatten",
        "one.image.snapshotrevert",
        "one.template.allocate",
        "one.template.chmod",
        "one.template.clone",
        "one.template.delete",
        "one.template.instantiate",
    ];
    let pools = [
        ("one.vmpool.info", document("one.vmpool.info")),
        ("one.hostpool.info", document("one.hostpool.info")),
        ("one.datastorepool.info", document("one.datastorepool.info")),
        ("one.imagepool.info", document("one.imagepool.info")),
        ("one.templatepool.info", document("one.templatepool.info")),
        ("one.vnpool.info", "<VNET_POOL><VNET><ID>3</ID><NAME>lan</NAME></VNET></VNET_POOL>".to_owned()),
        (
            "one.secgrouppool.info",
            "<SECURITY_GROUP_POOL><SECURITY_GROUP><ID>100</ID><NAME>web</NAME></SECURITY_GROUP></SECURITY_GROUP_POOL>"
                .to_owned(),
        ),
        ("one.template.info", document("one.template.info")),
        ("one.vm.monitoring", "<MONITORING_DATA/>".to_owned()),
    ];
    let door = methods.into_iter().fold(Door::open(), |door, method| door.says(method, 7));
    let door = pools.into_iter().fold(door, |door, (method, text)| door.says(method, text));
    std::fs::write(door.home().join("file"), "A = \"b\"\n").unwrap();
    std::fs::write(door.home().join("xml"), "<T><A>b</A></T>\n").unwrap();
    door
}

/// Each line is a command; what it prints is kept beside the calls that it makes.
fn played(door: &Door, lines: &str) -> String {
    let mut told = String::new();
    let mut seen = 0;
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ran = door.run(words[0], &words[1..]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{line}");
        let calls = door.calls();
        let new: Vec<&str> = calls.lines().skip(seen).collect();
        seen += new.len();
        told.push_str(&format!("$ {line}\n{}", ran.out));
        new.iter().for_each(|call| told.push_str(&format!("  {call}\n")));
    }
    told
}

#[test]
fn verbs_of_vms_call_what_the_protocol_says() {
    let lines = "
        onevm create --name a%i -m 2 --cpu 0.5 --memory 8g --disk alpine:size=2048,7 --nic lan:ip=10.0.0.7 --hold
        onevm create file --name b --vcpu 2
        onevm create --memory 16 --dry
        onevm deploy 0 localhost
        onevm deploy alpine-0,2..3 0 system -e --file file
        onevm migrate 0 localhost
        onevm migrate 0 localhost --live
        onevm migrate 0 localhost 0 --poff -e
        onevm migrate 0 localhost --poff-hard
        onevm resched 0
        onevm unresched 0,2
        onevm disk-attach 0 -i alpine --prefix vd --target vdb --cache none --discard unmap
        onevm disk-attach 0 -f file
        onevm disk-attach 0 -i alpine -t vdc
        onevm disk-detach alpine-0 1
        onevm disk-resize 0 1 20g
        onevm disk-saveas 0 1 copy
        onevm disk-saveas 0 1 copy -t datablock -s 2
        onevm disk-snapshot-rename 0 1 2 name
        onevm nic-attach 0 -n lan -i 10.0.0.9 --nic_name second
        onevm nic-attach 0 -n 3 --alias NIC0
        onevm nic-attach 0 -n auto
        onevm nic-attach 0 --file file
        onevm nic-detach 0 1
        onevm nic-update 0 1 file
        onevm nic-update 0 1 file -a
        onevm sg-attach 0 1 web
        onevm sg-detach 0 1 100
        onevm pci-attach 0 --pci 06:00.1
        onevm pci-attach 0 --pci_device 0863 --pci_class 0403 --pci_vendor 8086
        onevm pci-detach 0 2
        onevm resize 0 --cpu 2 --vcpu 4 --memory 512m -e
        onevm resize 0,2 -f file
        onevm monitoring 0 --no-header
        onevm chmod 0 u+m,go-u
    ";
    assert_golden("calls-vms", &played(&cloud(), lines));
}

#[test]
fn verbs_of_images_and_templates_call_what_the_protocol_says() {
    let lines = "
        oneimage create -d 1 --name a --type datablock --size 1.5g --target vdb --no_check_capacity
        oneimage create --name a --size 16 --dry
        oneimage create --name a --size 16 --fs ext4 --disk_type BLOCK --source /dev/sdb --dry
        oneimage clone alpine copy
        oneimage clone 0 copy -d RBackups
        oneimage enable 0,1
        oneimage disable alpine
        oneimage chtype 0 datablock
        oneimage snapshot-delete 0 2
        oneimage snapshot-revert alpine 2
        oneimage snapshot-flatten 0 2
        oneimage orphans
        onetemplate create --name a --cpu 1 --memory 128 --disk ann[alpine] --boot disk0 --vnc
        onetemplate create file --name a --arch x86_64
        onetemplate create file --dry
        onetemplate clone tmpl copy
        onetemplate clone 0 copy --recursive
        onetemplate clone 0 copy -R
        onetemplate delete 0
        onetemplate chmod tmpl 640
        onetemplate chmod 0 o= --recursive
        onetemplate show 0 --extended --json
        onetemplate instantiate 0 file --name a
        onetemplate instantiate 0 xml
        onetemplate instantiate 0 xml --memory 64 --user_inputs B=1
        onetemplate instantiate 0 --name a-%i -m 2 --memory 64 --user_inputs A=1,B=2 --persistent
    ";
    assert_golden("calls-images-templates", &played(&cloud(), lines));
}

#[test]
fn what_cannot_be_meant_of_vms_images_and_templates_is_one_line() {
    let door = cloud().says("one.vm.info", document("one.vm.info"));
    let lines = "
        onevm create --cpu none
        onevm create --memory much
        onevm create --disk alpine:size
        onevm create --vnc --spice
        onevm create -m 0
        onevm deploy 0
        onevm deploy 0 localhots
        onevm deploy 0 -1
        onevm migrate 0 localhost --live --poff
        onevm disk-attach 0
        onevm disk-attach 0 -i alpine -f file
        onevm disk-attach 0 -i alpin
        onevm disk-attach 0 --target vdb
        onevm disk-detach 0 first
        onevm disk-resize 0 0 large
        onevm disk-resize 0 0 0
        onevm disk-snapshot-list 0 9
        onevm nic-attach 0
        onevm nic-update 0 9
        onevm pci-attach 0
        onevm resize 0
        onevm save 0 copy
        onevm list --search NAME=web
        onevm list -f NAME~(
        onevm list -c nope
        onevm list -c default -l ID
        onevm show -1
        onevm poweroff 0,alpine-1
        onevm poweroff -1..2
        onevm chmod 0 u+z
        oneimage clone alpine
        oneimage clone alpine copy -d nowhere
        oneimage create -d 1 --name a --size big
        oneimage chtype 0
        oneimage snapshot-delete 0 first
        onetemplate instantiate tpml
        onetemplate instantiate 0 --user_inputs A
        onetemplate chmod 0 999
    ";
    let mut told = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        told.push_str(&format!("$ {line}\n{}\n", door.run(words[0], &words[1..]).bad()));
    }
    assert_golden("failures-vms", &told);
}

#[test]
fn what_was_piped_in_and_not_read_is_named_when_a_creation_is_refused() {
    for (tool, arguments, method) in [
        ("onevm", &["create", "--cpu", "1"][..], "one.vm.allocate"),
        ("onetemplate", &["create", "--cpu", "1"], "one.template.allocate"),
        ("oneimage", &["create", "-d", "1", "--name", "a"], "one.image.allocate"),
    ] {
        let door = Door::open().refuses(method, 8192, "MEMORY is missing");
        let said = door.run_with_input(tool, arguments, "").bad();
        let expected = "MEMORY is missing (what was piped in was not read, since there are options: name it with -)";
        assert_eq!(said, expected, "{tool}");
        assert_eq!(door.run(tool, arguments).bad(), "MEMORY is missing", "{tool}");
    }
}

#[test]
fn on_a_terminal_questions_are_asked_and_no_answer_changes_nothing() {
    let inputs = "<VMTEMPLATE><TEMPLATE><USER_INPUTS><ROLE>M|list|What it does|web,db</ROLE></USER_INPUTS></TEMPLATE></VMTEMPLATE>";
    let door = Door::open()
        .says("one.vm.info", document("one.vm.info"))
        .says("one.template.info", inputs)
        .says("one.template.instantiate", 7);
    let editor = door.home().join("none");
    let ran = door.run_on_a_terminal("onevm recover 0 --interactive", &editor);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.contains("VM 0 (alpine-0) is in RUNNING"), "{said}");
    // OpenNebula's tool takes it beside a result.
    let ran = door.run_on_a_terminal("onevm recover 0 --retry --interactive", &editor);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.contains("(Enter: retry; - leaves it as it is)"), "{said}");
    let ran = door.run_on_a_terminal("onetemplate instantiate 0", &editor);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.status.code(), Some(255), "{said}");
    assert!(said.contains("ROLE, What it does (web,db): "), "{said}");
    assert!(said.contains("the input ended before ROLE was answered"), "{said}");
    // Off a terminal nobody is asked.
    let said = door.run("onetemplate", &["instantiate", "0"]).bad();
    assert!(said.starts_with("the template asks for ROLE (What it does): add --user_inputs"), "{said}");
    let said = door.run("onevm", &["recover", "0", "--interactive"]).bad();
    assert!(said.starts_with("there is no terminal to ask on"), "{said}");
    assert_eq!(door.run("onetemplate", &["instantiate", "0", "--user_inputs", "ROLE=db"]).good(), "VM ID: 7\n");
    assert!(!door.calls().contains("one.vm.recover"), "{}", door.calls());
}

#[test]
fn a_vm_is_saved_disk_by_disk_and_then_as_a_template() {
    let vm = |state: i64, template: &str| {
        format!(
            "<VM><ID>0</ID><STATE>{state}</STATE><LCM_STATE>0</LCM_STATE><TEMPLATE><TEMPLATE_ID>4</TEMPLATE_ID>{template}</TEMPLATE></VM>"
        )
    };
    let disks = "<DISK><DISK_ID>0</DISK_ID><IMAGE_ID>1</IMAGE_ID><TYPE>FILE</TYPE><DEV_PREFIX>vd</DEV_PREFIX></DISK>\
        <DISK><DISK_ID>1</DISK_ID><TYPE>fs</TYPE><SIZE>8</SIZE><FORMAT>qcow2</FORMAT></DISK>\
        <DISK><DISK_ID>2</DISK_ID><IMAGE_ID>3</IMAGE_ID><TYPE>CDROM</TYPE></DISK>";
    let door = Door::open()
        .says("one.vm.info", vm(8, disks))
        .says("one.vm.disksaveas", 7)
        .says("one.image.persistent", 7)
        .says("one.template.clone", 9)
        .says("one.template.update", 9);
    assert_eq!(door.run("onevm", &["save", "0", "copy", "--persistent"]).good(), "Template ID: 9\n");
    assert_golden("calls-save", &door.calls());
    let door = Door::open().says("one.vm.info", vm(8, disks)).says("one.vm.disksaveas", 7).refuses(
        "one.template.clone",
        512,
        "no right",
    );
    let said = door.run("onevm", &["save", "0", "copy"]).bad();
    assert_eq!(said, "there is no template yet, but images 7 were made of the disks: no right");
}

const WITH_SNAPSHOTS: &str = "<VM><ID>0</ID><TEMPLATE><DISK><DISK_ID>0</DISK_ID></DISK><SNAPSHOT><SNAPSHOT_ID>2</SNAPSHOT_ID><NAME>before</NAME><TIME>1669901816</TIME><HYPERVISOR_ID>one-2</HYPERVISOR_ID></SNAPSHOT></TEMPLATE>\
        <SNAPSHOTS><DISK_ID>0</DISK_ID><SNAPSHOT><ID>0</ID><PARENT>-1</PARENT><DATE>1669901816</DATE><SIZE>8</SIZE><NAME>first</NAME></SNAPSHOT><SNAPSHOT><ACTIVE>YES</ACTIVE><ID>1</ID><PARENT>0</PARENT><DATE>1669901900</DATE><SIZE>2048</SIZE><NAME>second</NAME></SNAPSHOT></SNAPSHOTS></VM>";

#[test]
fn snapshots_are_named_by_id_or_name() {
    let door = Door::open()
        .says("one.vm.info", WITH_SNAPSHOTS)
        .says("one.vm.snapshotrevert", 0)
        .says("one.vm.snapshotdelete", 0)
        .says("one.vm.disksnapshotrevert", 0)
        .says("one.vm.disksnapshotrename", 0)
        .says("one.vm.disksaveas", 7)
        .says("one.vm.schedadd", 0);
    let lines = "
        onevm snapshot-revert 0 before
        onevm snapshot-delete 0..1 2
        onevm snapshot-delete 0 before --schedule +3600
        onevm disk-snapshot-revert 0 0 second
        onevm disk-snapshot-rename 0 0 first oldest
        onevm disk-saveas 0 0 copy -s first
    ";
    assert_golden("calls-snapshots", &played(&door, lines));
    let said = |arguments: &[&str]| door.run("onevm", arguments).bad();
    assert_eq!(
        said(&["snapshot-revert", "0", "first"]),
        "VM 0 has no snapshot named first; onevm snapshot-list 0 shows all"
    );
    assert_eq!(
        said(&["disk-snapshot-delete", "0", "1", "first"]),
        "disk 1 of VM 0 has no snapshot named first; onevm disk-snapshot-list 0 1 shows all"
    );
    assert_eq!(
        said(&["snapshot-revert", "0..1", "before"]),
        "a snapshot of several VMs is named by its id: write a number in place of before"
    );
}

#[test]
fn a_guest_is_logged_in_to_by_ssh_and_by_nothing_a_stranger_wrote() {
    let vm = |state: i64, more: &str| {
        format!("<VM><ID>3</ID><STATE>3</STATE><LCM_STATE>{state}</LCM_STATE><TEMPLATE>{more}</TEMPLATE></VM>")
    };
    let nic = "<NIC><NIC_ID>0</NIC_ID><IP>10.0.0.7</IP></NIC>";
    let door = Door::open().says("one.vm.info", vm(3, nic));
    // An ssh that says how it was called.
    let bin = door.home().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("ssh"), "#!/bin/sh\nprintf '<%s>' \"$@\"\n").unwrap();
    restrict(&bin.join("ssh"), 0o755);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let ran = |arguments: &[&str]| Ran::of(door.tool("onevm", arguments).env("PATH", &path).output().unwrap());
    assert_eq!(ran(&["ssh", "3"]).good(), "<--><root@10.0.0.7>");
    assert_eq!(
        ran(&["ssh", "3", "ann", "--nic-id", "0", "--cmd", "uptime -p", "--ssh-options", "-o A=no -4"]).good(),
        "<-o><A=no><-4><--><ann@10.0.0.7><uptime -p>"
    );
    door.changes_to("one.vm.info", &vm(3, &format!("{nic}<CONTEXT><USERNAME>-oProxyCommand=x</USERNAME></CONTEXT>")));
    assert_eq!(ran(&["ssh", "3"]).bad(), "-oProxyCommand=x is no login of a guest: name another one behind the VM");
    door.changes_to("one.vm.info", &vm(69, nic));
    assert_eq!(ran(&["ssh", "3"]).good(), "<--><root@10.0.0.7>");
    door.changes_to("one.vm.info", &vm(2, nic));
    assert_eq!(ran(&["ssh", "3"]).bad(), "VM 3 is BOOT; only one that is RUNNING can be logged in to");
}

#[test]
fn what_is_attached_or_resized_can_be_piped_in() {
    let door = Door::open().says("one.vm.attach", 0).says("one.vm.attachnic", 0).says("one.vm.resize", 0);
    for verb in ["disk-attach", "nic-attach", "resize"] {
        assert_eq!(door.run_with_input("onevm", &[verb, "0"], "A = [ B = 1 ]").good(), "", "{verb}");
    }
    let text = r#""A = [ B = 1 ]""#;
    let calls = format!("one.vm.attach(0, {text})\none.vm.attachnic(0, {text})\none.vm.resize(0, {text}, false)");
    assert_eq!(door.calls(), calls);
}

#[test]
fn snapshots_are_listed_as_tables() {
    let door = Door::open().says("one.vm.info", WITH_SNAPSHOTS);
    let mut told = door.run("onevm", &["disk-snapshot-list", "0", "0"]).good();
    told.push_str(&door.run("onevm", &["snapshot-list", "0"]).good());
    let image = "<IMAGE><ID>0</ID><TYPE>0</TYPE><SNAPSHOTS><SNAPSHOT><ACTIVE>YES</ACTIVE><ID>0</ID><PARENT>-1</PARENT><DATE>1669901816</DATE><SIZE>8</SIZE><NAME>first</NAME></SNAPSHOT></SNAPSHOTS></IMAGE>";
    let shown = Door::open().says("one.image.info", image).run("oneimage", &["show", "0"]).good();
    told.push_str(&shown[shown.find("IMAGE SNAPSHOTS").unwrap()..]);
    assert_golden("snapshots", &told);
}

#[test]
fn a_list_looks_as_the_users_file_says() {
    let door = cloud();
    let folder = door.home().join(".one/cli");
    std::fs::create_dir_all(&folder).unwrap();
    let layout =
        "---\n:NAME:\n  :size: 20\n  :left: false\n:default:\n- :ID\n- :NAME\n:short:\n- :NAME\n- :STAT\n- :PCI\n";
    std::fs::write(folder.join("onevm.yaml"), layout).unwrap();
    let mut told = door.run("onevm", &["list"]).good();
    told.push_str(&door.run("onevm", &["list", "-l", "STAT,NAME"]).good());
    let ran = door.run("onevm", &["list", "-c", "short"]);
    assert_eq!(ran.err, "warning: there are no columns PCI: they are left out\n");
    told.push_str(&ran.out);
    assert_golden("onevm-list-layout", &told);
    std::fs::write(folder.join("onevm.yaml"), " ".repeat(1 << 21)).unwrap();
    let ran = door.run("onevm", &["list", "--no-header", "-l", "ID"]);
    assert!(ran.code == Some(0) && ran.err.contains("is larger than 1 MiB"), "{ran:?}");
    assert!(door.run("onevm", &["list", "-c", "short"]).bad().contains("is larger than 1 MiB"));
}
