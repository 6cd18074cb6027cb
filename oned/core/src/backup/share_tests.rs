use proptest::prelude::*;

use super::*;

fn config(text: &str) -> Result<Option<ShareConfig>, String> {
    ShareConfig::from_template(&Template::parse(text).unwrap())
}

fn good(text: &str) -> ShareConfig {
    config(text).unwrap().unwrap()
}

#[test]
fn shares_are_taken_in_the_forms_that_mount_knows() {
    let long = format!("nas:/{}", "a".repeat(MAX_SHARE_BYTES - 5));
    for (kind, text) in [
        ("nfs", "nas:/backups"),
        ("NFS", "nas.example.org:/"),
        ("nfs", "nas.example.org.:/a"),
        ("nfs4", "192.0.2.7:/srv/a:b"),
        ("nfs", "[2001:db8::7]:/srv"),
        ("nfs", "[fe80::1%eth0]:/srv"),
        ("nfs", "my_nas-1:/süd"),
        ("nfs", long.as_str()),
        ("cifs", "//server/share"),
        ("smb3", "//server.example.org/share$/deep/er"),
        ("cifs", "//192.0.2.7/My Share"),
        ("cifs", "//2001:db8::7/share"),
        ("ceph", "mon1,mon2:/path"),
        ("ceph", "192.0.2.1:6789,192.0.2.2:6789,[2001:db8::1]:3300,[2001:db8::2]:/"),
        ("ceph", "backup@.cephfs=/one"),
        ("ceph", "backup@c0ffee00-0000-0000-0000-000000000000.cephfs=/"),
        ("fuse.sshfs", "user@host:/dir"),
        ("fuse.sshfs", "host:"),
        ("glusterfs", "gluster1:/vol"),
        ("ext4", "/dev/disk/by-uuid/0000"),
        ("ext4", "UUID=0000"),
        ("fstab", "nas:/backups"),
    ] {
        let address = ShareAddress::parse(kind, text).unwrap_or_else(|refusal| panic!("{kind} {text}: {refusal}"));
        assert_eq!((address.kind(), address.as_str()), (kind.to_ascii_lowercase().as_str(), text));
        assert_eq!(address.to_string(), text);
    }
}

