//! The part of GitLab's REST API with which an administrator makes runners and webhooks. A webhook made here is the one that events go to.
//!
//! As in GitLab: a runner's token is shown once, a webhook's secrets never; a webhook whose address changes loses its secrets; a runner may
//! not have a longest time below ten minutes; push events are on unless they are switched off.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, routing::post};
use serde_json::{Value, json};

use super::GitLab;
use super::rest::authorised;
use super::state::{Inner, Runner, Shared, random_hex};
use super::webhook::{Delivery, Hook};

/// The one project.
pub(crate) const PROJECT: (i64, &str) = (282, "team/app");
/// The one group.
pub(crate) const GROUP: (i64, &str) = (12, "team");

/// What is known of runners and webhooks beyond what jobs and events need.
#[derive(Default)]
pub(super) struct Admin {
    /// `POST /user/runners` keeps here what has no meaning for jobs, by id.
    runners: BTreeMap<i64, Entity>,
    hooks: Vec<HookEntity>,
    last_hook: i64,
    edition: Edition,
}

/// A runner's other half.
struct Entity {
    /// `projects/282` or `groups/12`.
    owner: String,
    fields: Value,
}

struct HookEntity {
    id: i64,
    owner: String,
    fields: Value,
    token: Option<String>,
    signing_token: Option<String>,
    /// How many events had been sent when it was made.
    since: usize,
}

/// Which GitLab this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Edition {
    /// 19.1 with a licence.
    #[default]
    Licensed,
    /// Without: groups have no webhooks.
    Free,
    /// 18: cannot sign webhooks.
    Old,
    /// Refuses webhooks to private addresses.
    NoPrivateAddresses,
}

/// The routes.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v4/projects/{project}", get(call))
        .route("/api/v4/groups/{group}", get(call))
        .route("/api/v4/projects/{project}/runners", get(call))
        .route("/api/v4/groups/{group}/runners", get(call))
        .route("/api/v4/user/runners", post(call))
        .route("/api/v4/runners/{id}", any(call))
        .route("/api/v4/runners/{id}/reset_authentication_token", post(call))
        .route("/api/v4/projects/{project}/hooks", any(call))
        .route("/api/v4/groups/{group}/hooks", any(call))
        .route("/api/v4/projects/{project}/hooks/{hook}", any(call))
        .route("/api/v4/groups/{group}/hooks/{hook}", any(call))
        .route("/api/v4/projects/{project}/hooks/{hook}/events", get(call))
        .route("/api/v4/groups/{group}/hooks/{hook}/events", get(call))
}

async fn call(State(shared): State<Arc<Shared>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refusal) = authorised(&headers) {
        return *refusal;
    }
    let path = uri.path().trim_start_matches("/api/v4/").replace("%2F", "\n");
    let segments: Vec<&str> = path.split('/').collect();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().unwrap_or_default();
    shared.write(|inner| match (method.as_str(), segments.as_slice()) {
        ("GET", [kind, owner]) if *kind != "runners" => show_owner(kind, &owner.replace('\n', "/")),
        ("GET", [kind, owner, "runners"]) => list_runners(inner, &format!("{kind}/{owner}")),
        ("POST", ["user", "runners"]) => create_runner(inner, body),
        ("GET", ["runners", id]) => show_runner(inner, number(id)),
        ("PUT", ["runners", id]) => update_runner(inner, number(id), &body),
        ("DELETE", ["runners", id]) => delete_runner(inner, number(id)),
        ("POST", ["runners", id, "reset_authentication_token"]) => reset_token(inner, number(id)),
        (_, ["groups", _, "hooks", ..]) if inner.admin.edition == Edition::Free => not_found(),
        ("GET", [kind, owner, "hooks"]) => list_hooks(inner, &format!("{kind}/{owner}")),
        ("POST", [kind, owner, "hooks"]) => create_hook(inner, &format!("{kind}/{owner}"), &body),
        ("PUT", [kind, owner, "hooks", id]) => update_hook(inner, &format!("{kind}/{owner}"), number(id), &body),
        ("DELETE", [kind, owner, "hooks", id]) => delete_hook(inner, &format!("{kind}/{owner}"), number(id)),
        ("GET", [kind, owner, "hooks", id, "events"]) => list_events(inner, &format!("{kind}/{owner}"), number(id)),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    })
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "message": "404 Not Found" }))).into_response()
}

fn invalid(message: &str) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": message }))).into_response()
}

fn show_owner(kind: &str, asked: &str) -> Response {
    let ((id, path), field) = if kind == "projects" { (PROJECT, "path_with_namespace") } else { (GROUP, "full_path") };
    if asked != path && asked != id.to_string() {
        return not_found();
    }
    Json(json!({ "id": id, field: path })).into_response()
}

