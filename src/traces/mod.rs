//! Traces of ended jobs by OTLP, made of the durable history: a job lives for hours and over restarts of the daemon, so nothing that is
//! held in memory while it runs could tell of it.
//!
//! ```text
//!  store: events ──▶ exporter ── a job's last event? ──▶ spans (pure) ──▶ otlp (pure) ──▶ collector ──▶ POST …/v1/traces
//!                       ▲                                                                    │ taken
//!                       └───────────────────────── cursor (a file) ◀─────────────────────────┘
//! ```
//!
//! The history is the queue: nothing but one batch is in memory, and a trace is sent again until the collector took it. The ids of a trace
//! and its spans come out of the job's id, so that one that is sent twice is the same one.

pub mod collector;
pub mod cursor;
pub mod exporter;
pub mod ids;
pub mod otlp;
pub mod spans;

pub use collector::{Collector, CollectorError};
pub use exporter::{Exporter, Parts};
