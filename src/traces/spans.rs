//! A job's trace out of its history: pure, so that the same history always gives the same spans.
//!
//! ```text
//!  job ──────────────────────────────────────────────────────────────────────────────────────
//!   webhook ── queue ── attempt ────────────────────────────────── retry wait ── queue ── …
//!                        image pull ─ create ─ start ─ hand over ─ run ─ remove
//! ```
//!
//! Within an attempt each span begins where the one before it ended. A span never ends before it begins, whatever the clock did.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::ids::{SpanId, TraceId};
use crate::domain::{Attempt, Disposition, EndReason, Event, EventKind, GitLabRef, GpuId, Job, JobState, Outcome, RunnerId, Work};

/// What an attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Several texts.
    Texts(Vec<String>),
}

/// A named value: the names are those of OpenTelemetry's conventions where it has one.
pub type Attribute = (&'static str, Content);

/// How what the span tells of went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Well, or it was cancelled.
    Unset,
    /// It failed; why, for people.
    Error(String),
}

/// One span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its id.
    pub id: SpanId,
    /// The span that it is a part of.
    pub parent: Option<SpanId>,
    /// Its name, one of few.
    pub name: &'static str,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// What else is known.
    pub attributes: Vec<Attribute>,
    /// How it went.
    pub status: Status,
}

/// A job's spans, the whole job's first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its id.
    pub id: TraceId,
    /// The spans.
    pub spans: Vec<Span>,
}

/// A text.
pub fn text(text: impl std::fmt::Display) -> Content {
    Content::Text(text.to_string())
}

/// Whether the entry at `seq` is the last that a job's trace waits for: the job has ended and each of its runners is gone.
#[must_use]
pub fn completes(seq: i64, events: &[Event]) -> bool {
    let mut runners: BTreeMap<&RunnerId, bool> = BTreeMap::new();
    let (mut ended, mut last) = (false, None);
    for event in events {
        match (&event.kind, &event.runner) {
            (EventKind::Claimed | EventKind::Assigned, Some(runner)) => _ = runners.entry(runner).or_insert(false),
            (EventKind::RunnerRemoved, Some(runner)) => {
                runners.insert(runner, true);
                last = Some(event.seq);
            }
            (EventKind::Ended, _) => {
                ended = true;
                last = Some(event.seq);
            }
            _ => {}
        }
    }
    ended && last == Some(seq) && runners.values().all(|gone| *gone)
}

/// The job's trace. `events` are its own, oldest first.
#[must_use]
pub fn trace_of(job: &Job, attempts: &[Attempt], events: &[Event]) -> Trace {
    let webhook = events.iter().find(|event| rang(&event.kind)).map(|event| event.at).filter(|at| *at <= job.created_at);
    let mut spans = Vec::new();
    let root = SpanId::of(&job.id, "job");
    let child = |place: String, name, start: Timestamp, end: Timestamp| Span {
        id: SpanId::of(&job.id, &place),
        parent: Some(root),
        name,
        start,
        end: end.max(start),
        attributes: Vec::new(),
        status: Status::Unset,
    };
    spans.extend(webhook.map(|at| child("webhook".to_owned(), "webhook", at, job.created_at)));
    for (number, wait) in (0..).zip(waits(job, events)) {
        let due = wait.not_before.map_or(wait.since, |due| due.clamp(wait.since, wait.until.max(wait.since)));
        if due > wait.since {
            spans.push(child(format!("retry wait/{number}"), "retry wait", wait.since, due));
        }
        spans.push(child(format!("queue/{number}"), "queue", due, wait.until));
    }
    for attempt in attempts {
        spans.extend(attempt_spans(job, root, attempt, events));
    }
    let start = webhook.unwrap_or(job.created_at);
    let start = spans.iter().map(|span| span.start).chain([start]).min().unwrap_or(start);
    let end = spans.iter().map(|span| span.end).chain(events.iter().map(|event| event.at)).max().unwrap_or(start).max(start);
    let outcome = match &job.state {
        JobState::Ended { outcome, .. } => Some(outcome),
        JobState::Queued { .. } | JobState::Starting | JobState::Running => None,
    };
    let attributes = job_attributes(job, attempts, outcome);
    spans.insert(0, Span { id: root, parent: None, name: "job", start, end, attributes, status: outcome.map_or(Status::Unset, status) });
    Trace { id: TraceId::of(&job.id), spans }
}

/// Whether GitLab told at the webhook that the job waits.
fn rang(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Webhook { status } if status == "pending")
}