fn list_runners(inner: &Inner, owner: &str) -> Response {
    let brief = |(id, entity): (&i64, &Entity)| json!({ "id": id, "description": entity.fields["description"], "runner_type": "project_type" });
    let listed: Vec<Value> = inner.admin.runners.iter().filter(|(_, entity)| entity.owner == owner).map(brief).collect();
    Json(listed).into_response()
}

fn create_runner(inner: &mut Inner, body: Value) -> Response {
    let owner = match body["runner_type"].as_str() {
        Some("project_type") if body["project_id"] == PROJECT.0 => format!("projects/{}", PROJECT.0),
        Some("group_type") if body["group_id"] == GROUP.0 => format!("groups/{}", GROUP.0),
        _ => return invalid("runner_type, project_id or group_id"),
    };
    if let Some(fault) = fault_of(&body) {
        return fault;
    }
    let id = inner.runners.iter().map(|runner| runner.id + 1).max().unwrap_or(205);
    let token = format!("glrt-{}", random_hex());
    inner.runners.push(Runner { id, token: token.clone(), tags: tags(&body), paused: body["paused"] == true });
    inner.admin.runners.insert(id, Entity { owner, fields: body });
    (StatusCode::CREATED, Json(json!({ "id": id, "token": token, "token_expires_at": null }))).into_response()
}

/// GitLab's rules: some jobs can come, and have at least ten minutes.
fn fault_of(body: &Value) -> Option<Response> {
    if body["maximum_timeout"].as_i64().is_some_and(|seconds| seconds < 600) {
        return Some(invalid("maximum_timeout needs to be at least 10 minutes"));
    }
    let idle = body["run_untagged"] == false && tags(body).is_empty();
    idle.then(|| invalid("tags_list can not be empty when runner is not allowed to pick untagged jobs"))
}

fn tags(body: &Value) -> Vec<String> {
    let tags = body["tag_list"].as_array().into_iter().flatten();
    tags.filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
}

fn show_runner(inner: &Inner, id: i64) -> Response {
    let Some(runner) = inner.runners.iter().find(|runner| runner.id == id) else { return not_found() };
    let fields = inner.admin.runners.get(&id).map(|entity| entity.fields.clone()).unwrap_or_default();
    let record = json!({
        "id": id,
        "description": fields["description"],
        "paused": runner.paused,
        "tag_list": runner.tags,
        "run_untagged": fields["run_untagged"].as_bool().unwrap_or(runner.tags.is_empty()),
        "maximum_timeout": fields["maximum_timeout"],
        "online": true,
        "projects": [],
    });
    Json(record).into_response()
}

fn update_runner(inner: &mut Inner, id: i64, body: &Value) -> Response {
    if let Some(fault) = fault_of(body) {
        return fault;
    }
    let Some(runner) = inner.runners.iter_mut().find(|runner| runner.id == id) else { return not_found() };
    if body.get("tag_list").is_some() {
        runner.tags = tags(body);
    }
    runner.paused = body["paused"].as_bool().unwrap_or(runner.paused);
    if let Some(entity) = inner.admin.runners.get_mut(&id) {
        merge(&mut entity.fields, body);
    }
    inner.queue_version += 1;
    show_runner(inner, id)
}

fn delete_runner(inner: &mut Inner, id: i64) -> Response {
    let before = inner.runners.len();
    inner.runners.retain(|runner| runner.id != id);
    inner.admin.runners.remove(&id);
    if inner.runners.len() == before { not_found() } else { StatusCode::NO_CONTENT.into_response() }
}

