//! The GitLab runners in containers: each asks the broker for its job, runs it, reports, and leaves. They outlive the daemon, and repeat what was
//! not answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runner_coordinator::domain::HowEnded;
use runner_coordinator::jobs::broker::{Broker, BrokerError, WorkAnswer};
use serde_json::json;

use crate::engine::{Container, Engine, attempt};
use crate::process::Script;
use crate::world::World;

/// Between two words of a runner at work, in milliseconds.
const ALIVE: u64 = 3000;

/// How far a runner has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Asks,
    /// It runs a job of GitLab until then; told so many bytes of its trace.
    Works {
        id: u64,
        token: String,
        until: u64,
        told: u64,
    },
    /// It says how its job went.
    Reports {
        id: u64,
        token: String,
        state: &'static str,
    },
}

/// Brings every runner to life that has none in this life of the daemon.
pub(crate) async fn run_all(world: Arc<World>, broker: Arc<Broker>, tasks: tokio_util::task::TaskTracker) {
    let mut known = BTreeSet::new();
    let mut changes = world.changes();
    loop {
        for (name, token) in world.engine().runners() {
            if known.insert((name.clone(), token.clone())) {
                let runner = Runner { world: Arc::clone(&world), broker: Arc::clone(&broker), name, token };
                tasks.spawn(async move { runner.run().await });
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What the engine keeps of its runners.
impl Engine {
    /// The GitLab runners that live, by container, with their tokens.
    pub(crate) fn runners(&self) -> Vec<(String, String)> {
        let alive = |container: &Container| self.process(container).is_some_and(|run| run.ended.is_none());
        let runners = self.containers.iter().filter(|(_, container)| alive(container));
        runners.filter_map(|(name, container)| Some((name.clone(), container.runner.as_ref()?.0.clone()))).collect()
    }

    /// How far a GitLab runner has come; `None` when it does not live.
    pub(crate) fn phase(&self, name: &str, token: &str) -> Option<Phase> {
        let container = self.containers.get(name)?;
        let alive = self.process(container).is_some_and(|run| run.ended.is_none());
        container.runner.as_ref().filter(|(known, _)| alive && known == token).map(|(_, phase)| phase.clone())
    }

    pub(crate) fn turn(&mut self, name: &str, token: &str, to: Phase) {
        let runner = self.containers.get_mut(name).and_then(|container| container.runner.as_mut());
        if let Some((_, phase)) = runner.filter(|(known, _)| known == token) {
            *phase = to;
        }
    }

    /// A runner runs a job of GitLab from now on.
    pub(crate) fn executes(&mut self, name: &str, job: u64) {
        if let Some(container) = self.containers.get_mut(name) {
            container.executes = Some(job);
        }
    }

    /// A runner's process ends by itself.
    pub(crate) fn leave(&mut self, name: &str, token: &str, how: HowEnded, now: u64) {
        let Some(container) = self.containers.get(name).filter(|container| container.runner.as_ref().is_some_and(|(known, _)| known == token)) else {
            return;
        };
        let (of, run) = (attempt(&container.owner), container.run);
        if let Some(run) = self.runs.get_mut(&of).and_then(|runs| runs.get_mut(run?)) {
            run.leave(how, now);
        }
    }
}

struct Runner {
    world: Arc<World>,
    broker: Arc<Broker>,
    name: String,
    token: String,
}

impl Runner {
    async fn run(&self) {
        // A runner needs a moment to begin.
        rest(200).await;
        loop {
            // Not held while it works.
            let phase = self.world.engine().phase(&self.name, &self.token);
            match phase {
                Some(Phase::Asks) => self.ask().await,
                Some(Phase::Works { id, token, until, told }) => self.work(id, &token, until, told).await,
                Some(Phase::Reports { id, token, state }) => self.report(id, &token, state).await,
                None => return,
            }
        }
    }

    /// Whether the answer to a call is lost on its way.
    fn loses(&self) -> bool {
        self.world.engine().chance(|dials| dials.answer_lost)
    }

    fn turn(&self, phase: Phase) {
        self.world.engine().turn(&self.name, &self.token, phase);
    }

    async fn ask(&self) {
        let answer = self.broker.request(&self.token).await;
        if self.loses() {
            return rest(1000).await;
        }
        match answer {
            Ok(WorkAnswer::Job(payload)) => {
                let payload: serde_json::Value = serde_json::from_str(&payload).expect("a payload of ours");
                let id = payload["id"].as_u64().expect("an id");
                let token = payload["token"].as_str().expect("a token").to_owned();
                let until = self.begin(id);
                self.turn(Phase::Works { id, token, until, told: 0 });
            }
            Ok(WorkAnswer::NoJob { .. }) | Err(BrokerError::Unavailable { .. } | BrokerError::TooOften { .. }) => rest(3000).await,
            Err(BrokerError::Denied | BrokerError::Malformed(_)) => self.leave(HowEnded::Exit(1)),
        }
    }

    /// The job's script begins; answers when it will have ended.
    fn begin(&self, id: u64) -> u64 {
        let now = self.world.now();
        let mut gitlab = self.world.gitlab();
        let job = &mut gitlab.jobs[usize::try_from(id).expect("small") - 1];
        let script: Script = job.script;
        let alive = job.executions.iter().any(|(_, ended)| ended.is_none_or(|ended| ended > now));
        job.executions.push((now, None));
        drop(gitlab);
        let mut engine = self.world.engine();
        engine.story.tell(now, &format!("{} runs job {id} of GitLab", self.name));
        if alive {
            engine.story.breach(now, &format!("job {id} of GitLab runs twice at once"));
        }
        engine.executes(&self.name, id);
        now + script.millis
    }

    async fn work(&self, id: u64, token: &str, until: u64, told: u64) {
        let now = self.world.now();
        rest(until.saturating_sub(now).min(ALIVE)).await;
        let line = Bytes::from_static(b"a line\n");
        let range = format!("{told}-{}", told + line.len() as u64 - 1);
        let sent = self.broker.trace(token, id, &range, "", line.clone()).await;
        let told = match sent {
            Ok(answer) if answer.is_success() && !self.loses() => told + line.len() as u64,
            Ok(answer) if answer.status == 416 => answer.headers.get("range").and_then(|range| range[2..].parse().ok()).unwrap_or(told),
            Ok(answer) if matches!(answer.status, 403 | 404) => return self.leave(HowEnded::Exit(1)),
            Err(BrokerError::Denied) => return self.leave(HowEnded::Exit(1)),
            Ok(_) | Err(_) => told,
        };
        let heard = self.broker.update(token, id, json!({ "state": "running" })).await;
        let aborted = heard.as_ref().is_ok_and(|answer| matches!(answer.job_status(), Some("canceled" | "canceling")));
        let state = self.world.gitlab().jobs[usize::try_from(id).expect("small") - 1].script.how;
        if aborted {
            self.turn(Phase::Reports { id, token: token.to_owned(), state: "failed" });
        } else if self.world.now() >= until {
            let state = if state == HowEnded::Exit(0) { "success" } else { "failed" };
            self.turn(Phase::Reports { id, token: token.to_owned(), state });
        } else {
            self.turn(Phase::Works { id, token: token.to_owned(), until, told });
        }
    }

    async fn report(&self, id: u64, token: &str, state: &'static str) {
        let reason = if state == "failed" { json!({ "state": state, "failure_reason": "script_failure" }) } else { json!({ "state": state }) };
        let answer = self.broker.update(token, id, reason).await;
        if self.loses() {
            return rest(1000).await;
        }
        match answer {
            Ok(answer) if answer.status == 200 => self.leave(HowEnded::Exit(0)),
            Ok(answer) if matches!(answer.status, 403 | 404) => self.leave(HowEnded::Exit(1)),
            Err(BrokerError::Denied) => self.leave(HowEnded::Exit(1)),
            Ok(_) | Err(_) => rest(1000).await,
        }
    }

    /// The runner's process ends.
    fn leave(&self, how: HowEnded) {
        let now = self.world.now();
        self.world.engine().leave(&self.name, &self.token, how, now);
        self.world.stir();
    }
}

async fn rest(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
