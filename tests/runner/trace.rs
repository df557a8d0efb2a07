//! The trace as the official runner keeps it: whole, so that a server that was away may ask for any part of it again.

use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use reqwest::Response;

/// Everything that was written so far.
#[derive(Debug, Default)]
pub(crate) struct Trace(Mutex<Vec<u8>>);

impl Trace {
    /// Keeps the part that a request brings.
    pub(crate) fn keep(&self, headers: &HeaderMap, body: &[u8]) {
        let Some(start) = start_of(headers, header::CONTENT_RANGE) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if start <= all.len() {
            all.truncate(start);
            all.extend_from_slice(body);
        }
    }

    /// What to send after this answer: the server said where its trace ends, and that was not where the part began. `None` when there
    /// is nothing to mend; an empty body when it has all.
    pub(crate) fn mended(&self, answer: &Response) -> Option<(Bytes, HeaderValue)> {
        if answer.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            return None;
        }
        let held: usize = answer.headers().get(header::RANGE)?.to_str().ok()?.rsplit_once('-')?.1.parse().ok()?;
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = all.get(held..).unwrap_or_default();
        let range = HeaderValue::from_str(&format!("{held}-{}", (held + rest.len()).saturating_sub(1))).ok()?;
        Some((Bytes::copy_from_slice(rest), range))
    }
}

fn start_of(headers: &HeaderMap, name: header::HeaderName) -> Option<usize> {
    headers.get(name)?.to_str().ok()?.split_once('-')?.0.parse().ok()
}
