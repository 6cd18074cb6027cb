//! The bytes of a restic repository, version 2: ids, encryption, blobs and packs.
//!
//! The source of every layout here is restic's design document (doc/design.rst, sections "Repository Format", "Pack
//! Format", "Keys, Encryption and MAC"). This module knows neither files nor threads nor any repository library.
//!
//! Invariants: nothing that leaves [`Cipher::seal`] is readable without the key; nothing that leaves
//! [`Cipher::open`] was altered since it was sealed; a nonce is never used twice (16 random bytes each).

use std::fmt;
use std::io::Read as _;

use aes256ctr_poly1305aes::aead::AeadInPlace as _;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce, Tag};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::{DriverError, Kind, Result};

/// Bytes of the nonce in front of every sealed piece.
pub(super) const NONCE_BYTES: usize = 16;
/// Bytes of the authentication tag behind it.
pub(super) const TAG_BYTES: usize = 16;
/// What sealing adds in all.
pub(super) const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// First plain byte of a compressed index, snapshot or lock file; such a file not compressed begins with `{` or `[`.
const COMPRESSED_DOCUMENT: u8 = 2;
/// The longest plain document that is read: an index file of 50 000 blobs has about 10 MiB.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;
/// The longest plain blob that is read; a directory of one 64 GiB disk in 64 KiB chunks has 70 MiB.
const MAX_BLOB_BYTES: u32 = 512 << 20;

/// SHA-256 of what it names: of the plain bytes for a blob, of the stored bytes for a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub(super) [u8; 32]);

impl Id {
    /// The id of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The id of the concatenation of `parts`.
    pub(super) fn of_parts<P: AsRef<[u8]>>(parts: &[P]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.as_ref());
        }
        Self(hash.finalize().into())
    }

    /// From exactly 64 lower-case hex digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(id))
    }

    /// 64 lower-case hex digits.
    pub(super) fn hex(&self) -> String {
        self.to_string()
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Hex;
        impl de::Visitor<'_> for Hex {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Id, E> {
                Id::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

/// What a blob is; a pack holds blobs of one kind only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory.
    Tree,
}

/// AES-256-CTR with Poly1305-AES under the repository's master key.
#[derive(Clone)]
pub(super) struct Cipher(Aes256CtrPoly1305Aes);

impl Cipher {
    /// From 32 bytes for AES-256, 16 for the tag's AES-128 and 16 for Poly1305, in this order.
    pub(super) fn new(key: &[u8; 64]) -> Self {
        Self(Aes256CtrPoly1305Aes::new(Key::from_slice(key)))
    }

    /// Seals `buffer`, whose first [`NONCE_BYTES`] are room for the nonce; the tag is appended.
    pub(super) fn seal(&self, buffer: &mut Vec<u8>) -> Result<()> {
        let (nonce, plain) = buffer
            .split_at_mut_checked(NONCE_BYTES)
            .ok_or_else(|| DriverError::new(Kind::Permanent, "encrypting", "no room for the nonce"))?;
        getrandom::fill(nonce).map_err(|error| {
            DriverError::new(Kind::Permanent, "encrypting", format!("the system gives no random bytes: {error}"))
        })?;
        let tag = self
            .0
            .encrypt_in_place_detached(Nonce::from_slice(nonce), b"", plain)
            .map_err(|_| DriverError::new(Kind::Permanent, "encrypting", "the piece is too long"))?;
        buffer.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens what [`Self::seal`] made; the plain bytes stay in place within `sealed`. `None` when it was altered, cut
    /// or sealed under another key.
    pub(super) fn open<'a>(&self, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (nonce, rest) = sealed.split_at_mut_checked(NONCE_BYTES)?;
        let (plain, tag) = rest.split_at_mut_checked(rest.len().checked_sub(TAG_BYTES)?)?;
        self.0.decrypt_in_place_detached(Nonce::from_slice(nonce), b"", plain, Tag::from_slice(tag)).ok()?;
        Some(plain)
    }

    /// A snapshot, index or lock file around `json`.
    pub(super) fn seal_document(&self, json: &[u8]) -> Result<Vec<u8>> {
        let compressed = zstd::bulk::compress(json, zstd::DEFAULT_COMPRESSION_LEVEL)
            .map_err(|error| DriverError::io("compressing a repository document", error))?;
        let mut buffer = Vec::with_capacity(compressed.len() + SEAL_BYTES + 1);
        buffer.resize(NONCE_BYTES, 0);
        buffer.push(COMPRESSED_DOCUMENT);
        buffer.extend_from_slice(&compressed);
        self.seal(&mut buffer)?;
        Ok(buffer)
    }

