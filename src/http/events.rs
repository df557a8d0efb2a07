//! The history: of one job as a list, of everything as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::dto::EventDto;
use super::extract::Viewer;
use super::openapi::fields;
use super::params::{self, Params};
use super::problem::Problem;
use super::rations::Permit;
use super::scope::Watcher;
use super::state::AppState;
use crate::domain::{Event, FieldFault, JobId};
use crate::store::{EventQuery, Store};

/// Most events that a stream holds at once.
const BATCH: u32 = 256;
/// A sign of life on a quiet stream, so that proxies and clients keep it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After a broken connection a browser asks again this soon.
const RECONNECT: Duration = Duration::from_secs(2);

/// A part of a job's history.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventList {
    events: Vec<EventDto>,
    /// What to give as `after` for the rest; `null` when this was all.
    next_after: Option<i64>,
}

fn position(name: &str, text: &str) -> Result<i64, FieldFault> {
    text.parse().ok().filter(|seq| *seq >= 0).ok_or_else(|| FieldFault::new(name, "must be the seq of an event, 0 or higher"))
}

/// `GET /jobs/{id}/events`: oldest first.
#[utoipa::path(
    get,
    path = "/jobs/{id}/events",
    operation_id = "listJobEvents",
    tag = "jobs",
    summary = "A job's history, oldest first",
    description = "",
    params(
        ("id" = String, Path, description = "The id of a job."),
        ("after" = inline(Option<fields::Position>), Query, description = "Only what came after the event with this `seq`."),
        ("limit" = inline(Option<fields::PageLimit>), Query, description = "Most elements of the page."),
    ),
    responses(
        (status = 200, description = "A part of the history.", body = EventList),
    ),
    extensions(("x-role" = json!("viewer")), ("x-submitter" = json!(true)), ("x-problems" = json!(["invalid-parameter", "not-found", "store-unavailable"]))),
)]
pub(super) async fn of_job(
    Watcher(scope): Watcher,
    State(store): State<Arc<dyn Store>>,
    Path(id): Path<String>,
    mut params: Params,
) -> Result<Json<EventList>, Problem> {
    let after = params.read("after", position).unwrap_or(0);
    let limit = params.limit();
    params.finish()?;
    scope.job(&*store, &id).await?;
    let found = store.events(EventQuery { job: Some(JobId::from_trusted(id)), after, limit: limit + 1 }).await?;
    let (events, next_after) = params::page_after(found, limit, |event| event.seq);
    Ok(Json(EventList { events: events.into_iter().map(EventDto::from).collect(), next_after }))
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy)]
enum Begin {
    /// After this position.
    After(i64),
    /// With what happens from now on.
    Now,
}

fn begin(name: &str, text: &str) -> Result<Begin, FieldFault> {
    if text == "now" {
        return Ok(Begin::Now);
    }
    position(name, text).map(Begin::After).map_err(|_| FieldFault::new(name, "must be the seq of an event, 0 or higher, or now"))
}

/// `GET /events`: everything that happened after `Last-Event-ID` (or `?after=`, or ever) and everything that will, until the client goes.
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "streamEvents",
    tag = "daemon",
    summary = "Everything that happens, as server-sent events",
    description = "",
    params(
        ("after" = inline(Option<fields::Begin>), Query, description = "Begin after the event with this `seq`, or with what happens from `now` on; without it with everything that is kept."),
        ("Last-Event-ID" = inline(Option<fields::Position>), Header, description = "As `after`, and before it: what a browser sends when it connects again."),
    ),
    responses(
        (status = 200, description = "A stream that ends when the client goes. Each event has its `seq` as `id` and an `Event` as `data`.", body = String, content_type = "text/event-stream"),
    ),
    extensions(("x-role" = json!("viewer")), ("x-problems" = json!(["invalid-parameter", "too-many-streams", "store-unavailable"]))),
)]
pub(super) async fn stream_all(
    _viewer: Viewer,
    State(state): State<AppState>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let asked = params.read("after", begin);
    params.finish()?;
    let begin = match headers.get("last-event-id") {
        Some(id) => {
            let after = position("Last-Event-ID", id.to_str().unwrap_or_default());
            Begin::After(after.map_err(|fault| Problem::InvalidParameters(vec![fault]))?)
        }
        None => asked.unwrap_or(Begin::After(0)),
    };
    let permit = state.rations.stream()?;
    let after = match begin {
        Begin::After(after) => after,
        Begin::Now => state.store.newest_event().await?,
    };
    let feed = Feed { changes: state.store.changes(), store: state.store, after, batch: VecDeque::new(), _permit: permit };
    let events = stream::unfold(feed, |mut feed| async move { feed.next().await.map(|event| (Ok(wire(event)), feed)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn wire(event: Event) -> sse::Event {
    let dto = EventDto::from(event);
    let text = serde_json::to_string(&dto).unwrap_or_default();
    sse::Event::default().id(dto.seq.to_string()).retry(RECONNECT).data(text)
}

/// Where one client stands in the history.
struct Feed {
    store: Arc<dyn Store>,
    changes: watch::Receiver<u64>,
    after: i64,
    batch: VecDeque<Event>,
    _permit: Permit,
}

impl Feed {
    /// The next event, waited for if need be; `None` when the store fails or closes, and the client should come again.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.batch.pop_front() {
                self.after = event.seq;
                return Some(event);
            }
            // Seen before the store is read, so that a change between the reading and the waiting is not missed.
            self.changes.borrow_and_update();
            let query = EventQuery { job: None, after: self.after, limit: BATCH };
            self.batch =
                self.store.events(query).await.inspect_err(|error| tracing::warn!(%error, "an event stream broke off: {error}")).ok()?.into();
            if self.batch.is_empty() {
                self.changes.changed().await.ok()?;
            }
        }
    }
}
