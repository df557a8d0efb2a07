//! Compares what is here with what GitLab says, at every start and now and then, and mends what differs.
//!
//! ```text
//!  here                     GitLab says                   mended by
//!  waits, starts            ended, given away             ending it here (upkeep's own question)
//!  runs, its runner silent  cancelled, ended, given away  ending it here, container and all
//!  ended, or never arrived  runs here                     telling people: nobody has its token any more
//! ```
//!
//! Everything else is mended elsewhere: a row without a container and a container without a row by each pass of the manager, a job whose
//! runner talks by the broker, which hears GitLab's word with every call. So a runner that talks is not asked about.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::broker::Standing;
use super::deps::Shared;
use super::handle::EngineState;
use super::intake::jittered;
use super::queue_there::{self, Stranded, is_everybodys};
use super::upkeep;
use crate::config::{Config, GitLab};
use crate::domain::clock::has_passed;
use crate::domain::{ClassName, EndReason, Job, JobId, JobState, RunnerId, Step, Work, chain};
use crate::gitlab::{GitLabError, ListedJob, Listing};
use crate::store::StoreError;

/// A runner that was heard of more recently has told GitLab itself that its job runs, and has heard how it stands there. Runners
/// speak every 30 s at the latest.
const TALKS: Duration = Duration::from_secs(60);

/// A job that runs here and whose runner is silent, with GitLab's word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ours {
    job: JobId,
    runner: RunnerId,
    standing: Standing,
}

/// A job that GitLab believes to be running here, with what we have of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Theirs {
    gitlab_id: u64,
    class: ClassName,
    url: Option<String>,
    here: Here,
}

/// What we have of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Here {
    /// Nothing.
    Never,
    /// A job that has not ended.
    Open,
    /// A job that has.
    Ended(JobId),
}

/// How a difference is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mend {
    /// The job ends here; while it is being cancelled there, what it does at its end may still be done.
    Cancel(JobId, EndReason),
    /// Its runner need not be waited for: GitLab takes nothing of the job any more.
    Stop(RunnerId),
    /// It may only be on its way: to our store, or out of GitLab's list. Looked at again next time.
    Suspect(u64),
    /// It was so last time too.
    Strand(Stranded),
}

/// Finds the differences. `suspects` are those of the last time.
fn compare(ours: &[Ours], theirs: &[Theirs], suspects: &BTreeSet<u64>) -> Vec<Mend> {
    let ended = ours.iter().flat_map(|Ours { job, runner, standing }| {
        let cancel = |reason| Some(Mend::Cancel(job.clone(), reason));
        let mends = match standing {
            Standing::Canceling => [cancel(EndReason::CanceledInGitlab), None],
            Standing::Ended => [cancel(EndReason::CanceledInGitlab), Some(Mend::Stop(runner.clone()))],
            Standing::Lapsed => [cancel(EndReason::ReturnedToGitlab), None],
            Standing::Runs | Standing::Unclear | Standing::NotReachable => [None, None],
        };
        mends.into_iter().flatten()
    });
    // Two classes may share a runner, whose jobs are then listed twice.
    let mut told = BTreeSet::new();
    let stranded = theirs.iter().filter(|theirs| theirs.here != Here::Open && told.insert(theirs.gitlab_id)).flat_map(|theirs| {
        let Theirs { gitlab_id, class, url, here } = theirs.clone();
        let job = match here {
            Here::Ended(job) => Some(job),
            Here::Never | Here::Open => None,
        };
        let strand = suspects.contains(&gitlab_id).then_some(Mend::Strand(Stranded { gitlab_id, class, url, job }));
        [Some(Mend::Suspect(gitlab_id)), strand].into_iter().flatten()
    });
    ended.chain(stranded).collect()
}

/// Goes its rounds until told to stop.
pub(super) async fn run(shared: &Arc<Shared>) {
    if shared.deps.gitlab.is_none() {
        return;
    }
    let rounds = async {
        let mut status = shared.deps.handle.status.clone();
        // Before the first view of the engine nobody knows what runs here. It only ends when the manager has.
        if status.wait_for(|status| matches!(status.engine, EngineState::Up { .. })).await.is_err() {
            return;
        }
        let mut suspects = BTreeSet::new();
        loop {
            let config = shared.deps.config.current();
            let Some(settings) = &config.gitlab else { return };
            let wait = round(shared, &config, &mut suspects).await.unwrap_or_else(|error| {
                warn!(error = chain(&error), "what is here could not be compared with what GitLab says");
                Duration::ZERO
            });
            tokio::time::sleep(jittered(settings.repair_interval, shared.deps.clock.as_ref()).max(wait)).await;
        }
    };
    // A round that is broken off is begun anew by the next start.
    let _ = shared.deps.stop.run_until_cancelled(rounds).await;
}

/// One round; answers how long GitLab wants to be left alone at least.
async fn round(shared: &Shared, config: &Config, suspects: &mut BTreeSet<u64>) -> Result<Duration, StoreError> {
    upkeep::keep_alive(shared).await?;
    let ours = silent(shared).await?;
    let Some(listing) = shared.deps.listing.as_deref() else {
        mend(shared, compare(&ours, &[], suspects)).await?;
        return Ok(Duration::ZERO);
    };
    let theirs = match running_there(shared, config, listing).await? {
        Ok(theirs) => theirs,
        Err(error) => {
            let text = chain(&error);
            let before = shared.queue_there.read().and_then(|all| all.error.clone());
            if before.as_ref() != Some(&text) {
                warn!(error = text, "GitLab does not say which jobs it believes to be running here");
            }
            shared.queue_there.post(|all| all.error = Some(text));
            // What is stranded stays so until GitLab says otherwise.
            mend(shared, compare(&ours, &[], suspects)).await?;
            if is_everybodys(&error) {
                return Ok(error.retry_after().unwrap_or_default());
            }
            return Ok(queue_there::look(shared, listing, config).await.err().unwrap_or_default());
        }
    };
    let mends = compare(&ours, &theirs, suspects);
    *suspects = mends.iter().filter_map(|mend| if let Mend::Suspect(id) = mend { Some(*id) } else { None }).collect();
    let stranded = mend(shared, mends).await?;
    shared.queue_there.post(|all| (all.stranded, all.error) = (stranded, None));
    Ok(queue_there::look(shared, listing, config).await.err().unwrap_or_default())
}

