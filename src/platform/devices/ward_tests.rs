//! The ward over a life of one GPU and of several, by hand and by chance.

use proptest::prelude::*;

use super::super::fixture::{card, part};
use super::*;
use crate::domain::{GpuFaults, GpuProcess, MemoryBytes, Reading as Value};

const GIB: u64 = 1 << 30;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
}

fn ids(names: &[&str]) -> HashSet<GpuId> {
    names.iter().map(|name| GpuId::from_trusted(*name)).collect()
}

fn using(gib: u64) -> GpuVitals {
    GpuVitals {
        memory_used: Value::Known(MemoryBytes(gib * GIB)),
        processes: Value::Known(Vec::new()),
        uncorrected_errors: Value::NotSupported,
        ..GpuVitals::unreadable("a test")
    }
}

fn faulty(count: u64) -> GpuVitals {
    GpuVitals { faults: GpuFaults { count, last: Some("Xid 79: it fell off the bus".to_owned()) }, ..using(0) }
}

/// One look at one GPU that began and ended at this second.
fn look(ward: &mut Ward, gpu: &Gpu, vitals: &GpuVitals, second: i64) -> Vec<String> {
    let reading = Reading { gpu, vitals: Some(vitals), asked_at: at(second) };
    ward.examine([reading], at(second)).iter().map(ToString::to_string).collect()
}

fn health(ward: &Ward, gpu: &Gpu) -> String {
    ward.health(gpu).reason().unwrap_or("healthy").to_owned()
}

const CHECKING: &str = "it is being checked after its job";
const NOTHING: [String; 0] = [];

/// Tells a store what it has to be told.
fn save(ward: &mut Ward, store: &mut BTreeMap<GpuId, GpuRecord>) {
    let (records, forgotten) = ward.unsaved();
    store.retain(|gpu, _| !forgotten.contains(gpu));
    store.extend(records.iter().map(|record| (record.gpu.clone(), record.clone())));
    ward.saved(records, &forgotten);
    assert_eq!(ward.unsaved(), (vec![], vec![]));
}

/// The daemon ends and another one begins with what was stored.
fn recalled(store: &BTreeMap<GpuId, GpuRecord>, second: i64) -> Ward {
    let mut ward = Ward::default();
    ward.recall(store.values().cloned().collect(), at(second));
    ward
}

/// The same, when everything was stored.
fn restarted(ward: &mut Ward, second: i64) -> Ward {
    let mut store = BTreeMap::new();
    save(ward, &mut store);
    recalled(&store, second)
}

#[test]
fn a_clean_job_costs_one_look() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    assert_eq!(look(&mut ward, &gpu, &using(1), 0), NOTHING);
    assert!(!ward.hold(&ids(&["a"]), at(1)));
    assert_eq!(look(&mut ward, &gpu, &using(20), 5), NOTHING, "the job may use it");
    assert_eq!(health(&ward, &gpu), "healthy");
    assert!(ward.hold(&ids(&[]), at(10)), "somebody has to look");
    assert_eq!(health(&ward, &gpu), CHECKING);
    let old = Reading { gpu: &gpu, vitals: Some(&using(1)), asked_at: at(9) };
    assert_eq!(ward.examine([old], at(11)), [], "what was asked before the job's end proves nothing");
    assert_eq!(health(&ward, &gpu), CHECKING);
    assert_eq!(look(&mut ward, &gpu, &using(1), 11), ["GPU a is as it was before its job"]);
    assert_eq!(health(&ward, &gpu), "healthy");
    assert_eq!((ward.unsaved(), ward.next_look(at(11))), ((vec![], vec![]), None), "nothing is left of it");
}

