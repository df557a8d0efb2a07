//! AMD's cards, from the kernel's files alone.
//!
//! What can compute stands in KFD's topology, and nowhere else: a render node without an entry there cannot. A card may be divided into
//! partitions, which share its PCI address and have render nodes of their own, some of them without any link to the card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{MAX_DEVICES, Roots, Seen, Sight, Survey, health_by_errors, note, part_of_processor, sysfs};
use crate::config::IntegratedGpus;
use crate::domain::{
    Gpu, GpuFaults, GpuHealth, GpuId, GpuProcess, GpuRole, GpuVendor, GpuVitals, MemoryBytes, PciAddress, Reading, Sharing, Weight, Wiring,
};

/// AMD's number on the PCI bus.
const AMD: u32 = 0x1002;
/// Most processes that are remembered of one GPU.
const MAX_PROCESSES: usize = 256;

/// One entry of KFD's topology that computes.
struct Node {
    directory: PathBuf,
    gpu_id: u64,
    address: PciAddress,
    /// Which partition of the card; 0 of a whole one.
    partition: u64,
    /// Nodes to which links of its own lead.
    linked: Vec<u64>,
    links: Vec<PciAddress>,
    properties: BTreeMap<String, u64>,
}

impl Node {
    fn property(&self, name: &str) -> u64 {
        self.properties.get(name).copied().unwrap_or(0)
    }
}

/// Looks at the cards.
pub fn survey(roots: &Roots, integrated: IntegratedGpus) -> Survey {
    let mut notes = Vec::new();
    let topology = roots.sysfs.join("class/kfd/kfd/topology/nodes");
    let mut found: Vec<(String, Node)> = Vec::new();
    for name in sysfs::names(&topology).into_iter().take(MAX_DEVICES) {
        match node(&topology.join(&name)) {
            Ok(Some(node)) => found.push((name, node)),
            Ok(None) => {}
            Err(reason) => notes.push(note(GpuVendor::Amd, Weight::Warning, format!("KFD's node {name} cannot be used: {reason}"))),
        }
    }
    let addresses: BTreeMap<String, PciAddress> = found.iter().map(|(name, node)| (name.clone(), node.address)).collect();
    let mut by_card: BTreeMap<PciAddress, Vec<Node>> = BTreeMap::new();
    for (_, mut node) in found {
        node.links = node.linked.iter().filter_map(|to| addresses.get(&to.to_string()).copied()).filter(|to| *to != node.address).collect();
        by_card.entry(node.address).or_default().push(node);
    }
    for address in sysfs::display_controllers(roots, AMD).into_iter().filter(|address| !by_card.contains_key(address)) {
        notes.push(note(GpuVendor::Amd, Weight::Warning, without_kfd(roots, address)));
    }
    let mut seen = Vec::new();
    for (index, (address, nodes)) in by_card.iter().enumerate() {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        seen.extend(card(roots, integrated, index, *address, nodes));
    }
    Survey { sight: Sight::Seen(seen), notes }
}

fn without_kfd(roots: &Roots, address: PciAddress) -> String {
    match sysfs::driver(&sysfs::pci_directory(roots, address)).known() {
        Some(driver) => format!("the card at {address} cannot compute: its driver {driver} has no entry for it in /sys/class/kfd"),
        None => format!("the card at {address} has no driver: amdgpu is not loaded"),
    }
}

