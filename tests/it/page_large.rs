//! The page beside ten thousand waiting jobs and a log of many lines: it must not stutter.

use std::fmt::Write as _;

use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::harness::browser::Browser;
use crate::harness::{BUSYBOX, Daemon, Setup};

/// Jobs in the queue.
const JOBS: usize = 10_000;
/// Of these, so many come while the page is looked at.
const WATCHED: usize = 2_000;
/// Longest time, in milliseconds, that the page may be deaf where the browser has a processor for itself.
const LONGEST_TASK: f64 = 400.0;
/// The same on a machine that is shared with the daemon, an engine and other tests: in units of what a fixed piece of work takes there and then.
const LONGEST_IN_WORK: f64 = 16.0;
/// That work, and how long it takes at most of some times, in milliseconds: some 50 on an idle machine.
const WORK: &str = "(() => { let worst = 0; for (let time = 0; time < 5; time++) { const began = performance.now(); let sum = 0; \
    for (let number = 0; number < 4e7; number++) sum += Math.sqrt(number); worst = Math.max(worst, performance.now() - began + sum * 0); } return worst; })()";
/// Most elements that a page may consist of.
const MOST_ELEMENTS: u64 = 15_000;

async fn submit(daemon: &Daemon, numbers: std::ops::Range<usize>) {
    stream::iter(numbers)
        .for_each_concurrent(16, async |number| {
            let body = json!({ "image": BUSYBOX, "command": ["true"], "project": format!("team/{}", number % 40) });
            daemon.submit(body).await;
        })
        .await;
}

async fn longest(browser: &mut Browser, doing: &str, report: &mut String) {
    let tasks = "window.tasks.splice(0).filter((task) => task.startTime >= (window.since ?? 0)).map((task) => task.duration)";
    let worst = browser.eval(&format!("Math.max(0, ...{tasks})")).await.as_f64().expect("a number");
    let _ = writeln!(report, "{doing}: {worst:.0} ms");
    if worst < LONGEST_TASK {
        return;
    }
    let work = browser.eval(WORK).await.as_f64().expect("a number");
    // It may be told of as a long task itself, a moment later.
    browser.eval("window.since = performance.now()").await;
    let _ = writeln!(report, "the fixed work: {work:.0} ms");
    assert!(worst < LONGEST_IN_WORK * work, "the page was deaf for too long\n{report}");
}

#[tokio::test]
async fn ten_thousand_jobs_do_not_make_it_stutter() {
    let config = "[limits]\nqueue_per_project = 20000\n[[classes]]\nname = \"default\"\ncpus = 1\nmemory = \"64MiB\"\npull = \"never\"";
    let daemon = Setup::new("page-large").host("cpus = 1").with(config).start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let holder = daemon.sh("seq 1 60000; sleep 600").await;
    daemon.reaches(&holder, &["running"]).await;
    submit(&daemon, 0..JOBS - WATCHED).await;
    let mut browser = Browser::start().await;
    let observe =
        "window.tasks = []; new PerformanceObserver((list) => window.tasks.push(...list.getEntries())).observe({ type: 'longtask', buffered: true })";
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": observe })).await;
    browser.open(&format!("{}/", daemon.url)).await;
    browser.reads("#queue-depth", "8,000 jobs wait").await;
    let mut report = String::new();
    longest(&mut browser, "opening the overview", &mut report).await;
    submit(&daemon, JOBS - WATCHED..JOBS).await;
    browser.reads("#queue-depth", "10,000 jobs wait").await;
    longest(&mut browser, "2,000 jobs come in", &mut report).await;

    browser.click("nav a[href='#/jobs']").await;
    for page in 0..3 {
        browser.until("document.querySelectorAll('main tbody tr').length === 50").await;
        let first = "document.querySelector('main tbody a')?.title";
        let shown = browser.eval(first).await;
        // The second link of a later page leads on, the first one back.
        browser.eval("[...document.querySelectorAll('main .buttons a')].pop().setAttribute('id', 'older')").await;
        browser.click("#older").await;
        browser.until(&format!("{first} !== {shown} && !document.getElementById('older')")).await;
        longest(&mut browser, &format!("page {} of the list", page + 2), &mut report).await;
    }
    browser.click("main tbody a").await;
    browser.reads("#explain", "waits").await;
    longest(&mut browser, "a waiting job", &mut report).await;
    browser.open(&format!("{}/#/jobs/{holder}", daemon.url)).await;
    browser.reads(".log", "60000").await;
    longest(&mut browser, "a log of 60,000 lines", &mut report).await;
    assert!(browser.eval("document.querySelectorAll('.line').length").await.as_u64().expect("a number") <= 4000);
    let elements = browser.eval("document.querySelectorAll('*').length").await.as_u64().expect("a number");
    assert!(elements < MOST_ELEMENTS, "{elements} elements");
    browser.finish().await;
    daemon.finish_with_pool().await;
}
