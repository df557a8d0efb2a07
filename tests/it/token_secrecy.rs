//! Looks for the class's GitLab token everywhere that a job, another user of the machine or a reader of logs could look.

use std::path::Path;
use std::process::Command;

use crate::harness::road::{CLASS_TOKEN, Plan, Road, job};
use crate::harness::{BUSYBOX, PATIENCE, Setup, engine};

/// What a script writes into every place it may write to: shows that the search finds what is there.
const MARK: &str = "mark-that-the-search-must-find";

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Secrets of every kind that the configuration knows, each with a mark that is nowhere else.
const MARKS: [&str; 6] =
    ["mark-of-hook-4Rt", "mark-of-reading-8Kw", "mark-of-class-2Zp", "mark-of-registry-6Yh", "mark-of-traces-1Qd", "mark-of-operator-9Vx"];
/// A key to sign webhooks with, and what people see of it when it is written down.
const SIGNING: &str = "whsec_bWFyay1vZi1zaWduaW5nLTAxMjM0NTY3ODlhYmNkZWY=";
const SIGNING_KEY: &str = "mark-of-signing-0123456789abcdef";

#[tokio::test]
async fn no_secret_of_the_configuration_is_written_or_told_anywhere() {
    let secrets = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = secrets.path().join(name);
        std::fs::write(&path, format!("{text}\n")).expect("a file");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
        path.display().to_string()
    };
    let [hook, reading, class, registry, traces, operator] = MARKS;
    let digest = runner_coordinator::security::sha256(operator.as_bytes()).map(|byte| format!("{byte:02x}")).concat();
    // GitLab, the registry and the collector do not answer: what cannot be sent is what is written about most.
    let nobody = crate::harness::free_port();
    let rest = format!(
        "[gitlab]\nurl = \"http://127.0.0.1:{nobody}\"\nprojects = [\"team/app\"]\nread_token_file = {:?}\npoll_interval = \"1s\"\n\
         webhook.secret_token_file = {:?}\nwebhook.signing_token_file = {:?}\n\
         [[http.tokens]]\nname = \"ops\"\nrole = \"operator\"\nsha256 = {digest:?}\n\
         [[docker.registries]]\nserver = \"127.0.0.1:{nobody}\"\nusername = \"u\"\npassword_file = {:?}\n\
         [traces]\nendpoint = \"http://127.0.0.1:{nobody}\"\n[[traces.headers]]\nname = \"x-key\"\nvalue_file = {:?}\n\
         [[classes]]\nname = \"default\"\nimage = {BUSYBOX:?}\ngitlab_token_file = {:?}",
        write("reading", reading),
        write("hook", hook),
        write("signing", SIGNING),
        write("registry", registry),
        write("traces", traces),
        write("class", class),
    );
    let mut daemon = Setup::new("secrecy-all").log_filter("trace").with(&rest).start().await;
    let client = crate::harness::client();
    let ask = async |method: reqwest::Method, path: &str, body: Option<serde_json::Value>| {
        let request = client.request(method, format!("{}{path}", daemon.url)).bearer_auth(operator);
        let request = body.map_or_else(|| request.try_clone().expect("a request"), |body| request.try_clone().expect("a request").json(&body));
        request.send().await.expect("an answer").text().await.expect("text")
    };
    for (header, value) in [("X-Gitlab-Token", hook), ("X-Gitlab-Token", "wrong"), ("webhook-signature", "v1,d3Jvbmc=")] {
        let bell = client.post(format!("{}/webhook/job", daemon.url)).header(header, value).header("X-Gitlab-Event", "Job Hook").body("{}");
        bell.send().await.expect("an answer");
    }
    let mut ended = Vec::new();
    for image in [BUSYBOX.to_owned(), format!("127.0.0.1:{nobody}/team/private:1")] {
        let body = serde_json::json!({ "image": image, "command": ["true"], "timeout": "30s" });
        let job: serde_json::Value = serde_json::from_str(&ask(reqwest::Method::POST, "/jobs", Some(body)).await).expect("a job");
        let path = format!("/jobs/{}", job["id"].as_str().expect("an id"));
        daemon.until("it has ended", async |_| !ask(reqwest::Method::GET, &path, None).await.contains("\"finished_at\":null")).await;
        ended.push(path);
    }
    let mut told = Vec::new();
    let pages = ["/status", "/metrics", "/health", "/hosts", "/runners", "/jobs", "/queue", "/openapi.json", "/history", "/"].map(str::to_owned);
    for path in pages.into_iter().chain(ended.iter().flat_map(|path| ["", "/events", "/logs", "/explain"].map(|more| format!("{path}{more}")))) {
        told.push((path.clone(), ask(reqwest::Method::GET, &path, None).await.into_bytes()));
    }
    let check = daemon.command(&["check"]).output().expect("it runs");
    told.push(("check".to_owned(), [check.stdout, check.stderr].concat()));
    let process = |file: &str| std::fs::read(format!("/proc/{}/{file}", daemon.pid())).expect("the daemon's process");
    told.extend(["cmdline", "environ"].map(|file| (file.to_owned(), process(file))));
    let limits = String::from_utf8(process("limits")).expect("text");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "its memory would be written down when it dies: {core}");
    daemon.terminate().await;
    told.push(("log".to_owned(), daemon.log().into_bytes()));
    told.extend(files_below(&daemon.data()).into_iter().map(|(path, content)| (path.display().to_string(), content)));
    assert!(told.iter().any(|(_, content)| has(content, "TRACE")) && told.iter().any(|(_, content)| has(content, "secrecy-all")));
    for (place, content) in told {
        // As it is, and as it goes to a registry and into a configuration.
        let found = MARKS.iter().copied().chain([SIGNING, SIGNING_KEY, "bWFyay1vZi"]).find(|mark| has(&content, mark));
        assert_eq!(found, None, "in {place}: {}", String::from_utf8_lossy(&content));
    }
    engine::remove_networks(&daemon.name, &daemon.data());
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
