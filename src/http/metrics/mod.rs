//! `GET /metrics`: what was counted since the start and how it is now, as text for Prometheus.
//!
//! A scrape costs the same however long the queue is. A store that does not answer costs its part of the text, not the rest: that is when
//! the rest is needed most.

mod meter;
mod now;

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use self::now::{Facts, Now};
use super::extract::Viewer;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::domain::{ClassName, DiskUse};
use crate::metrics::{Description, Format, Metrics, end};
use crate::platform::process;
use crate::store::{ClassQueue, Counts, StoreError};

pub use self::meter::metered;

/// Longest wait for the store, and for the file system. Prometheus itself gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// `OpenMetrics` in the version that is written.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Prometheus's older text.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics`.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "machines",
    summary = "What is counted and how it is now, for Prometheus",
    description = "Prometheus's text, or OpenMetrics where `Accept` asks for it. Cheap however long the queue is; without the store's part when the store does not answer.",
    responses(
        (status = 200, description = "The metrics.", content(
            (String = "text/plain; version=0.0.4; charset=utf-8"),
            (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        )),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter"]))),
)]
pub(super) async fn scrape(_viewer: Viewer, State(state): State<AppState>, headers: HeaderMap, params: Params) -> Result<Response, Problem> {
    params.finish()?;
    let format = format(&headers);
    let (stored, room) = tokio::join!(stored(&state), room(&state));
    let (status, config) = (state.manager.status(), state.config.current());
    let facts = Facts {
        now: state.clock.now(),
        started_at: state.started_at,
        config: &config,
        status: &status,
        stored,
        process: process::process().ok(),
        room,
        streams: state.rations.open_streams(),
        store_wait: state.metrics.store_waits.oldest(),
        tasks: state.manager.tasks().states(),
    };
    let now = Now::new();
    now.fill(&facts);
    let mut text = String::with_capacity(64 << 10);
    let written = now.registrar.write(format, &mut text).and_then(|()| state.metrics.write(format, &mut text)).and_then(|()| end(format, &mut text));
    written.map_err(|_| Problem::Internal)?;
    let kind = match format {
        Format::OpenMetrics => OPEN_METRICS,
        Format::Prometheus => PLAIN,
    };
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Every metric there is, as the documentation lists them: by name.
#[must_use]
pub fn catalogue() -> Vec<Description> {
    let mut all = [Now::new().registrar.descriptions(), Metrics::default().descriptions()].concat();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Prometheus asks for what it likes best; everybody else gets what everybody can read.
fn format(headers: &HeaderMap) -> Format {
    let wanted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = wanted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("application/openmetrics-text"));
    if open { Format::OpenMetrics } else { Format::Prometheus }
}

async fn stored(state: &AppState) -> Option<(Counts, Vec<ClassQueue>)> {
    let classes: Vec<ClassName> = state.config.current().classes.iter().map(|class| class.name.clone()).collect();
    let read = async { Ok::<_, StoreError>((state.store.counts().await?, state.store.class_queues(&classes).await?)) };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(stored)) => Some(stored),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store told nothing for the metrics: {error}");
            None
        }
        Err(_) => None,
    }
}

/// A file system that hangs is asked once at a time: the permit goes with the thread that waits for it.
async fn room(state: &AppState) -> Option<DiskUse> {
    let permit = state.rations.look_at_disk()?;
    let path = state.config.current().data_dir.clone();
    let look = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        process::disk_use(&path).ok()
    });
    tokio::time::timeout(PATIENCE, look).await.ok()?.ok()?
}

#[cfg(test)]
mod tests;
