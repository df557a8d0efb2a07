//! Logs of jobs: what was taken is read back, also after a death at any byte.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _};
use proptest::prelude::*;

use super::*;

fn logs(root: &Path, max: u64) -> LogStore {
    LogStore::new(root.to_owned(), max).expect("a store of logs")
}

fn job() -> JobId {
    JobId::from_trusted("0190abcdef")
}

fn path(root: &Path) -> PathBuf {
    root.join("ef/0190abcdef/1.log")
}

async fn text(logs: &LogStore) -> Vec<u8> {
    logs.read(&job(), 1, Follow::No, Times::Without)
        .try_fold(Vec::new(), |all, chunk| async move { Ok([all, chunk.to_vec()].concat()) })
        .await
        .expect("a log")
}

#[tokio::test]
async fn what_was_written_is_read_back_and_a_new_writer_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = logs(dir.path(), 1 << 20);
    let mut writer = store.writer(&job(), 1).await.expect("a writer");
    assert_eq!((writer.last(), writer.trace_len()), (None, 0));
    writer.append(5, LogStream::Stdout, b"one\n").await.expect("taken");
    writer.append(7, LogStream::Stderr, b"two\n").await.expect("taken");
    writer.append(7, LogStream::Stdout, b"three\n").await.expect("taken");
    writer.append(6, LogStream::Stdout, b"late\n").await.expect("taken");
    writer.append(99, LogStream::Trace, b"trace\n").await.expect("taken");
    writer.append(0, LogStream::Note, b"").await.expect("taken");
    assert_eq!((writer.last(), writer.trace_len()), (Some((7, 2)), 6));
    let busy = store.writer(&job(), 1).await.expect_err("two writers of one log");
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    writer.close().await.expect("closed");
    assert_eq!(text(&store).await, b"one\ntwo\nthree\nlate\ntrace\n");

    let mut writer = logs(dir.path(), 1 << 20).writer(&job(), 1).await.expect("a writer");
    assert_eq!((writer.last(), writer.trace_len()), (Some((7, 2)), 6));
    writer.reset_trace().await.expect("taken");
    writer.append(100, LogStream::Trace, b"again\n").await.expect("taken");
    assert_eq!(writer.trace_len(), 6);
    writer.close().await.expect("closed");
    assert_eq!(text(&store).await, b"one\ntwo\nthree\nlate\ntrace\nagain\n");
    assert_eq!(std::fs::metadata(path(dir.path())).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_follower_gets_all_and_ends_with_the_writer() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = logs(dir.path(), 64 << 20);
    let mut writer = store.writer(&job(), 1).await.expect("a writer");
    let follower = store.read(&job(), 1, Follow::UntilClosed, Times::Without).map(|chunk| chunk.expect("a chunk"));
    let write = async move {
        for round in 0..200_u64 {
            writer.append(round, LogStream::Stdout, &[b'x'; 5_000]).await.expect("taken");
        }
        writer.append(200, LogStream::Stdout, &vec![b'y'; 300_000]).await.expect("taken");
        writer.close().await.expect("closed");
    };
    let read = follower.fold((0, 0), |(all, longest), chunk| async move { (all + chunk.len(), longest.max(chunk.len())) });
    let ((), (all, longest)) = tokio::join!(write, read);
    assert_eq!(all, 1_300_000);
    assert!(longest <= 64 << 10, "a chunk of {longest} bytes");
}

#[tokio::test]
async fn output_reaches_a_follower_before_the_writer_says_anything_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = logs(dir.path(), 1 << 20);
    let mut writer = store.writer(&job(), 1).await.expect("a writer");
    let mut follower = Box::pin(store.read(&job(), 1, Follow::UntilClosed, Times::Without));
    for word in ["first", "second"] {
        writer.append(1, LogStream::Stdout, word.as_bytes()).await.expect("taken");
        assert_eq!(follower.next().await.expect("not the end").expect("a chunk"), word);
    }
    drop(writer);
    assert!(follower.next().await.is_none());
}

