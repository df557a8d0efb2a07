//! The integration tests.

#[path = "../gitlab/mod.rs"]
mod gitlab;
