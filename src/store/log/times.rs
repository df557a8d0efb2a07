//! The times before the lines of a log.

use bytes::BytesMut;
use jiff::Timestamp;

/// Bytes of a time and its space.
pub(super) const STAMP: usize = 31;

/// Whether the next byte begins a line. Pieces of output end anywhere, so a line may go on in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum At {
    /// It does.
    #[default]
    Start,
    /// It does not.
    Within,
}

/// Appends a piece that was written at `ts` nanoseconds since 1970, with that time before each line that begins in it.
pub(super) fn append(chunk: &mut BytesMut, piece: &[u8], ts: u64, mut at: At) -> At {
    let stamp = stamp(ts);
    for line in piece.split_inclusive(|byte| *byte == b'\n') {
        if at == At::Start {
            chunk.extend_from_slice(stamp.as_bytes());
        }
        chunk.extend_from_slice(line);
        at = if line.ends_with(b"\n") { At::Start } else { At::Within };
    }
    at
}

fn stamp(ts: u64) -> String {
    // 584 years fit, so every such number is a time.
    let at = Timestamp::from_nanosecond(i128::from(ts)).unwrap_or_default();
    format!("{at:.9} ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a log, by the nanosecond at which each was written.
    fn text(pieces: &[(u64, &str)]) -> String {
        let (mut chunk, mut at) = (BytesMut::new(), At::Start);
        for (ts, piece) in pieces {
            at = append(&mut chunk, piece.as_bytes(), *ts, at);
        }
        String::from_utf8(chunk.to_vec()).expect("text")
    }

    #[test]
    fn each_line_has_the_time_of_its_first_piece_and_one_only() {
        let said = text(&[(1, "one\ntwo"), (2_000_000_000, " goes on\n"), (3_000_000_000, "\n"), (4_000_000_000, "no end")]);
        let lines: Vec<&str> = said.split('\n').collect();
        assert_eq!(
            lines,
            [
                "1970-01-01T00:00:00.000000001Z one",
                "1970-01-01T00:00:00.000000001Z two goes on",
                "1970-01-01T00:00:03.000000000Z ",
                "1970-01-01T00:00:04.000000000Z no end"
            ]
        );
    }

    #[test]
    fn every_time_has_the_same_length() {
        for ts in [0, 1, 1_795_000_000_123_000_000, u64::MAX] {
            assert_eq!(stamp(ts).len(), STAMP, "{ts}");
        }
    }
}
