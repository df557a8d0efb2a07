//! Jobs, attempts and events as they go over the wire: apart from the domain's types, so that neither ties the other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Number, Value};
use utoipa::ToSchema;

use super::openapi::{fields, words};
use crate::domain::event::{Event, EventKind};
use crate::domain::gpu_usage::GpuTotal;
use crate::domain::{Arch, Attempt, CpuMillis, EndReason, GitLabRef, GpuRequest, GpuVendor, Job, JobId, JobSpec, JobState, Outcome, Work};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobDto {
    id: String,
    #[schema(value_type = words::JobSource)]
    source: &'static str,
    #[schema(value_type = words::JobState)]
    state: &'static str,
    #[schema(value_type = Option<words::EndReason>)]
    reason: Option<&'static str>,
    detail: Option<String>,
    exit_code: Option<i64>,
    class: String,
    project: Option<String>,
    priority: i32,
    /// The number of the latest attempt; 0 before the first.
    attempt: u32,
    host: Option<String>,
    runner_id: Option<String>,
    devices: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    /// While it waits to be tried again: not before this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    not_before: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    cancel_requested_at: Option<Timestamp>,
    gitlab: Option<GitLabDto>,
    /// The job whose request it repeats.
    retry_of: Option<String>,
    /// What its containers are made of: the digest (`name@sha256:…`), or the engine's id of an image that came from no registry. The same for all attempts; `null`
    /// before the first container, and of a job that a waiting runner took.
    image_digest: Option<String>,
    /// What its class opened beyond the default for the container of the latest attempt, in the words of `check`, as it was when that container was made; empty:
    /// nothing. `null` where there is no container yet, and where an earlier version made it.
    opened: Option<Vec<String>>,
    /// Of a single job: the latest that repeats its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    retried_as: Option<String>,
    request: RequestDto,
    /// Of a single job that had GPUs: what all of its attempts used of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageDto>,
}

/// What was used of GPUs. What no driver tells is `null`.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are those of the API")]
#[schema(as = GpuUsage)]
struct UsageDto {
    /// How long GPUs were the job's, each counted.
    gpu_seconds: f64,
    gpu_memory_peak_bytes: Option<u64>,
    /// Mean utilisation in percent, over the time of which it is known.
    gpu_utilisation_mean: Option<f64>,
    gpu_energy_joules: Option<f64>,
}

impl JobDto {
    /// The same with the latest job that repeats its request.
    pub(super) fn with_retry(self, latest: Option<JobId>) -> Self {
        Self { retried_as: latest.map(|id| id.to_string()), ..self }
    }

    /// The same with what it used of GPUs.
    pub(super) fn with_usage(self, total: Option<GpuTotal>) -> Self {
        let usage = total.map(|total| UsageDto {
            gpu_seconds: thousandths(total.gpu_millis),
            gpu_memory_peak_bytes: total.memory_peak.map(|memory| memory.0),
            gpu_utilisation_mean: total.utilisation_mean,
            gpu_energy_joules: total.energy_millijoules.map(thousandths),
        });
        Self { usage, ..self }
    }
}

/// Milliseconds as seconds, millijoules as joules.
#[expect(clippy::cast_precision_loss, reason = "JSON has no greater numbers")]
pub(super) fn thousandths(amount: u64) -> f64 {
    amount as f64 / 1000.0
}

/// Which job of GitLab a job is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GitLabJob)]
struct GitLabDto {
    url: String,
    job_id: u64,
    project_id: Option<u64>,
    pipeline_id: Option<u64>,
    name: Option<String>,
    stage: Option<String>,
    r#ref: Option<String>,
    sha: Option<String>,
}

/// What was asked for, with the class's defaults filled in. The fields are those of `POST /jobs`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobRequest)]
struct RequestDto {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<BTreeMap<String, String>>,
    class: String,
    project: Option<String>,
    #[schema(value_type = Option<words::Arch>)]
    arch: Option<&'static str>,
    #[schema(value_type = words::Emulation)]
    emulation: &'static str,
    gpus: Option<GpusDto>,
    #[schema(value_type = f64)]
    cpus: Number,
    memory: String,
    timeout: String,
    priority: i32,
    retries: u32,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestedGpus)]
struct GpusDto {
    count: u32,
    #[schema(value_type = Option<words::GpuVendor>)]
    vendor: Option<&'static str>,
    min_memory: Option<String>,
    model: Option<String>,
    compute_capability: Option<String>,
    mig_profile: Option<String>,
    /// The share of one GPU's memory; `null` asks for GPUs of its own.
    memory: Option<String>,
    exclusive: bool,
}

impl From<Job> for JobDto {
    fn from(job: Job) -> Self {
        let (finished_at, outcome) = match &job.state {
            JobState::Ended { at, outcome } => (Some(*at), Some(outcome)),
            JobState::Queued { .. } | JobState::Starting | JobState::Running => (None, None),
        };
        let not_before = match job.state {
            JobState::Queued { not_before } => not_before,
            JobState::Starting | JobState::Running | JobState::Ended { .. } => None,
        };
        let waits = matches!(job.state, JobState::Queued { .. });
        // A job that waits to be tried again is nowhere: where its last attempt was is history.
        let place = job.attempt.as_ref().filter(|_| !waits);
        Self {
            id: job.id.to_string(),
            source: job.spec.source.as_str(),
            state: job.state.name(),
            reason: outcome.and_then(Outcome::reason).map(EndReason::as_str),
            detail: outcome.and_then(|outcome| outcome.detail()).map(str::to_owned),
            exit_code: outcome.and_then(Outcome::exit_code),
            class: job.spec.requirement.class.to_string(),
            project: job.spec.project.as_ref().map(ToString::to_string),
            priority: job.spec.priority,
            attempt: job.attempt.as_ref().map_or(0, |attempt| attempt.number),
            host: place.map(|attempt| attempt.host.to_string()),
            runner_id: place.map(|attempt| attempt.runner.to_string()),
            devices: place.map(devices).unwrap_or_default(),
            created_at: job.created_at,
            started_at: place.and_then(|attempt| attempt.started_at),
            finished_at,
            not_before,
            cancel_requested_at: job.cancel.as_ref().map(|cancel| cancel.at),
            gitlab: match &job.spec.work {
                Work::GitLab(reference) => Some(reference.into()),
                Work::Command(_) => None,
            },
            retry_of: job.retry_of.as_ref().map(ToString::to_string),
            image_digest: job.image.as_ref().map(|image| image.identity().to_owned()),
            opened: place.and_then(|attempt| attempt.placement.opened.clone()),
            retried_as: None,
            request: (&job.spec).into(),
            usage: None,
        }
    }
}

