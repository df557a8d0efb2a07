//! The messages of OTLP in their JSON form: hexadecimal ids, names in camel case, 64-bit numbers as texts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::spans::{Attribute, Content, Span, Status, Trace};

/// `SPAN_KIND_INTERNAL`, which the conventions for CI ask for.
const INTERNAL: u32 = 1;
/// `STATUS_CODE_ERROR`.
const ERROR: u32 = 2;

/// One request: the spans of several traces, all of this service.
#[must_use]
pub fn request(service: &[Attribute], traces: &[Trace]) -> Value {
    let spans: Vec<Value> = traces.iter().flat_map(|trace| trace.spans.iter().map(|one| span(trace, one))).collect();
    let scope = json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(service) },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }] })
}

fn span(trace: &Trace, span: &Span) -> Value {
    let mut body = json!({
        "traceId": trace.id.to_string(),
        "spanId": span.id.to_string(),
        "name": span.name,
        "kind": INTERNAL,
        "startTimeUnixNano": nanos(span.start),
        "endTimeUnixNano": nanos(span.end),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = span.parent {
        body["parentSpanId"] = parent.to_string().into();
    }
    if let Status::Error(message) = &span.status {
        body["status"] = json!({ "code": ERROR, "message": message });
    }
    body
}

/// Times before 1970 do not exist in the protocol.
fn nanos(time: Timestamp) -> String {
    time.as_nanosecond().max(0).to_string()
}

fn attributes(all: &[Attribute]) -> Value {
    all.iter().map(|(key, content)| json!({ "key": key, "value": value(content) })).collect()
}

fn value(content: &Content) -> Value {
    match content {
        Content::Text(text) => json!({ "stringValue": text }),
        Content::Number(number) => json!({ "intValue": number.to_string() }),
        Content::Texts(texts) => {
            let values: Vec<Value> = texts.iter().map(|text| json!({ "stringValue": text })).collect();
            json!({ "arrayValue": { "values": values } })
        }
    }
}
