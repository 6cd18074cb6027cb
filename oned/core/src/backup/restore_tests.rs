use super::*;

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn options(text: &str) -> RestoreOptions {
    RestoreOptions::parse(&template(text)).unwrap()
}

/// One section of a VM, restored with disk 0 as image 42.
fn restored(section: &str, given: &str) -> String {
    let images = BTreeMap::from([(0, 42)]);
    let config = Vector::new();
    restore_template(&template(section), &Template::new(), Some(&config), &options(given), &images).to_text()
}

/// The same text, whatever its spelling.
fn canonical(text: &str) -> String {
    template(text).to_text()
}

fn vector_of(name: &str, keys: &[&str]) -> String {
    let pairs: Vec<String> = keys.iter().map(|key| format!("{key}=\"v\"")).collect();
    format!("{name}=[{}]\n", pairs.join(","))
}

#[test]
fn each_row_of_the_table_loses_its_keys_and_keeps_the_rest() {
    let disk: &str = "DISK_ID=0,DEV_PREFIX=vd,CACHE=none";
    let rows: [(String, &str, &str); 25] = [
        (format!("DISK=[{disk},IMAGE_ID=1,SIZE=9,TYPE=FILE]\n"), "", "DISK=[IMAGE_ID=42,DEV_PREFIX=vd,CACHE=none]\n"),
        (format!("DISK=[{disk},TYPE=fs,SIZE=9,FORMAT=raw]\n"), "", "DISK=[IMAGE_ID=42,DEV_PREFIX=vd,CACHE=none]\n"),
        ("DISK=[DISK_ID=5,TYPE=fs,SIZE=9,FS=ext4,TARGET=vdb]\n".into(), "", "DISK=[TYPE=fs,SIZE=9,FS=ext4]\n"),
        ("DISK=[DISK_ID=5,TYPE=swap,SIZE=9,TARGET=vdb]\n".into(), "", "DISK=[TYPE=swap,SIZE=9]\n"),
        ("DISK=[DISK_ID=5,SIZE=9]\n".into(), "", "DISK=[SIZE=9]\n"),
        ("DISK=[DISK_ID=5,TYPE=CDROM,IMAGE=iso,IMAGE_ID=3,SIZE=9]\n".into(), "", "DISK=[IMAGE_ID=3]\n"),
        ("DISK=[DISK_ID=5,TYPE=CDROM,IMAGE=iso,IMAGE_UNAME=u]\n".into(), "", "DISK=[IMAGE=iso,IMAGE_UNAME=u]\n"),
        ("DISK=[DISK_ID=5,TYPE=FILE,IMAGE_ID=3,PERSISTENT=YES]\n".into(), "", ""),
        ("NIC=[NETWORK=n,MODEL=virtio,MAC=m]\n".into(), "", "NIC=[NETWORK=n,MODEL=virtio,MAC=m]\n"),
        ("NIC=[NETWORK=n,IP=i,MAC=m,IP6=j,IP6_ULA=k]\n".into(), "", "NIC=[NETWORK=n,IP=i]\n"),
        ("NIC=[NETWORK=n,MAC=m,IP6=j]\n".into(), "", "NIC=[NETWORK=n,IP6=j]\n"),
        ("NIC=[NETWORK=n,IP=i,MAC=m,IP6=j,IP6_ULA=k,IP6_GLOBAL=l]\n".into(), "NO_IP=YES\n", "NIC=[NETWORK=n]\n"),
        ("NIC=[NETWORK=n]\nNIC_ALIAS=[NETWORK=n]\nCPU=1\n".into(), "NO_NIC=yes\n", "CPU=1\n"),
        ("PCI=[TYPE=NIC,NETWORK=n]\nPCI=[VENDOR=8086]\n".into(), "NO_NIC=YES\n", "PCI=[VENDOR=8086]\n"),
        ("GRAPHICS=[TYPE=vnc,PORT=5900,LISTEN=a]\n".into(), "", "GRAPHICS=[TYPE=vnc,LISTEN=a]\n"),
        (
            "CONTEXT=[DISK_ID=1,ETH0_IP=i,ETH12_MAC=m,PCI0_ADDRESS=a,ETHICS=e,PCIE=p,NETWORK=YES]\n".into(),
            "",
            "CONTEXT=[ETHICS=e,PCIE=p,NETWORK=YES]\n",
        ),
        ("NUMA_NODE=[CPUS=0,MEMORY_NODE_ID=0,NODE_ID=0,TOTAL_CPUS=2]\n".into(), "", "NUMA_NODE=[TOTAL_CPUS=2]\n"),
        ("OS=[UUID=u,ARCH=x86_64]\n".into(), "", "OS=[ARCH=x86_64]\n"),
        ("OS=[UUID=u]\n".into(), "", ""),
        ("SNAPSHOT=[SNAPSHOT_ID=0]\nSCHED_ACTION=[ID=0]\nSECURITY_GROUP_RULE=[ID=0]\n".into(), "", ""),
        ("CLONING_TEMPLATE_ID=3\nIMPORTED=YES\nDEPLOY_ID=one-0\nERROR=e\nNAME=old\n".into(), "", ""),
        ("BACKUP_EVENT=[TIME=1,ACTION=backup]\nBACKUP_EVENT=[TIME=2]\nBACKUP_INFO=[LAST_SUCCESS=1]\n".into(), "", ""),
        ("LOGO=\"\"\nMEMORY=128\n".into(), "NAME=new\n", "MEMORY=128\nNAME=new\n"),
        ("VMID=0\nTEMPLATE_ID=0\nTM_MAD_SYSTEM=ssh\nAUTOMATIC_REQUIREMENTS=a\n".into(), "", ""),
        (
            "FEATURES=[ACPI=yes]\nRAW=[TYPE=kvm,DATA=\"<a b=\\\"c\\\"/>\"]\n".into(),
            "",
            "FEATURES=[ACPI=yes]\nRAW=[TYPE=kvm,DATA=\"<a b=\\\"c\\\"/>\"]\n",
        ),
    ];
    for (section, given, expected) in rows {
        assert_eq!(restored(&section, given), canonical(expected), "{section}{given}");
    }
}

