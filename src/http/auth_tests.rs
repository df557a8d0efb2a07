//! Who may do what: every route with every kind of caller.

use axum::http::StatusCode;

use crate::http::audit::From;
use crate::http::harness::{Harness, OPERATOR, VIEWER, request};

/// Every route that asks for a role, and the least role.
const ROUTES: [(&str, &str, &str); 17] = [
    ("GET", "/status", "viewer"),
    ("GET", "/hosts", "viewer"),
    ("GET", "/runners", "viewer"),
    ("GET", "/runners/0", "viewer"),
    ("GET", "/jobs", "viewer"),
    ("GET", "/jobs/0", "viewer"),
    ("GET", "/jobs/0/logs", "viewer"),
    ("GET", "/jobs/0/events", "viewer"),
    ("GET", "/queue", "viewer"),
    ("GET", "/history", "viewer"),
    ("GET", "/metrics", "viewer"),
    ("POST", "/jobs", "operator"),
    ("DELETE", "/jobs/0", "operator"),
    ("POST", "/runners", "operator"),
    ("DELETE", "/runners/0", "operator"),
    ("POST", "/gpus/0/quarantine", "operator"),
    ("POST", "/gpus/0/release", "operator"),
];

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let harness = Harness::guarded();
    let (viewer, operator) = (format!("Bearer {VIEWER}"), format!("bearer {OPERATOR}"));
    for (method, path, least) in ROUTES {
        let status = async |authorization: Option<&str>| {
            let headers: Vec<(&str, &str)> = authorization.map(|value| ("authorization", value)).into_iter().collect();
            harness.send(request(method, path, &headers, "")).await
        };
        for nobody in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic dTpw"), Some(VIEWER)] {
            let answer = status(nobody).await;
            assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"), "{method} {path} {nobody:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
        }
        let as_viewer = status(Some(&viewer)).await;
        if least == "operator" {
            assert_eq!((as_viewer.status, as_viewer.problem().as_str()), (StatusCode::FORBIDDEN, "forbidden"), "{method} {path}");
        } else {
            assert!(![401, 403].contains(&as_viewer.status.as_u16()), "{method} {path}: {}", as_viewer.status);
        }
        let as_operator = status(Some(&operator)).await;
        assert!(![401, 403].contains(&as_operator.status.as_u16()), "{method} {path}: {}", as_operator.status);
    }
    for path in ["/events", "/events?after=now"] {
        let events = harness.open(request("GET", path, &[], "")).await;
        assert_eq!(events.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_ne!(harness.get("/health").await.status, StatusCode::UNAUTHORIZED, "health needs no token");
}

#[tokio::test]
async fn through_the_socket_everybody_is_operator_whatever_the_request_says() {
    let headers = [("host", "evil.example"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site"), ("authorization", "Bearer wrong")];
    for harness in [Harness::guarded().through_socket(), Harness::start().through_socket()] {
        for (method, path, _) in ROUTES {
            for headers in [&headers[..], &[]] {
                let answer = harness.send(request(method, path, headers, "")).await;
                assert!(![401, 403].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn without_tokens_everybody_on_this_machine_is_operator_and_nobody_else() {
    let harness = Harness::start();
    assert_eq!(harness.send(request("GET", "/jobs", &[("host", "localhost:8080")], "")).await.status, StatusCode::OK);
    for (method, path) in [("GET", "/jobs"), ("DELETE", "/jobs/0")] {
        let answer = harness.send(request(method, path, &[("host", "rebound.example:8080")], "")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::FORBIDDEN, "foreign-host"), "{method} {path}");
    }
}

#[tokio::test]
async fn without_tokens_a_page_of_another_site_can_do_nothing() {
    let harness = Harness::start();
    let status = async |headers: &[(&str, &str)]| {
        let with_host: Vec<(&str, &str)> = std::iter::once(("host", "localhost:8080")).chain(headers.iter().copied()).collect();
        harness.send(request("POST", "/gpus/0/release", &with_host, "")).await.status
    };
    for ours in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")],
        &[("sec-fetch-site", "none")],
        &[("origin", "http://localhost:8080")],
    ] {
        assert_eq!(status(ours).await, StatusCode::NOT_FOUND, "{ours:?}");
    }
    for theirs in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:9090")],
        &[("sec-fetch-site", "")],
        &[("origin", "https://evil.example")],
        &[("origin", "http://localhost:9090")],
        &[("origin", "null")],
    ] {
        assert_eq!(status(theirs).await, StatusCode::FORBIDDEN, "{theirs:?}");
    }
}

#[tokio::test]
async fn whoever_comes_too_often_is_told_when_to_come_again_and_keeps_nobody_else_out() {
    let harness = Harness::guarded_with("limits.token_requests = 1\nlimits.address_refusals = 1");
    let ask = async |token: Option<&str>, ip: [u8; 4]| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        let mut asked = request("GET", "/jobs", &headers, "");
        asked.extensions_mut().insert(From(ip.into()));
        harness.send(asked).await
    };
    let all = async |token, ip| {
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(ask(token, ip).await.status.as_u16());
        }
        statuses.dedup();
        statuses
    };
    assert_eq!(all(Some(VIEWER), [10, 0, 0, 1]).await, [200, 429]);
    let refused = ask(Some(VIEWER), [10, 0, 0, 2]).await;
    assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (429, "too-fast"), "wherever it comes from");
    assert!((1..=2).contains(&refused.header("retry-after").parse::<u32>().expect("seconds")));
    assert_eq!(refused.json()["detail"], "limits.token_requests is 1 a second");
    assert_eq!(all(Some("wrong"), [10, 0, 0, 1]).await, [401, 429]);
    assert_eq!(ask(None, [10, 0, 0, 1]).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(None, [10, 0, 0, 2]).await.status, StatusCode::UNAUTHORIZED, "another address");
    assert_eq!(ask(Some(OPERATOR), [10, 0, 0, 1]).await.status, StatusCode::OK, "who has a token comes in from there, too");
}
