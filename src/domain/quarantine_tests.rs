//! The verdict over readings of all kinds.

use proptest::prelude::*;

use super::super::gpu::GpuProcess;
use super::*;

const MIB: u64 = 1 << 20;

fn vitals(memory_mib: u64, errors: u64, pids: &[u32]) -> GpuVitals {
    let process = |pid: &u32| GpuProcess { pid: *pid, memory: Reading::NotSupported };
    GpuVitals {
        memory_used: Reading::Known(MemoryBytes(memory_mib * MIB)),
        uncorrected_errors: Reading::Known(errors),
        processes: Reading::Known(pids.iter().map(process).collect()),
        ..GpuVitals::unreadable("a test")
    }
}

fn learned(idle: &GpuVitals) -> Baseline {
    let mut baseline = Baseline::default();
    baseline.learn(idle);
    baseline
}

#[test]
fn every_reason_is_told_and_all_together() {
    let baseline = learned(&vitals(10, 2, &[7]));
    let said = |memory, errors, pids: &[u32]| match baseline.judge(&vitals(memory, errors, pids)) {
        Verdict::Dirty(reason) => reason,
        other @ (Verdict::Clean | Verdict::Unreadable(_)) => format!("{other:?}"),
    };
    assert_eq!(said(10, 2, &[7]), "Clean");
    assert_eq!(said(266, 2, &[]), "Clean", "up to the tolerance; and who was there before may go");
    assert_eq!(said(267, 2, &[7]), "267 MiB of its memory are in use, 10 MiB before its job");
    assert_eq!(said(0, 0, &[7]), "Clean", "less than before, as after the driver was loaded anew");
    assert_eq!(said(10, 3, &[7]), "1 new memory error(s) that could not be corrected");
    assert_eq!(said(10, 2, &[7, 8]), "a process is left on it: 8");
    assert_eq!(
        said(1034, 4, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        "9 processes are left on it: 1, 2, 3, 4, 5, 6, 8, 9, …; 1034 MiB of its memory are in use, 10 MiB before its job; \
         2 new memory error(s) that could not be corrected"
    );
}

#[test]
fn what_is_not_known_decides_nothing() {
    let never_seen = Baseline::default();
    assert_eq!(never_seen.judge(&vitals(80_000, 9, &[])), Verdict::Clean, "nobody knows how it was before");
    assert!(matches!(never_seen.judge(&vitals(0, 0, &[4])), Verdict::Dirty(_)), "but a process is one too many on a GPU that is nobody's");
    let nothing = GpuVitals {
        memory_used: Reading::NotSupported,
        uncorrected_errors: Reading::NotSupported,
        processes: Reading::NotSupported,
        ..GpuVitals::unreadable("a test")
    };
    let baseline = learned(&vitals(10, 0, &[]));
    assert_eq!(baseline.judge(&nothing), Verdict::Clean, "such a card tells nothing, and never will");
    assert_eq!(baseline.judge(&GpuVitals::unreadable("busy")), Verdict::Unreadable("busy".into()));
    let half = GpuVitals { processes: Reading::Unreadable("busy".into()), ..vitals(900, 0, &[]) };
    assert!(matches!(baseline.judge(&half), Verdict::Dirty(reason) if reason.starts_with("900 MiB")));
}

#[test]
fn what_cannot_be_read_once_is_not_unlearned() {
    let mut baseline = learned(&vitals(10, 1, &[7]));
    let before = baseline.clone();
    baseline.learn(&GpuVitals::unreadable("busy"));
    assert_eq!(baseline, before);
    baseline.learn(&vitals(20, 1, &[]));
    assert_eq!(baseline, Baseline { memory_used: Some(MemoryBytes(20 * MIB)), uncorrected_errors: Some(1), processes: BTreeSet::new() });
}

fn any_reading<T: Clone + fmt::Debug + 'static>(known: impl Strategy<Value = T> + 'static) -> impl Strategy<Value = Reading<T>> {
    prop_oneof![4 => known.prop_map(Reading::Known), 1 => Just(Reading::NotSupported), 1 => Just(Reading::Unreadable("no".to_owned()))]
}

fn any_vitals() -> impl Strategy<Value = GpuVitals> {
    let processes = prop::collection::vec(0_u32..6, 0..4)
        .prop_map(|pids| pids.into_iter().map(|pid| GpuProcess { pid, memory: Reading::NotSupported }).collect::<Vec<_>>());
    (any_reading(0_u64..2048), any_reading(0_u64..4), any_reading(processes)).prop_map(|(memory, uncorrected_errors, processes)| GpuVitals {
        memory_used: memory.map(|mib| MemoryBytes(mib * MIB)),
        uncorrected_errors,
        processes,
        ..GpuVitals::unreadable("a test")
    })
}

proptest! {
    #[test]
    fn a_gpu_as_it_was_is_never_dirty_and_unknown_readings_never_make_it_so(idle in any_vitals(), after in any_vitals()) {
        let baseline = learned(&idle);
        prop_assert!(!matches!(baseline.judge(&idle), Verdict::Dirty(_)));
        // Hiding a reading never finds more.
        let hidden = [
            GpuVitals { memory_used: Reading::NotSupported, ..after.clone() },
            GpuVitals { processes: Reading::Unreadable("no".into()), ..after.clone() },
            GpuVitals { uncorrected_errors: Reading::NotSupported, ..after.clone() },
        ];
        for hidden in hidden {
            let (less, more) = (baseline.judge(&hidden), baseline.judge(&after));
            prop_assert!(!matches!(less, Verdict::Dirty(_)) || matches!(more, Verdict::Dirty(_)), "{less:?} of {more:?}");
        }
    }

    /// Said in other words: dirty exactly when a known reading is worse than a known one before.
    #[test]
    fn dirty_is_what_is_known_to_be_worse(idle in any_vitals(), after in any_vitals()) {
        let known = |reading: &Reading<MemoryBytes>| reading.known().map(|memory| memory.0 / MIB);
        let pids = |vitals: &GpuVitals| vitals.processes.known().map(|all| all.iter().map(|one| one.pid).collect::<BTreeSet<_>>());
        let memory = matches!((known(&idle.memory_used), known(&after.memory_used)), (Some(before), Some(now)) if now > before + 256);
        let errors = matches!((&idle.uncorrected_errors, &after.uncorrected_errors), (Reading::Known(before), Reading::Known(now)) if now > before);
        let left = pids(&after).is_some_and(|now| !now.is_subset(&pids(&idle).unwrap_or_default()));
        prop_assert_eq!(matches!(learned(&idle).judge(&after), Verdict::Dirty(_)), memory || errors || left);
    }

    #[test]
    fn a_record_reads_back(idle in any_vitals(), failures: u32, millis in 0_i64..2_000_000_000_000, by: bool) {
        let at = Timestamp::from_millisecond(millis).expect("a time");
        let by = if by { QuarantinedBy::Health } else { QuarantinedBy::Operator };
        let quarantine = Some(Quarantine { reason: "x".into(), since: at, by, next_check: Some(at) });
        let record = GpuRecord { gpu: GpuId::from_trusted("GPU-1"), usage: GpuUse::Checking, baseline: learned(&idle), failures, quarantine };
        let text = serde_json::to_string(&record).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<GpuRecord>(&text).expect("a record"), record);
    }
}