#[test]
fn wrong_shares_are_refused_with_the_right_form() {
    let long = format!("nas:/{}", "a".repeat(MAX_SHARE_BYTES - 4));
    for (kind, text, said) in [
        ("nfs", "", "SHARE is empty"),
        ("nfs", "nas", "write host:/path"),
        ("nfs", "/srv/backups", "write host:/path"),
        ("nfs", "nas:", "write host:/path"),
        ("nfs", "nas:backups", "write host:/path"),
        ("nfs", ":/backups", "write host:/path"),
        ("nfs", "2001:db8::7:/srv", "[2001:db8::7]:/path"),
        ("nfs", "[2001:db8::7:/srv", "[2001:db8::7]:/path"),
        ("nfs", "[2001:db8::7]/srv", "[2001:db8::7]:/path"),
        ("nfs", "[nas]:/srv", "[2001:db8::7]:/path"),
        ("nfs", "[fe80::1%]:/srv", "[2001:db8::7]:/path"),
        ("nfs", "[fe80::1%a/b]:/srv", "[2001:db8::7]:/path"),
        ("nfs", "192.0.2.700:/srv", "192.0.2.7:/path"),
        ("nfs", "na..s:/srv", "host:/path"),
        ("nfs", "user@nas:/srv", "host:/path"),
        ("nfs", "a,b:/srv", "host:/path"),
        ("nfs", "-nas:/srv", "begins with a dash"),
        ("nfs", "nas:/my backups", "without blanks"),
        ("nfs", "nas:/a\nb", "without blanks"),
        ("nfs", "nas:/a\u{202e}b", "without blanks"),
        ("nfs", long.as_str(), "at most 1024"),
        ("cifs", "server/share", "//server/share"),
        ("cifs", "\\\\server\\share", "//server/share"),
        ("cifs", "//server", "//server/share"),
        ("cifs", "//server/", "//server/share"),
        ("cifs", "//server/ ", "//server/share"),
        ("cifs", "//server//x", "//server/share"),
        ("cifs", "///share", "//server/share"),
        ("cifs", "//server/a\tb", "without blanks"),
        ("ceph", "mon1,mon2", "mon1,mon2:/path"),
        ("ceph", "mon1,,mon2:/", "mon1,mon2:/path"),
        ("ceph", "mon1:99999:/", "mon1,mon2:/path"),
        ("ceph", "mon1:0:/", "mon1,mon2:/path"),
        ("ceph", "@.fs=/", "name@fsid"),
        ("fuse.sshfs", "-oProxyCommand=x", "begins with a dash"),
        ("fuse.sshfs", "a b:/", "without blanks"),
        ("", "nas:/a", "SHARE_TYPE"),
        ("-t", "nas:/a", "SHARE_TYPE"),
        ("nfs,cifs", "nas:/a", "SHARE_TYPE"),
        ("n fs", "nas:/a", "SHARE_TYPE"),
    ] {
        let refusal = ShareAddress::parse(kind, text).expect_err(text);
        assert!(refusal.contains(said), "{kind} {text}: {refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn without_a_share_the_datastore_is_a_local_directory() {
    assert_eq!(config("BASE_PATH = /srv"), Ok(None));
    assert_eq!(config("SHARE = \"\"\nMOUNT_OPTIONS = None"), Ok(None));
    assert!(config("MOUNT_OPTIONS = \"ro\"").unwrap_err().contains("without a SHARE"));
}

#[test]
fn all_attributes_have_defaults_and_cinders_spellings() {
    let plain = good("SHARE = \"nas:/b\"");
    assert_eq!((plain.address.kind(), plain.attempts), ("nfs", 3));
    assert!(plain.options.is_empty() && plain.secrets.is_empty());
    let cinder =
        good("backup_share = \"nas:/b\"\nbackup_mount_options = \"vers=4.1,timeo=600\"\nbackup_mount_attempts = 5");
    assert_eq!(cinder.address.as_str(), "nas:/b");
    assert_eq!(cinder.options, ["vers=4.1", "timeo=600"]);
    assert_eq!(cinder.attempts, 5);
    let both = good("BACKUP_SHARE = \"old:/b\"\nSHARE = \"new:/b\"\nSHARE_TYPE = NFS4");
    assert_eq!((both.address.as_str(), both.address.kind()), ("new:/b", "nfs4"));
    for none in ["None", "none", "NONE", ""] {
        assert!(good(&format!("SHARE = \"nas:/b\"\nMOUNT_OPTIONS = \"{none}\"")).options.is_empty());
    }
    for wrong in ["0", "11", "-1", "three", "1.5"] {
        let refusal = config(&format!("SHARE = \"nas:/b\"\nMOUNT_ATTEMPTS = \"{wrong}\"")).unwrap_err();
        assert!(refusal.contains("from 1 to 10"), "{refusal}");
    }
}

#[test]
fn options_that_mount_would_misread_are_refused() {
    let long = "a,".repeat(600);
    for (options, said) in [
        ("ro, soft", "blank"),
        ("ro,,soft", "empty option"),
        (",ro", "empty option"),
        ("ro,", "empty option"),
        ("=x", "empty option"),
        ("-o", "dash"),
        ("ro,-v", "dash"),
        ("bind", "bind"),
        ("ro,ReMount", "remount"),
        (long.as_str(), "at most 1024"),
        ("secret=abc", "cannot be given to nfs"),
    ] {
        let refusal = config(&format!("SHARE = \"nas:/b\"\nMOUNT_OPTIONS = \"{options}\"")).expect_err(options);
        assert!(refusal.contains(said), "{options}: {refusal}");
    }
    let refusal = config("SHARE = \"nas:/b\"\nSHARE_TYPE = fstab\nMOUNT_OPTIONS = ro").unwrap_err();
    assert!(refusal.contains("/etc/fstab"), "{refusal}");
}

#[test]
fn secrets_stand_apart_and_are_never_told() {
    let cifs = |options: &str| config(&format!("SHARE = \"//s/b\"\nSHARE_TYPE = cifs\nMOUNT_OPTIONS = \"{options}\""));
    let found = cifs("user=one,Password=geheim=1,vers=3.0").unwrap().unwrap();
    assert_eq!(found.options, ["user=one", "vers=3.0"]);
    assert_eq!(found.secrets, [("password".to_owned(), "geheim=1".to_owned())]);
    assert!(!format!("{found:?}").contains("geheim"));
    let found = cifs("username=DOM/one%geheim").unwrap().unwrap();
    assert_eq!(found.options, ["username=DOM/one"]);
    assert_eq!(found.secrets, [("password".to_owned(), "geheim".to_owned())]);
    let ceph = good("SHARE = \"mon:/\"\nSHARE_TYPE = ceph\nMOUNT_OPTIONS = \"name=one,secret=geheim\"");
    assert_eq!(ceph.options, ["name=one"]);
    assert_eq!(ceph.secrets, [("secret".to_owned(), "geheim".to_owned())]);
    for wrong in ["pass=geheim,passwd=geheim", "password=geheim,,ro", "secret=geheim", "password=geheim,-x"] {
        let refusal = cifs(wrong).unwrap_err();
        assert!(!refusal.contains("geheim"), "{refusal}");
    }
    assert_eq!(shown_options("user=a%geheim,PASS=geheim,ro,secret=geheim"), "user=a%***,PASS=***,ro,secret=***");
    assert_eq!(shown_options("nfsvers=4.1"), "nfsvers=4.1");
    assert_eq!(shown_options(""), "");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_what_passes_is_one_argument(
        kind in "(nfs|cifs|ceph|fuse\\.sshfs|\\PC{0,8})",
        share in "(\\PC{0,40}|[\\[\\]:/,.%@=a1 -]{0,24}|[a-z]{1,4}:/.{0,8})",
        options in "(\\PC{0,40}|([a-z]{0,4}=?[a-z%]{0,3},?){0,5})",
    ) {
        if let Ok(address) = ShareAddress::parse(&kind, &share) {
            prop_assert!(!address.as_str().starts_with('-'));
            prop_assert!(!address.as_str().chars().any(char::is_control));
            prop_assert!(address.as_str().len() <= MAX_SHARE_BYTES);
        }
        let mut template = Template::new();
        template.set("SHARE", "//s/b");
        template.set("SHARE_TYPE", "cifs");
        template.set("MOUNT_OPTIONS", options.clone());
        if let Ok(Some(found)) = ShareConfig::from_template(&template) {
            for option in &found.options {
                prop_assert!(!option.is_empty() && !option.contains(',') && !option.starts_with('-'));
                prop_assert!(!option.to_lowercase().starts_with("pass"), "{option}");
            }
        }
        shown_options(&options);
    }

    #[test]
    fn no_secret_is_left_in_what_is_shown(secret in "[a-z0-9=%]{6,20}", name in "(password|pass|PASSWD|secret)") {
        let shown = shown_options(&format!("ro,{name}={secret}"));
        prop_assert!(!shown.contains(&secret));
    }
}