/// A time in which the job waited to be started.
struct Wait {
    since: Timestamp,
    not_before: Option<Timestamp>,
    until: Timestamp,
}

fn waits(job: &Job, events: &[Event]) -> Vec<Wait> {
    let mut waits = Vec::new();
    let mut open = Some((job.created_at, None));
    for event in events {
        match &event.kind {
            EventKind::RetryScheduled { not_before } => open = Some((event.at, Some(*not_before))),
            EventKind::Claimed | EventKind::Assigned | EventKind::Ended => {
                waits.extend(open.take().map(|(since, not_before)| Wait { since, not_before, until: event.at }));
            }
            _ => {}
        }
    }
    waits
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Milestone {
    Claimed,
    Image,
    Created,
    Started,
    HandedOver,
    Ended,
    Removed,
}

impl Milestone {
    fn of(kind: &EventKind) -> Option<Self> {
        Some(match kind {
            EventKind::Claimed | EventKind::Assigned => Self::Claimed,
            EventKind::ImageReady { .. } => Self::Image,
            EventKind::ContainerCreated { .. } => Self::Created,
            EventKind::ContainerStarted => Self::Started,
            EventKind::HandedOver => Self::HandedOver,
            EventKind::AttemptEnded { .. } => Self::Ended,
            EventKind::RunnerRemoved => Self::Removed,
            EventKind::Webhook { .. }
            | EventKind::Submitted
            | EventKind::ImagePull { .. }
            | EventKind::RunnerIdle
            | EventKind::CancelRequested { .. }
            | EventKind::StopOrdered { .. }
            | EventKind::Progress { .. }
            | EventKind::Adopted
            | EventKind::RetryScheduled { .. }
            | EventKind::Ended => return None,
        })
    }
}

/// What an attempt was at when it ended.
struct Course {
    reached: Milestone,
    pulling: bool,
    was_waiting: bool,
    is_command: bool,
}

impl Course {
    fn at_its_end(&self) -> &'static str {
        match self.reached {
            Milestone::Claimed if self.was_waiting => "hand over",
            Milestone::Claimed if self.pulling => "image pull",
            Milestone::Claimed | Milestone::Image => "create",
            Milestone::Created => "start",
            Milestone::Started if !self.is_command => "hand over",
            Milestone::Started | Milestone::HandedOver | Milestone::Ended | Milestone::Removed => "run",
        }
    }
}

fn attempt_spans(job: &Job, root: SpanId, attempt: &Attempt, events: &[Event]) -> Vec<Span> {
    let own = events.iter().filter(|event| event.attempt == Some(attempt.number) && event.runner.as_ref() == Some(&attempt.runner));
    let id = SpanId::of(&job.id, &format!("attempt/{}", attempt.number));
    let outcome = attempt.ended.as_ref().map(|(_, outcome)| outcome);
    let ended_badly = outcome.map_or(Status::Unset, status);
    let mut course = Course { reached: Milestone::Claimed, pulling: false, was_waiting: false, is_command: job.is_command() };
    let mut begun: Option<(Timestamp, Timestamp)> = None;
    let mut parts = Vec::new();
    for event in own {
        course.pulling |= matches!(event.kind, EventKind::ImagePull { .. });
        let Some(milestone) = Milestone::of(&event.kind) else { continue };
        let Some((start, at)) = &mut begun else {
            course.was_waiting = event.kind == EventKind::Assigned;
            begun = Some((event.at, event.at));
            continue;
        };
        let (name, status) = match milestone {
            // What was written late, after what comes behind it, tells nothing new.
            late if late <= course.reached => continue,
            Milestone::Claimed => continue,
            Milestone::Image => ("image pull", Status::Unset),
            Milestone::Created => ("create", Status::Unset),
            Milestone::Started => ("start", Status::Unset),
            Milestone::HandedOver => ("hand over", Status::Unset),
            Milestone::Ended => (course.at_its_end(), ended_badly.clone()),
            Milestone::Removed => ("remove", Status::Unset),
        };
        course.reached = milestone;
        let end = event.at.max(*at).max(*start);
        let place = format!("attempt/{}/{}", attempt.number, parts.len());
        parts.push(Span { id: SpanId::of(&job.id, &place), parent: Some(id), name, start: *at, end, attributes: Vec::new(), status });
        *at = end;
    }
    let Some((start, end)) = begun else { return Vec::new() };
    let attributes = attempt_attributes(attempt, outcome);
    let whole = Span { id, parent: Some(root), name: "attempt", start, end, attributes, status: ended_badly };
    std::iter::once(whole).chain(parts).collect()
}

