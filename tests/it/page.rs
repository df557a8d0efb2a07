//! The page in a real browser: jobs are submitted, watched and cancelled, the daemon dies and comes back, tokens are asked for, and
//! what is hostile stays text.

use reqwest::Method;
use serde_json::json;

use crate::harness::browser::Browser;
use crate::harness::{BUSYBOX, Daemon, Setup};

/// What a page's main part shows of a job with this id.
fn row(id: &str) -> String {
    format!("main a[href='#/jobs/{id}']")
}

async fn job_id(browser: &mut Browser) -> String {
    browser.until("location.hash.startsWith('#/jobs/')").await;
    browser.eval("location.hash.slice(7)").await.as_str().expect("a hash").to_owned()
}

async fn fill(browser: &mut Browser, field: &str, text: &str) {
    browser.click(&format!("#field-{field}")).await;
    browser.type_text(text).await;
}

#[tokio::test]
async fn a_job_is_submitted_watched_and_cancelled() {
    let daemon = Setup::new("page-job").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/", daemon.url)).await;
    browser.reads("#connection", "live").await;
    browser.reads("#queue-depth", "0 jobs wait").await;
    browser.reads(".machine", "page-job").await;

    browser.click("#submit").await;
    let script = "printf 'plain\\n\\033[31mred\\033[0m \\033[1;32mgreen\\033[0m\\n'; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.1; done";
    fill(&mut browser, "command", script).await;
    fill(&mut browser, "image", BUSYBOX).await;
    fill(&mut browser, "project", "team/app").await;
    browser.click("dialog button[type=submit]").await;
    let id = job_id(&mut browser).await;
    browser.reads(".facts", "running").await;
    browser.reads(".timeline", "container runs").await;
    browser.reads(".log", "line 3").await;
    assert_eq!(browser.eval("document.querySelector('.log .ansi-front-1').textContent").await, "red");
    assert_eq!(browser.eval("document.querySelector('.log .ansi-bold.ansi-front-2').textContent").await, "green");
    assert_eq!(browser.eval("document.querySelector('.log').innerText.includes('\\x1b')").await, false);
    let bottom = "(() => { const log = document.getElementById('log'); return log.scrollHeight - log.scrollTop - log.clientHeight < 60; })()";
    browser.until(bottom).await;

    browser.click("#log-search").await;
    browser.type_text("GREEN").await;
    browser.reads("#log-found", "1 found").await;
    browser.press("Enter").await;
    browser.until("document.querySelector('.line.current')?.textContent.includes('red green')").await;
    assert_eq!(browser.eval("document.getElementById('log-follow').checked").await, false, "who looks for something is not carried away");
    browser.click("#log-times").await;
    browser.until("[...document.querySelectorAll('.when')].some((one) => /^\\d\\d:\\d\\d:\\d\\d$/.test(one.innerText))").await;
    let directory = browser.directory().to_owned();
    browser.call("Page.setDownloadBehavior", json!({ "behavior": "allow", "downloadPath": directory })).await;
    browser.click("#log-download").await;
    let file = directory.join(format!("job-{id}.log"));
    daemon.until("the log is downloaded", async |_| std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\x1b[31mred"))).await;

    browser.click("nav a[href='#/']").await;
    browser.reads(".running", "printf").await;
    browser.until(&format!("document.querySelector(\".bar a.share[href='#/jobs/{id}']\") !== null")).await;
    browser.click(&format!(".running a[href='#/jobs/{id}']")).await;
    browser.until("document.querySelector('#cancel') !== null").await;
    browser.eval("document.querySelector('#cancel').focus()").await;
    browser.press("Enter").await;
    browser.until("document.activeElement?.closest('dialog') && document.activeElement.innerText === 'Keep it'").await;
    browser.press("Escape").await;
    browser.until("document.querySelector('dialog') === null && document.activeElement.id === 'cancel'").await;
    assert_eq!(daemon.job(&id).await["state"], "running", "who asks and goes back has changed nothing");
    browser.click("#cancel").await;
    browser.click("dialog button[type=submit]").await;
    browser.reads("#reason", "canceled by user").await;
    browser.reads(".timeline", "removed").await;
    assert_eq!(daemon.job(&id).await["reason"], "canceled_by_user");
    browser.click("nav a[href='#/']").await;
    browser.reads(".ended", "canceled by user").await;
    assert_eq!(browser.foreign_requests(&daemon.url), Vec::<String>::new());
    browser.finish().await;
    daemon.finish().await;
}

#[tokio::test]
async fn the_page_outlives_a_daemon_that_dies() {
    let mut daemon = Setup::new("page-restart").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let id = daemon.sh("i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done").await;
    daemon.reaches(&id, &["running"]).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/#/jobs/{id}", daemon.url)).await;
    browser.reads(".log", "line 5").await;
    daemon.kill();
    browser.until("document.getElementById('connection').dataset.state === 'lost'").await;
    browser.reads("#connection", "disconnected").await;
    browser.reads(".log", "line 5").await;
    daemon.start().await;
    browser.reads("#connection", "live").await;
    browser.reads(".timeline", "found alive after a restart").await;
    let shown = "Number([...document.querySelectorAll('.log .line')].pop()?.textContent.match(/line (\\d+)/)?.[1] ?? 0)";
    let before = browser.eval(shown).await.as_u64().expect("a number");
    browser.until(&format!("{shown} > {}", before + 5)).await;
    // What happens without the page's doing is seen too.
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    browser.reads("#reason", "canceled by user").await;
    browser.finish().await;
    daemon.finish().await;
}

#[tokio::test]
async fn a_token_is_asked_for_and_kept_in_the_tab_only() {
    let token = "rct_the-token-of-the-page";
    let digest = runner_coordinator::security::sha256(token.as_bytes()).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let config = format!("[[http.tokens]]\nname = \"page\"\nrole = \"viewer\"\nsha256 = \"{digest}\"");
    let daemon = Setup::new("page-token").with(&config).start().await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/", daemon.url)).await;
    browser.reads("dialog", "asks for a token").await;
    assert_eq!(browser.eval("document.querySelectorAll('.machine').length").await, 0, "nothing is shown without one");
    browser.type_text("not-the-token").await;
    browser.press("Enter").await;
    browser.reads("dialog [role=alert]", "does not know this token").await;
    assert_eq!(browser.eval("sessionStorage.length").await, 0);
    browser.eval("document.querySelector('#field-token').select()").await;
    browser.type_text(token).await;
    browser.press("Enter").await;
    browser.reads(".machine", "page-token").await;
    browser.reads("#connection", "live").await;

    // A viewer's wish is refused in words, and the dialog stays.
    browser.click("#submit").await;
    fill(&mut browser, "command", "true").await;
    browser.click("dialog button[type=submit]").await;
    browser.reads("dialog [role=alert]", "operator").await;
    browser.press("Escape").await;

    browser.reload().await;
    browser.reads(".machine", "page-token").await;
    assert_eq!(browser.eval("[localStorage.length, document.cookie]").await, json!([0, ""]));
    let urls = browser.requested_urls();
    assert!(urls.len() > 10 && !urls.iter().any(|url| url.contains("rct_")), "{urls:?}");
    browser.click("#forget").await;
    browser.reads("dialog", "asks for a token").await;
    browser.press("Escape").await;
    browser.reads("main", "A token is needed").await;
    browser.finish().await;
    daemon.finish_with_pool().await;
}

#[tokio::test]
async fn what_jobs_say_stays_text() {
    let daemon = Setup::new("page-hostile").start().await;
    daemon.until("it is healthy", Daemon::is_healthy).await;
    let markup = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>";
    let report = json!({ "message": markup, "percent": 30 }).to_string();
    let script = format!(
        "echo '{markup}'; printf '\\033]8;;javascript:window.hacked=1\\007link\\033]8;;\\007 \\033[999;38;5;300m{markup}\\n'; \
         wget -q -O- --header \"authorization: Bearer $RUNNER_COORDINATOR_TOKEN\" --post-data '{report}' \"$RUNNER_COORDINATOR_URL/progress\"; sleep 600"
    );
    let body = json!({ "image": BUSYBOX, "command": [markup, "x"], "project": "team/x" });
    let named = daemon.submit(body).await;
    daemon.ended(&named).await;
    let id = daemon.sh(&script).await;
    daemon.reaches(&id, &["running"]).await;
    let mut browser = Browser::start().await;
    browser.open(&format!("{}/", daemon.url)).await;
    browser.reads(&row(&named), "<img src=x").await;
    browser.reads(".running .progress", markup).await;
    browser.open(&format!("{}/#/jobs/{named}", daemon.url)).await;
    browser.reads("h1", "<img src=x").await;
    browser.reads(".facts", markup).await;
    browser.open(&format!("{}/#/jobs/{id}", daemon.url)).await;
    browser.reads(".log", markup).await;
    browser.reads(".log", &format!("link {markup}")).await;
    browser.reads(".timeline", markup).await;
    browser.open(&format!("{}/#/jobs/{}", daemon.url, "%3Cimg%20src=x%20onerror=window.hacked=1%3E")).await;
    browser.reads("main", "<img src=x").await;
    let made = "[window.hacked ?? null, document.querySelectorAll('main img, main script, main iframe, a[href^=\"javascript:\"]').length]";
    assert_eq!(browser.eval(made).await, json!([null, 0]));
    browser.finish().await;
    daemon.request(Method::DELETE, &format!("/jobs/{id}"), None).await;
    daemon.ended(&id).await;
    daemon.finish().await;
}
