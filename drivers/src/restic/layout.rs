//! Where the chunks of a restore point lie on its disks, as far as damage lets anybody tell.
//!
//! It reads directories, never chunks. Damage is something it tells, not something it fails at; its errors mean that the
//! datastore cannot be reached.

use super::documents::{DOCUMENT_NAME, Tree};
use super::format::{BlobKind, Id};
use super::index::Index;
use super::read::{FileContent, PointReader, StoredForm, disk_id};
use crate::{Kind, Result};

/// One file of a disk: the whole of it, or a part.
pub(super) struct Piece {
    /// First byte on the disk.
    pub(super) base: u64,
    /// Its chunks, or its length (0 when nobody can tell) and what is damaged, one clause.
    pub(super) content: std::result::Result<FileContent, (u64, String)>,
}

/// One thing that a point needs.
pub(super) enum Need<'a> {
    /// A chunk of a disk.
    Chunk {
        /// The VM's disk id.
        disk: u32,
        /// First byte on the disk.
        offset: u64,
        /// Plain bytes.
        length: u32,
        /// Its blob.
        id: &'a Id,
    },
    /// A piece of the VM's document.
    Document(&'a Id),
    /// A directory; it was readable.
    Directory(&'a Id),
    /// What a damaged directory hides.
    Lost {
        /// The VM's disk id; none = everything.
        disk: Option<u32>,
        /// First byte on the disk.
        offset: u64,
        /// Bytes; 0 when nobody can tell.
        length: u64,
        /// The directory, where it belongs to a part.
        id: Option<Id>,
        /// What is damaged, one clause.
        what: String,
    },
}

/// The clause of an error that is about damage; other errors pass.
fn damage<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.kind == Kind::Corrupt => Ok(Err(error.reason)),
        Err(error) => Err(error),
    }
}

fn directory_fault(what: &str) -> String {
    format!("{what} (a directory)")
}

/// Hands the pieces of a disk to `visit` in order, until it says `false`. `part_bytes` is the length of parts when no
/// readable one tells it.
pub(super) fn pieces(
    reader: &PointReader<'_>,
    form: StoredForm,
    part_bytes: u64,
    visit: &mut dyn FnMut(Piece, Option<&Id>) -> Result<bool>,
) -> Result<()> {
    let parts = match form {
        StoredForm::Whole(file) => return visit(Piece { base: 0, content: Ok(file) }, None).map(drop),
        StoredForm::Parts(parts) => parts,
    };
    let mut base = 0_u64;
    let mut known = None;
    for (number, tree) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        let content = match damage(reader.part(tree))? {
            Ok(file) => Ok(file),
            Err(what) if is_last => Err((0, what)),
            Err(what) => {
                if known.is_none() {
                    known = Some(first_length(reader, &parts[number + 1..parts.len() - 1])?.unwrap_or(part_bytes));
                }
                Err((known.unwrap_or(part_bytes), what))
            }
        };
        let content = content.map_err(|(length, what)| (length, directory_fault(&what)));
        let length = content.as_ref().map_or_else(|(length, _)| *length, |file| file.size);
        if content.is_ok() && !is_last {
            known = Some(length);
        }
        if !visit(Piece { base, content }, Some(tree))? {
            return Ok(());
        }
        base = base.saturating_add(length);
    }
    Ok(())
}

fn first_length(reader: &PointReader<'_>, parts: &[Id]) -> Result<Option<u64>> {
    for part in parts {
        if let Ok(file) = damage(reader.part(part))? {
            return Ok(Some(file.size));
        }
    }
    Ok(None)
}

