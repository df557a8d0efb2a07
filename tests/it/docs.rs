//! What the documentation tells people to type works: every shell block of README and docs/ is run, against a daemon, an engine and a GitLab.
//!
//! The words behind `sh` in a block's first line say where it runs:
//!
//! ````text
//! ```sh                     on the machine of the daemon, in a shell that all blocks of the page share
//! ```sh in a job            as a job of the daemon
//! ```sh by CI               `.ci/run` runs these targets of the Makefile
//! ```sh by hand: REASON     not run; the reasons are listed in a snapshot, so that none comes unnoticed
//! ````

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use runner_coordinator::config::Config;
use serde_json::json;
use tempfile::TempDir;

use crate::gitlab::{PRIVATE_TOKEN, PROJECT};
use crate::gpu_daemon::Machine;
use crate::harness::road::{Plan, Road};
use crate::harness::{BUSYBOX, RUNNER, Setup, engine};

/// Images that the documentation names, and what stands for them here.
const IMAGES: [(&str, &str); 2] = [("debian:bookworm", BUSYBOX), ("registry.example.com/ci/runner:1", RUNNER)];

/// A fenced block.
#[derive(Debug)]
struct Block {
    page: String,
    line: usize,
    /// What stands behind the three marks.
    info: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and every page of docs/, by their paths.
fn pages() -> BTreeMap<String, String> {
    let docs = fs::read_dir(root().join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("within").display().to_string();
        (name, fs::read_to_string(&path).expect("a page"))
    };
    markdown.chain([root().join("README.md")]).map(named).collect()
}

/// The blocks of a page; those within a list are moved to the left.
fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(Block, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let marked = line.trim_start();
        match &mut open {
            None if marked.starts_with("```") => {
                let indent = line[..line.len() - marked.len()].to_owned();
                let info = marked.trim_start_matches('`').trim().to_owned();
                open = Some((Block { page: page.to_owned(), line: number + 1, info, text: String::new() }, indent));
            }
            None => {}
            Some(_) if marked.trim_end() == "```" => blocks.extend(open.take().map(|(block, _)| block)),
            Some((block, indent)) => {
                let _ = writeln!(block.text, "{}", line.strip_prefix(indent.as_str()).unwrap_or(line));
            }
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    blocks
}

fn shell_blocks() -> Vec<Block> {
    let all = pages().into_iter().flat_map(|(page, text)| blocks(&page, &text)).collect::<Vec<_>>();
    let (shell, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|block| block.info == "sh" || block.info.starts_with("sh "));
    for block in other {
        let unnamed = ["bash", "shell", "console"].contains(&block.info.as_str()) || block.text.lines().any(|line| line.starts_with("$ "));
        assert!(!unnamed, "{}:{}: commands stand in blocks called sh", block.page, block.line);
    }
    shell
}

/// The targets of `make` that a block calls.
fn targets(block: &Block) -> Vec<String> {
    let target = |line: &str| line.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    block.text.lines().filter(|line| !line.trim().is_empty()).map(|line| target(line).unwrap_or_else(|| panic!("{block:?}: not make"))).collect()
}

/// A daemon with cards and a GitLab, and a place to type commands in.
struct Desk {
    road: Road,
    // Their files are in use as long as the daemon runs.
    _machine: Machine,
    dir: TempDir,
}

impl Desk {
    async fn new() -> Self {
        for (name, image) in IMAGES {
            engine::docker(&["tag", image, name]);
        }
        let machine = Machine::new();
        let setup = Setup::new("docs").with(&machine.settings());
        let road = Road::build(setup, Plan { class: "max_runners = 2", ..Plan::default() }).await;
        road.daemon.until("it is healthy", crate::harness::Daemon::is_healthy).await;
        Self { road, _machine: machine, dir: tempfile::tempdir().expect("a directory") }
    }

    /// Text of the documentation with this daemon and this GitLab in place of those that it names.
    fn here(&self, text: &str) -> String {
        let address = self.road.daemon.url.trim_start_matches("http://");
        text.replace("localhost:8080", address).replace("https://gitlab.example.com", self.road.gitlab.url()).replace("team/app", PROJECT.1)
    }

    /// A shell in which everything that the blocks take as given is there: a running job, its runner and container, a GPU.
    async fn run(&self, page: &str, blocks: &[&Block]) {
        let daemon = &self.road.daemon;
        let command = ["sh", "-c", "while true; do sleep 1; done"];
        let running = daemon.submit(json!({ "image": BUSYBOX, "command": command, "gpus": { "count": 1 } })).await;
        let job = daemon.reaches(&running, &["running"]).await;
        let container = engine::containers(&daemon.name).into_iter().next().expect("a container");
        let mut script = String::from("set -Eeuo pipefail\ncurl() { command curl --fail-with-body --max-time 60 \"$@\"; }\n");
        for block in blocks {
            let _ = write!(script, "trap 'echo \"the block at line {} failed: $BASH_COMMAND\" >&2' ERR\n{}", block.line, self.here(&block.text));
        }
        let program = Path::new(env!("CARGO_BIN_EXE_runner-coordinator"));
        let path = std::env::vars().find(|(name, _)| name == "PATH").map(|(_, path)| path).unwrap_or_default();
        let output = tokio::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", program.parent().expect("a directory").display()))
            .env("RUNNER_COORDINATOR_CONFIG", daemon.config())
            .env("DOCKER_HOST", engine::host())
            .env("GITLAB_TOKEN", PRIVATE_TOKEN)
            .env("RUNNING", &running)
            .env("RUNNER", job["runner_id"].as_str().expect("a runner"))
            .env("CONTAINER", container)
            .env("GPU", job["devices"][0].as_str().expect("a GPU"))
            .stdin(Stdio::null())
            .output()
            .await
            .expect("bash");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{page}: {}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr));
        daemon.request(reqwest::Method::DELETE, &format!("/jobs/{running}"), None).await;
        daemon.ended(&running).await;
    }

