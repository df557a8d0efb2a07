//! GPUs as facts: what each is, where it sits, what it is doing, and whether it may be given to a job.
//!
//! What could not be read is never a zero: a [`Reading`] says that the value is not known and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::amount::MemoryBytes;
use super::arch::GpuVendor;
use super::gpu_wiring::Wiring;
use super::ids::GpuId;

/// A value that a driver may or may not tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading<T> {
    /// The driver tells it.
    Known(T),
    /// This device or driver does not have such a thing.
    NotSupported,
    /// It should be there and could not be read, for the reason given.
    Unreadable(String),
}

impl<T> Reading<T> {
    /// The value, when it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::NotSupported | Self::Unreadable(_) => None,
        }
    }

    /// Why it could not be read, when that is a fault.
    pub fn fault(&self) -> Option<&str> {
        match self {
            Self::Unreadable(reason) => Some(reason),
            Self::Known(_) | Self::NotSupported => None,
        }
    }

    /// The same with another type of value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Known(value) => Reading::Known(change(value)),
            Self::NotSupported => Reading::NotSupported,
            Self::Unreadable(reason) => Reading::Unreadable(reason),
        }
    }
}

/// Where a device sits on the PCI bus; written as the kernel does, `0000:03:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PciAddress {
    /// Domain, also called segment.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl PciAddress {
    /// Reads an address as the kernel or a driver writes it: a domain of 4 to 8 hexadecimal digits, bus, device, function.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let hex = |digits: &str, least: usize, most: usize| {
            let good = (least..=most).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            good.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let narrow = |number: u32, most: u8| u8::try_from(number).ok().filter(|number| *number <= most);
        Some(Self {
            domain: hex(domain, 4, 8)?,
            bus: narrow(hex(bus, 2, 2)?, u8::MAX)?,
            device: narrow(hex(device, 2, 2)?, 31)?,
            function: narrow(hex(function, 1, 1)?, 7)?,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for PciAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a PCI address")
    }
}

/// A file below `/dev` through which programs reach a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// The path that programs look for, and so the path in a container: `/dev/dri/renderD128`.
    pub path: String,
    /// The path on the host; the same, unless the configuration says that `/dev` is elsewhere.
    pub host_path: String,
    /// The group that owns it, by number, because names differ between machines and images.
    pub group: Reading<u32>,
}

/// What a device is to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuRole {
    /// A whole card, which a job can be given.
    Card,
    /// A card divided into parts: the parts are given to jobs, the card is not.
    Divided,
    /// A part of a divided card, which a job can be given: a MIG instance, or a partition of an AMD card.
    Part {
        /// The card.
        of: GpuId,
        /// NVIDIA's name of its size, for example `1g.10gb`; `None` for a partition of an AMD card.
        profile: Option<String>,
    },
    /// Not given to jobs, for the reason given; shown so that nobody wonders.
    Unused(String),
}

/// Whether a GPU may be given to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuHealth {
    /// It may.
    Healthy,
    /// It may not, for the reason given.
    Unhealthy(String),
    /// It may not yet: a job left it, and whether it is as before is being looked at.
    Checking,
    /// It answers, and is held back for the reason given, until a check or a person lets it out.
    Quarantined(String),
    /// It was here and is not any more, or its driver does not answer; how that shows is given.
    Lost(String),
}

impl GpuHealth {
    /// Why it may not be given to a job.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Checking => Some("it is being checked after its job"),
            Self::Unhealthy(reason) | Self::Quarantined(reason) | Self::Lost(reason) => Some(reason),
        }
    }

    /// Whether it may be given to a job now or in a moment.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Healthy | Self::Checking => true,
            Self::Unhealthy(_) | Self::Quarantined(_) | Self::Lost(_) => false,
        }
    }
}

/// Whether several jobs may have parts of one GPU's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// It is one job's at a time.
    #[default]
    Exclusive,
    /// The configuration opens it: it is one job's, or several jobs have shares of it.
    Open,
}

impl Sharing {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Exclusive, Self::Open];

    /// The name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Open => "open",
        }
    }
}

/// A GPU or a part of one: what changes seldom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// A name that stays: NVIDIA's UUID; for others the vendor and the PCI address.
    pub id: GpuId,
    /// The vendor.
    pub vendor: GpuVendor,
    /// Its number among those of its vendor, as the vendor's tools count; a part has its card's. Not stable: for people.
    pub index: u32,
    /// Where it sits; a part's is its card's.
    pub pci: Reading<PciAddress>,
    /// The model's name.
    pub model: Reading<String>,
    /// All of its memory.
    pub memory: Reading<MemoryBytes>,
    /// What programs must be compiled for: `9.0` for NVIDIA, `gfx90a` for AMD.
    pub compute: Reading<String>,
    /// The driver with its version, where that is told: `nvidia 570.86.15`, `amdgpu`, `xe`.
    pub driver: Reading<String>,
    /// The NUMA node that it is near to.
    pub numa_node: Reading<u32>,
    /// By what it is connected.
    #[serde(default)]
    pub wiring: Wiring,
    /// Whether jobs may share it.
    #[serde(default)]
    pub sharing: Sharing,
    /// The files below `/dev` that a program on it needs; `/dev/kfd` is among those of every AMD card.
    pub nodes: Vec<DeviceNode>,
    /// What it is to the scheduler.
    pub role: GpuRole,
    /// Whether it may be given to a job.
    pub health: GpuHealth,
}

