//! A stand-in for GitLab: the runner protocol, Job events and a little REST, all in memory.
//!
//! It exists because the real thing needs gigabytes and minutes, and because tests must be able to cancel a job at
//! the worst moment, lose an answer, or ask how often a job was handed out. It is strict where GitLab is strict:
//! tokens, tags, trace ranges and job states are checked, and every request is recorded.
//!
//! ```text
//! test ──> GitLab (handle) ──> state <── runner_api, trace, artifacts <── runner or broker
//!                                │
//!                                └──> webhook ──> coordinator
//! ```
//!
//! The same tree serves the integration tests and the `gitlab-stand-in` example, which adds `control` for `curl`.

#![expect(clippy::disallowed_methods, reason = "GitLab keeps its own time")]
#![expect(clippy::expect_used, reason = "a stand-in that cannot go on fails its test")]
#![expect(
    clippy::fn_params_excessive_bools,
    clippy::struct_excessive_bools,
    reason = "switches of a test and features of the protocol are just that"
)]

mod admin;
mod artifacts;
pub(crate) mod big;
mod control;
mod event;
mod job_json;
mod log;
mod misbehave;
mod rest;
mod runner_api;
#[cfg(test)]
mod selftest;
mod spec;
mod state;
mod trace;
mod webhook;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, patch, post, put};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use uuid::Uuid;

pub(crate) use admin::{Edition, GROUP, PROJECT};
pub(crate) use log::{RequestRecord, fingerprint};
pub(crate) use misbehave::Outage;
pub(crate) use rest::PRIVATE_TOKEN;
pub(crate) use spec::{JobSpec, JobView, Status};
pub(crate) use state::{Checksums, Commit};
pub(crate) use webhook::Delivery;

use log::Fault;
use misbehave::{Fragile, Wire};
use state::{AutoHooks, Runner, Shared};
use webhook::Hook;

/// Largest request body, artifacts excepted.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A running stand-in. Clones are handles to the same one; it stops when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct GitLab {
    /// The memory.
    shared: Arc<Shared>,
    /// Sends Job events on request.
    client: reqwest::Client,
    /// Where it listens.
    address: SocketAddr,
    /// Server and outbox, aborted on drop. The handles inside the server's own routes do not hold it.
    tasks: Option<Arc<JoinSet<()>>>,
}

/// A job did not become what was waited for; shows the job as it was when time ran out.
#[derive(Debug)]
pub(crate) struct WaitError {
    /// The job at that moment, if it exists.
    pub(crate) last: Option<JobView>,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the job did not get there in time: {:?}", self.last)
    }
}

impl std::error::Error for WaitError {}

