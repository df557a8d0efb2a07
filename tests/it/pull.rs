//! Images that come from a registry: a real one, with a real password, on this machine.
//!
//! Each test has its own, as a process of its own on a port of its own. The engine speaks plain HTTP to it because it is on loopback.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup, client, engine, free_port, pause};

const USER: &str = "puller";
pub(crate) const PASSWORD: &str = "open-sesame-7Qk";
/// bcrypt at its lowest cost, by crypt(3).
const HTPASSWD: &str = "puller:$2b$04$PullsImagesForTheTes..ky24jvEQokNWeYRxS.LiCg.P//6qYLK\n";
/// Two attempts, the second soon after the first.
const ONE_RETRY: &str = "[limits]\ninfrastructure_retries = 1\nretry_backoff = \"100ms\"";

/// A registry, the directory it keeps images in, and what of it is in the engine.
pub(crate) struct Registry {
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl Registry {
    /// One that does not run.
    fn down() -> Self {
        let (port, dir) = (free_port(), TempDir::with_prefix("rc-registry-").expect("a directory"));
        let path = dir.path().display();
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {path}/images }} }}\nhttp: {{ addr: \"127.0.0.1:{port}\" }}\n\
             auth: {{ htpasswd: {{ realm: tests, path: {path}/htpasswd }} }}\n"
        );
        std::fs::write(dir.path().join("config.yml"), config).expect("a configuration");
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("users");
        Self { port, dir, child: None }
    }

    /// One that answers.
    pub(crate) async fn up() -> Self {
        let mut registry = Self::down();
        registry.start().await;
        registry
    }

    async fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(self.dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("docker-registry, of the package of this name");
        self.child = Some(child);
        let (client, url, deadline) = (client(), format!("http://{}/v2/", self.server()), Instant::now() + PATIENCE);
        loop {
            let status = client.get(&url).send().await.map(|answer| answer.status());
            if status.as_ref().is_ok_and(|status| *status == StatusCode::UNAUTHORIZED) {
                return;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a process"));
            assert!(ended.is_none() && Instant::now() < deadline, "the registry does not ask who we are ({status:?}):\n{}", self.log());
            pause().await;
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn server(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn image(&self) -> String {
        format!("{}/team/busybox:1", self.server())
    }

    /// Puts an image into it that the engine then no longer has, nor any layer of it. Answers its digest.
    fn push(&self) -> String {
        let digest = self.push_as(&self.image());
        assert_eq!(self.images(), "", "the engine must have to fetch it");
        digest
    }

    /// The same under a name of this registry.
    pub(crate) fn push_as(&self, image: &str) -> String {
        let (archive, config) = (format!("{}/root.tar", self.dir.path().display()), self.logged_in());
        let container = engine::docker(&["create", BUSYBOX, "true"]);
        engine::docker(&["export", "--output", &archive, container.trim()]);
        engine::docker(&["rm", container.trim()]);
        engine::docker(&["import", &archive, image]);
        let said = engine::docker(&["--config", &config, "push", image]);
        engine::docker(&["image", "rm", image]);
        let digest = said.lines().find_map(|line| line.split_once("digest: ")?.1.split(' ').next().map(str::to_owned));
        digest.unwrap_or_else(|| panic!("no digest is in:\n{said}"))
    }

    /// Has the engine fetch an image, as somebody else on its machine would.
    pub(crate) fn fetch(&self, image: &str) {
        engine::docker(&["--config", &self.logged_in(), "pull", image]);
    }

    /// The directory with the `docker` command's login.
    fn logged_in(&self) -> String {
        let config = format!("{}/docker", self.dir.path().display());
        engine::docker(&["--config", &config, "login", "--username", USER, "--password", PASSWORD, &self.server()]);
        config
    }

    /// Gives the engine an image for another architecture under the name of the one that is here.
    fn confuse(&self) {
        engine::docker(&["tag", crate::emulation::IMAGE, &self.image()]);
    }

    /// What the engine has from here.
    fn images(&self) -> String {
        engine::docker(&["images", "--all", "--digests", "--quiet", "--filter", &format!("reference={}/*/*", self.server())])
    }

    /// The configuration of a daemon that logs in here.
    pub(crate) fn login(&self, password: &str) -> String {
        let file = self.dir.path().join("password");
        std::fs::write(&file, password).expect("a password");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        format!("[[docker.registries]]\nserver = \"{}\"\nusername = \"{USER}\"\npassword_file = \"{}\"\n", self.server(), file.display())
    }

    /// A job that runs from here.
    fn job(&self) -> Value {
        json!({ "image": self.image(), "command": ["echo", "fetched"] })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
        // Not by `engine::docker`: a second panic would end all tests. After most tests there is nothing to remove.
        let _ = Command::new("docker").args(["image", "rm", "--force", &self.image()]).env("DOCKER_HOST", engine::host()).output();
    }
}

/// The events of a job that are of this kind.
async fn events(daemon: &Daemon, id: &str, kind: &str) -> Vec<Value> {
    let events = daemon.get(&format!("/jobs/{id}/events")).await;
    events["events"].as_array().expect("events").iter().filter(|event| event["kind"] == kind).cloned().collect()
}

/// That it ended for want of its image, after so many attempts, and says which.
fn assert_unavailable(job: &Value, attempts: u32, image: &str) {
    assert_eq!((&job["state"], &job["reason"], &job["attempt"]), (&json!("failed"), &json!("image_unavailable"), &json!(attempts)), "{job}");
    assert!(job["detail"].as_str().is_some_and(|detail| detail.contains(image)), "the detail names the image: {job}");
}

#[tokio::test]
async fn an_image_is_fetched_with_the_configured_login_and_only_once() {
    let registry = Registry::up().await;
    let digest = registry.push();
    // The login comes with a reload, and is used at once.
    let daemon = Setup::new("pull-once").start().await;
    daemon.reload(&format!("{}\n{}", daemon.configuration(), registry.login(PASSWORD)));
    daemon.until("the login is there", async |daemon| daemon.log().contains("configuration reloaded: changed docker.registries[")).await;
    let id = daemon.submit(registry.job()).await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)), "{job}\n{}", registry.log());
    assert_eq!(daemon.logs(&id).await, "fetched\n");

    let pulls = events(&daemon, &id, "image_pull").await;
    assert!(!pulls.is_empty() && pulls.iter().all(|event| event["progress"].as_str().is_some_and(|words| !words.is_empty())), "{pulls:?}");
    let ready = events(&daemon, &id, "image_ready").await;
    assert!(ready.len() == 1 && ready[0]["digest"].as_str().is_some_and(|ready| ready.ends_with(&digest)), "{digest} was pushed: {ready:?}");

    let end = format!("job {id} succeeded");
    let log = daemon.log();
    let end = log.lines().find(|line| line.contains(&end)).unwrap_or_else(|| panic!("no end of {id}:\n{log}"));
    assert!(end.contains("image.digest=") && end.contains(&digest), "{end}");

    assert_ne!(registry.images(), "", "it stays");
    let id = daemon.submit(registry.job()).await;
    let job = daemon.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(events(&daemon, &id, "image_pull").await, Vec::<Value>::new(), "it is there already");
    daemon.finish().await;
}

