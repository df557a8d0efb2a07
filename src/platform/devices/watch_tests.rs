//! The watch over made-up sources, and over a machine made of directories.

use std::sync::Mutex;
use std::sync::mpsc;

use super::super::fixture::{Machine, card, part};
use super::super::guard::each;
use super::super::sources;
use super::*;
use crate::config::Config;
use crate::config::IntegratedGpus;
use crate::domain::{CpuMillis, GpuFaults, MemoryBytes, Reading, SystemClock};
use crate::platform::{HostProbe, KernelFacts};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Kernel;

impl HostProbe for Kernel {
    fn probe(&self) -> KernelFacts {
        KernelFacts { machine: "x86_64".into(), cpus: CpuMillis(1000), memory: MemoryBytes(1 << 30), boot: 1 }
    }
}

fn platform() -> Arc<PlatformManager> {
    let config = Config::load(None, std::iter::empty()).expect("the defaults");
    Arc::new(PlatformManager::new(config.host, &Kernel))
}

/// Sources whose answers the test gives, in turn; the last one again and again.
fn scripted(answers: Vec<Sight>) -> Vec<Source> {
    let left = Mutex::new(answers);
    let body = each(move || {
        let mut left = left.lock().expect("the answers");
        let sight = if left.len() > 1 { left.remove(0) } else { left[0].clone() };
        Survey { sight, notes: Vec::new() }
    });
    vec![Source { vendor: GpuVendor::Nvidia, body }]
}

fn sees(gpus: &[Gpu]) -> Sight {
    Sight::Seen(gpus.iter().map(|gpu| Seen { gpu: gpu.clone(), vitals: GpuVitals::unreadable("a test") }).collect())
}

fn watch(sources: Vec<Source>, platform: &Arc<PlatformManager>, held: &[&str], deadline: Duration) -> DeviceWatch {
    let held: HashSet<GpuId> = held.iter().map(|id| GpuId::from_trusted(*id)).collect();
    let roots = Roots { proc: "/nowhere".into(), ..Roots::default() };
    DeviceWatch::new(roots, sources, Arc::clone(platform), Arc::new(move || held.clone()), deadline, Arc::new(SystemClock))
}

fn known(platform: &PlatformManager) -> Vec<(String, Option<String>)> {
    platform.facts().gpus.iter().map(|gpu| (gpu.id.to_string(), gpu.health.reason().map(str::to_owned))).collect()
}

#[tokio::test]
async fn what_is_found_reaches_the_platform_and_what_a_job_holds_is_never_forgotten() {
    let platform = platform();
    let divided = [Gpu { role: crate::domain::GpuRole::Divided, ..card("a") }, part("p", "a"), part("q", "a")];
    let mut watch = watch(scripted(vec![sees(&divided), sees(&divided), sees(&[card("a")])]), &platform, &["q"], PATIENCE);
    assert_eq!(watch.look().await.len(), 3);
    assert_eq!(platform.gpu_vitals().len(), 3);
    assert_eq!(watch.look().await, [], "nothing is different");
    assert_eq!(watch.look().await.len(), 3);
    assert_eq!(known(&platform), [("a".into(), None), ("q".into(), Some("it is no longer there".into()))]);
}

#[tokio::test]
async fn what_is_open_for_sharing_is_told_and_is_no_change_at_every_look() {
    let open = |text: &str| crate::domain::ModelPattern::parse("shared", text).expect("a pattern");
    let platform = Arc::into_inner(platform()).expect("nobody else has it").sharing(vec![open("b*"), open("*a100*")]);
    let platform = Arc::new(platform);
    let gpus = [card("a"), card("b1"), Gpu { model: Reading::Known("NVIDIA A100-SXM4".into()), ..card("c") }, part("b2", "d")];
    let mut watch = watch(scripted(vec![sees(&gpus)]), &platform, &[], PATIENCE);
    watch.look().await;
    let shared: Vec<String> =
        platform.facts().gpus.iter().filter(|gpu| gpu.sharing == crate::domain::Sharing::Open).map(|gpu| gpu.id.to_string()).collect();
    assert_eq!(shared, ["b1", "c"], "parts of cards are nobody's to share");
    assert_eq!(watch.look().await, [], "nothing is different");
}

#[tokio::test]
async fn a_vendor_that_hangs_makes_its_cards_lost_and_holds_nobody_up() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let hangs = each(move || {
        gate.lock().expect("the gate").recv().expect("released");
        Survey { sight: sees(&[card("a")]), notes: Vec::new() }
    });
    let platform = platform();
    let mut watch = watch(vec![Source { vendor: GpuVendor::Nvidia, body: hangs }], &platform, &[], Duration::from_millis(500));
    release.send(()).expect("it waits");
    watch.look().await;
    assert_eq!(known(&platform), [("a".into(), None)]);
    assert_eq!(watch.look().await.len(), 1);
    assert_eq!(known(&platform), [("a".into(), Some("the nvidia driver does not answer within 0.5 s".into()))]);
    assert_eq!(platform.facts().notes.len(), 1);
    assert_eq!(watch.look().await, [], "the same fact is told once");
    release.send(()).expect("it waits");
    watch.deadline = PATIENCE;
    watch.look().await;
    assert_eq!(known(&platform), [("a".into(), None)]);
    assert_eq!(platform.facts().notes, []);
}

