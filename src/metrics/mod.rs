//! What the daemon counts and measures, for Prometheus. No I/O: handles that other rooms move, and the text that shows them.
//!
//! ```text
//!  store · docker · gitlab · jobs · http ── move ──▶ Metrics (since the start)  ┐
//!  http, at every scrape ── fills ──▶ a Registrar of its own (how it is now)    ┴──▶ text
//! ```
//!
//! What happens is counted where it happens; what is so at present is read when somebody asks, from what is known anyway. Labels take their
//! values from bounded sets only ([`Label`]): a test throws everything at the daemon that strangers can send, and no series appears.

mod jobs;
mod label;
mod registrar;
mod waits;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use jobs::JobMetrics;
pub use label::Label;
pub use registrar::{Counters, Description, Durations, Format, Gauges, Kind, Registrar, Sums, end};
pub use waits::{Waiting, Waits};

use crate::domain::ClassName;

/// The label of everything whose class is not (or no longer) configured.
pub const UNCONFIGURED: &str = "unconfigured";

/// For calls that should take milliseconds: of the store, the engine, GitLab, the API.
const CALLS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];
/// For waits: 1 s and 120 s are what GitLab.com promises of its own runners, so both are bounds.
const WAITS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// For the start of a container.
const STARTS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];
/// For run times.
const RUNS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0, 86_400.0];
/// For pulls of images.
const PULLS: &[f64] = &[0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0];

/// How webhook deliveries were answered.
pub const WEBHOOK_RESULTS: [&str; 9] = [
    "accepted",
    "accepted_unrecorded",
    "ignored_duplicate",
    "ignored_status",
    "ignored_canceled",
    "ignored_event",
    "unauthorized",
    "malformed",
    "failed",
];

/// The bounds on amounts that requests are refused for.
pub const REFUSALS: [&str; 10] = ["bells", "writes", "reads", "vitals", "bodies", "connections", "streams", "pace", "project_queue", "whole_queue"];

/// Everything that is counted since the start.
#[derive(Debug)]
pub struct Metrics {
    registrar: Registrar,
    classes: RwLock<BTreeSet<String>>,
    /// Jobs and their runners.
    pub jobs: JobMetrics,
    /// Calls to the engine.
    pub engine: Calls,
    /// Fetched images, by how that went.
    pub image_pulls: Durations<1>,
    /// Images that were removed to make room, or for their age.
    pub images_removed: Counters<0>,
    /// Operations of the store.
    pub store: Calls,
    /// Operations of the store that have not come to an end.
    pub store_waits: Arc<Waits>,
    /// Transactions that the store committed; each holds one operation or many.
    pub store_commits: Counters<0>,
    /// Calls to GitLab.
    pub gitlab: Calls,
    /// The manager's passes.
    pub manager: ManagerMetrics,
    /// Requests that were answered, by route, method and class of status.
    pub http_requests: Counters<3>,
    /// Requests that were refused because there is too much already, by the bound that was reached.
    pub http_refused: Counters<1>,
    /// How long until an answer's head, by route and method.
    pub http_durations: Durations<2>,
    /// Webhook deliveries, by how they were answered.
    pub webhooks: Counters<1>,
}

/// See [`Metrics::manager`].
#[derive(Debug)]
pub struct ManagerMetrics {
    /// How long a pass took.
    pub passes: Durations<0>,
    /// Passes that failed.
    pub failures: Counters<0>,
    /// Containers of ours that belonged to no runner and were removed.
    pub strays: Counters<0>,
    /// How long GPUs were held by runners, each counted, by vendor.
    pub gpus_held: Sums<1>,
}

/// Calls to one other system: how long they took, and which failed how.
#[derive(Debug)]
pub struct Calls {
    durations: Durations<1>,
    errors: Counters<2>,
}

impl Calls {
    /// A call ended. `operation` is a phrase of the program; `error` is the kind of failure, where it failed.
    pub fn record(&self, operation: &'static str, took: Duration, error: Option<&'static str>) {
        self.durations.observe([Label::phrase(operation)], took);
        if let Some(kind) = error {
            self.errors.count([Label::phrase(operation), kind.into()]);
        }
    }

    /// Something that has no duration failed, such as a stream.
    pub fn failed(&self, operation: &'static str, kind: &'static str) {
        self.errors.count([Label::phrase(operation), kind.into()]);
    }
}

