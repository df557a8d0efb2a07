//! What the outside meets: the REST API, GitLab's webhook, and their limits. A handler takes a request apart, makes one call, and maps the
//! answer; nothing is decided here that another room could decide.
//!
//! ```text
//! layers ─▶ extract (token, JSON, parameters) ─▶ handler ─▶ store | manager ─▶ dto
//!   └────────────── problem ◀──────────────────────┘ every error, in one place
//! ```

pub mod broker;
pub mod dto;
pub mod events;
pub mod explain;
pub mod extract;
pub mod gitlab_queue;
mod gpus;
pub mod health;
pub mod history;
pub mod hosts;
pub mod jobs;
pub mod layers;
pub mod logs;
pub mod page;
pub mod params;
pub mod problem;
pub mod queue;
pub mod runners;
pub mod state;
pub mod submit;
pub mod webhook;

pub use broker::broker_router;
pub use state::AppState;

use axum::routing::{get, post};
use axum::{Extension, Router};

use problem::Problem;

/// Everything that is served to people, programs and GitLab. The broker has a router and an address of its own.
pub fn router(state: AppState) -> Router {
    let limits = &state.config.limits;
    let api = Router::new()
        .route("/health", get(health::health))
        .route("/status", get(health::status))
        .route("/hosts", get(hosts::list))
        .route("/gpus/{id}/quarantine", post(gpus::quarantine))
        .route("/gpus/{id}/release", post(gpus::release))
        .route("/runners", get(runners::list).post(runners::spawn))
        .route("/runners/{id}", get(runners::one).delete(runners::terminate))
        .route("/jobs", get(jobs::list).post(jobs::submit))
        .route("/jobs/{id}", get(jobs::one).delete(jobs::cancel))
        .route("/jobs/{id}/explain", get(explain::of_job))
        .route("/jobs/{id}/logs", get(logs::of_job))
        .route("/jobs/{id}/events", get(events::of_job))
        .route("/events", get(events::stream_all))
        .route("/queue", get(queue::groups))
        .route("/history", get(history::samples))
        .merge(page::routes());
    let bell = Router::new().route("/webhook/job", post(webhook::receive));
    let routes = layers::limited(api, limits.body)
        .merge(layers::limited(bell, limits.webhook_body))
        .fallback(async || Problem::NoSuchPath)
        .method_not_allowed_fallback(async || Problem::NoSuchMethod)
        .with_state(state);
    layers::surround(routes)
}

/// The same routes for the Unix socket: whoever can open its file is `operator`.
pub fn through_socket(routes: Router) -> Router {
    routes.layer(Extension(extract::ThroughSocket))
}

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod explain_tests;
#[cfg(test)]
#[path = "harness_tests.rs"]
mod harness;
#[cfg(test)]
mod jobs_tests;
#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod router_tests;
#[cfg(test)]
mod webhook_tests;
