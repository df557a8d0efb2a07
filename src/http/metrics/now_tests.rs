//! How GPUs, GitLab and the engine are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::domain::{ClassName, CpuMillis, GpuHealth, GpuRole, GpuVitals, MemoryBytes, Reading};
use crate::http::harness::Harness;
use crate::jobs::{GitLabQueue, IntakeState, IntakeWord, ProjectQueue};
use crate::metrics::Format;
use crate::platform::devices::fixture::card;

/// The samples of one scrape of a daemon whose manager published this.
fn samples(change: impl FnOnce(&mut Status)) -> BTreeMap<String, f64> {
    let harness = Harness::with("gitlab_token = \"glrt-token-of-a-class-0123\"\n");
    let mut status = (*harness.state.manager.status()).clone();
    change(&mut status);
    let now = harness.state.clock.now();
    let facts = Facts {
        now,
        started_at: now,
        config: &harness.state.config.current(),
        status: &status,
        stored: None,
        process: None,
        room: None,
        streams: 3,
        store_wait: std::time::Duration::ZERO,
        tasks: Vec::new(),
    };
    let filled = Now::new();
    filled.fill(&facts);
    let mut text = String::new();
    filled.registrar.write(Format::Prometheus, &mut text).expect("text");
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(series, value)| (series.trim_start_matches("runner_coordinator_").to_owned(), value.parse().expect("a number"))).collect()
}

#[test]
fn gpus_are_told_by_state_and_one_by_one_and_what_is_not_known_is_missing() {
    let vitals = GpuVitals {
        memory_used: Reading::Known(MemoryBytes(1 << 30)),
        utilization_percent: Reading::Known(75),
        energy_millijoules: Reading::Known(2500),
        ..GpuVitals::unreadable("late")
    };
    let told = samples(|status| {
        let sick = Gpu { health: GpuHealth::Quarantined("hot".into()), ..card("b") };
        let memory = Reading::Known(MemoryBytes(4 << 30));
        status.facts.gpus = vec![Gpu { memory, ..card("a") }, sick, card("c"), Gpu { role: GpuRole::Divided, ..card("d") }];
        let id = status.facts.gpus[0].id.clone();
        status.devices_in_use = vec![id.clone(), id.clone()];
        status.gpu_vitals = BTreeMap::from([(id, vitals)]);
    });
    let states: Vec<(&str, f64)> =
        GpuState::ALL.map(GpuState::as_str).map(|state| (state, told[&format!("gpus{{vendor=\"nvidia\",state=\"{state}\"}}")])).to_vec();
    let expected = [
        ("free", 1.0),
        ("in_use", 1.0),
        ("checking", 0.0),
        ("quarantined", 1.0),
        ("unhealthy", 0.0),
        ("lost", 0.0),
        ("divided", 1.0),
        ("unused", 0.0),
    ];
    assert_eq!(states, expected);
    let of = |name: &str, gpu: &str| told.get(&format!("{name}{{gpu=\"{gpu}\",vendor=\"nvidia\"}}")).copied();
    assert_eq!((of("gpu_held", "a"), of("gpu_held", "b"), of("gpu_held", "d")), (Some(1.0), Some(0.0), None));
    assert_eq!((of("gpu_memory_bytes", "a"), of("gpu_memory_used_bytes", "a")), (Some(4_294_967_296.0), Some(1_073_741_824.0)));
    assert_eq!((of("gpu_utilization_ratio", "a"), of("gpu_energy_joules_total", "a")), (Some(0.75), Some(2.5)));
    assert_eq!((of("gpu_temperature_celsius", "a"), of("gpu_uncorrected_errors_total", "a"), of("gpu_utilization_ratio", "c")), (None, None, None));
}

#[test]
fn gitlab_the_engine_and_the_manager_are_told_as_they_were_published() {
    let class = ClassName::from_trusted("arm");
    let published = class.clone();
    let told = samples(move |status| {
        let at = status.last_tick_at;
        let last_answer_at = Some(at - jiff::SignedDuration::from_secs(30));
        status.intake = vec![IntakeState { class: published, state: IntakeWord::Denied, last_answer_at, error: None }];
        let project = |pending| ProjectQueue { pending, ..ProjectQueue::default() };
        status.gitlab_queue = Some(Arc::new(GitLabQueue { projects: vec![project(2), project(3)], ..GitLabQueue::default() }));
        status.engine = EngineState::Up { version: "28".to_owned(), since: at };
        status.last_tick -= std::time::Duration::from_millis(2500);
        status.last_tick_error = Some("disk full".to_owned());
        status.used_cpus = CpuMillis(1500);
    });
    for (series, value) in [
        ("gitlab_intake_state{class=\"arm\",state=\"denied\"}", 1.0),
        ("gitlab_intake_state{class=\"arm\",state=\"waiting\"}", 0.0),
        ("gitlab_last_answer_age_seconds{class=\"arm\"}", 30.0),
        ("gitlab_pending_jobs", 5.0),
        ("gitlab_stranded_jobs", 0.0),
        ("broker_up", 0.0),
        ("engine_up", 1.0),
        ("store_up", 0.0),
        ("last_tick_failed", 1.0),
        ("host_cpus_held", 1.5),
        ("open_streams", 3.0),
    ] {
        assert_eq!(told.get(series), Some(&value), "{series}: {told:#?}");
    }
    let lag = told["last_tick_age_seconds"];
    assert!((2.5..60.0).contains(&lag), "{lag}");
    let quiet = samples(|_| {});
    assert_eq!(quiet.get("gitlab_pending_jobs"), None, "what was never looked at is not 0");
    assert!(!quiet.keys().any(|series| series.starts_with("jobs{") || series.starts_with("queue_")), "nor is what a store that is down did not tell");
}