#[tokio::test]
async fn a_log_is_opened_again_also_while_its_rest_waits_for_a_thread_that_does_not_come() {
    let dir = tempfile::tempdir().expect("a directory");
    let (thread, _nobody_comes) = mpsc::unbounded_channel();
    let store = LogStore::written_by(dir.path().to_owned(), MaxBytes(Box::new(|| 1 << 20)), Some(thread));
    let mut writer = store.writer(&job(), 1).await.expect("a writer");
    writer.append(5, LogStream::Stdout, b"one\n").await.expect("taken");
    drop(writer);
    assert_eq!(text(&store).await, b"", "it is not written yet");
    let mut writer = store.writer(&job(), 1).await.expect("another writer");
    assert_eq!(writer.last(), Some((5, 1)));
    assert!(writer.ends_with(b"one\n").await.expect("read"));
    writer.append(6, LogStream::Stdout, b"two\n").await.expect("taken");
    writer.close().await.expect("closed");
    assert_eq!(text(&store).await, b"one\ntwo\n");
}

#[tokio::test]
async fn a_cut_log_says_so_once_and_still_knows_where_its_writer_stands() {
    let dir = tempfile::tempdir().expect("a directory");
    for round in 0..3_u64 {
        let store = logs(dir.path(), 100);
        let mut writer = store.writer(&job(), 1).await.expect("a writer");
        assert_eq!(writer.trace_len(), round * 5_000 * 3, "in round {round}");
        for n in 0..5_000 {
            writer.append(round * 10_000 + n, LogStream::Stdout, b"01234567890123456789").await.expect("taken");
            writer.append(0, LogStream::Trace, b"abc").await.expect("taken");
            if n % 100 == 0 {
                writer.flush().await.expect("flushed");
            }
        }
        assert_eq!(writer.last(), Some((round * 10_000 + 4_999, 1)));
        writer.close().await.expect("closed");
        let shown = String::from_utf8(text(&store).await).expect("text");
        assert_eq!(shown, "01234567890123456789abc01234567890123456789abc[log cut: limit of 100 bytes reached]\n", "in round {round}");
        let size = std::fs::metadata(path(dir.path())).expect("a file").len();
        assert!(size < 40_000, "a log of at most 100 bytes takes {size}");
    }
    let mut writer = logs(dir.path(), 100).writer(&job(), 1).await.expect("a writer");
    writer.reset_trace().await.expect("taken");
    writer.close().await.expect("closed");
    assert_eq!(logs(dir.path(), 100).writer(&job(), 1).await.expect("a writer").trace_len(), 0);
}

