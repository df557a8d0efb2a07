//! `GET /queue`: what waits, by class and project.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Viewer;
use super::health::seconds_between;
use super::params::Params;
use super::problem::Problem;
use super::state::AppState;

/// Most waiting jobs that are looked at, the oldest: the answer is for people and must stay quick.
const MOST_JOBS: u32 = 50_000;
/// Most groups that are told, those with the oldest jobs.
const MOST_GROUPS: usize = 200;

/// What waits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
pub struct QueueDto {
    /// The group whose oldest job waits longest comes first.
    groups: Vec<GroupDto>,
    /// Whether more waits than is told here.
    more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueueGroup)]
struct GroupDto {
    class: String,
    project: Option<String>,
    jobs: u64,
    #[schema(value_type = String, format = DateTime)]
    oldest_queued_at: Timestamp,
    oldest_wait_seconds: u64,
}

/// `GET /queue`.
#[utoipa::path(
    get,
    path = "/queue",
    operation_id = "getQueue",
    tag = "daemon",
    summary = "What waits, by class and project",
    description = "",
    responses(
        (status = 200, description = "What waits.", body = QueueDto),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter", "store-unavailable"]))),
)]
pub(super) async fn groups(_viewer: Viewer, State(state): State<AppState>, params: Params) -> Result<Json<QueueDto>, Problem> {
    params.finish()?;
    let found = state.store.queue_groups(MOST_JOBS).await?;
    let now = state.clock.now();
    let counted: u64 = found.iter().map(|group| group.jobs).sum();
    let more = found.len() > MOST_GROUPS || counted >= u64::from(MOST_JOBS);
    let groups = found.into_iter().take(MOST_GROUPS).map(|group| GroupDto {
        class: group.class.to_string(),
        project: group.project.map(|project| project.to_string()),
        jobs: group.jobs,
        oldest_queued_at: group.oldest,
        oldest_wait_seconds: seconds_between(group.oldest, now),
    });
    Ok(Json(QueueDto { groups: groups.collect(), more }))
}
