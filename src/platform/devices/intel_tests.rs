//! Intel's graphics on machines made of directories.

use proptest::prelude::*;

use super::super::fixture::{Machine, seen, texts};
use super::*;

const GIB: u64 = 1 << 30;

fn look(machine: &Machine) -> Survey {
    survey(&machine.roots(), IntegratedGpus::Ignore)
}

/// A machine with everything: an Arc card with `xe`, a Flex card with `i915`, the processor's own, and cards of others.
fn mixed() -> Machine {
    let machine = Machine::new();
    let xe = [
        ("tile0/physical_vram_size_bytes", "8589934592\n"),
        ("tile1/physical_vram_size_bytes", "8589934592\n"),
        ("hwmon/hwmon5/temp2_input", "52000\n"),
    ];
    machine.pci("0000:00:02.0", (0x8086, 0x4680), Some("i915"), &[]).render("pci0000:00/0000:00:02.0", 128);
    machine.pci("0000:03:00.0", (0x8086, 0x56a0), Some("xe"), &xe).render("pci0000:00/0000:03:00.0", 129);
    machine
        .pci("0000:04:00.0", (0x8086, 0x56c0), Some("i915"), &[("hwmon/hwmon6/energy1_input", "5000000\n")])
        .render("pci0000:00/0000:04:00.0", 130);
    machine.file("sys/devices/pci0000:00/0000:04:00.0/drm/card2/lmem_total_bytes", "17179869184\n");
    machine.pci("0000:06:00.0", (0x1a03, 0x2000), Some("ast"), &[]).render("pci0000:00/0000:06:00.0", 131);
    machine.pci("0000:3b:00.0", (0x10de, 0x2330), Some("nvidia"), &[]).render("pci0000:00/0000:3b:00.0", 132);
    machine.pci("0000:c1:00.0", (0x1002, 0x740f), Some("amdgpu"), &[]).render("pci0000:00/0000:c1:00.0", 133);
    machine.render("platform/amdgpu_xcp_1", 134);
    machine
}

#[test]
fn cards_are_read_with_their_memory_and_others_cards_are_not_taken_for_them() {
    let survey = look(&mixed());
    assert_eq!(texts(&survey), [""; 0]);
    let all = seen(survey);
    let shown: Vec<(&str, Option<u64>, &str)> =
        all.iter().map(|one| (one.gpu.id.as_str(), one.gpu.memory.known().map(|memory| memory.0 / GIB), one.gpu.nodes[0].path.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("intel-0000:00:02.0", None, "/dev/dri/renderD128"),
            ("intel-0000:03:00.0", Some(16), "/dev/dri/renderD129"),
            ("intel-0000:04:00.0", Some(16), "/dev/dri/renderD130")
        ]
    );
    assert!(matches!(all[0].gpu.role, GpuRole::Unused(_)), "the processor's own");
    assert_eq!(all[1].gpu.role, GpuRole::Card);
    assert_eq!(all[1].gpu.driver.known().map(String::as_str), Some("xe"));
    assert_eq!(all[1].gpu.model.known().map(String::as_str), Some("Intel 8086:56a0"));
    assert_eq!(all[1].vitals.temperature_celsius, Reading::Known(52));
    assert_eq!(all[2].vitals.energy_millijoules, Reading::Known(5000));
}

#[test]
fn graphics_of_the_processor_are_given_away_only_when_the_owner_says_so() {
    let all = seen(survey(&mixed().roots(), IntegratedGpus::Use));
    assert_eq!(all[0].gpu.role, GpuRole::Card);
}

#[test]
fn a_card_whose_virtual_functions_are_in_use_is_left_alone() {
    let machine = mixed();
    machine.file("sys/devices/pci0000:00/0000:03:00.0/sriov_numvfs", "2\n").file("sys/devices/pci0000:00/0000:04:00.0/sriov_numvfs", "0\n");
    let all = seen(look(&machine));
    assert_eq!(all[1].gpu.role, GpuRole::Unused("2 virtual function(s) of it are in use".into()));
    assert_eq!(all[2].gpu.role, GpuRole::Card);
}

#[test]
fn broken_files_are_faults_and_missing_drivers_are_notes() {
    let machine = mixed();
    machine.file("sys/devices/pci0000:00/0000:03:00.0/tile1/physical_vram_size_bytes", "\n");
    machine.remove("sys/devices/pci0000:00/0000:04:00.0/driver");
    machine.remove("dev/dri/renderD128");
    let survey = look(&machine);
    assert_eq!(texts(&survey), ["renderD130 cannot be used: it has no driver"]);
    let all = seen(survey);
    assert!(all[0].gpu.health.reason().is_some_and(|reason| reason.contains("renderD128")));
    assert!(all[1].gpu.memory.fault().is_some() && all[1].gpu.health.reason().is_some(), "half a card's memory is not its memory");
}

#[test]
fn a_machine_without_any_has_none() {
    assert_eq!(look(&Machine::new()), Survey { sight: Sight::Seen(vec![]), notes: vec![] });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_bytes_make_it_panic(vendor in prop::collection::vec(any::<u8>(), 0..12), bytes in prop::collection::vec(any::<u8>(), 0..40), sensible: u64) {
        let machine = mixed();
        for (path, text) in [("03:00.0/tile0/physical_vram_size_bytes", &bytes), ("03:00.0/sriov_numvfs", &bytes), ("04:00.0/vendor", &vendor), ("03:00.0/device", &vendor)] {
            machine.file(&format!("sys/devices/pci0000:00/0000:{path}"), text);
        }
        machine.file("sys/devices/pci0000:00/0000:03:00.0/tile1/physical_vram_size_bytes", sensible.to_string());
        let _ = look(&machine);
    }
}
