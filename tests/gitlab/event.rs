//! The body of a Job event (`object_kind: "build"`), field for field as GitLab 19 sends it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::{Job, Runner};

/// Commit that every pipeline of the stand-in runs for.
pub(super) const SHA: &str = "a811f8ab22f7c28183a28a595b034ec8bc85b935";
/// The commit before it.
pub(super) const BEFORE_SHA: &str = "5e1c309dae7f45e0f39b1bf3ac3cd9db12e7d689";
/// Pipeline that every job belongs to.
pub(super) const PIPELINE_ID: i64 = 53_093;

/// The form in which times really arrive in `*_at`: Ruby's `Time#to_s`.
fn ruby_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The form of `*_at_iso`.
fn iso_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Builds the event for a job as it stands now; `runner` is the one it was given to.
pub(super) fn job_event(job: &Job, runner: Option<&Runner>, url: &str) -> Value {
    let spec = &job.spec;
    let until = job.finished_at.unwrap_or_else(Timestamp::now);
    let since = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    json!({
        "object_kind": "build",
        "ref": spec.git_ref,
        "tag": false,
        "before_sha": BEFORE_SHA,
        "sha": SHA,
        "retries_count": 0,
        "build_id": job.id,
        "build_name": spec.name,
        "build_stage": spec.stage,
        "build_status": job.status,
        "build_created_at": ruby_time(job.created_at),
        "build_started_at": job.started_at.map(ruby_time),
        "build_finished_at": job.finished_at.map(ruby_time),
        "build_created_at_iso": iso_time(job.created_at),
        "build_started_at_iso": job.started_at.map(iso_time),
        "build_finished_at_iso": job.finished_at.map(iso_time),
        "build_duration": job.started_at.map(|from| since(from, until)),
        "build_queued_duration": since(job.created_at, job.started_at.unwrap_or(until)),
        "build_allow_failure": spec.allow_failure,
        "build_failure_reason": job.failure_reason.as_deref().unwrap_or("unknown_failure"),
        "pipeline_id": PIPELINE_ID,
        "runner": runner.map(runner_part),
        "project_id": spec.project_id,
        "project_name": full_name(&spec.project),
        "user": {
            "id": 124,
            "name": "Example Developer",
            "username": "developer",
            "avatar_url": null,
            "email": "[REDACTED]",
        },
        "commit": commit_part(job, url),
        "repository": repository_part(job, url),
        "project": project_part(job, url),
        "environment": null,
    })
}

/// The runner as Job events show it; note that these are the runner's tags, not the job's.
fn runner_part(runner: &Runner) -> Value {
    json!({
        "id": runner.id,
        "description": format!("coordinator-{}", runner.id),
        "runner_type": "project_type",
        "active": !runner.paused,
        "is_shared": false,
        "tags": runner.tags,
    })
}

/// The commit, whose `id` is the pipeline's and whose `status` is the pipeline's too.
fn commit_part(job: &Job, url: &str) -> Value {
    json!({
        "id": PIPELINE_ID,
        "name": null,
        "sha": SHA,
        "message": job.spec.commit_message,
        "author_name": "Example Developer",
        "author_email": "developer@example.com",
        "author_url": format!("{url}/developer"),
        "status": job.status,
        "duration": null,
        "started_at": job.started_at.map(ruby_time),
        "finished_at": job.finished_at.map(ruby_time),
        "started_at_iso": job.started_at.map(iso_time),
        "finished_at_iso": job.finished_at.map(iso_time),
    })
}

/// The old-style repository part.
fn repository_part(job: &Job, url: &str) -> Value {
    let (path, name) = (&job.spec.project, project_name(&job.spec.project));
    json!({
        "name": name,
        "url": ssh_url(path, url),
        "description": null,
        "homepage": format!("{url}/{path}"),
        "git_http_url": format!("{url}/{path}.git"),
        "git_ssh_url": ssh_url(path, url),
        "visibility_level": 0,
    })
}

/// The project part.
fn project_part(job: &Job, url: &str) -> Value {
    let path = &job.spec.project;
    json!({
        "id": job.spec.project_id,
        "name": project_name(path),
        "description": null,
        "web_url": format!("{url}/{path}"),
        "avatar_url": null,
        "git_ssh_url": ssh_url(path, url),
        "git_http_url": format!("{url}/{path}.git"),
        "namespace": namespace(path),
        "visibility_level": 0,
        "path_with_namespace": path,
        "default_branch": "main",
        "ci_config_path": null,
    })
}

/// Last part of a project path.
pub(super) fn project_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A project path without its last part.
pub(super) fn namespace(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(namespace, _)| namespace)
}

/// GitLab's `project_name`: the *display* names, spaces around each slash, which is not the path.
fn full_name(path: &str) -> String {
    path.replace('-', " ").replace('/', " / ")
}

/// The address for a checkout by SSH.
fn ssh_url(path: &str, url: &str) -> String {
    let host = url.split("://").last().and_then(|rest| rest.split(':').next()).unwrap_or("gitlab");
    format!("git@{host}:{path}.git")
}
