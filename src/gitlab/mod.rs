//! What we know of GitLab: the runner protocol as a client, the job answers that come out of it, and the Job event of its webhooks.

pub mod api;
pub mod client;
pub mod listing;
pub mod payload;
pub mod webhook;

mod stall;

pub use api::{ClaimedJob, GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
pub use client::HttpGitLab;
pub use listing::{HttpListing, ListedJob, ListedJobs, ListedRunner, Listing, More};
