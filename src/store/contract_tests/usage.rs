//! What jobs used of GPUs, and the sums by project: counted once, in the commit of the attempt's end.

use super::*;

const HOUR: i64 = 3_600_000;

/// Runs one attempt of a job of a project on one GPU for so long, and ends it.
async fn run(store: &dyn Store, project: &str, from: i64, millis: i64, outcome: Outcome) -> (JobId, RunnerId) {
    created(store, of_project(command(requirement("default", 1000), 0), project)).await;
    let claimed = claim(store, from).await.expect("claimed");
    take(store, &claimed.runner.id, up(), from).await;
    take(store, &claimed.runner.id, [ended(outcome)], from + millis).await;
    (claimed.job.expect("a job").id, claimed.runner.id)
}

async fn sums(store: &dyn Store, now: i64) -> Vec<(String, u64, u64, u64)> {
    let all = store.project_usage(t(now), 10).await.expect("sums");
    let shown = |one: ProjectUsage| (one.project.map_or(String::new(), |name| name.to_string()), one.attempts, one.gpu_millis, one.gpu_millis_of_day);
    all.into_iter().map(shown).collect()
}

pub(in crate::store) async fn ended_attempts_are_added_to_their_project_once(store: &dyn Store) {
    assert_eq!(sums(store, 0).await, []);
    let failed = Outcome::final_failure(EndReason::StartFailed, "no");
    let (_, runner) = run(store, "a", 0, 2_000, Outcome::Succeeded).await;
    run(store, "b", 5_000, 7_000, failed).await;
    run(store, "a", 0, 500, Outcome::Succeeded).await;
    let expected = [("b".to_owned(), 1, 7_000, 7_000), ("a".to_owned(), 2, 2_500, 2_500)];
    assert_eq!(sums(store, 20_000).await, expected);
    // The end is written again, and the runner goes: nothing is counted again.
    take(store, &runner, [ended(Outcome::Succeeded)], 9_000).await;
    take(store, &runner, [Step::Exited], 9_500).await;
    assert_eq!(sums(store, 20_000).await, expected);
    assert_eq!(store.project_usage(t(20_000), 1).await.expect("sums").len(), 1);
}

pub(in crate::store) async fn the_day_forgets_and_the_sum_does_not(store: &dyn Store) {
    run(store, "a", 0, 1_000, Outcome::Succeeded).await;
    run(store, "a", 20 * HOUR, 30, Outcome::Succeeded).await;
    let of_day = async |now: i64| sums(store, now).await.into_iter().map(|(_, _, all, day)| (all, day)).next();
    assert_eq!(of_day(20 * HOUR).await, Some((1_030, 1_030)));
    assert_eq!(of_day(25 * HOUR).await, Some((1_030, 30)));
    run(store, "a", 60 * HOUR, 4, Outcome::Succeeded).await;
    assert_eq!(of_day(60 * HOUR).await, Some((1_034, 4)));
}

pub(in crate::store) async fn what_an_attempt_used_is_kept_and_final_with_its_end(store: &dyn Store) {
    let job = created(store, command(requirement("default", 1000), 0)).await.id;
    let claimed = claim(store, 0).await.expect("claimed");
    take(store, &claimed.runner.id, up(), 0).await;
    let gpu = claimed.runner.placement.devices.clone();
    let vitals = |energy| GpuVitals { energy_millijoules: Reading::Known(energy), ..GpuVitals::unreadable("not asked") };
    let mut usage = GpuUsage::default();
    for energy in [100, 350] {
        let vitals = vitals(energy);
        usage.observe(t(0), &gpu, |_| Some(&vitals));
        store.write_gpu_usage(&[(job.clone(), 1, usage.clone())]).await.expect("written");
    }
    assert_eq!(store.gpu_usage(&job).await.expect("read"), BTreeMap::from([(1, usage.clone())]));
    take(store, &claimed.runner.id, [ended(Outcome::Succeeded)], 1_000).await;
    // A reading that comes late, and one of an attempt that there is not.
    store.write_gpu_usage(&[(job.clone(), 1, GpuUsage::default()), (job.clone(), 2, usage.clone())]).await.expect("written");
    assert_eq!(store.gpu_usage(&job).await.expect("read"), BTreeMap::from([(1, usage)]));
    let sums = store.project_usage(t(1_000), 10).await.expect("sums");
    assert_eq!((sums[0].project.clone(), sums[0].energy_millijoules, sums[0].gpu_millis), (None, 250, 1_000));
}
