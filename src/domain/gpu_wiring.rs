//! By what GPUs are connected, and how near that makes them to each other.

use serde::{Deserialize, Serialize};

use super::gpu::{Gpu, PciAddress};

/// By what a GPU is connected, as far as that is known; a part's is its card's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiring {
    /// What lies between the processor and it, from the PCI root on, as the kernel names it: `pci0000:3a`, `0000:3a:00.0`.
    pub path: Vec<String>,
    /// Where links of its own lead to, past the PCI bus (`NVLink`, xGMI): other GPUs, or a switch that they share.
    pub links: Vec<PciAddress>,
}

/// How near two GPUs are to each other; the greater, the quicker they exchange data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Nothing is known that they share.
    Apart,
    /// They are near to the same memory of the processor.
    Node,
    /// They are below one PCI root.
    Root,
    /// They are behind one PCI bridge or switch.
    Bridge,
    /// They have links of their own, or share a switch for these.
    Linked,
}

impl Gpu {
    /// How near another GPU is.
    #[must_use]
    pub fn nearness(&self, other: &Self) -> Nearness {
        let leads_to = |from: &Self, to: &Self| to.pci.known().is_some_and(|address| from.wiring.links.contains(address));
        let switch = || self.wiring.links.iter().any(|address| other.wiring.links.contains(address));
        if leads_to(self, other) || leads_to(other, self) || switch() {
            return Nearness::Linked;
        }
        match self.wiring.path.iter().zip(&other.wiring.path).take_while(|(one, other)| one == other).count() {
            0 => match (self.numa_node.known(), other.numa_node.known()) {
                (Some(one), Some(other)) if one == other => Nearness::Node,
                (Some(_) | None, Some(_) | None) => Nearness::Apart,
            },
            1 => Nearness::Root,
            _ => Nearness::Bridge,
        }
    }
}