impl Gpu {
    /// Whether jobs are given such devices at all, healthy or not.
    #[must_use]
    pub fn is_for_jobs(&self) -> bool {
        match self.role {
            GpuRole::Card | GpuRole::Part { .. } => true,
            GpuRole::Divided | GpuRole::Unused(_) => false,
        }
    }

    /// NVIDIA's name of its size, when it is a MIG instance.
    #[must_use]
    pub fn mig_profile(&self) -> Option<&str> {
        match &self.role {
            GpuRole::Part { profile, .. } => profile.as_deref(),
            GpuRole::Card | GpuRole::Divided | GpuRole::Unused(_) => None,
        }
    }

    /// The card that it is a part of.
    #[must_use]
    pub fn card(&self) -> Option<&GpuId> {
        match &self.role {
            GpuRole::Part { of, .. } => Some(of),
            GpuRole::Card | GpuRole::Divided | GpuRole::Unused(_) => None,
        }
    }
}

/// A process that uses a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Its id on the host.
    pub pid: u32,
    /// GPU memory that it holds.
    pub memory: Reading<MemoryBytes>,
}

/// What a GPU is doing: what changes all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuVitals {
    /// Memory in use.
    pub memory_used: Reading<MemoryBytes>,
    /// Share of the last moments in which it computed, in percent.
    pub utilization_percent: Reading<u32>,
    /// In degrees Celsius.
    pub temperature_celsius: Reading<u32>,
    /// Energy used since the driver was loaded, in millijoules.
    pub energy_millijoules: Reading<u64>,
    /// Memory errors that could not be corrected since the driver was loaded.
    pub uncorrected_errors: Reading<u64>,
    /// NVIDIA's fault numbers seen since we watch, the latest last, at most [`Self::MAX_XIDS`].
    pub xids: Vec<u64>,
    /// Faults of the card itself.
    pub faults: GpuFaults,
    /// Processes that compute on it.
    pub processes: Reading<Vec<GpuProcess>>,
}

/// Faults that a driver reported of a card and that no program causes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFaults {
    /// How many since we watch. May begin again at 0.
    pub count: u64,
    /// What the last one was, for people.
    pub last: Option<String>,
}

impl GpuVitals {
    /// Most fault numbers that are remembered of one GPU.
    pub const MAX_XIDS: usize = 16;

    /// Nothing is known, for the reason given.
    #[must_use]
    pub fn unreadable(reason: &str) -> Self {
        fn all<T>(reason: &str) -> Reading<T> {
            Reading::Unreadable(reason.to_owned())
        }
        Self {
            memory_used: all(reason),
            utilization_percent: all(reason),
            temperature_celsius: all(reason),
            energy_millijoules: all(reason),
            uncorrected_errors: all(reason),
            xids: Vec::new(),
            faults: GpuFaults::default(),
            processes: all(reason),
        }
    }
}

/// How much somebody should care about a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// How it is, and fine so.
    Info,
    /// Something that is there cannot be used.
    Warning,
}

/// A sentence about the machine's devices that belongs to no single GPU, such as a driver that is missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceNote {
    /// What was looked at: `nvidia`, `amd`, `intel`, `emulation`.
    pub about: String,
    /// How much somebody should care.
    pub weight: Weight,
    /// What was found, for people.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_read_as_the_kernel_and_the_driver_write_them() {
        let read = |text: &str| PciAddress::parse(text).map(|address| address.to_string());
        assert_eq!(read("0000:3b:00.0").as_deref(), Some("0000:3b:00.0"));
        assert_eq!(read("00000000:3B:1F.7").as_deref(), Some("0000:3b:1f.7"));
        assert_eq!(read("00010000:01:00.0").as_deref(), Some("10000:01:00.0"));
        for bad in ["", "3b:00.0", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "0000:+b:00.0", "000:3b:00.0", "0000:3b:00.0\n"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_none_and_an_address_reads_back(text in ".{0,20}", domain: u32, bus: u8, device in 0_u8..32, function in 0_u8..8) {
            let _ = PciAddress::parse(&text);
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(PciAddress::parse(&address.to_string()), Some(address));
        }
    }
}