fn reset_token(inner: &mut Inner, id: i64) -> Response {
    let Some(runner) = inner.runners.iter_mut().find(|runner| runner.id == id) else { return not_found() };
    runner.token = format!("glrt-{}", random_hex());
    (StatusCode::CREATED, Json(json!({ "token": runner.token, "token_expires_at": null }))).into_response()
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn hook_json(inner: &Inner, hook: &HookEntity) -> Value {
    let mut shown = hook.fields.clone();
    shown["id"] = hook.id.into();
    if inner.admin.edition != Edition::Old {
        shown["token_present"] = hook.token.is_some().into();
        shown["signing_token_present"] = hook.signing_token.is_some().into();
    }
    shown
}

fn list_hooks(inner: &Inner, owner: &str) -> Response {
    let listed: Vec<Value> = inner.admin.hooks.iter().filter(|hook| hook.owner == owner).map(|hook| hook_json(inner, hook)).collect();
    Json(listed).into_response()
}

fn create_hook(inner: &mut Inner, owner: &str, body: &Value) -> Response {
    inner.admin.last_hook += 1;
    let id = inner.admin.last_hook;
    let fields = json!({ "push_events": true, "job_events": false, "alert_status": "executable", "disabled_until": null, "description": null });
    let since = inner.deliveries.len();
    inner.admin.hooks.push(HookEntity { id, owner: owner.to_owned(), fields, token: None, signing_token: None, since });
    let answer = update_hook(inner, owner, id, body);
    if answer.status() == StatusCode::OK {
        return (StatusCode::CREATED, answer.into_body()).into_response();
    }
    inner.admin.hooks.retain(|hook| hook.id != id);
    answer
}

fn update_hook(inner: &mut Inner, owner: &str, id: i64, body: &Value) -> Response {
    let edition = inner.admin.edition;
    let Some(url) = body["url"].as_str() else { return invalid("url is missing") };
    if edition == Edition::NoPrivateAddresses {
        return invalid("Invalid url given");
    }
    let signing = body["signing_token"].as_str().filter(|_| edition != Edition::Old);
    if signing.is_some_and(|token| token.len() != 50 || !token.starts_with("whsec_")) {
        return invalid("signing_token must be whsec_ and the base64 of 32 bytes");
    }
    let Some(hook) = inner.admin.hooks.iter_mut().find(|hook| hook.id == id && hook.owner == owner) else { return not_found() };
    if hook.fields["url"].as_str().is_some_and(|old| old != url) {
        (hook.token, hook.signing_token) = (None, None);
    }
    let mut fields = body.clone();
    if let Some(fields) = fields.as_object_mut() {
        let token = fields.remove("token").and_then(|token| token.as_str().map(str::to_owned));
        fields.remove("signing_token");
        hook.token = token.or(hook.token.take());
    }
    hook.signing_token = signing.map(str::to_owned).or(hook.signing_token.take());
    merge(&mut hook.fields, &fields);
    ring_with(inner, id);
    let hook = inner.admin.hooks.iter().find(|hook| hook.id == id);
    hook.map_or_else(not_found, |hook| Json(hook_json(inner, hook)).into_response())
}

/// Makes this webhook the one that events go to, if it wants Job events.
fn ring_with(inner: &mut Inner, id: i64) {
    let Some(hook) = inner.admin.hooks.iter().find(|hook| hook.id == id) else { return };
    let url = hook.fields["url"].as_str().unwrap_or_default().to_owned();
    let rings = hook.fields["job_events"] == true;
    inner.hook = rings.then(|| Hook { url, secret_token: hook.token.clone(), signing_token: hook.signing_token.clone() });
}

fn delete_hook(inner: &mut Inner, owner: &str, id: i64) -> Response {
    let before = inner.admin.hooks.len();
    inner.admin.hooks.retain(|hook| hook.id != id || hook.owner != owner);
    if inner.admin.hooks.len() == before {
        return not_found();
    }
    inner.hook = None;
    StatusCode::NO_CONTENT.into_response()
}

fn list_events(inner: &Inner, owner: &str, id: i64) -> Response {
    let Some(hook) = inner.admin.hooks.iter().find(|hook| hook.id == id && hook.owner == owner) else { return not_found() };
    let event = |(number, delivery): (usize, &Delivery)| {
        let status = delivery.status.map_or_else(|| "internal error".to_owned(), |status| status.to_string());
        let message = delivery.status.is_none().then_some(&delivery.body);
        json!({ "id": number + 1, "trigger": "job_hooks", "response_status": status, "internal_error_message": message })
    };
    let newest_first: Vec<Value> = inner.deliveries.iter().enumerate().skip(hook.since).map(event).rev().collect();
    Json(newest_first).into_response()
}

impl GitLab {
    /// Becomes another GitLab.
    pub(crate) fn edition(&self, edition: Edition) {
        self.shared.write(|inner| inner.admin.edition = edition);
    }

    /// Changes a webhook's field as a person in the page, or GitLab itself, does.
    pub(crate) fn set_hook_field(&self, id: i64, field: &str, value: &Value) {
        self.shared.write(|inner| {
            if let Some(hook) = inner.admin.hooks.iter_mut().find(|hook| hook.id == id) {
                hook.fields[field] = value.clone();
            }
            ring_with(inner, id);
        });
    }

    /// Deletes a webhook as a person does.
    pub(crate) fn delete_hook(&self, id: i64) {
        self.shared.write(|inner| inner.admin.hooks.retain(|hook| hook.id != id));
    }

    /// Notes an event that GitLab could not send, in its words.
    pub(crate) fn note_lost_event(&self, words: &str) {
        let delivery = Delivery { job: 0, build_status: String::new(), idempotency_key: String::new(), status: None, body: words.to_owned() };
        self.shared.write(|inner| inner.deliveries.push(delivery));
    }

    /// Runners that were made by `POST /user/runners`, with their tags.
    pub(crate) fn made_runners(&self) -> Vec<(i64, Vec<String>)> {
        self.shared.read(|inner| {
            let made = inner.runners.iter().filter(|runner| inner.admin.runners.contains_key(&runner.id));
            made.map(|runner| (runner.id, runner.tags.clone())).collect()
        })
    }

    /// Changes a runner's tags as a person does.
    pub(crate) fn set_runner_tags(&self, id: i64, tags: &[&str]) {
        self.shared.write(|inner| {
            if let Some(runner) = inner.runners.iter_mut().find(|runner| runner.id == id) {
                runner.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
            }
        });
    }
}
