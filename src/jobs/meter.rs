//! Measures what jobs use of their GPUs: reads what the drivers told last, and writes it down at every reading, so that a crash loses one.

use std::collections::HashMap;

use tracing::warn;

use super::deps::Shared;
use crate::domain::{Aggregate, GpuUsage, JobId, chain};
use crate::store::StoreError;

/// What is being measured, by job and attempt.
#[derive(Debug, Default)]
pub(super) struct Meter(HashMap<(JobId, u32), GpuUsage>);

impl Meter {
    /// Takes a reading of every job that runs with GPUs.
    pub(super) async fn read(&mut self, shared: &Shared) {
        if let Err(error) = self.try_read(shared).await {
            warn!(error = chain(&error), "what jobs use of GPUs could not be written down");
        }
    }

    async fn try_read(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let deps = &shared.deps;
        if deps.handle.status().devices_in_use.is_empty() {
            // The store need not be asked on a machine whose jobs have none.
            self.0.clear();
            return Ok(());
        }
        let open = deps.store.open_runners(&deps.config.current().host.name).await?;
        let running: Vec<_> = open.iter().filter_map(running).collect();
        self.0.retain(|known, _| running.iter().any(|(key, _)| key == known));
        if running.is_empty() {
            return Ok(());
        }
        let (vitals, now) = (deps.platform.gpu_vitals(), deps.clock.now());
        let mut fresh = Vec::with_capacity(running.len());
        for (key, aggregate) in running {
            if !self.0.contains_key(&key) {
                // One that ran before this daemon started goes on where it was.
                let before = deps.store.gpu_usage(&key.0).await?.remove(&key.1).unwrap_or_default();
                self.0.insert(key.clone(), before);
            }
            if let Some(usage) = self.0.get_mut(&key) {
                usage.observe(now, &aggregate.runner.placement.devices, |gpu| vitals.get(gpu));
                fresh.push((key.0, key.1, usage.clone()));
            }
        }
        deps.store.write_gpu_usage(&fresh).await
    }
}

/// The job and attempt that runs with GPUs in a runner.
fn running(aggregate: &Aggregate) -> Option<((JobId, u32), &Aggregate)> {
    let job = aggregate.job.as_ref()?;
    let attempt = job.attempt.as_ref().filter(|attempt| attempt.started_at.is_some() && attempt.ended.is_none())?;
    let measured = !attempt.placement.devices.is_empty() && attempt.runner == aggregate.runner.id;
    measured.then(|| ((job.id.clone(), attempt.number), aggregate))
}
