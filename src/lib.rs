//! Runner Coordinator: takes CI jobs from GitLab and a REST API and runs each in one hardened, throw-away container.
//!
//! The rooms, bottom to top; each uses only those above it in this list. `docs/architecture.md` is the map.

pub mod domain;

pub mod metrics;

pub mod tasks;

pub mod config;

pub mod store;

pub mod security;

pub mod docker;

pub mod platform;

pub mod firewall;

pub mod gitlab;

pub mod traces;

pub mod jobs;

pub mod http;

pub mod app;
pub mod cli;
pub mod lifecycle;
pub mod listen;
pub mod telemetry;