#[test]
fn no_key_of_the_lists_survives() {
    let disk: Vec<&str> = DISK.iter().chain(&["TYPE"]).copied().filter(|key| *key != "DISK_ID").collect();
    let text = restored(&vector_of("DISK", &disk).replace("=[", "=[DISK_ID=0,"), "");
    assert_eq!(text, canonical("DISK=[IMAGE_ID=42]\n"));
    let nic = "AR_ID BRIDGE BRIDGE_TYPE CLUSTER_ID NAME NETWORK_ID NIC_ID TARGET VLAN_ID VN_MAD VLAN_TAGGED_ID PHYDEV";
    let nic: Vec<&str> = nic.split(' ').collect();
    assert_eq!(restored(&vector_of("NIC", &nic), ""), "");
    let pci = "ADDRESS BUS DOMAIN FUNCTION NUMA_NODE PCI_ID SLOT VM_ADDRESS VM_BUS VM_DOMAIN VM_FUNCTION VM_SLOT";
    let pci: Vec<&str> = pci.split(' ').chain(nic).chain(["VENDOR", "SHORT_ADDRESS"]).collect();
    assert_eq!(restored(&vector_of("PCI", &pci), ""), canonical("PCI=[VENDOR=v,SHORT_ADDRESS=v]\n"));
    let top: String = TOP.iter().map(|name| format!("{name}=\"v\"\n")).collect();
    assert_eq!(restored(&top, ""), "");
}

#[test]
fn an_alias_follows_its_nic_to_the_new_name() {
    let text = "NIC=[NIC_ID=1,NAME=NIC1,NETWORK=a]\nNIC=[NIC_ID=4,NAME=inner,NETWORK=b]\n\
                NIC_ALIAS=[NIC_ID=5,NAME=NIC5,PARENT=inner,PARENT_ID=4,ALIAS_ID=0,NETWORK=c,IP=i,MAC=m]\n";
    let expected = "NIC=[NETWORK=a]\nNIC=[NETWORK=b]\nNIC_ALIAS=[PARENT=NIC1,NETWORK=c,IP=i]\n";
    assert_eq!(restored(text, ""), canonical(expected));
}

#[test]
fn the_users_part_wins_but_cannot_add_devices() {
    let system = template("CPU=1\nMEMORY=128\nDISK=[DISK_ID=0,IMAGE_ID=1]\n");
    let user = template("CPU=2\nLABELS=a\nDISK=[SOURCE=\"/etc/shadow\"]\nNIC=[NETWORK=x]\nBACKUP_CONFIG=[MODE=FULL]\n");
    let images = BTreeMap::from([(0, 42)]);
    let restored = restore_template(&system, &user, None, &RestoreOptions::default(), &images);
    assert_eq!(restored.to_text(), canonical("CPU=2\nLABELS=a\nMEMORY=128\nDISK=[IMAGE_ID=42]\n"));
}

#[test]
fn only_the_users_keys_of_backup_config_come_back() {
    let config: Vector = [
        ("ACTIVE_FLATTEN", "YES"),
        ("BACKUP_JOB_ID", "1"),
        ("BACKUP_VOLATILE", "NO"),
        ("INCREMENTAL_BACKUP_ID", "4"),
        ("KEEP_LAST", "4"),
        ("LAST_BACKUP_ID", "x"),
        ("LAST_BACKUP_SIZE", "1"),
        ("LAST_DATASTORE_ID", "1"),
        ("LAST_INCREMENT_ID", "2"),
        ("MODE", "INCREMENT"),
    ]
    .into_iter()
    .collect();
    let empty = Template::new();
    let restored = restore_template(&empty, &empty, Some(&config), &RestoreOptions::default(), &BTreeMap::new());
    assert_eq!(restored.to_text(), canonical("BACKUP_CONFIG=[BACKUP_VOLATILE=NO,KEEP_LAST=4,MODE=INCREMENT]\n"));
}

