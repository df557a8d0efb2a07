//! What the outside meets: the REST API, GitLab's webhook, and their limits. A handler takes a request apart, makes one call, and maps the
//! answer; nothing is decided here that another room could decide.
//!
//! ```text
//! layers ─▶ extract (token, JSON, parameters) ─▶ handler ─▶ store | manager ─▶ dto
//!   └────────────── problem ◀──────────────────────┘ every error, in one place
//! ```

mod audit;
pub mod broker;
mod configuration;
pub mod dto;
pub mod events;
pub mod explain;
pub mod extract;
mod faces;
pub mod gitlab_queue;
mod gpus;
pub mod health;
pub mod history;
pub mod hosts;
pub mod jobs;
pub mod layers;
pub mod logs;
pub mod metrics;
mod openapi;
mod pace;
pub mod page;
pub mod params;
pub mod problem;
pub mod queue;
pub mod rations;
pub mod retry;
pub mod runners;
pub mod scope;
mod serve;
pub mod state;
pub mod submit;
mod tls;
pub mod webhook;
mod wire;

pub use broker::broker_router;
pub(crate) use hosts::HostDto;
pub use metrics::metered;
pub use serve::{Doors, serve};
pub use state::AppState;

use std::sync::Arc;

use axum::{Extension, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use problem::Problem;

use crate::config::Limits;
use crate::domain::MemoryBytes;

/// Everything that is served to people, programs and GitLab. The broker has a router and an address of its own.
pub fn router(state: AppState) -> Router {
    let (config, counted, rations) = (state.config.clone(), Arc::clone(&state.metrics), state.rations.clone());
    let (log, clock) = (state.audit.clone(), Arc::clone(&state.clock));
    let most = |limit: fn(&Limits) -> MemoryBytes| {
        let config = config.clone();
        move || limit(&config.current().limits)
    };
    let routes = layers::limited(api().into(), &rations, most(|limits| limits.body))
        .merge(layers::limited(bell().into(), &rations, most(|limits| limits.webhook_body)))
        .fallback(async || Problem::NoSuchPath)
        .method_not_allowed_fallback(async || Problem::NoSuchMethod)
        .with_state(state);
    metered(layers::surround(audit::audited(layers::rationed(routes, rations), log, clock)), counted)
}

/// The same routes for the Unix socket: whoever can open its file is `operator`.
pub fn through_socket(routes: Router) -> Router {
    routes.layer(Extension(extract::ThroughSocket))
}

/// The API and the page. How an endpoint is added stands in [`openapi`].
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::status))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::drain))
        .routes(routes!(hosts::resume))
        .routes(routes!(gpus::quarantine))
        .routes(routes!(gpus::release))
        .routes(routes!(runners::list, runners::spawn))
        .routes(routes!(runners::one, runners::terminate))
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::one, jobs::cancel))
        .routes(routes!(retry::again))
        .routes(routes!(explain::of_job))
        .routes(routes!(logs::of_job))
        .routes(routes!(events::of_job))
        .routes(routes!(events::stream_all))
        .routes(routes!(queue::groups))
        .routes(routes!(history::samples))
        .routes(routes!(metrics::scrape))
        .routes(routes!(openapi::served))
        .routes(routes!(page::index))
        .routes(routes!(page::file))
}

/// What GitLab calls, with bodies of its own size.
fn bell() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(webhook::receive))
}

/// What the handlers of all routes say of themselves.
fn described() -> utoipa::openapi::OpenApi {
    api().merge(bell()).into_openapi()
}

#[cfg(test)]
mod audit_tests;
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
mod operator_tests;
#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod router_tests;
#[cfg(test)]
mod scope_tests;
#[cfg(test)]
mod webhook_tests;
