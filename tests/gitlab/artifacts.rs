//! `/jobs/:id/artifacts`: archives go in as multipart forms and come out as they are.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Multipart, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::big;
use super::log::header_token;
use super::runner_api::held_job;
use super::spec::ArtifactView;
use super::state::Shared;

/// The largest archive that is kept.
const MOST_KEPT: u64 = 16 << 20;

/// `POST`: keeps the form's `file`.
pub(super) async fn upload(State(shared): State<Arc<Shared>>, Path(id): Path<i64>, headers: HeaderMap, form: Multipart) -> Response {
    let token = header_token(&headers).unwrap_or_default();
    if let Err(refusal) = shared.write(|inner| held_job(inner, id, &token).map(|_| ())) {
        return *refusal;
    }
    let Some(artifact) = file_of(form).await else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "message": "400 Bad request" }))).into_response();
    };
    shared.write(|inner| match held_job(inner, id, &token) {
        Ok(job) => {
            job.artifacts.push(artifact);
            (StatusCode::CREATED, Json(json!({ "message": "201 Created" }))).into_response()
        }
        Err(refusal) => *refusal,
    })
}

/// `GET`: the first archive of a job, for whoever has its token, also after the job's end. One that was not kept is made up anew.
pub(super) async fn download(State(shared): State<Arc<Shared>>, Path(id): Path<i64>, headers: HeaderMap) -> Response {
    let token = header_token(&headers).unwrap_or_default();
    shared.read(|inner| {
        let Some(job) = inner.jobs.get(&id).filter(|job| job.token == token) else {
            return StatusCode::FORBIDDEN.into_response();
        };
        let Some(artifact) = job.artifacts.first() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let length = [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, artifact.size.to_string())];
        if artifact.size > MOST_KEPT {
            return (length, Body::from_stream(big::archive(artifact.size))).into_response();
        }
        (length, artifact.bytes.clone()).into_response()
    })
}

/// Reads the form to its end and gives its `file` part.
async fn file_of(mut form: Multipart) -> Option<ArtifactView> {
    let mut found = None;
    while let Some(mut field) = form.next_field().await.ok()? {
        let is_file = field.name() == Some("file");
        let name = field.file_name().unwrap_or("artifacts.zip").to_owned();
        let (mut sum, mut bytes) = (big::Sum::default(), Vec::new());
        while let Some(part) = field.chunk().await.ok()? {
            sum.add(&part);
            if sum.size <= MOST_KEPT {
                bytes.extend_from_slice(&part);
            } else {
                bytes = Vec::new();
            }
        }
        if is_file {
            found = Some(ArtifactView { name, size: sum.size, sha256: sum.finish(), bytes });
        }
    }
    found
}
