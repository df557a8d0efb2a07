//! The page at `/`: plain files that are part of the program. They hold no data, so they need no token; what they show is asked of the API
//! with the token that the visitor gives.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::security::sha256;

/// Nothing from elsewhere, nothing inline, in no frame; and the browser itself refuses text that would become markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// Kept, and asked about each time: an update of the daemon must not meet yesterday's scripts.
const CACHING: &str = "no-cache";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const INDEX: File = File { name: "index.html", kind: "text/html; charset=utf-8", text: include_str!("page/index.html") };

const fn script(name: &'static str, text: &'static str) -> File {
    File { name, kind: "text/javascript; charset=utf-8", text }
}

/// Everything that the page loads, from `/page/`.
const FILES: [File; 17] = [
    File { name: "style.css", kind: "text/css; charset=utf-8", text: include_str!("page/style.css") },
    File { name: "views.css", kind: "text/css; charset=utf-8", text: include_str!("page/views.css") },
    File { name: "icon.svg", kind: "image/svg+xml", text: include_str!("page/icon.svg") },
    script("actions.js", include_str!("page/actions.js")),
    script("ansi.js", include_str!("page/ansi.js")),
    script("api.js", include_str!("page/api.js")),
    script("app.js", include_str!("page/app.js")),
    script("charts.js", include_str!("page/charts.js")),
    script("dom.js", include_str!("page/dom.js")),
    script("job.js", include_str!("page/job.js")),
    script("jobs.js", include_str!("page/jobs.js")),
    script("live.js", include_str!("page/live.js")),
    script("log.js", include_str!("page/log.js")),
    script("machine.js", include_str!("page/machine.js")),
    script("overview.js", include_str!("page/overview.js")),
    script("queue.js", include_str!("page/queue.js")),
    script("timeline.js", include_str!("page/timeline.js")),
];

/// One tag for all files: they belong together, and change together.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let all: String = FILES.iter().chain([&INDEX]).map(|file| file.text).collect();
    let mut digest = [0; 8];
    digest.copy_from_slice(&sha256(all.as_bytes())[..8]);
    format!("\"{:016x}\"", u64::from_be_bytes(digest))
});

/// `GET /`.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "getPage",
    tag = "page",
    summary = "The page for browsers",
    description = "It holds no data, so it needs no token.",
    params(("If-None-Match" = Option<String>, Header, description = "An `ETag` of an earlier answer.")),
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html; charset=utf-8", headers(("ETag" = String, description = "Changes with the page."))),
        (status = 304, description = "It is still the one that is known."),
    ),
    extensions(("x-role" = json!("none")), ("x-problems" = json!([]))),
)]
pub(super) async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

/// `GET /page/{name}`.
#[utoipa::path(
    get,
    path = "/page/{name}",
    operation_id = "getPageFile",
    tag = "page",
    summary = "A file of the page",
    description = "It holds no data, so it needs no token.",
    params(
        ("name" = String, Path, description = "The name of a file that the page loads."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of an earlier answer."),
    ),
    responses(
        (status = 200, description = "The file.", headers(("ETag" = String, description = "Changes with the page.")), content(
            (String = "text/css; charset=utf-8"),
            (String = "text/javascript; charset=utf-8"),
            (String = "image/svg+xml"),
        )),
        (status = 304, description = "It is still the one that is known."),
    ),
    extensions(("x-role" = json!("none")), ("x-problems" = json!(["no-such-path"]))),
)]
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let file = FILES.iter().find(|file| file.name == name).ok_or(Problem::NoSuchPath)?;
    Ok(answer(file, &headers))
}

fn answer(file: &File, headers: &HeaderMap) -> Response {
    let tag = TAG.as_str();
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let current = known.flat_map(|tags| tags.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag);
    let fixed = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, CACHING),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CONTENT_TYPE, file.kind),
        // No window that opens the page, or that it opens, gets hold of it.
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    if current { (StatusCode::NOT_MODIFIED, fixed).into_response() } else { (fixed, file.text).into_response() }
}
