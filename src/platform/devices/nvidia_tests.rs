//! The real wrapper on a stand-in for NVIDIA's library, see `tests/gpu/nvml.c`.

use std::sync::Arc;
use std::time::Duration;

use super::super::fixture::{Machine, seen, texts};
use super::super::guard::{Answer, Guard};
use super::*;
use crate::domain::{GpuProcess, GpuRole, MemoryBytes, PciAddress};

const GIB: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// Two cards, the second of them old: it has neither ECC nor sensors.
const TWO: &str = "\
driver 570.86.15
count 2
gpu.0.uuid GPU-aaaa
gpu.0.name NVIDIA H100 80GB HBM3
gpu.0.pci 00000000:3B:00.0
gpu.0.minor 0
gpu.0.total 85899345920
gpu.0.used 1048576
gpu.0.compute 9.0
gpu.0.mig 0
gpu.0.ecc 0
gpu.0.temperature 34
gpu.0.busy 12
gpu.0.energy 123456
gpu.0.processes 4711:1048576 4712:2097152
gpu.1.uuid GPU-bbbb
gpu.1.name NVIDIA GeForce GTX 1080
gpu.1.pci 00000000:5E:00.0
gpu.1.total 8589934592
gpu.1.compute 6.1
";

/// The first card divided into two parts; the third has no name that tells its size.
const DIVIDED: &str = "
mig.0.0.uuid MIG-1111
mig.0.0.name NVIDIA H100 80GB HBM3 MIG 1g.10gb
mig.0.0.total 10737418240
mig.0.0.ecc 0
mig.0.2.uuid MIG-2222
mig.0.2.name NVIDIA H100 80GB HBM3
mig.0.2.share 3 3 40448
mig.0.2.total 42949672960
mig.0.2.ecc 0
";

fn watcher(machine: &Machine) -> Guard<Survey> {
    let roots = machine.roots();
    Guard::new("nvidia", Arc::new(move |asked| serve(&roots, asked)))
}

async fn ask(guard: &mut Guard<Survey>) -> Survey {
    match guard.ask(PATIENCE).await {
        Answer::Given(survey) => survey,
        other @ (Answer::Late | Answer::Broke) => panic!("no answer: {other:?}"),
    }
}

fn reason(survey: &Survey) -> &str {
    match &survey.sight {
        Sight::Blind(reason) => reason,
        Sight::Seen(seen) => panic!("it sees {seen:?}"),
    }
}

#[tokio::test]
async fn cards_are_read_whole_and_an_old_one_has_what_it_has() {
    let machine = Machine::new();
    let links = "gpu.0.nvlink.0 00000000:87:00.0\ngpu.0.nvlink.1 00000000:86:00.0\ngpu.0.nvlink.2 00000000:86:00.0\n";
    machine.nvml(&format!("{TWO}\n{links}")).file("dev/nvidia0", "").pci("0000:3b:00.0", (0x10de, 0x2330), Some("nvidia"), &[("numa_node", "1\n")]);
    let survey = ask(&mut watcher(&machine)).await;
    assert_eq!(texts(&survey), [""; 0]);
    let all = seen(survey);
    let Seen { gpu, vitals } = &all[0];
    assert_eq!((gpu.id.as_str(), gpu.index), ("GPU-aaaa", 0));
    assert_eq!(gpu.pci, Reading::Known(PciAddress::parse("0000:3b:00.0").expect("an address")));
    assert_eq!(gpu.model.known().map(String::as_str), Some("NVIDIA H100 80GB HBM3"));
    assert_eq!(gpu.memory, Reading::Known(MemoryBytes(80 * GIB)));
    assert_eq!(gpu.compute.known().map(String::as_str), Some("9.0"));
    assert_eq!(gpu.driver.known().map(String::as_str), Some("nvidia 570.86.15"));
    assert_eq!(gpu.numa_node, Reading::Known(1));
    assert_eq!(gpu.nodes[0].path, "/dev/nvidia0");
    assert_eq!(gpu.wiring.path, ["pci0000:00"]);
    let addresses = |all: &[&str]| all.iter().map(|text| PciAddress::parse(text).expect("an address")).collect::<Vec<_>>();
    assert_eq!(gpu.wiring.links, addresses(&["0000:86:00.0", "0000:87:00.0"]));
    assert_eq!((&gpu.role, &gpu.health), (&GpuRole::Card, &GpuHealth::Healthy));
    assert_eq!((&vitals.temperature_celsius, &vitals.utilization_percent), (&Reading::Known(34), &Reading::Known(12)));
    assert_eq!((&vitals.energy_millijoules, &vitals.uncorrected_errors), (&Reading::Known(123_456), &Reading::Known(0)));
    assert_eq!(vitals.memory_used, Reading::Known(MemoryBytes(1 << 20)));
    let process = |pid, memory| GpuProcess { pid, memory: Reading::Known(MemoryBytes(memory)) };
    assert_eq!(vitals.processes, Reading::Known(vec![process(4711, 1 << 20), process(4712, 2 << 20)]));
    let Seen { gpu, vitals } = &all[1];
    assert_eq!((&gpu.role, &gpu.health), (&GpuRole::Card, &GpuHealth::Healthy), "a card that cannot be divided is whole");
    assert_eq!((&vitals.uncorrected_errors, &vitals.temperature_celsius), (&Reading::NotSupported, &Reading::NotSupported));
}

