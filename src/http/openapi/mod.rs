//! The API's own description: `OpenAPI` 3.1, made from what stands at the handlers and the types that go over the wire.
//!
//! A handler carries `#[utoipa::path]` and is mounted with `routes!`, so none is served that is not described. `docs/openapi.json` is the same
//! document for reading and for generators; a test compares them, and every answer that the tests of this room see is compared with it too.
//!
//! # Adding an endpoint
//!
//! 1. Write at the handler: method, path, `operation_id` (camelCase, a verb first; it never changes again), `tag` (one of `document.rs`), `summary`,
//!    `description` (`""` for none), `params`, `request_body`, the good `responses`, and two extensions:
//!    `("x-role" = json!("viewer"))` (`viewer`, `operator`, `none` or `webhook`: what the handler's extractor asks for; beside it
//!    `("x-submitter" = json!(true))` where that is [`scope`](super::scope)'s) and
//!    `("x-problems" = json!([…]))`, the slugs of [`faces`](super::faces) that its own code can answer with. `invalid-parameter` belongs to a handler that takes
//!    `Params`, `store-unavailable` to one that reads the store. What comes with the role, with a body and with a path is added.
//! 2. Mount it in [`super::api`] with `routes!`.
//! 3. Derive `ToSchema` for what goes over the wire, with `#[schema(as = Name)]`. A time is `value_type = String, format = DateTime`; a closed list of words is an enum
//!    that derives `ToSchema`, or a list in `words.rs`; a bounded field of a request is one of `fields.rs`. A new schema that clients write goes into
//!    `WRITTEN_BY_CLIENTS`, a field of an answer that may be left out into `LEFT_OUT`.
//! 4. Show it in `the_examples_are_answers` (`examples_tests.rs`), so that the document has a real example.
//! 5. `UPDATE_OPENAPI=1 cargo test --lib http::openapi` twice: once for the examples, once for the document. Without the variable the same tests compare.

mod document;
pub(super) mod fields;
pub(super) mod words;

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// `GET /openapi.json`.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getOpenApi",
    tag = "page",
    summary = "This document",
    description = "It holds no data and is the same for every daemon of a version, so no token is needed.",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
    extensions(("x-role" = json!("none")), ("x-problems" = json!([]))),
)]
pub(super) async fn served() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document::DOCUMENT.as_str()).into_response()
}

#[cfg(test)]
#[path = "answers_tests.rs"]
pub(super) mod answers;
#[cfg(test)]
#[path = "examples_tests.rs"]
mod examples;
#[cfg(test)]
mod tests;
