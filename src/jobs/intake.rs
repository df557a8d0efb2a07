//! Asks GitLab for work, class by class: at once when GitLab rang, now and then without a bell, and only while there is room.
//!
//! A webhook carries no job tags and may be lost or doubled, so it is only a doorbell; GitLab's own queue is the truth
//! (design, section 2, point 4). What GitLab hands out is stored before anything else happens.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::deps::{Shared, class_named, class_requirement};
use super::handle::{IntakeWord, Status};
use super::image::decide;
use super::stopping::until_stopped;
use crate::config::{Class, Config};
use crate::domain::clock;
use crate::domain::retry::doubled;
use crate::domain::{Arch, ClassName, Clock, EndReason, Job, JobId, JobSpec, ProjectName, Source, Start, Work, chain};
use crate::gitlab::{ClaimedJob, GitLab, GitLabError, JobAnswer, RunnerInfo};
use crate::store::{NewJob, StoreError, Submission};

/// First wait after GitLab did not answer as it should; doubled each time.
const BACKOFF: Duration = Duration::from_secs(2);
/// Longest such wait. No longer than between two questions in quiet times (`gitlab.poll_interval`, as it is by default): asking a GitLab
/// in trouble less often would spare it little, and the jobs that wait there would wait on when it is back.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Wait after another runner was quicker, as the official runner has it.
const CONFLICT: Duration = Duration::from_secs(3);
/// Wait after GitLab refused a class's token: only a person can mend that.
const DENIED: Duration = Duration::from_secs(5 * 60);
/// Wait before a store that failed is tried again with a job that GitLab already gave away.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the end of a record of a job that GitLab took back and gave to us again; past it GitLab offers the job once more.
const ITS_END: Duration = Duration::from_secs(60);

/// How long GitLab may not be asked for a class before it hears that the runner is there. GitLab takes a runner that is silent for
/// 2 hours for offline, and fails jobs that only offline runners could take after 1 hour.
const PRESENCE: Duration = Duration::from_secs(30 * 60);

/// Why asking has to wait, and whether a bell may shorten the wait.
enum Pause {
    /// Until the bell or the next poll.
    Poll(Duration),
    /// Until this time has passed, or [`BACKOFF`] and then a bell: who rings is alive again.
    Trouble(Duration),
    /// Until this time has passed, bell or not: GitLab itself said so.
    Backoff(Duration),
    /// Not at all.
    None,
}

impl Pause {
    /// How long at the most.
    fn longest(&self) -> Duration {
        match self {
            Self::Poll(wait) | Self::Trouble(wait) | Self::Backoff(wait) => *wait,
            Self::None => Duration::ZERO,
        }
    }
}

/// A class as it is asked for: as it was configured when the question began.
struct Terms {
    class: Class,
    token: SecretString,
    poll: Duration,
}

impl Terms {
    /// `None` when the class takes no work of GitLab.
    fn of(config: &Config, class: &ClassName) -> Option<Self> {
        let class = class_named(config, class)?;
        Some(Self { class: class.clone(), token: class.gitlab_token.clone()?, poll: config.gitlab.as_ref()?.poll_interval })
    }
}

