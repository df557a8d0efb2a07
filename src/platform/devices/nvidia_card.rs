//! Reads one NVIDIA card, and the parts that it is divided into.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use super::{MAX_DEVICES, Roots, Seen, health_by_errors, note, sysfs};
use crate::domain::{
    DeviceNode, DeviceNote, Gpu, GpuFaults, GpuHealth, GpuId, GpuProcess, GpuRole, GpuVendor, GpuVitals, MemoryBytes, PciAddress, Reading, Sharing,
    Weight, Wiring,
};

/// Most processes of one GPU that are remembered.
const MAX_PROCESSES: usize = 256;
/// Longest name of a GPU that is taken for one.
const MAX_ID: usize = 96;

/// Why a card cannot be told from others.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The library says so.
    #[error("NVML: {0}")]
    Nvml(#[from] NvmlError),
    /// It told a name that is none.
    #[error("NVML: its UUID makes no sense: {0:?}")]
    Name(String),
}

/// What the library tells, as a fact.
pub(super) fn reading<T>(told: Result<T, NvmlError>) -> Reading<T> {
    match told {
        Ok(value) => Reading::Known(value),
        Err(NvmlError::NotSupported) => Reading::NotSupported,
        Err(error) => Reading::Unreadable(format!("NVML: {error}")),
    }
}

/// Reads a card.
///
/// # Errors
/// When it does not tell who it is, or says that it is of no use.
pub(super) fn read(roots: &Roots, device: &Device<'_>, index: u32, driver: &Reading<String>) -> Result<Seen, Trouble> {
    let id = id(device)?;
    let pci = address(device);
    let memory = match device.memory_info() {
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => return Err(error.into()),
        told => reading(told),
    };
    let vitals = vitals(device, &memory);
    let role = match device.mig_mode() {
        Ok(mode) if mode.current != 0 => Reading::Known(GpuRole::Divided),
        told => reading(told).map(|_| GpuRole::Card),
    };
    let health = health(&vitals, &memory, &role);
    let gpu = Gpu {
        id,
        vendor: GpuVendor::Nvidia,
        index,
        numa_node: pci.known().map_or(Reading::NotSupported, |address| sysfs::numa_node(&sysfs::pci_directory(roots, *address))),
        wiring: wiring(roots, device, &pci),
        sharing: Sharing::Exclusive,
        pci,
        model: reading(device.name()),
        memory: memory.map(|info| MemoryBytes(info.total)),
        compute: reading(device.cuda_compute_capability()).map(|version| format!("{}.{}", version.major, version.minor)),
        driver: driver.clone(),
        nodes: nodes(roots, device),
        role: role.known().cloned().unwrap_or(GpuRole::Card),
        health,
    };
    Ok(Seen { gpu, vitals })
}

/// A card whose memory or mode cannot be read is not given away: nobody knows what a job would get.
fn health(vitals: &GpuVitals, memory: &Reading<nvml_wrapper::struct_wrappers::device::MemoryInfo>, role: &Reading<GpuRole>) -> GpuHealth {
    if let Some(reason) = memory.fault() {
        return GpuHealth::Unhealthy(format!("its memory cannot be read: {reason}"));
    }
    if let Some(reason) = role.fault() {
        return GpuHealth::Unhealthy(format!("whether it is divided cannot be read: {reason}"));
    }
    health_by_errors(&vitals.uncorrected_errors)
}

fn id(device: &Device<'_>) -> Result<GpuId, Trouble> {
    let uuid = device.uuid()?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '.');
    let good = (1..=MAX_ID).contains(&uuid.len()) && uuid.chars().all(legal);
    if good { Ok(GpuId::from_trusted(uuid)) } else { Err(Trouble::Name(uuid.chars().take(MAX_ID).collect())) }
}

fn address(device: &Device<'_>) -> Reading<PciAddress> {
    match reading(device.pci_info()) {
        Reading::Known(info) => {
            PciAddress::parse(&info.bus_id).map_or_else(|| Reading::Unreadable(format!("NVML: {:?} is no PCI address", info.bus_id)), Reading::Known)
        }
        Reading::NotSupported => Reading::NotSupported,
        Reading::Unreadable(reason) => Reading::Unreadable(reason),
    }
}

/// Most links (`NVLink`) of a card that the library numbers.
const MAX_LINKS: u32 = 18;

/// A link that does not tell where it leads to is left out: then the cards' places on the PCI bus have to do.
fn wiring(roots: &Roots, device: &Device<'_>, pci: &Reading<PciAddress>) -> Wiring {
    let path = pci.known().map(|address| sysfs::pci_path(&sysfs::pci_directory(roots, *address))).unwrap_or_default();
    let mut links = Vec::new();
    for number in 0..MAX_LINKS {
        let link = device.link_wrapper_for(number);
        match link.is_active() {
            Ok(true) => links.extend(link.remote_pci_info().ok().and_then(|info| PciAddress::parse(&info.bus_id))),
            Ok(false) => {}
            // It has no more, or none.
            Err(_) => break,
        }
    }
    links.sort_unstable();
    links.dedup();
    Wiring { path, links }
}

