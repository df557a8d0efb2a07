//! One record: `{ timestamp in ns: u64, kind: u8, length of the payload: u32 }`, big-endian, then the payload.

use std::io;

/// What kind of output it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// The container's standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// The trace that the runner sends to GitLab.
    Trace,
    /// A note of the coordinator's own.
    Note,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Output, for people.
    Output(LogStream),
    /// The runner begins its trace anew.
    TraceReset,
    /// Output was discarded from here on; says so to people.
    Cut,
    /// Where the writer stood, when what it took was discarded: the count of records with the last timestamp, and the trace's length.
    Position,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Output(LogStream::Stdout) => 0,
            Self::Output(LogStream::Stderr) => 1,
            Self::Output(LogStream::Trace) => 2,
            Self::Output(LogStream::Note) => 3,
            Self::TraceReset => 4,
            Self::Cut => 5,
            Self::Position => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [LogStream::Stdout, LogStream::Stderr, LogStream::Trace, LogStream::Note].map(Self::Output);
        all.into_iter().chain([Self::TraceReset, Self::Cut, Self::Position]).find(|kind| kind.code() == code)
    }

    /// Whether people see its payload.
    pub(super) fn is_visible(self) -> bool {
        match self {
            Self::Output(_) | Self::Cut => true,
            Self::TraceReset | Self::Position => false,
        }
    }
}

/// Bytes of a header.
pub(super) const HEADER: usize = 13;
/// Longest payload: a bound against nonsense.
pub(super) const MAX_PAYLOAD: usize = 16 << 20;
/// Bytes of a position's payload.
const POSITION: usize = 12;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Timestamp in nanoseconds.
    pub ts: u64,
    /// What follows.
    pub kind: Kind,
    /// Bytes that follow.
    pub len: usize,
}

impl Header {
    /// Reads a header; `None` when no writer of ours wrote it, for example zeros after a power cut.
    pub(super) fn read(bytes: [u8; HEADER]) -> Option<Self> {
        let [t0, t1, t2, t3, t4, t5, t6, t7, code, l0, l1, l2, l3] = bytes;
        let len = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).ok()?;
        let kind = Kind::from_code(code)?;
        let legal = match kind {
            Kind::Output(_) | Kind::Cut => (1..=MAX_PAYLOAD).contains(&len),
            Kind::TraceReset => len == 0,
            Kind::Position => len == POSITION,
        };
        legal.then_some(Self { ts: u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]), kind, len })
    }
}

/// Appends a record.
pub(super) fn push(buffer: &mut Vec<u8>, ts: u64, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a piece of log is longer than 16 MiB"))?;
    buffer.extend_from_slice(&ts.to_be_bytes());
    buffer.push(kind.code());
    buffer.extend_from_slice(&len.to_be_bytes());
    buffer.extend_from_slice(payload);
    Ok(())
}

/// Where a writer stands: enough to go on exactly there after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// The latest timestamp of the container's output, and how many records have it.
    pub last: Option<(u64, u32)>,
    /// Bytes of the present trace.
    pub trace_len: u64,
    /// Whether output is being discarded.
    pub cut: bool,
}

impl Position {
    /// Takes a record into account.
    pub(super) fn pass(&mut self, ts: u64, kind: Kind, len: usize) {
        match kind {
            Kind::Output(LogStream::Stdout | LogStream::Stderr) => {
                self.last = match self.last {
                    Some((last, count)) if last == ts => Some((last, count.saturating_add(1))),
                    // The engine is asked again from the latest time on, so an earlier one that comes late does not count.
                    Some((last, count)) if last > ts => Some((last, count)),
                    Some(_) | None => Some((ts, 1)),
                };
            }
            Kind::Output(LogStream::Trace) => self.trace_len += len as u64,
            Kind::TraceReset => self.trace_len = 0,
            Kind::Cut => self.cut = true,
            Kind::Output(LogStream::Note) | Kind::Position => {}
        }
    }

    /// Appends the position as a record.
    pub(super) fn push(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let (ts, count) = self.last.unwrap_or((0, 0));
        let mut payload = [0; POSITION];
        payload[..4].copy_from_slice(&count.to_be_bytes());
        payload[4..].copy_from_slice(&self.trace_len.to_be_bytes());
        push(buffer, ts, Kind::Position, &payload)
    }

    /// Takes over a position that was written.
    pub(super) fn restore(&mut self, ts: u64, payload: [u8; POSITION]) {
        let [c0, c1, c2, c3, t0, t1, t2, t3, t4, t5, t6, t7] = payload;
        let count = u32::from_be_bytes([c0, c1, c2, c3]);
        self.last = (count > 0).then_some((ts, count));
        self.trace_len = u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    }
}
