//! Machines, jobs, who gets what.

use proptest::prelude::*;

use super::*;
use crate::domain::{GpuRole, HostId, Reading};
use crate::platform::devices::fixture::{card, part};

const GIB: u64 = 1 << 30;

fn machine(cpus: u64, memory: u64, gpus: &[(&str, GpuVendor, u64)]) -> HostFacts {
    HostFacts {
        id: HostId::from_trusted("box"),
        arch: Some(Arch::Amd64),
        cpus: CpuMillis(cpus * 1000),
        memory: MemoryBytes(memory * GIB),
        gpus: gpus
            .iter()
            .map(|(id, vendor, memory)| Gpu { vendor: *vendor, memory: Reading::Known(MemoryBytes(memory * GIB)), ..card(id) })
            .collect(),
        emulated: Vec::new(),
        notes: Vec::new(),
        runtimes: vec!["runc".into()],
    }
}

fn needs(cpus: u64, memory: u64) -> Requirement {
    Requirement::plain(ClassName::from_trusted("default"), CpuMillis(cpus * 1000), MemoryBytes(memory * GIB))
}

fn needs_gpus(count: u32, vendor: Option<GpuVendor>, least: Option<u64>) -> Requirement {
    let gpus = GpuRequest { vendor, min_memory: least.map(|gib| MemoryBytes(gib * GIB)), ..GpuRequest::any(count) };
    Requirement { gpus: Some(gpus), ..needs(1, 1) }
}

fn devices(placement: &Placement) -> Vec<&str> {
    placement.devices.iter().map(GpuId::as_str).collect()
}

#[test]
fn names_everything_that_is_missing_and_whether_waiting_helps() {
    let host = machine(4, 8, &[]);
    let held = Placement { cpus: CpuMillis(3000), memory: MemoryBytes(GIB), devices: vec![], share: None, opened: None };
    let class = ClassName::from_trusted("other");
    let ledger = Ledger::new(&host, [(&class, &held)]);
    let wanted = Requirement { arch: Some(Arch::Riscv64), ..needs(2, 16) };
    let missing = ledger.fit(&wanted, None).expect_err("does not fit");
    let said: Vec<String> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["needs riscv64, this machine is amd64", "needs 2 CPUs, 1 of 4 are free", "needs 16GiB of memory, this machine has 8GiB for jobs"]
    );
    assert_eq!(missing.iter().map(Unfit::ever).collect::<Vec<_>>(), [Ever::Never, Ever::Later, Ever::Never]);
    assert_eq!(fits_ever(&host, &wanted, None).expect_err("never").len(), 2);
    assert_eq!(fits_ever(&host, &needs(4, 8), None), Ok(()));
}