/// The lengths of a file's chunks, in order. Chunks that the index does not know have the length that their place wants.
/// The `Err` is one clause.
pub(super) fn chunk_lengths(index: &Index, file: &FileContent) -> std::result::Result<Vec<u32>, &'static str> {
    let wrong = "its chunks do not add up to its recorded size";
    let known: Vec<Option<u32>> =
        file.ids.iter().map(|id| index.get(BlobKind::Data, id).map(|location| location.plain_length())).collect();
    let adds_up = |lengths: &[u32]| lengths.iter().map(|length| u64::from(*length)).sum::<u64>() == file.size;
    if let Some(lengths) = known.iter().copied().collect::<Option<Vec<u32>>>() {
        return if adds_up(&lengths) { Ok(lengths) } else { Err(wrong) };
    }
    let unknown = "no readable index file tells how long its chunks are";
    let (last, before) = known.split_last().ok_or(unknown)?;
    let others = before.len() as u64;
    // All chunks but the last are of one length; any of them tells it, and so does the last.
    let fixed = match (before.iter().flatten().next(), last) {
        (Some(length), _) => u64::from(*length),
        (None, Some(last)) if others > 0 => file.size.saturating_sub((*last).into()) / others,
        (None, None) if others == 0 => file.size,
        _ => return Err(unknown),
    };
    let end = file.size.checked_sub(fixed.saturating_mul(others)).filter(|end| *end <= fixed).ok_or(unknown)?;
    let (fixed, end) = u32::try_from(fixed).ok().zip(u32::try_from(end).ok()).ok_or(unknown)?;
    let lengths: Vec<u32> = before.iter().map(|length| length.unwrap_or(fixed)).chain([last.unwrap_or(end)]).collect();
    if adds_up(&lengths) { Ok(lengths) } else { Err(unknown) }
}

/// The ids of zeros as long as the first and the last chunk: with chunks of fixed size there are no other lengths.
pub(super) fn zero_ids(lengths: &[u32]) -> Vec<(u32, Id)> {
    /// No chunk of ours is longer.
    const LONGEST: u32 = 16 << 20;
    let mut ends: Vec<u32> = lengths.first().into_iter().chain(lengths.last()).copied().collect();
    ends.dedup();
    ends.retain(|length| *length <= LONGEST);
    ends.into_iter().map(|length| (length, Id::of(&vec![0; length as usize]))).collect()
}

/// Tells `visit` everything that a point with the root directory `tree` needs. Parts that `is_known` are passed over; then
/// the offsets of what follows mean nothing.
pub(super) fn needs(
    reader: &PointReader<'_>,
    tree: &Id,
    part_bytes: u64,
    is_known: &mut dyn FnMut(&Id) -> bool,
    visit: &mut dyn FnMut(Need<'_>) -> Result<()>,
) -> Result<()> {
    let lost = |disk, what: String| Need::Lost { disk, offset: 0, length: 0, id: None, what: directory_fault(&what) };
    let inner = match damage(reader.inner_directory(tree))? {
        Ok(inner) => inner,
        Err(what) => return visit(lost(None, what)),
    };
    visit(Need::Directory(tree))?;
    visit(Need::Directory(&inner))?;
    let directory: Tree = match damage(reader.tree(&inner))? {
        Ok(directory) => directory,
        Err(what) => return visit(lost(None, what)),
    };
    for node in &directory.nodes {
        if node.name == DOCUMENT_NAME {
            node.content.iter().flatten().try_for_each(|id| visit(Need::Document(id)))?;
        }
        let Some(disk) = disk_id(&node.name) else { continue };
        match damage(reader.form(node))? {
            Ok(form) => {
                node.subtree.iter().try_for_each(|tree| visit(Need::Directory(tree)))?;
                let form = match form {
                    StoredForm::Parts(parts) => {
                        StoredForm::Parts(parts.into_iter().filter(|part| !is_known(part)).collect())
                    }
                    whole => whole,
                };
                pieces(reader, form, part_bytes, &mut |piece, tree| {
                    piece_needs(reader.index, disk, piece, tree, visit).map(|()| true)
                })?;
            }
            Err(what) => visit(lost(Some(disk), what))?,
        }
    }
    Ok(())
}

fn piece_needs(
    index: &Index,
    disk: u32,
    piece: Piece,
    tree: Option<&Id>,
    visit: &mut dyn FnMut(Need<'_>) -> Result<()>,
) -> Result<()> {
    let offset = piece.base;
    let file = match piece.content {
        Ok(file) => file,
        Err((length, what)) => {
            return visit(Need::Lost { disk: Some(disk), offset, length, id: tree.copied(), what });
        }
    };
    tree.into_iter().try_for_each(|tree| visit(Need::Directory(tree)))?;
    match chunk_lengths(index, &file) {
        Ok(lengths) => {
            let mut offset = offset;
            for (id, length) in file.ids.iter().zip(lengths) {
                visit(Need::Chunk { disk, offset, length, id })?;
                offset = offset.saturating_add(length.into());
            }
            Ok(())
        }
        Err(what) => visit(Need::Lost { disk: Some(disk), offset, length: file.size, id: None, what: what.to_owned() }),
    }
}
