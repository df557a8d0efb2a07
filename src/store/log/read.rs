//! The reading end of a log: payloads only, with times before their lines where they are asked for, a bounded piece at a time, however long the
//! log is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::frame::{HEADER, Header, Kind};
use super::open::Progress;
use super::times::{self, At, STAMP};
use super::{Follow, Times, off_the_runtime};

/// Most bytes of a chunk without times; with them it may be twice as long.
const CHUNK: usize = 64 << 10;
/// Most bytes that get times at once: each may be a line of its own.
const STAMPED: u64 = (CHUNK / (STAMP + 1)) as u64;

/// Streams the payloads of a file; `progress` is there while a writer is open.
pub(super) fn stream(
    path: io::Result<PathBuf>,
    progress: Option<watch::Receiver<Progress>>,
    follow: Follow,
    times: Times,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(Reader { path: Some(path), file: None, progress, follow, cursor: Cursor { times, ..Cursor::default() } }, Reader::step)
}

/// Where a reader stands in the file.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// Next byte of the file.
    at: u64,
    /// What is there.
    part: Part,
    /// Whether lines are given times.
    times: Times,
    /// Where in a line the payloads are.
    line: At,
}

/// What a reader reads next.
#[derive(Debug, Clone, Copy, Default)]
enum Part {
    /// A record's header.
    #[default]
    Header,
    /// So many bytes of a payload that people see, written at this time (ns).
    Shown { left: u64, ts: u64 },
    /// Nothing more: what follows is not for people, or makes no sense.
    End,
}

struct Reader {
    path: Option<io::Result<PathBuf>>,
    file: Option<Arc<File>>,
    progress: Option<watch::Receiver<Progress>>,
    follow: Follow,
    cursor: Cursor,
}

impl Reader {
    async fn step(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if let Some(path) = self.path.take() {
            self.file = match off_the_runtime(move || File::open(path?)).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => Some(Arc::new(file?)),
            };
        }
        let Some(file) = self.file.clone() else { return Ok(None) };
        loop {
            // Seen before reading: whatever is written meanwhile is a change that ends the wait below.
            let seen = self.progress.as_mut().map(|progress| *progress.borrow_and_update());
            let (from, reader) = (self.cursor, Arc::clone(&file));
            let (bytes, cursor) = off_the_runtime(move || {
                let limit = seen.map_or_else(|| reader.metadata().map(|file| file.len()), |seen| Ok(seen.bytes))?;
                read_chunk(&reader, from, limit)
            })
            .await?;
            self.cursor = cursor;
            if !bytes.is_empty() {
                return Ok(Some((bytes, self)));
            }
            let Some(progress) = self.progress.as_mut().filter(|_| self.follow == Follow::UntilClosed) else { return Ok(None) };
            let ended = seen.is_none_or(|seen| seen.closed);
            if ended || (progress.changed().await.is_err() && progress.borrow().bytes <= self.cursor.at) {
                return Ok(None);
            }
        }
    }
}

/// Reads on until a chunk is full or nothing whole is left below `limit`.
fn read_chunk(file: &File, mut cursor: Cursor, limit: u64) -> io::Result<(Bytes, Cursor)> {
    let mut chunk = BytesMut::new();
    while chunk.len() < CHUNK {
        match cursor.part {
            Part::End => break,
            Part::Shown { left, ts } => {
                let take = left.min((CHUNK - chunk.len()) as u64);
                let take = if cursor.times == Times::With { take.min(STAMPED) } else { take };
                let start = chunk.len();
                chunk.resize(start + usize::try_from(take).map_err(io::Error::other)?, 0);
                file.read_exact_at(&mut chunk[start..], cursor.at)?;
                if cursor.times == Times::With {
                    let piece = chunk.split_off(start);
                    cursor.line = times::append(&mut chunk, &piece, ts, cursor.line);
                }
                cursor.at += take;
                cursor.part = if take == left { Part::Header } else { Part::Shown { left: left - take, ts } };
            }
            Part::Header if cursor.at + HEADER as u64 > limit => break,
            Part::Header => {
                let mut header = [0; HEADER];
                let whole = match file.read_exact_at(&mut header, cursor.at) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                    read => read.map(|()| Header::read(header))?,
                };
                match whole {
                    // Behind the cut only positions follow, and the writer may just have taken them back.
                    Some(Header { kind: Kind::Position, .. }) | None => cursor.part = Part::End,
                    Some(header) if cursor.at + (HEADER + header.len) as u64 > limit => break,
                    Some(header) if header.kind.is_visible() => {
                        cursor.at += HEADER as u64;
                        cursor.part = Part::Shown { left: header.len as u64, ts: header.ts };
                    }
                    Some(header) => cursor.at += (HEADER + header.len) as u64,
                }
            }
        }
    }
    Ok((chunk.freeze(), cursor))
}
