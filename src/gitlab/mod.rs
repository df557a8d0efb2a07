//! What we know of GitLab: the runner protocol as a client, and the job answers that come out of it.

pub mod api;
pub mod client;
pub mod payload;
mod stall;

pub use api::{ClaimedJob, GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
pub use client::HttpGitLab;
