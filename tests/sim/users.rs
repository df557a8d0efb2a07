//! The people: they submit jobs and repeat what was not answered, cancel, end runners, drain and resume. And what they were promised.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use runner_coordinator::domain::{
    ClassName, CommandWork, EndReason, GpuRequest, HostId, HowEnded, ImageRef, Job, JobId, JobSpec, JobState, MemoryBytes, Outcome, Requirement,
    Source, Work,
};
use runner_coordinator::jobs::{HostSet, HostWish, ManagerHandle};
use runner_coordinator::store::{IdempotencyKey, JobFilter, NewJob, SqliteStore, Store, Submission};

use crate::engine::CPUS;
use crate::gpus::GPUS;
use crate::life::{HOST, JOB_CPUS};
use crate::process::Script;
use crate::world::World;

/// How long one attempt of a simulated job may run, in milliseconds.
pub(crate) const TIMEOUT: u64 = 20_000;

/// What somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Deed {
    Submit {
        script: Script,
        retries: u32,
        gpus: u32,
        cpus: u64,
        priority: i32,
    },
    /// Cancels the job of this place in the order of submissions.
    Cancel(usize),
    /// Pushes a job to GitLab, which rings.
    Push(Script),
    /// Cancels the job of this place in GitLab.
    CancelThere(usize),
    /// Ends whatever runner is the first.
    Terminate,
    Drain,
    Resume,
}

/// What they did and saw.
#[derive(Debug)]
pub(crate) struct Users {
    /// When faults end, in milliseconds.
    pub(crate) storm_ends: u64,
    /// Whether there is a GitLab.
    pub(crate) gitlab: bool,
    /// Runners that wait for its jobs.
    warm: u32,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    to_do: VecDeque<(u64, Deed)>,
    accepted: Vec<(JobId, u32)>,
    canceled: Vec<JobId>,
    canceled_there: Vec<usize>,
    terminated: bool,
    ended: BTreeMap<String, String>,
}

