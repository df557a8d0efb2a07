//! AMD's cards on machines made of directories.

use proptest::prelude::*;

use super::super::fixture::{Machine, seen, texts};
use super::*;
use crate::domain::Nearness;

const GIB: u64 = 1 << 30;
/// An MI210: `gfx90a`, alone on bus 3.
const MI210: [(&str, u64); 6] =
    [("vendor_id", 0x1002), ("device_id", 0x740f), ("location_id", 0x300), ("domain", 0), ("drm_render_minor", 128), ("gfx_target_version", 90_010)];
const FILES: [(&str, &str); 6] = [
    ("mem_info_vram_total", "68702699520\n"),
    ("mem_info_vram_used", "10485760\n"),
    ("gpu_busy_percent", "7\n"),
    ("hwmon/hwmon3/temp1_input", "41000\n"),
    ("product_name", "AMD Instinct MI210\n"),
    ("ras/umc_err_count", "ue: 0\nce: 12\n"),
];

fn with_mi210() -> Machine {
    let machine = Machine::new();
    machine.kfd(0, 0, &[("cpu_cores_count", 16)]);
    machine.kfd(1, 4242, &MI210).pci("0000:03:00.0", (0x1002, 0x740f), Some("amdgpu"), &FILES).render("pci0000:00/0000:03:00.0", 128);
    machine
}

fn look(machine: &Machine) -> Survey {
    survey(&machine.roots(), IntegratedGpus::Ignore)
}

