//! What is fed, and what must hold whatever it is fed: each target takes bytes from outside, gives them to the daemon's own code by its
//! public ways, and panics when a promise is broken. They know nothing of libFuzzer, so that the ordinary tests can call them too.

mod broker;
mod broker_rig;
mod config;
mod devices;
mod env;
mod jobs;
mod machine;
mod message;
mod nvml;
mod payload;
mod values;
mod webhook;

/// A target: what it is called, and what takes the bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target, by the names of its corpus below `tests/fuzz/corpus`.
pub(crate) const TARGETS: [Target; 9] = [
    ("broker", broker::run),
    ("config", config::run),
    ("devices", devices::run),
    ("env", env::run),
    ("jobs", jobs::run),
    ("nvml", nvml::run),
    ("payload", payload::run),
    ("values", values::run),
    ("webhook", webhook::run),
];

/// A runtime whose time passes at once when nothing else is to be done.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// A name and its value.
fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
