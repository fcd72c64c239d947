//! LZ4 and zstd, each there if the feature of its name is.

use crate::types::Compression;

/// The fastest level: what a client waits for counts more than the last percent.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 1;

/// What the libraries keep from one value to the next. Made when it is first needed.
#[derive(Default)]
pub(super) struct Codecs {
    #[cfg(feature = "lz4")]
    lz4: lz4_flex::block::CompressTable,
    #[cfg(feature = "zstd")]
    compressor: Option<zstd::bulk::Compressor<'static>>,
    #[cfg(feature = "zstd")]
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codecs")
    }
}

impl Codecs {
    /// Whether this program can compress and decompress so.
    pub fn has(compression: Compression) -> bool {
        match compression {
            Compression::None => true,
            Compression::Lz4 => cfg!(feature = "lz4"),
            Compression::Zstd | Compression::Delta => cfg!(feature = "zstd"),
        }
    }

    /// Compresses `plain` to `out` from `at` on, and grows `out` as far as that needs. The bytes that it takes; `None`
    /// where they would be more than `bytes_max`, or where the codec is not there.
    pub fn compress(
        &mut self,
        compression: Compression,
        plain: &[u8],
        out: &mut Vec<u8>,
        at: usize,
        bytes_max: usize,
    ) -> Option<usize> {
        let bytes = match compression {
            Compression::None | Compression::Delta => return None,
            Compression::Lz4 => self.compress_lz4(plain, out, at)?,
            Compression::Zstd => self.compress_zstd(plain, out, at, bytes_max)?,
        };
        (bytes <= bytes_max).then_some(bytes)
    }

    /// Fills all of `plain`.
    ///
    /// # Errors
    /// What is wrong with the value, or which feature the program lacks.
    pub fn decompress(&mut self, compression: Compression, bytes: &[u8], plain: &mut [u8]) -> Result<(), String> {
        let filled = match compression {
            Compression::None => return Err("it is plain".into()),
            Compression::Delta => return Err("it is a delta outside of a space of deltas".into()),
            Compression::Lz4 => self.decompress_lz4(bytes, plain)?,
            Compression::Zstd => self.decompress_zstd(bytes, plain)?,
        };
        match filled {
            Some(filled) if filled == plain.len() => Ok(()),
            _ => Err(format!("it is no {} of {} B", compression.name(), plain.len())),
        }
    }
}

#[cfg(feature = "lz4")]
impl Codecs {
    fn compress_lz4(&mut self, plain: &[u8], out: &mut Vec<u8>, at: usize) -> Option<usize> {
        // It refuses less room than the worst case needs.
        grow(out, at + lz4_flex::block::get_maximum_output_size(plain.len()));
        lz4_flex::block::compress_into_with_table(plain, &mut out[at..], &mut self.lz4).ok()
    }

    fn decompress_lz4(&mut self, bytes: &[u8], plain: &mut [u8]) -> Result<Option<usize>, String> {
        Ok(lz4_flex::block::decompress_into(bytes, plain).ok())
    }
}

#[cfg(not(feature = "lz4"))]
impl Codecs {
    fn compress_lz4(&mut self, _: &[u8], _: &mut Vec<u8>, _: usize) -> Option<usize> {
        None
    }

    fn decompress_lz4(&mut self, _: &[u8], _: &mut [u8]) -> Result<Option<usize>, String> {
        Err(lacking(Compression::Lz4))
    }
}

#[cfg(feature = "zstd")]
impl Codecs {
    fn compress_zstd(&mut self, plain: &[u8], out: &mut Vec<u8>, at: usize, bytes_max: usize) -> Option<usize> {
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        grow(out, at + bytes_max);
        // With no more room than is worth it, it gives up early.
        self.compressor.as_mut()?.compress_to_buffer(plain, &mut out[at..at + bytes_max]).ok()
    }

