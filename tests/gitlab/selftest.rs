//! The stand-in's own tests: it must be as strict as GitLab, or what passes against it proves nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::routing::post;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Checksums, Commit, GitLab, JobSpec, JobView, PRIVATE_TOKEN, Status, fingerprint};

/// Token of the runner entity in these tests.
const TOKEN: &str = "glrt-selftest";
/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);

/// A stand-in on a free local port.
async fn start() -> GitLab {
    GitLab::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port")
}

/// A runner as plain as can be.
struct Client<'a> {
    /// Whom it talks to.
    gitlab: &'a GitLab,
    /// How.
    http: reqwest::Client,
}

impl<'a> Client<'a> {
    /// A runner of `gitlab`.
    fn new(gitlab: &'a GitLab) -> Self {
        Self { gitlab, http: reqwest::Client::new() }
    }

    /// Sends JSON.
    async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        let url = format!("{}/api/v4{path}", self.gitlab.url());
        self.http.request(method, url).json(&body).send().await.expect("an answer")
    }

    /// Asks for a job with these features.
    async fn ask(&self, token: &str, features: Value) -> Response {
        let body = json!({ "token": token, "info": { "features": features } });
        self.send(Method::POST, "/jobs/request", body).await
    }

    /// Asks for a job that must be there.
    async fn take(&self, features: Value) -> Value {
        let answer = self.ask(TOKEN, features).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json().await.expect("a job")
    }

    /// Reports a state.
    async fn update(&self, job: &JobView, more: Value) -> Response {
        let mut body = json!({ "token": job.job_token });
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        self.send(Method::PUT, &format!("/jobs/{}", job.id), body).await
    }

    /// Sends a range of the trace.
    async fn trace(&self, job: &JobView, start: usize, text: &'static str) -> Response {
        let url = format!("{}/api/v4/jobs/{}/trace", self.gitlab.url(), job.id);
        let range = format!("{start}-{}", start + text.len() - 1);
        let request = self.http.patch(url).header("JOB-TOKEN", &job.job_token);
        request.header("Content-Range", range).body(text).send().await.expect("an answer")
    }
}

/// A header of an answer.
fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_job_goes_to_a_runner_that_has_all_its_tags_oldest_first() {
    let gitlab = start().await;
    let runner = gitlab.add_runner(TOKEN, &["gpu", "amd64"]);
    let client = Client::new(&gitlab);
    gitlab.enqueue(JobSpec::new("untagged"));
    gitlab.enqueue(JobSpec::new("arm").tags(["gpu", "arm64"]));
    let first = gitlab.enqueue(JobSpec::new("first").tags(["gpu"]).image("debian").project("a/b", 7));
    gitlab.enqueue(JobSpec::new("second").tags(["gpu"]));

    let job = client.take(json!({})).await;

    assert_eq!(job["id"], first);
    assert_eq!((&job["image"]["name"], &job["job_info"]["project_full_path"]), (&json!("debian"), &json!("a/b")));
    let view = gitlab.job(first);
    assert_eq!((view.status, view.runner_id, view.n_assigned), (Status::Running, Some(runner), 1));
    assert_eq!((view.name.as_str(), view.project.as_str(), view.project_id), ("first", "a/b", 7));
}

#[tokio::test]
async fn an_unknown_token_is_refused_and_an_empty_queue_has_a_version() {
    let gitlab = start().await;
    let runner = gitlab.add_runner(TOKEN, &[]);
    let client = Client::new(&gitlab);
    assert_eq!(client.ask("glrt-wrong", json!({})).await.status(), StatusCode::FORBIDDEN);

    let empty = client.ask(TOKEN, json!({})).await;
    assert_eq!((empty.status(), header(&empty, "x-gitlab-last-update")), (StatusCode::NO_CONTENT, "0"));
    let verified = client.send(Method::POST, "/runners/verify", json!({ "token": TOKEN })).await;
    assert_eq!(verified.status(), StatusCode::OK);

    gitlab.enqueue(JobSpec::new("withheld"));
    gitlab.pause_runner(runner);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::NO_CONTENT);
    gitlab.remove_runner(runner);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::FORBIDDEN);

    let asked = gitlab.requests();
    assert_eq!((asked[0].status, asked[0].token.clone()), (403, Some(fingerprint("glrt-wrong"))));
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("POST", "/api/v4/jobs/request"));
    assert_eq!(gitlab.count_requests("POST", "/jobs/request"), 4);
}

