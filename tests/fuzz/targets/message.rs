//! Requests as they are written in the corpora: `NAME: VALUE` lines, an empty line, and the body.

use axum::http::header::{HeaderName, HeaderValue};
use axum::http::request::Builder;

/// A request before it is one.
pub(crate) struct Message<'a> {
    pub(crate) head: Vec<&'a [u8]>,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes the text apart; without an empty line all of it is the head.
    pub(crate) fn read(text: &'a [u8]) -> Self {
        let mut head = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        Self { head, body: rest }
    }

    /// Name and value of every line of the head that HTTP can carry.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        self.head.iter().filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
            Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value.trim_ascii()).ok()?))
        })
    }
}

/// Adds them.
pub(crate) fn with_headers(builder: Builder, headers: impl Iterator<Item = (HeaderName, HeaderValue)>) -> Builder {
    headers.fold(builder, |builder, (name, value)| builder.header(name, value))
}
