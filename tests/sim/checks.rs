//! The promises, checked when everything is over: against what the processes really did.

use std::collections::BTreeMap;

use runner_coordinator::domain::{Attempt, Disposition, EndReason, Event, EventKind, HostId, HowEnded, Job, JobState, Outcome, Source};
use runner_coordinator::store::{EventQuery, JobFilter, SqliteStore, Store as _};

use crate::dials::Dials;
use crate::gitlab::Theirs;
use crate::life::{End, HOST};
use crate::process::Run;
use crate::users::{TIMEOUT, Users, end};
use crate::world::World;

/// How often an attempt may fail for reasons that are not the job's, and the job be tried again.
const INFRASTRUCTURE_RETRIES: u32 = 2;
/// By how much the daemon's idea of a process's beginning may be early, in milliseconds.
const LATENESS: u64 = 5000;

/// Checks every promise; what is not kept goes into the story.
pub(crate) async fn check(world: &World, store: &SqliteStore, users: &Users, dials: &Dials, (lives, last): (u64, End)) {
    let mut faults = Vec::new();
    if last != End::Done {
        faults.push(format!("it does not come to an end: {}", left(world, store).await));
    }
    let jobs = store.jobs(JobFilter { limit: 1000, ..JobFilter::default() }).await.expect("a store");
    let accepted = users.accepted();
    let stored = jobs.iter().filter(|job| job.spec.source == Source::Api).count();
    if stored != accepted.len() {
        faults.push(format!("{} jobs were accepted and {stored} are stored", accepted.len()));
    }
    faults.extend(of_gitlab(world, users));
    for (id, retries) in &accepted {
        let Some(job) = jobs.iter().find(|job| job.id == *id) else {
            faults.push(format!("job {id} was accepted and is lost"));
            continue;
        };
        let attempts = store.attempts(id).await.expect("a store");
        let events = store.events(EventQuery { job: Some(id.clone()), after: 0, limit: 1000 }).await.expect("a store");
        let runs = runs_of(world, id.as_str());
        let case = Case { job, retries: *retries, attempts: &attempts, events: &events, runs: &runs, users, dials, lives, now: world.now() };
        faults.extend(case.faults().into_iter().map(|fault| format!("job {id}: {fault}")));
    }
    let receipts = std::fs::read_dir(world.data.join("receipts")).map_or(0, Iterator::count);
    if receipts > 0 && last == End::Done {
        faults.push(format!("{receipts} receipts are left"));
    }
    let now = world.now();
    for fault in faults {
        world.engine().story.breach(now, &fault);
    }
}

/// What became of GitLab's jobs there.
fn of_gitlab(world: &World, users: &Users) -> Vec<String> {
    let gitlab = world.gitlab();
    let fault = |(place, job): (usize, &Theirs)| {
        let ran_through = job.executions.iter().any(|(began, ended)| ended.is_some_and(|ended| ended - began >= job.script.millis));
        let fault = match job.status {
            _ if job.executions.len() > 1 => "ran more than once",
            "success" if !ran_through || job.script.how != HowEnded::Exit(0) => "is a success that was none",
            "success" | "failed" => return None,
            "canceled" if users.canceled_there(place) => return None,
            "canceled" => "was cancelled by nobody",
            _ => "is forgotten",
        };
        Some(format!("job {} of GitLab {fault}: {job:?}", place + 1))
    };
    gitlab.jobs.iter().enumerate().filter_map(fault).collect()
}

async fn left(world: &World, store: &SqliteStore) -> String {
    let open = store.open_runners(&HostId::from_trusted(HOST)).await.expect("a store");
    let runners: Vec<String> = open.iter().map(|aggregate| format!("{} {:?}", aggregate.runner.id, aggregate.runner.state)).collect();
    let counts = store.counts().await.expect("a store");
    format!("runners {runners:?}, jobs {:?}, containers {:?}", counts.jobs, world.engine().containers.keys())
}

fn runs_of(world: &World, job: &str) -> BTreeMap<u32, Vec<Run>> {
    let engine = world.engine();
    let of_job = engine.runs.range((job.to_owned(), 0)..=(job.to_owned(), u32::MAX));
    of_job.map(|((_, attempt), runs)| (*attempt, runs.clone())).collect()
}

/// One job, and all that is known of it.
struct Case<'a> {
    job: &'a Job,
    retries: u32,
    attempts: &'a [Attempt],
    events: &'a [Event],
    runs: &'a BTreeMap<u32, Vec<Run>>,
    users: &'a Users,
    dials: &'a Dials,
    lives: u64,
    now: u64,
}