#[tokio::test]
async fn an_image_for_another_architecture_under_the_same_name_is_fetched_again() {
    let registry = Registry::up().await;
    registry.push();
    registry.confuse();
    let daemon = Setup::new("pull-arch").with(&registry.login(PASSWORD)).start().await;
    let id = daemon.submit(registry.job()).await;
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)), "{job}\n{}", registry.log());
    assert_eq!(daemon.logs(&id).await, "fetched\n");
    daemon.finish().await;
}

#[tokio::test]
async fn a_registry_that_refuses_ends_the_job_and_no_password_is_told() {
    let registry = Registry::up().await;
    registry.push();
    let wrong = "not-the-password-5Zw";
    for (name, login) in [("pull-wrong", registry.login(wrong)), ("pull-nobody", String::new())] {
        let daemon = Setup::new(name).with(ONE_RETRY).with(&login).start().await;
        let id = daemon.submit(registry.job()).await;
        let job = daemon.ended(&id).await;
        assert_unavailable(&job, 1, &registry.image());
        let history = daemon.get(&format!("/jobs/{id}/events")).await.to_string();
        assert!(!history.contains("image_ready") && !history.contains("retry_scheduled"), "{history}");
        let told = [job.to_string(), history, daemon.logs(&id).await, daemon.get("/status").await.to_string(), daemon.log()].concat();
        for secret in [wrong, &base64(wrong), &base64(&format!("{USER}:{wrong}"))] {
            assert!(!told.contains(secret), "{secret} is in:\n{told}");
        }
        daemon.finish().await;
    }
    // Otherwise nothing was shown: the password must have been sent.
    assert!(registry.log().contains(&format!("error authenticating user \\\"{USER}\\\"")), "{}", registry.log());
    assert_eq!(registry.images(), "");
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(text)
}

