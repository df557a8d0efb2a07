//! The integration tests: one binary, run by `make test` inside an engine of its own.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod api_jobs;
mod architecture;
mod audit;
mod backup;
mod bench;
mod big_artifact;
mod broker;
mod build_tools;
mod caps;
mod check;
mod cis;
mod cli;
mod decision;
mod disk;
mod disk_faults;
mod disk_stops;
mod docker;
mod docs;
mod doorbell;
mod drain;
mod emulation;
mod engine_proxy;
mod escape;
mod explain;
#[path = "../gitlab/mod.rs"]
mod gitlab;
mod gitlab_faults;
mod gitlab_road;
mod gitlab_setup;
mod gpu_check;
mod gpu_container;
mod gpu_crash;
mod gpu_daemon;
mod gpu_health;
#[path = "../gpu/machine.rs"]
mod gpu_machine;
mod gpu_usage;
mod harness;
mod image_pin;
mod images;
mod init;
mod job_end;
mod job_image;
mod journal;
mod latency;
mod listen;
mod metrics;
mod metrics_docs;
mod network;
mod openapi_client;
mod overload;
#[path = "../engine/mod.rs"]
mod own_engine;
mod page;
mod page_large;
mod page_looks;
mod page_operator;
mod power;
mod pull;
mod receipt;
mod receipt_faults;
mod reload;
mod repair;
mod restart;
mod runner_mock;
mod service;
mod stuck;
mod stuck_tasks;
mod tls;
mod token_secrecy;
mod traces;
mod traces_exporter;
mod two_phase;
mod webhook_forms;