fn only(machine: &Machine) -> Seen {
    let mut all = seen(look(machine));
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn a_card_is_read_whole() {
    let machine = with_mi210();
    machine.file("sys/module/amdgpu/version", "6.10.5\n").file("sys/class/kfd/kfd/proc/4711/vram_4242", "1048576\n");
    machine.file("sys/class/kfd/kfd/proc/4712/vram_4242", "0\n").file("sys/class/kfd/kfd/proc/4713/vram_99", "5\n");
    let Seen { gpu, vitals } = only(&machine);
    assert_eq!(gpu.id.as_str(), "amd-0000:03:00.0");
    assert_eq!(gpu.model.known().map(String::as_str), Some("AMD Instinct MI210"));
    assert_eq!(gpu.memory, Reading::Known(MemoryBytes(68_702_699_520)));
    assert_eq!(gpu.compute.known().map(String::as_str), Some("gfx90a"));
    assert_eq!(gpu.driver.known().map(String::as_str), Some("amdgpu 6.10.5"));
    assert_eq!((gpu.numa_node, &gpu.role, &gpu.health), (Reading::Known(0), &GpuRole::Card, &GpuHealth::Healthy));
    let paths: Vec<&str> = gpu.nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(paths, ["/dev/kfd", "/dev/dri/renderD128"]);
    assert!(gpu.nodes.iter().all(|node| node.group.known().is_some()));
    assert_eq!((vitals.temperature_celsius, vitals.utilization_percent), (Reading::Known(41), Reading::Known(7)));
    assert_eq!(vitals.uncorrected_errors, Reading::Known(0));
    assert_eq!(vitals.processes, Reading::Known(vec![GpuProcess { pid: 4711, memory: Reading::Known(MemoryBytes(1 << 20)) }]));
    assert_eq!(texts(&look(&machine)), [""; 0]);
}

#[test]
fn links_between_cards_and_the_way_to_each_are_told() {
    let machine = with_mi210();
    let other: Vec<(&str, u64)> = MI210
        .iter()
        .map(|(name, value)| {
            (
                *name,
                match *name {
                    "location_id" => 0x8300,
                    "drm_render_minor" => 129,
                    _ => *value,
                },
            )
        })
        .collect();
    machine.kfd(2, 4243, &other).pci("0000:83:00.0", (0x1002, 0x740f), Some("amdgpu"), &FILES).render("pci0000:00/0000:83:00.0", 129);
    let node = "sys/class/kfd/kfd/topology/nodes/1/io_links";
    // One to the processor over the PCI bus, one to the other card over xGMI.
    machine.file(&format!("{node}/0/properties"), "type 2\nnode_from 1\nnode_to 0\n");
    machine.file(&format!("{node}/1/properties"), "type 11\nnode_from 1\nnode_to 2\n");
    let all = seen(look(&machine));
    let [one, two] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(one.gpu.wiring.links, [PciAddress::parse("0000:83:00.0").expect("an address")]);
    assert_eq!((one.gpu.wiring.path.as_slice(), two.gpu.wiring.links.len()), (["pci0000:00".to_owned()].as_slice(), 0));
    assert_eq!((one.gpu.nearness(&two.gpu), two.gpu.nearness(&one.gpu)), (Nearness::Linked, Nearness::Linked));
}

#[test]
fn a_machine_without_any_has_none_and_says_nothing() {
    let machine = Machine::new();
    assert_eq!(look(&machine), Survey { sight: Sight::Seen(vec![]), notes: vec![] });
    machine.pci("0000:06:00.0", (0x1a03, 0x2000), Some("ast"), &[]).render("pci0000:00/0000:06:00.0", 128);
    machine.pci("0000:3b:00.0", (0x10de, 0x2330), Some("nvidia"), &[]).render("pci0000:00/0000:3b:00.0", 129);
    machine.pci("0000:00:02.0", (0x8086, 0x4680), Some("i915"), &[]).render("pci0000:00/0000:00:02.0", 130);
    assert_eq!(look(&machine), Survey { sight: Sight::Seen(vec![]), notes: vec![] }, "others' cards are not AMD's");
}

#[test]
fn a_card_that_cannot_compute_is_a_note() {
    let machine = Machine::new();
    machine.pci("0000:0a:00.0", (0x1002, 0x6779), Some("radeon"), &[]).render("pci0000:00/0000:0a:00.0", 128);
    machine.pci("0000:0b:00.0", (0x1002, 0x740f), None, &[]);
    let survey = look(&machine);
    assert_eq!(
        texts(&survey),
        [
            "the card at 0000:0a:00.0 cannot compute: its driver radeon has no entry for it in /sys/class/kfd",
            "the card at 0000:0b:00.0 has no driver: amdgpu is not loaded"
        ]
    );
    assert_eq!(seen(survey), []);
}

#[test]
fn what_cannot_be_read_is_a_fault_and_not_a_zero() {
    let machine = with_mi210();
    machine.file("sys/devices/pci0000:00/0000:03:00.0/mem_info_vram_total", "lots\n");
    machine.file("sys/devices/pci0000:00/0000:03:00.0/gpu_busy_percent", "");
    let Seen { gpu, vitals } = only(&machine);
    assert!(gpu.memory.fault().is_some() && vitals.utilization_percent.fault().is_some());
    assert!(gpu.health.reason().is_some_and(|reason| reason.starts_with("its memory cannot be read: ")), "{:?}", gpu.health);
}

#[test]
fn a_memory_error_or_a_missing_node_makes_a_card_unfit() {
    let machine = with_mi210();
    machine.file("sys/devices/pci0000:00/0000:03:00.0/ras/umc_err_count", "ue: 2\nce: 12\n");
    assert_eq!(only(&machine).gpu.health.reason(), Some("2 memory error(s) that could not be corrected since the driver was loaded"));
    let machine = with_mi210();
    machine.remove("dev/dri/renderD128");
    assert!(only(&machine).gpu.health.reason().is_some_and(|reason| reason.contains("renderD128")));
}

#[test]
fn graphics_of_the_processor_are_given_away_only_when_the_owner_says_so() {
    let machine = Machine::new();
    let properties: Vec<(&str, u64)> = MI210.into_iter().chain([("cpu_cores_count", 16)]).collect();
    machine.kfd(0, 77, &properties).pci("0000:03:00.0", (0x1002, 0x1681), Some("amdgpu"), &FILES[..1]).file("dev/dri/renderD128", "");
    assert!(matches!(only(&machine).gpu.role, GpuRole::Unused(_)));
    let used = seen(survey(&machine.roots(), IntegratedGpus::Use));
    assert_eq!(used[0].gpu.role, GpuRole::Card);
    assert_eq!(used[0].gpu.model.known().map(String::as_str), Some("AMD 1002:740f"), "without a name its number");
}

#[test]
fn partitions_are_devices_of_their_own_that_name_their_card() {
    let machine = Machine::new();
    machine.pci("0000:c1:00.0", (0x1002, 0x74a1), Some("amdgpu"), &FILES).render("pci0000:00/0000:c1:00.0", 128).render("platform/amdgpu_xcp_1", 129);
    for (part, minor) in [(0_u64, 128), (1, 129)] {
        let node = u32::try_from(part).expect("small") + 2;
        let properties = [("location_id", 0xc100 | part << 28), ("domain", 0), ("drm_render_minor", minor), ("gfx_target_version", 90_402)];
        machine.kfd(node, 100 + node, &properties);
        machine
            .file(&format!("sys/class/kfd/kfd/topology/nodes/{node}/mem_banks/0/properties"), format!("heap_type 1\nsize_in_bytes {}\n", 96 * GIB));
    }
    let all = seen(look(&machine));
    let ids: Vec<&str> = all.iter().map(|one| one.gpu.id.as_str()).collect();
    assert_eq!(ids, ["amd-0000:c1:00.0", "amd-0000:c1:00.0-p0", "amd-0000:c1:00.0-p1"]);
    assert_eq!((&all[0].gpu.role, all[0].gpu.is_for_jobs()), (&GpuRole::Divided, false));
    assert_eq!(all[2].gpu.role, GpuRole::Part { of: all[0].gpu.id.clone(), profile: None });
    assert_eq!(all[2].gpu.nodes[1].path, "/dev/dri/renderD129");
    assert_eq!(all[2].gpu.memory, Reading::Known(MemoryBytes(96 * GIB)), "its own memory, not the card's");
    assert_eq!(all[2].gpu.compute.known().map(String::as_str), Some("gfx942"));
    assert_eq!(all[2].gpu.health, GpuHealth::Healthy);
}

#[test]
fn a_node_that_makes_no_sense_is_a_note_and_the_others_are_read() {
    let machine = with_mi210();
    machine.kfd(2, 5, &[("drm_render_minor", 129)]);
    machine.kfd(3, 6, &MI210).file("sys/class/kfd/kfd/topology/nodes/3/gpu_id", "what\n");
    let survey = look(&machine);
    assert_eq!(texts(&survey)[0], "KFD's node 2 cannot be used: its properties do not tell location_id");
    assert!(texts(&survey)[1].starts_with("KFD's node 3 cannot be used: "));
    assert_eq!(seen(survey).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_it_panic(gpu_id in prop::collection::vec(any::<u8>(), 0..12), properties in "([a-z_]{1,18} [0-9]{1,22}\n|[ -~]{0,30}\n){0,12}", location: u64, domain: u64) {
        let machine = Machine::new();
        machine.kfd(1, 1, &[("location_id", location), ("domain", domain), ("drm_render_minor", location), ("gfx_target_version", domain)]);
        machine.kfd(2, 2, &[]).file("sys/class/kfd/kfd/topology/nodes/2/properties", &properties);
        machine.kfd(3, 3, &MI210).file("sys/class/kfd/kfd/topology/nodes/3/gpu_id", &gpu_id);
        let _ = look(&machine);
        let _ = uncorrected(&properties);
    }
}