#[tokio::test]
async fn a_trace_must_join_without_a_gap() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.trace_interval(Duration::from_secs(3));
    let id = gitlab.enqueue(JobSpec::new("trace"));
    let client = Client::new(&gitlab);
    client.take(json!({})).await;
    let job = gitlab.job(id);

    let first = client.trace(&job, 0, "hello ").await;
    assert_eq!((first.status(), header(&first, "range")), (StatusCode::ACCEPTED, "0-6"));
    assert_eq!((header(&first, "job-status"), header(&first, "x-gitlab-trace-update-interval")), ("running", "3"));
    let gap = client.trace(&job, 9, "lost").await;
    assert_eq!((gap.status(), header(&gap, "range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-6"));
    assert_eq!(client.trace(&job, 0, "hello ").await.status(), StatusCode::ACCEPTED);
    assert_eq!(client.trace(&job, 6, "world").await.status(), StatusCode::ACCEPTED);
    assert_eq!(gitlab.job(id).trace, "hello world");

    let stranger = JobView { job_token: "glcbt-wrong".into(), ..job };
    assert_eq!(client.trace(&stranger, 11, "!").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_job_ends_once_with_reason_and_exit_code() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let id = gitlab.enqueue(JobSpec::new("fails").allow_failure());
    let client = Client::new(&gitlab);
    client.take(json!({})).await;
    let job = gitlab.job(id);
    let failed = json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": 7 });

    gitlab.delay_final_updates(1);
    assert_eq!(client.update(&job, failed.clone()).await.status(), StatusCode::ACCEPTED);
    assert_eq!(client.update(&job, failed.clone()).await.status(), StatusCode::OK);
    let again = client.update(&job, failed).await;
    assert_eq!((again.status(), header(&again, "job-status")), (StatusCode::FORBIDDEN, "failed"));

    let view = gitlab.wait_for(id, SOON, |job| job.status.is_final()).await.expect("it ended");
    assert_eq!((view.failure_reason.as_deref(), view.exit_code), (Some("script_failure"), Some(7)));
    let answers: Vec<u16> = view.updates.iter().map(|update| update.answer).collect();
    assert_eq!(answers, [202, 200]);
    assert_eq!((view.updates[0].state.as_str(), view.updates[0].exit_code), ("failed", Some(7)));
    assert_eq!(view.updates[0].failure_reason.as_deref(), Some("script_failure"));
}

#[tokio::test]
async fn a_wrong_checksum_is_sent_back() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.checksums(Checksums::Verify);
    let id = gitlab.enqueue(JobSpec::new("checked"));
    let client = Client::new(&gitlab);
    client.take(json!({})).await;
    let job = gitlab.job(id);
    client.trace(&job, 0, "123456789").await;

    let wrong = json!({ "state": "success", "output": { "checksum": "crc32:00000000" } });
    assert_eq!(client.update(&job, wrong).await.status(), StatusCode::PRECONDITION_FAILED);
    let right = json!({ "state": "success", "output": { "checksum": "crc32:cbf43926" } });
    assert_eq!(client.update(&job, right).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_two_phase_job_stays_pending_until_it_is_confirmed() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.two_phase(true);
    let id = gitlab.enqueue(JobSpec::new("two phases"));
    let client = Client::new(&gitlab);
    let features = json!({ "two_phase_job_commit": true });

    client.take(features.clone()).await;
    let held = gitlab.job(id);
    assert_eq!((held.status, held.runner_id.is_some()), (Status::Pending, true));
    assert_eq!(client.ask(TOKEN, features.clone()).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(client.update(&held, json!({ "state": "pending" })).await.status(), StatusCode::OK);

    gitlab.lapse_unconfirmed();
    assert_eq!(client.update(&held, json!({ "state": "running" })).await.status(), StatusCode::FORBIDDEN);
    client.take(features).await;
    assert_eq!(client.update(&held, json!({ "state": "running" })).await.status(), StatusCode::OK);
    assert_eq!((gitlab.job(id).status, gitlab.job(id).n_assigned), (Status::Running, 2));

    gitlab.commit(Commit::SinglePhase);
    let other = gitlab.enqueue(JobSpec::new("one phase"));
    client.take(json!({ "two_phase_job_commit": true })).await;
    assert_eq!(gitlab.job(other).status, Status::Running);
}

#[tokio::test]
async fn a_cancel_is_graceful_only_for_runners_that_can() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let client = Client::new(&gitlab);
    for (features, told, status) in [
        (json!({ "cancel_gracefully": true }), "canceling", StatusCode::OK),
        (json!({}), "canceled", StatusCode::FORBIDDEN),
    ] {
        let id = gitlab.enqueue(JobSpec::new("cancelled"));
        client.take(features).await;
        gitlab.cancel(id);
        let heard = client.update(&gitlab.job(id), json!({ "state": "running" })).await;
        assert_eq!((heard.status(), header(&heard, "job-status")), (status, told));
        client.update(&gitlab.job(id), json!({ "state": "failed" })).await;
        assert_eq!(gitlab.job(id).status, Status::Canceled);
    }
    let waiting = gitlab.enqueue(JobSpec::new("never taken"));
    gitlab.cancel(waiting);
    assert_eq!(gitlab.job(waiting).status, Status::Canceled);
}

#[tokio::test]
async fn artifacts_come_out_as_they_went_in() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let id = gitlab.enqueue(JobSpec::new("builds").artifacts(["out"]));
    let client = Client::new(&gitlab);
    let sent = client.take(json!({})).await;
    assert_eq!(sent["artifacts"][0]["paths"], json!(["out"]));
    let job = gitlab.job(id);
    let url = format!("{}/api/v4/jobs/{id}/artifacts", gitlab.url());
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.zip\"\r\n\r\nPK\0\r\n--b--\r\n";
    let request = client.http.post(&url).header("JOB-TOKEN", &job.job_token);
    let request = request.header("Content-Type", "multipart/form-data; boundary=b").body(form);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::CREATED);

    let kept = gitlab.job(id).artifacts.remove(0);
    assert_eq!((kept.name.as_str(), kept.size, kept.bytes.as_slice()), ("a.zip", 3, b"PK\0".as_slice()));
    client.update(&job, json!({ "state": "success" })).await;
    let got = client.http.get(&url).header("JOB-TOKEN", &job.job_token).send().await.expect("an answer");
    assert_eq!(got.bytes().await.expect("bytes").as_ref(), b"PK\0");
    gitlab.enqueue(JobSpec::new("uses").needs(id));
    let next = client.take(json!({})).await;
    assert_eq!(next["dependencies"][0]["artifacts_file"], json!({ "filename": "a.zip", "size": 3 }));
}

