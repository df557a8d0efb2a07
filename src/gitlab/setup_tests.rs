use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const HOOK: &str = "https://ci.test/webhook/job";

fn host() -> HostId {
    HostId::from_trusted("box")
}

fn goal(class: &str, tags: &[&str], token: TokenState) -> RunnerGoal {
    let mut named = Class::named(ClassName::from_trusted(class));
    named.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    RunnerGoal::of(&host(), &named, &Limits::default(), token)
}

fn record(id: i64, body: &RunnerBody) -> RunnerRecord {
    RunnerRecord {
        id,
        description: Some(body.description.clone()),
        paused: false,
        tag_list: body.tags.clone(),
        run_untagged: body.run_untagged,
        maximum_timeout: Some(body.maximum_timeout),
    }
}

fn hook_goal(kind: SecretKind, signing: SecretState, secret: SecretState) -> HookGoal {
    HookGoal { url: HOOK.to_owned(), mark: mark(&host()), kind, signing, secret }
}

fn hook(id: i64, url: &str) -> HookRecord {
    HookRecord {
        id,
        url: url.to_owned(),
        description: None,
        job_events: true,
        signing_token_present: Some(true),
        token_present: Some(false),
        alert_status: Some("executable".to_owned()),
        disabled_until: None,
    }
}

/// What the changes make of GitLab and of what we hold.
fn carry_out(changes: &[Change], goals: &mut [RunnerGoal], runners: &mut Vec<RunnerRecord>, hook_goal: &mut HookGoal, hooks: &mut Vec<HookRecord>) {
    let mut hold = |class: &ClassName, id| goals.iter_mut().filter(|goal| goal.class == *class).for_each(|goal| goal.token = TokenState::Opens(id));
    for change in changes {
        match change {
            Change::CreateRunner { class, body } => {
                let id = runners.iter().map(|runner| runner.id + 1).max().unwrap_or(1000);
                runners.push(record(id, body));
                hold(class, id);
            }
            Change::UpdateRunner { id, body, .. } => {
                runners.iter_mut().filter(|runner| runner.id == *id).for_each(|runner| *runner = record(*id, body));
            }
            Change::ResetToken { id, class, .. } => hold(class, *id),
            Change::CreateHook { kind } => {
                hooks.push(hook(99, HOOK));
                settle(*kind, hook_goal, hooks.last_mut());
            }
            Change::UpdateHook { id, kind, .. } => settle(*kind, hook_goal, hooks.iter_mut().find(|hook| hook.id == *id)),
        }
    }
}

fn settle(kind: SecretKind, goal: &mut HookGoal, hook: Option<&mut HookRecord>) {
    let hook = hook.expect("the webhook is there");
    (hook.url, hook.job_events) = (goal.url.clone(), true);
    match kind {
        SecretKind::Signing => (goal.signing, hook.signing_token_present) = (SecretState::Ready, Some(true)),
        SecretKind::Secret => {
            goal.secret = SecretState::Ready;
            hook.token_present = hook.token_present.map(|_| true);
        }
    }
}

fn words(plan: &Plan) -> Vec<String> {
    plan.changes.iter().map(ToString::to_string).collect()
}

#[test]
fn each_fault_of_a_runner_has_its_change() {
    let wanted = goal("a", &["x"], TokenState::Opens(5));
    let good = record(5, &wanted.body);
    let with = |token, runner: RunnerRecord| words(&plan(&[RunnerGoal { token, ..wanted.clone() }], &[runner], None));
    assert_eq!(with(TokenState::Opens(5), good.clone()), Vec::<String>::new());
    assert_eq!(with(TokenState::Opens(5), RunnerRecord { paused: true, ..good.clone() }).len(), 1);
    assert_eq!(with(TokenState::Opens(5), RunnerRecord { run_untagged: true, ..good.clone() }).len(), 1);
    assert_eq!(with(TokenState::Opens(5), RunnerRecord { maximum_timeout: None, ..good.clone() }).len(), 1);
    let tags = with(TokenState::Opens(5), RunnerRecord { tag_list: BTreeSet::new(), ..good.clone() });
    assert_eq!(tags, ["class a: mend runner 5 (its tags differ); it is to be with the tags x"]);
    assert_eq!(with(TokenState::Missing, good.clone()), ["class a: give runner 5 a new token, because its token is lost"]);
    assert_eq!(with(TokenState::Refused, good.clone()), ["class a: give runner 5 a new token, because GitLab refuses the token that we hold"]);
    let other = record(6, &goal("other", &[], TokenState::Missing).body);
    assert_eq!(with(TokenState::Missing, other.clone()), ["class a: make a runner with the tags x"]);
    assert_eq!(with(TokenState::Opens(7), other), Vec::<String>::new(), "a runner made by hand is left as it is");
}

#[test]
fn a_class_without_tags_takes_jobs_without_tags_and_short_times_are_gitlabs_least() {
    let class = Class::named(ClassName::from_trusted("a"));
    let limits = Limits { max_timeout: std::time::Duration::from_secs(60), ..Limits::default() };
    let body = RunnerGoal::of(&host(), &class, &limits, TokenState::Missing).body;
    assert_eq!((body.run_untagged, body.maximum_timeout, body.description.as_str()), (true, 600, "runner-coordinator box/a"));
    assert!(!goal("a", &["x"], TokenState::Missing).body.run_untagged);
}

