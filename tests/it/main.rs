//! The integration tests: one binary, run by `make test` inside an engine of its own.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod api_jobs;
mod architecture;
mod bench;
mod broker;
mod docker;
#[path = "../gitlab/mod.rs"]
mod gitlab;
mod gitlab_road;
mod gitlab_setup;
mod harness;
mod job_image;
mod pull;
mod repair;
mod restart;
mod two_phase;
