use super::*;
use crate::gitlab::ListedRunner;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn job(id: u64, tags: &[&str], waited: f64) -> ListedJob {
    let tag_list = tags.iter().map(|tag| (*tag).to_owned()).collect();
    ListedJob { id, status: "pending".into(), tag_list, created_at: Some(ago(100_000)), queued_duration: Some(waited), ..ListedJob::default() }
}

fn class(name: &str, tags: &[&str], token: Option<&str>) -> Class {
    let (tags, gitlab_token) = (tags.iter().map(|tag| (*tag).to_owned()).collect(), token.map(secrecy::SecretString::from));
    Class { tags, gitlab_token, ..Class::named(ClassName::from_trusted(name)) }
}

#[test]
fn what_waits_is_counted_by_tag_and_what_a_runner_has_is_not() {
    let taken = ListedJob { runner: Some(ListedRunner { id: 7 }), ..job(4, &["docker"], 9_000.0) };
    // Before 13.9 only the time of its making is known.
    let old = ListedJob { queued_duration: None, created_at: Some(ago(70)), ..job(5, &[], 0.0) };
    let jobs = vec![job(1, &["docker"], 10.0), job(2, &["docker", "gpu"], 60.5), job(3, &["docker", "docker"], 1.0), taken, old];
    let served = BTreeSet::from(["docker".to_owned()]);
    let queue = depth("team/app", &ListedJobs { jobs, more: More::Yes }, Some(&served), now());
    assert_eq!((queue.pending, queue.untagged, queue.more, queue.as_of), (4, 1, true, Some(now())));
    assert_eq!(queue.tags, BTreeMap::from([("docker".to_owned(), 3), ("gpu".to_owned(), 1)]));
    assert_eq!((queue.oldest_at, queue.tags_of_no_class), (Some(ago(70)), vec!["gpu".to_owned()]));
}

#[test]
fn nonsense_of_a_server_is_no_wait() {
    for waited in [f64::NAN, f64::INFINITY, -1e300] {
        assert_eq!(waits_since(&job(1, &[], waited), now()), Some(ago(100_000)), "{waited}");
    }
}

#[test]
fn a_class_that_does_not_tell_its_tags_may_have_any() {
    let told = class("a", &["docker"], Some("glrt-a"));
    let silent = class("b", &[], Some("glrt-b"));
    let of_the_api = class("c", &[], None);
    assert_eq!(served_tags(&[told.clone(), of_the_api.clone()]), Some(BTreeSet::from(["docker".to_owned()])));
    assert_eq!(served_tags(&[told, silent]), None);
    assert_eq!(served_tags(&[of_the_api]), None, "nobody works for GitLab");
}
