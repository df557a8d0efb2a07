//! What the kernel tells of AMD's and Intel's cards and of emulators: files below `/sys` and `/proc`, as [`super::machine`] makes them.
//!
//! What must hold: no two devices that are known have one id, a divided card is not given whole, and what is known can be stored.

use std::collections::{BTreeSet, HashSet};

use runner_coordinator::config::IntegratedGpus;
use runner_coordinator::domain::{Gpu, GpuId, GpuRole, GpuVendor};
use runner_coordinator::platform::devices::{MAX_DEVICES, Sight, Survey, amd, binfmt, change, intel};

use super::machine::Machine;

pub(crate) fn run(data: &[u8]) {
    let machine = Machine::of(data);
    let roots = machine.roots();
    let look = |integrated| (amd::survey(&roots, integrated), intel::survey(&roots, integrated));
    for (of_amd, of_intel) in [look(IntegratedGpus::Ignore), look(IntegratedGpus::Use)] {
        check(GpuVendor::Amd, &of_amd);
        check(GpuVendor::Intel, &of_intel);
    }
    let emulation = binfmt::survey(&roots);
    assert!(emulation.archs.windows(2).all(|two| two[0] < two[1]), "{emulation:?}");
}

/// What holds of every look, and of what is known after it.
pub(crate) fn check(vendor: GpuVendor, survey: &Survey) {
    let Sight::Seen(seen) = &survey.sight else { return };
    assert!(seen.len() <= MAX_DEVICES * 2, "{} devices", seen.len());
    let mut ids = BTreeSet::new();
    for gpu in change::merge(&[], vendor, &survey.sight, &HashSet::<GpuId>::new()) {
        assert!(ids.insert(gpu.id.clone()), "two devices have the id {}", gpu.id);
        assert!(gpu.role != GpuRole::Divided || vendor == GpuVendor::Nvidia || gpu.nodes.is_empty(), "{gpu:?}");
        let text = serde_json::to_string(&gpu).expect("JSON");
        assert_eq!(serde_json::from_str::<Gpu>(&text).expect("what was stored is read"), gpu);
    }
}
