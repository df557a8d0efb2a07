//! Artifacts of hundreds of megabytes, without holding them: what goes in is counted and hashed, what comes out is made while it is sent.

use axum::body::Bytes;
use futures_util::Stream;
use ring::digest::{Context, SHA256};

use super::state::hex;

/// Bytes that are made at once.
const PART: u64 = 1 << 18;

/// The bytes of a made-up archive from this offset on, [`PART`] at most: no two parts are equal, and none compresses to nothing.
fn part(offset: u64, size: u64) -> Bytes {
    let length = PART.min(size - offset);
    let mut state = offset ^ 0x9e37_79b9_7f4a_7c15;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 16).to_le_bytes()
    });
    words.flatten().take(usize::try_from(length).unwrap_or_default()).collect()
}

/// A made-up archive of this many bytes, part by part.
pub(crate) fn archive(size: u64) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    let offsets = (0..size).step_by(usize::try_from(PART).unwrap_or(usize::MAX));
    futures_util::stream::iter(offsets.map(move |offset| Ok(part(offset, size))))
}

/// Counts and hashes what passes.
pub(crate) struct Sum {
    /// How many bytes passed.
    pub(crate) size: u64,
    /// Their hash so far.
    hash: Context,
}

impl Default for Sum {
    fn default() -> Self {
        Self { size: 0, hash: Context::new(&SHA256) }
    }
}

impl Sum {
    /// These bytes pass.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// The SHA-256 of everything that passed, in hexadecimal.
    pub(crate) fn finish(self) -> String {
        hex(self.hash.finish().as_ref())
    }
}
