//! What is said of a machine's devices: see `devices.rs`.

use std::collections::BTreeMap;

use super::*;
use crate::platform::devices::fixture::card;

fn inventory(gpus: Vec<Gpu>) -> Inventory {
    Inventory { gpus, vitals: BTreeMap::new(), emulated: Vec::new(), notes: Vec::new() }
}

#[test]
fn a_machine_without_devices_says_so() {
    assert_eq!(describe(&inventory(Vec::new()), Some(Arch::Amd64)), [Finding::Good("gpu: none".to_owned())]);
}

#[test]
fn only_foreign_architectures_are_emulated() {
    let all = Inventory { emulated: vec![Arch::Amd64, Arch::Riscv64], ..inventory(Vec::new()) };
    let said = describe(&all, Some(Arch::Amd64));
    assert_eq!(said[1], Finding::Good("emulation: riscv64 in containers; native machines go first".to_owned()));
    let own = Inventory { emulated: vec![Arch::Amd64], ..inventory(Vec::new()) };
    assert_eq!(describe(&own, Some(Arch::Amd64)).len(), 1);
}

#[test]
fn a_warning_is_odd_and_a_note_is_not() {
    let note_of = |weight| DeviceNote { about: "nvml".to_owned(), text: "is old".to_owned(), weight };
    assert_eq!(note(&note_of(Weight::Info)), Finding::Good("nvml: is old".to_owned()));
    assert_eq!(note(&note_of(Weight::Warning)), Finding::Odd("nvml: is old".to_owned()));
}

#[test]
fn a_card_that_cannot_be_used_says_why() {
    let good = card("GPU-1");
    let bad = Gpu { health: GpuHealth::Unhealthy("row remapping failed".to_owned()), ..good.clone() };
    let idle = Gpu { role: GpuRole::Unused("drives a screen".to_owned()), ..good.clone() };
    let said = describe(&inventory(vec![good, bad, idle]), None);
    assert!(matches!(&said[0], Finding::Good(text) if text.contains("GPU-1") && !text.contains("cannot be used")), "{said:?}");
    assert!(matches!(&said[1], Finding::Odd(text) if text.ends_with("; cannot be used: row remapping failed")), "{said:?}");
    assert!(matches!(&said[2], Finding::Good(text) if text.ends_with("; not given to jobs: drives a screen")), "{said:?}");
}

#[test]
fn what_cannot_be_read_is_said_and_what_is_not_there_is_not() {
    let show = |value: &u32| value.to_string();
    assert_eq!(told("x", &Reading::Known(3), show), "3");
    assert_eq!(told("x", &Reading::NotSupported, show), "");
    assert_eq!(told("x", &Reading::Unreadable("no answer".to_owned()), show), "x cannot be read (no answer)");
}
