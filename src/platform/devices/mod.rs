//! Finds the machine's GPUs and emulators, and goes on looking.
//!
//! One file per vendor reads what is there ([`nvidia`] through NVML, [`amd`] and [`intel`] from sysfs), [`guard`] keeps a driver that
//! hangs from holding up anybody, [`change`] decides what a new look means for what was known, [`watch`] looks again and again, and
//! [`ward`] keeps those from jobs that are not as they were.
//! Where the kernel's files and the vendor's library are is a parameter, so that tests build machines out of directories.

pub mod amd;
pub mod binfmt;
pub mod change;
pub mod guard;
pub mod intel;
pub mod nvidia;
mod nvidia_card;
pub mod settings;
pub mod sysfs;
pub mod toolkit;
pub mod ward;
pub mod watch;

#[cfg(test)]
pub(crate) mod fixture;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::IntegratedGpus;
use crate::domain::{DeviceNote, Gpu, GpuHealth, GpuRole, GpuVendor, GpuVitals, Reading, Weight};

/// Most devices of one vendor that are looked at; a bound against drivers that count nonsense.
pub const MAX_DEVICES: usize = 512;

/// Where things are on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The kernel's `/sys`.
    pub sysfs: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// The kernel's `/proc`.
    pub proc: PathBuf,
    /// NVIDIA's management library: a path, or a name for the loader to find.
    pub nvml: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sysfs: "/sys".into(), dev: "/dev".into(), proc: "/proc".into(), nvml: "libnvidia-ml.so.1".into() }
    }
}

/// One GPU as a look found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub gpu: Gpu,
    /// What it is doing.
    pub vitals: GpuVitals,
}

/// What a look at one vendor's devices gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// All that are there, perhaps none.
    Seen(Vec<Seen>),
    /// It cannot be told what is there, for the reason given: no driver, or one that does not answer.
    Blind(String),
}

/// A look at one vendor's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The devices.
    pub sight: Sight,
    /// What else there is to say.
    pub notes: Vec<DeviceNote>,
}

/// Something that a round of looks asks: one per vendor.
pub struct Source {
    /// Whose devices it finds.
    pub vendor: GpuVendor,
    /// What runs on its thread.
    pub body: guard::Body<Survey>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("vendor", &self.vendor).finish_non_exhaustive()
    }
}

/// The three vendors on this machine.
#[must_use]
pub fn sources(roots: &Roots, integrated: IntegratedGpus) -> Vec<Source> {
    let roots = Arc::new(roots.clone());
    let (for_nvidia, for_amd, for_intel) = (Arc::clone(&roots), Arc::clone(&roots), roots);
    vec![
        Source { vendor: GpuVendor::Nvidia, body: Arc::new(move |asked| nvidia::serve(&for_nvidia, asked)) },
        Source { vendor: GpuVendor::Amd, body: guard::each(move || amd::survey(&for_amd, integrated)) },
        Source { vendor: GpuVendor::Intel, body: guard::each(move || intel::survey(&for_intel, integrated)) },
    ]
}

/// Graphics that share the processor's memory: given to jobs only where the owner says so.
fn part_of_processor() -> GpuRole {
    GpuRole::Unused("it is part of the processor; gpu.integrated = \"use\" gives it to jobs".to_owned())
}

/// What the memory errors of a card say of it. A driver that does not count them says nothing.
fn health_by_errors(uncorrected: &Reading<u64>) -> GpuHealth {
    match uncorrected {
        Reading::Known(0) | Reading::NotSupported | Reading::Unreadable(_) => GpuHealth::Healthy,
        Reading::Known(errors) => GpuHealth::Unhealthy(format!("{errors} memory error(s) that could not be corrected since the driver was loaded")),
    }
}

/// A note about a vendor's devices.
fn note(vendor: GpuVendor, weight: Weight, text: impl Into<String>) -> DeviceNote {
    DeviceNote { about: vendor.as_str().to_owned(), weight, text: text.into() }
}