#[test]
fn a_restored_template_parses_again_and_holds_none_of_the_stripped_keys() {
    let system = template(
        "AUTOMATIC_REQUIREMENTS=\"CLUSTER_ID = 0\"\nCPU=1\nMEMORY=128\nVMID=0\nTM_MAD_SYSTEM=shared\nTEMPLATE_ID=0\n\
         DISK=[DISK_ID=0,IMAGE=alpine,IMAGE_ID=0,DATASTORE=default,DATASTORE_ID=1,SIZE=256,TARGET=vda,FORMAT=qcow2,\
         DRIVER=qcow2,DEV_PREFIX=vd,TYPE=FILE,SAVE=NO,CLONE=YES,SOURCE=\"/var/lib/one/1/x\"]\n\
         NIC=[NIC_ID=0,NAME=NIC0,NETWORK=net,NETWORK_ID=0,IP=\"192.168.0.1\",MAC=\"02:00:c0:a8:00:01\",BRIDGE=br0]\n\
         CONTEXT=[DISK_ID=1,ETH0_IP=\"192.168.0.1\",START_SCRIPT=\"echo \\\"it's [odd], = # \\\"\n exit\"]\n\
         OS=[UUID=\"a-b\",ARCH=x86_64]\nRAW=[DATA=\"<q a='\\\"'/> ,]\"]\n",
    );
    let user =
        template("DESCRIPTION=\"say \\\"hi\\\" # not a comment = [x]\"\nLABELS=\"a,b\"\nERROR=\"Fri : failed\"\n");
    let images = BTreeMap::from([(0, 2)]);
    let restored = restore_template(&system, &user, None, &options("NAME=\"0-6968545c\"\nNO_IP=YES\n"), &images);
    let again = Template::parse(&restored.to_text()).unwrap();
    assert_eq!(again, restored.sorted());
    assert_eq!(again.scalar("NAME"), Some("0-6968545c"));
    assert_eq!(again.scalar("DESCRIPTION"), Some("say \"hi\" # not a comment = [x]"));
    for attribute in again.attributes() {
        assert!(!TOP.contains(&attribute.name.as_str()) || attribute.name == "NAME", "{}", attribute.name);
    }
    let keys = |name| again.vector(name).unwrap().iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    assert_eq!(keys("DISK"), ["DEV_PREFIX", "IMAGE_ID"]);
    assert_eq!(keys("NIC"), ["NETWORK"]);
    assert_eq!(keys("CONTEXT"), ["START_SCRIPT"]);
    assert_eq!(keys("OS"), ["ARCH"]);
}

#[test]
fn options_are_read_and_bad_numbers_refused() {
    let all = options("NO_IP=YES\nNO_NIC=no\nNAME=x\nINCREMENT_ID=3\nDISK_ID=0\nSKIP_BAD=yes\n");
    let expected = RestoreOptions {
        no_ip: true,
        no_nic: false,
        name: Some("x".into()),
        increment_id: Some(3),
        disk_id: Some(0),
        skip_bad: true,
    };
    assert_eq!(all, expected);
    assert_eq!(options("INCREMENT_ID=-1\nDISK_ID=-1\nNAME=\"\"\n"), RestoreOptions::default());
    for text in ["INCREMENT_ID=last\n", "DISK_ID=-2\n", "DISK_ID=99999999999999999999\n"] {
        assert_eq!(RestoreOptions::parse(&template(text)).unwrap_err().code(), 0x800, "{text}");
    }
}

#[test]
fn names_and_image_templates_are_those_users_know() {
    assert_eq!(RestoreOptions::default().base_name(0, "6968545c"), "0-6968545c");
    assert_eq!(options("NAME=mine\n").base_name(0, "6968545c"), "mine");
    let path: BackupPath =
        "restic://100/5/0:25f4b298,1:6968545c//var/lib/one/datastores/0/0/backup/disk.1.1".parse().unwrap();
    let image = disk_image_template("0-6968545c", 1, &path, Some("vd"));
    let expected = format!(
        "NAME=\"0-6968545c-disk-1\"\nTYPE=DATABLOCK\nPATH=\"{path}\"\nFROM_BACKUP_DS=100\nDEV_PREFIX=vd\nBACKUP_JOB_ID=5\n"
    );
    assert_eq!(image.to_text(), canonical(&expected));
    assert_eq!(disk_image_template("b", 0, &path, None).scalar("TYPE"), Some("OS"));
}

