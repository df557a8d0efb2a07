//! The whole history in order, for who goes on after the last position that he saw and must miss nothing.
//!
//! A position is drawn when an entry is written and seen when its transaction commits, so 7 may be seen before 6 is. A gap is passed over only
//! once it cannot be filled any more: when every transaction has ended that was writing entries after the gap had been seen. Whoever writes
//! entries holds a lock on their table until his transaction ends, and `pg_locks` shows it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fault::Outcome;
use super::transaction::Tx;
use crate::domain::Event;
use crate::store::EventQuery;
use crate::store::rows::{self, Row as _};

/// How old an entry is before which no gap is looked into: older than any of our transactions becomes.
const GAPS_ARE_FILLED_WITHIN_MS: i64 = 60_000;
/// How often it is looked whether those who wrote have ended, and how long it is waited between.
const LOOKS: (u32, Duration) = (20, Duration::from_millis(10));

/// An entry and for how long it has been written, in milliseconds.
type Aged = (Event, i64);

/// Entries after a position, oldest first, up to a gap that may still be filled. To be called in a transaction whose every statement sees what was
/// committed before it.
pub(super) async fn read(tx: &Tx<'_>, query: &EventQuery) -> Outcome<Vec<Event>> {
    let first = entries(tx, query).await?;
    let Some(last_seen) = first.last().map(|(event, _)| event.seq) else { return Ok(Vec::new()) };
    let before_gap = settled(&first, query.after, query.after);
    if before_gap.len() == first.len() {
        return Ok(before_gap);
    }
    let writing = writers(tx).await?;
    for _ in 0..LOOKS.0 {
        if writing.is_disjoint(&writers(tx).await?) {
            // Who had drawn a position before the last one that was seen has ended: what is missing now is missing for ever.
            return Ok(settled(&entries(tx, query).await?, query.after, last_seen));
        }
        tokio::time::sleep(LOOKS.1).await;
    }
    Ok(before_gap)
}

/// The entries up to the first gap that may still be filled. Gaps before `known` are none.
fn settled(entries: &[Aged], after: i64, known: i64) -> Vec<Event> {
    let mut last = after;
    let mut settled = Vec::with_capacity(entries.len());
    for (event, age) in entries {
        if event.seq != last + 1 && event.seq > known && *age < GAPS_ARE_FILLED_WITHIN_MS {
            break;
        }
        last = event.seq;
        settled.push(event.clone());
    }
    settled
}

async fn entries(tx: &Tx<'_>, query: &EventQuery) -> Outcome<Vec<Aged>> {
    let sql = "SELECT seq, at, job_id, runner_id, attempt, body, \
               CAST(extract(epoch FROM clock_timestamp() - written_at) * 1000 AS BIGINT) AS age FROM events WHERE seq > $1 ORDER BY seq LIMIT $2";
    let found = tx.all(sql, &[&query.after, &i64::from(query.limit)]).await?;
    found.iter().map(|row| Ok((rows::event(row)?, row.integer("age")?))).collect()
}

/// The transactions that are writing entries.
async fn writers(tx: &Tx<'_>) -> Outcome<BTreeSet<String>> {
    let sql = "SELECT virtualtransaction AS writer FROM pg_locks WHERE locktype = 'relation' AND relation = 'events'::regclass \
               AND mode = 'RowExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    tx.all(sql, &[]).await?.iter().map(|row| row.text("writer")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventKind;
    use jiff::Timestamp;

    fn entry(seq: i64, age: i64) -> Aged {
        (Event { seq, at: Timestamp::UNIX_EPOCH, job: None, runner: None, attempt: None, kind: EventKind::Ended }, age)
    }

    #[test]
    fn what_comes_after_a_gap_waits_for_it() {
        let positions = |entries: &[Aged], after, known| settled(entries, after, known).iter().map(|event| event.seq).collect::<Vec<_>>();
        let entries = [entry(3, 10), entry(4, 9), entry(6, 8), entry(7, 7), entry(9, 1)];
        assert_eq!(positions(&entries, 2, 2), [3, 4]);
        assert_eq!(positions(&entries, 2, 6), [3, 4, 6, 7], "the gap at 5 is known to stay");
        assert_eq!(positions(&entries, 2, 9), [3, 4, 6, 7, 9]);
        assert_eq!(positions(&entries, 1, 1), [0_i64; 0], "2 may still come");
        assert_eq!(positions(&[entry(5, 60_000), entry(6, 2), entry(8, 1)], 0, 0), [5, 6], "what is old has no gaps before it");
    }
}