#[test]
fn another_architecture_is_emulated_only_where_that_is_allowed() {
    let host = HostFacts { emulated: vec![Arch::Arm64], ..machine(4, 8, &[]) };
    let wanted = |arch, emulation| Requirement { arch: Some(arch), emulation, ..needs(1, 1) };
    let said = |requirement: &Requirement| match fits_ever(&host, requirement, None) {
        Ok(()) => "it fits".to_owned(),
        Err(missing) => missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    assert_eq!(said(&wanted(Arch::Amd64, Emulation::Deny)), "it fits");
    assert_eq!(said(&wanted(Arch::Arm64, Emulation::Allow)), "it fits");
    assert_eq!(
        said(&wanted(Arch::Arm64, Emulation::Deny)),
        "needs arm64, this machine is amd64 and would emulate it, which neither the job nor its class allows"
    );
    assert_eq!(said(&wanted(Arch::Riscv64, Emulation::Allow)), "needs riscv64, this machine is amd64");
}

#[test]
fn a_class_at_its_limit_waits() {
    let host = machine(4, 8, &[]);
    let class = ClassName::from_trusted("default");
    let held = Placement { cpus: CpuMillis(10), memory: MemoryBytes(1), devices: vec![], share: None, opened: None };
    let ledger = Ledger::new(&host, [(&class, &held)]);
    assert!(ledger.fit(&needs(1, 1), Some(2)).is_ok());
    let missing = ledger.fit(&needs(1, 1), Some(1)).expect_err("full");
    assert_eq!(missing, [Unfit::ClassFull { class, limit: 1 }]);
}

#[test]
fn gpus_come_from_one_vendor_smallest_first_and_never_twice() {
    use GpuVendor::{Amd, Nvidia};
    let host = machine(8, 64, &[("n0", Nvidia, 80), ("n1", Nvidia, 24), ("a0", Amd, 16)]);
    let mut ledger = Ledger::new(&host, []);
    let first = ledger.fit(&needs_gpus(1, Some(Nvidia), None), None).expect("fits");
    assert_eq!(devices(&first), ["n1"]);
    ledger.reserve(&ClassName::from_trusted("default"), &first);
    let second = ledger.fit(&needs_gpus(1, None, None), None).expect("fits");
    assert_eq!(devices(&second), ["n0"]);
    assert!(ledger.fit(&needs_gpus(2, None, None), None).is_err(), "one NVIDIA and one AMD are not two of a vendor");
    let never = fits_ever(&host, &needs_gpus(1, Some(Amd), Some(40)), None).expect_err("too big");
    assert_eq!(never[0].to_string(), "needs 1 amd GPU of 40GiB or more, the largest amd GPU here has 16GiB, asked for 40GiB");
}

#[test]
fn a_refusal_says_the_nearest_miss() {
    use GpuVendor::{Amd, Intel, Nvidia};
    let host = machine(8, 64, &[("n0", Nvidia, 24), ("n1", Nvidia, 16), ("a0", Amd, 16)]);
    let said = |wanted: &Requirement| fits_ever(&host, wanted, None).expect_err("never")[0].to_string();
    assert_eq!(
        said(&needs_gpus(1, Some(Nvidia), Some(40))),
        "needs 1 nvidia GPU of 40GiB or more, the largest nvidia GPU here has 24GiB, asked for 40GiB"
    );
    assert_eq!(said(&needs_gpus(2, Some(Nvidia), Some(20))), "needs 2 nvidia GPUs of 20GiB or more, this machine has 1 such");
    assert_eq!(said(&needs_gpus(3, None, None)), "needs 3 GPUs of one vendor, this machine has 2 such");
    assert_eq!(said(&needs_gpus(1, Some(Intel), None)), "needs 1 intel GPU, this machine has no intel GPU, only amd, nvidia");
    let mut part = needs_gpus(1, Some(Nvidia), None);
    part.gpus.as_mut().expect("GPUs").mig_profile = Some("1g.10gb".into());
    assert_eq!(said(&part), "needs 1 nvidia GPU, none here is divided into 1g.10gb");
    let bare = machine(8, 64, &[]);
    assert_eq!(
        fits_ever(&bare, &needs_gpus(1, None, None), None).expect_err("never")[0].to_string(),
        "needs 1 GPU, this machine has no GPU for jobs"
    );
    assert_eq!(said(&needs(64, 1)), "needs 64 CPUs, this machine has 8 for jobs");
}

#[test]
fn an_unhealthy_gpu_is_not_given_away_but_may_come_back() {
    let mut host = machine(8, 64, &[("n0", GpuVendor::Nvidia, 24)]);
    host.gpus[0].health = GpuHealth::Unhealthy("fell off the bus".into());
    let missing = Ledger::new(&host, []).fit(&needs_gpus(1, None, None), None).expect_err("unhealthy");
    assert_eq!(missing[0].ever(), Ever::Later);
}

#[test]
fn a_divided_card_is_given_away_in_parts_only_and_what_is_unused_not_at_all() {
    let mut host = machine(8, 64, &[("n0", GpuVendor::Nvidia, 80), ("i0", GpuVendor::Intel, 8)]);
    host.gpus[0].role = GpuRole::Divided;
    host.gpus[1].role = GpuRole::Unused("it is part of the processor".into());
    host.gpus.push(part("p", "n0"));
    assert!(fits_ever(&host, &needs_gpus(1, None, None), None).is_err(), "neither the divided card, nor what is unused, nor a part unasked");
    let mut wanted = needs_gpus(1, Some(GpuVendor::Nvidia), None);
    wanted.gpus.as_mut().expect("GPUs").mig_profile = Some("1g.10gb".into());
    assert_eq!(devices(&Ledger::new(&host, []).fit(&wanted, None).expect("fits")), ["p"]);
}

#[test]
fn what_something_else_still_holds_is_not_given_and_does_not_make_it_impossible() {
    let host = machine(8, 64, &[("a", GpuVendor::Amd, 64), ("b", GpuVendor::Amd, 64)]);
    let mut ledger = Ledger::new(&host, []);
    ledger.hold(&[GpuId::from_trusted("a")]);
    assert_eq!(devices(&ledger.fit(&needs_gpus(1, None, None), None).expect("fits")), ["b"]);
    let missing = ledger.fit(&needs_gpus(2, None, None), None).expect_err("one is held");
    assert_eq!(missing.iter().map(Unfit::ever).collect::<Vec<_>>(), [Ever::Later]);
}

#[test]
fn what_becomes_free_is_held_back_until_there_is_enough_and_no_more_than_that() {
    let gpus = [("n0", GpuVendor::Nvidia, 24), ("n1", GpuVendor::Nvidia, 24), ("n2", GpuVendor::Nvidia, 80), ("a0", GpuVendor::Amd, 24)];
    let mut host = machine(8, 64, &gpus);
    let kept = |host: &HostFacts, taken: &[&str], wanted: &Requirement| {
        let mut ledger = Ledger::new(host, []);
        ledger.hold(&taken.iter().map(|id| GpuId::from_trusted(*id)).collect::<Vec<_>>());
        let before = ledger.taken.clone();
        let count = ledger.hold_back(wanted.gpus.as_ref().expect("GPUs"), &[]).unwrap_or(0);
        let mut held: Vec<String> = ledger.taken.difference(&before).map(ToString::to_string).collect();
        held.sort();
        assert_eq!(held.len(), count);
        held
    };
    assert_eq!(kept(&host, &["n0", "n1"], &needs_gpus(2, None, None)), ["n2"], "and not AMD's, of which there are too few");
    assert_eq!(kept(&host, &[], &needs_gpus(2, None, None)), ["n0", "n1"], "smaller jobs may use the rest");
    assert_eq!(kept(&host, &["n2"], &needs_gpus(1, None, Some(80))), [""; 0]);
    assert_eq!(kept(&host, &[], &needs_gpus(4, None, None)), [""; 0], "nothing is kept for what can never be");
    let mut ledger = Ledger::new(&host, []);
    let request = needs_gpus(3, None, None).gpus.expect("GPUs");
    assert_eq!(ledger.hold_back(&request, &[GpuId::from_trusted("n0")]), None, "nor where one is held without an end");
    assert_eq!(ledger.hold_back(&request, &[]), Some(3));
    host.gpus[0].health = GpuHealth::Checking;
    assert_eq!(kept(&host, &["n1"], &needs_gpus(3, None, None)), ["n2"], "one that is being checked comes back in a moment");
    host.gpus[0].health = GpuHealth::Quarantined("in quarantine: hot".into());
    assert_eq!(kept(&host, &["n1"], &needs_gpus(3, None, None)), [""; 0], "and one in quarantine perhaps not for long");
    host.gpus[0].health = GpuHealth::Lost("it is no longer there".into());
    assert_eq!(kept(&host, &["n1"], &needs_gpus(3, None, None)), [""; 0], "nor while one of them cannot be used");
}

#[test]
fn gpus_are_held_back_of_one_vendor_until_there_are_enough() {
    let host =
        machine(8, 16, &[("n0", GpuVendor::Nvidia, 24), ("n1", GpuVendor::Nvidia, 24), ("a0", GpuVendor::Amd, 24), ("a1", GpuVendor::Amd, 24)]);
    let held = |taken: &[&str]| {
        let mut ledger = Ledger::new(&host, []);
        ledger.hold(&taken.iter().map(|id| GpuId::from_trusted(*id)).collect::<Vec<_>>());
        let before = ledger.taken.clone();
        ledger.hold_back(&GpuRequest::any(2), &[]);
        ledger.taken.difference(&before).map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(held(&["n1", "a0", "a1"]), ["n0"]);
    assert_eq!(held(&["n1", "a1"]), ["n0"], "what is held is not given away for one of another vendor");
}

proptest! {
    /// However jobs come and go, what is given away adds up and no GPU is given twice.
    #[test]
    fn reservations_never_exceed_the_machine(wishes in prop::collection::vec((1_u64..4, 1_u64..6, 0_u32..3), 1..40)) {
        let host = machine(8, 16, &[("a", GpuVendor::Nvidia, 24), ("b", GpuVendor::Nvidia, 24), ("c", GpuVendor::Amd, 24)]);
        let class = ClassName::from_trusted("default");
        let mut held: Vec<Placement> = Vec::new();
        for (cpus, memory, gpus) in wishes {
            let mut wanted = needs(cpus, memory);
            wanted.gpus = (gpus > 0).then_some(GpuRequest::any(gpus));
            let ledger = Ledger::new(&host, held.iter().map(|placement| (&class, placement)));
            match ledger.fit(&wanted, None) {
                Ok(placement) => held.push(placement),
                Err(missing) => {
                    prop_assert!(!missing.is_empty());
                    held.pop();
                }
            }
            prop_assert!(held.iter().map(|placement| placement.cpus.0).sum::<u64>() <= host.cpus.0);
            prop_assert!(held.iter().map(|placement| placement.memory.0).sum::<u64>() <= host.memory.0);
            let mut given: Vec<&GpuId> = held.iter().flat_map(|placement| &placement.devices).collect();
            let all = given.len();
            given.sort();
            given.dedup();
            prop_assert_eq!(given.len(), all);
        }
    }
}