#[tokio::test]
async fn parts_of_a_divided_card_are_devices_of_their_own() {
    let machine = Machine::new();
    machine.nvml(&TWO.replace("gpu.0.mig 0", &format!("gpu.0.mig 1{DIVIDED}")));
    let mut watcher = watcher(&machine);
    let all = seen(ask(&mut watcher).await);
    let ids: Vec<&str> = all.iter().map(|one| one.gpu.id.as_str()).collect();
    assert_eq!(ids, ["GPU-aaaa", "MIG-1111", "MIG-2222", "GPU-bbbb"]);
    assert_eq!(all[0].gpu.role, GpuRole::Divided);
    assert_eq!((all[1].gpu.mig_profile(), all[1].gpu.card()), (Some("1g.10gb"), Some(&all[0].gpu.id)));
    assert_eq!(all[1].gpu.memory, Reading::Known(MemoryBytes(10 * GIB)));
    assert_eq!(all[2].gpu.mig_profile(), Some("3g.40gb"), "by its share");
    assert!(all.iter().all(|one| one.gpu.health == GpuHealth::Healthy));
    machine.nvml_is_now(&TWO.replace("gpu.0.mig 0", &format!("gpu.0.mig 1{}", DIVIDED.replace("mig.0.0.total 10737418240", "mig.0.0.total !999"))));
    let all = seen(ask(&mut watcher).await);
    assert!(all[1].gpu.health.reason().is_some_and(|reason| reason.contains("memory cannot be read")), "{:?}", all[1].gpu.health);
    assert_eq!(all[2].gpu.health, GpuHealth::Healthy, "its neighbour is fit");
}

#[tokio::test]
async fn whether_a_card_is_divided_must_be_known_to_give_it_away() {
    let machine = Machine::new();
    machine.nvml(&TWO.replace("gpu.0.mig 0", "gpu.0.mig !999"));
    let all = seen(ask(&mut watcher(&machine)).await);
    assert!(all[0].gpu.health.reason().is_some_and(|reason| reason.contains("divided")), "{:?}", all[0].gpu.health);
}

#[tokio::test]
async fn a_card_that_falls_off_the_bus_is_lost_under_its_name_and_comes_back() {
    let machine = Machine::new();
    machine.nvml(TWO);
    let mut watcher = watcher(&machine);
    let before = seen(ask(&mut watcher).await);
    machine.nvml_is_now(&format!("gpu.1.all !15\n{TWO}"));
    let all = seen(ask(&mut watcher).await);
    assert_eq!(all[0].gpu, before[0].gpu, "the other one is as it was");
    assert_eq!(all[1].gpu.id.as_str(), "GPU-bbbb", "although it does not tell its name any more");
    assert!(matches!(&all[1].gpu.health, GpuHealth::Lost(reason) if reason.contains("fell off the bus")), "{:?}", all[1].gpu.health);
    machine.nvml_is_now(TWO);
    assert_eq!(seen(ask(&mut watcher).await)[1].gpu, before[1].gpu);
}

#[tokio::test]
async fn a_card_that_never_answered_is_a_note() {
    let machine = Machine::new();
    machine.nvml(&format!("gpu.1.handle !15\n{TWO}"));
    let survey = ask(&mut watcher(&machine)).await;
    assert_eq!(texts(&survey), ["GPU 1 does not answer: NVML: device fell off the bus or has otherwise become inacessible"]);
    assert_eq!(seen(survey).len(), 1);
}

#[tokio::test]
async fn memory_errors_make_a_card_unfit_and_its_own_faults_are_told_from_those_of_programs() {
    let machine = Machine::new();
    machine.nvml(TWO);
    let mut watcher = watcher(&machine);
    ask(&mut watcher).await;
    machine.nvml_is_now(&format!("event.0 0 31\n{TWO}"));
    let all = seen(ask(&mut watcher).await);
    assert_eq!((&all[0].vitals.faults, &all[0].vitals.xids), (&GpuFaults::default(), &vec![31]), "a program's fault");
    machine.nvml_is_now(&format!("event.0 0 31\nevent.1 0 79\n{TWO}"));
    let all = seen(ask(&mut watcher).await);
    let told = GpuFaults { count: 1, last: Some("Xid 79: it fell off the bus".into()) };
    assert_eq!((&all[0].vitals.faults, &all[0].gpu.health), (&told, &GpuHealth::Healthy), "what follows from it is decided elsewhere");
    assert_eq!(all[0].vitals.xids, [31, 79]);
    assert_eq!((&all[1].vitals.faults, &all[1].vitals.xids), (&GpuFaults::default(), &vec![]), "the other card has nothing to do with it");
    let all = seen(ask(&mut watcher).await);
    assert_eq!(all[0].vitals.faults, told, "a fault is not forgotten, and counted once");
    let machine = Machine::new();
    machine.nvml(&TWO.replace("gpu.0.ecc 0", "gpu.0.ecc 3"));
    let all = seen(ask(&mut self::watcher(&machine)).await);
    assert_eq!(all[0].gpu.health.reason(), Some("3 memory error(s) that could not be corrected since the driver was loaded"));
}

