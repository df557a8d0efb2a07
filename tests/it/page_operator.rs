//! What an operator does on the page: drains and resumes a machine, runs a job again; and what it shows of shares, times and deliveries.

use reqwest::Method;
use serde_json::json;

use crate::gitlab::Status;
use crate::gpu_daemon::Machine;
use crate::harness::browser::Browser;
use crate::harness::road::{Plan, Road, job};
use crate::harness::{BUSYBOX, Daemon, PATIENCE, Setup};

#[tokio::test]
async fn a_machine_is_drained_and_resumed_and_says_why_meanwhile() {
    let daemon = Setup::new("page-drain").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/", daemon.url)).await;
    browser.reads(".machine h3", "ready").await;
    browser.click(".machine h3 button").await;
    browser.reads("dialog h2", "Drain page-drain?").await;
    browser.press("Escape").await;
    browser.until("document.querySelector('dialog') === null && document.activeElement.innerText === 'Drain…'").await;
    assert_eq!(daemon.get("/hosts").await["hosts"][0]["drain"], json!(null), "who asks and goes back has changed nothing");

    browser.click(".machine h3 button").await;
    browser.click("#field-reason").await;
    browser.type_text("<b>new kernel</b>").await;
    browser.click("dialog button[type=submit]").await;
    browser.reads(".machine h3", "drained").await;
    browser.reads(".machine .drain", "<b>new kernel</b>").await;
    let waiting = daemon.submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", "echo at last"] })).await;
    browser.open(&format!("{}/#/jobs/{waiting}", daemon.url)).await;
    browser.reads("#explain", "<b>new kernel</b>").await;

    browser.open(&format!("{}/#/", daemon.url)).await;
    browser.click(".machine h3 button").await;
    browser.reads("dialog", "Resume page-drain?").await;
    browser.reads("dialog", "new kernel").await;
    browser.click("dialog button[type=submit]").await;
    browser.reads(".machine h3", "ready").await;
    browser.until("document.querySelector('.machine .drain') === null").await;
    daemon.ended(&waiting).await;
    browser.reads(".ended", "succeeded").await;
    browser.finish().await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_job_is_run_again_and_the_two_lead_to_each_other() {
    let daemon = Setup::new("page-again").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let id = daemon
        .submit(json!({ "image": BUSYBOX, "command": ["sh", "-c", "echo $WORD; exit 4"], "env": { "WORD": "again" }, "project": "team/app" }))
        .await;
    daemon.ended(&id).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/#/jobs/{id}", daemon.url)).await;
    browser.click("#again").await;
    browser.reads("dialog", "same request").await;
    browser.click("dialog button[type=submit]").await;
    browser.until(&format!("location.hash.startsWith('#/jobs/') && location.hash !== '#/jobs/{id}'")).await;
    let again = browser.eval("location.hash.slice(7)").await.as_str().expect("a hash").to_owned();
    let ended = daemon.ended(&again).await;
    assert_eq!((&ended["retry_of"], &ended["exit_code"]), (&json!(id), &json!(4)), "{ended}");
    assert_eq!(daemon.logs(&again).await, "again\n", "with its environment");
    browser.reads(".facts", "exit code 4").await;
    browser.click(&format!(".facts a[href='#/jobs/{id}']")).await;
    browser.until(&format!("document.querySelector(\".facts a[href='#/jobs/{again}']\") !== null")).await;
    browser.finish().await;
    daemon.finish().await;
}

#[tokio::test]
async fn the_lines_of_a_log_have_the_times_at_which_they_were_written() {
    let daemon = Setup::new("page-times").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let id = daemon.sh("echo first; sleep 1; echo second").await;
    daemon.ended(&id).await;
    let (_, timed) = daemon.request(Method::GET, &format!("/jobs/{id}/logs?timestamps=true"), None).await;
    let lines: Vec<(&str, &str)> = timed.as_str().expect("text").lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(lines.iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["first", "second"]);
    let at: Vec<jiff::Timestamp> = lines.iter().map(|(time, _)| time.parse().expect("a time")).collect();
    assert!(at[1].duration_since(at[0]) >= jiff::SignedDuration::from_millis(900), "{timed}");

    let mut browser = Browser::start().await;
    browser.open(&format!("{}/#/jobs/{id}", daemon.url)).await;
    browser.reads(".log", "second").await;
    assert_eq!(browser.eval("[...document.querySelectorAll('.line .text')].map((one) => one.textContent)").await, json!(["first", "second"]));
    browser.click("#log-times").await;
    let expected: Vec<String> = at.iter().map(|time| time.strftime("%H:%M:%S").to_string()).collect();
    browser.until("document.querySelector('.when')?.innerText !== ''").await;
    assert_eq!(browser.eval("[...document.querySelectorAll('.when')].map((one) => one.innerText)").await, json!(expected), "whenever it is read");
    let title = browser.eval("document.querySelector('.when').title").await;
    assert_eq!(title, json!(format!("written at {}", lines[0].0)));
    browser.finish().await;
    daemon.finish().await;
}

#[tokio::test]
async fn jobs_that_share_a_card_are_drawn_with_their_parts() {
    let machine = Machine::new();
    let settings = format!("{}\nshared = [\"amd-0000:03:00.0\"]", machine.settings());
    let daemon = Setup::new("page-shares").with(&settings).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut jobs = Vec::new();
    for (name, gib) in [("large", 40), ("small", 8)] {
        let script = format!("# {name}\nwhile true; do sleep 0.1; done");
        let body =
            json!({ "image": BUSYBOX, "command": ["sh", "-c", script], "memory": "64MiB", "cpus": 0.1, "gpus": { "memory": format!("{gib}GiB") } });
        jobs.push(daemon.submit(body).await);
    }
    for id in &jobs {
        daemon.reaches(id, &["running"]).await;
    }
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/", daemon.url)).await;
    let links = "[...document.querySelectorAll('.gpu a.share')].map((one) => [one.getAttribute('aria-label'), one.getAttribute('href')])";
    browser.until(&format!("{links}.length === 2")).await;
    let mut shown = browser.eval(links).await.as_array().expect("links").clone();
    shown.sort_by_key(ToString::to_string);
    assert_eq!(json!(shown), json!([["large: 40 GiB", format!("#/jobs/{}", jobs[0])], ["small: 8 GiB", format!("#/jobs/{}", jobs[1])]]));
    let width = |label: &str| format!("document.querySelector(\".gpu a.share[aria-label^='{label}']\").getBoundingClientRect().width");
    let ratio = browser.eval(&format!("{} / {}", width("large"), width("small"))).await.as_f64().expect("a number");
    assert!((4.0..6.0).contains(&ratio), "as wide as their parts: {ratio}");
    browser.reads(".gpu", "2 shares, 16 GiB of 64 GiB left").await;
    browser.reads(".gpu[data-state=free]", "MI210").await;
    browser.click(".gpu a.share").await;
    browser.until("location.hash.startsWith('#/jobs/')").await;
    browser.finish().await;
    for id in &jobs {
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
        daemon.ended(id).await;
    }
    daemon.finish().await;
}

#[tokio::test]
async fn the_way_of_a_job_of_gitlab_begins_with_the_delivery_that_rang_for_it() {
    let road = Road::build(Setup::new("page-webhook"), Plan::default()).await;
    let id = road.gitlab.enqueue(job("build").script(["echo built"]));
    road.gitlab.send_job_event(id).await;
    road.reaches(id, PATIENCE, |job| job.status == Status::Success).await;
    let ours = road.ended(id).await["id"].as_str().expect("an id").to_owned();
    let events = road.daemon.get(&format!("/jobs/{ours}/events")).await;
    let first = &events["events"][0];
    assert_eq!(
        (&first["kind"], &first["status"], &events["events"][1]["kind"]),
        (&json!("webhook"), &json!("pending"), &json!("submitted")),
        "{events}"
    );
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/#/jobs/{ours}", road.daemon.url)).await;
    browser.reads(".timeline li:first-child", "GitLab told of it at the webhook").await;
    browser.reads(".timeline", "container and all that belonged to it removed").await;
    browser.reads(".phase", "fetched in").await;
    assert_eq!(browser.eval("document.querySelector('#again')").await, json!(null), "GitLab's jobs are run again there");
    let (status, problem) = road.daemon.request(Method::POST, &format!("/jobs/{ours}/retry"), None).await;
    assert_eq!(status, reqwest::StatusCode::CONFLICT, "{problem}");
    let page = format!("{}/team/app/-/jobs/{id}", road.gitlab.url());
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(&page)), "{problem}");
    browser.finish().await;
    road.daemon.finish().await;
}