#[test]
fn both_forms_of_a_path_are_read_and_the_new_one_written() {
    let chain = vec![
        ChainLink { increment: 0, source: "25f4b298".into() },
        ChainLink { increment: 1, source: "6968545c".into() },
    ];
    let disk = "/var/lib/one/datastores/0/0/backup/disk.0";
    let expected = BackupPath { scheme: "restic".into(), datastore_id: 100, job_id: None, chain, path: disk.into() };
    let new = format!("restic://100//0:25f4b298,1:6968545c/{disk}");
    let old = format!("restic://100/0:25f4b298,1:6968545c/{disk}");
    assert_eq!(new.parse(), Ok(expected.clone()));
    assert_eq!(old.parse(), Ok(expected.clone()));
    assert_eq!(expected.to_string(), new);
    let of_job = BackupPath { job_id: Some(3), scheme: "rsync+rbd".into(), ..expected };
    assert_eq!(of_job.to_string(), format!("rsync+rbd://100/3/0:25f4b298,1:6968545c/{disk}"));
    assert_eq!(of_job.to_string().parse(), Ok(of_job));
}

#[test]
fn a_path_that_is_none_is_refused() {
    for text in [
        "",
        "/var/lib/one/x",
        "restic://",
        "restic://100",
        "restic://100/",
        "restic://100//0:a",
        "restic://100/0:a",
        "restic://-1//0:a//x",
        "restic://+1//0:a//x",
        "restic://x//0:a//x",
        "restic://100/j/0:a//x",
        "restic://100//0//x",
        "restic://100//0:/x/y",
        "restic://100//:a//x",
        "restic://100//1:a,0:b//x",
        "restic://100//0:a,0:b//x",
        "restic://100//0:a,//x",
        "restic://100//0:a/x",
        "restic://100//0:a//",
        "restic://100//0:a//x/../../etc/shadow",
        "restic://100//0:a//x\ny",
        "Restic://100//0:a//x",
        "://100//0:a//x",
    ] {
        assert!(text.parse::<BackupPath>().is_err(), "{text:?}");
    }
}

#[test]
fn the_disk_is_named_by_the_last_part_of_the_path() {
    for (path, disk) in [
        ("/one/disk.0", Some(0)),
        ("/var/lib/one/datastores/0/0/backup/disk.12.3", Some(12)),
        ("/disk.007", Some(7)),
        ("/one/disk.", None),
        ("/one/disk.x", None),
        ("/one/disk.-1", None),
        ("/one/disk.+1", None),
        ("/one/disk.1.", None),
        ("/one/disk.1.2.3", None),
        ("/one/disk.99999999999999999999", None),
        ("/one/disk.0/vm.xml", None),
        ("/one/vm.xml", None),
    ] {
        let parsed: BackupPath = format!("nfs://100//0:a/{path}").parse().unwrap();
        assert_eq!(parsed.disk_id(), disk, "{path}");
    }
}

proptest::proptest! {
    #[test]
    fn what_is_written_is_read_back_whatever_it_is_made_of(
        scheme in "[a-z][a-z0-9+.-]{0,9}",
        datastore_id in 0..i64::MAX,
        job_id in proptest::option::of(0..i64::MAX),
        ids in proptest::collection::btree_set(0..i64::MAX, 1..9),
        source in "[0-9a-f:]{1,64}",
        path in "(/[a-z0-9.:,=-]{0,3}[a-z]){1,4}",
    ) {
        let chain = ids.iter().map(|increment| ChainLink { increment: *increment, source: source.clone() }).collect();
        let path = BackupPath { scheme, datastore_id, job_id, chain, path };
        let again = path.to_string().parse::<BackupPath>();
        proptest::prop_assert_eq!(again.as_ref(), Ok(&path));
        proptest::prop_assert_eq!(again.unwrap().disk_id(), path.disk_id());
    }

    #[test]
    fn no_text_whatever_makes_the_path_reader_panic(text in "\\PC{0,60}", tail in "[ -~]{0,60}") {
        for text in [text.clone(), format!("restic://{tail}"), format!("nfs://1//0:a/{text}"), format!("a://1/{text}/0:b//{tail}")] {
            if let Ok(path) = text.parse::<BackupPath>() {
                path.disk_id();
                proptest::prop_assert_eq!(path.to_string().parse::<BackupPath>(), Ok(path));
            }
        }
    }

    #[test]
    fn no_text_makes_the_path_reader_panic_and_what_it_takes_it_writes_back(text in "restic://[0-9:/,a-c.]{0,40}") {
        if let Ok(path) = text.parse::<BackupPath>() {
            proptest::prop_assert_eq!(path.to_string().parse::<BackupPath>(), Ok(path));
        }
    }
}
