//! Looks for the class's GitLab token everywhere that a job, another user of the machine or a reader of logs could look.

use std::path::Path;
use std::process::Command;

use crate::harness::road::{CLASS_TOKEN, Plan, Road, job};
use crate::harness::{PATIENCE, Setup, engine};

/// What a script writes into every place it may write to: shows that the search finds what is there.
const MARK: &str = "mark-that-the-search-must-find";

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The `docker` command's output as it is.
fn docker_bytes(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("docker").args(arguments).env("DOCKER_HOST", engine::host()).output().expect("the docker command");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// All files below a directory, with what is in them.
fn files_below(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![(path.clone(), std::fs::read(&path).unwrap_or_default())] }).collect()
}

#[tokio::test]
async fn the_class_token_is_nowhere_but_in_its_file_and_on_the_way_to_gitlab() {
    let secrets = tempfile::tempdir().expect("a directory");
    let file = secrets.path().join("class-token");
    std::fs::write(&file, format!("{CLASS_TOKEN}\n")).expect("a file");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let setup = Setup::new("secrecy").log_filter("trace");
    let token = format!("gitlab_token_file = {file:?}");
    let road = Road::build(setup, Plan { token: &token, ..Plan::default() }).await;
    let id = road.gitlab.enqueue(
        job("looks")
            .script([
                "for place in /tmp /builds /cache /dev/shm .; do (echo $MARK > $place/mark) 2>/dev/null || true; done",
                "echo looking; sleep 600",
            ])
            .variable("MARK", MARK),
    );
    road.gitlab.send_job_event(id).await;
    road.reaches(id, PATIENCE, |job| job.trace.contains("\nlooking\n")).await;
    let container = road.containers().pop().expect("its container");

    // From inside: what its processes were given, and every place that is not part of the image.
    let inside = docker_bytes(&["exec", &container, "/bin/sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo"]);
    let mounted = docker_bytes(&["exec", &container, "/bin/sh", "-c", "tar -cf - /tmp /builds /cache /dev/shm /etc /run /var 2>/dev/null; true"]);
    // From outside: its file system, its processes, and all that the engine tells of it.
    let exported = docker_bytes(&["export", &container]);
    let [top, inspected, logs, image] =
        [vec!["top", &container, "-ef"], vec!["inspect", &container], vec!["logs", &container], vec!["image", "inspect", crate::harness::RUNNER]]
            .map(|arguments| docker_bytes(&arguments));
    assert!(has(&inside, "CI_SERVER_TOKEN=rct-"), "the search sees the runner's own token");
    assert!(has(&mounted, MARK), "the search sees what the job wrote");
    assert!(exported.len() > 1 << 20 && has(&inspected, "rct-") && has(&top, "gitlab-runner"), "the search sees the container");
    let found = [
        ("environment or command line", inside),
        ("file of the job", mounted),
        ("file system", exported),
        ("process list", top),
        ("inspection", inspected),
        ("container's log", logs),
        ("image", image),
    ];
    for (place, content) in found {
        assert!(!has(&content, CLASS_TOKEN), "the class's token is in the container's {place}");
    }

    let process = |file: &str| std::fs::read(format!("/proc/{}/{file}", road.daemon.pid())).expect("the daemon's process");
    assert!(has(&process("cmdline"), "serve"));
    assert!(!has(&process("cmdline"), CLASS_TOKEN) && !has(&process("environ"), CLASS_TOKEN), "the token is in the daemon's process list");

    road.gitlab.cancel(id);
    road.reaches(id, PATIENCE, |job| job.status.is_final()).await;
    road.ended(id).await;
    let log = road.daemon.log();
    assert!(log.contains("TRACE"), "the daemon says all it can");
    for secret in [CLASS_TOKEN, crate::harness::road::HOOK_SECRET, "rct-"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret is in the daemon's log");
    }
    let kept = files_below(&road.daemon.data());
    assert!(kept.iter().any(|(_, content)| has(content, "looking")), "the search sees the job's log");
    assert!(kept.iter().any(|(path, _)| path.extension().is_some_and(|end| end == "db")), "the search sees the database");
    for (path, content) in kept {
        assert!(!has(&content, CLASS_TOKEN), "the class's token is in {}", path.display());
    }
    let trace = road.gitlab.job(id).trace;
    assert!(!trace.contains(CLASS_TOKEN), "{trace}");
    road.daemon.finish().await;
}