#[test]
fn what_a_job_leaves_has_its_time_then_the_gpu_is_tested_again_and_again() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    look(&mut ward, &gpu, &using(0), 0);
    ward.hold(&ids(&["a"]), at(1));
    ward.hold(&ids(&[]), at(10));
    assert_eq!(look(&mut ward, &gpu, &using(3), 12), NOTHING);
    assert_eq!((health(&ward, &gpu).as_str(), ward.next_look(at(12))), (CHECKING, Some(LOOK_AGAIN)));
    let why = "in quarantine: 3072 MiB of its memory are in use, 0 MiB before its job";
    assert_eq!(look(&mut ward, &gpu, &using(3), 15), [format!("GPU a is given to nobody, {why}")]);
    assert_eq!(health(&ward, &gpu), why);
    assert_eq!(ward.next_look(at(15)), Some(Duration::from_secs(30)));
    assert_eq!(look(&mut ward, &gpu, &using(0), 44), NOTHING, "not yet");
    assert_eq!(look(&mut ward, &gpu, &using(2), 45), ["GPU a stays in quarantine: 2048 MiB of its memory are in use, 0 MiB before its job"]);
    assert_eq!(ward.next_look(at(45)), Some(Duration::from_secs(60)), "doubled");
    look(&mut ward, &gpu, &GpuVitals::unreadable("busy"), 105);
    assert!(health(&ward, &gpu).contains("2048 MiB"), "what cannot be read lets nobody out");
    assert_eq!(look(&mut ward, &gpu, &using(0), 225), ["GPU a was tested, is good and comes out of quarantine"]);
    assert_eq!(health(&ward, &gpu), "healthy");
    // It does the same again: the wait goes on where it was, until a job leaves it clean.
    ward.hold(&ids(&["a"]), at(230));
    ward.hold(&ids(&[]), at(240));
    look(&mut ward, &gpu, &using(3), 245);
    assert_eq!(ward.next_look(at(245)), Some(Duration::from_secs(240)));
    look(&mut ward, &gpu, &using(0), 485);
    ward.hold(&ids(&["a"]), at(490));
    ward.hold(&ids(&[]), at(500));
    look(&mut ward, &gpu, &using(0), 501);
    ward.hold(&ids(&["a"]), at(510));
    ward.hold(&ids(&[]), at(520));
    look(&mut ward, &gpu, &using(3), 525);
    assert_eq!(ward.next_look(at(525)), Some(Duration::from_secs(30)));
}

#[test]
fn the_wait_is_bounded_however_long_it_fails() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    look(&mut ward, &gpu, &faulty(1), 0);
    let mut second = 0;
    for _ in 0..40 {
        let wait = ward.next_look(at(second)).expect("a wait");
        assert!(wait <= RECHECK_AFTER_MAX, "{wait:?}");
        second += i64::try_from(wait.as_secs()).expect("small");
        look(&mut ward, &gpu, &GpuVitals::unreadable("busy"), second);
    }
    assert_eq!(ward.next_look(at(second)), Some(RECHECK_AFTER_MAX));
}

#[test]
fn a_fault_of_the_card_quarantines_at_once_and_only_a_card_that_answers_comes_back() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    look(&mut ward, &gpu, &using(0), 0);
    ward.hold(&ids(&["a"]), at(1));
    let said = look(&mut ward, &gpu, &faulty(1), 2);
    assert_eq!(said, ["GPU a is given to nobody, in quarantine: Xid 79: it fell off the bus"]);
    assert_eq!(look(&mut ward, &gpu, &faulty(1), 40), NOTHING, "its job goes on, and nothing is tested meanwhile");
    assert_eq!(ward.next_look(at(40)), None);
    ward.hold(&ids(&[]), at(41));
    let lost = Gpu { health: GpuHealth::Lost("it is no longer there".into()), ..gpu.clone() };
    assert_eq!(look(&mut ward, &lost, &faulty(1), 42), ["GPU a stays in quarantine: Xid 79: it fell off the bus"]);
    assert_eq!(health(&ward, &lost), "it is no longer there");
    let sick = Gpu { health: GpuHealth::Unhealthy("memory errors".into()), ..gpu.clone() };
    look(&mut ward, &sick, &faulty(1), 102);
    assert!(health(&ward, &gpu).starts_with("in quarantine"), "a card that is unfit passes no test");
    // A newer fault begins the wait anew.
    look(&mut ward, &gpu, &faulty(2), 200);
    let wait = ward.next_look(at(200)).expect("a wait");
    assert_eq!(wait, Duration::from_secs(240));
    assert_eq!(look(&mut ward, &gpu, &faulty(2), 440), ["GPU a was tested, is good and comes out of quarantine"]);
    assert_eq!(look(&mut ward, &gpu, &faulty(2), 450), NOTHING, "an old fault is no new one");
    assert_eq!(look(&mut ward, &gpu, &faulty(0), 460), NOTHING, "nor is a driver that counts from the beginning");
    assert_eq!(look(&mut ward, &gpu, &faulty(1), 470).len(), 1);
}