#[tokio::test]
async fn a_job_brings_its_steps_and_variables() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    let spec = JobSpec::new("steps").script(["one", "two"]).after_script(["three"]);
    gitlab.enqueue(spec.variable("A", "1").masked_variable("S", "2").timeout(Duration::from_secs(60)));

    let job = Client::new(&gitlab).take(json!({})).await;

    assert_eq!(job["steps"][0]["script"], json!(["one", "two"]));
    assert_eq!(job["steps"][1]["name"], "after_script");
    assert_eq!(job["runner_info"]["timeout"], 60);
    let variables = job["variables"].as_array().expect("a list");
    let find = |key: &str| variables.iter().find(|variable| variable["key"] == key).expect("it is there");
    assert_eq!(find("GIT_STRATEGY")["value"], "none");
    assert_eq!((&find("A")["masked"], &find("S")["masked"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn failures_can_be_injected() {
    let gitlab = start().await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.fail_next(Method::POST, "/jobs/request", StatusCode::CONFLICT, 1);
    let client = Client::new(&gitlab);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::CONFLICT);
    assert_eq!(client.ask(TOKEN, json!({})).await.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_rest_api_shows_tags_and_cancels() {
    let gitlab = start().await;
    let id = gitlab.enqueue(JobSpec::new("shown").tags(["gpu"]));
    let http = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{}/api/v4/projects/282/jobs", gitlab.port());
    assert_eq!(http.get(&url).send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    let get = |url: String| http.get(url).header("PRIVATE-TOKEN", PRIVATE_TOKEN).send();
    let one: Value = get(format!("{url}/{id}")).await.expect("an answer").json().await.expect("a job");
    assert_eq!((&one["tag_list"], &one["status"]), (&json!(["gpu"]), &json!("pending")));
    let cancel = http.post(format!("{url}/{id}/cancel")).header("PRIVATE-TOKEN", PRIVATE_TOKEN);
    assert_eq!(cancel.send().await.expect("an answer").status(), StatusCode::OK);
    let pending: Value = get(format!("{url}?scope[]=pending")).await.expect("an answer").json().await.expect("a list");
    assert_eq!(pending, json!([]));
}

/// What the receiver of Job events saw.
type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A receiver that keeps what it is sent; its address and what it saw.
async fn receiver(tasks: &mut JoinSet<()>) -> (String, Seen) {
    let seen = Seen::default();
    let keep = seen.clone();
    let hear = move |headers: HeaderMap, body: axum::Json<Value>| async move {
        keep.lock().expect("nobody panicked").push((headers, body.0));
        "thanks"
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    tasks.spawn(async move {
        axum::serve(listener, Router::new().route("/hook", post(hear))).await.expect("it serves");
    });
    (url, seen)
}

/// The field names of an object, sorted.
fn fields(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}

#[tokio::test]
async fn transitions_send_events_of_the_recorded_shape() {
    let (gitlab, mut tasks) = (start().await, JoinSet::new());
    let (url, seen) = receiver(&mut tasks).await;
    gitlab.add_runner(TOKEN, &[]);
    gitlab.set_hook(&url, Some("s3cret"));
    gitlab.auto_hooks(true);
    let client = Client::new(&gitlab);
    let id = gitlab.enqueue(JobSpec::new("train").commit_message("Train more"));
    client.take(json!({})).await;
    client.update(&gitlab.job(id), json!({ "state": "success" })).await;
    assert!(gitlab.wait_for_deliveries(3, SOON).await);

    let statuses: Vec<String> = gitlab.deliveries().into_iter().map(|sent| sent.build_status).collect();
    assert_eq!(statuses, ["pending", "running", "success"]);
    let seen = seen.lock().expect("nobody panicked").clone();
    let samples = [include_str!("../payloads/pending.json"), include_str!("../payloads/running.json")];
    for ((headers, event), sample) in seen.iter().zip(samples) {
        let sample: Value = serde_json::from_str(sample).expect("a payload");
        assert_eq!(fields(event), fields(&sample));
        for part in ["commit", "project", "repository", "user"] {
            assert_eq!(fields(&event[part]), fields(&sample[part]));
        }
        assert_eq!(headers["x-gitlab-event"], "Job Hook");
        assert_eq!(headers["x-gitlab-token"], "s3cret");
        assert_eq!(event["commit"]["message"], "Train more");
    }
}

#[tokio::test]
async fn a_resent_event_keeps_its_key_and_a_signed_one_is_signed() {
    let (gitlab, mut tasks) = (start().await, JoinSet::new());
    let (url, seen) = receiver(&mut tasks).await;
    let id = gitlab.enqueue(JobSpec::new("job"));
    assert_eq!(gitlab.send_job_event(id).await.status, None);
    gitlab.set_hook(&url, None);
    gitlab.set_signing_token("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let key = Uuid::new_v4();

    let first = gitlab.send_job_event_as(id, key).await;
    gitlab.send_job_event_as(id, key).await;

    assert_eq!((first.job, first.status, first.body.as_str()), (id, Some(200), "thanks"));
    assert_eq!(first.idempotency_key, key.to_string());
    let seen = seen.lock().expect("nobody panicked").clone();
    assert_eq!(seen[0].0["idempotency-key"], seen[1].0["idempotency-key"]);
    assert!(seen[0].0["webhook-signature"].as_bytes().starts_with(b"v1,"));
    assert!(!seen[0].0.contains_key("x-gitlab-token"));
}

#[tokio::test]
async fn waiting_in_vain_shows_the_job() {
    let gitlab = start().await;
    let id = gitlab.enqueue(JobSpec::new("waits"));
    let error = gitlab.wait_for(id, Duration::from_millis(1), |job| job.status.is_final()).await;
    let error = error.expect_err("nothing ends it");
    assert_eq!(error.last.as_ref().map(|job| job.status), Some(Status::Pending));
    assert!(error.to_string().contains("waits"));
}
