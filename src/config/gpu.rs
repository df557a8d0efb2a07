//! `[gpu]`: where the machine's devices are looked for, and how often.

use std::path::PathBuf;
use std::time::Duration;

use super::section::Section;
use super::values::{self, DAY, HOUR, SECOND, duration};
use crate::domain::ModelPattern;

/// How GPUs are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// `gpu.probe_interval`, default `15s`: how often the machine's devices are looked at.
    pub probe_interval: Duration,
    /// `gpu.hold_after`, default `10m`: a job that waited so long for GPUs has those that become free held back for it.
    pub hold_after: Duration,
    /// `gpu.recheck_after`, default `30s`: how soon a GPU in quarantine is tested again; the wait doubles each time, up to half an hour.
    pub recheck_after: Duration,
    /// `gpu.integrated`, default `ignore`.
    pub integrated: IntegratedGpus,
    /// `gpu.shared`, default none: GPUs of which several jobs may have shares, by id or by patterns of their models' names.
    pub shared: Vec<ModelPattern>,
    /// `gpu.toolkit`, default `nvidia-ctk`: the program of NVIDIA's container toolkit that tells its version, a path or a name in `PATH`.
    pub toolkit: PathBuf,
    /// `gpu.old_toolkit`, default `refuse`.
    pub old_toolkit: OldToolkit,
    /// `gpu.nvml`, default `libnvidia-ml.so.1`: NVIDIA's management library, a path or a name for the loader to find.
    pub nvml: PathBuf,
    /// `gpu.sysfs`, default `/sys`.
    pub sysfs: PathBuf,
    /// `gpu.dev`, default `/dev`.
    pub dev: PathBuf,
    /// `gpu.proc`, default `/proc`.
    pub proc: PathBuf,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(15),
            hold_after: Duration::from_secs(10 * 60),
            recheck_after: Duration::from_secs(30),
            integrated: IntegratedGpus::Ignore,
            shared: Vec::new(),
            toolkit: "nvidia-ctk".into(),
            old_toolkit: OldToolkit::Refuse,
            nvml: "libnvidia-ml.so.1".into(),
            sysfs: "/sys".into(),
            dev: "/dev".into(),
            proc: "/proc".into(),
        }
    }
}

/// What becomes of graphics that are part of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntegratedGpus {
    /// `ignore`: they are shown, and not given to jobs.
    Ignore,
    /// `use`: they are given to jobs as cards are.
    Use,
}

impl IntegratedGpus {
    /// Every choice, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::Ignore, Self::Use];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Use => "use",
        }
    }
}

/// What becomes of NVIDIA's GPUs when the container toolkit has a known fault by which an image can take the machine over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldToolkit {
    /// `refuse`: no job gets one until the toolkit is updated.
    Refuse,
    /// `allow`: jobs get them; it is only told.
    Allow,
}

impl OldToolkit {
    /// Every choice, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::Refuse, Self::Allow];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
        }
    }
}

/// Reads `[gpu]`.
pub(super) fn read(section: &mut Section<'_>) -> Gpu {
    let base = Gpu::default();
    Gpu {
        probe_interval: section.parsed("probe_interval", duration(SECOND..=HOUR)).unwrap_or(base.probe_interval),
        hold_after: section.parsed("hold_after", duration(SECOND..=DAY)).unwrap_or(base.hold_after),
        recheck_after: section.parsed("recheck_after", duration(SECOND..=HOUR)).unwrap_or(base.recheck_after),
        integrated: section.parsed("integrated", values::choice(&IntegratedGpus::ALL, IntegratedGpus::as_str)).unwrap_or(base.integrated),
        shared: shared(section),
        toolkit: section.parsed("toolkit", values::program).unwrap_or(base.toolkit),
        old_toolkit: section.parsed("old_toolkit", values::choice(&OldToolkit::ALL, OldToolkit::as_str)).unwrap_or(base.old_toolkit),
        nvml: section.parsed("nvml", values::library).unwrap_or(base.nvml),
        sysfs: section.parsed("sysfs", values::root).unwrap_or(base.sysfs),
        dev: section.parsed("dev", values::root).unwrap_or(base.dev),
        proc: section.parsed("proc", values::root).unwrap_or(base.proc),
    }
}

fn shared(section: &mut Section<'_>) -> Vec<ModelPattern> {
    let texts = section.texts("shared");
    texts.iter().filter_map(|text| section.note("shared", ModelPattern::parse("shared", text))).collect()
}
