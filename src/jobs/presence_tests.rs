use super::*;
use crate::jobs::broker::tests::fake::{FakeGitLab, Scripted};

const MINUTE: i64 = 60;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + minute * MINUTE).expect("a time")
}

fn class() -> ClassName {
    ClassName::from_trusted("gpu")
}

fn keeper() -> Keeper {
    Keeper { classes: vec![(class(), SecretString::from("glrt-1"))], not_before: HashMap::new() }
}

fn board(state: &'static str, last: Option<Timestamp>) -> Board {
    let board = Board::default();
    board.post(&class(), |entry| (entry.state, entry.last_answer_at) = (state, last));
    board
}

#[test]
fn only_a_class_that_is_not_asked_for_and_was_not_heard_of_is_due() {
    let table = [
        ("full", Some(0), 29, false),
        ("full", Some(0), 30, true),
        ("full", None, 0, true),
        // A poll may be an hour apart.
        ("waiting", Some(0), 30, true),
        ("waiting", Some(0), 1, false),
        ("asking", Some(0), 90, false),
        ("failing", Some(0), 90, false),
        ("limited", Some(0), 90, false),
        ("denied", Some(0), 90, false),
    ];
    for (state, last, now, expected) in table {
        assert_eq!(due(state, last.map(at), at(now)), expected, "{state} {last:?} {now}");
    }
}

#[tokio::test]
async fn a_full_class_stays_online_for_a_day_and_one_that_is_asked_for_costs_nothing() {
    let gitlab = FakeGitLab::default();
    let (mut keeper, full) = (keeper(), board("full", Some(at(0))));
    let mut silence = 0;
    for minute in 1..=24 * 60 {
        let before = gitlab.calls().len();
        keeper.round(&full, &gitlab, at(minute)).await;
        silence = if gitlab.calls().len() == before { silence + 1 } else { 0 };
        assert!(silence < 60, "GitLab has not heard of the class for an hour: it would be offline after two");
    }
    assert_eq!(gitlab.calls().len(), 48, "not more than is needed");
    assert!(gitlab.calls().iter().all(|call| call == "POST runners/verify"));

    let (gitlab, asked) = (FakeGitLab::default(), board("waiting", None));
    for minute in 1..=24 * 60 {
        asked.post(&class(), |state| state.last_answer_at = Some(at(minute)));
        keeper.round(&asked, &gitlab, at(minute)).await;
    }
    assert_eq!(gitlab.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_try_that_failed_is_shown_and_repeated_after_a_while() {
    let gitlab = FakeGitLab::default();
    let (mut keeper, board) = (keeper(), board("full", None));
    gitlab.next(Scripted::Unreachable);
    for minute in 0..=4 {
        keeper.round(&board, &gitlab, at(minute)).await;
    }
    assert_eq!(gitlab.calls().len(), 1);
    assert!(board.read()[0].error.as_ref().is_some_and(|error| error.contains("could not be reached")), "{:?}", board.read());
    keeper.round(&board, &gitlab, at(5)).await;
    assert_eq!((gitlab.calls().len(), board.read()[0].error.clone(), board.read()[0].last_answer_at), (2, None, Some(at(5))));
}