#[test]
fn each_fault_of_a_webhook_has_its_change() {
    use SecretState::{Missing, Ready, Staged};
    let signing = |state| hook_goal(SecretKind::Signing, state, Missing);
    let old = HookRecord { signing_token_present: None, token_present: None, ..hook(1, HOOK) };
    let marked = HookRecord { description: Some("runner-coordinator box".into()), ..hook(1, "https://old.test/webhook/job") };
    let cases = [
        (signing(Ready), hook(1, HOOK), ""),
        (signing(Ready), hook(1, "https://ci.test/webhook/job/"), ""),
        (signing(Ready), hook(1, "https://other.test/webhook/job"), "webhook: make one for Job events, with a signing token"),
        (signing(Ready), marked, "webhook: mend webhook 1 (its address differs)"),
        (signing(Ready), HookRecord { job_events: false, ..hook(1, HOOK) }, "webhook: mend webhook 1 (Job events are off)"),
        (
            signing(Ready),
            HookRecord { signing_token_present: Some(false), ..hook(1, HOOK) },
            "webhook: mend webhook 1 (it has no token to prove itself with)",
        ),
        (signing(Missing), hook(1, HOOK), "webhook: mend webhook 1 (its token is lost)"),
        (signing(Staged), hook(1, HOOK), "webhook: mend webhook 1 (its token was being changed)"),
        (hook_goal(SecretKind::Signing, Missing, Ready), old.clone(), ""),
        (hook_goal(SecretKind::Signing, Missing, Missing), old, "webhook: mend webhook 1 (its token is lost)"),
        (hook_goal(SecretKind::Secret, Missing, Ready), HookRecord { token_present: Some(true), ..hook(1, HOOK) }, ""),
    ];
    for (goal, hook, expected) in cases {
        let planned = plan(&[], &[], Some((&goal, std::slice::from_ref(&hook))));
        assert_eq!(words(&planned).join("\n"), expected, "{goal:?} {hook:?}");
    }
    let disabled = HookRecord { alert_status: Some("disabled".into()), ..hook(1, HOOK) };
    assert_eq!(plan(&[], &[], Some((&signing(Ready), &[disabled]))).notes.len(), 1);
}

fn token_state() -> impl Strategy<Value = TokenState> {
    prop_oneof![Just(TokenState::Missing), Just(TokenState::Refused), (1_i64..6).prop_map(TokenState::Opens)]
}

fn secret_state() -> impl Strategy<Value = SecretState> {
    prop_oneof![Just(SecretState::Missing), Just(SecretState::Staged), Just(SecretState::Ready)]
}

fn runner() -> impl Strategy<Value = RunnerRecord> {
    let fields = (1_i64..6, 0..4_usize, any::<bool>(), any::<bool>(), proptest::option::of(600_u64..100_000), "[xy]?");
    fields.prop_map(|(id, class, paused, run_untagged, maximum_timeout, tag)| RunnerRecord {
        id,
        description: Some(format!("{}{}", runner_mark(&host()), ["a", "b", "c", "d"][class])),
        paused,
        tag_list: BTreeSet::from([tag]),
        run_untagged,
        maximum_timeout,
    })
}

fn any_hook() -> impl Strategy<Value = HookRecord> {
    let present = || proptest::option::of(any::<bool>());
    (1_i64..4, 0..3_usize, any::<bool>(), present(), present(), any::<bool>()).prop_map(|(id, url, job_events, signing, token, marked)| HookRecord {
        job_events,
        signing_token_present: signing,
        token_present: token,
        description: marked.then(|| mark(&host())),
        ..hook(id, [HOOK, "https://ci.test/webhook/job/", "https://other.test/"][url])
    })
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_is_empty_and_touched_nothing_else(
        tokens in proptest::collection::vec(token_state(), 3),
        runners in proptest::collection::vec(runner(), 0..5),
        hooks in proptest::collection::vec(any_hook(), 0..3),
        kind in prop_oneof![Just(SecretKind::Signing), Just(SecretKind::Secret)],
        states in (secret_state(), secret_state()),
    ) {
        let mut goals: Vec<_> = tokens.into_iter().zip(["a", "b", "c"]).map(|(token, class)| goal(class, &["x"], token)).collect();
        let (mut runners, mut hooks) = (runners, hooks);
        let mut seen = BTreeSet::new();
        runners.retain(|runner| seen.insert(runner.id));
        let mut seen = BTreeSet::new();
        hooks.retain(|hook| seen.insert(hook.id));
        let before = (runners.clone(), hooks.clone());
        let mut hook_goal = hook_goal(kind, states.0, states.1);
        let first = plan(&goals, &runners, Some((&hook_goal, &hooks)));
        carry_out(&first.changes, &mut goals, &mut runners, &mut hook_goal, &mut hooks);
        let second = plan(&goals, &runners, Some((&hook_goal, &hooks)));
        prop_assert_eq!(&second.changes, &Vec::new());
        for runner in before.0.iter().filter(|runner| runner.description.as_deref() == Some("runner-coordinator box/d")) {
            prop_assert!(runners.contains(runner), "a runner of no class asked for was touched");
        }
        let changed = before.1.iter().filter(|hook| !hooks.contains(hook)).count();
        prop_assert!(changed <= 1, "more than one webhook was touched");
    }
}