#[tokio::test]
async fn lists_and_removes_and_never_leaves_its_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = logs(dir.path(), 100);
    assert_eq!(store.attempts(&job()).await.expect("a list"), Vec::<u32>::new());
    for attempt in [10, 2, 1] {
        store.writer(&job(), attempt).await.expect("a writer").close().await.expect("closed");
    }
    assert_eq!(store.attempts(&job()).await.expect("a list"), [1, 2, 10]);
    store.remove(&job()).await.expect("removed");
    store.remove(&job()).await.expect("removed twice");
    assert_eq!(store.attempts(&job()).await.expect("a list"), Vec::<u32>::new());
    for outside in ["../../etc", "", "a", "..", "a/b", "ä0"] {
        let outside = JobId::from_trusted(outside);
        assert!(store.writer(&outside, 1).await.is_err(), "{outside:?} was written");
        assert!(store.remove(&outside).await.is_ok());
        assert_eq!(store.read(&outside, 1, Follow::No, Times::Without).filter_map(|chunk| async move { chunk.ok() }).count().await, 0);
    }
    let long = vec![0; (16 << 20) + 1];
    let mut writer = store.writer(&job(), 1).await.expect("a writer");
    assert_eq!(writer.append(1, LogStream::Stdout, &long).await.map_err(|e| e.kind()), Err(io::ErrorKind::InvalidInput));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is left of the file, a new writer and a reader see a beginning of what was written, record by record.
    #[test]
    fn a_file_cut_anywhere_is_a_prefix(
        records in proptest::collection::vec((0_u64..6, 0_u8..5, proptest::collection::vec(any::<u8>(), 1..40)), 0..20),
        cut in any::<prop::sample::Index>(), zeros in prop_oneof![Just(0_usize), 1_usize..40], max in prop_oneof![Just(1_u64 << 20), 50_u64..300],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a directory");
            let store = logs(dir.path(), max);
            let mut states = vec![(None, 0)];
            let mut shown = vec![Vec::new()];
            let mut writer = store.writer(&job(), 1).await.expect("a writer");
            for (ts, stream, bytes) in &records {
                let kind = [LogStream::Stdout, LogStream::Stderr, LogStream::Trace, LogStream::Note].get(usize::from(*stream)).copied();
                match kind {
                    Some(kind) => writer.append(*ts, kind, bytes).await.expect("taken"),
                    None => writer.reset_trace().await.expect("taken"),
                }
                writer.flush().await.expect("flushed");
                states.push((writer.last(), writer.trace_len()));
                shown.push(text(&store).await);
            }
            writer.close().await.expect("closed");
            let whole = std::fs::read(path(dir.path())).expect("a file");
            // Killed while writing; or, in the other half of the cases, a power cut that left zeros behind the last record.
            let mut rest = if zeros == 0 { whole[..cut.index(whole.len() + 1)].to_vec() } else { whole };
            rest.resize(rest.len() + zeros, 0);
            std::fs::write(path(dir.path()), rest).expect("cut");

            let readable = text(&store).await;
            prop_assert!(shown.contains(&readable), "garbage: {readable:?}");
            let mut writer = store.writer(&job(), 1).await.expect("a writer");
            prop_assert!(states.contains(&(writer.last(), writer.trace_len())), "stands at {:?} {}", writer.last(), writer.trace_len());
            writer.append(9, LogStream::Stdout, b"more").await.expect("taken");
            writer.close().await.expect("closed");
            let after = text(&store).await;
            prop_assert!(after.starts_with(&readable));
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn times_stand_before_lines_and_a_reader_who_comes_again_gets_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = logs(dir.path(), 1 << 20);
    let mut writer = store.writer(&job(), 1).await.expect("a writer");
    writer.append(1, LogStream::Stdout, b"one\ntw").await.expect("taken");
    writer.append(2, LogStream::Stdout, b"o\n").await.expect("taken");
    writer.reset_trace().await.expect("taken");
    writer.append(1_795_000_000_123_456_789, LogStream::Stderr, b"three\n").await.expect("taken");
    // Nothing but ends of lines: the most that times can add.
    writer.append(3, LogStream::Stdout, &vec![b'\n'; 300_000]).await.expect("taken");
    writer.close().await.expect("closed");
    let chunks: Vec<Bytes> = store.read(&job(), 1, Follow::No, Times::With).try_collect().await.expect("a log");
    assert!(chunks.iter().all(|chunk| chunk.len() <= 128 << 10), "chunks are bounded");
    let text = String::from_utf8(chunks.concat()).expect("text");
    let (first, empty) = text.split_at(text.find("1970-01-01T00:00:00.000000003Z").expect("the empty lines"));
    assert_eq!(first, "1970-01-01T00:00:00.000000001Z one\n1970-01-01T00:00:00.000000001Z two\n2026-11-18T11:06:40.123456789Z three\n");
    assert_eq!(empty, "1970-01-01T00:00:00.000000003Z \n".repeat(300_000));
    let again: Vec<Bytes> = store.read(&job(), 1, Follow::UntilClosed, Times::With).try_collect().await.expect("a log");
    assert_eq!(again.concat(), text.as_bytes());
}
