//! The part of `check` that tells of GPUs and emulators: a line for each, in words that a person likes to read.

use std::sync::Arc;

use crate::config::Config;
use crate::domain::{Arch, DeviceNode, DeviceNote, Gpu, GpuHealth, GpuRole, GpuVitals, MemoryBytes, Reading, Sharing, SystemClock, Weight};
use crate::gitlab::diagnosis::Finding;
use crate::platform::devices::settings::{nobody, watch};
use crate::platform::{Inventory, PlatformManager};

/// Looks at the devices, and says what is there.
pub(in crate::cli) async fn lines(config: &Config, platform: &Arc<PlatformManager>) -> Vec<Finding> {
    if let Some(mut watch) = watch(config, platform, nobody(), Arc::new(SystemClock)) {
        watch.look().await;
    }
    describe(&platform.inventory(), platform.facts().arch)
}

fn describe(inventory: &Inventory, native: Option<Arch>) -> Vec<Finding> {
    let mut lines: Vec<Finding> = inventory.gpus.iter().map(|one| gpu(one, inventory.vitals.get(&one.id))).collect();
    if lines.is_empty() {
        lines.push(Finding::Good("gpu: none".to_owned()));
    }
    let foreign: Vec<&str> = inventory.emulated.iter().filter(|arch| Some(**arch) != native).map(|arch| arch.as_str()).collect();
    if !foreign.is_empty() {
        lines.push(Finding::Good(format!("emulation: {} in containers; native machines go first", foreign.join(", "))));
    }
    lines.extend(inventory.notes.iter().map(note));
    lines
}

fn note(note: &DeviceNote) -> Finding {
    let text = format!("{}: {}", note.about, note.text);
    match note.weight {
        Weight::Info => Finding::Good(text),
        Weight::Warning => Finding::Odd(text),
    }
}

/// `gpu: nvidia 0, NVIDIA H100 80GB HBM3, 80 GiB, 0000:3b:00.0, compute 9.0, driver nvidia 570.86.15, 34 °C, GPU-…`
fn gpu(gpu: &Gpu, vitals: Option<&GpuVitals>) -> Finding {
    let mut parts = vec![match &gpu.role {
        GpuRole::Part { profile: Some(profile), .. } => format!("{} {} part {profile}", gpu.vendor, gpu.index),
        GpuRole::Part { profile: None, .. } => format!("{} {} part", gpu.vendor, gpu.index),
        GpuRole::Divided => format!("{} {} divided into parts", gpu.vendor, gpu.index),
        GpuRole::Card | GpuRole::Unused(_) => format!("{} {}", gpu.vendor, gpu.index),
    }];
    parts.push(told("model", &gpu.model, Clone::clone));
    parts.push(told("memory", &gpu.memory, |memory| gibibytes(*memory)));
    parts.push(told("pci", &gpu.pci, ToString::to_string));
    parts.push(told("compute", &gpu.compute, |version| format!("compute {version}")));
    parts.push(told("driver", &gpu.driver, |driver| format!("driver {driver}")));
    parts.extend(vitals.map(|vitals| told("temperature", &vitals.temperature_celsius, |degrees| format!("{degrees} °C"))));
    parts.extend(nodes(&gpu.nodes));
    parts.push(gpu.id.to_string());
    parts.extend((gpu.sharing == Sharing::Open).then(|| "open for sharing".to_owned()));
    parts.retain(|part| !part.is_empty());
    let text = format!("gpu: {}", parts.join(", "));
    match (&gpu.health, &gpu.role) {
        (GpuHealth::Unhealthy(reason) | GpuHealth::Quarantined(reason) | GpuHealth::Lost(reason), _) => {
            Finding::Odd(format!("{text}; cannot be used: {reason}"))
        }
        (GpuHealth::Healthy | GpuHealth::Checking, GpuRole::Unused(reason)) => Finding::Good(format!("{text}; not given to jobs: {reason}")),
        (GpuHealth::Healthy | GpuHealth::Checking, GpuRole::Card | GpuRole::Divided | GpuRole::Part { .. }) => Finding::Good(text),
    }
}

/// Nothing for what the card does not have; what could not be read is said.
fn told<T>(name: &str, reading: &Reading<T>, show: impl FnOnce(&T) -> String) -> String {
    match reading {
        Reading::Known(value) => show(value),
        Reading::NotSupported => String::new(),
        Reading::Unreadable(reason) => format!("{name} cannot be read ({reason})"),
    }
}

/// Drivers keep a little for themselves, so that exact units would make 80 GB a long number of KiB.
fn gibibytes(memory: MemoryBytes) -> String {
    let tenths = memory.0.saturating_mul(10) >> 30;
    if tenths.is_multiple_of(10) { format!("{} GiB", tenths / 10) } else { format!("{}.{} GiB", tenths / 10, tenths % 10) }
}

fn nodes(nodes: &[DeviceNode]) -> Option<String> {
    let shown = |node: &DeviceNode| match &node.group {
        Reading::Known(group) => format!("{} (group {group})", node.path),
        Reading::NotSupported | Reading::Unreadable(_) => node.path.clone(),
    };
    (!nodes.is_empty()).then(|| nodes.iter().map(shown).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