/// Asks for one class until it takes no work of GitLab any more, or told to stop. A question that is under way is always waited for: what GitLab
/// gives away is ours, whatever the configuration says by then.
pub(super) async fn run(shared: &Arc<Shared>, name: &ClassName, gitlab: &Arc<dyn GitLab>) {
    let deps = &shared.deps;
    let mut reloads = deps.config.subscribe();
    let mut bell = deps.handle.bell.subscribe();
    let mut status = deps.handle.status.clone();
    let mut failures = 0;
    // Asked at once after a start: a bell may have rung while nobody was there to hear it.
    let mut pause = Pause::None;
    let mut last: Option<Class> = None;
    loop {
        let Some(terms) = Terms::of(&deps.config.current(), name) else {
            if shared.askers.leave(shared, name) {
                return;
            }
            continue;
        };
        let Terms { class, token, .. } = &terms;
        if last.as_ref().is_some_and(|last| !last.has_the_same_token(class)) {
            // What GitLab said of the old token does not concern the new one.
            (pause, failures) = (Pause::None, 0);
        }
        last = Some(class.clone());
        let rest = async {
            match pause {
                Pause::None => {}
                Pause::Backoff(wait) => tokio::time::sleep(wait).await,
                Pause::Trouble(wait) => {
                    tokio::time::sleep(wait.min(BACKOFF)).await;
                    let _ = tokio::time::timeout(wait.saturating_sub(BACKOFF), bell.changed()).await;
                }
                Pause::Poll(wait) => {
                    // A bell that rang while we asked is kept by the watch.
                    let _ = tokio::time::timeout(wait, bell.changed()).await;
                }
            }
            if !status.borrow().askable.contains(&class.name) {
                shared.intake.post(&class.name, |state| state.state = IntakeWord::Full);
            }
            until_askable(&mut status, &class.name, token, gitlab.as_ref()).await;
        };
        // Everything in `rest` only waits, or says that we are there.
        tokio::select! {
            biased;
            () = deps.stop.cancelled() => return,
            () = rest => {}
            changed = reloads.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        bell.mark_unchanged();
        let Some(next) = until_stopped(&deps.stop, ask(shared, &terms, gitlab, &mut failures)).await else { return };
        pause = next;
    }
}

async fn ask(shared: &Arc<Shared>, Terms { class, token, poll }: &Terms, gitlab: &Arc<dyn GitLab>, failures: &mut u32) -> Pause {
    let (deps, config) = (&shared.deps, shared.deps.config.current());
    let arch = class.arch.or(deps.platform.facts().arch).unwrap_or(Arch::Amd64);
    let name = format!("{}-{}", config.service_name, config.host.name);
    let info = RunnerInfo { name, version: env!("CARGO_PKG_VERSION").to_owned(), arch };
    shared.intake.post(&class.name, |state| state.state = IntakeWord::Asking);
    let answer = gitlab.request_job(token, &info).await;
    let now = deps.clock.now();
    match answer {
        Ok(answer) => {
            *failures = 0;
            shared.intake.post(&class.name, |state| {
                (state.state, state.last_answer_at, state.error) = (IntakeWord::Waiting, Some(now), None);
            });
            let JobAnswer::Job(claimed) = answer else { return Pause::Poll(jittered(*poll, deps.clock.as_ref())) };
            take(shared, class, *claimed).await;
            // Claimed or queued by the next pass; only then is it known whether there is room for another.
            deps.handle.settle().await;
            Pause::None
        }
        Err(GitLabError::Conflict) => Pause::Backoff(CONFLICT),
        Err(error) => {
            *failures = failures.saturating_add(1);
            let (state, pause) = judge(&error, *failures, deps.clock.as_ref());
            warn!(class = %class.name, error = chain(&error), retry_in_seconds = pause.longest().as_secs(), "GitLab gave no work");
            let error = chain(&error);
            shared.intake.post(&class.name, |board| (board.state, board.error) = (state, Some(error)));
            pause
        }
    }
}

fn judge(error: &GitLabError, failures: u32, clock: &dyn Clock) -> (IntakeWord, Pause) {
    match error {
        GitLabError::TooMany { retry_after, .. } => (IntakeWord::Limited, Pause::Backoff((*retry_after).max(BACKOFF))),
        GitLabError::Denied { .. } => (IntakeWord::Denied, Pause::Backoff(DENIED)),
        GitLabError::Unreachable { .. }
        | GitLabError::Deadline { .. }
        | GitLabError::Conflict
        | GitLabError::Server { .. }
        | GitLabError::Protocol { .. } => {
            (IntakeWord::Failing, Pause::Trouble(jittered(doubled(BACKOFF, failures.saturating_sub(1), BACKOFF_MAX), clock)))
        }
    }
}

/// Up to a fifth more or less, so that many daemons do not ask in step.
pub(super) fn jittered(wait: Duration, clock: &dyn Clock) -> Duration {
    clock::jittered(wait, 200, clock.roll())
}

/// Waits until GitLab may be asked for the class again, and says meanwhile, now and then, that its runner is there.
async fn until_askable(status: &mut watch::Receiver<Arc<Status>>, class: &ClassName, token: &SecretString, gitlab: &dyn GitLab) {
    loop {
        let askable = status.wait_for(|status| status.askable.contains(class));
        // An error means that the manager is gone; `stop` comes next.
        if tokio::time::timeout(PRESENCE, askable).await.is_ok() {
            return;
        }
        if let Err(error) = gitlab.verify_runner(token).await {
            warn!(class = %class, error = chain(&error), "GitLab was not told that the class's runner is there");
        }
    }
}

/// Stores what GitLab gave away. Mostly it is ours from now on there, so a store that fails is tried until it takes it.
async fn take(shared: &Arc<Shared>, class: &Class, claimed: ClaimedJob) {
    let (deps, config) = (&shared.deps, shared.deps.config.current());
    let reference = claimed.job.reference.clone();
    let project = claimed.project.and_then(|project| ProjectName::parse("project", &project).ok());
    let mut requirement = class_requirement(class);
    requirement.start = match config.over_cap(project.as_ref(), &requirement) {
        // It will be refused, as an image that may not be had is.
        Some(_) => Start::Fresh,
        None => decide(class, &reference.keywords).start(),
    };
    let spec = JobSpec {
        source: Source::GitLab,
        project,
        requirement,
        timeout: claimed.timeout.unwrap_or(class.timeout).min(config.limits.max_timeout),
        priority: class.priority,
        retries: 0,
        work: Work::GitLab(reference.clone()),
    };
    let weight = config.weight_of(spec.project.as_ref());
    let new = NewJob {
        job: Job::new(JobId::generate(), spec, deps.clock.now()),
        gitlab: Some(claimed.job),
        idempotency: None,
        weight,
        // GitLab's own limits hold back its projects; a job that it already gave away must not be refused.
        queue_limit: u32::MAX,
        whole_queue_limit: u32::MAX,
    };
    let began = Instant::now();
    loop {
        match deps.store.submit(new.clone()).await {
            Ok(Submission::Created(job)) => {
                info!(job.id = %job.id, gitlab.job.id = reference.job_id, class = %class.name, "GitLab gave a job");
                return;
            }
            // It comes back while its record here, which GitLab had taken it from, still ends.
            Ok(Submission::Existing(job)) if was_taken_back(&job) && began.elapsed() < ITS_END => {}
            Ok(Submission::Existing(job)) => {
                info!(job.id = %job.id, gitlab.job.id = reference.job_id, "GitLab gave a job again that waits here");
                return;
            }
            Ok(Submission::KeyReused | Submission::QueueFull { .. } | Submission::WholeQueueFull { .. }) => return,
            Err(StoreError::Corrupt(detail)) => {
                warn!(gitlab.job.id = reference.job_id, detail, "a job of GitLab could not be stored");
                return;
            }
            Err(error) => warn!(gitlab.job.id = reference.job_id, error = chain(&error), "a job of GitLab could not be stored yet"),
        }
        tokio::select! {
            biased;
            () = deps.stop.cancelled() => return,
            () = tokio::time::sleep(STORE_RETRY) => {}
        }
    }
}

fn was_taken_back(job: &Job) -> bool {
    job.cancel.as_ref().is_some_and(|cancel| cancel.reason == EndReason::ReturnedToGitlab)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::broker::tests::fake::FakeGitLab;
    use crate::jobs::publish;

    #[tokio::test(start_paused = true)]
    async fn gitlab_hears_of_a_class_that_is_full_for_long_and_of_no_other() {
        let class = ClassName::from_trusted("docker");
        let (sender, mut status) = watch::channel(Arc::new(publish::of_nothing()));
        let (gitlab, token) = (FakeGitLab::default(), SecretString::from("glrt-class"));
        let free = async {
            tokio::time::sleep(2 * PRESENCE + Duration::from_secs(60)).await;
            sender.send_modify(|status| {
                Arc::make_mut(status).askable.insert(class.clone());
            });
        };
        tokio::join!(until_askable(&mut status, &class, &token, &gitlab), free);
        assert_eq!(gitlab.calls(), ["VERIFY", "VERIFY"]);
        until_askable(&mut status, &class, &token, &gitlab).await;
        assert_eq!(gitlab.calls().len(), 2, "who asks need not say that it is there");
    }
}