impl Users {
    /// What people do in one simulation.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let storm_ends = rng.u64(4_000..30_000);
        let mut to_do: Vec<(u64, Deed)> = Vec::new();
        let gitlab = rng.bool();
        for _ in 0..if gitlab { rng.u32(1..4) } else { 0 } {
            to_do.push((rng.u64(..storm_ends / 2), Deed::Push(script(rng))));
            if rng.u32(..4) == 0 {
                to_do.push((rng.u64(..storm_ends), Deed::CancelThere(rng.usize(..3))));
            }
        }
        for _ in 0..rng.u32(1..if gitlab { 3 } else { 6 }) {
            to_do.push((rng.u64(..storm_ends / 2), submission(rng)));
        }
        for _ in 0..rng.u32(..3) {
            let deed = match rng.u32(..6) {
                0 => Deed::Terminate,
                1 => Deed::Drain,
                _ => Deed::Cancel(rng.usize(..4)),
            };
            to_do.push((rng.u64(..storm_ends), deed));
        }
        to_do.sort_by_key(|(at, _)| *at);
        to_do.push((storm_ends, Deed::Resume));
        Self { storm_ends, gitlab, warm: rng.u32(..2), seen: Mutex::new(Seen { to_do: to_do.into(), ..Seen::default() }) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The class that takes GitLab's jobs, and where that is.
    pub(crate) fn classes_of_gitlab(&self) -> String {
        format!(
            "[[classes]]\nname = \"ci\"\nimage = \"runner:1\"\ncpus = 1\nmemory = \"1GiB\"\ntimeout = \"60s\"\nwarm = {}\n\
             gitlab_token = \"glrt-simulated-token\"\n[gitlab]\nurl = \"{}\"\n",
            self.warm,
            crate::gitlab::URL
        )
    }

    /// Whether everything was done and answered.
    pub(crate) fn are_done(&self) -> bool {
        self.seen().to_do.is_empty()
    }

    /// Jobs whose submission was answered.
    pub(crate) fn accepted(&self) -> Vec<(JobId, u32)> {
        self.seen().accepted.clone()
    }

    /// Jobs that somebody wanted to end.
    pub(crate) fn canceled(&self) -> Vec<JobId> {
        self.seen().canceled.clone()
    }

    /// Whether somebody cancelled GitLab's job of this place there.
    pub(crate) fn canceled_there(&self, place: usize) -> bool {
        self.seen().canceled_there.contains(&place)
    }

    /// Whether somebody ended a runner.
    pub(crate) fn terminated(&self) -> bool {
        self.seen().terminated
    }

    /// Does what is due, and repeats it until it was answered.
    pub(crate) async fn act(&self, world: &World, store: &dyn Store, handle: &ManagerHandle) {
        loop {
            let Some((at, deed)) = self.seen().to_do.front().cloned() else { return };
            tokio::time::sleep(Duration::from_millis(at.saturating_sub(world.now()))).await;
            while !self.try_to(world, store, handle, at, &deed).await {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let now = world.now();
            world.engine().story.tell(now, &format!("done: {deed:?}"));
            self.seen().to_do.pop_front();
        }
    }

    /// Whether it was answered.
    async fn try_to(&self, world: &World, store: &dyn Store, handle: &ManagerHandle, at: u64, deed: &Deed) -> bool {
        match deed {
            Deed::Submit { retries, .. } => {
                let place = self.seen().accepted.len();
                match store.submit(new_job(world, place, deed)).await {
                    Ok(Submission::Created(job) | Submission::Existing(job)) => {
                        self.seen().accepted.push((job.id, *retries));
                        handle.nudge();
                        true
                    }
                    Ok(refused) => panic!("a submission is refused: {refused:?}"),
                    Err(_) => false,
                }
            }
            Deed::Cancel(place) => {
                let Some((id, ..)) = self.seen().accepted.get(*place).cloned() else { return true };
                // Noted before: an answer that is lost may have done it.
                self.seen().canceled.push(id.clone());
                handle.cancel(&id, EndReason::CanceledByUser).await.is_ok()
            }
            Deed::Push(script) => {
                world.gitlab().push(*script);
                if !world.engine().chance(|dials| dials.bells_lost) {
                    handle.ring();
                }
                true
            }
            Deed::CancelThere(place) => {
                world.gitlab().cancel(*place);
                self.seen().canceled_there.push(*place);
                true
            }
            Deed::Terminate => {
                let Ok(open) = store.open_runners(&HostId::from_trusted(HOST)).await else { return false };
                let Some(first) = open.first() else { return true };
                self.seen().terminated = true;
                handle.terminate(&first.runner.id).await.is_ok() || world.now() > at + 5000
            }
            Deed::Drain => set_host(handle, HostWish::Drain { by: None, reason: None }).await,
            Deed::Resume => set_host(handle, HostWish::Resume).await,
        }
    }

    /// What has ended stays as it ended.
    pub(crate) async fn look(&self, world: &World, store: &SqliteStore) {
        let jobs = store.jobs(JobFilter { limit: 100, ..JobFilter::default() }).await.expect("a store");
        let mut seen = self.seen();
        for job in jobs {
            let told = job_end(&job);
            match (seen.ended.get(job.id.as_str()), told) {
                (Some(before), told) if told.as_ref() != Some(before) => {
                    let what = format!("job {} had ended with {before} and is now {told:?}", job.id);
                    world.engine().story.breach(world.now(), &what);
                }
                (None, Some(told)) => {
                    seen.ended.insert(job.id.to_string(), told);
                }
                (Some(_), _) | (None, None) => {}
            }
        }
    }
}

/// Whether the wish was carried out: a daemon that stops answers that it does not.
async fn set_host(handle: &ManagerHandle, wish: HostWish) -> bool {
    matches!(handle.set_host(wish).await, Ok(HostSet::Done))
}

fn job_end(job: &Job) -> Option<String> {
    match &job.state {
        JobState::Ended { outcome, .. } => Some(end(outcome)),
        JobState::Queued { .. } | JobState::Starting | JobState::Running => None,
    }
}

/// An outcome in words that can be compared.
pub(crate) fn end(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded => "succeeded".to_owned(),
        Outcome::Failed(failure) => format!("failed {} {:?}", failure.reason, failure.exit_code),
        Outcome::Canceled { reason, .. } => format!("canceled {reason}"),
    }
}

fn submission(rng: &mut Rng) -> Deed {
    let script = script(rng);
    let gpus = if rng.bool() { 0 } else { rng.u32(1..=GPUS) };
    Deed::Submit { script, retries: rng.u32(..2), cpus: rng.u64(1..=4), gpus, priority: rng.i32(0..3) }
}

fn script(rng: &mut Rng) -> Script {
    let how = match rng.u32(..6) {
        0 => HowEnded::Exit(3),
        1 => HowEnded::Signal(9),
        _ => HowEnded::Exit(0),
    };
    let millis = if rng.u32(..12) == 0 { TIMEOUT + 10_000 } else { rng.u64(1..6000) };
    Script { how, millis, lines: rng.u64(..4), obeys: rng.u32(..4) > 0 }
}

fn new_job(world: &World, place: usize, deed: &Deed) -> NewJob {
    let Deed::Submit { script, retries, cpus, gpus, priority } = deed else { panic!("no submission: {deed:?}") };
    let cpus = runner_coordinator::domain::CpuMillis(JOB_CPUS.0 * cpus).min(CPUS);
    let spec = JobSpec {
        source: Source::Api,
        project: None,
        requirement: Requirement {
            gpus: (*gpus > 0).then(|| GpuRequest::any(*gpus)),
            ..Requirement::plain(ClassName::from_trusted("default"), cpus, MemoryBytes(1 << 30))
        },
        timeout: Duration::from_millis(TIMEOUT),
        priority: *priority,
        retries: *retries,
        work: Work::Command(CommandWork {
            image: ImageRef::parse("image", "job:1").expect("an image"),
            command: script.command(),
            env: BTreeMap::new(),
        }),
    };
    NewJob {
        job: Job::new(JobId::generate(), spec, world.time.now_wall()),
        gitlab: None,
        idempotency: Some(IdempotencyKey { key: format!("submission {place}"), body_sha256: [u8::try_from(place).unwrap_or(0); 32] }),
        weight: 1,
        queue_limit: 1000,
        whole_queue_limit: 1000,
    }
}
