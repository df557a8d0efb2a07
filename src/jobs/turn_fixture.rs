//! What the two models of turns share: dice, a machine, and what jobs ask of it.

use jiff::Timestamp;

use crate::domain::{Arch, ClassName, CpuMillis, Gpu, GpuRequest, GpuVendor, HostFacts, HostId, MemoryBytes, Reading, Requirement, Sharing};
use crate::platform::devices::fixture::{card, part};

/// Steele, Lea and Flood's `SplitMix64`: a few lines, and the same everywhere.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub(super) fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count as u64)).expect("small")
    }
}

pub(super) fn time(seconds: u64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + i64::try_from(seconds).expect("small")).expect("a time")
}

/// Five of NVIDIA's cards, two of them big and two open for sharing, two parts of a sixth, and three of AMD's.
pub(super) fn machine() -> HostFacts {
    let gib = |gib: u64| Reading::Known(MemoryBytes(gib << 30));
    let nvidia = |n: u32| Gpu {
        numa_node: Reading::Known(n % 2),
        memory: gib(if n < 2 { 80 } else { 24 }),
        sharing: if n > 2 { Sharing::Open } else { Sharing::Exclusive },
        ..card(&format!("n{n}"))
    };
    let amd = |n: u32| Gpu { vendor: GpuVendor::Amd, memory: gib(64), ..card(&format!("a{n}")) };
    let gpus = (0..5).map(nvidia).chain([part("m0", "d"), part("m1", "d")]).chain((0..3).map(amd)).collect();
    HostFacts {
        id: HostId::from_trusted("box1"),
        arch: Some(Arch::Amd64),
        cpus: CpuMillis(14_000),
        memory: MemoryBytes(64 << 30),
        emulated: Vec::new(),
        gpus,
        notes: Vec::new(),
        runtimes: Vec::new(),
    }
}

/// What jobs ask for: none, one, several, big ones, parts, of a class that runs two at most, and shares.
pub(super) fn kinds() -> Vec<Requirement> {
    let several =
        |class: &str, cpus, gpus| Requirement { gpus, ..Requirement::plain(ClassName::from_trusted(class), CpuMillis(cpus), MemoryBytes(2 << 30)) };
    let of = |count, vendor| GpuRequest { vendor: Some(vendor), ..GpuRequest::any(count) };
    let big = GpuRequest { min_memory: Some(MemoryBytes(80 << 30)), ..GpuRequest::any(1) };
    let part = GpuRequest { mig_profile: Some("1g.10gb".to_owned()), ..of(1, GpuVendor::Nvidia) };
    let share = |gib: u64| GpuRequest { share: Some(MemoryBytes(gib << 30)), ..of(1, GpuVendor::Nvidia) };
    vec![
        several("default", 2000, None),
        several("default", 500, Some(GpuRequest::any(1))),
        several("default", 500, Some(GpuRequest::any(2))),
        several("default", 1000, Some(of(4, GpuVendor::Nvidia))),
        several("default", 500, Some(big)),
        several("default", 500, Some(of(2, GpuVendor::Amd))),
        several("default", 500, Some(part)),
        several("narrow", 500, Some(GpuRequest::any(1))),
        several("default", 300, Some(share(9))),
        several("default", 300, Some(share(16))),
    ]
}

pub(super) fn limit(class: &ClassName) -> Option<u32> {
    (class.as_str() == "narrow").then_some(2)
}
