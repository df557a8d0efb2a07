//! The broker as a container's own code meets it: with every token that a job can have or make up it reaches its own job and nothing else,
//! and behind the broker's address there is nothing but the broker.

use serde_json::{Value, json};

use crate::gitlab::Status;
use crate::harness::engine::{self, UNTIL_TOLD};
use crate::harness::road::{Plan, Road, job};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup};

/// `ask NAME METHOD PATH TOKEN BODY` tells how the broker answers: `asked NAME METHOD PATH STATUS`. The connection stays open for writing until
/// there is an answer; the token comes in every way that runners and jobs have.
const ASK: &str = r#"
ask() {
    shown=; [ -z "$4" ] || shown="JOB-TOKEN: $4\r\nRUNNER-TOKEN: $4\r\nPRIVATE-TOKEN: $4\r\nAuthorization: Bearer $4\r\n"
    more="Content-Type: application/json\r\nContent-Range: 0-3\r\nContent-Length: ${#5}\r\n"
    rm -f /tmp/to; mkfifo /tmp/to
    timeout 20 nc "$host" "$port" < /tmp/to > /tmp/from 2>&1 & nc=$!
    exec 3> /tmp/to
    printf "$2 $3 HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n$shown$more\r\n" >&3; printf '%s' "$5" >&3
    wait $nc || true; exec 3>&-
    code=$(sed -n '1s/^HTTP[^ ]* \([0-9]*\).*/\1/p' /tmp/from); echo "asked $1 $2 $3 ${code:-nobody}"
}
url=${RUNNER_COORDINATOR_URL#http://}; host=${url%:*}; port=${url##*:}; own=$RUNNER_COORDINATOR_TOKEN
"#;

/// Everything that can be asked about a job of GitLab, with the token `$1` by the name `$2`.
const OF_ANOTHER: &str = r#"
of_another() {
    ask "$2" PUT /api/v4/jobs/OTHER "$1" '{"state":"failed","token":"'"$1"'"}'
    ask "$2" PATCH /api/v4/jobs/OTHER/trace "$1" evil
    ask "$2" POST /api/v4/jobs/OTHER/artifacts "$1" evil
    ask "$2" GET /api/v4/jobs/OTHER/artifacts "$1" ''
}
"#;

/// What needs a token of a runner that lives, of whatever job. With a runner's own it is answered.
const OF_ITSELF: &str = r#"
of_itself() {
    ask "$2" GET /job "$1" ''
    ask "$2" POST /progress "$1" '{"message":"evil"}'
    ask "$2" POST /api/v4/runners/verify "$1" '{"token":"'"$1"'"}'
}
"#;

/// What is served elsewhere, and ways that could lead there.
const ELSEWHERE: [&str; 18] = [
    "/",
    "/jobs",
    "/jobs/RECORD",
    "/jobs/RECORD/logs",
    "/runners",
    "/hosts",
    "/queue",
    "/status",
    "/health",
    "/metrics",
    "/events",
    "/openapi.json",
    "/webhook/job",
    "/api/v4/jobs",
    "//jobs",
    "/job/../jobs",
    "/job/%2e%2e/jobs",
    "http://127.0.0.1:API/jobs",
];

/// What a script told: who asked what, and the answer.
fn told(log: &str) -> Vec<(String, String)> {
    let answer = |line: &str| line.strip_prefix("asked ")?.rsplit_once(' ').map(|(what, code)| (what.to_owned(), code.to_owned()));
    log.lines().filter_map(answer).collect()
}

/// Those that were not refused.
fn got_through(told: &[(String, String)]) -> Vec<&(String, String)> {
    told.iter().filter(|(_, code)| !["401", "403", "404"].contains(&code.as_str())).collect()
}

/// A job of GitLab that others want something of, until it is told to go on.
struct Other {
    gitlab_id: i64,
    record: Value,
}

impl Other {
    async fn start(road: &Road) -> Self {
        let gitlab_id = road.gitlab.enqueue(job("other").script([format!("echo mine\n{UNTIL_TOLD}\necho untouched").as_str()]).artifacts(["none"]));
        road.gitlab.send_job_event(gitlab_id).await;
        road.reaches(gitlab_id, PATIENCE, |job| job.trace.contains("\nmine\n")).await;
        let record = road.find_record(gitlab_id).await.expect("a record");
        Self { gitlab_id, record }
    }

    fn id(&self) -> &str {
        self.record["id"].as_str().expect("an id")
    }

    /// Nobody changed anything of it, and it ends as it would have.
    async fn ends_untouched(self, road: &Road) {
        let daemon = &road.daemon;
        assert_eq!(daemon.job(self.id()).await["state"], "running");
        let events = daemon.get(&format!("/jobs/{}/events", self.id())).await;
        assert!(!events.to_string().contains("evil"), "{events}");
        engine::tell(self.id());
        let done = road.reaches(self.gitlab_id, PATIENCE, |job| job.status.is_final()).await;
        assert_eq!((done.status, done.n_assigned, done.artifacts.len()), (Status::Success, 1, 0), "{done:?}");
        assert!(done.trace.ends_with("untouched\n") && !done.trace.contains("evil"), "{}", done.trace);
        assert_eq!(daemon.ended(self.id()).await["state"], "succeeded");
        assert_eq!(daemon.logs(self.id()).await, done.trace);
    }
}

async fn road(name: &str) -> Road {
    let setup = Setup::new(name).with("[[classes]]\nname = \"open\"\nnetwork = \"open\"\npull = \"never\"");
    Road::build(setup, Plan::default()).await
}

/// What a job of the API told that ran this script after the words above.
async fn asked(daemon: &Daemon, other: &Other, class: &str, script: &str) -> (String, Vec<(String, String)>) {
    let words = format!("{ASK}{OF_ANOTHER}{OF_ITSELF}{script}").replace("OTHER", &other.gitlab_id.to_string());
    let id = daemon.submit(json!({ "class": class, "image": BUSYBOX, "command": ["sh", "-c", words], "cpus": 0.5 })).await;
    let ended = daemon.ended(&id).await;
    let log = daemon.logs(&id).await;
    assert_eq!(ended["state"], "succeeded", "{ended}\n{log}");
    let told = told(&log);
    (log, told)
}

#[tokio::test]
async fn no_token_of_a_job_opens_another_job() {
    let road = road("reach-tokens").await;
    let other = Other::start(&road).await;
    // Who is whom is no secret: the made-up ones name a runner that lives.
    let runner = other.record["runner_id"].as_str().expect("a runner");
    let tokens = format!("signed=rct-{runner}-${{own##*-}}; unsigned=rct-{runner}-0000000000000000000000000000000000000000000000000000000000000000");
    let script = format!(
        "{tokens}\nfor name in none made-up signed unsigned own; do\n  case $name in none) it=;; made-up) it=glrt-made-up;; signed) it=$signed;; unsigned) it=$unsigned;; own) it=$own;; esac\n  \
         of_another \"$it\" $name\n  of_itself \"$it\" $name\ndone"
    );
    let words = script + "\nask own GET /job $own ''; sed -n '$p' /tmp/from";
    let (log, told) = asked(&road.daemon, &other, "default", &words).await;
    assert_eq!(told.len(), 5 * 7 + 1, "{log}");
    let through: Vec<&str> = got_through(&told).into_iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(through, ["own GET /job", "own POST /progress", "own POST /api/v4/runners/verify", "own GET /job"], "{log}");
    assert!(!log.contains(other.id()) && log.contains("\"state\":\"running\""), "the record of its own: {log}");
    other.ends_untouched(&road).await;
    road.daemon.finish().await;
}

#[tokio::test]
async fn a_job_of_gitlab_opens_its_own_and_no_other() {
    let road = road("reach-gitlab").await;
    let other = Other::start(&road).await;
    // Its runner's token, and GitLab's own of its job, which the runner reports with.
    let words = format!("set +e\n{ASK}{OF_ANOTHER}of_another \"$CI_SERVER_TOKEN\" own; of_another \"$CI_JOB_TOKEN\" job\n")
        .replace("OTHER", &other.gitlab_id.to_string())
        + "ask own PATCH /api/v4/jobs/$CI_JOB_ID/trace $CI_JOB_TOKEN evil; echo over";
    let id = road.gitlab.enqueue(job("asks").script([words.as_str()]));
    road.gitlab.send_job_event(id).await;
    let done = road.reaches(id, PATIENCE, |job| job.status.is_final()).await;
    let told = told(&done.trace);
    assert_eq!((done.status, told.len()), (Status::Success, 9), "{}", done.trace);
    // They were understood: at its own job the same is done.
    let expected = (format!("own PATCH /api/v4/jobs/{id}/trace"), "202".to_owned());
    assert_eq!(got_through(&told), [&expected], "{}", done.trace);
    road.ended(id).await;
    other.ends_untouched(&road).await;
    road.daemon.finish().await;
}

#[tokio::test]
async fn behind_the_brokers_address_there_is_nothing_else() {
    let road = road("reach-routes").await;
    let other = Other::start(&road).await;
    let api = road.daemon.url.rsplit(':').next().expect("a port");
    let asks = |path: &&str| format!("for method in GET POST; do ask own $method '{path}' $own '{{}}'; done");
    let routes = ELSEWHERE.iter().map(asks).collect::<Vec<_>>().join("\n").replace("RECORD", other.id()).replace("API", api);
    let deletes = format!("ask own DELETE /jobs/{} $own ''; ask own GET /job $own ''", other.id());
    let (log, told) = asked(&road.daemon, &other, "default", &format!("{routes}\n{deletes}")).await;
    assert_eq!(told.len(), 2 * ELSEWHERE.len() + 2, "{log}");
    let answered: Vec<_> = told.iter().filter(|(_, code)| code != "404").collect();
    assert_eq!(answered, [&("own GET /job".to_owned(), "200".to_owned())], "{log}");
    // Of the coordinator's own address nobody hears, whatever the class may reach: it is the machine's loopback.
    for class in ["default", "open"] {
        let (log, told) =
            asked(&road.daemon, &other, class, &format!("port={api}; ask api GET /jobs $own ''; ask api DELETE /jobs/{} $own ''", other.id())).await;
        assert_eq!(told.iter().map(|(_, code)| code.as_str()).collect::<Vec<_>>(), ["nobody", "nobody"], "{class}: {log}");
    }
    other.ends_untouched(&road).await;
    road.daemon.finish().await;
}
