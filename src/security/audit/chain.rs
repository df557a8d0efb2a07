//! The chain of seals, as pure functions of key and text.

use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::super::token::{from_hex, hex};
use super::Act;

/// What begins the seal in a line; it is the last of its fields.
const SEAL: &str = ",\"seal\":\"";

/// A line without its seal.
#[derive(Debug, Serialize)]
struct Line<'a> {
    seq: u64,
    at: Timestamp,
    act: &'a str,
    who: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    /// Acts before it that could not be written down.
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
    previous: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The place in a chain behind a line; before the first it is number 0 without a seal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// The first line that is kept; 0 and 1 before any went by its age.
    pub(super) first: u64,
    pub(super) seq: u64,
    pub(super) seal: String,
}

/// What of a line holds the chain together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) previous: String,
    #[serde(skip)]
    pub(super) seal: String,
}

impl Place {
    /// The next line, with its end of line; this is the place behind it then.
    pub(super) fn seal(&mut self, key: &hmac::Key, (act, at): (&Act, Timestamp), lost: u64) -> String {
        self.seq += 1;
        let Act { act, who, from, target, status, detail, request } = act;
        let line = Line {
            seq: self.seq,
            at,
            act,
            who,
            from: from.as_deref(),
            target: target.as_deref(),
            status: *status,
            detail: detail.as_deref(),
            request: request.as_deref(),
            lost,
            previous: &self.seal,
        };
        // Texts and numbers can always be written.
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        let seal = hex(hmac::sign(key, text.as_bytes()).as_ref());
        text.pop();
        text.push_str(SEAL);
        text.push_str(&seal);
        text.push_str("\"}\n");
        self.seal = seal;
        text
    }

    /// What says how far the log has got, so that an end that was cut off shows.
    pub(super) fn head(&self, key: &hmac::Key) -> String {
        let said = format!("{} {} {}", self.first, self.seq, self.seal);
        let seal = hex(hmac::sign(key, said.as_bytes()).as_ref());
        format!("{said} {seal}\n")
    }
}

/// Reads a line without its end; `None` for one that was not sealed so with this key.
pub(super) fn read(key: &hmac::Key, line: &str) -> Option<Link> {
    let (said, seal) = line.strip_suffix("\"}")?.rsplit_once(SEAL)?;
    let said = format!("{said}}}");
    hmac::verify(key, said.as_bytes(), &from_hex(seal)?).ok()?;
    Some(Link { seal: seal.to_owned(), ..serde_json::from_str(&said).ok()? })
}

/// How far a log had got by its head.
pub(super) fn read_head(key: &hmac::Key, text: &str) -> Option<Place> {
    let (said, seal) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    hmac::verify(key, said.as_bytes(), &from_hex(seal)?).ok()?;
    let (first, place) = said.split_once(' ')?;
    let (seq, seal) = place.split_once(' ')?;
    Some(Place { first: first.parse().ok()?, seq: seq.parse().ok()?, seal: seal.to_owned() })
}
