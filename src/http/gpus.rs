//! GPUs as they go over the wire. What could not be read is `null` in its place, and named with the reason under `unreadable`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::{DeviceNote, Gpu, GpuHealth, GpuRole, GpuVitals, MemoryBytes, PciAddress, Reading, Weight};

/// One GPU, or a part of one.
#[derive(Debug, Serialize)]
pub(super) struct GpuDto {
    id: String,
    vendor: &'static str,
    /// Its number as the vendor's tools count.
    index: u32,
    pci: Option<String>,
    model: Option<String>,
    memory_bytes: Option<u64>,
    compute: Option<String>,
    driver: Option<String>,
    numa_node: Option<u32>,
    mig_profile: Option<String>,
    /// The card that it is a part of.
    part_of: Option<String>,
    /// `free`, `in_use`, `unhealthy`, `lost`, `divided` (its parts are given to jobs) or `unused` (not given to jobs).
    pub(super) state: &'static str,
    /// Why it is unhealthy, lost or unused.
    reason: Option<String>,
    memory_used_bytes: Option<u64>,
    utilization_percent: Option<u32>,
    temperature_celsius: Option<u32>,
    uncorrected_errors: Option<u64>,
    /// NVIDIA's fault numbers since the daemon started.
    xids: Vec<u64>,
    processes: Option<usize>,
    /// What could not be read, by field, and why.
    unreadable: BTreeMap<&'static str, String>,
}

/// A sentence about the machine's devices.
#[derive(Debug, Serialize)]
pub(super) struct NoteDto {
    about: String,
    /// `info`, or `warning` for something that is there and cannot be used.
    weight: &'static str,
    text: String,
}

impl From<&DeviceNote> for NoteDto {
    fn from(note: &DeviceNote) -> Self {
        let weight = match note.weight {
            Weight::Info => "info",
            Weight::Warning => "warning",
        };
        Self { about: note.about.clone(), weight, text: note.text.clone() }
    }
}

impl GpuDto {
    /// Shows a GPU, what it is doing where that is known, and whether a runner holds it.
    pub(super) fn new(gpu: &Gpu, vitals: Option<&GpuVitals>, holding: Holding) -> Self {
        let mut unreadable = BTreeMap::new();
        let mut told = Told(&mut unreadable);
        let (state, reason) = state(gpu, holding);
        Self {
            id: gpu.id.to_string(),
            vendor: gpu.vendor.as_str(),
            index: gpu.index,
            pci: told.read("pci", &gpu.pci).map(|address: PciAddress| address.to_string()),
            model: told.read("model", &gpu.model),
            memory_bytes: told.read("memory_bytes", &gpu.memory).map(|memory: MemoryBytes| memory.0),
            compute: told.read("compute", &gpu.compute),
            driver: told.read("driver", &gpu.driver),
            numa_node: told.read("numa_node", &gpu.numa_node),
            mig_profile: gpu.mig_profile().map(str::to_owned),
            part_of: gpu.card().map(ToString::to_string),
            state,
            reason,
            memory_used_bytes: vitals.and_then(|vitals| told.read("memory_used_bytes", &vitals.memory_used)).map(|memory| memory.0),
            utilization_percent: vitals.and_then(|vitals| told.read("utilization_percent", &vitals.utilization_percent)),
            temperature_celsius: vitals.and_then(|vitals| told.read("temperature_celsius", &vitals.temperature_celsius)),
            uncorrected_errors: vitals.and_then(|vitals| told.read("uncorrected_errors", &vitals.uncorrected_errors)),
            xids: vitals.map(|vitals| vitals.xids.clone()).unwrap_or_default(),
            processes: vitals.and_then(|vitals| told.read("processes", &vitals.processes)).map(|processes| processes.len()),
            unreadable,
        }
    }
}

/// Whether a runner holds a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// One does.
    Held,
    /// None does.
    Free,
}

/// Notes what could not be read.
struct Told<'a>(&'a mut BTreeMap<&'static str, String>);

impl Told<'_> {
    fn read<T: Clone>(&mut self, field: &'static str, reading: &Reading<T>) -> Option<T> {
        if let Some(reason) = reading.fault() {
            self.0.insert(field, reason.to_owned());
        }
        reading.known().cloned()
    }
}

fn state(gpu: &Gpu, holding: Holding) -> (&'static str, Option<String>) {
    match (&gpu.health, &gpu.role) {
        (GpuHealth::Lost(reason), _) => ("lost", Some(reason.clone())),
        (_, GpuRole::Unused(reason)) => ("unused", Some(reason.clone())),
        (GpuHealth::Unhealthy(reason), _) => ("unhealthy", Some(reason.clone())),
        (GpuHealth::Healthy, GpuRole::Divided) => ("divided", None),
        (GpuHealth::Healthy, GpuRole::Card | GpuRole::Part { .. }) if holding == Holding::Held => ("in_use", None),
        (GpuHealth::Healthy, GpuRole::Card | GpuRole::Part { .. }) => ("free", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::devices::fixture::{card, part};

    fn shown(gpu: &Gpu, holding: Holding) -> (&'static str, Option<String>) {
        let dto = GpuDto::new(gpu, None, holding);
        (dto.state, dto.reason)
    }

    #[test]
    fn every_state_has_a_word_and_its_reason() {
        assert_eq!(shown(&card("a"), Holding::Free), ("free", None));
        assert_eq!(shown(&part("p", "a"), Holding::Held), ("in_use", None));
        assert_eq!(shown(&Gpu { role: GpuRole::Divided, ..card("a") }, Holding::Free), ("divided", None));
        let unused = Gpu { role: GpuRole::Unused("part of the processor".into()), ..card("a") };
        assert_eq!(shown(&unused, Holding::Free), ("unused", Some("part of the processor".into())));
        let sick = Gpu { health: GpuHealth::Unhealthy("Xid 79".into()), ..card("a") };
        assert_eq!(shown(&sick, Holding::Held), ("unhealthy", Some("Xid 79".into())));
        let lost = Gpu { health: GpuHealth::Lost("gone".into()), role: GpuRole::Divided, ..card("a") };
        assert_eq!(shown(&lost, Holding::Free), ("lost", Some("gone".into())));
    }

    #[test]
    fn what_could_not_be_read_is_null_and_named_and_never_a_zero() {
        let gpu = Gpu { memory: Reading::Unreadable("NVML: no".into()), ..part("p", "a") };
        let vitals = GpuVitals { uncorrected_errors: Reading::NotSupported, xids: vec![13], ..GpuVitals::unreadable("late") };
        let json = serde_json::to_value(GpuDto::new(&gpu, Some(&vitals), Holding::Free)).expect("JSON");
        assert_eq!(json["memory_bytes"], serde_json::Value::Null);
        assert_eq!(json["unreadable"]["memory_bytes"], "NVML: no");
        assert_eq!(json["unreadable"]["temperature_celsius"], "late");
        assert_eq!(json["unreadable"].get("uncorrected_errors"), None, "what a card does not have is no fault");
        assert_eq!((&json["part_of"], &json["mig_profile"], &json["xids"]), (&"a".into(), &"1g.10gb".into(), &vec![13].into()));
    }
}
