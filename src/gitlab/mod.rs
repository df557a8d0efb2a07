//! What we know of GitLab: the runner protocol as a client, the job answers that come out of it, and the Job event of its webhooks.

pub mod admin;
pub mod api;
pub mod client;
pub mod diagnosis;
pub mod listing;
pub mod payload;
pub mod setup;
pub mod webhook;

mod keywords;
mod metered;
mod stall;

pub use api::{ClaimedJob, GitLab, GitLabError, JobAnswer, Relay, RelayHeaders, RunnerInfo, StreamingRelay, Upload};
pub use client::HttpGitLab;
pub use listing::{HttpListing, ListedJob, ListedJobs, ListedRunner, Listing, More};
pub use metered::Metered;
