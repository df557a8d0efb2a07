//! A GitLab whose jobs the daemons run beside those of their API, and the road to it, which is cut now and then.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::gitlab::{GitLab, JobSpec, JobView, Outage, Status};
use crate::marks::{Life, REACHED, Witness};
use crate::rng::Rng;
use crate::tally::Wrong;
use crate::work::{Kind, Own};

/// The image in which GitLab's jobs run.
pub(crate) const RUNNER: &str = "rc-test/runner:1";
/// The reasons of failures that are not the job's own: what we tell, and what a runner tells that was told to end.
const NOT_ITS_OWN: [&str; 2] = ["runner_system_failure", "runner_interrupted"];

/// A job that was queued in GitLab.
#[derive(Debug, Clone)]
struct Queued {
    id: i64,
    kind: Kind,
    /// Its end was asked for.
    cancelled: bool,
}

/// The GitLab, and what it was asked to have done.
#[derive(Clone)]
pub(crate) struct Forge {
    gitlab: GitLab,
    queued: Arc<Mutex<Vec<Queued>>>,
}

impl std::fmt::Debug for Forge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forge").field("url", &self.gitlab.url()).finish_non_exhaustive()
    }
}

impl Forge {
    /// One that takes back what a daemon died with before it had confirmed it.
    pub(crate) async fn start() -> Self {
        let gitlab = GitLab::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("a GitLab");
        gitlab.two_phase(true);
        Self { gitlab, queued: Arc::default() }
    }

    /// Makes a runner entity for a daemon: what it is configured with.
    pub(crate) fn settings(&self, daemon: usize) -> String {
        let token = format!("glrt-class-of-daemon-{daemon}");
        self.gitlab.add_runner(&token, &[&tag(daemon)]);
        format!(
            "[gitlab]\nurl = {:?}\npoll_interval = \"1s\"\n\
             [[classes]]\nname = \"gitlab\"\nimage = {RUNNER:?}\npull = \"never\"\ncpus = 0.2\nmemory = \"192MiB\"\ngitlab_token = {token:?}\n{REACHED}",
            self.gitlab.url()
        )
    }

    /// Queues a job for a daemon.
    pub(crate) fn queue(&self, daemon: usize, kind: Kind) -> i64 {
        let script = kind.script(daemon, "gitlab-$CI_JOB_ID");
        let job = JobSpec::new("chaos").tags([tag(daemon).as_str()]).script([script.as_str()]).timeout(Duration::from_secs(90));
        let id = self.gitlab.enqueue(job);
        self.lock().push(Queued { id, kind, cancelled: false });
        id
    }

    /// Cancels a job, unless it has ended.
    pub(crate) fn cancel(&self, id: i64) {
        if let Some(job) = self.lock().iter_mut().find(|job| job.id == id) {
            job.cancelled = true;
        }
        self.gitlab.cancel(id);
    }

    /// The road to it is cut for a while, or worse; what was done, in words.
    pub(crate) async fn cut(&self, rng: &mut Rng) -> String {
        let retry_after = Some(Duration::from_secs(rng.between(1, 3)));
        let outages = [Outage::Fails, Outage::TooMany(retry_after), Outage::Silent, Outage::HalfHead, Outage::HalfBody, Outage::LostAnswer];
        let outage = *rng.pick(&outages).expect("one of several");
        let lasting = rng.millis(300, 5000);
        self.gitlab.begin_outage(outage);
        tokio::time::sleep(lasting).await;
        let met = self.gitlab.end_outage().len();
        format!("GitLab: {outage:?} for {lasting:?}, met by {met} calls")
    }

    /// From here on all is well; what nobody will confirm is offered again, as it is in GitLab after some minutes.
    pub(crate) fn restore(&self) {
        self.gitlab.end_outage();
        self.gitlab.lapse_unconfirmed();
    }

    /// Whether every job has ended.
    pub(crate) fn all_have_ended(&self) -> bool {
        self.lock().iter().all(|job| self.gitlab.job(job.id).status.is_final())
    }

    /// What became of the jobs that were queued since this was asked last, in words where it must not be.
    pub(crate) fn judge(&self, witness: &Witness, harm: Harm) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for job in std::mem::take(&mut *self.lock()) {
            let (view, name) = (self.gitlab.job(job.id), format!("gitlab-{}", job.id));
            let lives = witness.lives(&name);
            witness.is_over(&name);
            verdicts.queued += 1;
            verdicts.spoilt += u64::from(view.failure_reason.as_deref().is_some_and(|reason| NOT_ITS_OWN.contains(&reason)));
            match fault(&job, &view, &lives, harm) {
                Some((wrong, words)) => verdicts.wrong.push((wrong, format!("job {} of GitLab: {words}\n{job:?} {lives:#?}\n{view:#?}", job.id))),
                None => verdicts.finished_once += 1,
            }
        }
        verdicts
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Queued>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether jobs, or what holds them, were struck, so that any of them may have failed without having done anything wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    None,
    Done,
}

/// What was found of GitLab's jobs.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    pub(crate) queued: u64,
    pub(crate) finished_once: u64,
    /// Failures that were not the job's own.
    pub(crate) spoilt: u64,
    pub(crate) wrong: Vec<(Wrong, String)>,
}

fn tag(daemon: usize) -> String {
    format!("daemon-{daemon}")
}

/// What a daemon was killed under while it started goes back to GitLab, once.
fn failed_to_start_twice(view: &JobView) -> bool {
    view.n_assigned > 1 && view.trace.contains("the container could not be started")
}

fn fault(job: &Queued, view: &JobView, lives: &[Life], harm: Harm) -> Option<(Wrong, String)> {
    if !view.status.is_final() {
        return Some((Wrong::Lost, format!("it has not ended: {:?}", view.status)));
    }
    if lives.len() > 1 {
        return Some((Wrong::Doubled, format!("it ran {} times", lives.len())));
    }
    let whole = lives.first().is_some_and(|life| life.ended.is_some());
    let right = match (view.status, view.failure_reason.as_deref()) {
        (Status::Success, _) => whole && job.kind.own() == Own::Success,
        (Status::Canceled, _) => job.cancelled,
        (Status::Failed, Some(reason)) if NOT_ITS_OWN.contains(&reason) => {
            harm == Harm::Done || job.cancelled || failed_to_start_twice(view) && lives.is_empty()
        }
        (Status::Failed, _) => whole && view.exit_code.is_some_and(|code| job.kind.own() == Own::Code(code)),
        _ => false,
    };
    if !right {
        return Some((Wrong::Outcome, format!("it ended so: {:?} {:?} {:?}", view.status, view.failure_reason, view.exit_code)));
    }
    let Kind::Prints(due) = job.kind else { return None };
    let numbers: Vec<u64> = view.trace.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    let lost = view.status == Status::Success && !numbers.iter().copied().eq(1..=due);
    lost.then(|| (Wrong::Log, format!("of {due} lines its trace has {}", numbers.len())))
}
