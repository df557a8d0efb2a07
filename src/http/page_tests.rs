//! The page's files, its numbers, and what it may do in a browser.

use axum::http::StatusCode;
use serde_json::json;

use crate::http::harness::{Harness, request};

/// What a text refers to in quotes behind one of these beginnings.
fn references(text: &str, beginnings: &[&str]) -> Vec<String> {
    let after = |beginning: &&str| text.split(*beginning).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect::<Vec<_>>();
    beginnings.iter().flat_map(after).collect()
}

#[tokio::test]
async fn the_page_needs_no_token_and_every_file_that_it_names_is_there() {
    let harness = Harness::guarded();
    let index = harness.get("/").await;
    assert_eq!((index.status, index.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    let mut open = references(&index.text, &["src=\"", "href=\"/page"]);
    for path in &mut open {
        *path = format!("page/{}", path.trim_start_matches("/page").trim_start_matches('/'));
    }
    let mut seen = Vec::new();
    while let Some(path) = open.pop() {
        if seen.contains(&path) {
            continue;
        }
        let file = harness.get(&format!("/{path}")).await;
        assert_eq!(file.status, StatusCode::OK, "{path}");
        assert!(!file.header("etag").is_empty() && file.text.lines().count() <= 400, "{path}");
        open.extend(references(&file.text, &["from \"./"]).into_iter().map(|name| format!("page/{name}")));
        seen.push(path);
    }
    assert_eq!(seen.len(), 17, "a file that nobody loads is left over: {seen:?}");
    for path in ["/page/", "/page/none.js", "/page/../Cargo.toml", "/page/index.html"] {
        assert_eq!(harness.get(path).await.problem(), "no-such-path", "{path}");
    }
    assert_eq!(harness.get("/queue").await.status, StatusCode::UNAUTHORIZED, "what it shows needs one");
}

#[tokio::test]
async fn a_browser_lets_it_load_and_run_nothing_else() {
    let harness = Harness::start();
    for path in ["/", "/page/app.js"] {
        let answer = harness.get(path).await;
        let policy = answer.header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"] {
            assert!(policy.contains(part), "{path}: {part} is not in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        assert_eq!((answer.header("x-content-type-options"), answer.header("referrer-policy")), ("nosniff", "no-referrer"), "{path}");
        assert_eq!((answer.header("x-frame-options"), answer.header("cache-control")), ("DENY", "no-cache"), "{path}");
    }
}

#[tokio::test]
async fn what_a_browser_has_already_is_not_sent_again() {
    let harness = Harness::start();
    let tag = harness.get("/").await.header("etag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"old\", {tag}")] {
        let answer = harness.send(request("GET", "/page/app.js", &[("if-none-match", &known)], "")).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{known}");
    }
    let answer = harness.send(request("GET", "/page/app.js", &[("if-none-match", "\"old\"")], "")).await;
    assert_eq!(answer.status, StatusCode::OK);
}

/// What comes from the server must never become markup; a browser enforces it, this tells earlier.
#[tokio::test]
async fn no_script_makes_markup_of_text_or_keeps_a_token_where_it_lasts() {
    let harness = Harness::start();
    let app = harness.get("/page/app.js").await;
    let mut names = references(&app.text, &["from \"./"]);
    names.extend(["app.js", "log.js", "ansi.js", "timeline.js", "machine.js", "queue.js", "charts.js"].map(str::to_owned));
    for name in names {
        let text = harness.get(&format!("/page/{name}")).await.text;
        let banned = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "localStorage", "document.cookie"];
        for word in banned {
            assert!(!text.contains(word), "{name} says {word}");
        }
    }
}

#[tokio::test]
async fn the_queue_is_told_by_class_and_project() {
    let harness = Harness::start();
    for project in ["team/b", "team/a", "team/b"] {
        harness.submit(&format!(r#"{{"image":"debian","command":["true"],"project":"{project}"}}"#)).await;
    }
    harness.submit(r#"{"image":"debian","command":["true"]}"#).await;
    let queue = harness.get("/queue").await.json();
    let groups: Vec<_> = queue["groups"].as_array().expect("groups").iter().map(|group| (group["project"].clone(), group["jobs"].clone())).collect();
    assert_eq!(groups.len(), 3, "{queue}");
    for expected in [(json!("team/b"), json!(2)), (json!("team/a"), json!(1)), (json!(null), json!(1))] {
        assert!(groups.contains(&expected), "{queue}");
    }
    assert_eq!((&queue["groups"][0]["class"], &queue["more"]), (&json!("default"), &json!(false)));
    let history = harness.get("/history").await.json();
    assert_eq!((&history["interval_seconds"], &history["samples"]), (&json!(60), &json!([])), "nobody samples here");
}
