use super::*;
use one_core::lifecycle::VmOperation;

fn overrides() -> Overrides {
    Overrides { listen: None, state_dir: PathBuf::from("/var/lib/one") }
}

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("oned.conf"), &overrides())
}

#[test]
fn the_example_file_holds_every_attribute_with_its_default() {
    let example = include_str!("../../../share/oned.conf");
    let bare: String = example.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
    let config = read(&bare).unwrap();
    let default = read("TIMEZONE = UTC\n").unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config, default);
    for (name, _) in &config.shown {
        let sets = |line: &str| line.split_once('=').is_some_and(|(head, _)| head.trim() == *name);
        assert!(bare.lines().any(sets), "{name} is missing in the example");
    }
}

#[test]
fn every_wrong_value_is_refused_with_its_name_line_and_what_is_allowed() {
    let cases = [
        ("PORT = 70000", "PORT", "0 to 65535"),
        ("PORT = [ A = 1 ]", "PORT", "single value"),
        ("LISTEN_ADDRESS = somewhere", "LISTEN_ADDRESS", "IP address"),
        ("MAX_CONN = 0", "MAX_CONN", "1 to 10000"),
        ("MAX_BACKUPS = -1", "MAX_BACKUPS", "0 to"),
        ("MANAGER_TIMER = often", "MANAGER_TIMER", "1 to 3600"),
        ("DATASTORE_LOCATION = here", "DATASTORE_LOCATION", "absolute"),
        ("SAFE_DIRS = \"/a b\"", "SAFE_DIRS", "absolute"),
        ("MOUNT_COMMAND = \"bin/sudo -n\"", "MOUNT_COMMAND", "separated by blanks"),
        ("MOUNT_COMMAND = \"-n\"", "MOUNT_COMMAND", "separated by blanks"),
        ("MOUNT_COMMAND = \"sudo `id`\"", "MOUNT_COMMAND", "separated by blanks"),
        ("LOG = 3", "LOG", "vector"),
        ("LOG = [ DEBUG_LEVEL = 9 ]", "LOG/DEBUG_LEVEL", "0 to 5"),
        ("DEFAULT_DEVICE_PREFIX = zd", "DEFAULT_DEVICE_PREFIX", "hd, sd, vd, xvd"),
        ("DEFAULT_UMASK = 789", "DEFAULT_UMASK", "octal"),
        ("DEFAULT_UMASK = 1777", "DEFAULT_UMASK", "octal"),
        ("ENABLE_OTHER_PERMISSIONS = 1", "ENABLE_OTHER_PERMISSIONS", "YES or NO"),
        ("TIMEZONE = Nowhere/City", "TIMEZONE", "Europe/Berlin"),
        ("LOG = [ SYSTEM = paper ]", "LOG/SYSTEM", "file, std, syslog"),
        ("DEFAULT_IMAGE_TYPE = FLOPPY", "DEFAULT_IMAGE_TYPE", "OS, CDROM, DATABLOCK"),
        ("API_LIST_ORDER = UP", "API_LIST_ORDER", "ASC, DESC"),
        ("SESSION_EXPIRATION_TIME = -1", "SESSION_EXPIRATION_TIME", "0 to"),
        ("NETWORK_SIZE = 0", "NETWORK_SIZE", "1 to"),
        ("MAC_PREFIX = \"03:00\"", "MAC_PREFIX", "unicast"),
        ("MAC_PREFIX = \"02:00:00\"", "MAC_PREFIX", "02:00"),
        ("VLAN_IDS = 2", "VLAN_IDS", "vector"),
        ("VLAN_IDS = [ START = 5000 ]", "VLAN_IDS/START", "0 to 4095"),
        ("VLAN_IDS = [ RESERVED = \"9:3\" ]", "VLAN_IDS/RESERVED", "ranges"),
        ("DUMMY_DRIVERS = maybe", "DUMMY_DRIVERS", "YES or NO"),
        ("DUMMY_DIRECTORY = tmp", "DUMMY_DIRECTORY", "absolute"),
        ("VM_USE_OPERATIONS = \"backup, fly\"", "VM_USE_OPERATIONS", "migrate, delete"),
        ("DEFAULT_VDC_HOST_ACL = \"MANAGE+ALL\"", "DEFAULT_VDC_HOST_ACL", "joined by +"),
        ("VM_RESTRICTED_ATTR = \"A/B/C\"", "VM_RESTRICTED_ATTR", "NAME/KEY"),
        ("USER_ENCRYPTED_ATTR = [ A = b ]", "USER_ENCRYPTED_ATTR", "NAME/KEY"),
        ("TLS_CERTIFICATE = /a.pem", "TLS_CERTIFICATE", "together with TLS_KEY"),
        ("TLS_KEY = /a.pem", "TLS_KEY", "together with TLS_CERTIFICATE"),
    ];
    for (text, name, allowed) in cases {
        let error = read(&format!("# first\n{text}\n")).unwrap_err().to_string();
        let sentence = error.strip_prefix("The configuration oned.conf cannot be used. ").unwrap();
        assert!(sentence.starts_with(&format!("{name} (line 2, column ")), "{text}: {error}");
        assert!(sentence.contains(allowed), "{text}: {error}");
    }
}