fn store_calls(make: &mut Registrar) -> Calls {
    Calls {
        durations: make.durations(
            "store_operation_seconds",
            ["operation"],
            CALLS,
            "How long operations of the store took, the wait for their turn and for the commit included.",
        ),
        errors: make.counters(
            "store_operation_errors",
            ["operation", "kind"],
            "Operations of the store that failed; refused ones were told so and are no fault of the store.",
        ),
    }
}

impl Default for Metrics {
    /// Without any class: for tests and for commands that nobody scrapes.
    fn default() -> Self {
        Self::new([])
    }
}

impl Metrics {
    /// With the configured classes, whose series are there from the beginning.
    #[must_use]
    pub fn new<'c>(classes: impl IntoIterator<Item = &'c ClassName>) -> Self {
        let mut registrar = Registrar::default();
        let make = &mut registrar;
        let metrics = Self {
            classes: RwLock::default(),
            jobs: JobMetrics::new(make),
            engine: Calls {
                durations: make.durations(
                    "engine_call_seconds",
                    ["operation"],
                    CALLS,
                    "How long calls to the container engine took, pulls and streams left out.",
                ),
                errors: make.counters("engine_call_errors", ["operation", "kind"], "Calls to the container engine that failed, by kind of failure."),
            },
            image_pulls: make.durations(
                "image_pull_seconds",
                ["result"],
                PULLS,
                "How long fetching an image took; result is ok or the kind of failure.",
            ),
            images_removed: make.counters("images_removed", [], "Images that were removed because no job used them lately."),
            store: store_calls(make),
            store_waits: Arc::default(),
            store_commits: make.counters("store_commits", [], "Transactions that the store committed; each holds one operation or many."),
            gitlab: Calls {
                durations: make.durations("gitlab_call_seconds", ["operation"], CALLS, "How long calls to GitLab took."),
                errors: make.counters(
                    "gitlab_call_errors",
                    ["operation", "kind"],
                    "Calls to GitLab that failed or that it refused, by kind of failure.",
                ),
            },
            manager: ManagerMetrics {
                passes: make.durations("tick_seconds", [], CALLS, "How long the manager's passes took."),
                failures: make.counters("tick_errors", [], "Passes of the manager that failed; the next one begins from scratch."),
                strays: make.counters("stray_containers_removed", [], "Containers of ours that belonged to no runner and were removed."),
                gpus_held: make.sums("gpu_held_seconds", ["vendor"], "How long runners held GPUs, each GPU counted once however many share it."),
            },
            http_requests: make.counters(
                "http_requests",
                ["route", "method", "status"],
                "Requests that were answered, by the route's template, method and class of status.",
            ),
            http_refused: make.counters(
                "http_requests_refused",
                ["bound"],
                "Requests that were refused because there is too much already, by the bound that was reached.",
            ),
            http_durations: make.durations(
                "http_request_seconds",
                ["route", "method"],
                CALLS,
                "How long it took from a request to its answer's head.",
            ),
            webhooks: make.counters("webhook_deliveries", ["result"], "Deliveries to the webhook, by how they were answered."),
            registrar,
        };
        metrics.prepare();
        metrics.configure(classes);
        metrics
    }

    /// These classes are configured from now on; their series are there at once. Those of classes that are no longer configured stay as they are.
    pub fn configure<'c>(&self, classes: impl IntoIterator<Item = &'c ClassName>) {
        let configured: BTreeSet<String> = classes.into_iter().map(ToString::to_string).collect();
        for class in &configured {
            self.jobs.prepare(&Label::of_bounded_set(class));
        }
        *self.classes.write().unwrap_or_else(PoisonError::into_inner) = configured;
    }

    /// Makes the series be there that alerts look at, so that their first event is seen as a rise.
    fn prepare(&self) {
        for result in WEBHOOK_RESULTS {
            self.webhooks.prepare([result.into()]);
        }
        for bound in REFUSALS {
            self.http_refused.prepare([bound.into()]);
        }
        self.store_commits.prepare([]);
        self.images_removed.prepare([]);
        self.manager.failures.prepare([]);
        self.manager.strays.prepare([]);
        self.manager.passes.prepare([]);
    }

    /// The label of a class: its name as long as it is configured. The store may hold jobs of any number of classes that once were.
    #[must_use]
    pub fn class(&self, name: &ClassName) -> Label {
        let configured = self.classes.read().unwrap_or_else(PoisonError::into_inner).contains(name.as_str());
        if configured { Label::of_bounded_set(name.as_str()) } else { UNCONFIGURED.into() }
    }

    /// What there is.
    #[must_use]
    pub fn descriptions(&self) -> &[Description] {
        self.registrar.descriptions()
    }

    /// Appends all series to a text.
    ///
    /// # Errors
    /// Never, as long as a text can be written to.
    pub fn write(&self, format: Format, text: &mut String) -> std::fmt::Result {
        self.registrar.write(format, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Outcome;

    fn text(metrics: &Metrics, format: Format) -> String {
        let mut text = String::new();
        metrics.write(format, &mut text).expect("text");
        end(format, &mut text).expect("text");
        text
    }

    fn class(name: &str) -> ClassName {
        ClassName::from_trusted(name)
    }

    #[test]
    fn a_class_that_is_configured_later_has_its_label_from_then_on() {
        let metrics = Metrics::new([&class("default")]);
        metrics.configure([&class("gpu")]);
        assert_eq!((metrics.class(&class("gpu")).as_str(), metrics.class(&class("default")).as_str()), ("gpu", UNCONFIGURED));
        assert!(text(&metrics, Format::Prometheus).contains("runner_coordinator_job_wait_seconds_count{class=\"gpu\"} 0"));
    }

    #[test]
    fn classes_that_are_not_configured_share_one_label() {
        let metrics = Metrics::new([&class("default")]);
        assert_eq!(metrics.class(&class("default")).as_str(), "default");
        let before = text(&metrics, Format::Prometheus).lines().count();
        for number in 0..10_000 {
            let label = metrics.class(&class(&format!("gone-{number}")));
            metrics.jobs.ended(label.clone(), &Outcome::Succeeded);
            metrics.jobs.claimed(label, Duration::from_secs(1));
        }
        let after = text(&metrics, Format::Prometheus);
        assert!(after.contains("runner_coordinator_jobs_ended_total{class=\"unconfigured\",outcome=\"succeeded\",reason=\"\"} 10000\n"), "{after}");
        assert_eq!(after.lines().count() - before, 1 + WAITS.len() + 3, "one counter and one histogram");
    }

    #[test]
    fn both_formats_name_series_as_the_documentation_does() {
        let metrics = Metrics::new([&class("default")]);
        metrics.jobs.began("default".into(), Duration::from_millis(1500));
        metrics.store.record("store a job", Duration::from_millis(2), Some("unavailable"));
        metrics.manager.gpus_held.add(["nvidia".into()], 1.5);
        metrics.manager.gpus_held.add(["nvidia".into()], f64::NAN);
        let expected = [
            "runner_coordinator_job_wait_seconds_sum{class=\"default\"} 1.5",
            "runner_coordinator_job_wait_seconds_count{class=\"default\"} 1",
            "runner_coordinator_store_operation_errors_total{operation=\"store_a_job\",kind=\"unavailable\"} 1",
            "runner_coordinator_jobs_submitted_total{class=\"default\",source=\"gitlab\"} 0",
            "runner_coordinator_gpu_held_seconds_total{vendor=\"nvidia\"} 1.5",
            "runner_coordinator_tick_errors_total 0",
        ];
        for format in [Format::OpenMetrics, Format::Prometheus] {
            let text = text(&metrics, format);
            for line in expected {
                assert!(text.lines().any(|shown| shown == line), "{line} is not in {format:?}:\n{text}");
            }
            let bounds = match format {
                Format::OpenMetrics => ["le=\"1.0\",class=\"default\"} 0", "le=\"2.5\",class=\"default\"} 1"],
                Format::Prometheus => ["class=\"default\",le=\"1\"} 0", "class=\"default\",le=\"2.5\"} 1"],
            };
            for bound in bounds {
                assert!(text.contains(&format!("\nrunner_coordinator_job_wait_seconds_bucket{{{bound}\n")), "{bound} is not in {format:?}:\n{text}");
            }
            assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
        }
        let names: Vec<String> = metrics.descriptions().iter().flat_map(Description::series).map(|(name, _)| name).collect();
        for line in text(&metrics, Format::Prometheus).lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert!(names.iter().any(|known| known == name), "{name} is not described");
        }
    }

    #[test]
    fn every_metric_is_described_once_and_in_a_whole_sentence() {
        let metrics = Metrics::default();
        let mut seen = BTreeSet::new();
        for one in metrics.descriptions() {
            assert!(seen.insert(&one.name), "{} twice", one.name);
            assert!(one.help.ends_with('.') && one.help.starts_with(char::is_uppercase), "{one:?}");
            assert!(one.kind != Kind::Histogram || one.unit == Some("seconds"), "{one:?}");
        }
    }
}