#[test]
fn a_part_suffers_with_its_card_and_a_lost_gpu_waits_for_its_check() {
    let (mut ward, whole) = (Ward::default(), Gpu { role: GpuRole::Divided, ..card("a") });
    let (mine, other) = (part("p", "a"), part("q", "b"));
    look(&mut ward, &whole, &faulty(1), 0);
    assert!(health(&ward, &mine).contains("Xid 79"));
    assert_eq!(health(&ward, &other), "healthy");
    let mut ward = Ward::default();
    ward.hold(&ids(&["q"]), at(1));
    ward.hold(&ids(&[]), at(2));
    let lost = Gpu { health: GpuHealth::Lost("gone".into()), ..other.clone() };
    look(&mut ward, &lost, &GpuVitals::unreadable("gone"), 100);
    assert_eq!((health(&ward, &other).as_str(), ward.next_look(at(100))), (CHECKING, None), "it is looked at when it is back, not every second");
    assert_eq!(look(&mut ward, &other, &using(0), 200), ["GPU q is as it was before its job"]);
}

#[test]
fn by_hand_means_until_released_by_hand() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    look(&mut ward, &gpu, &using(0), 0);
    ward.hold(&ids(&["a"]), at(1));
    ward.quarantine(&gpu.id, "smells", at(2));
    assert_eq!(health(&ward, &gpu), "in quarantine by hand: smells");
    ward.hold(&ids(&[]), at(3));
    look(&mut ward, &gpu, &using(3), 60);
    look(&mut ward, &gpu, &faulty(1), 61);
    assert_eq!(health(&ward, &gpu), "in quarantine by hand: smells");
    assert_eq!(ward.next_look(at(61)), None);
    let mut ward = restarted(&mut ward, 100);
    look(&mut ward, &gpu, &using(0), 101);
    assert_eq!(health(&ward, &gpu), "in quarantine by hand: smells");
    assert_eq!(ward.quarantine(&gpu.id, "smells of fish", at(102)).since, at(2), "repeated with other words");
    assert_eq!(ward.release(&gpu.id, at(103)).map(|quarantine| quarantine.reason).as_deref(), Some("smells of fish"));
    assert_eq!((health(&ward, &gpu).as_str(), ward.release(&gpu.id, at(104))), ("healthy", None));
    assert_eq!(ward.release(&GpuId::from_trusted("b"), at(104)), None);
}

#[test]
fn a_release_takes_the_gpu_as_it_is_and_never_ends_a_check() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    look(&mut ward, &gpu, &using(0), 0);
    ward.hold(&ids(&["a"]), at(1));
    ward.hold(&ids(&[]), at(2));
    assert_eq!(ward.release(&gpu.id, at(3)), None);
    assert_eq!(health(&ward, &gpu), CHECKING);
    look(&mut ward, &gpu, &using(3), 7);
    assert!(ward.release(&gpu.id, at(8)).is_some());
    look(&mut ward, &gpu, &using(3), 9);
    ward.hold(&ids(&["a"]), at(10));
    ward.hold(&ids(&[]), at(11));
    assert_eq!(look(&mut ward, &gpu, &using(3), 20), ["GPU a is as it was before its job"]);
}

#[test]
fn a_job_that_ended_while_nobody_looked_is_checked_against_what_was_before_it() {
    let (mut ward, gpu) = (Ward::default(), card("a"));
    look(&mut ward, &gpu, &using(1), 0);
    ward.take(&ids(&["a"]), at(1));
    let mut ward = restarted(&mut ward, 100);
    look(&mut ward, &gpu, &using(9), 101);
    ward.hold(&ids(&[]), at(102));
    assert_eq!(health(&ward, &gpu), CHECKING);
    assert_eq!(look(&mut ward, &gpu, &using(9), 110).len(), 1);
    assert_eq!(health(&ward, &gpu), "in quarantine: 9216 MiB of its memory are in use, 1024 MiB before its job");
}

#[test]
fn what_is_gone_for_long_is_forgotten_unless_a_person_wants_it() {
    let mut ward = Ward::default();
    look(&mut ward, &card("a"), &faulty(1), 0);
    ward.quarantine(&GpuId::from_trusted("b"), "smells", at(0));
    let mut waits = Vec::new();
    for second in [60, 3600, 86_399] {
        ward.examine([], at(second));
        waits.push(ward.next_look(at(second)).expect("a wait").as_secs());
    }
    assert_eq!(waits, [60, 120, 240], "a card that is not there is not looked for all the time");
    ward.examine([], at(86_401));
    assert_eq!(ward.quarantines().keys().map(GpuId::as_str).collect::<Vec<_>>(), ["b"]);
}

