//! Takes the engine's time off each piece of output, leaving the bytes as the job wrote them.

use bollard::container::LogOutput;
use bytes::Bytes;
use jiff::Timestamp;

use super::error::DriverError;
use super::facts::{LogRecord, LogStream};

/// Longest time that an engine writes: nanoseconds and an offset.
const MAX_TIME_BYTES: usize = 35;

/// Reads one piece.
pub(super) fn record(output: LogOutput) -> Result<LogRecord, DriverError> {
    match output {
        LogOutput::StdOut { message } => parse(LogStream::Stdout, message),
        LogOutput::StdErr { message } => parse(LogStream::Stderr, message),
        // What was left when the connection ended in the middle of a piece.
        LogOutput::Console { .. } | LogOutput::StdIn { .. } => {
            Err(DriverError::Interrupted { call: "logs", source: "the connection ended within a piece of output".into() })
        }
    }
}

fn parse(stream: LogStream, mut message: Bytes) -> Result<LogRecord, DriverError> {
    let space = message.iter().take(MAX_TIME_BYTES + 1).position(|byte| *byte == b' ');
    let time = space.and_then(|at| std::str::from_utf8(&message[..at]).ok()).and_then(|text| text.parse::<Timestamp>().ok());
    match (space, time.and_then(|time| u64::try_from(time.as_nanosecond()).ok())) {
        (Some(at), Some(ts_ns)) => Ok(LogRecord { ts_ns, stream, bytes: message.split_off(at + 1) }),
        _ => Err(DriverError::Garbled { call: "logs", message: "a piece of output does not begin with its time".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_has_no_time_and_what_was_cut() {
        for text in ["", "no time", "2026-11-23T10:00:00Z", "x 2026-11-23T10:00:00Z y", "1960-01-01T00:00:00Z old"] {
            assert!(record(LogOutput::StdOut { message: Bytes::from(text) }).is_err(), "{text:?}");
        }
        assert!(matches!(record(LogOutput::Console { message: Bytes::from("x") }), Err(DriverError::Interrupted { .. })));
    }

    proptest! {
        #[test]
        fn the_payload_stays_as_it_is(nanos in 0_u64..4_000_000_000_000_000_000, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let time = Timestamp::from_nanosecond(i128::from(nanos)).expect("a time");
            let mut message = format!("{time:.9} ").into_bytes();
            message.extend_from_slice(&payload);
            let record = record(LogOutput::StdErr { message: message.into() }).expect("a record");
            prop_assert_eq!(record, LogRecord { ts_ns: nanos, stream: LogStream::Stderr, bytes: payload.into() });
        }
    }
}
