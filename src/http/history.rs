//! `GET /history`: the last hours in numbers, one sample a minute, for charts.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Viewer;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;
use crate::jobs::Sample;
use crate::jobs::history::{EVERY, KEPT};

/// The last hours.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = History)]
pub struct HistoryDto {
    /// Time between two samples.
    interval_seconds: u64,
    /// Most samples that are kept.
    kept: usize,
    /// Oldest first. None is older than the daemon's start.
    samples: Vec<SampleDto>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HistorySample)]
struct SampleDto {
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    queued: u64,
    oldest_wait_seconds: u64,
    running: u64,
    gpus_busy: usize,
    gpus_total: usize,
    /// The mean of the busy GPUs; `null` where none is busy or none could be read.
    gpu_percent: Option<u32>,
}

impl From<Sample> for SampleDto {
    fn from(sample: Sample) -> Self {
        let Sample { at, queued, oldest_wait_seconds, running, gpus_busy, gpus_total, gpu_percent } = sample;
        Self { at, queued, oldest_wait_seconds, running, gpus_busy, gpus_total, gpu_percent }
    }
}

/// `GET /history`.
#[utoipa::path(
    get,
    path = "/history",
    operation_id = "getHistory",
    tag = "daemon",
    summary = "The last hours in numbers",
    description = "",
    responses(
        (status = 200, description = "A sample a minute.", body = HistoryDto),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter"]))),
)]
pub(super) async fn samples(_viewer: Viewer, State(state): State<AppState>, params: Params) -> Result<Json<HistoryDto>, Problem> {
    params.finish()?;
    let samples = state.history.samples().into_iter().map(SampleDto::from).collect();
    Ok(Json(HistoryDto { interval_seconds: EVERY.as_secs(), kept: KEPT, samples }))
}
