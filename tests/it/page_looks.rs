//! What the page looks like: with GPUs, in light and dark, on a desk and on a phone; and whether it can be used without eyes or a mouse.
//! With `RC_SCREENSHOTS=1` in the environment the pictures of the documentation are made.

use reqwest::Method;
use serde_json::{Value, json};

use crate::gpu_daemon::{Machine, holder};
use crate::harness::browser::Browser;
use crate::harness::{BUSYBOX, Daemon, Setup};

/// Everything that has no name for a screen reader, no label, or a place where it should not be.
const NAMELESS: &str = "[...document.querySelectorAll('a, button, input, select, textarea, [role=img], meter, progress')].filter((one) => one.offsetParent !== null \
    && !one.closest('[aria-hidden=true]') && one.getAttribute('aria-hidden') !== 'true' && !(one.innerText?.trim() || one.getAttribute('aria-label') || one.labels?.length)) \
    .map((one) => one.outerHTML)";
/// How wide the page is, and what sticks out of its card.
const WIDTH: &str =
    "[document.documentElement.scrollWidth, ...[...document.querySelectorAll('.card')].map((one) => Math.ceil(one.scrollWidth - one.clientWidth))]";

async fn picture(browser: &mut Browser, name: &str) {
    let wanted = std::env::vars().any(|(key, value)| key == "RC_SCREENSHOTS" && value == "1");
    browser.eval("document.querySelectorAll('.notice button').forEach((one) => one.click())").await;
    let shot = browser.screenshot().await;
    assert!(shot.len() > 5_000, "{name} is empty");
    if wanted {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images");
        std::fs::create_dir_all(path).expect("a directory");
        std::fs::write(format!("{path}/{name}.png"), shot).expect("written");
    }
}

fn shell(project: &str, script: &str) -> Value {
    json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "project": project, "cpus": 0.75, "memory": "2GiB" })
}

/// A machine at work: GPUs, running jobs that report, waiting ones, and some that have ended.
async fn busy(daemon: &Daemon) -> Vec<String> {
    for (project, script) in [("team/web", "echo built"), ("team/web", "echo no >&2; exit 2"), ("research/vision", "true")] {
        let id = daemon.submit(shell(project, script)).await;
        daemon.ended(&id).await;
    }
    let report = |message: &str, percent: u32| {
        let body = json!({ "message": message, "percent": percent });
        format!(
            "wget -q -O- --header \"authorization: Bearer $RUNNER_COORDINATOR_TOKEN\" --post-data '{body}' \"$RUNNER_COORDINATOR_URL/progress\"; \
             printf '\\033[1;36m==> training\\033[0m\\n'; i=0; while [ $i -lt 40 ]; do i=$((i+1)); printf 'epoch %d  loss \\033[33m0.%d\\033[0m  \\033[32mok\\033[0m\\n' $i $((900-i*13)); done; sleep 600"
        )
    };
    let mut train = holder();
    train["memory"] = json!("3GiB");
    train["project"] = json!("research/vision");
    train["command"] = json!(["sh", "-c", format!("# train resnet\n{}", report("epoch 3 of 10", 30))]);
    let mut running = vec![daemon.submit(train.clone()).await];
    running.push(daemon.submit(shell("team/web", &format!("# build and test\n{}", report("testing", 72)))).await);
    for id in &running {
        daemon.reaches(id, &["running"]).await;
        daemon.until("it reported", async |daemon| daemon.get(&format!("/jobs/{id}/events")).await.to_string().contains("percent")).await;
    }
    for number in 0..9 {
        let project = ["team/web", "research/vision", "firmware/boards"][number % 3];
        running.push(daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", "make test"], "project": project, "cpus": 1.5 })).await);
    }
    running
}

#[tokio::test]
async fn it_fits_a_desk_and_a_phone_in_light_and_dark_and_is_named_throughout() {
    let machine = Machine::new();
    let daemon = Setup::new("page-looks").host("memory = \"8GiB\"").with(&machine.settings()).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let jobs = busy(&daemon).await;
    let mut browser = Browser::start().await;
    browser.size(1280, 1000).await;
    let overview = format!("{}/#/", daemon.url);
    browser.open(&overview).await;
    browser.reads("#queue-depth", "9 jobs wait").await;
    browser.reads(".gpu", "train resnet").await;
    browser.reads(".running .progress", "epoch 3 of 10").await;

    // A GPU is put into quarantine and released, by hand.
    browser.click(".gpu[data-state=free] button").await;
    browser.type_text("the fan is loud").await;
    browser.click("dialog button[type=submit]").await;
    browser.reads(".gpu[data-state=quarantined]", "the fan is loud").await;
    for (colours, name) in [("light", "page-light"), ("dark", "page-dark")] {
        browser.colours(colours).await;
        picture(&mut browser, name).await;
    }
    browser.click(".gpu[data-state=quarantined] button").await;
    browser.reads("dialog", "the fan is loud").await;
    browser.click("dialog button[type=submit]").await;
    browser.until("document.querySelector('.gpu[data-state=free]') !== null").await;

    let job = format!("{}/#/jobs/{}", daemon.url, jobs[0]);
    let waiting = format!("{}/#/jobs/{}", daemon.url, jobs[5]);
    let lists = [format!("{}/#/jobs", daemon.url), format!("{}/#/runners", daemon.url)];
    for (width, height) in [(1280, 860), (390, 844), (360, 640)] {
        browser.size(width, height).await;
        for (url, settled) in [(&overview, ".running"), (&job, ".line"), (&waiting, "#explain"), (&lists[0], "tbody"), (&lists[1], "tbody")] {
            browser.open(url).await;
            browser.until(&format!("document.querySelector('main {settled}') !== null")).await;
            assert_eq!(browser.eval(NAMELESS).await, json!([]), "{url}");
            let wide = browser.eval(WIDTH).await;
            let (page, cards) = wide.as_array().expect("numbers").split_first().expect("a width");
            assert!(page.as_u64() <= Some(width.into()) && cards.iter().all(|out| *out == json!(0)), "{url} at {width}: {wide}");
            assert_eq!(browser.eval("document.querySelectorAll('h1').length").await, 1, "{url}");
            if (width, url) == (390, &overview) {
                browser.reads("#queue-depth", "9 jobs wait").await;
                picture(&mut browser, "page-phone").await;
            }
            if (width, url) == (1280, &job) {
                browser.reads(".log", "epoch 40").await;
                picture(&mut browser, "page-job").await;
            }
        }
    }
    // By keyboard alone: the first stop skips the header, and everything that can be done can be reached.
    browser.open(&overview).await;
    browser.reload().await;
    browser.until("document.querySelector('.machine') !== null").await;
    browser.press("Tab").await;
    assert_eq!(browser.eval("document.activeElement.id").await, "skip");
    browser.press("Enter").await;
    assert_eq!(browser.eval("document.activeElement.id").await, "main");
    browser.finish().await;
    for id in &jobs {
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    }
    for id in &jobs {
        daemon.ended(id).await;
    }
    daemon.finish().await;
}