#[tokio::test]
async fn the_queue_is_filtered_by_project_and_stays_so_while_jobs_come() {
    let daemon = Setup::new("page-filter").host("cpus = 1").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let waits = |project: &str| json!({ "image": BUSYBOX, "command": ["sh", "-c", "while true; do sleep 0.1; done"], "cpus": 1, "project": project });
    let mut jobs = vec![daemon.submit(waits("holder")).await];
    daemon.reaches(&jobs[0], &["running"]).await;
    for project in ["team/web", "team/app", "research/vision"] {
        jobs.push(daemon.submit(waits(project)).await);
    }
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/", daemon.url)).await;
    browser.reads("#queue-depth", "3 jobs wait").await;
    assert_eq!(browser.eval("document.getElementById('queue-filter').hidden").await, true, "three rows are seen at a glance");
    jobs.push(daemon.submit(waits("firmware")).await);
    browser.click("#queue-filter").await;
    browser.type_text("TEAM/").await;
    let projects = "[...document.querySelectorAll('.queue tbody a')].map((one) => one.innerText)";
    browser.until(&format!("{projects}.join() === 'team/web,team/app'")).await;
    jobs.push(daemon.submit(waits("team/late")).await);
    browser.until(&format!("{projects}.join() === 'team/web,team/app,team/late'")).await;
    assert_eq!(browser.eval("document.activeElement.id").await, "queue-filter", "who types is not interrupted");
    browser.reads("#queue-depth", "5 jobs wait").await;
    browser.type_text("nothing").await;
    browser.reads(".queue .empty", "No class or project like that waits").await;
    browser.finish().await;
    for id in jobs.iter().rev() {
        daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
        daemon.ended(id).await;
    }
    daemon.finish().await;
}
