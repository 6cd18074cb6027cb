use super::*;

fn read(ds_mad: &str, text: &str) -> Result<StoreSettings, String> {
    StoreSettings::from_template(ds_mad, &Template::parse(text).unwrap())
}

#[test]
fn what_is_not_said_is_as_the_table_has_it() {
    let plain = read(NFS, "").unwrap();
    assert_eq!(plain.driver, Driver::Nfs { compression: ImageCompression::None });
    assert_eq!((plain.share, plain.limit_bytes_s, plain.nice, plain.timeout_s), (None, None, 0, 60));
    let restic = read(RESTIC, "RESTIC_PASSWORD=p\nCHUNK_SIZE_KB=\"\"\n").unwrap().driver;
    let expected = Driver::Restic {
        password: "p".into(),
        shared: false,
        chunk_kib: None,
        compression_level: None,
        threads: None,
        verify_writes: true,
    };
    assert_eq!(restic, expected);
}

#[test]
fn everything_can_be_said() {
    let text = "RESTIC_PASSWORD=p\nRESTIC_SHARED=yes\nCHUNK_SIZE_KB=1024\nRESTIC_COMPRESSION=MAX\nRESTIC_MAXPROC=3\n\
                RESTIC_VERIFY_WRITES=NO\nRESTIC_BWLIMIT=512\nLIMIT_MB_S=2\nRESTIC_NICE=7\nTIMEOUT=5\n\
                SHARE=\"//nas/a\"\nSHARE_TYPE=cifs\nMOUNT_OPTIONS=\"user=u,password=horse\"\n";
    let settings = read(RESTIC, text).unwrap();
    let Driver::Restic { shared, chunk_kib, compression_level, threads, verify_writes, .. } = settings.driver.clone()
    else {
        panic!("another driver")
    };
    assert_eq!((shared, chunk_kib, compression_level), (true, Some(1024), Some(19)));
    assert_eq!((threads, verify_writes), (Some(3), false));
    assert_eq!((settings.limit_bytes_s, settings.nice, settings.timeout_s), (Some(512 << 10), 7, 5));
    assert_eq!(settings.share.as_ref().unwrap().secrets, [("password".to_owned(), "horse".to_owned())]);
    assert!(!format!("{settings:?}").contains("horse") && !format!("{settings:?}").contains("\"p\""), "{settings:?}");
    let nfs = read(NFS, "COMPRESSION=Zstd\nNICE=19\nRESTIC_NICE=1\nLIMIT_MB_S=1\nRESTIC_BWLIMIT=1\n").unwrap();
    assert_eq!(nfs.driver, Driver::Nfs { compression: ImageCompression::Zstd });
    assert_eq!((nfs.nice, nfs.limit_bytes_s), (19, Some(1 << 20)), "what belongs to restic is not for nfs");
}

#[test]
fn a_mistake_is_named_with_what_would_be_right() {
    for (line, sentence) in [
        ("CHUNK_SIZE_KB=63", "CHUNK_SIZE_KB is \"63\", but must be a whole number from 64 to 4096 (KiB)."),
        ("CHUNK_SIZE_KB=65", "CHUNK_SIZE_KB is 65, but must be a power of two from 64 to 4096."),
        ("CHUNK_SIZE_KB=-1", "CHUNK_SIZE_KB is \"-1\", but must be a whole number from 64 to 4096 (KiB)."),
        ("RESTIC_COMPRESSION=zip", "RESTIC_COMPRESSION is \"zip\", but must be off or auto or max."),
        ("RESTIC_SHARED=maybe", "RESTIC_SHARED is \"maybe\", but must be YES or NO."),
        ("RESTIC_VERIFY_WRITES=2", "RESTIC_VERIFY_WRITES is \"2\", but must be YES or NO."),
        ("RESTIC_MAXPROC=0", "RESTIC_MAXPROC is \"0\", but must be a whole number from 1 to 64 (threads)."),
        (
            "RESTIC_BWLIMIT=fast",
            "RESTIC_BWLIMIT is \"fast\", but must be a whole number from 1 to 1000000000 (KiB per second).",
        ),
        ("LIMIT_MB_S=0.5", "LIMIT_MB_S is \"0.5\", but must be a whole number from 1 to 1000000 (MiB per second)."),
        ("TIMEOUT=4", "TIMEOUT is \"4\", but must be a whole number from 5 to 3600 (seconds)."),
        ("TIMEOUT=[A=4]", "TIMEOUT is a vector, but must be one value."),
    ] {
        assert_eq!(read(RESTIC, &format!("RESTIC_PASSWORD=p\n{line}\n")).unwrap_err(), sentence);
    }
    assert!(read(RESTIC, "NICE=20\nRESTIC_PASSWORD=p\n").unwrap_err().starts_with("NICE is \"20\""));
    assert!(read(RESTIC, "RESTIC_NICE=-1\nRESTIC_PASSWORD=p\n").unwrap_err().starts_with("RESTIC_NICE is \"-1\""));
    assert!(read(RESTIC, "RESTIC_PASSWORD=\"\"\n").unwrap_err().contains("RESTIC_PASSWORD"));
    assert!(read(RESTIC, "RESTIC_PASSWORD=p\nRESTIC_SFTP_SERVER=a\n").unwrap_err().contains("fuse.sshfs"));
    assert_eq!(
        read(NFS, "COMPRESSION=lz4\n").unwrap_err(),
        "COMPRESSION is \"lz4\", but must be none or zlib or zstd."
    );
    assert!(read(NFS, "SHARE=\"nas\"\n").unwrap_err().contains("host:/path"));
    assert!(read(NFS, "MOUNT_OPTIONS=\"soft\"\n").unwrap_err().contains("without a SHARE"));
}