#[tokio::test]
async fn no_library_no_module_and_a_broken_driver_are_facts() {
    let machine = Machine::new();
    let mut watcher = watcher(&machine);
    let survey = ask(&mut watcher).await;
    assert!(reason(&survey).starts_with("no NVIDIA driver: ") && reason(&survey).contains("libnvidia-ml"), "{}", reason(&survey));
    assert_eq!(survey.notes[0].weight, Weight::Info, "without a card nothing is wrong");
    machine.pci("0000:3b:00.0", (0x10de, 0x2330), None, &[]);
    let survey = ask(&mut watcher).await;
    assert_eq!((survey.notes[0].weight, texts(&survey)[1]), (Weight::Warning, "the card at 0000:3b:00.0 cannot be used"));
    machine.nvml("init 9\n");
    assert_eq!(reason(&ask(&mut watcher).await), "no NVIDIA driver: the library is there, the kernel module is not loaded");
    machine.nvml_is_now("init 18\n");
    assert_eq!(reason(&ask(&mut watcher).await), "the NVIDIA driver does not work: NVML: RM detects a driver/library version mismatch");
    machine.nvml_is_now(TWO);
    assert_eq!(seen(ask(&mut watcher).await).len(), 2, "the driver was loaded while we ran");
    machine.nvml_is_now("count !1\n");
    assert!(reason(&ask(&mut watcher).await).contains("Nvml::init"), "and taken away");
    machine.nvml_is_now(TWO);
    assert_eq!(seen(ask(&mut watcher).await).len(), 2, "and loaded again");
}

#[tokio::test]
async fn a_file_that_is_no_library_is_a_fact() {
    let machine = Machine::new();
    machine.file("lib/libnvidia-ml.so.1", b"\x7fELF, or not");
    assert!(reason(&ask(&mut watcher(&machine)).await).starts_with("no NVIDIA driver: "));
}

#[tokio::test]
async fn missing_functions_cost_what_they_tell_and_no_more() {
    let machine = Machine::new();
    machine.nvml_without(
        TWO,
        &["nvmlDeviceGetTemperature", "nvmlEventSetCreate", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlSystemGetDriverVersion"],
    );
    let all = seen(ask(&mut watcher(&machine)).await);
    assert!(all[0].vitals.temperature_celsius.fault().is_some() && all[0].vitals.processes.fault().is_some());
    assert!(all[0].gpu.driver.fault().is_some());
    assert_eq!((&all[0].gpu.health, &all[0].gpu.memory), (&GpuHealth::Healthy, &Reading::Known(MemoryBytes(80 * GIB))));
    for essential in ["nvmlInit_v2", "nvmlShutdown", "nvmlEventSetFree", "nvmlDeviceGetCount_v2"] {
        let machine = Machine::new();
        machine.nvml_without(TWO, &[essential]);
        let survey = ask(&mut watcher(&machine)).await;
        assert!(reason(&survey).starts_with("the NVIDIA driver does not work: "), "{essential}: {}", reason(&survey));
    }
    let machine = Machine::new();
    machine.nvml_without(TWO, &["nvmlDeviceGetMemoryInfo_v2"]);
    let all = seen(ask(&mut watcher(&machine)).await);
    assert!(all[0].gpu.memory.fault().is_some() && all[0].gpu.health.reason().is_some(), "nobody knows what a job would get");
}

#[tokio::test]
async fn a_driver_that_hangs_is_late_and_believed_again_when_it_answers() {
    let machine = Machine::new();
    machine.nvml(&format!("hang 1\n{TWO}"));
    let mut watcher = watcher(&machine);
    assert_eq!(watcher.ask(Duration::from_millis(50)).await, Answer::Late);
    machine.nvml_is_now(TWO);
    assert_eq!(seen(ask(&mut watcher).await).len(), 2);
}

#[tokio::test]
async fn a_name_that_makes_no_sense_and_a_nonsense_count_harm_nobody() {
    let machine = Machine::new();
    machine.nvml(&TWO.replace("GPU-bbbb", "../../etc passwd").replace("count 2", "count 4000000000"));
    let survey = ask(&mut watcher(&machine)).await;
    assert!(texts(&survey)[0].starts_with("GPU 1 does not answer: NVML: its UUID makes no sense"));
    assert_eq!(seen(survey).len(), 1);
}