    async fn run_as_job(&self, block: &Block) {
        let script = format!("set -e\n{}", block.text);
        let id = self.road.daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", script] })).await;
        let job = self.road.daemon.ended(&id).await;
        assert_eq!(job["state"], "succeeded", "{}:{}: {job}\n{}", block.page, block.line, self.road.daemon.logs(&id).await);
    }

    async fn finish(self) {
        // What the pages leave waiting or running, such as runners that wait for GitLab's work.
        let daemon = &self.road.daemon;
        for runner in daemon.get("/runners").await["runners"].as_array().expect("runners") {
            daemon.request(reqwest::Method::DELETE, &format!("/runners/{}", runner["id"].as_str().expect("an id")), None).await;
        }
        self.road.daemon.finish().await;
        for (name, _) in IMAGES {
            engine::docker(&["rmi", name]);
        }
    }
}

#[tokio::test]
async fn every_command_that_the_documentation_tells_works() {
    let blocks = shell_blocks();
    let desk = Desk::new().await;
    for page in pages().keys() {
        let here: Vec<&Block> = blocks.iter().filter(|block| block.page == *page && block.info == "sh").collect();
        if !here.is_empty() {
            desk.run(page, &here).await;
        }
    }
    for block in blocks.iter().filter(|block| block.info == "sh in a job") {
        desk.run_as_job(block).await;
    }
    desk.finish().await;
}

#[test]
fn what_is_not_run_here_is_known() {
    let ci = fs::read_to_string(root().join(".ci/run")).expect("a script");
    let makefile = fs::read_to_string(root().join("Makefile")).expect("a makefile");
    let mut by_hand = String::new();
    for block in shell_blocks() {
        let Block { page, line, info, text } = &block;
        match info.as_str() {
            "sh" | "sh in a job" => {}
            "sh by CI" => {
                for target in targets(&block) {
                    assert!(ci.contains(&format!("make {target}")), "{page}:{line}: .ci/run does not call make {target}");
                }
            }
            _ => {
                let reason = info.strip_prefix("sh by hand: ").unwrap_or_else(|| panic!("{page}:{line}: what is {info:?}?"));
                let _ = writeln!(by_hand, "{page}: {reason}\n{text}");
            }
        }
        for target in text.lines().filter_map(|line| line.strip_prefix("make ")?.split_whitespace().next()) {
            assert!(makefile.contains(&format!("\n{target}:")), "{page}:{line}: there is no make {target}");
        }
    }
    insta::assert_snapshot!(by_hand);
}

