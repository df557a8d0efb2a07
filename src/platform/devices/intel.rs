//! Intel's graphics, from the kernel's files alone: render nodes whose driver is `i915` or `xe`.

use std::path::{Path, PathBuf};

use super::{MAX_DEVICES, Roots, Seen, Sight, Survey, note, part_of_processor, sysfs};
use crate::config::IntegratedGpus;
use crate::domain::{Gpu, GpuFaults, GpuHealth, GpuId, GpuRole, GpuVendor, GpuVitals, MemoryBytes, PciAddress, Reading, Sharing, Weight, Wiring};

/// Intel's number on the PCI bus.
const INTEL: u32 = 0x8086;
/// Where the graphics that are part of the processor sit, in every machine.
const INTEGRATED: &str = "0000:00:02.0";

/// Looks at the cards.
pub fn survey(roots: &Roots, integrated: IntegratedGpus) -> Survey {
    let (mut seen, mut notes) = (Vec::<Seen>::new(), Vec::new());
    let drm = roots.sysfs.join("class/drm");
    for name in sysfs::names(&drm).into_iter().filter(|name| name.starts_with("renderD")).take(MAX_DEVICES) {
        let device = drm.join(&name).join("device");
        match sysfs::hex(&device.join("vendor")) {
            Reading::Known(INTEL) => {}
            // Another vendor's, or no PCI device at all.
            Reading::Known(_) | Reading::NotSupported => continue,
            Reading::Unreadable(reason) => {
                notes.push(note(GpuVendor::Intel, Weight::Warning, format!("whose {name} is cannot be read: {reason}")));
                continue;
            }
        }
        let index = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        match card(roots, integrated, index, &name, &device) {
            Ok(card) => seen.push(card),
            Err(reason) => notes.push(note(GpuVendor::Intel, Weight::Warning, format!("{name} cannot be used: {reason}"))),
        }
    }
    Survey { sight: Sight::Seen(seen), notes }
}

fn card(roots: &Roots, integrated: IntegratedGpus, index: u32, name: &str, device: &Path) -> Result<Seen, String> {
    let real = std::fs::canonicalize(device).map_err(|error| format!("{}: {error}", device.display()))?;
    let address = real.file_name().and_then(|last| PciAddress::parse(last.to_str()?)).ok_or("it is no PCI device")?;
    let driver = sysfs::driver(&real);
    let memory = match driver.known().map(String::as_str) {
        Some("xe") => memory_of_xe(&real),
        Some("i915") => memory_of_i915(&real),
        Some(other) => return Err(format!("its driver is {other}, not i915 or xe")),
        None => return Err("it has no driver".to_owned()),
    };
    let vitals = GpuVitals {
        memory_used: Reading::NotSupported,
        utilization_percent: Reading::NotSupported,
        temperature_celsius: temperature(&real),
        // The sensor counts millionths of a joule.
        energy_millijoules: sysfs::sensor(&real, "energy1_input").map(|microjoules| microjoules / 1000),
        uncorrected_errors: Reading::NotSupported,
        xids: Vec::new(),
        faults: GpuFaults::default(),
        processes: Reading::NotSupported,
    };
    let nodes = vec![sysfs::node(roots, &format!("dri/{name}"))];
    let fault = nodes.iter().find_map(|node| node.group.fault()).map(str::to_owned);
    let fault = fault.or_else(|| memory.fault().map(|reason| format!("its memory cannot be read: {reason}")));
    let gpu = Gpu {
        id: GpuId::from_trusted(format!("intel-{address}")),
        vendor: GpuVendor::Intel,
        index,
        pci: Reading::Known(address),
        model: sysfs::hex(&real.join("device")).map(|device| format!("Intel {INTEL:04x}:{device:04x}")),
        role: role(integrated, address, &real, &memory),
        memory,
        compute: Reading::NotSupported,
        driver,
        numa_node: sysfs::numa_node(&real),
        wiring: Wiring { path: sysfs::pci_path(&real), links: Vec::new() },
        sharing: Sharing::Exclusive,
        nodes,
        health: fault.map_or(GpuHealth::Healthy, GpuHealth::Unhealthy),
    };
    Ok(Seen { gpu, vitals })
}

/// A card whose virtual functions are in use belongs to those; graphics of the processor are given away only if the owner says so.
fn role(integrated: IntegratedGpus, address: PciAddress, device: &Path, memory: &Reading<MemoryBytes>) -> GpuRole {
    match sysfs::number::<u64>(&device.join("sriov_numvfs")) {
        Reading::Known(0) | Reading::NotSupported => {}
        Reading::Known(functions) => return GpuRole::Unused(format!("{functions} virtual function(s) of it are in use")),
        Reading::Unreadable(reason) => return GpuRole::Unused(format!("whether virtual functions of it are in use cannot be read: {reason}")),
    }
    let of_processor = address.to_string() == INTEGRATED || *memory == Reading::NotSupported;
    if of_processor && integrated == IntegratedGpus::Ignore {
        return part_of_processor();
    }
    GpuRole::Card
}

/// `xe` tells the memory of each tile.
fn memory_of_xe(device: &Path) -> Reading<MemoryBytes> {
    sum(numbered(device, "tile").into_iter().map(|tile| sysfs::number(&tile.join("physical_vram_size_bytes"))))
}

/// `i915` tells it on the card that belongs to the render node.
fn memory_of_i915(device: &Path) -> Reading<MemoryBytes> {
    sum(numbered(&device.join("drm"), "card").into_iter().map(|card| sysfs::number(&card.join("lmem_total_bytes"))))
}

fn numbered(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let is_one = |name: &String| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|digit| digit.is_ascii_digit()));
    sysfs::names(directory).into_iter().filter(is_one).map(|name| directory.join(name)).collect()
}

/// The sum of what is told; unreadable when one of them is.
fn sum(readings: impl Iterator<Item = Reading<u64>>) -> Reading<MemoryBytes> {
    let mut total = Reading::NotSupported;
    for reading in readings {
        total = match (total, reading) {
            (Reading::Unreadable(reason), _) | (_, Reading::Unreadable(reason)) => Reading::Unreadable(reason),
            (Reading::Known(MemoryBytes(before)), Reading::Known(more)) => Reading::Known(MemoryBytes(before.saturating_add(more))),
            (Reading::NotSupported, Reading::Known(bytes)) => Reading::Known(MemoryBytes(bytes)),
            (before, Reading::NotSupported) => before,
        };
    }
    total
}

/// `i915` has it first, `xe` second.
fn temperature(device: &Path) -> Reading<u32> {
    match sysfs::temperature(device) {
        Reading::NotSupported => sysfs::sensor(device, "temp2_input").map(|thousandths| u32::try_from(thousandths / 1000).unwrap_or(u32::MAX)),
        told @ (Reading::Known(_) | Reading::Unreadable(_)) => told,
    }
}

#[cfg(test)]
#[path = "intel_tests.rs"]
mod tests;