    /// The JSON within a snapshot, index, lock or config file; the `Err` is one clause for people.
    pub(super) fn open_document(&self, mut sealed: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
        let plain = self.open(&mut sealed).ok_or("it is damaged or was written under another key")?;
        match plain.first() {
            Some(b'{' | b'[') => Ok(plain.to_vec()),
            Some(&COMPRESSED_DOCUMENT) => {
                let mut json = Vec::new();
                let decoder = zstd::stream::read::Decoder::new(&plain[1..]).map_err(|e| e.to_string())?;
                decoder.take(MAX_DOCUMENT_BYTES).read_to_end(&mut json).map_err(|e| e.to_string())?;
                Ok(json)
            }
            _ => Err("its first byte names no encoding known here".to_owned()),
        }
    }
}

/// Seals blobs; holds one thread's compression state.
pub(super) struct BlobSealer {
    cipher: Cipher,
    compressor: zstd::bulk::Compressor<'static>,
    /// Where a blob is compressed before its sealed length is known: sealed blobs wait in a pack by the thousand, so
    /// each must own no more memory than it fills.
    scratch: Vec<u8>,
    opener: Option<BlobOpener>,
}

/// A blob as it lies in a pack.
pub(super) struct SealedBlob {
    /// Its id.
    pub(super) id: Id,
    /// Nonce, ciphertext and tag.
    pub(super) bytes: Vec<u8>,
    /// Length of the plain bytes when they were compressed; 0 when they were stored as they are.
    pub(super) uncompressed_length: u32,
}

impl BlobSealer {
    /// With zstd `level`; `verify` opens each blob again before it is handed out.
    pub(super) fn new(cipher: Cipher, level: i32, verify: bool) -> Result<Self> {
        let compressor =
            zstd::bulk::Compressor::new(level).map_err(|error| DriverError::io("preparing compression", error))?;
        let opener = if verify { Some(BlobOpener::new(cipher.clone())?) } else { None };
        Ok(Self { cipher, compressor, scratch: Vec::new(), opener })
    }

    /// Compresses where that helps, and seals.
    pub(super) fn seal(&mut self, id: Id, plain: &[u8]) -> Result<SealedBlob> {
        let doing = "storing a chunk";
        let plain_length = u32::try_from(plain.len())
            .ok()
            .filter(|length| *length <= MAX_BLOB_BYTES)
            .ok_or_else(|| DriverError::new(Kind::Permanent, doing, "it is too long for the repository format"))?;
        self.scratch.resize(zstd::zstd_safe::compress_bound(plain.len()), 0);
        let compressed = self
            .compressor
            .compress_to_buffer(plain, self.scratch.as_mut_slice())
            .map_err(|error| DriverError::io(doing, error))?;
        let (stored, uncompressed_length) =
            if compressed < plain.len() { (&self.scratch[..compressed], plain_length) } else { (plain, 0) };
        let mut bytes = Vec::with_capacity(stored.len() + SEAL_BYTES);
        bytes.resize(NONCE_BYTES, 0);
        bytes.extend_from_slice(stored);
        self.cipher.seal(&mut bytes)?;
        if let Some(opener) = &mut self.opener {
            let again = opener.open(bytes.clone(), uncompressed_length).ok();
            if again.as_deref() != Some(plain) {
                return Err(DriverError::new(
                    Kind::Permanent,
                    doing,
                    "the encrypted copy does not open to the same bytes; the memory or processor of this host is faulty",
                ));
            }
        }
        Ok(SealedBlob { id, bytes, uncompressed_length })
    }
}

/// Opens blobs; holds one thread's decompression state.
pub(super) struct BlobOpener {
    cipher: Cipher,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl BlobOpener {
    /// For blobs under `cipher`.
    pub(super) fn new(cipher: Cipher) -> Result<Self> {
        let decompressor =
            zstd::bulk::Decompressor::new().map_err(|error| DriverError::io("preparing decompression", error))?;
        Ok(Self { cipher, decompressor })
    }

    /// The plain bytes of a blob; the `Err` is one clause for people. The caller compares the id.
    pub(super) fn open(
        &mut self,
        mut sealed: Vec<u8>,
        uncompressed_length: u32,
    ) -> std::result::Result<Vec<u8>, &'static str> {
        let length = self.cipher.open(&mut sealed).ok_or("its authentication tag does not match")?.len();
        if uncompressed_length == 0 {
            sealed.truncate(NONCE_BYTES + length);
            sealed.drain(..NONCE_BYTES);
            return Ok(sealed);
        }
        if uncompressed_length > MAX_BLOB_BYTES {
            return Err("it claims an impossible length");
        }
        let plain = self
            .decompressor
            .decompress(&sealed[NONCE_BYTES..NONCE_BYTES + length], uncompressed_length as usize)
            .map_err(|_| "it does not decompress")?;
        if plain.len() == uncompressed_length as usize { Ok(plain) } else { Err("its length is not the recorded one") }
    }
}

/// A blob's place in a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedBlob {
    /// Its id.
    pub(super) id: Id,
    /// First byte within the pack.
    pub(super) offset: u32,
    /// Sealed length.
    pub(super) length: u32,
    /// As in [`SealedBlob::uncompressed_length`].
    pub(super) uncompressed_length: u32,
}

