//! A stand-in for a collector of traces: takes OTLP over HTTP and reads it with the official crate.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;

/// What it has seen, and what it answers.
#[derive(Debug)]
struct Seen {
    spans: Vec<Span>,
    services: Vec<String>,
    headers: Vec<HeaderMap>,
    answer: StatusCode,
}

/// A collector. Dropping it makes it go away.
#[derive(Debug)]
pub(crate) struct Collector {
    seen: Arc<Mutex<Seen>>,
    /// Where it listens.
    pub(crate) port: u16,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.headers.push(headers);
    if seen.answer.is_success() {
        let request: ExportTraceServiceRequest = serde_json::from_slice(&body).expect("OTLP in JSON");
        for resource in request.resource_spans {
            let name = resource.resource.as_ref().and_then(|resource| text_of(&resource.attributes, "service.name"));
            seen.services.extend(name);
            seen.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    (seen.answer, "{}")
}

/// A text among attributes.
pub(crate) fn text_of(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|one| one.key == key)?.value.clone()?.value?;
    match value {
        Value::StringValue(text) => Some(text),
        other => Some(format!("{other:?}")),
    }
}

impl Collector {
    /// One that takes everything, on any port, or on this one.
    pub(crate) async fn start(port: u16) -> Self {
        let seen = Seen { spans: Vec::new(), services: Vec::new(), headers: Vec::new(), answer: StatusCode::OK };
        let seen = Arc::new(Mutex::new(seen));
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        #[expect(clippy::disallowed_methods, reason = "the stand-in's own task, ended with it")]
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
        Self { seen, port, server }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it answers from now on.
    pub(crate) fn answer(&self, status: StatusCode) {
        self.seen().answer = status;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.seen().headers.len()
    }

    /// A header of the last request.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.seen().headers.last()?.get(name)?.to_str().ok().map(str::to_owned)
    }

    /// The names of the services that sent something.
    pub(crate) fn services(&self) -> Vec<String> {
        self.seen().services.clone()
    }

    /// The spans of a job, by its id; of a trace that came twice, both.
    pub(crate) fn spans_of(&self, job: &str) -> Vec<Span> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.seen().spans.iter().filter(|span| hex(&span.trace_id) == job).cloned().collect()
    }

    /// The names of a job's spans, in the order in which they began, the longer first; a `!` behind what failed.
    pub(crate) fn names_of(&self, job: &str) -> Vec<String> {
        let mut spans = self.spans_of(job);
        spans.sort_by_key(|span| (span.start_time_unix_nano, std::cmp::Reverse(span.end_time_unix_nano)));
        let failed = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == 2);
        spans.iter().map(|span| format!("{}{}", span.name, if failed(span) { "!" } else { "" })).collect()
    }
}
