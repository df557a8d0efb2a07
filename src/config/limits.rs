//! `[limits]`: bounds on everything that others can make grow.

use std::time::Duration;

use super::section::Section;
use super::values::{DAY, HOUR, SECOND, duration};
use crate::domain::{FieldFault, MemoryBytes};

/// Bounds on everything that others can make grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `limits.body`, default `1MiB`: largest body of a request to the API.
    pub body: MemoryBytes,
    /// `limits.webhook_body`, default `25MiB`, which is GitLab's own limit: largest body of a webhook.
    pub webhook_body: MemoryBytes,
    /// `limits.queue_per_project`, default 10000: most jobs that may wait for one project.
    pub queue_per_project: u32,
    /// `limits.queue`, default 100000: most jobs that may wait in all. Jobs that GitLab gave away already are taken all the same.
    pub queue: u32,
    /// `limits.token_requests`, default 200: most requests a second with one token, in the long run; those of five seconds may come at once.
    pub token_requests: u32,
    /// `limits.address_refusals`, default 10: the same for requests of one address that show no token which is known, and would need one.
    pub address_refusals: u32,
    /// `limits.log_size`, default `64MiB`: most that is kept of one attempt's log.
    pub log_size: MemoryBytes,
    /// `limits.infrastructure_retries`, default 2: how often a job is tried again after failing through no doing of its own.
    pub infrastructure_retries: u32,
    /// `limits.retry_backoff`, default `5s`: wait before the first retry; doubled for each further one.
    pub retry_backoff: Duration,
    /// `limits.retry_backoff_max`, default `5m`: longest wait before a retry.
    pub retry_backoff_max: Duration,
    /// `limits.stop_grace`, default `10s`: time between SIGTERM and SIGKILL. Whole seconds, as the engine counts it.
    pub stop_grace: Duration,
    /// `limits.start_timeout`, default `120s`: longest time for a container to start, pulling its image not counted.
    pub start_timeout: Duration,
    /// `limits.stuck_after`, default `2m`: how much longer than `limits.stop_grace` a container may take to go before it is told to be stuck.
    pub stuck_after: Duration,
    /// `limits.runner_contact_timeout`, default `5m`: a runner of GitLab that is silent for longer is lost.
    pub runner_contact_timeout: Duration,
    /// `limits.delivery_memory`, default `7days`: how long webhook deliveries are remembered against doubles.
    pub delivery_memory: Duration,
    /// `limits.max_timeout`, default `24h`: longest timeout that a class or a job may have.
    pub max_timeout: Duration,
    /// `limits.env_vars`, default 256: most environment variables of one job.
    pub env_vars: u32,
    /// `limits.command_bytes`, default `128KiB`: most bytes of a job's command, and most of its environment.
    pub command_bytes: MemoryBytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: MemoryBytes(1 << 20),
            webhook_body: MemoryBytes(25 << 20),
            queue_per_project: 10_000,
            queue: 100_000,
            token_requests: 200,
            address_refusals: 10,
            log_size: MemoryBytes(64 << 20),
            infrastructure_retries: 2,
            retry_backoff: Duration::from_secs(5),
            retry_backoff_max: Duration::from_secs(5 * 60),
            stop_grace: Duration::from_secs(10),
            start_timeout: Duration::from_secs(120),
            stuck_after: Duration::from_secs(120),
            runner_contact_timeout: Duration::from_secs(5 * 60),
            delivery_memory: Duration::from_secs(7 * 24 * 60 * 60),
            max_timeout: Duration::from_secs(24 * 60 * 60),
            env_vars: 256,
            command_bytes: MemoryBytes(128 << 10),
        }
    }
}

/// Reads `[limits]`.
pub(super) fn read(section: &mut Section<'_>) -> Limits {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let base = Limits::default();
    let limits = Limits {
        body: section.parsed("body", size(KIB..=64 * MIB)).unwrap_or(base.body),
        webhook_body: section.parsed("webhook_body", size(KIB..=256 * MIB)).unwrap_or(base.webhook_body),
        queue_per_project: section.whole_number("queue_per_project", 1..=1_000_000).unwrap_or(base.queue_per_project),
        queue: section.whole_number("queue", 1..=10_000_000).unwrap_or(base.queue),
        token_requests: section.whole_number("token_requests", 1..=100_000).unwrap_or(base.token_requests),
        address_refusals: section.whole_number("address_refusals", 1..=100_000).unwrap_or(base.address_refusals),
        log_size: section.parsed("log_size", size(KIB..=64 * KIB * MIB)).unwrap_or(base.log_size),
        infrastructure_retries: section.whole_number("infrastructure_retries", 0..=100).unwrap_or(base.infrastructure_retries),
        retry_backoff: section.parsed("retry_backoff", duration(SECOND / 10..=HOUR)).unwrap_or(base.retry_backoff),
        retry_backoff_max: section.parsed("retry_backoff_max", duration(SECOND / 10..=DAY)).unwrap_or(base.retry_backoff_max),
        stop_grace: section.parsed("stop_grace", duration(SECOND..=HOUR)).unwrap_or(base.stop_grace),
        start_timeout: section.parsed("start_timeout", duration(SECOND..=HOUR)).unwrap_or(base.start_timeout),
        stuck_after: section.parsed("stuck_after", duration(SECOND..=DAY)).unwrap_or(base.stuck_after),
        runner_contact_timeout: section.parsed("runner_contact_timeout", duration(90 * SECOND..=DAY)).unwrap_or(base.runner_contact_timeout),
        delivery_memory: section.parsed("delivery_memory", duration(HOUR..=365 * DAY)).unwrap_or(base.delivery_memory),
        max_timeout: section.parsed("max_timeout", duration(SECOND..=365 * DAY)).unwrap_or(base.max_timeout),
        env_vars: section.whole_number("env_vars", 0..=10_000).unwrap_or(base.env_vars),
        command_bytes: section.parsed("command_bytes", size(KIB..=MIB)).unwrap_or(base.command_bytes),
    };
    if limits.retry_backoff > limits.retry_backoff_max {
        section.fault("retry_backoff", "must not be longer than limits.retry_backoff_max");
    }
    if limits.stop_grace.subsec_nanos() != 0 {
        section.fault("stop_grace", "must be whole seconds, as the engine counts it");
    }
    limits
}

/// An amount of bytes within `range`.
fn size(range: std::ops::RangeInclusive<u64>) -> impl Fn(&str, &str) -> Result<MemoryBytes, FieldFault> {
    move |field, text| {
        let (least, most) = (MemoryBytes(*range.start()), MemoryBytes(*range.end()));
        let fault = || FieldFault::new(field, format!("must be an amount such as 64MiB, from {least} to {most}"));
        MemoryBytes::parse(field, text).ok().filter(|size| range.contains(&size.0)).ok_or_else(fault)
    }
}