/// The card's own file; those that all cards share are the container toolkit's business.
fn nodes(roots: &Roots, device: &Device<'_>) -> Vec<DeviceNode> {
    device.minor_number().map(|minor| sysfs::node(roots, &format!("nvidia{minor}"))).into_iter().collect()
}

fn vitals(device: &Device<'_>, memory: &Reading<nvml_wrapper::struct_wrappers::device::MemoryInfo>) -> GpuVitals {
    GpuVitals {
        memory_used: match memory {
            Reading::Known(info) => Reading::Known(MemoryBytes(info.used)),
            Reading::NotSupported => Reading::NotSupported,
            Reading::Unreadable(reason) => Reading::Unreadable(reason.clone()),
        },
        utilization_percent: reading(device.utilization_rates()).map(|rates| rates.gpu),
        temperature_celsius: reading(device.temperature(TemperatureSensor::Gpu)),
        energy_millijoules: reading(device.total_energy_consumption()),
        uncorrected_errors: reading(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)),
        xids: Vec::new(),
        faults: GpuFaults::default(),
        processes: reading(device.running_compute_processes()).map(|processes| {
            let shown = |process: &nvml_wrapper::struct_wrappers::device::ProcessInfo| GpuProcess {
                pid: process.pid,
                memory: match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Reading::Known(MemoryBytes(bytes)),
                    UsedGpuMemory::Unavailable => Reading::NotSupported,
                },
            };
            processes.iter().take(MAX_PROCESSES).map(shown).collect()
        }),
    }
}

/// The parts of a divided card; none of one that is whole. A part of a card that is unfit is unfit.
pub(super) fn parts(roots: &Roots, device: &Device<'_>, card: &Gpu, notes: &mut Vec<DeviceNote>) -> Vec<Seen> {
    if card.role != GpuRole::Divided {
        return Vec::new();
    }
    let most = match device.mig_device_count() {
        Ok(most) => most.min(u32::try_from(MAX_DEVICES).unwrap_or(u32::MAX)),
        Err(error) => {
            notes.push(note(GpuVendor::Nvidia, Weight::Warning, format!("the parts of {} cannot be counted: NVML: {error}", card.id)));
            return Vec::new();
        }
    };
    let mut parts = Vec::new();
    for number in 0..most {
        let part = match device.mig_device_by_index(number) {
            // Numbers have gaps, and most cards are divided into fewer parts than they could be.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => continue,
            told => told.map_err(Trouble::from).and_then(|part| read_part(roots, &part, card)),
        };
        match part {
            Ok(part) => parts.push(part),
            Err(trouble) => notes.push(note(GpuVendor::Nvidia, Weight::Warning, format!("part {number} of {} does not answer: {trouble}", card.id))),
        }
    }
    parts
}

fn read_part(roots: &Roots, part: &Device<'_>, card: &Gpu) -> Result<Seen, Trouble> {
    let id = id(part)?;
    let memory = reading(part.memory_info());
    let vitals = vitals(part, &memory);
    let model = reading(part.name());
    let profile = model.known().and_then(|name| profile_of(name)).or_else(|| profile_by_size(part));
    let role = GpuRole::Part { of: card.id.clone(), profile: profile.clone() };
    let health = match (&card.health, profile) {
        (GpuHealth::Healthy, Some(_)) => health(&vitals, &memory, &Reading::Known(role.clone())),
        (GpuHealth::Healthy, None) => GpuHealth::Unhealthy("its MIG profile cannot be read".to_owned()),
        (unfit, _) => unfit.clone(),
    };
    let gpu = Gpu { id, model, memory: memory.map(|info| MemoryBytes(info.total)), nodes: nodes(roots, part), role, health, ..card.clone() };
    Ok(Seen { gpu, vitals })
}

/// `NVIDIA A100-SXM4-40GB MIG 1g.5gb` ends in the profile.
fn profile_of(name: &str) -> Option<String> {
    let profile = name.rsplit_once("MIG ")?.1.trim();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
    let good = profile.len() <= 32 && profile.contains("g.") && profile.starts_with(|c: char| c.is_ascii_digit()) && profile.chars().all(legal);
    good.then(|| profile.to_owned())
}

/// The same out of the part's share: slices, and memory in whole gigabytes.
fn profile_by_size(part: &Device<'_>) -> Option<String> {
    let share = part.attributes().ok()?;
    let (compute, slices) = (share.compute_instance_slice_count, share.gpu_instance_slice_count);
    let gigabytes = share.memory_size_mb.checked_add(1023)? / 1024;
    if slices == 0 || compute != slices {
        return None;
    }
    Some(format!("{slices}g.{gigabytes}gb"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::profile_of;

    #[test]
    fn a_profile_is_read_off_the_name() {
        let read = |name| profile_of(name);
        assert_eq!(read("NVIDIA A100-SXM4-40GB MIG 1g.5gb").as_deref(), Some("1g.5gb"));
        assert_eq!(read("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me").as_deref(), Some("1g.10gb+me"));
        for name in ["NVIDIA H100", "NVIDIA H100 MIG ", "MIG x", "MIG 1g.5gb;rm"] {
            assert_eq!(read(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in ".{0,80}") {
            let _ = profile_of(&name);
        }
    }
}
