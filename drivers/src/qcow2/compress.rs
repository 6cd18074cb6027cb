//! Compressing and decompressing single clusters.
//!
//! Deflate streams have no zlib header and a window of 12 bits, as QEMU writes and reads them (`docs/interop/qcow2.txt`
//! says "zlib"; `block/qcow2-threads.c` has the parameters). zstd: one frame per cluster.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::zstd_safe;

use super::{CLUSTER, Compression};

/// Log2 of deflate's window.
const WINDOW_BITS: u8 = 12;
/// QEMU's default of both.
const DEFLATE_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// Largest window of a zstd frame that is read, log2: 8 MiB. A frame of one cluster needs 16.
const MAX_ZSTD_WINDOW: u32 = 23;

/// A compressor for one thread.
pub(super) enum Compressor {
    None,
    Zlib(Box<Compress>),
    Zstd(Box<zstd_safe::CCtx<'static>>),
}

impl Compressor {
    pub(super) fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Zlib => {
                let level = flate2::Compression::new(DEFLATE_LEVEL);
                Self::Zlib(Box::new(Compress::new_with_window_bits(level, false, WINDOW_BITS)))
            }
            Compression::Zstd => Self::Zstd(Box::new(zstd_safe::CCtx::create())),
        }
    }

    /// The compressed bytes of one whole cluster; none when that would not make it smaller.
    pub(super) fn shrink(&mut self, cluster: &[u8]) -> Option<Vec<u8>> {
        // One byte less than a cluster is the most that is worth it.
        let mut out = Vec::with_capacity(CLUSTER - 1);
        match self {
            Self::None => return None,
            Self::Zlib(deflate) => {
                deflate.reset();
                out.resize(CLUSTER - 1, 0);
                let status = deflate.compress(cluster, &mut out, FlushCompress::Finish).ok()?;
                if status != Status::StreamEnd {
                    return None;
                }
                out.truncate(usize::try_from(deflate.total_out()).ok()?);
            }
            Self::Zstd(context) => {
                // Fails when the room is too small.
                context.compress(&mut out, cluster, ZSTD_LEVEL).ok()?;
            }
        }
        Some(out)
    }
}

/// A decompressor for one thread.
pub(super) enum Expander {
    Zlib(Box<Decompress>),
    Zstd(Box<zstd_safe::DCtx<'static>>),
}

impl Expander {
    pub(super) fn new(compression: Compression) -> Self {
        match compression {
            Compression::Zstd => Self::Zstd(Box::new(zstd_safe::DCtx::create())),
            Compression::None | Compression::Zlib => {
                Self::Zlib(Box::new(Decompress::new_with_window_bits(false, WINDOW_BITS)))
            }
        }
    }

    /// Fills `out`, one whole cluster, from `packed`, behind whose end other bytes may follow.
    pub(super) fn expand(&mut self, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
        match self {
            Self::Zlib(inflate) => {
                inflate.reset(false);
                let status = inflate.decompress(packed, out, FlushDecompress::Finish);
                let status = status.map_err(|e| format!("its deflate stream is damaged ({e})"))?;
                // QEMU accepts a stream that goes on as well; ours and QEMU's own end here.
                if inflate.total_out() != out.len() as u64 || status != Status::StreamEnd {
                    return Err("its deflate stream does not hold exactly one cluster".to_owned());
                }
                Ok(())
            }
            Self::Zstd(context) => expand_zstd(context, packed, out),
        }
    }
}

fn expand_zstd(context: &mut zstd_safe::DCtx<'static>, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let damaged = |code| format!("its zstd frame is damaged ({})", zstd_safe::get_error_name(code));
    context.reset(zstd_safe::ResetDirective::SessionAndParameters).map_err(damaged)?;
    context.set_parameter(zstd_safe::DParameter::WindowLogMax(MAX_ZSTD_WINDOW)).map_err(damaged)?;
    let length = out.len();
    let mut input = zstd_safe::InBuffer::around(packed);
    let mut output = zstd_safe::OutBuffer::around(out);
    loop {
        let before = (input.pos(), output.pos());
        let hint = context.decompress_stream(&mut output, &mut input).map_err(damaged)?;
        if hint == 0 || before == (input.pos(), output.pos()) {
            let whole = hint == 0 && output.pos() == length;
            return if whole { Ok(()) } else { Err("its zstd frame does not hold exactly one cluster".to_owned()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_expanded_or_refused(
            packed in prop::collection::vec(any::<u8>(), 0..2000),
            zstd in any::<bool>(),
        ) {
            let mut packed = packed;
            if zstd && packed.len() > 4 {
                packed[..4].copy_from_slice(&0xfd2f_b528_u32.to_le_bytes());
            }
            let mut out = vec![0; CLUSTER];
            let kind = if zstd { Compression::Zstd } else { Compression::Zlib };
            let _ = Expander::new(kind).expand(&packed, &mut out);
        }

        #[test]
        fn what_is_shrunk_expands_to_the_same_whatever_follows(
            seed in any::<u64>(),
            kinds in 1_u64..256,
            tail in prop::collection::vec(any::<u8>(), 0..512),
            zstd in any::<bool>(),
        ) {
            let kind = if zstd { Compression::Zstd } else { Compression::Zlib };
            let mut state = seed | 1;
            let cluster: Vec<u8> = (0..CLUSTER).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                u8::try_from((state >> 33) % kinds).unwrap_or(0)
            }).collect();
            let mut compressor = Compressor::new(kind);
            for _ in 0..2 {
                if let Some(mut packed) = compressor.shrink(&cluster) {
                    packed.extend(&tail);
                    let mut out = vec![0; CLUSTER];
                    Expander::new(kind).expand(&packed, &mut out).unwrap();
                    prop_assert!(out == cluster);
                }
            }
        }
    }
}