fn status(outcome: &Outcome) -> Status {
    match outcome {
        Outcome::Succeeded | Outcome::Canceled { .. } => Status::Unset,
        Outcome::Failed(failure) => {
            let detail = failure.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
            Status::Error(format!("{}{detail}", failure.reason))
        }
    }
}

/// The word of OpenTelemetry's conventions: a failure is the job's own doing, an error is ours.
fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "success",
        Outcome::Canceled { .. } => "cancellation",
        Outcome::Failed(failure) if failure.reason == EndReason::TimedOut => "timeout",
        Outcome::Failed(failure) => match failure.disposition {
            Disposition::Job => "failure",
            Disposition::Infrastructure | Disposition::Final => "error",
        },
    }
}

fn outcome_attributes(outcome: Option<&Outcome>) -> Vec<Attribute> {
    let Some(outcome) = outcome else { return Vec::new() };
    let mut attributes = vec![("cicd.pipeline.task.run.result", text(result(outcome)))];
    attributes.extend(outcome.reason().map(|reason| ("runner_coordinator.reason", text(reason))));
    if let Outcome::Failed(failure) = outcome {
        attributes.push(("error.type", text(failure.reason)));
    }
    attributes.extend(outcome.exit_code().map(|code| ("process.exit.code", Content::Number(code))));
    attributes
}

fn gitlab_of(job: &Job) -> Option<&GitLabRef> {
    match &job.spec.work {
        Work::GitLab(reference) => Some(reference),
        Work::Command(_) => None,
    }
}

fn job_attributes(job: &Job, attempts: &[Attempt], outcome: Option<&Outcome>) -> Vec<Attribute> {
    let mut attributes = vec![
        ("runner_coordinator.job.id", text(&job.id)),
        ("runner_coordinator.job.class", text(&job.spec.requirement.class)),
        ("runner_coordinator.job.source", text(job.spec.source.as_str())),
        ("runner_coordinator.job.state", text(job.state.name())),
        ("runner_coordinator.job.attempts", Content::Number(i64::try_from(attempts.len()).unwrap_or(i64::MAX))),
    ];
    attributes.extend(job.spec.project.as_ref().map(|project| ("runner_coordinator.job.project", text(project))));
    match gitlab_of(job) {
        Some(gitlab) => attributes.extend(gitlab_attributes(job, gitlab)),
        None => attributes.push(("cicd.pipeline.task.run.id", text(&job.id))),
    }
    attributes.extend(outcome_attributes(outcome));
    if let Some(attempt) = attempts.last() {
        attributes.extend(where_it_ran(attempt));
    }
    attributes
}

fn gitlab_attributes(job: &Job, gitlab: &GitLabRef) -> Vec<Attribute> {
    let mut attributes = vec![("cicd.pipeline.task.run.id", text(gitlab.job_id))];
    let mut optional = |key, value: Option<Content>| attributes.extend(value.map(|value| (key, value)));
    let url = |project| format!("{}/{project}/-/jobs/{}", gitlab.url, gitlab.job_id);
    optional("cicd.pipeline.task.run.url.full", job.spec.project.as_ref().map(|project| text(url(project))));
    optional("cicd.pipeline.task.name", gitlab.name.as_ref().map(text));
    optional("cicd.pipeline.run.id", gitlab.pipeline_id.map(text));
    optional("vcs.ref.head.name", gitlab.ref_name.as_ref().map(text));
    optional("vcs.ref.head.revision", gitlab.sha.as_ref().map(text));
    optional("runner_coordinator.gitlab.url", Some(text(&gitlab.url)));
    optional("runner_coordinator.gitlab.project.id", gitlab.project_id.map(text));
    optional("runner_coordinator.gitlab.stage", gitlab.stage.as_ref().map(text));
    attributes
}

fn attempt_attributes(attempt: &Attempt, outcome: Option<&Outcome>) -> Vec<Attribute> {
    let mut attributes = vec![("runner_coordinator.attempt", Content::Number(i64::from(attempt.number))), ("cicd.worker.id", text(&attempt.runner))];
    attributes.extend(where_it_ran(attempt));
    attributes.extend(outcome_attributes(outcome));
    attributes
}

fn where_it_ran(attempt: &Attempt) -> Vec<Attribute> {
    let mut attributes = vec![("host.name", text(&attempt.host))];
    let devices: Vec<String> = attempt.placement.devices.iter().map(GpuId::to_string).collect();
    if !devices.is_empty() {
        attributes.push(("runner_coordinator.devices", Content::Texts(devices)));
    }
    attributes
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