/// Reads a node; `None` for one that is a processor and no GPU.
fn node(directory: &Path) -> Result<Option<Node>, String> {
    let gpu_id = match sysfs::number::<u64>(&directory.join("gpu_id")) {
        Reading::Known(0) | Reading::NotSupported => return Ok(None),
        Reading::Known(id) => id,
        Reading::Unreadable(reason) => return Err(reason),
    };
    let properties = match sysfs::text(&directory.join("properties")) {
        Reading::Known(text) => sysfs::properties(&text),
        Reading::NotSupported => return Err("it has no properties".to_owned()),
        Reading::Unreadable(reason) => return Err(reason),
    };
    let told = |name: &str| properties.get(name).copied().ok_or_else(|| format!("its properties do not tell {name}"));
    let location = told("location_id")?;
    let domain = properties.get("domain").copied().unwrap_or(0);
    // Bus, device and function are packed as the PCI bus does; the highest of 32 bits number a card's partitions.
    let address = PciAddress {
        domain: u32::try_from(domain).map_err(|_| format!("its domain {domain} makes no sense"))?,
        bus: u8::try_from(location >> 8 & 0xff).unwrap_or(0),
        device: u8::try_from(location >> 3 & 0x1f).unwrap_or(0),
        function: u8::try_from(location & 0x7).unwrap_or(0),
    };
    if told("drm_render_minor")? == 0 {
        return Err(format!("the card at {address} has no render node"));
    }
    Ok(Some(Node {
        directory: directory.to_path_buf(),
        gpu_id,
        address,
        partition: location >> 28 & 0xf,
        linked: linked(directory),
        links: Vec::new(),
        properties,
    }))
}

/// KFD's number of the kind of link that AMD's cards have among each other (`HSA_IOLINK_TYPE_XGMI` in the kernel's `kfd_crat.h`).
const XGMI: u64 = 11;

fn linked(node: &Path) -> Vec<u64> {
    let links = node.join("io_links");
    let properties =
        sysfs::names(&links).into_iter().map(|name| sysfs::text(&links.join(name).join("properties")).map(|text| sysfs::properties(&text)));
    let other = |properties: Reading<BTreeMap<String, u64>>| {
        let properties = properties.known()?;
        properties.get("node_to").copied().filter(|_| properties.get("type") == Some(&XGMI))
    };
    properties.filter_map(other).collect()
}

/// A card, with its partitions if it is divided.
fn card(roots: &Roots, integrated: IntegratedGpus, index: u32, address: PciAddress, nodes: &[Node]) -> Vec<Seen> {
    let id = GpuId::from_trusted(format!("amd-{address}"));
    let pci = sysfs::pci_directory(roots, address);
    let [only] = nodes else {
        let Some(first) = nodes.first() else { return Vec::new() };
        let mut whole = device(roots, id.clone(), index, &pci, first);
        whole.gpu.role = GpuRole::Divided;
        whole.gpu.nodes.clear();
        let health = whole.gpu.health.clone();
        let parts = nodes.iter().map(|node| part(roots, &id, &health, index, &pci, node));
        return std::iter::once(whole).chain(parts).collect();
    };
    let mut whole = device(roots, id, index, &pci, only);
    if only.property("cpu_cores_count") > 0 && integrated == IntegratedGpus::Ignore {
        whole.gpu.role = part_of_processor();
    }
    vec![whole]
}

fn part(roots: &Roots, card: &GpuId, of_card: &GpuHealth, index: u32, pci: &Path, node: &Node) -> Seen {
    let id = GpuId::from_trusted(format!("{card}-p{}", node.partition));
    let mut part = device(roots, id, index, pci, node);
    part.gpu.role = GpuRole::Part { of: card.clone(), profile: None };
    // The card's files tell of the card; KFD tells what is the partition's.
    part.gpu.memory = memory_of_partition(&node.directory);
    part.vitals.memory_used = Reading::NotSupported;
    part.vitals.utilization_percent = Reading::NotSupported;
    part.gpu.health = if *of_card == GpuHealth::Healthy { health(&part.gpu, &part.vitals) } else { of_card.clone() };
    part
}

/// Memory of the kinds that are on the card: 1 is seen by the processor, 2 is not.
fn memory_of_partition(node: &Path) -> Reading<MemoryBytes> {
    let banks = node.join("mem_banks");
    let mut sum: u64 = 0;
    for name in sysfs::names(&banks) {
        match sysfs::text(&banks.join(name).join("properties")).map(|text| sysfs::properties(&text)) {
            Reading::Known(bank) if matches!(bank.get("heap_type"), Some(1 | 2)) => {
                sum = sum.saturating_add(bank.get("size_in_bytes").copied().unwrap_or(0));
            }
            Reading::Known(_) | Reading::NotSupported => {}
            Reading::Unreadable(reason) => return Reading::Unreadable(reason),
        }
    }
    if sum > 0 { Reading::Known(MemoryBytes(sum)) } else { Reading::Unreadable("KFD tells of no memory on it".to_owned()) }
}