/// A pack being filled: sealed blobs back to back.
pub(super) struct PackBuilder {
    kind: BlobKind,
    parts: Vec<Vec<u8>>,
    blobs: Vec<PackedBlob>,
    length: u32,
}

/// A finished pack file.
pub(super) struct Pack {
    /// Its name.
    pub(super) id: Id,
    /// What it holds.
    pub(super) kind: BlobKind,
    /// Its bytes, in order.
    pub(super) parts: Vec<Vec<u8>>,
    /// Where its blobs are.
    pub(super) blobs: Vec<PackedBlob>,
}

impl PackBuilder {
    /// An empty pack for blobs of `kind`.
    pub(super) fn new(kind: BlobKind) -> Self {
        Self { kind, parts: Vec::new(), blobs: Vec::new(), length: 0 }
    }

    /// Bytes so far.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Whether nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Appends a blob.
    pub(super) fn push(&mut self, blob: SealedBlob) -> Result<()> {
        let too_long = || DriverError::new(Kind::Permanent, "filling a pack", "it would pass 4 GiB");
        let length = u32::try_from(blob.bytes.len()).map_err(|_| too_long())?;
        let end = self.length.checked_add(length).ok_or_else(too_long)?;
        self.blobs.push(PackedBlob {
            id: blob.id,
            offset: self.length,
            length,
            uncompressed_length: blob.uncompressed_length,
        });
        self.parts.push(blob.bytes);
        self.length = end;
        Ok(())
    }

    /// Appends the sealed header and its length. A header entry is: type (0 data, 1 tree, 2 and 3 the same compressed),
    /// sealed length, plain length (only when compressed), id; numbers are 32-bit little endian.
    pub(super) fn finish(mut self, cipher: &Cipher) -> Result<Pack> {
        let mut header = vec![0; NONCE_BYTES];
        for blob in &self.blobs {
            let base = if self.kind == BlobKind::Data { 0 } else { 1 };
            let compressed = blob.uncompressed_length != 0;
            header.push(if compressed { base + 2 } else { base });
            header.extend_from_slice(&blob.length.to_le_bytes());
            if compressed {
                header.extend_from_slice(&blob.uncompressed_length.to_le_bytes());
            }
            header.extend_from_slice(&blob.id.0);
        }
        cipher.seal(&mut header)?;
        let length = u32::try_from(header.len())
            .map_err(|_| DriverError::new(Kind::Permanent, "closing a pack", "its header is too long"))?;
        header.extend_from_slice(&length.to_le_bytes());
        self.parts.push(header);
        let id = Id::of_parts(&self.parts);
        Ok(Pack { id, kind: self.kind, parts: self.parts, blobs: self.blobs })
    }
}

/// Length of a blob's entry in a pack's header; see [`PackBuilder::finish`].
pub(super) const fn header_entry_bytes(is_compressed: bool) -> usize {
    if is_compressed { 1 + 4 + 4 + 32 } else { 1 + 4 + 32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher() -> Cipher {
        let mut key = [0; 64];
        getrandom::fill(&mut key).unwrap();
        Cipher::new(&key)
    }

    #[test]
    fn a_sealed_blob_opens_to_the_same_bytes_whether_it_compresses_or_not() {
        let cipher = cipher();
        let mut noise = vec![0; 10_000];
        getrandom::fill(&mut noise).unwrap();
        for plain in [noise, vec![7; 10_000], Vec::new(), vec![1]] {
            let id = Id::of(&plain);
            let sealed = BlobSealer::new(cipher.clone(), 3, true).unwrap().seal(id, &plain).unwrap();
            let mut opener = BlobOpener::new(cipher.clone()).unwrap();
            assert_eq!(opener.open(sealed.bytes, sealed.uncompressed_length).unwrap(), plain);
        }
    }

    #[test]
    fn one_changed_bit_anywhere_is_noticed() {
        let cipher = cipher();
        let mut sealed = vec![0; NONCE_BYTES];
        sealed.extend_from_slice(b"a short text");
        cipher.seal(&mut sealed).unwrap();
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(cipher.open(&mut altered).is_none(), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert!(cipher.open(&mut sealed[..length].to_vec()).is_none(), "cut to {length}");
        }
    }

    #[test]
    fn documents_survive_and_rubbish_is_refused() {
        let cipher = cipher();
        let sealed = cipher.seal_document(br#"{"a":1}"#).unwrap();
        assert_eq!(cipher.open_document(sealed).unwrap(), br#"{"a":1}"#);
        assert!(cipher.open_document(vec![0; 100]).is_err());
        assert!(cipher.open_document(Vec::new()).is_err());
    }

    #[test]
    fn an_id_is_64_lower_case_hex_digits() {
        let id = Id::of(b"");
        assert_eq!(id.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Id::parse(&id.hex()), Some(id));
        assert_eq!(Id::parse(&id.hex().to_uppercase()), None);
        assert_eq!(Id::parse("é3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85"), None);
    }
}
