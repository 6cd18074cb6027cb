//! Numbers and layouts of the protocol, without any I/O. All integers are big-endian (NBD protocol document).

/// Greeting: `NBDMAGIC`.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, second word of the greeting and first of each option.
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
/// First word of an answer to an option.
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// First word of a request in the transmission phase.
const REQUEST: u32 = 0x2560_9513;
/// First word of an answer without chunks.
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
/// First word of an answer's chunk.
pub(super) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Handshake flags, the same bits in both directions.
pub(super) const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// The server leaves out 124 useless zeros.
pub(super) const FLAG_NO_ZEROES: u16 = 2;

/// Options.
pub(super) const OPT_GO: u32 = 7;
/// Asks for chunked answers, without which there is no block status.
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
/// Chooses the metadata contexts.
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;

/// Answers to options.
pub(super) const REP_ACK: u32 = 1;
/// A piece of information about the export.
pub(super) const REP_INFO: u32 = 3;
/// A granted context: id and name.
pub(super) const REP_META_CONTEXT: u32 = 4;
/// Set in every answer that is an error.
pub(super) const REP_ERROR: u32 = 1 << 31;
/// The server does not know the option.
pub(super) const REP_ERR_UNSUP: u32 = REP_ERROR + 1;
/// No such export.
pub(super) const REP_ERR_UNKNOWN: u32 = REP_ERROR + 6;
/// The server is going away.
pub(super) const REP_ERR_SHUTDOWN: u32 = REP_ERROR + 7;

/// The piece of information that holds size and flags.
pub(super) const INFO_EXPORT: u16 = 0;

/// Commands.
pub(super) const CMD_READ: u16 = 0;
/// Says goodbye; has no answer.
pub(super) const CMD_DISC: u16 = 2;
/// Asks what ranges hold.
pub(super) const CMD_BLOCK_STATUS: u16 = 7;

/// The last chunk of an answer.
pub(super) const CHUNK_DONE: u16 = 1;
/// Chunk types.
pub(super) const CHUNK_NONE: u16 = 0;
/// Offset and bytes.
pub(super) const CHUNK_DATA: u16 = 1;
/// Offset and number of zeros.
pub(super) const CHUNK_HOLE: u16 = 2;
/// Context id and descriptors.
pub(super) const CHUNK_BLOCK_STATUS: u16 = 5;
/// Set in every chunk type that is an error.
pub(super) const CHUNK_ERROR: u16 = 1 << 15;

/// `base:allocation`: the range reads as zeros. (Bit 0, "hole", says nothing about what it reads as.)
pub(super) const ALLOCATION_ZERO: u32 = 2;
/// `qemu:dirty-bitmap:`: the range was written.
pub(super) const BITMAP_DIRTY: u32 = 1;

/// Longest name that the protocol allows (export or context), bytes.
pub(super) const MAX_NAME_BYTES: usize = 4096;
/// Longest answer to an option that we take. A real one is an info block or a context name.
pub(super) const MAX_OPTION_REPLY_BYTES: u32 = 16 << 10;
/// Longest block-status chunk that we take: QEMU stops at 131 072 descriptors, this is eight times as many.
pub(super) const MAX_STATUS_BYTES: u32 = 4 + 8 * (1 << 20);
/// Longest error chunk: number, text (at most 4 096 bytes by the protocol), offset.
pub(super) const MAX_ERROR_BYTES: u32 = 4 + 2 + 4096 + 8;

/// Bytes of a range descriptor.
pub(super) const DESCRIPTOR_BYTES: usize = 8;

/// One range of a context, as the server said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Bytes; may be 0 only in nonsense.
    pub(super) length: u32,
    /// Meaning depends on the context.
    pub(super) flags: u32,
}

/// An option with its data.
pub(super) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + data.len());
    out.extend_from_slice(&OPTION.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&length_of(data));
    out.extend_from_slice(data);
    out
}

