//! What the kernel tells of the machine, as a seam that tests replace with machines of their own making.

use crate::domain::{CpuMillis, MemoryBytes};

/// What the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// `uname -m`.
    pub machine: String,
    /// Processors that this process may use.
    pub cpus: CpuMillis,
    /// Memory of the machine.
    pub memory: MemoryBytes,
    /// A number that is another one after every boot of the machine.
    pub boot: u32,
}

/// Asks the kernel.
pub trait HostProbe: Send + Sync + std::fmt::Debug {
    /// What it tells now.
    fn probe(&self) -> KernelFacts;
}

/// The kernel that we run on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemProbe;

impl HostProbe for SystemProbe {
    fn probe(&self) -> KernelFacts {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let info = rustix::system::sysinfo();
        KernelFacts {
            machine: rustix::system::uname().machine().to_string_lossy().into_owned(),
            cpus: CpuMillis(u64::try_from(cpus).unwrap_or(1).saturating_mul(1000)),
            memory: MemoryBytes(info.totalram.saturating_mul(u64::from(info.mem_unit))),
            boot: boot_number(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()),
        }
    }
}

/// The first group of the kernel's boot id; without one, all boots look alike.
fn boot_number(boot_id: &str) -> u32 {
    boot_id.split('-').next().and_then(|group| u32::from_str_radix(group, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_this_machine() {
        let facts = SystemProbe.probe();
        assert!(!facts.machine.is_empty() && facts.cpus.0 >= 1000 && facts.memory.0 > 1 << 26, "{facts:?}");
        assert_eq!(boot_number("0a1b2c3d-0000-0000-0000-000000000000\n"), 0x0a1b_2c3d);
    }
}