/// Carries out; answers what cannot be mended.
async fn mend(shared: &Shared, mends: Vec<Mend>) -> Result<Vec<Stranded>, StoreError> {
    let deps = &shared.deps;
    let mut stranded = Vec::new();
    for mend in mends {
        match mend {
            Mend::Cancel(job, reason) => {
                info!(job.id = %job, %reason, "GitLab has no more use for a job that runs here; it is ended");
                deps.store.cancel_job(&job, reason, deps.clock.now()).await?;
                deps.handle.nudge();
            }
            Mend::Stop(runner) => {
                let step = Step::StopOrdered { reason: EndReason::CanceledInGitlab };
                match deps.store.apply(&runner, step, deps.clock.now()).await {
                    // It ended by itself meanwhile.
                    Ok(_) | Err(StoreError::Refused(_) | StoreError::UnknownRunner(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Mend::Suspect(_) => {}
            Mend::Strand(strand) => {
                let known = shared.queue_there.read().is_some_and(|all| all.stranded.iter().any(|other| other.gitlab_id == strand.gitlab_id));
                if !known {
                    let (id, class, url) = (strand.gitlab_id, &strand.class, strand.url.as_deref().unwrap_or("its page"));
                    error!(gitlab.job.id = id, %class, url, "GitLab believes job {id} to be running here, and it is not: cancel or retry it in GitLab");
                }
                stranded.push(strand);
            }
        }
    }
    Ok(stranded)
}

/// The jobs that run here and whose runner is silent, with GitLab's word. Ends early when GitLab does not answer.
async fn silent(shared: &Shared) -> Result<Vec<Ours>, StoreError> {
    let deps = &shared.deps;
    let mut ours = Vec::new();
    for aggregate in deps.store.open_runners(&deps.config.current().host.name).await? {
        let Some(job) = &aggregate.job else { continue };
        let heard = deps.vitals.of(&aggregate.runner.id).last_contact_at;
        let talks = heard.is_some_and(|heard| !has_passed(heard, TALKS, deps.clock.now()));
        if talks || job.cancel.is_some() || !job.has_open_attempt() || !matches!(job.state, JobState::Running) {
            continue;
        }
        let Work::GitLab(reference) = &job.spec.work else { continue };
        let standing = match (deps.broker.standing(job).await, deps.listing.as_deref(), reference.project_id) {
            (Standing::Unclear, Some(listing), Some(project)) => listed_standing(listing, project, reference.job_id, job).await,
            (standing, _, _) => standing,
        };
        if standing == Standing::NotReachable {
            break;
        }
        ours.push(Ours { job: job.id.clone(), runner: aggregate.runner.id.clone(), standing });
    }
    Ok(ours)
}

/// How a job stands by the list, which says more than the refusal of a job's token.
async fn listed_standing(listing: &dyn Listing, project: u64, gitlab_id: u64, job: &Job) -> Standing {
    match listing.job(project, gitlab_id).await {
        Ok(Some(listed)) => standing_of(&listed.status),
        Ok(None) => Standing::Unclear,
        Err(error) => {
            warn!(job.id = %job.id, error = chain(&error), "GitLab does not say how a job stands");
            Standing::Unclear
        }
    }
}

fn standing_of(status: &str) -> Standing {
    match status {
        "canceled" | "failed" | "success" => Standing::Ended,
        "canceling" => Standing::Canceling,
        "running" => Standing::Runs,
        _ => Standing::Unclear,
    }
}

/// The jobs that GitLab believes to be running here, by every class.
async fn running_there(shared: &Shared, config: &Config, listing: &dyn Listing) -> Result<Result<Vec<Theirs>, GitLabError>, StoreError> {
    let mut theirs = Vec::new();
    let Some(settings) = &config.gitlab else { return Ok(Ok(theirs)) };
    for class in &config.classes {
        let Some(token) = &class.gitlab_token else { continue };
        let listed = match listing.running(token).await {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        for job in listed.jobs {
            let here = here(shared, settings, job.id).await?;
            if here != Here::Open && !is_ours(listing, &job).await {
                continue;
            }
            theirs.push(Theirs { gitlab_id: job.id, class: class.name.clone(), url: job.web_url, here });
        }
    }
    Ok(Ok(theirs))
}

async fn here(shared: &Shared, settings: &GitLab, gitlab_id: u64) -> Result<Here, StoreError> {
    let store = &shared.deps.store;
    let Some(id) = store.jobs_of_gitlab(&settings.url, gitlab_id).await?.into_iter().next() else { return Ok(Here::Never) };
    Ok(match store.job(&id).await? {
        Some(job) if job.has_ended() => Here::Ended(id),
        Some(_) => Here::Open,
        None => Here::Never,
    })
}

/// Whether a job that is none of our open ones may be ours at all: older servers list the jobs of every machine with the same runner token, and
/// only the job itself then names the machine. Without a clear word nothing is said.
async fn is_ours(listing: &dyn Listing, job: &ListedJob) -> bool {
    if job.runner_manager.is_some() {
        return true;
    }
    let Some(project) = job.project_id() else { return true };
    matches!(listing.job(project, job.id).await, Ok(Some(job)) if job.status == "running")
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