/// Data of SET_META_CONTEXT. Names are at most [`MAX_NAME_BYTES`] each.
pub(super) fn set_meta_context(export: &str, contexts: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    push_text(&mut out, export);
    out.extend_from_slice(&u32::try_from(contexts.len()).unwrap_or(0).to_be_bytes());
    for context in contexts {
        push_text(&mut out, context);
    }
    out
}

/// Data of GO. No information is requested: a client that asks for block sizes must then obey them, one that does not
/// may read at any byte (NBD protocol document, "Block size constraints"), and ends of disks need not be aligned.
pub(super) fn go(export: &str) -> Vec<u8> {
    let mut out = Vec::new();
    push_text(&mut out, export);
    out.extend_from_slice(&0_u16.to_be_bytes());
    out
}

/// A request of the transmission phase.
pub(super) fn request(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; 28] {
    let mut out = [0; 28];
    out[0..4].copy_from_slice(&REQUEST.to_be_bytes());
    out[6..8].copy_from_slice(&command.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..24].copy_from_slice(&offset.to_be_bytes());
    out[24..28].copy_from_slice(&length.to_be_bytes());
    out
}

/// Descriptors of a block-status chunk, after the context id. `None` unless there is at least one, all are whole and
/// none is empty.
pub(super) fn descriptors(data: &[u8]) -> Option<Vec<Descriptor>> {
    let (pairs, rest) = data.as_chunks::<DESCRIPTOR_BYTES>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let [a, b, c, d, e, f, g, h] = *pair;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length == 0 {
            return None;
        }
        out.push(Descriptor { length, flags: u32::from_be_bytes([e, f, g, h]) });
    }
    Some(out)
}

/// Number and text of an error chunk; tolerant, for it is only shown.
pub(super) fn error_chunk(data: &[u8]) -> (u32, String) {
    let number = u32_at(data, 0).unwrap_or(0);
    let length = data.get(4..6).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    let text = data.get(6..6 + length).or_else(|| data.get(6..)).unwrap_or_default();
    (number, printable(text))
}

/// The number at `at`, if it is there.
pub(super) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// The number at `at`, if it is there.
pub(super) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

/// A stranger's text made fit for a log line: no control characters, at most 200 characters.
pub(super) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// The protocol's error numbers, which are Linux's.
pub(super) fn errno_name(number: u32) -> &'static str {
    match number {
        1 => "operation not permitted",
        5 => "input/output error",
        12 => "out of memory",
        22 => "invalid argument",
        28 => "no space left",
        75 => "value too large",
        95 => "not supported",
        108 => "server is shutting down",
        _ => "unnamed error",
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&length_of(text.as_bytes()));
    out.extend_from_slice(text.as_bytes());
}

/// Our own messages are a few kilobytes at most, so the length always fits.
fn length_of(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_documented_layout() {
        assert_eq!(
            request(CMD_BLOCK_STATUS, 0x0102_0304_0506_0708, 0x10, 0x2000),
            [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x20, 0]
        );
    }

    #[test]
    fn an_option_carries_magic_number_and_length() {
        assert_eq!(option(OPT_GO, &go("vda")), b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03vda\0\0");
    }

    #[test]
    fn descriptors_are_whole_and_not_empty() {
        assert_eq!(descriptors(&[]), None);
        assert_eq!(descriptors(&[0; 8]), None);
        assert_eq!(descriptors(&[0, 0, 0, 1, 0, 0, 0, 2, 9]), None);
        assert_eq!(descriptors(&[0, 0, 0, 1, 0, 0, 0, 2]), Some(vec![Descriptor { length: 1, flags: 2 }]));
    }

    #[test]
    fn an_error_chunk_of_any_length_has_some_text() {
        assert_eq!(error_chunk(&[]), (0, String::new()));
        assert_eq!(error_chunk(b"\0\0\0\x05\0\x02no"), (5, "no".to_owned()));
        assert_eq!(error_chunk(b"\0\0\0\x05\xff\xffn\no"), (5, "n o".to_owned()));
    }
}
