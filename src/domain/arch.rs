//! Processor architectures and GPU vendors that we schedule for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::fault::FieldFault;

/// A CPU architecture, by Docker's and Debian's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit Arm.
    Arm64,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Arch {
    /// Every architecture, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Amd64, Self::Arm64, Self::Riscv64];

    /// Docker's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// Reads what an engine (`x86_64`, `aarch64`), a kernel or an image says of itself. `None` for an architecture that we do not schedule for.
    #[must_use]
    pub fn from_machine(name: &str) -> Option<Self> {
        match name {
            "amd64" | "x86_64" | "x86-64" => Some(Self::Amd64),
            "arm64" | "aarch64" | "arm64/v8" => Some(Self::Arm64),
            "riscv64" => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// Reads a name given by a person.
    ///
    /// # Errors
    /// Names `field` and the allowed values.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        Self::ALL.into_iter().find(|arch| arch.as_str() == text).ok_or_else(|| FieldFault::new(field, "must be one of amd64, arm64, riscv64"))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who made a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuVendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
}

impl GpuVendor {
    /// Every vendor, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Nvidia, Self::Amd, Self::Intel];

    /// The name in requests and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Intel => "intel",
        }
    }

    /// Reads a name given by a person.
    ///
    /// # Errors
    /// Names `field` and the allowed values.
    pub fn parse(field: &str, text: &str) -> Result<Self, FieldFault> {
        Self::ALL.into_iter().find(|vendor| vendor.as_str() == text).ok_or_else(|| FieldFault::new(field, "must be one of nvidia, amd, intel"))
    }
}

impl fmt::Display for GpuVendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
