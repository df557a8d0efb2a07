//! Whoever asks the daemons for something while they are killed: submits jobs until they are accepted, cancels them, ends their runners,
//! drains machines and floods the API.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::rng::Rng;
use crate::tally::Wrong;
use crate::work::{Accepted, Kind, Wish};

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest wait until somebody accepts a job.
const PATIENCE: Duration = Duration::from_secs(240);
/// How many clients flood.
const FLOOD: usize = 64;

/// What clients share.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    client: reqwest::Client,
    urls: Arc<Vec<String>>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    accepted: Vec<Accepted>,
    /// Jobs whose end was asked for, maybe before their submitter heard of them.
    ended: HashSet<String>,
    /// Jobs of which a cancel was answered with "accepted".
    canceled: HashSet<String>,
    wrong: Vec<(Wrong, String)>,
}

impl Desk {
    pub(crate) fn new(urls: Vec<String>) -> Self {
        Self { client: crate::client(), urls: Arc::new(urls), heard: Arc::default() }
    }

    /// The jobs that were accepted since this was asked last.
    pub(crate) fn accepted(&self) -> Vec<Accepted> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Heard { mut accepted, ended, canceled, wrong } = std::mem::take(&mut *heard);
        heard.wrong = wrong;
        for job in &mut accepted {
            job.wish = match (ended.contains(&job.id), canceled.contains(&job.id)) {
                (_, true) => Wish::Heard,
                (true, false) => Wish::Made,
                (false, false) => Wish::No,
            };
        }
        accepted
    }

    /// What clients saw that must not be, since this was asked last.
    pub(crate) fn wrong(&self) -> Vec<(Wrong, String)> {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner).wrong)
    }

    fn complain(&self, wrong: Wrong, words: String) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).wrong.push((wrong, words));
    }

    async fn ask(&self, daemon: usize, method: Method, path: &str, body: Option<&Value>, key: Option<&str>) -> Option<(StatusCode, Value)> {
        let mut request = self.client.request(method, format!("{}{path}", self.urls[daemon])).timeout(ANSWER);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Submits a job until its acceptance was heard, and sometimes once more.
    pub(crate) async fn submit(&self, daemon: usize, kind: Kind, key: &str, rng: &mut Rng) -> Option<String> {
        let body = kind.request(daemon);
        let deadline = Instant::now() + PATIENCE;
        let id = loop {
            match self.ask(daemon, Method::POST, "/jobs", Some(&body), Some(key)).await {
                Some((StatusCode::ACCEPTED, job)) => break job["id"].as_str().expect("an id").to_owned(),
                Some((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _)) | None => {}
                Some((status, said)) => self.complain(Wrong::Other, format!("a job was answered {status}: {said}")),
            }
            if Instant::now() >= deadline {
                self.complain(Wrong::Other, format!("the job {key} was not accepted for {} s", PATIENCE.as_secs()));
                return None;
            }
            tokio::time::sleep(AGAIN).await;
        };
        let accepted = Accepted { daemon, id: id.clone(), kind, wish: Wish::No };
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).accepted.push(accepted);
        if rng.chance(20)
            && let Some((StatusCode::ACCEPTED, job)) = self.ask(daemon, Method::POST, "/jobs", Some(&body), Some(key)).await
            && job["id"] != id.as_str()
        {
            self.complain(Wrong::Doubled, format!("the key {key} made the jobs {id} and {}", job["id"]));
        }
        Some(id)
    }

    fn will_end(&self, id: &str) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).ended.insert(id.to_owned());
    }

    /// Cancels a job, until this was heard.
    pub(crate) async fn cancel(&self, daemon: usize, id: &str) {
        self.will_end(id);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.ask(daemon, Method::DELETE, &format!("/jobs/{id}"), None, None).await {
                Some((StatusCode::ACCEPTED, _)) => {
                    self.heard.lock().unwrap_or_else(PoisonError::into_inner).canceled.insert(id.to_owned());
                    return;
                }
                Some((StatusCode::CONFLICT, _)) => return,
                Some((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _)) | None => {}
                Some((status, said)) => return self.complain(Wrong::Other, format!("the cancel of {id} was answered {status}: {said}")),
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.complain(Wrong::Other, format!("the cancel of {id} was not heard for {} s", PATIENCE.as_secs()));
    }

    /// Ends the runner of some job.
    pub(crate) async fn terminate(&self, daemon: usize, rng: &mut Rng) {
        let Some((StatusCode::OK, listed)) = self.ask(daemon, Method::GET, "/runners", None, None).await else { return };
        let mut runners = listed["runners"].as_array().cloned().unwrap_or_default();
        // What becomes of GitLab's jobs is told by GitLab, which does not hear of this.
        runners.retain(|runner| runner["class"] != "gitlab");
        let Some(runner) = rng.pick(&runners) else { return };
        if let Some(job) = runner["job_id"].as_str() {
            self.will_end(job);
        }
        let path = format!("/runners/{}", runner["id"].as_str().unwrap_or_default());
        let _ = self.ask(daemon, Method::DELETE, &path, None, None).await;
    }

    /// Drains a machine for a while.
    pub(crate) async fn drain(&self, daemon: usize, pause: Duration) {
        let _ = self.ask(daemon, Method::POST, "/hosts/chaos/drain", Some(&json!({ "reason": "chaos" })), None).await;
        tokio::time::sleep(pause).await;
        self.resume(daemon).await;
    }

    /// Lets it take work again, until this was heard.
    pub(crate) async fn resume(&self, daemon: usize) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some((StatusCode::OK, _)) = self.ask(daemon, Method::POST, "/hosts/chaos/resume", None, None).await {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.complain(Wrong::Other, "the machine could not be resumed".to_owned());
    }

    /// Many clients at once, for a while: reads, nonsense at the webhook, and the same job by all of them, which is one.
    pub(crate) async fn flood(&self, daemon: usize, key: &str, lasting: Duration, rng: &mut Rng) {
        let until = Instant::now() + lasting;
        let clients = (0..FLOOD).map(|number| self.flow(daemon, number, key, until));
        let ids: Vec<String> = futures_util::future::join_all(clients).await.into_iter().flatten().collect();
        // Once more, until it is heard: maybe no answer was.
        let Some(id) = self.submit(daemon, Kind::Quick, key, rng).await else { return };
        if ids.iter().any(|other| *other != id) {
            self.complain(Wrong::Doubled, format!("the key {key} made several jobs: {id}, {ids:?}"));
        }
    }

    async fn flow(&self, daemon: usize, number: usize, key: &str, until: Instant) -> Option<String> {
        let body = Kind::Quick.request(daemon);
        let mut id = None;
        while Instant::now() < until {
            let answer = match number % 4 {
                0 => self.ask(daemon, Method::POST, "/webhook/job", Some(&json!({ "object_kind": "build" })), None).await,
                1 => self.ask(daemon, Method::GET, "/jobs?limit=100", None, None).await,
                2 => self.ask(daemon, Method::GET, "/status", None, None).await,
                _ => self.ask(daemon, Method::POST, "/jobs", Some(&body), Some(key)).await,
            };
            match answer {
                Some((StatusCode::ACCEPTED, job)) if number % 4 == 3 => id = job["id"].as_str().map(str::to_owned),
                Some((status, said)) if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => {
                    self.complain(Wrong::Other, format!("a request in a flood was answered {status}: {said}"));
                }
                Some(_) => {}
                None => tokio::time::sleep(AGAIN).await,
            }
        }
        id
    }

    /// Waits until a job has ended.
    pub(crate) async fn wait(&self, daemon: usize, id: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let answer = self.ask(daemon, Method::GET, &format!("/jobs/{id}"), None, None).await;
            if answer.is_some_and(|(_, job)| job["finished_at"].is_string()) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.complain(Wrong::Lost, format!("the job {id} did not end for {} s", PATIENCE.as_secs()));
    }

    /// The GPUs of its machine that are not free, in words; `None` when it does not say.
    pub(crate) async fn held(&self, daemon: usize) -> Option<Vec<String>> {
        let (_, hosts) = self.ask(daemon, Method::GET, "/hosts", None, None).await?;
        let devices = hosts["hosts"][0]["gpus"]["devices"].as_array()?;
        let held = devices.iter().filter(|device| device["state"] != "free");
        Some(held.map(Value::to_string).collect())
    }

    /// A job's log, where it can be had.
    pub(crate) async fn log(&self, daemon: usize, id: &str) -> Option<String> {
        match self.ask(daemon, Method::GET, &format!("/jobs/{id}/logs"), None, None).await? {
            (StatusCode::OK, Value::String(text)) => Some(text),
            (StatusCode::OK, other) => Some(other.to_string()),
            _ => None,
        }
    }
}