/// What may happen to one GPU.
#[derive(Debug, Clone)]
enum Deed {
    Wait(i64),
    Begin,
    End,
    /// A look that began so many seconds ago and found memory in use, a process and faults so far.
    Look(i64, u64, bool, u64),
    Blind,
    Quarantine,
    Release,
    Restart,
    Save,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0_i64..60).prop_map(Deed::Wait),
        3 => Just(Deed::Begin),
        3 => Just(Deed::End),
        6 => (0_i64..3, 0_u64..2, any::<bool>(), 0_u64..2).prop_map(|(ago, gib, process, faults)| Deed::Look(ago, gib, process, faults)),
        1 => Just(Deed::Blind),
        1 => Just(Deed::Quarantine),
        1 => Just(Deed::Release),
        1 => Just(Deed::Restart),
        1 => Just(Deed::Save),
    ];
    prop::collection::vec(deed, 1..80)
}

proptest! {
    /// After a job nobody gets a GPU before a look that began after its end; a person's word holds until a person takes it back, also over
    /// restarts; and what a check put into quarantine leaves it only when a test that was due found nothing.
    #[test]
    fn nobody_gets_a_gpu_that_is_not_known_to_be_good(deeds in deeds()) {
        let gpu = card("a");
        let (mut ward, mut store) = (Ward::default(), BTreeMap::new());
        let (mut now, mut held, mut ended_at, mut by_hand) = (0_i64, false, None::<i64>, false);
        for deed in deeds {
            let quarantine = ward.quarantines().get(&gpu.id).cloned();
            let mut looked = None;
            match deed {
                Deed::Wait(seconds) => now += seconds,
                Deed::Begin if held || ward.health(&gpu) == GpuHealth::Healthy => {
                    ward.hold(&ids(&["a"]), at(now));
                    save(&mut ward, &mut store);
                    (held, ended_at) = (true, None);
                }
                Deed::Begin => {}
                Deed::End => {
                    ward.hold(&ids(&[]), at(now));
                    ended_at = if held { Some(now) } else { ended_at };
                    held = false;
                }
                Deed::Look(ago, gib, process, faults) => {
                    let processes = if process { vec![GpuProcess { pid: 7, memory: Value::NotSupported }] } else { Vec::new() };
                    let vitals = GpuVitals { processes: Value::Known(processes), faults: GpuFaults { count: faults, last: Some("Xid".into()) }, ..using(gib) };
                    ward.examine([Reading { gpu: &gpu, vitals: Some(&vitals), asked_at: at(now - ago) }], at(now));
                    looked = Some(now - ago);
                }
                Deed::Blind => {
                    let lost = Gpu { health: GpuHealth::Lost("gone".into()), ..gpu.clone() };
                    ward.examine([Reading { gpu: &lost, vitals: None, asked_at: at(now) }], at(now));
                }
                Deed::Quarantine => {
                    ward.quarantine(&gpu.id, "by hand", at(now));
                    save(&mut ward, &mut store);
                    by_hand = true;
                }
                Deed::Release => {
                    ended_at = if ward.release(&gpu.id, at(now)).is_some() { None } else { ended_at };
                    save(&mut ward, &mut store);
                    by_hand = false;
                }
                // The first pass tells what is held before it gives anything away.
                Deed::Restart => {
                    ward = recalled(&store, now);
                    ward.hold(&if held { ids(&["a"]) } else { ids(&[]) }, at(now));
                    ended_at = ended_at.map(|_| now);
                }
                Deed::Save => save(&mut ward, &mut store),
            }
            let healthy = ward.health(&gpu) == GpuHealth::Healthy;
            if let (Some(ended), Some(began)) = (ended_at, looked) && began >= ended && healthy {
                ended_at = None;
            }
            prop_assert!(!healthy || ended_at.is_none(), "given away before anybody looked");
            prop_assert!(!healthy || !by_hand, "given away against a person's word");
            if let Some(before) = quarantine.filter(|before| before.by == QuarantinedBy::Health) && healthy && looked.is_some() {
                let due = before.next_check.is_some_and(|due| due <= at(now));
                prop_assert!(due, "it came out before its test was due");
            }
        }
    }
}
