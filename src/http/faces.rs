//! What each problem looks like whatever it is about: its stable name, its status and its title.

use axum::http::StatusCode;

/// The fixed part of a problem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Face {
    /// The last part of its `type`. Stable.
    pub(super) slug: &'static str,
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
}

impl Face {
    /// Its `type`.
    pub(super) fn kind(&self) -> String {
        format!("/problems/{}", self.slug)
    }
}

macro_rules! faces {
    ($($name:ident = $slug:literal, $status:ident, $title:literal;)+) => {
        $(pub(super) const $name: Face = Face { slug: $slug, status: StatusCode::$status, title: $title };)+

        /// Every face. That of what the framework refuses stands here with the status that it mostly has.
        pub(super) const FACES: [Face; [$($slug),+].len()] = [$($name),+];
    };
}

faces! {
    NOT_JSON = "not-json", BAD_REQUEST, "The body is not JSON";
    WRONG_CONTENT_TYPE = "wrong-content-type", UNSUPPORTED_MEDIA_TYPE, "The body must be application/json";
    INVALID_FIELDS = "invalid-field", UNPROCESSABLE_ENTITY, "A field of the body is not what is needed";
    INVALID_PARAMETERS = "invalid-parameter", BAD_REQUEST, "A query parameter or header is not what is needed";
    BODY_TOO_LARGE = "body-too-large", PAYLOAD_TOO_LARGE, "The body is larger than allowed";
    TOO_SLOW = "too-slow", REQUEST_TIMEOUT, "The request was not complete or not answered in time";
    UNAUTHORIZED = "unauthorized", UNAUTHORIZED, "A valid bearer token is needed";
    WEBHOOK_UNVERIFIED = "webhook-unverified", UNAUTHORIZED, "The webhook's signature or secret token is missing or wrong";
    FORBIDDEN = "forbidden", FORBIDDEN, "The token's role does not allow this";
    FOREIGN_HOST = "foreign-host", FORBIDDEN, "Without configured tokens only local host names are served, and no pages of other sites";
    NO_SUCH_PATH = "no-such-path", NOT_FOUND, "There is no such path";
    NO_SUCH_METHOD = "no-such-method", METHOD_NOT_ALLOWED, "The path does not have this method";
    UNKNOWN = "not-found", NOT_FOUND, "There is no such thing";
    JOB_ENDED = "job-ended", CONFLICT, "The job has already ended";
    JOB_NOT_ENDED = "job-not-ended", CONFLICT, "The job has not ended";
    JOB_OF_GITLAB = "job-of-gitlab", CONFLICT, "The job belongs to GitLab";
    DRAINED = "drained", CONFLICT, "The host takes no new work";
    UNSATISFIABLE = "unsatisfiable", UNPROCESSABLE_ENTITY, "No host can ever run this";
    NO_ROOM = "no-room", CONFLICT, "The host has no room for this now";
    DISK_FULL = "disk-full", SERVICE_UNAVAILABLE, "The host's disk is nearly full, so it takes no new work";
    STOPPING = "stopping", SERVICE_UNAVAILABLE, "The daemon is about to end";
    KEY_REUSED = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key was used with another body";
    QUEUE_FULL = "queue-full", TOO_MANY_REQUESTS, "As many jobs wait for the project as may";
    WHOLE_QUEUE_FULL = "whole-queue-full", SERVICE_UNAVAILABLE, "As many jobs wait here as may";
    OVERLOADED = "overloaded", SERVICE_UNAVAILABLE, "More is asked at once than can be answered";
    TOO_MANY_STREAMS = "too-many-streams", SERVICE_UNAVAILABLE, "As many streams are open as may";
    TOO_FAST = "too-fast", TOO_MANY_REQUESTS, "Requests come faster than they may";
    CONFLICT = "conflict", CONFLICT, "This contradicts the present state";
    STORE_UNAVAILABLE = "store-unavailable", SERVICE_UNAVAILABLE, "The store does not answer";
    INTERNAL = "internal", INTERNAL_SERVER_ERROR, "Something went wrong here; the log knows more";
    REFUSED = "refused", BAD_REQUEST, "The request cannot be served";
}