#[tokio::test]
async fn a_registry_that_is_down_costs_all_attempts() {
    let registry = Registry::down();
    let daemon = Setup::new("pull-down").with(ONE_RETRY).with(&registry.login(PASSWORD)).start().await;
    let id = daemon.submit(registry.job()).await;
    let job = daemon.ended(&id).await;
    assert_unavailable(&job, 2, &registry.image());
    assert_eq!(events(&daemon, &id, "retry_scheduled").await.len(), 1, "{job}");
    assert_eq!(events(&daemon, &id, "attempt_ended").await.len(), 2, "{job}");
    daemon.finish().await;
}

#[tokio::test]
async fn a_registry_that_comes_back_in_time_is_asked_again() {
    let mut registry = Registry::up().await;
    registry.push();
    registry.stop();
    // More retries than it can take: the registry comes back after the first attempt, whichever meets it.
    let limits = "[limits]\ninfrastructure_retries = 100\nretry_backoff = \"100ms\"\nretry_backoff_max = \"1s\"";
    let daemon = Setup::new("pull-back").with(limits).with(&registry.login(PASSWORD)).start().await;
    let id = daemon.submit(registry.job()).await;
    daemon.until("the first attempt has failed", async |daemon| !events(daemon, &id, "retry_scheduled").await.is_empty()).await;
    registry.start().await;
    let job = daemon.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(job["attempt"].as_u64().is_some_and(|attempt| attempt >= 2), "{job}");
    assert_eq!(daemon.logs(&id).await, "fetched\n");
    daemon.finish().await;
}

/// Waits until the engine asks here. The connection stays open, without an answer, as long as the value lives.
async fn asked(listener: &TcpListener) -> TcpStream {
    let accepted = tokio::time::timeout(PATIENCE, async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.read_u8().await.expect("the engine says something");
        stream
    });
    accepted.await.expect("the engine comes")
}

#[tokio::test]
async fn neither_a_stop_nor_a_cancelled_job_waits_for_a_registry_that_never_answers() {
    let registry = Registry::down();
    let listener = TcpListener::bind(registry.server()).await.expect("a port");
    let mut daemon = Setup::new("pull-hangs").with(&registry.login(PASSWORD)).start().await;
    let id = daemon.submit(registry.job()).await;
    let first = asked(&listener).await;
    assert_eq!(daemon.job(&id).await["state"], "starting", "it fetches");

    // The engine itself gives up on such a registry after 15 seconds at the earliest.
    let begun = Instant::now();
    let status = daemon.terminate().await;
    assert!(status.success() && begun.elapsed().as_secs() < 10, "it ended with {status} after {:?}:\n{}", begun.elapsed(), daemon.log());
    daemon.start().await;
    let second = asked(&listener).await;
    assert_eq!(daemon.job(&id).await["attempt"], 1, "the same attempt goes on");

    let begun = Instant::now();
    let (status, _) = daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let job = daemon.ended(&id).await;
    assert_eq!((&job["state"], &job["reason"], &job["attempt"]), (&json!("canceled"), &json!("canceled_by_user"), &json!(1)), "{job}");
    daemon.finish().await;
    assert!(begun.elapsed().as_secs() < 10, "it took {:?}", begun.elapsed());
    drop((listener, first, second));
    assert_eq!(registry.images(), "");
}
