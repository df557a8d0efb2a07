//! `gitlab setup`, `gitlab teardown` and `check` as a person runs them: the real command, the stand-in GitLab, files on the disk.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use crate::gitlab::{Edition, GROUP, GitLab, JobSpec, PRIVATE_TOKEN, PROJECT, Status};
use crate::harness::{PATIENCE, RUNNER, Setup, engine};

const HOOK: &str = "http://127.0.0.1:9/webhook/job";
const TOKEN_FILE: &str = "gitlab-runner-gitlab";
const SIGNING_FILE: &str = "gitlab-webhook-signing-token";

/// A machine that is to be set up.
struct Machine {
    gitlab: GitLab,
    dir: TempDir,
}

/// How a command ended and what it said.
struct Said {
    good: bool,
    text: String,
}

impl Machine {
    async fn new() -> Self {
        let gitlab = GitLab::start(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).await.expect("a GitLab");
        let machine = Self { gitlab, dir: tempfile::tempdir().expect("a directory") };
        machine.configure("", "");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration: with more in the class that is GitLab's, and more tables.
    fn configure(&self, class: &str, rest: &str) {
        let text = format!(
            "data_dir = \"data\"\n[docker]\nhost = {:?}\n[host]\nname = \"box\"\n\
             [[classes]]\nname = \"gitlab\"\nimage = {RUNNER:?}\ntags = [\"docker\", \"amd64\"]\ncpus = 0.5\nmemory = \"512MiB\"\n{class}\n\
             [[classes]]\nname = \"plain\"\ncpus = 0.25\nmemory = \"64MiB\"\n{rest}\n",
            engine::host()
        );
        fs::write(self.path("config.toml"), text).expect("written");
    }

    /// As the set-up advises.
    fn configure_as_advised(&self) {
        let rest = format!("[gitlab]\nurl = {:?}\n[gitlab.webhook]\nsigning_token_file = {SIGNING_FILE:?}", self.gitlab.url());
        self.configure(&format!("gitlab_token_file = {TOKEN_FILE:?}"), &rest);
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_runner-coordinator"))
            .args(["--config".as_ref(), self.path("config.toml").as_os_str()])
            .args(arguments)
            .current_dir(self.dir.path())
            .env("GITLAB_TOKEN", PRIVATE_TOKEN)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the command runs");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains(PRIVATE_TOKEN) && !text.contains("glrt-") && !text.contains("whsec_"), "a secret is shown: {text}");
        Said { good: output.status.success(), text }
    }

    async fn setup(&self, more: &[&str]) -> Said {
        let target = ["gitlab", "setup", "--url", self.gitlab.url(), "--project", PROJECT.1];
        self.run(&[&target[..], more].concat()).await
    }

    async fn must(&self, more: &[&str], telling: &str) -> String {
        let said = self.setup(more).await;
        assert!(said.good && said.text.contains(telling), "not {telling:?}: {}", said.text);
        said.text
    }

    async fn teardown(&self, more: &[&str]) -> Said {
        let target = ["gitlab", "teardown", "--url", self.gitlab.url(), "--project", PROJECT.1];
        self.run(&[&target[..], more].concat()).await
    }

    async fn check(&self) -> Said {
        self.run(&["check", "--gitlab-project", PROJECT.1]).await
    }

    /// How often GitLab was told to change something.
    fn changes(&self) -> usize {
        let changing = |method: &str, path: &str| method != "GET" && !path.ends_with("/runners/verify");
        self.gitlab.requests().iter().filter(|request| changing(&request.method, &request.path)).count()
    }

    fn token(&self) -> String {
        fs::read_to_string(self.path(TOKEN_FILE)).expect("a token")
    }

    /// Names of the files that hold something of the set-up.
    fn secrets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("a directory").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.contains("gitlab-")).collect();
        names.sort();
        names
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_second_setup_changes_nothing_and_a_teardown_leaves_nothing() {
    let machine = Machine::new().await;
    let dry = machine.must(&["--hook-url", HOOK, "--dry-run"], "would class gitlab: make a runner with the tags amd64, docker").await;
    assert!(dry.contains("would webhook: make one") && machine.changes() == 0 && machine.secrets().is_empty(), "{dry}");

    let first = machine.must(&["--hook-url", HOOK], "gitlab_token_file = \"gitlab-runner-gitlab\"").await;
    assert!(first.contains("signing_token_file = \"gitlab-webhook-signing-token\"") && first.contains("url = "), "{first}");
    assert_eq!(machine.secrets(), [TOKEN_FILE, SIGNING_FILE]);
    assert!(machine.secrets().iter().all(|name| mode(&machine.path(name)) == 0o600));
    let made = machine.gitlab.made_runners();
    assert!(made.len() == 1 && made[0].1 == ["amd64", "docker"], "only the class with an image has a runner: {made:?}");

    let (changes, token) = (machine.changes(), machine.token());
    assert_eq!(changes, 2, "a runner and a webhook");
    machine.must(&["--hook-url", HOOK], "nothing to change").await;
    let told = machine.must(&[], "nothing to change").await;
    assert!(told.contains("Add to"), "what is not configured yet is told again: {told}");
    machine.configure_as_advised();
    let told = machine.must(&[], "nothing to change").await;
    assert!(!told.contains("Add to"), "{told}");
    assert_eq!((machine.changes(), machine.token()), (changes, token), "nothing was changed");

    let asked = machine.teardown(&[]).await;
    assert!(!asked.good && asked.text.contains("--yes") && machine.changes() == changes, "{}", asked.text);
    let gone = machine.teardown(&["--yes"]).await;
    assert!(gone.good && machine.gitlab.made_runners().is_empty() && machine.secrets().is_empty(), "{}", gone.text);
    let again = machine.teardown(&["--yes"]).await;
    assert!(again.good && again.text.contains("nothing to take away"), "{}", again.text);
}

#[tokio::test]
async fn what_differs_is_mended_and_only_that() {
    let machine = Machine::new().await;
    machine.must(&["--hook-url", HOOK], "done").await;
    machine.configure_as_advised();
    let id = machine.gitlab.made_runners()[0].0;
    let token = machine.token();
    machine.gitlab.pause_runner(id);
    machine.gitlab.set_runner_tags(id, &["other"]);
    let told = machine.must(&[], "its tags differ, it is paused").await;
    assert!(!told.contains("new token") && !told.contains("webhook:") && machine.token() == token, "{told}");
    machine.must(&[], "nothing to change").await;

    machine.gitlab.set_hook_field(1, "job_events", &json!(false));
    machine.must(&[], "Job events are off").await;
    machine.must(&[], "nothing to change").await;

    fs::remove_file(machine.path(TOKEN_FILE)).expect("removed");
    machine.must(&[], "because its token is lost").await;
    assert_ne!(machine.token(), token);
    machine.must(&[], "nothing to change").await;
    fs::write(machine.path(TOKEN_FILE), "glrt-wrong\n").expect("written");
    machine.must(&[], "because GitLab refuses the token that we hold").await;
    machine.must(&[], "nothing to change").await;

    let secret = fs::read_to_string(machine.path(SIGNING_FILE)).expect("a secret");
    fs::remove_file(machine.path(SIGNING_FILE)).expect("removed");
    machine.must(&[], "its token is lost").await;
    assert_ne!(fs::read_to_string(machine.path(SIGNING_FILE)).expect("a secret"), secret);
    machine.must(&[], "nothing to change").await;

    machine.gitlab.remove_runner(id);
    machine.must(&[], "make a runner").await;
    machine.must(&[], "nothing to change").await;
    assert_eq!(machine.gitlab.made_runners().len(), 1);
}

#[tokio::test]
async fn a_setup_that_is_cut_off_can_be_repeated() {
    let machine = Machine::new().await;
    machine.gitlab.fail_next(axum::http::Method::POST, "/hooks", axum::http::StatusCode::INTERNAL_SERVER_ERROR, 1);
    assert!(!machine.setup(&["--hook-url", HOOK]).await.good);
    machine.must(&["--hook-url", HOOK], "webhook: make one").await;
    assert_eq!((machine.gitlab.made_runners().len(), machine.secrets().len()), (1, 2), "{:?}", machine.secrets());
    machine.must(&[], "nothing to change").await;

    let other = Machine::new().await;
    fs::create_dir(other.path(TOKEN_FILE)).expect("in the token's place");
    let said = other.setup(&["--no-hook"]).await;
    assert!(!said.good && said.text.contains("is deleted again"), "{}", said.text);
    assert!(other.gitlab.made_runners().is_empty(), "no runner without a token is left");
    assert_eq!(other.secrets(), [TOKEN_FILE], "and no token beside its place");
}

#[tokio::test]
async fn other_gitlabs_and_other_rights_are_told_in_words() {
    let old = Machine::new().await;
    old.gitlab.edition(Edition::Old);
    old.must(&["--hook-url", HOOK], "cannot sign webhooks").await;
    assert_eq!(old.secrets(), [TOKEN_FILE, "gitlab-webhook-secret-token"]);
    old.must(&["--hook-url", HOOK], "nothing to change").await;

    let free = Machine::new().await;
    free.gitlab.edition(Edition::Free);
    let said = free.run(&["gitlab", "setup", "--url", free.gitlab.url(), "--group", GROUP.1]).await;
    assert!(said.good && said.text.contains("need a paid tier"), "{}", said.text);
    assert_eq!(free.gitlab.made_runners().len(), 1, "the runner is made all the same");

    let private = Machine::new().await;
    private.gitlab.edition(Edition::NoPrivateAddresses);
    let said = private.setup(&["--hook-url", HOOK]).await;
    assert!(!said.good && said.text.contains("Outbound requests"), "{}", said.text);

    let said = private.run(&["gitlab", "setup", "--url", private.gitlab.url(), "--project", "team/none"]).await;
    assert!(!said.good && said.text.contains("knows nothing of what it was to show the project"), "{}", said.text);
    fs::write(private.path("pat"), "glpat-wrong\n").expect("written");
    fs::set_permissions(private.path("pat"), fs::Permissions::from_mode(0o600)).expect("closed");
    let said = private.setup(&["--token-file", private.path("pat").to_str().expect("a path")]).await;
    assert!(!said.good && said.text.contains("does not take the administrator's token"), "{}", said.text);
}

#[tokio::test]
async fn the_printed_configuration_runs_a_job_at_a_signed_event() {
    let machine = Machine::new().await;
    let gitlab = &machine.gitlab;
    let away = machine.path("secrets");
    fs::create_dir(&away).expect("made");
    let place = ["--secrets-dir", away.to_str().expect("a path")];
    let said = machine.must(&[&place[..], &["--hook-url", HOOK]].concat(), "Add to").await;
    let line = |key: &str| said.lines().find(|line| line.starts_with(key)).expect("a line to add").to_owned();
    let daemon = Setup::new("setup-road")
        .with(&format!("[gitlab]\n{}\npoll_interval = \"1h\"\n[gitlab.webhook]\n{}", line("url = "), line("signing_token_file = ")))
        .with(&format!(
            "[[classes]]\nname = \"gitlab\"\nimage = {RUNNER:?}\npull = \"never\"\ncpus = 0.5\nmemory = \"512MiB\"\n{}",
            line("gitlab_token_file = ")
        ))
        .start()
        .await;
    machine.must(&[&place[..], &["--hook-url", &format!("{}/webhook/job", daemon.url)]].concat(), "its address differs").await;
    daemon.until("GitLab was asked", async |_| gitlab.count_requests("POST", "/jobs/request") > 0).await;
    let id = gitlab.enqueue(JobSpec::new("build").project(PROJECT.1, PROJECT.0).tags(["docker"]).script(["echo set up"]));
    let delivery = gitlab.send_job_event(id).await;
    assert_eq!(delivery.status, Some(200), "{delivery:?}");
    let done = gitlab.wait_for(id, PATIENCE, |job| job.status.is_final()).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert!(done.status == Status::Success && done.trace.contains("set up"), "{done:?}");
    let kept: Vec<String> = fs::read_dir(&away).expect("a directory").flatten().map(|e| fs::read_to_string(e.path()).expect("text")).collect();
    assert!(kept.len() == 2 && kept.iter().all(|text| !text.contains(PRIVATE_TOKEN)), "the administrator's token is kept nowhere");
    daemon.finish().await;
}

#[tokio::test]
async fn check_tells_each_fault_with_what_to_do() {
    let machine = Machine::new().await;
    let gitlab = &machine.gitlab;
    machine.must(&["--hook-url", HOOK], "done").await;
    machine.configure_as_advised();
    let tells = async |what: &str| {
        let said = machine.check().await;
        assert!(!said.good && said.text.contains(what), "not {what:?}: {}", said.text);
    };
    let fine = machine.check().await;
    assert!(fine.good && fine.text.contains("takes jobs in GitLab") && fine.text.contains("sends Job events"), "{}", fine.text);
    assert!(fine.text.contains("clock: as GitLab's"), "{}", fine.text);

    let id = gitlab.made_runners()[0].0;
    gitlab.enqueue(JobSpec::new("train").project(PROJECT.1, PROJECT.0).tags(["gpu"]));
    let said = machine.check().await;
    assert!(said.good && said.text.contains("with the tags gpu, which no class here has together"), "{}", said.text);
    gitlab.pause_runner(id);
    tells("is paused in GitLab").await;
    machine.must(&[], "it is paused").await;

    gitlab.set_hook_field(1, "job_events", &json!(false));
    tells("Job events are off").await;
    gitlab.set_hook_field(1, "job_events", &json!(true));
    gitlab.set_hook_field(1, "alert_status", &json!("disabled"));
    tells("disabled it for good").await;
    gitlab.set_hook_field(1, "alert_status", &json!("executable"));
    gitlab.note_lost_event("URL is blocked: Requests to the local network are not allowed");
    tells("Outbound requests").await;

    let daemon = Setup::new("setup-check").with(&format!("[gitlab]\nurl = {:?}\nwebhook.secret_token = \"another\"", gitlab.url())).start().await;
    machine.must(&["--hook-url", &format!("{}/webhook/job", daemon.url)], "its address differs").await;
    let job = gitlab.enqueue(JobSpec::new("x").project(PROJECT.1, PROJECT.0).tags(["docker"]));
    assert_eq!(gitlab.send_job_event(job).await.status, Some(401));
    tells("answered 401").await;
    daemon.finish().await;

    gitlab.delete_hook(1);
    tells("GitLab has none").await;
}
