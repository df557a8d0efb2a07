//! The job as `POST /jobs/request` hands it to a runner.

use serde_json::{Value, json};

use super::event::{BEFORE_SHA, PIPELINE_ID, SHA, project_name};
use super::state::{Inner, Job};

/// Builds the whole answer for one job.
pub(super) fn job_json(inner: &Inner, job: &Job, url: &str) -> Value {
    let spec = &job.spec;
    json!({
        "id": job.id,
        "token": job.token,
        "allow_git_fetch": true,
        "job_info": {
            "id": job.id,
            "name": spec.name,
            "stage": spec.stage,
            "pipeline_id": PIPELINE_ID,
            "project_id": spec.project_id,
            "project_name": project_name(&spec.project),
            "project_full_path": spec.project,
            "namespace_id": 9,
            "root_namespace_id": 9,
            "organization_id": 1,
            "instance_id": "stand-in",
            "instance_uuid": "00000000-0000-4000-8000-000000000000",
            "user_id": 124,
            "time_in_queue_seconds": 0,
            "project_jobs_running_on_instance_runners_count": "0",
            "queue_size": 0,
            "queue_depth": 0,
        },
        "git_info": {
            "repo_url": format!("{url}/{}.git", spec.project),
            "repo_object_format": "sha1",
            "ref": spec.git_ref,
            "sha": SHA,
            "before_sha": BEFORE_SHA,
            "ref_type": "branch",
            "refspecs": [format!("+refs/heads/{0}:refs/remotes/origin/{0}", spec.git_ref)],
            "depth": 20,
            "protected": false,
        },
        "runner_info": { "uuid": null, "timeout": spec.timeout_seconds },
        "inputs": [],
        "variables": variables(job, url),
        "steps": steps(job),
        "image": spec.image.as_ref().map(|name| json!({ "name": name, "entrypoint": null })),
        "services": spec.services.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "artifacts": artifacts(job),
        "cache": [],
        "credentials": [],
        "dependencies": dependencies(inner, job),
        "features": {
            "trace_sections": true,
            "token_mask_prefixes": ["glpat-", "glcbt-"],
            "failure_reasons": ["unknown_failure", "script_failure", "runner_system_failure",
                "job_execution_timeout", "runner_unsupported", "image_pull_failure", "runner_interrupted"],
        },
        "secrets": {},
        "hooks": [],
        "run": "",
        "policy_options": {},
        "suspend_options": {},
    })
}

/// The predefined variables that matter, then those of the job.
fn variables(job: &Job, url: &str) -> Vec<Value> {
    let spec = &job.spec;
    let predefined = [
        ("CI", "true".to_owned()),
        ("GITLAB_CI", "true".to_owned()),
        ("CI_SERVER", "yes".to_owned()),
        ("CI_SERVER_URL", url.to_owned()),
        ("CI_API_V4_URL", format!("{url}/api/v4")),
        ("CI_JOB_ID", job.id.to_string()),
        ("CI_JOB_NAME", spec.name.clone()),
        ("CI_JOB_STAGE", spec.stage.clone()),
        ("CI_PIPELINE_ID", PIPELINE_ID.to_string()),
        ("CI_PROJECT_ID", spec.project_id.to_string()),
        ("CI_PROJECT_PATH", spec.project.clone()),
        ("CI_PROJECT_NAME", project_name(&spec.project).to_owned()),
        ("CI_COMMIT_SHA", SHA.to_owned()),
        ("CI_COMMIT_REF_NAME", spec.git_ref.clone()),
    ];
    let own = |key: &str| spec.variables.iter().any(|variable| variable.key == key);
    let git = (!own("GIT_STRATEGY")).then(|| ("GIT_STRATEGY", "none".to_owned()));
    let token = json!({ "key": "CI_JOB_TOKEN", "value": job.token, "public": false, "file": false,
        "masked": true, "raw": false });
    let plain = predefined
        .into_iter()
        .chain(git)
        .map(|(key, value)| json!({ "key": key, "value": value, "public": true, "file": false, "masked": false, "raw": false }));
    let users = spec.variables.iter().map(|variable| {
        json!({ "key": variable.key, "value": variable.value, "public": !variable.masked, "file": false,
            "masked": variable.masked, "raw": false })
    });
    plain.chain([token]).chain(users).collect()
}

/// `script`, and `after_script` where the job has one.
fn steps(job: &Job) -> Vec<Value> {
    let spec = &job.spec;
    let mut steps = vec![json!({
        "name": "script",
        "script": spec.script,
        "timeout": spec.timeout_seconds,
        "when": "on_success",
        "allow_failure": false,
    })];
    if !spec.after_script.is_empty() {
        steps.push(json!({
            "name": "after_script",
            "script": spec.after_script,
            "timeout": spec.timeout_seconds,
            "when": "always",
            "allow_failure": true,
        }));
    }
    steps
}

/// The one zip archive a job may ask for.
fn artifacts(job: &Job) -> Vec<Value> {
    if job.spec.artifacts.is_empty() {
        return Vec::new();
    }
    vec![json!({
        "name": "default",
        "untracked": false,
        "paths": job.spec.artifacts,
        "exclude": null,
        "when": "on_success",
        "artifact_type": "archive",
        "artifact_format": "zip",
        "expire_in": "1 week",
    })]
}

/// Earlier jobs, with the token that opens their artifacts.
fn dependencies(inner: &Inner, job: &Job) -> Vec<Value> {
    let earlier = job.spec.dependencies.iter().filter_map(|id| inner.jobs.get(id));
    earlier
        .map(|other| {
            let file = other.artifacts.first().map(|artifact| json!({ "filename": artifact.name, "size": artifact.size }));
            json!({ "id": other.id, "token": other.token, "name": other.spec.name, "artifacts_file": file })
        })
        .collect()
}
