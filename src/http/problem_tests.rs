//! Every problem, as clients see it.

use axum::body::to_bytes;

use super::*;

/// One of every variant. The match makes sure that a new variant is added here: it does not compile without it.
pub(in crate::http) fn every_problem() -> Vec<Problem> {
    let all = vec![
        Problem::NotJson { detail: "expected value at line 1 column 1".to_owned() },
        Problem::WrongContentType,
        Problem::InvalidFields(vec![FieldFault::new("command", "must not be empty"), FieldFault::new("gpus.count", "must be 1 to 64")]),
        Problem::parameter("limit", "must be 1 to 500"),
        Problem::BodyTooLarge,
        Problem::TooSlow,
        Problem::Unauthorized,
        Problem::WebhookUnverified,
        Problem::Forbidden { needs: Role::Operator },
        Problem::ForeignHost,
        Problem::NoSuchPath,
        Problem::NoSuchMethod,
        Problem::unknown_job("0190"),
        Problem::JobEnded { state: "failed" },
        Problem::JobNotEnded { state: "running" },
        Problem::JobOfGitLab { page: "https://gitlab.example.com/team/app/-/jobs/7".to_owned() },
        Problem::Drained { detail: "it was drained at 2026-11-18T11:06:40Z by ops (new kernel)".to_owned() },
        Problem::DiskFull { detail: "of the disk of data_dir 900 MiB of 20000 MiB are free (/var/lib/runner-coordinator)".to_owned() },
        Problem::Unsatisfiable(vec![FieldFault::new("arch", "needs arm64, this machine is amd64")]),
        Problem::NoRoom(vec![FieldFault::new("cpus", "needs 4 CPUs, 1 of 8 are free")]),
        Problem::Stopping,
        Problem::KeyReused,
        Problem::QueueFull { limit: 10_000 },
        Problem::WholeQueueFull { limit: 100_000 },
        Problem::Overloaded(Bound::Writes),
        Problem::TooManyStreams,
        Problem::TooFast(Haste { limit: "limits.token_requests", per_second: 200, retry_after: 1 }),
        Problem::Conflict,
        Problem::StoreUnavailable { detail: Some(MAYBE_DONE) },
        Problem::Internal,
        Problem::Refused(StatusCode::URI_TOO_LONG),
    ];
    for problem in &all {
        match problem {
            Problem::NotJson { .. }
            | Problem::WrongContentType
            | Problem::InvalidFields(_)
            | Problem::InvalidParameters(_)
            | Problem::BodyTooLarge
            | Problem::TooSlow
            | Problem::Unauthorized
            | Problem::WebhookUnverified
            | Problem::Forbidden { .. }
            | Problem::ForeignHost
            | Problem::NoSuchPath
            | Problem::NoSuchMethod
            | Problem::Unknown { .. }
            | Problem::JobEnded { .. }
            | Problem::JobNotEnded { .. }
            | Problem::JobOfGitLab { .. }
            | Problem::Drained { .. }
            | Problem::DiskFull { .. }
            | Problem::Unsatisfiable(_)
            | Problem::NoRoom(_)
            | Problem::Stopping
            | Problem::KeyReused
            | Problem::QueueFull { .. }
            | Problem::WholeQueueFull { .. }
            | Problem::Overloaded(_)
            | Problem::TooManyStreams
            | Problem::TooFast(_)
            | Problem::Conflict
            | Problem::StoreUnavailable { .. }
            | Problem::Internal
            | Problem::Refused(_) => {}
        }
    }
    all
}

async fn shown(problem: Problem) -> String {
    let response = problem.into_response();
    let mut text = format!("{}\n", response.status());
    for (name, value) in response.headers() {
        text = text + name.as_str() + ": " + value.to_str().expect("ascii") + "\n";
    }
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    text + std::str::from_utf8(&body).expect("utf-8")
}

#[tokio::test]
async fn every_problem_is_answered_as_promised() {
    let mut all = Vec::new();
    for problem in every_problem() {
        all.push(shown(problem).await);
    }
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn every_problem_has_its_own_type() {
    let mut slugs: Vec<&str> = every_problem().iter().map(|problem| problem.face().slug).collect();
    let count = slugs.len();
    slugs.sort_unstable();
    slugs.dedup();
    assert_eq!(slugs.len(), count);
}

#[tokio::test]
async fn what_the_store_says_of_itself_stays_inside() {
    let source = std::io::Error::other("disk I/O error in /secret/path.db");
    let unavailable = StoreError::Unavailable { doing: "store a job", source: Box::new(source) };
    let corrupt = StoreError::Corrupt("job 7 has state 'x' in /secret/path.db".to_owned());
    for error in [unavailable, corrupt] {
        let text = shown(error.into()).await;
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn what_the_client_sent_is_quoted_only_in_part() {
    let Problem::Unknown { what } = Problem::unknown_job(&"ü".repeat(5000)) else { panic!("another problem") };
    assert!(what.chars().count() <= QUOTE_CHARS + 1, "{} characters", what.chars().count());
}