fn device(roots: &Roots, id: GpuId, index: u32, pci: &Path, node: &Node) -> Seen {
    let vitals = GpuVitals {
        memory_used: sysfs::bytes(&pci.join("mem_info_vram_used")),
        utilization_percent: sysfs::number(&pci.join("gpu_busy_percent")),
        temperature_celsius: sysfs::temperature(pci),
        energy_millijoules: Reading::NotSupported,
        uncorrected_errors: sysfs::value(&pci.join("ras/umc_err_count"), uncorrected),
        xids: Vec::new(),
        faults: GpuFaults::default(),
        processes: processes(roots, node.gpu_id),
    };
    let mut gpu = Gpu {
        id,
        vendor: GpuVendor::Amd,
        index,
        pci: Reading::Known(node.address),
        model: model(pci, node),
        memory: sysfs::bytes(&pci.join("mem_info_vram_total")),
        compute: Reading::Known(node.property("gfx_target_version")).map(gfx_name),
        driver: driver(roots, pci),
        numa_node: sysfs::numa_node(pci),
        wiring: Wiring { path: sysfs::pci_path(pci), links: node.links.clone() },
        sharing: Sharing::Exclusive,
        nodes: vec![sysfs::node(roots, "kfd"), sysfs::node(roots, &format!("dri/renderD{}", node.property("drm_render_minor")))],
        role: GpuRole::Card,
        health: GpuHealth::Healthy,
    };
    gpu.health = health(&gpu, &vitals);
    Seen { gpu, vitals }
}

/// A card whose memory cannot be read or whose files are missing is not given away.
fn health(gpu: &Gpu, vitals: &GpuVitals) -> GpuHealth {
    if let Some(reason) = gpu.nodes.iter().find_map(|node| node.group.fault()) {
        return GpuHealth::Unhealthy(reason.to_owned());
    }
    if let Some(reason) = gpu.memory.fault() {
        return GpuHealth::Unhealthy(format!("its memory cannot be read: {reason}"));
    }
    health_by_errors(&vitals.uncorrected_errors)
}

/// The card's own name, else its number on the PCI bus.
fn model(pci: &Path, node: &Node) -> Reading<String> {
    match sysfs::text(&pci.join("product_name")) {
        Reading::Known(name) if !name.is_empty() => Reading::Known(name.chars().take(128).collect()),
        Reading::Known(_) | Reading::NotSupported => {
            Reading::Known(format!("AMD {:04x}:{:04x}", node.property("vendor_id"), node.property("device_id")))
        }
        Reading::Unreadable(reason) => Reading::Unreadable(reason),
    }
}

fn driver(roots: &Roots, pci: &Path) -> Reading<String> {
    let version = sysfs::text(&roots.sysfs.join("module/amdgpu/version"));
    sysfs::driver(pci).map(|name| match version.known() {
        Some(version) => format!("{name} {version}"),
        None => name,
    })
}

/// KFD's number of an instruction set, 90010, as compilers call it: `gfx90a`.
fn gfx_name(version: u64) -> String {
    format!("gfx{}{:x}{:x}", version / 10_000, version / 100 % 100, version % 100)
}

/// `ue: 0` of the lines `ue: 0` and `ce: 12`.
fn uncorrected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.trim().strip_prefix("ue:"))?.trim().parse().ok()
}

/// Processes that hold memory of the GPU.
fn processes(roots: &Roots, gpu_id: u64) -> Reading<Vec<GpuProcess>> {
    let all = roots.sysfs.join("class/kfd/kfd/proc");
    if !all.is_dir() {
        return Reading::NotSupported;
    }
    let one = |name: String| {
        let memory = sysfs::bytes(&all.join(&name).join(format!("vram_{gpu_id}")));
        let uses = memory.known().is_none_or(|bytes| bytes.0 > 0) && memory != Reading::NotSupported;
        uses.then(|| Some(GpuProcess { pid: name.parse().ok()?, memory })).flatten()
    };
    Reading::Known(sysfs::names(&all).into_iter().filter_map(one).take(MAX_PROCESSES).collect())
}

#[cfg(test)]
#[path = "amd_tests.rs"]
mod tests;
