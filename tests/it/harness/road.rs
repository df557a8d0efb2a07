//! A daemon that works for a GitLab: what the tests of that road share.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Daemon, RUNNER, Setup, engine};
use crate::gitlab::{GitLab, JobSpec, JobView};

/// Secret token of the webhook.
pub(crate) const HOOK_SECRET: &str = "hook-secret-of-the-road";
/// Token of the class `gitlab`, and of the stand-in's runner with the tag `docker`.
pub(crate) const CLASS_TOKEN: &str = "glrt-class-token-of-the-road";

/// What is particular about a road.
pub(crate) struct Plan<'a> {
    /// The daemon's `gitlab.poll_interval`.
    pub(crate) poll: &'a str,
    /// What else stands in `[gitlab.webhook]`.
    pub(crate) webhook: &'a str,
    /// The class's image.
    pub(crate) image: &'a str,
    /// The key by which the class has its token.
    pub(crate) token: &'a str,
    /// More keys of the class.
    pub(crate) class: &'a str,
}

impl Default for Plan<'_> {
    /// By the bell only, with the secret token and the stand-in runner.
    fn default() -> Self {
        Self {
            poll: "1h",
            webhook: "secret_token = \"hook-secret-of-the-road\"",
            image: RUNNER,
            token: "gitlab_token = \"glrt-class-token-of-the-road\"",
            class: "",
        }
    }
}

/// A GitLab that containers reach, and a daemon with one class for its jobs; many of them fit at once.
pub(crate) struct Road {
    pub(crate) gitlab: GitLab,
    pub(crate) daemon: Daemon,
}

impl Road {
    /// `poll` is the daemon's `gitlab.poll_interval`; `class` are more keys of the class.
    pub(crate) async fn start(name: &str, poll: &str, class: &str) -> Self {
        Self::build(Setup::new(name), Plan { poll, class, ..Plan::default() }).await
    }

    /// As planned. The first question, which every start asks, is over before a job is queued: what follows is the bell's or the poll's doing.
    pub(crate) async fn build(setup: Setup, plan: Plan<'_>) -> Self {
        let Plan { poll, webhook, image, token, class } = plan;
        let gitlab = GitLab::start(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await.expect("a GitLab");
        gitlab.add_runner(CLASS_TOKEN, &["docker"]);
        let url = gitlab.url();
        let daemon = setup
            .host("cpus = 2")
            .with(&format!("[gitlab]\nurl = {url:?}\npoll_interval = {poll:?}\n[gitlab.webhook]\n{webhook}"))
            .with(&format!("[[classes]]\nname = \"gitlab\"\nimage = {image:?}\npull = \"never\"\ncpus = 0.05\nmemory = \"192MiB\"\n{token}\n{class}"))
            .with("[[classes]]\nname = \"default\"\ncpus = 0.05\nmemory = \"64MiB\"")
            .start()
            .await;
        gitlab.set_hook(&format!("{}/webhook/job", daemon.url), Some(HOOK_SECRET));
        daemon.until("GitLab was asked", async |_| gitlab.count_requests("POST", "/jobs/request") > 0).await;
        Self { gitlab, daemon }
    }

    /// Waits until a job in GitLab is so, and shows everything when it does not get there.
    pub(crate) async fn reaches(&self, id: i64, within: Duration, so: impl Fn(&JobView) -> bool) -> JobView {
        self.gitlab.wait_for(id, within, so).await.unwrap_or_else(|error| panic!("{error}\n{}", self.daemon.log()))
    }

    /// Our record of a job of GitLab, if there is one.
    pub(crate) async fn find_record(&self, gitlab_id: i64) -> Option<Value> {
        find_record(&self.daemon, gitlab_id).await
    }

    /// Our record of a job of GitLab once it has ended.
    pub(crate) async fn ended(&self, gitlab_id: i64) -> Value {
        let record = self.find_record(gitlab_id).await.unwrap_or_else(|| panic!("no record of {gitlab_id}\n{}", self.daemon.log()));
        self.daemon.ended(record["id"].as_str().expect("an id")).await
    }

    /// The names of the daemon's containers.
    pub(crate) fn containers(&self) -> Vec<String> {
        engine::containers(&self.daemon.name)
    }
}

/// A job for the class.
pub(crate) fn job(name: &str) -> JobSpec {
    JobSpec::new(name).project("team/app", 282).tags(["docker"])
}

/// The daemon's latest record of a job of GitLab, if there is one.
pub(crate) async fn find_record(daemon: &Daemon, gitlab_id: i64) -> Option<Value> {
    records(daemon, gitlab_id).await.into_iter().next()
}

/// All of its records of the job, newest first: one for each time that GitLab offered it.
pub(crate) async fn records(daemon: &Daemon, gitlab_id: i64) -> Vec<Value> {
    let jobs = daemon.get("/jobs?limit=100").await;
    jobs["jobs"].as_array().expect("jobs").iter().filter(|job| job["gitlab"]["job_id"] == json!(gitlab_id)).cloned().collect()
}