/// Every configuration that is shown is one: read as the daemon does, with secrets in the files that it names.
#[test]
fn configurations_that_the_documentation_shows_are_read() {
    let configurations = pages().into_iter().flat_map(|(page, text)| blocks(&page, &text)).filter(|block| block.info == "toml");
    for Block { page, line, text, .. } in configurations {
        let dir = tempfile::tempdir().expect("a directory");
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (certificate, own_key) = (own.cert.pem(), own.signing_key.serialize_pem());
        for (key, rest) in text.lines().filter_map(|line| line.split_once("_file = ")) {
            for name in rest.split('"').skip(1).step_by(2) {
                let secret = match key {
                    "tls.certificate" => &certificate,
                    "tls.key" => &own_key,
                    key if key.ends_with("signing_token") => "whsec_cmVwbGFjZSBtZSB3aXRoIEdpdExhYidzIG93biBvbmU=",
                    _ => "secret",
                };
                fs::write(dir.path().join(name), secret).expect("written");
                fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).expect("a mode");
            }
        }
        let file = dir.path().join("config.toml");
        fs::write(&file, &text).expect("written");
        let around = [("DATA_DIR", dir.path().display().to_string()), ("GITLAB__URL", "https://gitlab.example.com".to_owned())];
        let around = around.into_iter().map(|(name, value)| (format!("RUNNER_COORDINATOR__{name}"), value));
        Config::load(Some(&file), around).unwrap_or_else(|faults| panic!("{page}:{line}: {faults}"));
    }
}

#[test]
fn links_within_the_documentation_lead_somewhere() {
    let anchors = |text: &str| -> Vec<String> {
        let anchor = |line: &str| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
    };
    for (page, text) in pages() {
        let folder = root().join(&page).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { root().join(&page) } else { folder.join(file) };
            assert!(target.exists(), "{page}: {link} leads nowhere");
            let known = |anchor: &str| anchors(&fs::read_to_string(&target).expect("a page")).iter().any(|known| known == anchor);
            assert!(anchor.is_none_or(known), "{page}: {link}: there is no such heading");
        }
    }
}

#[test]
fn tests_that_the_documentation_names_exist() {
    let sources = sources(&root().join("tests")) + &sources(&root().join("src"));
    let page = fs::read_to_string(root().join("docs/reliability.md")).expect("a page");
    let rows = page.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.rsplit('|').nth(1));
    let named: Vec<&str> =
        rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|name| name.contains('_') && !name.contains('.')).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("fn {name}(")), "docs/reliability.md: there is no test {name}");
    }
}

/// The text of every source below a folder.
#[test]
fn each_crate_that_the_daemon_names_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let section = manifest.split("\n[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next()).expect("dependencies");
    let named: BTreeSet<&str> = section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let page = std::fs::read_to_string(root().join("docs/dependencies.md")).expect("a page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| row.split(" | ").next());
    let explained: BTreeSet<&str> = rows.flat_map(|names| names.split(", ")).map(|name| name.trim_matches('`')).collect();
    assert_eq!(explained, named);
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let text = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(extension) if extension == "rs" => fs::read_to_string(&path).expect("a source"),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn blocks_are_taken_from_pages_as_they_stand() {
    let text = "a\n```sh\nx\n```\n- b\n\n  ```sh in a job\n  y\n    z\n  ```\n```toml\n[a]\n```\n";
    let found: Vec<(String, usize, String)> = blocks("p", text).into_iter().map(|block| (block.info, block.line, block.text)).collect();
    let expected = [("sh", 2, "x\n"), ("sh in a job", 7, "y\n  z\n"), ("toml", 11, "[a]\n")];
    assert_eq!(found, expected.map(|(info, line, text)| (info.to_owned(), line, text.to_owned())));
}
