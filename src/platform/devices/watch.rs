//! Looks at the devices again and again, tells what became different, and hands the result to the [`PlatformManager`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::change::{Change, changes, merge};
use super::guard::{Answer, Guard};
use super::{Roots, Seen, Sight, Source, Survey, binfmt, note};
use crate::domain::clock::jittered;
use crate::domain::{Arch, DeviceNote, Gpu, GpuHealth, GpuId, GpuVendor, GpuVitals, Weight};
use crate::platform::PlatformManager;

/// How long a vendor's driver may take. The first time it may have to wake every card, which takes seconds.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Most notes that are kept of one round.
const MAX_NOTES: usize = 64;

/// What is known of the machine's devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// The GPUs, by vendor.
    pub gpus: Vec<Gpu>,
    /// What they are doing.
    pub vitals: BTreeMap<GpuId, GpuVitals>,
    /// What else there is to say.
    pub notes: Vec<DeviceNote>,
    /// Architectures whose programs are emulated in containers, the machine's own perhaps among them.
    pub emulated: Vec<Arch>,
}

/// Who holds which devices, asked before each look.
pub type Held = Arc<dyn Fn() -> HashSet<GpuId> + Send + Sync>;

/// Looks at the devices.
pub struct DeviceWatch {
    roots: Roots,
    guards: Vec<(GpuVendor, Guard<Survey>)>,
    platform: Arc<PlatformManager>,
    held: Held,
    deadline: Duration,
}

impl fmt::Debug for DeviceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceWatch").field("roots", &self.roots).field("guards", &self.guards).finish_non_exhaustive()
    }
}

impl DeviceWatch {
    /// Watches what `sources` find, each no longer than `deadline` a round, and tells `platform`.
    #[must_use]
    pub fn new(roots: Roots, sources: Vec<Source>, platform: Arc<PlatformManager>, held: Held, deadline: Duration) -> Self {
        let guards = sources.into_iter().map(|source| (source.vendor, Guard::new(source.vendor.as_str(), source.body))).collect();
        Self { roots, guards, platform, held, deadline }
    }

    /// One round: asks all vendors at once and publishes what is known then. Gives what became different.
    pub async fn look(&mut self) -> Vec<Change> {
        let before = self.platform.inventory();
        let deadline = self.deadline;
        let asked = self.guards.iter_mut().map(|(vendor, guard)| async move { (*vendor, guard.ask(deadline).await) });
        let surveys = futures_util::future::join_all(asked).await;
        let held = (self.held)();
        let mut now = Inventory::default();
        for (vendor, answer) in surveys {
            let survey = survey(vendor, answer, deadline);
            now.gpus.extend(merge(&before.gpus, vendor, &survey.sight, &held));
            now.notes.extend(survey.notes);
            if let Sight::Seen(seen) = survey.sight {
                now.vitals.extend(seen.into_iter().map(|Seen { gpu, vitals }| (gpu.id, vitals)));
            }
        }
        let emulation = binfmt::survey(&self.roots);
        now.emulated = emulation.archs;
        now.notes.extend(emulation.notes);
        now.notes.truncate(MAX_NOTES);
        let changes = changes(&before.gpus, &now.gpus);
        tell(&changes, &before, &now);
        self.platform.on_devices(now);
        changes
    }

    /// Looks every `interval`, up to a tenth more or less, until told to stop; calls `changed` when something became different.
    pub async fn run(mut self, interval: Duration, changed: impl Fn() + Send, stop: CancellationToken) {
        loop {
            // Both arms only wait.
            tokio::select! {
                () = tokio::time::sleep(jittered(interval, 100)) => {}
                () = stop.cancelled() => return,
            }
            let Some(found) = stop.run_until_cancelled(self.look()).await else { return };
            if !found.is_empty() {
                changed();
            }
        }
    }
}

/// An answer as a survey: one that did not come is a fact too.
fn survey(vendor: GpuVendor, answer: Answer<Survey>, deadline: Duration) -> Survey {
    let reason = match answer {
        Answer::Given(survey) => return survey,
        Answer::Late => format!("the {vendor} driver does not answer within {} s", deadline.as_secs_f32()),
        Answer::Broke => format!("looking at the {vendor} driver failed"),
    };
    Survey { notes: vec![note(vendor, Weight::Warning, reason.clone())], sight: Sight::Blind(reason) }
}

fn tell(changes: &[Change], before: &Inventory, now: &Inventory) {
    for change in changes {
        let (gpu, sound) = match change {
            Change::Appeared(gpu) | Change::Health { gpu, .. } => (gpu, gpu.health == GpuHealth::Healthy),
            Change::Vanished(gpu) => (gpu, false),
            Change::Facts(gpu) => (gpu, true),
        };
        let model = gpu.model.known().map(String::as_str);
        if sound {
            tracing::info!(gpu.id = %gpu.id, gpu.vendor = %gpu.vendor, gpu.model = model, "{change}");
        } else {
            tracing::warn!(gpu.id = %gpu.id, gpu.vendor = %gpu.vendor, gpu.model = model, "{change}");
        }
    }
    for fresh in now.notes.iter().filter(|note| !before.notes.contains(note)) {
        match fresh.weight {
            Weight::Info => tracing::info!(about = fresh.about, "{}", fresh.text),
            Weight::Warning => tracing::warn!(about = fresh.about, "{}", fresh.text),
        }
    }
    if now.emulated != before.emulated {
        let archs: Vec<&str> = now.emulated.iter().map(|arch| arch.as_str()).collect();
        tracing::info!(archs = archs.join(","), "architectures that are emulated in containers");
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