#[test]
fn unknown_and_repeated_attributes_are_warned_of_without_their_values() {
    let config = read("TIMEZONE = UTC\nDB = [ PASSWD = hidden ]\nPORT = 1\nport = 2\nLOG = [ OTHER = 1 ]\n").unwrap();
    let warnings = config.warnings.join("\n");
    assert!(warnings.contains("DB (line 2, column 1)"), "{warnings}");
    assert!(warnings.contains("PORT (line 4, column 1) is set a second time"), "{warnings}");
    assert!(warnings.contains("LOG/OTHER") && !warnings.contains("hidden"), "{warnings}");
    assert_eq!(config.listen.port(), 1);
    assert!(!config.to_document().contains("hidden"));
}

#[test]
fn all_wrong_values_are_told_at_once_each_with_its_column() {
    let text = "PORT = -1\n  MAX_CONN = 0 TIMEOUT=x\nLOG = [ SYSTEM = file,\n  DEBUG_LEVEL = 9 ]\n";
    let error = read(text).unwrap_err().to_string();
    for place in [
        "PORT (line 1, column 8)",
        "MAX_CONN (line 2, column 14)",
        "TIMEOUT (line 2, column 24)",
        "LOG/DEBUG_LEVEL (line 4, column 17)",
    ] {
        assert!(error.contains(place), "{place}: {error}");
    }
    assert_eq!(error.lines().count(), 4, "{error}");
}

#[test]
fn settings_of_the_original_are_told_in_one_sentence_and_misspelt_ones_with_what_is_meant() {
    let text = "TIMEZONE=UTC\nVM_MAD=[NAME=kvm]\nVM_MAD=[NAME=qemu]\nRAFT=[LIMIT_PURGE=1]\nMAX_CON=5\nTLS_CERT=/a\n";
    let warnings = read(text).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "MAX_CON (line 5, column 1) is no setting of this daemon and is not used. Is MAX_CONN meant?",
            "TLS_CERT (line 6, column 1) is no setting of this daemon and is not used.",
            "Settings of OpenNebula that mean nothing here are not used: VM_MAD (line 2, column 1), RAFT (line 4, column 1)."
        ]
    );
}

#[test]
fn a_list_in_the_file_replaces_the_default_but_host_files_stay_restricted() {
    let config = read("VM_RESTRICTED_ATTR=\"NIC/IP\"\nVM_RESTRICTED_ATTR=RAW\nUSER_ENCRYPTED_ATTR=\"\"\n").unwrap();
    let names = |list: &AttributeList| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let vm = config.restricted(ObjectKind::Vm);
    assert_eq!(names(vm), ["NIC/IP", "RAW", "OS/KERNEL", "OS/INITRD", "DISK/SOURCE"]);
    assert!(config.encrypted(ObjectKind::User).is_empty() && config.restricted(ObjectKind::Zone).is_empty());
    assert!(config.encrypted(ObjectKind::Datastore).holds("RESTIC_PASSWORD", None));
    let standard = read("").unwrap();
    for (name, key) in
        [("RAW", None), ("PCI", None), ("NIC", Some("MAC")), ("NIC", Some("BRIDGE")), ("DISK", Some("SOURCE"))]
    {
        assert!(standard.restricted(ObjectKind::Vm).holds(name, key), "{name}");
    }
}

