//! The NBD client against servers that cut, stall, trickle and talk nonsense.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its own functions too")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use drivers::nbd::Export;
use drivers::{Content, DiskReader, DriverError, Extent, Kind, Result};
use proptest::prelude::*;
use tempfile::TempDir;

const SIZE: u64 = 4096;

/// What a server does after its script.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    Stall,
}

/// A server that says `script` to one client, whatever that asks, then does `then`.
struct Fake {
    socket: PathBuf,
    _dir: TempDir,
}

impl Fake {
    fn start(script: Vec<u8>, then: Then) -> Self {
        Self::paced(script, then, None)
    }

    /// One byte per `pace`, if any.
    fn paced(script: Vec<u8>, then: Then, pace: Option<Duration>) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            match pace {
                None => drop(stream.write_all(&script)),
                Some(pace) => {
                    for byte in script {
                        if stream.write_all(&[byte]).is_err() {
                            break;
                        }
                        thread::sleep(pace);
                    }
                }
            }
            if then == Then::Close {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            // Ends when the client has gone.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        Self { socket, _dir: dir }
    }
}

fn greeting() -> Vec<u8> {
    let mut out = b"NBDMAGICIHAVEOPT".to_vec();
    out.extend(3_u16.to_be_bytes());
    out
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn context(id: u32, name: &str) -> Vec<u8> {
    let mut data = id.to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    option_reply(10, 4, &data)
}

fn export_info(size: u64) -> Vec<u8> {
    let mut data = 0_u16.to_be_bytes().to_vec();
    data.extend(size.to_be_bytes());
    data.extend(3_u16.to_be_bytes());
    option_reply(7, 3, &data)
}

/// Allocation is context 1, the bitmap `b` context 2, in the "wrong" order.
fn handshake(size: u64) -> Vec<u8> {
    [
        greeting(),
        option_reply(8, 1, &[]),
        context(2, "qemu:dirty-bitmap:b"),
        context(1, "base:allocation"),
        option_reply(10, 1, &[]),
        option_reply(7, 3, &[0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]),
        export_info(size),
        option_reply(7, 1, &[]),
    ]
    .concat()
}

fn chunk(done: bool, kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(u16::from(done).to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn status(done: bool, cookie: u64, id: u32, list: &[(u32, u32)]) -> Vec<u8> {
    let mut data = id.to_be_bytes().to_vec();
    for (length, flags) in list {
        data.extend(length.to_be_bytes());
        data.extend(flags.to_be_bytes());
    }
    chunk(done, 5, cookie, &data)
}

fn bytes(done: bool, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    chunk(done, 1, cookie, &[&offset.to_be_bytes(), data].concat())
}

fn hole(done: bool, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    chunk(done, 2, cookie, &[&offset.to_be_bytes()[..], &length.to_be_bytes()[..]].concat())
}

/// A correct conversation: two block-status requests (the server answers for 1024 bytes first), two reads, interleaved.
fn conversation() -> Vec<u8> {
    [
        handshake(SIZE),
        status(false, 1, 2, &[(512, 1), (512, 0)]),
        status(true, 1, 1, &[(2048, 0)]),
        status(false, 2, 1, &[(1024, 0), (u32::MAX, 3)]),
        status(false, 2, 2, &[(3072, 1)]),
        chunk(true, 0, 2, &[]),
        bytes(false, 4, 3072, &[4; 512]),
        hole(false, 3, 512, 512),
        bytes(true, 3, 0, &[3; 512]),
        bytes(true, 4, 3584, &[5; 512]),
    ]
    .concat()
}

type Seen = (Vec<Extent>, Vec<(u64, Vec<u8>)>);

/// Everything that `conversation` answers.
fn converse(fake: &Fake, timeout: Duration) -> Result<Seen> {
    let mut export = Export::connect_unix(&fake.socket, "d", Some("b"), timeout)?;
    let extents = export.extents()?;
    let mut read = Vec::new();
    export.read(&mut [(0, 1024), (3072, 1024)].into_iter(), &mut |offset, data| {
        read.push((offset, data));
        Ok(())
    })?;
    Ok((extents, read))
}

fn error_after_handshake(answers: &[Vec<u8>]) -> DriverError {
    let fake = Fake::start([handshake(SIZE), answers.concat()].concat(), Then::Stall);
    converse(&fake, Duration::from_secs(20)).unwrap_err()
}

#[test]
fn interleaved_answers_of_unequal_length_are_put_together() {
    let (extents, read) = converse(&Fake::start(conversation(), Then::Close), Duration::from_secs(20)).unwrap();
    let extent = |offset, length, content| Extent { offset, length, content };
    assert_eq!(
        extents,
        [extent(0, 512, Content::Data), extent(1024, 1024, Content::Data), extent(2048, 2048, Content::Zero)]
    );
    assert_eq!(read, [(0, [[3; 512], [0; 512]].concat()), (3072, [[4; 512], [5; 512]].concat()),]);
}

#[test]
fn a_conversation_cut_anywhere_is_an_error_to_retry() {
    let whole = conversation();
    for cut in 0..whole.len() {
        let error = converse(&Fake::start(whole[..cut].to_vec(), Then::Close), Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "cut at {cut}: {error}");
    }
}

#[test]
fn a_server_that_stalls_is_an_error_to_retry() {
    let whole = conversation();
    for stall in [0, 17, 18, 30, handshake(SIZE).len(), whole.len() - 700, whole.len() - 1] {
        let fake = Fake::start(whole[..stall].to_vec(), Then::Stall);
        let error = converse(&fake, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "stalled at {stall}: {error}");
        assert!(error.to_string().contains("did not answer in time"), "{error}");
    }
}

#[test]
fn a_server_that_trickles_does_not_stretch_the_deadline() {
    let fake = Fake::paced(conversation(), Then::Stall, Some(Duration::from_millis(20)));
    let error = converse(&fake, Duration::from_millis(200)).unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
}

#[test]
fn a_listener_that_accepts_nobody_does_not_hold_us() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = Export::connect_unix(&socket, "d", None, Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
}

#[test]
fn a_server_without_chunks_gives_a_full_disk_of_data() {
    let simple = |cookie: u64, data: &[u8]| {
        [&0x6744_6698_u32.to_be_bytes()[..], &0_u32.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
    };
    let script = |bitmap| {
        let unsupported = |option| option_reply(option, (1 << 31) + 1, b"what?");
        let parts = [greeting(), unsupported(8), export_info(SIZE), option_reply(7, 1, &[]), simple(1, &[6; 512])];
        Export::connect_unix(&Fake::start(parts.concat(), Then::Stall).socket, "d", bitmap, Duration::from_secs(20))
    };
    let mut export = script(None).unwrap();
    assert!(!export.knows_allocation());
    assert_eq!(export.extents().unwrap(), [Extent { offset: 0, length: SIZE, content: Content::Data }]);
    let mut got = Vec::new();
    export
        .read(&mut std::iter::once((512, 512)), &mut |at, data| {
            got.push((at, data));
            Ok(())
        })
        .unwrap();
    assert_eq!(got, [(512, vec![6; 512])]);
    // Whoever asked for changes does not get everything instead.
    assert_eq!(script(Some("b")).unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_read_error_carries_the_servers_words() {
    let error = chunk(true, 0x8001, 3, b"\0\0\0\x05\0\x09disk gone");
    let both = [status(false, 1, 2, &[(4096, 1)]), status(true, 1, 1, &[(4096, 0)])];
    // Cookie 2 is the first read here: the status came in one answer.
    let error2 = chunk(true, 0x8001, 2, b"\0\0\0\x05\0\x09disk gone");
    let got = error_after_handshake(&[both.concat(), error2]);
    assert!(got.kind == Kind::Retry && got.to_string().contains("disk gone"), "{got}");
    let got = error_after_handshake(&[both.concat(), error]);
    assert!(matches!(got.kind, Kind::Retry | Kind::Permanent), "{got}");
}

#[test]
fn nonsense_after_the_handshake_is_refused() {
    let both = [status(false, 1, 2, &[(4096, 1)]), status(true, 1, 1, &[(4096, 0)])].concat();
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("bad magic", vec![b"NOPENOPENOPENOPENOPE".to_vec()]),
        ("another cookie", vec![status(true, 9, 2, &[(4096, 1)])]),
        ("a context left out", vec![status(true, 1, 2, &[(4096, 1)])]),
        ("a context twice", vec![status(false, 1, 2, &[(4096, 1)]), status(true, 1, 2, &[(4096, 1)])]),
        ("an unknown context", vec![status(true, 1, 7, &[(4096, 1)])]),
        ("an empty range", vec![status(false, 1, 2, &[(0, 1)])]),
        ("no ranges", vec![status(false, 1, 2, &[])]),
        ("a huge chunk", vec![[&chunk(false, 5, 1, &[])[..16], &u32::MAX.to_be_bytes()[..]].concat()]),
        ("a huge error", vec![[&chunk(true, 0x8001, 1, &[])[..16], &u32::MAX.to_be_bytes()[..]].concat()]),
        ("endless chunks", vec![chunk(false, 0, 1, &[]); 100]),
        ("data outside the request", vec![both.clone(), bytes(true, 2, 1024, &[1; 512])]),
        ("data longer than the request", vec![both.clone(), bytes(true, 2, 0, &[1; 1025])]),
        ("data twice", vec![both.clone(), bytes(false, 2, 0, &[1; 512]), bytes(true, 2, 511, &[1; 513])]),
        ("a hole of the wrong length", vec![both.clone(), hole(true, 2, 0, u32::MAX)]),
        ("an end before the data", vec![both.clone(), bytes(true, 2, 0, &[1; 512])]),
        ("a chunk without data", vec![both.clone(), bytes(true, 2, 0, &[])]),
        ("a simple answer", vec![both, [&0x6744_6698_u32.to_be_bytes()[..], &[0; 4], &2_u64.to_be_bytes()].concat()]),
    ];
    for (what, answers) in cases {
        let error = error_after_handshake(&answers);
        assert_eq!(error.kind, Kind::Permanent, "{what}: {error}");
    }
}

#[test]
fn nonsense_in_the_handshake_is_refused() {
    let opening = [greeting(), option_reply(8, 1, &[])].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n".to_vec()),
        ("oldstyle", [b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53".to_vec(), vec![0; 200]].concat()),
        ("not fixed newstyle", b"NBDMAGICIHAVEOPT\0\0".to_vec()),
        ("another option", [greeting(), option_reply(7, 1, &[])].concat()),
        ("a huge answer", [&greeting(), &option_reply(8, 1, &[])[..16], &u32::MAX.to_be_bytes()[..]].concat()),
        ("endless answers", [opening.clone(), context(1, "base:allocation").repeat(100)].concat()),
        ("TLS only", [greeting(), option_reply(8, 1, &[]), option_reply(10, (1 << 31) + 5, b"TLS first")].concat()),
        (
            "one id twice",
            [
                opening.clone(),
                context(1, "base:allocation"),
                context(1, "qemu:dirty-bitmap:b"),
                option_reply(10, 1, &[]),
            ]
            .concat(),
        ),
        (
            "no size",
            [&handshake(SIZE)[..handshake(SIZE).len() - export_info(0).len() - 20], &option_reply(7, 1, &[])].concat(),
        ),
        ("an impossible size", handshake(u64::MAX)),
    ];
    for (what, script) in cases {
        let error = converse(&Fake::start(script, Then::Stall), Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.kind, Kind::Permanent, "{what}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_server_of_random_bytes_never_breaks_the_client(script in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = converse(&Fake::start([handshake(SIZE), script.clone()].concat(), Then::Close), Duration::from_secs(20));
        let _ = converse(&Fake::start(script, Then::Close), Duration::from_secs(20));
    }

    #[test]
    fn a_conversation_with_changed_bytes_never_breaks_the_client(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut script = conversation();
        for (at, byte) in changes {
            let at = at.index(script.len());
            script[at] = byte;
        }
        if let Ok((extents, read)) = converse(&Fake::start(script, Then::Close), Duration::from_secs(20)) {
            // A size may have changed too, so only order and shape are certain.
            prop_assert!(extents.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
            prop_assert!(read.iter().all(|(_, data)| data.len() == 1024));
        }
    }
}
