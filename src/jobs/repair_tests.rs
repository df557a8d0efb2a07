use proptest::prelude::*;

use super::*;

fn job(name: &str) -> JobId {
    JobId::from_trusted(name)
}

fn ours(name: &str, standing: Standing) -> Ours {
    Ours { job: job(name), runner: RunnerId::from_trusted(name), standing }
}

fn theirs(gitlab_id: u64, here: Here) -> Theirs {
    Theirs { gitlab_id, class: ClassName::from_trusted("c"), url: Some(format!("http://g/{gitlab_id}")), here }
}

#[test]
fn only_gitlabs_word_ends_a_job_that_runs_here() {
    let table = [
        (Standing::Runs, vec![]),
        (Standing::Unclear, vec![]),
        (Standing::NotReachable, vec![]),
        (Standing::Canceling, vec![Mend::Cancel(job("1"), EndReason::CanceledInGitlab)]),
        (Standing::Ended, vec![Mend::Cancel(job("1"), EndReason::CanceledInGitlab), Mend::Stop(RunnerId::from_trusted("1"))]),
        (Standing::Lapsed, vec![Mend::Cancel(job("1"), EndReason::ReturnedToGitlab)]),
    ];
    for (standing, expected) in table {
        assert_eq!(compare(&[ours("1", standing)], &[], &BTreeSet::new()), expected, "{standing:?}");
    }
}

#[test]
fn a_job_that_gitlab_thinks_here_is_told_when_it_was_so_twice() {
    let table = [(Here::Open, 0, 0), (Here::Never, 1, 1), (Here::Ended(job("e")), 1, 1)];
    for (here, first, second) in table {
        let jobs = [theirs(9, here.clone()), theirs(9, here.clone())];
        let before = compare(&[], &jobs, &BTreeSet::new());
        assert_eq!(before, vec![Mend::Suspect(9); first], "{here:?}");
        let after = compare(&[], &jobs, &BTreeSet::from([9]));
        assert_eq!(after.iter().filter(|mend| matches!(mend, Mend::Strand(_))).count(), second, "{here:?}");
        assert_eq!(after.iter().filter(|mend| matches!(mend, Mend::Suspect(9))).count(), first, "still looked at: {here:?}");
    }
}

#[test]
fn what_gitlab_says_of_a_job_is_read_with_care() {
    for (status, expected) in [
        ("running", Standing::Runs),
        ("canceling", Standing::Canceling),
        ("canceled", Standing::Ended),
        ("failed", Standing::Ended),
        ("success", Standing::Ended),
        ("pending", Standing::Unclear),
        ("waiting_for_callback", Standing::Unclear),
        ("", Standing::Unclear),
    ] {
        assert_eq!(standing_of(status), expected, "{status}");
    }
}

fn any_here() -> impl Strategy<Value = Here> {
    prop_oneof![Just(Here::Never), Just(Here::Open), "[a-c]".prop_map(|name| Here::Ended(JobId::from_trusted(name)))]
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop::sample::select(vec![Standing::Runs, Standing::Canceling, Standing::Ended, Standing::Lapsed, Standing::Unclear, Standing::NotReachable])
}

proptest! {
    /// Whatever the lists say, doubled and in any order: nothing that is wanted or unknown is ended, nothing that runs here is called stranded,
    /// nothing is called so at first sight, and everybody is told of once.
    #[test]
    fn a_round_does_no_harm_and_misses_nothing(
        standings in prop::collection::vec(any_standing(), 0..6),
        listed in prop::collection::vec((0_u64..6, any_here()), 0..12),
        suspects in prop::collection::btree_set(0_u64..6, 0..6),
    ) {
        let ours: Vec<Ours> = standings.iter().enumerate().map(|(n, standing)| ours(&n.to_string(), *standing)).collect();
        let theirs: Vec<Theirs> = listed.into_iter().map(|(id, here)| theirs(id, here)).collect();
        let mends = compare(&ours, &theirs, &suspects);
        for (n, standing) in standings.iter().enumerate() {
            let ended = mends.iter().filter(|mend| matches!(mend, Mend::Cancel(id, _) if *id == job(&n.to_string()))).count();
            let expected = usize::from(matches!(standing, Standing::Canceling | Standing::Ended | Standing::Lapsed));
            prop_assert_eq!(ended, expected);
            let stopped = mends.iter().any(|mend| *mend == Mend::Stop(RunnerId::from_trusted(n.to_string())));
            prop_assert_eq!(stopped, *standing == Standing::Ended, "after_script may run only while GitLab takes it");
        }
        for id in 0..6 {
            let absent = theirs.iter().any(|theirs| theirs.gitlab_id == id && theirs.here != Here::Open);
            let stranded = mends.iter().filter(|mend| matches!(mend, Mend::Strand(strand) if strand.gitlab_id == id)).count();
            let suspected = mends.iter().filter(|mend| **mend == Mend::Suspect(id)).count();
            prop_assert_eq!((suspected, stranded), (usize::from(absent), usize::from(absent && suspects.contains(&id))));
        }
        prop_assert_eq!(compare(&ours, &theirs, &suspects), mends, "the same again");
    }
}