fn devices(attempt: &Attempt) -> Vec<String> {
    attempt.placement.devices.iter().map(ToString::to_string).collect()
}

impl From<&GitLabRef> for GitLabDto {
    fn from(reference: &GitLabRef) -> Self {
        let GitLabRef { url, job_id, project_id, pipeline_id, name, stage, ref_name, sha, keywords: _ } = reference.clone();
        Self { url, job_id, project_id, pipeline_id, name, stage, r#ref: ref_name, sha }
    }
}

impl From<&JobSpec> for RequestDto {
    fn from(spec: &JobSpec) -> Self {
        let command = match &spec.work {
            Work::Command(command) => Some(command.clone()),
            Work::GitLab(_) => None,
        };
        let (image, command, env) = match command {
            Some(work) => (Some(work.image.to_string()), Some(work.command), Some(work.env)),
            None => (None, None, None),
        };
        Self {
            image,
            command,
            env,
            class: spec.requirement.class.to_string(),
            project: spec.project.as_ref().map(ToString::to_string),
            arch: spec.requirement.arch.map(Arch::as_str),
            emulation: spec.requirement.emulation.as_str(),
            gpus: spec.requirement.gpus.as_ref().map(GpusDto::from),
            cpus: cpus(spec.requirement.cpus),
            memory: spec.requirement.memory.to_string(),
            timeout: humantime::format_duration(spec.timeout).to_string(),
            priority: spec.priority,
            retries: spec.retries,
        }
    }
}

impl From<&GpuRequest> for GpusDto {
    fn from(gpus: &GpuRequest) -> Self {
        Self {
            count: gpus.count,
            vendor: gpus.vendor.map(GpuVendor::as_str),
            min_memory: gpus.min_memory.map(|memory| memory.to_string()),
            model: gpus.model.as_ref().map(|model| model.as_str().to_owned()),
            compute_capability: gpus.compute_capability.map(|capability| capability.to_string()),
            mig_profile: gpus.mig_profile.clone(),
            memory: gpus.share.map(|share| share.to_string()),
            exclusive: gpus.share.is_none(),
        }
    }
}

/// A number of CPUs: whole where it is whole, as people write it.
pub fn cpus(amount: CpuMillis) -> Number {
    let whole = amount.0.is_multiple_of(1000).then(|| Number::from(amount.0 / 1000));
    whole.or_else(|| Number::from_f64(amount.as_cpus())).unwrap_or_else(|| Number::from(0))
}

/// One entry of the history.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventDto {
    /// Its place in the order of all events.
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    #[schema(value_type = words::EventKind)]
    kind: &'static str,
    job_id: Option<String>,
    runner_id: Option<String>,
    attempt: Option<u32>,
    /// What is peculiar to the kind.
    #[serde(flatten)]
    #[schema(value_type = fields::EventParticulars)]
    more: serde_json::Map<String, Value>,
}

impl From<Event> for EventDto {
    fn from(event: Event) -> Self {
        Self {
            seq: event.seq,
            at: event.at,
            kind: event.kind.name(),
            job_id: event.job.map(|id| id.to_string()),
            runner_id: event.runner.map(|id| id.to_string()),
            attempt: event.attempt,
            more: particulars(event.kind),
        }
    }
}

fn particulars(kind: EventKind) -> serde_json::Map<String, Value> {
    let mut more = serde_json::Map::new();
    let mut put = |name: &str, value: Value| more.insert(name.to_owned(), value);
    match kind {
        EventKind::Submitted
        | EventKind::Claimed
        | EventKind::Assigned
        | EventKind::ContainerStarted
        | EventKind::RunnerIdle
        | EventKind::HandedOver
        | EventKind::Adopted
        | EventKind::Ended
        | EventKind::RunnerRemoved => {}
        EventKind::Webhook { status } => {
            put("status", status.into());
        }
        EventKind::ImagePull { progress } => {
            put("progress", progress.into());
        }
        EventKind::ImageReady { digest } => {
            put("digest", digest.into());
        }
        EventKind::ContainerCreated { container, digest, opened } => {
            put("container", container.into());
            put("digest", digest.into());
            put("opened", opened.into());
        }
        EventKind::CancelRequested { reason } | EventKind::StopOrdered { reason } => {
            put("reason", reason.as_str().into());
        }
        EventKind::Progress { message, percent } => {
            put("message", message.into());
            put("percent", percent.into());
        }
        EventKind::AttemptEnded { outcome } => {
            put("reason", outcome.reason().map(EndReason::as_str).into());
            put("exit_code", outcome.exit_code().into());
            put("detail", outcome.detail().into());
        }
        EventKind::RetryScheduled { not_before } => {
            put("not_before", not_before.to_string().into());
        }
    }
    more
}

#[cfg(test)]
#[path = "dto_tests.rs"]
mod tests;