    fn decompress_zstd(&mut self, bytes: &[u8], plain: &mut [u8]) -> Result<Option<usize>, String> {
        if self.decompressor.is_none() {
            self.decompressor = zstd::bulk::Decompressor::new().ok();
        }
        let decompressor = self.decompressor.as_mut().ok_or("there is no memory to decompress it")?;
        Ok(decompressor.decompress_to_buffer(bytes, plain).ok())
    }
}

/// Level 1 looks back so far by itself.
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_BYTES: usize = 512 << 10;

/// What begins with this is no base: zstd would take it for a dictionary in its own format when it is loaded.
#[cfg(feature = "zstd")]
pub(super) const ZSTD_DICTIONARY: [u8; 4] = zstd::zstd_safe::zstd_sys::ZSTD_MAGIC_DICTIONARY.to_le_bytes();

/// Appends to `out` a frame that makes `plain` of `base`. `false`, and `out` as it was, where it would have more than `bytes_max`.
#[cfg(feature = "zstd")]
pub(super) fn compress_against(base: &[u8], plain: &[u8], out: &mut Vec<u8>, bytes_max: usize) -> bool {
    use zstd::zstd_safe::{CCtx, CParameter};
    let at = out.len();
    let compress = |room: &mut [u8]| {
        // A context holds its prefix for as long as it lives, so each value has one of its own.
        let mut context = CCtx::try_create()?;
        context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)).ok()?;
        let window_bytes = (base.len() + plain.len()).next_power_of_two();
        if window_bytes > ZSTD_WINDOW_BYTES {
            // The same place of the base lies a whole base back, where level 1 would not look.
            context.set_parameter(CParameter::WindowLog(window_bytes.trailing_zeros())).ok()?;
            context.set_parameter(CParameter::EnableLongDistanceMatching(true)).ok()?;
        }
        context.ref_prefix(base).ok()?;
        context.compress2(room, plain).ok()
    };
    out.resize(at + bytes_max, 0);
    let bytes = compress(&mut out[at..]);
    out.truncate(at + bytes.unwrap_or(0));
    bytes.is_some()
}

/// Makes values of such frames. Keeps one context, with a copy of the base that it had last.
#[cfg(feature = "zstd")]
#[derive(Default)]
pub(super) struct Patcher(Option<zstd::bulk::Decompressor<'static>>);

#[cfg(feature = "zstd")]
impl Patcher {
    /// Fills all of `plain` from a frame and its base, which must not begin with `ZSTD_DICTIONARY`. `false` where that does not
    /// come out.
    pub fn decompress(&mut self, base: &[u8], frame: &[u8], plain: &mut [u8]) -> bool {
        if self.0.is_none() {
            self.0 = zstd::bulk::Decompressor::new().ok();
        }
        let Some(context) = &mut self.0 else { return false };
        let filled = context.set_dictionary(base).and_then(|()| context.decompress_to_buffer(frame, plain));
        filled.is_ok_and(|filled| filled == plain.len())
    }
}

#[cfg(feature = "zstd")]
impl std::fmt::Debug for Patcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patcher")
    }
}

#[cfg(not(feature = "zstd"))]
impl Codecs {
    fn compress_zstd(&mut self, _: &[u8], _: &mut Vec<u8>, _: usize, _: usize) -> Option<usize> {
        None
    }

    fn decompress_zstd(&mut self, _: &[u8], _: &mut [u8]) -> Result<Option<usize>, String> {
        Err(lacking(Compression::Zstd))
    }
}

#[cfg(any(feature = "lz4", feature = "zstd"))]
fn grow(out: &mut Vec<u8>, bytes: usize) {
    if out.len() < bytes {
        out.resize(bytes, 0);
    }
}

#[cfg(not(all(feature = "lz4", feature = "zstd")))]
fn lacking(compression: Compression) -> String {
    let name = compression.name();
    format!(
        "it is compressed with {name}, and this program was built without the feature {name:?} of forebay (build it with that)"
    )
}