impl GitLab {
    /// Starts one on `bind`; port 0 picks a free port, and `0.0.0.0` lets containers reach it.
    pub(crate) async fn start(bind: SocketAddr) -> io::Result<Self> {
        // Both TLS providers may be compiled in; without a choice the HTTP client would panic.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let host = if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
        let shared = Arc::new(Shared::new(format!("http://{host}")));
        // Hooks are plain HTTP here, so that a machine without certificates will do.
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let client = client.build().map_err(io::Error::other)?;
        let mut gitlab = Self { shared, client, address, tasks: None };
        let app = router(&gitlab);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let app = app.into_make_service_with_connect_info::<Wire>();
            if let Err(error) = axum::serve(Fragile(listener), app).await {
                tracing::error!(%error, "the stand-in stopped serving");
            }
        });
        tasks.spawn(webhook::run_outbox(gitlab.shared.clone(), gitlab.client.clone()));
        gitlab.tasks = Some(Arc::new(tasks));
        Ok(gitlab)
    }

    /// Its address, as seen from this machine, without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.shared.url
    }

    /// Its port, for those who reach it by another address.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Creates a runner entity; one without tags takes untagged jobs only.
    pub(crate) fn add_runner(&self, token: &str, tags: &[&str]) -> i64 {
        self.shared.write(|inner| {
            let id = inner.runners.last().map_or(205, |last| last.id + 1);
            inner.runners.push(Runner { id, token: token.to_owned(), tags: tags.iter().map(|&tag| tag.to_owned()).collect(), paused: false });
            id
        })
    }

    /// Withholds jobs from a runner entity from now on.
    pub(crate) fn pause_runner(&self, id: i64) {
        self.shared.write(|inner| {
            inner.runners.iter_mut().filter(|runner| runner.id == id).for_each(|runner| runner.paused = true);
        });
    }

    /// Deletes a runner entity: its token is refused from now on, its jobs go on.
    pub(crate) fn remove_runner(&self, id: i64) {
        self.shared.write(|inner| inner.runners.retain(|runner| runner.id != id));
    }

    /// Queues a job and gives its id.
    pub(crate) fn enqueue(&self, spec: JobSpec) -> i64 {
        self.shared.write(|inner| inner.enqueue(spec, &self.shared.url))
    }

    /// The job as it stands now, if there is one with this id.
    pub(crate) fn find_job(&self, id: i64) -> Option<JobView> {
        self.shared.read(|inner| inner.jobs.get(&id).map(state::Job::view))
    }

    /// The job as it stands now.
    ///
    /// # Panics
    /// If no job has this id, which is a fault of the test.
    pub(crate) fn job(&self, id: i64) -> JobView {
        self.find_job(id).expect("a job with this id was queued")
    }

    /// Waits until a job fulfils a condition, and gives the job as it was then.
    pub(crate) async fn wait_for(&self, id: i64, within: Duration, fulfilled: impl Fn(&JobView) -> bool) -> Result<JobView, WaitError> {
        let mut changes = self.shared.watch();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if let Some(job) = self.find_job(id).filter(&fulfilled) {
                    return Some(job);
                }
                changes.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(within, wait).await.ok().flatten();
        found.ok_or_else(|| WaitError { last: self.find_job(id) })
    }

    /// Cancels a job: at once, or by way of [`Status::Canceling`] where its runner can end it gracefully.
    pub(crate) fn cancel(&self, id: i64) {
        self.shared.write(|inner| inner.cancel(id, &self.shared.url));
    }

    /// Lets every unconfirmed assignment of a two-phase commit lapse, as if its window had passed.
    pub(crate) fn lapse_unconfirmed(&self) {
        let later = Instant::now() + Duration::from_secs(3600);
        self.shared.write(|inner| inner.release_lapsed(later));
    }

    /// Chooses single- or two-phase commit for runners that advertise `two_phase_job_commit`.
    pub(crate) fn commit(&self, commit: Commit) {
        self.shared.write(|inner| inner.commit = commit);
    }

    /// Shorthand for [`GitLab::commit`].
    pub(crate) fn two_phase(&self, on: bool) {
        self.commit(if on { Commit::TwoPhase } else { Commit::SinglePhase });
    }

    /// Chooses whether final updates must prove the trace.
    pub(crate) fn checksums(&self, checksums: Checksums) {
        self.shared.write(|inner| inner.checksums = checksums);
    }

    /// Answers the next `times` final updates with 202, "not complete yet".
    pub(crate) fn delay_final_updates(&self, times: u32) {
        self.shared.write(|inner| inner.delayed_finals = times);
    }

    /// Sets `X-GitLab-Trace-Update-Interval`; one second unless told.
    pub(crate) fn trace_interval(&self, interval: Duration) {
        self.shared.write(|inner| inner.trace_interval_seconds = interval.as_secs());
    }

    /// Answers the next `times` requests of this method whose path ends so with `status` instead of doing anything.
    pub(crate) fn fail_next(&self, method: Method, path_end: &str, status: StatusCode, times: u32) {
        let fault = Fault { method, path_end: path_end.to_owned(), status, times };
        self.shared.write(|inner| inner.faults.push(fault));
    }

    /// Says where Job events go.
    pub(crate) fn set_hook(&self, url: &str, secret_token: Option<&str>) {
        self.shared.write(|inner| {
            inner.hook = Some(Hook { url: url.to_owned(), secret_token: secret_token.map(str::to_owned), signing_token: None });
        });
    }

    /// Signs Job events from now on; needs a hook. The token is `whsec_` and a base64 key.
    pub(crate) fn set_signing_token(&self, token: &str) {
        self.shared.write(|inner| {
            if let Some(hook) = &mut inner.hook {
                hook.signing_token = Some(token.to_owned());
            }
        });
    }

    /// Whether Job events go out on their own when a job becomes pending, runs or ends.
    pub(crate) fn auto_hooks(&self, on: bool) {
        let auto_hooks = if on { AutoHooks::On } else { AutoHooks::Off };
        self.shared.write(|inner| inner.auto_hooks = auto_hooks);
    }

    /// Sends the Job event for a job as it stands now, under a fresh idempotency key.
    pub(crate) async fn send_job_event(&self, id: i64) -> Delivery {
        self.send_job_event_as(id, Uuid::new_v4()).await
    }

    /// Sends the Job event under a chosen idempotency key, as GitLab's "Resend" repeats one.
    pub(crate) async fn send_job_event_as(&self, id: i64, key: Uuid) -> Delivery {
        let event = self.job_event(id).unwrap_or_default();
        webhook::deliver(&self.shared, &self.client, &event, key).await
    }

    /// The body of the Job event for a job as it stands now.
    pub(crate) fn job_event(&self, id: i64) -> Option<serde_json::Value> {
        self.shared.read(|inner| inner.job_event(id, &self.shared.url))
    }

    /// Every Job event that was sent, with the receiver's answer.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.shared.read(|inner| inner.deliveries.clone())
    }

    /// Waits until this many Job events were sent; false when time ran out.
    pub(crate) async fn wait_for_deliveries(&self, count: usize, within: Duration) -> bool {
        let mut changes = self.shared.watch();
        let enough = changes.wait_for(|_| self.shared.read(|inner| inner.deliveries.len() >= count));
        tokio::time::timeout(within, enough).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Every request to `/api/v4`, oldest first.
    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        self.shared.read(|inner| inner.requests.clone())
    }

    /// How many requests of this method had a path with this end.
    pub(crate) fn count_requests(&self, method: &str, path_end: &str) -> usize {
        let hit = |record: &&RequestRecord| record.method == method && record.path.ends_with(path_end);
        self.shared.read(|inner| inner.requests.iter().filter(hit).count())
    }

    /// The same stand-in without a hold on its tasks, for the server's own routes.
    fn detached(&self) -> Self {
        Self { tasks: None, ..self.clone() }
    }
}

/// All routes.
fn router(gitlab: &GitLab) -> Router {
    let shared = gitlab.shared.clone();
    Router::new()
        .route("/api/v4/runners/verify", post(runner_api::verify))
        .route("/api/v4/jobs/request", post(runner_api::request_job))
        .route("/api/v4/jobs/{id}", put(runner_api::update_job))
        .route("/api/v4/jobs/{id}/trace", patch(trace::append))
        .route("/api/v4/jobs/{id}/artifacts", post(artifacts::upload).get(artifacts::download).layer(DefaultBodyLimit::disable()))
        .route("/api/v4/projects/{project}/jobs", get(rest::list))
        .route("/api/v4/runners/{id}/jobs", get(rest::of_runner))
        .route("/api/v4/projects/{project}/jobs/{id}", get(rest::show))
        .route("/api/v4/projects/{project}/jobs/{id}/cancel", post(rest::cancel))
        .merge(admin::routes())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(shared.clone(), log::record))
        .layer(from_fn_with_state(shared.clone(), misbehave::misbehave))
        .with_state(shared)
        .merge(control::routes(gitlab.detached()))
}