#[tokio::test(start_paused = true)]
async fn it_looks_at_its_interval_tells_of_changes_and_ends_when_told() {
    let platform = platform();
    let watch = watch(scripted(vec![sees(&[]), sees(&[card("a")])]), &platform, &[], PATIENCE);
    let (changed, mut rung) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let tracker = tokio_util::task::TaskTracker::new();
    tracker.spawn(watch.run(
        Duration::from_secs(15),
        move || {
            let _ = changed.send(());
        },
        stop.clone(),
    ));
    rung.recv().await.expect("a change");
    assert_eq!(known(&platform), [("a".into(), None)]);
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}

#[tokio::test]
async fn a_whole_machine_is_read_and_its_own_architecture_is_not_emulated() {
    let machine = Machine::new();
    machine.nvml("count 1\ngpu.0.uuid GPU-aaaa\ngpu.0.total 1073741824\n");
    machine.pci("0000:03:00.0", (0x8086, 0x56a0), Some("xe"), &[("tile0/physical_vram_size_bytes", "8589934592\n")]);
    machine.render("pci0000:00/0000:03:00.0", 129);
    for (name, number) in [("qemu-x86_64", "3e00"), ("qemu-riscv64", "f300")] {
        let text =
            format!("enabled\ninterpreter /usr/bin/{name}\nflags: F\noffset 0\nmagic 7f454c46020101000000000000000000020{}\n", &format!("0{number}"));
        machine.file(&format!("proc/sys/fs/binfmt_misc/{name}"), text);
    }
    let (platform, roots) = (platform(), machine.roots());
    let mut watch = DeviceWatch::new(
        roots.clone(),
        sources(&roots, IntegratedGpus::Ignore),
        Arc::clone(&platform),
        Arc::new(HashSet::new),
        PATIENCE,
        Arc::new(SystemClock),
    );
    watch.look().await;
    assert_eq!(known(&platform), [("GPU-aaaa".into(), None), ("intel-0000:03:00.0".into(), None)]);
    assert_eq!(platform.facts().emulated, [Arch::Riscv64]);
    machine.remove("sys/class/drm/renderD129");
    assert_eq!(watch.look().await.iter().map(ToString::to_string).collect::<Vec<_>>(), ["GPU intel-0000:03:00.0 is lost: it is no longer there"]);
}

/// A card as a look finds it.
fn doing(vitals: GpuVitals) -> Sight {
    Sight::Seen(vec![Seen { gpu: card("a"), vitals }])
}

fn nothing() -> GpuVitals {
    let (memory_used, uncorrected_errors) = (Reading::NotSupported, Reading::NotSupported);
    GpuVitals { memory_used, uncorrected_errors, processes: Reading::Known(Vec::new()), ..GpuVitals::unreadable("a test") }
}

#[tokio::test]
async fn a_fault_of_a_card_reaches_the_facts_and_no_other_look_takes_it_away() {
    let fault = GpuFaults { count: 1, last: Some("Xid 79: it fell off the bus".into()) };
    let platform = platform();
    let mut watch = watch(scripted(vec![doing(nothing()), doing(GpuVitals { faults: fault, ..nothing() })]), &platform, &[], PATIENCE);
    watch.look().await;
    assert_eq!(known(&platform), [("a".into(), None)]);
    for _ in 0..2 {
        watch.look().await;
        assert_eq!(known(&platform), [("a".into(), Some("in quarantine: Xid 79: it fell off the bus".into()))]);
    }
    assert_eq!(platform.inventory().gpus, [card("a")], "what the driver told is kept apart");
}

#[tokio::test]
async fn the_end_of_a_job_is_looked_at_at_once() {
    let platform = platform();
    let mut watch = watch(scripted(vec![doing(nothing())]), &platform, &[], PATIENCE);
    watch.look().await;
    let (held, now) = (HashSet::from([GpuId::from_trusted("a")]), || SystemClock.now());
    platform.hold_gpus(&held, now());
    platform.hold_gpus(&HashSet::new(), now());
    assert_eq!(known(&platform), [("a".into(), Some("it is being checked after its job".into()))]);
    let (changed, mut rung) = tokio::sync::mpsc::unbounded_channel();
    let (stop, tracker) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
    let tell = move || {
        let _ = changed.send(());
    };
    tracker.spawn(watch.run(Duration::from_secs(3600), tell, stop.clone()));
    tokio::time::timeout(PATIENCE, rung.recv()).await.expect("it does not wait for the next regular look").expect("a finding");
    assert_eq!(known(&platform), [("a".into(), None)]);
    stop.cancel();
    tracker.close();
    tracker.wait().await;
}

#[tokio::test]
async fn a_late_answer_is_as_old_as_its_question() {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let body = each(move || {
        wait.lock().expect("the test").recv().expect("a word");
        Survey { sight: doing(nothing()), notes: Vec::new() }
    });
    let platform = platform();
    let mut watch = watch(vec![Source { vendor: GpuVendor::Nvidia, body }], &platform, &[], PATIENCE);
    go.send(()).expect("it waits");
    watch.look().await;
    platform.hold_gpus(&HashSet::from([GpuId::from_trusted("a")]), SystemClock.now());
    watch.deadline = Duration::from_millis(20);
    watch.look().await;
    platform.hold_gpus(&HashSet::new(), SystemClock.now());
    watch.deadline = PATIENCE;
    go.send(()).expect("it waits");
    watch.look().await;
    assert_eq!(known(&platform)[0].1.as_deref(), Some("it is being checked after its job"), "it was asked while the job ran");
}
