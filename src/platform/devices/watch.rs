//! Looks at the devices again and again, tells what became different, and hands the result to the [`PlatformManager`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::change::{Change, changes, merge};
use super::guard::{Answer, Guard};
use super::toolkit::Toolkit;
use super::ward::Finding;
use super::{Roots, Seen, Sight, Source, Survey, binfmt, note};
use crate::domain::clock::jittered;
use crate::domain::{Arch, Clock, DeviceNote, Gpu, GpuHealth, GpuId, GpuVendor, GpuVitals, Weight};
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
    guards: Vec<Asked>,
    platform: Arc<PlatformManager>,
    held: Held,
    deadline: Duration,
    clock: Arc<dyn Clock>,
    toolkit: Option<Toolkit>,
}

/// One vendor's source.
#[derive(Debug)]
struct Asked {
    vendor: GpuVendor,
    guard: Guard<Survey>,
    /// When the question was put that is still open.
    open_since: Option<Timestamp>,
}

impl fmt::Debug for DeviceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceWatch").field("roots", &self.roots).field("guards", &self.guards).finish_non_exhaustive()
    }
}

impl DeviceWatch {
    /// Watches what `sources` find, each no longer than `deadline` a round, and tells `platform`.
    #[must_use]
    pub fn new(roots: Roots, sources: Vec<Source>, platform: Arc<PlatformManager>, held: Held, deadline: Duration, clock: Arc<dyn Clock>) -> Self {
        let asked = |source: Source| Asked { vendor: source.vendor, guard: Guard::new(source.vendor.as_str(), source.body), open_since: None };
        Self { roots, guards: sources.into_iter().map(asked).collect(), platform, held, deadline, clock, toolkit: None }
    }

    /// Minds NVIDIA's container toolkit too.
    #[must_use]
    pub fn minding(self, toolkit: Toolkit) -> Self {
        Self { toolkit: Some(toolkit), ..self }
    }

    /// One round: asks all vendors at once and publishes what is known then. Gives what became different.
    pub async fn look(&mut self) -> Vec<Change> {
        self.round().await.0
    }

    /// The same, with what was found out of GPUs after their jobs and in quarantine.
    async fn round(&mut self) -> (Vec<Change>, Vec<Finding>) {
        let before = self.platform.inventory();
        let (deadline, began) = (self.deadline, self.clock.now());
        let asked = self.guards.iter_mut().map(|asked| async move { (asked.vendor, asked.ask(deadline, began).await) });
        let surveys = futures_util::future::join_all(asked).await;
        let held = (self.held)();
        let mut now = Inventory::default();
        let mut asked_at = BTreeMap::new();
        for (vendor, (answer, at)) in surveys {
            asked_at.insert(vendor, at);
            let survey = survey(vendor, answer, deadline);
            now.gpus.extend(merge(&before.gpus, vendor, &survey.sight, &held));
            now.notes.extend(survey.notes);
            if let Sight::Seen(seen) = survey.sight {
                now.vitals.extend(seen.into_iter().map(|Seen { gpu, vitals }| (gpu.id, vitals)));
            }
        }
        self.platform.note_sharing(&mut now.gpus);
        if let Some(toolkit) = &mut self.toolkit {
            now.notes.extend(toolkit.look(&mut now.gpus, began).await);
        }
        let emulation = binfmt::survey(&self.roots);
        now.emulated = emulation.archs;
        now.notes.extend(emulation.notes);
        now.notes.truncate(MAX_NOTES);
        let changes = changes(&before.gpus, &now.gpus);
        tell(&changes, &before, &now);
        let findings = self.platform.examine_gpus(&now, &asked_at, self.clock.now());
        tell_findings(&findings);
        self.platform.on_devices(now);
        (changes, findings)
    }

    /// Looks every `interval`, up to a tenth more or less, and whenever the state of a GPU asks for it, until told to stop; calls `changed`
    /// when something became different.
    pub async fn run(mut self, interval: Duration, changed: impl Fn() + Send, stop: CancellationToken) {
        loop {
            let wait = self.platform.next_look(self.clock.now()).map_or(interval, |soon| soon.min(interval));
            // All arms only wait.
            tokio::select! {
                () = tokio::time::sleep(jittered(wait, 100, self.clock.roll())) => {}
                () = self.platform.look_wanted() => {}
                () = stop.cancelled() => return,
            }
            let Some((differences, findings)) = stop.run_until_cancelled(self.round()).await else { return };
            if !differences.is_empty() || !findings.is_empty() {
                changed();
            }
        }
    }
}

impl Asked {
    /// Asks, and tells when the question was put that was answered.
    async fn ask(&mut self, deadline: Duration, now: Timestamp) -> (Answer<Survey>, Timestamp) {
        let asked_at = self.open_since.unwrap_or(now);
        let answer = self.guard.ask(deadline).await;
        self.open_since = match answer {
            Answer::Late => Some(asked_at),
            Answer::Given(_) | Answer::Broke => None,
        };
        (answer, asked_at)
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

fn tell_findings(findings: &[Finding]) {
    for finding in findings {
        match finding {
            Finding::Clean(gpu) => tracing::debug!(gpu.id = %gpu, "{finding}"),
            Finding::Good(gpu) => tracing::info!(gpu.id = %gpu, "{finding}"),
            Finding::Bad(gpu, why) | Finding::StillBad(gpu, why) => {
                tracing::warn!(gpu.id = %gpu, reason = why.reason, next_check = why.next_check.map(tracing::field::display), "{finding}");
            }
        }
    }
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
