//! Readings and what comes out of them.

use proptest::prelude::*;

use super::*;
use crate::domain::requirement::Placement;
use crate::domain::{CpuMillis, HostId, Outcome, Reading as Told, RunnerId};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_795_000_000_000 + millis).expect("a time")
}

fn ids(names: &[&str]) -> Vec<GpuId> {
    names.iter().map(|name| GpuId::from_trusted(*name)).collect()
}

fn vitals(memory: Option<u64>, percent: Option<u32>, energy: Option<u64>) -> GpuVitals {
    fn told<T>(value: Option<T>) -> Told<T> {
        value.map_or(Told::NotSupported, Told::Known)
    }
    GpuVitals {
        memory_used: told(memory.map(MemoryBytes)),
        utilization_percent: told(percent),
        energy_millijoules: told(energy),
        ..GpuVitals::unreadable("not asked")
    }
}

fn attempt(devices: &[&str], started: Option<i64>, ended: Option<i64>) -> Attempt {
    Attempt {
        number: 1,
        runner: RunnerId::from_trusted("r"),
        host: HostId::from_trusted("h"),
        placement: Placement { cpus: CpuMillis(1), memory: MemoryBytes(1), devices: ids(devices), share: None, opened: None },
        started_at: started.map(at),
        ended: ended.map(|end| (at(end), Outcome::Succeeded)),
    }
}

fn of(usage: GpuUsage) -> GpuTotal {
    total(&[attempt(&["a"], None, None)], &BTreeMap::from([(1, usage)]), at(0)).expect("it had a GPU")
}

#[test]
fn readings_become_peak_mean_and_energy() {
    let mut usage = GpuUsage::default();
    let mut read = |second: i64, a: GpuVitals, b: GpuVitals| {
        let all = BTreeMap::from([(GpuId::from_trusted("a"), a), (GpuId::from_trusted("b"), b)]);
        usage.observe(at(second * 1000), &ids(&["a", "b"]), |gpu| all.get(gpu));
    };
    read(0, vitals(Some(10), Some(100), Some(5_000)), vitals(Some(5), Some(100), Some(7_000)));
    read(10, vitals(Some(30), Some(50), Some(6_000)), vitals(Some(2), Some(100), Some(7_500)));
    // The second's driver was loaded anew.
    read(20, vitals(Some(20), Some(0), Some(6_100)), vitals(Some(2), Some(100), Some(3)));
    // The daemon was away: what was computed meanwhile is not known, what was used of energy is.
    read(200, vitals(Some(1), Some(100), Some(9_100)), vitals(None, None, Some(13)));
    let total = of(usage);
    assert_eq!(total.memory_peak, Some(MemoryBytes(32)));
    assert_eq!(total.utilisation_mean, Some(62.5));
    assert_eq!(total.energy_millijoules, Some(1_000 + 500 + 100 + 3_000 + 10));
}

#[test]
fn what_no_driver_tells_stays_unknown() {
    let mut usage = GpuUsage::default();
    let silent = vitals(None, None, None);
    usage.observe(at(0), &ids(&["a", "gone"]), |gpu| (gpu.as_str() == "a").then_some(&silent));
    usage.observe(at(9000), &ids(&["a", "gone"]), |gpu| (gpu.as_str() == "a").then_some(&silent));
    let total = of(usage);
    assert_eq!((total.memory_peak, total.utilisation_mean, total.energy_millijoules), (None, None, None));
}

#[test]
fn gpu_time_is_that_of_every_gpu_of_every_attempt() {
    let attempts = [attempt(&["a", "b"], Some(0), Some(1_500)), attempt(&["a"], Some(2_000), None), attempt(&["a"], None, Some(9_000))];
    assert_eq!(total(&attempts, &BTreeMap::new(), at(3_000)).map(|total| total.gpu_millis), Some(2 * 1_500 + 1_000));
    assert_eq!(total(&[attempt(&[], Some(0), Some(5))], &BTreeMap::new(), at(9)), None, "it had none");
    assert_eq!(gpu_millis(&attempt(&["a"], Some(100), Some(50)), at(0)), 0, "a clock that was set back");
}

proptest! {
    #[test]
    fn nothing_told_makes_nonsense_and_a_restart_changes_nothing(
        readings in prop::collection::vec((-5_000_i64..90_000, prop::option::of(any::<u64>()), prop::option::of(0_u32..300), prop::option::of(any::<u64>())), 0..20),
        restart in 0_usize..20,
    ) {
        let (mut whole, mut torn, mut now) = (GpuUsage::default(), GpuUsage::default(), 0);
        for (number, (passed, memory, percent, energy)) in readings.into_iter().enumerate() {
            now += passed;
            let vitals = vitals(memory, percent, energy);
            whole.observe(at(now), &ids(&["a"]), |_| Some(&vitals));
            if number == restart {
                torn = serde_json::from_str(&serde_json::to_string(&torn).expect("written")).expect("read");
            }
            torn.observe(at(now), &ids(&["a"]), |_| Some(&vitals));
        }
        prop_assert_eq!(&whole, &torn);
        prop_assert!(of(whole).utilisation_mean.is_none_or(|mean| (0.0..=100.0).contains(&mean)));
    }
}