impl Case<'_> {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let JobState::Ended { outcome, .. } = &self.job.state else { return vec![format!("it is {} for ever", self.job.state.name())] };
        if let Err(fault) = self.truth(outcome, self.now) {
            faults.push(format!("{fault}; it ended with {}, its processes were {:?}", end(outcome), self.runs));
        }
        faults.extend(self.attempts.iter().filter_map(|attempt| self.overlooked(attempt)));
        faults.extend(self.counts(outcome));
        faults.extend(self.history());
        faults
    }

    /// The process of the latest attempt.
    fn last(&self) -> Option<&Run> {
        let number = self.job.attempt.as_ref()?.number;
        self.runs.get(&number)?.first()
    }

    /// Whether its latest process did not run for as long as it might. Only a daemon that lives through it sees through a turned clock.
    fn was_in_time(&self, now: u64) -> bool {
        let ran = self.last().map_or(0, |run| run.ended.unwrap_or(now) - run.began);
        ran + LATENESS < TIMEOUT && (self.dials.clock == 0 || self.lives == 1)
    }

    /// Whether the end is what really happened.
    fn truth(&self, outcome: &Outcome, now: u64) -> Result<(), String> {
        let own = self.last().filter(|run| run.is_own_end()).map(|run| run.how);
        match outcome {
            Outcome::Succeeded if own != Some(HowEnded::Exit(0)) => Err("a success that was none".to_owned()),
            Outcome::Failed(failure) => match failure.reason {
                EndReason::ExitCode if own.map(crate::engine::code) != failure.exit_code => Err("an exit code that was none".to_owned()),
                EndReason::TimedOut if self.was_in_time(now) => Err("it was in time".to_owned()),
                EndReason::RunnerTerminated if !self.users.terminated() => Err("nobody ended its runner".to_owned()),
                _ => Ok(()),
            },
            Outcome::Canceled { .. } if !self.users.canceled().contains(&self.job.id) => Err("nobody canceled it".to_owned()),
            Outcome::Succeeded | Outcome::Canceled { .. } => Ok(()),
        }
    }

    /// An attempt that is told to be lost although its process ended by itself and left its receipt.
    fn overlooked(&self, attempt: &Attempt) -> Option<String> {
        let (_, outcome) = attempt.ended.as_ref()?;
        let lost = matches!(outcome.reason(), Some(EndReason::NoReceipt | EndReason::ContainerLost));
        let run = self.runs.get(&attempt.number)?.iter().find(|run| run.is_own_end() && run.proved)?;
        lost.then(|| format!("its attempt {} ended with {} although its process proved its end: {run:?}", attempt.number, end(outcome)))
    }

    /// Whether it was tried as often as it is due, and no more.
    fn counts(&self, outcome: &Outcome) -> Vec<String> {
        let mut faults = Vec::new();
        let most = 1 + INFRASTRUCTURE_RETRIES + self.retries;
        if self.attempts.len() > most as usize {
            faults.push(format!("it was tried {} times, and {most} are allowed", self.attempts.len()));
        }
        if let Some(attempt) = self.attempts.iter().find(|attempt| attempt.ended.is_none()) {
            faults.push(format!("its attempt {} has no end", attempt.number));
        }
        if let Some((attempt, _)) = self.runs.iter().find(|(attempt, _)| !self.attempts.iter().any(|known| known.number == **attempt)) {
            faults.push(format!("its attempt {attempt} ran and is not known"));
        }
        if let Outcome::Failed(failure) = outcome {
            let (had, due) = match failure.disposition {
                Disposition::Job => (self.job.own_failures, self.retries + 1),
                Disposition::Infrastructure => (self.job.infrastructure_failures, INFRASTRUCTURE_RETRIES + 1),
                Disposition::Final => return faults,
            };
            if had != due && self.job.cancel.is_none() {
                faults.push(format!("it failed {had} times, and is due {due}: {}", end(outcome)));
            }
        }
        faults
    }

    /// Whether its history tells all of it, once and in order.
    fn history(&self) -> Vec<String> {
        let names: Vec<&str> = self.events.iter().map(|event| event.kind.name()).collect();
        let count = |name: &str| names.iter().filter(|known| **known == name).count();
        let mut faults = Vec::new();
        let mut expect = |name: &str, due: usize| {
            if count(name) != due {
                faults.push(format!("its history has {} of \"{name}\" and not {due}: {names:?}", count(name)));
            }
        };
        expect("submitted", 1);
        expect("ended", 1);
        expect("claimed", self.attempts.len());
        expect("attempt_ended", self.attempts.len());
        let started = self.attempts.iter().filter(|attempt| attempt.started_at.is_some()).count();
        expect("container_started", started);
        if self.events.windows(2).any(|pair| pair[0].seq >= pair[1].seq) {
            faults.push("its history is out of order".to_owned());
        }
        let created = self.events.iter().filter(|event| matches!(event.kind, EventKind::ContainerCreated { .. })).count();
        if created < self.runs.len() {
            faults.push(format!("{} of its containers ran and {created} were told of", self.runs.len()));
        }
        faults
    }
}