#[test]
fn an_operation_moves_to_the_right_whose_list_names_it() {
    let config = read("VM_MANAGE_OPERATIONS = \"backup,\n  stop\"\nVM_USE_OPERATIONS = \"stop, RESUME\"\n").unwrap();
    let right = |word| config.vm_operations.right_for(VmOperation::from_word(word).unwrap());
    assert_eq!((right("backup"), right("resume")), (Some(Right::Manage), Some(Right::Use)));
    assert_eq!((right("stop"), right("migrate")), (Some(Right::Manage), Some(Right::Admin)));
    assert_eq!(right("update"), Some(Right::Manage));
    let document = config.to_document();
    let shown =
        |word: &str| document.matches(&format!("{word}, ")).count() + document.matches(&format!("{word}]]")).count();
    assert!(VmOperation::ALL.iter().all(|operation| shown(operation.word()) >= 1), "{document}");
    assert!(document.contains("<VM_USE_OPERATIONS><![CDATA[resume]]></VM_USE_OPERATIONS>"), "{document}");
    assert!(config.warnings.iter().any(|warning| warning.starts_with("stop is in VM_USE_OPERATIONS")));
}

#[test]
fn values_of_more_than_one_part_are_read() {
    let text = "VLAN_IDS=[START=10,RESERVED=\"1, 20:22\"]\nMAC_PREFIX=\"aa:0B\"\nAPI_LIST_ORDER=desc\n\
                DEFAULT_VDC_HOST_ACL=\"-\"\nDEFAULT_VDC_VNET_ACL=\"use+manage\"\nSESSION_EXPIRATION_TIME=0\n\
                TLS_CERTIFICATE=/c.pem\nTLS_KEY=/k.pem\nDUMMY_DRIVERS=yes\n";
    let config = read(text).unwrap();
    assert_eq!(config.vlan_ids.start, 10);
    assert!(config.vlan_ids.is_reserved(21) && !config.vlan_ids.is_reserved(23));
    assert_eq!((config.mac_prefix, config.api_list_order), ([0xaa, 0x0b], ListOrder::Descending));
    assert_eq!((config.vdc_acl.host, config.vdc_acl.vnet), (VdcRights(0), VdcRights(3)));
    assert_eq!(config.vdc_acl.datastore, VdcRights(1));
    assert!(config.session_expiration_time.is_zero() && config.dummy_drivers);
    assert_eq!(config.dummy_directory, Path::new("/var/lib/one/dummy"));
    assert_eq!(config.tls.unwrap().key, Path::new("/k.pem"));
}

#[test]
fn zero_backups_at_a_time_means_no_limit() {
    let config = read("MAX_BACKUPS = 0\n").unwrap();
    assert_eq!((config.max_backups, config.max_backups_host), (None, Some(2)));
}

#[test]
fn the_command_line_wins_over_the_file() {
    let listen = "127.0.0.1:0".parse().unwrap();
    let overrides = Overrides { listen: Some(listen), ..overrides() };
    let config = Config::parse("PORT = 5\nLISTEN_ADDRESS = \"::\"\n", Path::new("x"), &overrides).unwrap();
    assert_eq!(config.listen, listen);
}

#[test]
fn the_document_is_sorted_and_holds_published_attributes_only() {
    let xml = read("").unwrap().to_document();
    assert!(xml.contains("<LOG><DEBUG_LEVEL><![CDATA[3]]></DEBUG_LEVEL><SYSTEM>"), "{xml}");
    assert!(xml.find("<DEFAULT_UMASK>").unwrap() < xml.find("<KEEPALIVE_TIMEOUT>").unwrap());
    assert!(!xml.contains("TIMEZONE") && !xml.contains("TLS"), "{xml}");
    assert!(xml.contains("<DATASTORE_ENCRYPTED_ATTR><![CDATA[RESTIC_PASSWORD]]></DATASTORE_ENCRYPTED_ATTR>"), "{xml}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/oned.conf")), &overrides()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/oned.conf"));
}
