//! One operation's failure is its own; a failed commit is everybody's.

use futures_util::future::join;

use super::*;

fn writer() -> Writer {
    let connection = Connection::open_in_memory().expect("a database");
    connection.pragma_update(None, "foreign_keys", true).expect("set");
    connection
        .execute_batch("CREATE TABLE a (x INTEGER PRIMARY KEY); CREATE TABLE b (x REFERENCES a (x) DEFERRABLE INITIALLY DEFERRED)")
        .expect("tables");
    Writer::start(connection, Arc::default(), Arc::new(Damage::none_in(std::path::Path::new("none")))).expect("a thread")
}

async fn add(writer: &Writer, x: i64) -> Result<(), StoreError> {
    let work = move |connection: &Connection| Ok(connection.execute("INSERT INTO a VALUES (?1)", [x]).map(|_| ())?);
    writer.call("add", Notice::Changes, work).await
}

async fn all(writer: &Writer) -> Vec<i64> {
    let read = |connection: &Connection| {
        let mut statement = connection.prepare("SELECT x FROM a ORDER BY x")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    };
    writer.call("read", Notice::Quiet, read).await.expect("read")
}

/// Keeps the thread busy, in a group of its own, while `asked` is asked: all of that falls into the next group.
async fn in_one_group<T>(writer: &Writer, asked: impl Future<Output = T>) -> T {
    let (held, holds) = tokio::sync::oneshot::channel();
    let (go, until) = std::sync::mpsc::channel::<()>();
    let wait = move |_: &Connection| {
        let _ = held.send(());
        let _ = until.recv();
        Ok(())
    };
    let asked = async {
        holds.await.expect("the thread has taken what it waits in");
        // `asked` is polled first: all of it is in the queue when the thread is let go.
        tokio::join!(biased; asked, async { go.send(()).expect("it waits") }).0
    };
    let (held, answers) = join(writer.call("hold", Notice::Quiet, wait), asked).await;
    held.expect("nothing else was in its group");
    answers
}

#[tokio::test]
async fn a_failure_or_a_panic_takes_nobody_with_it() {
    let writer = writer();
    let half = |connection: &Connection| -> Outcome<()> {
        connection.execute("INSERT INTO a VALUES (10)", [])?;
        Err(Fault::corrupt("half done"))
    };
    let panics = |connection: &Connection| -> Outcome<()> {
        connection.execute("INSERT INTO a VALUES (11)", [])?;
        panic!("a test's own panic")
    };
    let asked = async {
        tokio::join!(
            biased;
            add(&writer, 1),
            add(&writer, 1),
            writer.call("half", Notice::Changes, half),
            writer.call("panic", Notice::Changes, panics),
            add(&writer, 2),
        )
    };
    let (first, double, half, panicked, last) = in_one_group(&writer, asked).await;
    assert!(first.is_ok() && last.is_ok());
    assert!(matches!(double, Err(StoreError::Unavailable { doing: "add", .. })), "{double:?}");
    assert!(matches!(half, Err(StoreError::Corrupt(_))), "{half:?}");
    let Err(StoreError::Unavailable { source, .. }) = panicked else { panic!("{panicked:?}") };
    assert!(source.to_string().contains("a test's own panic"));
    assert_eq!(all(&writer).await, [1, 2]);
    let commits = writer.tally().commits.load(Ordering::Relaxed);
    assert!(commits <= 3, "{commits} commits: five operations were not one group");
}

#[tokio::test]
async fn a_failed_commit_is_told_to_all_and_the_next_goes_on() {
    let writer = writer();
    let orphan = |connection: &Connection| Ok(connection.execute("INSERT INTO b VALUES (99)", []).map(|_| ())?);
    let asked = async { tokio::join!(biased; add(&writer, 1), writer.call("orphan", Notice::Changes, orphan), add(&writer, 2)) };
    let (one, orphan, two) = in_one_group(&writer, asked).await;
    for answer in [one, orphan, two] {
        assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    }
    assert!(all(&writer).await.is_empty());
    add(&writer, 3).await.expect("it goes on");
    assert_eq!(all(&writer).await, [3]);
}

#[tokio::test]
async fn a_transaction_given_up_midway_fails_only_what_was_in_it() {
    let writer = writer();
    // What SQLite does by itself when the disk is full.
    let give_up = |connection: &Connection| -> Outcome<()> { Ok(connection.execute_batch("ROLLBACK")?) };
    let asked = async { tokio::join!(biased; add(&writer, 1), writer.call("give up", Notice::Changes, give_up), add(&writer, 2)) };
    let (before, giving_up, after) = in_one_group(&writer, asked).await;
    assert!(before.is_err() && giving_up.is_err(), "{before:?} {giving_up:?}");
    after.expect("what came after is done in a new transaction");
    assert_eq!(all(&writer).await, [2]);
}

/// Keeps the thread busy until the answer is dropped or used.
fn stalled(writer: &Writer) -> (std::sync::mpsc::Sender<()>, impl Future<Output = Result<(), StoreError>>) {
    let (go, until) = std::sync::mpsc::channel::<()>();
    let wait = move |_: &Connection| {
        let _ = until.recv();
        Ok(())
    };
    (go, writer.call("hold", Notice::Quiet, wait))
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_thread_that_hangs_ends_in_time_and_what_had_not_begun_is_never_done() {
    let writer = writer();
    let (go, held) = stalled(&writer);
    // With the clock of the runtime paused its timers fire at once; the thread's own clock goes on, so what waits is old only when it is.
    let (held, added) = join(held, add(&writer, 1)).await;
    for answer in [held, added] {
        assert!(matches!(answer, Err(StoreError::Overdue { after: ANSWERS_WITHIN, .. })), "{answer:?}");
    }
    let waited = writer.metrics.store_waits.oldest();
    assert!(!waited.is_zero(), "what hangs is still told");
    drop(go);
    tokio::time::resume();
    // What was asked is younger than the limit by the thread's clock, so it is done after all: nobody may take it for undone.
    assert_eq!(all(&writer).await, [1]);
    assert!(writer.metrics.store_waits.oldest().is_zero());
    let old = Instant::now().checked_sub(ANSWERS_WITHIN).expect("a time");
    assert!(matches!(ask_since(&writer, 2, old).await, Err(StoreError::Overdue { .. })));
    assert_eq!(all(&writer).await, [1], "what had not begun when it was given up is not done");
}

/// Adds a row as somebody would have done who asked then.
async fn ask_since(writer: &Writer, x: i64, asked: Instant) -> Result<(), StoreError> {
    let (answer, answered) = oneshot::channel();
    let work = move |connection: &Connection| -> Outcome<()> { Ok(connection.execute("INSERT INTO a VALUES (?1)", [x]).map(|_| ())?) };
    let then = |_: &Metrics, (): &()| {};
    let waiting = writer.metrics.store_waits.begin();
    let call = Call { doing: "add", notice: Notice::Changes, asked, work: Some(work), then, result: None, answer, waiting };
    let Way::Thread(Some(queue), _) = &writer.way else { panic!("a thread writes") };
    queue.send(Box::new(call)).await.unwrap_or_else(|_| panic!("sent"));
    answered.await.expect("an answer")
}
