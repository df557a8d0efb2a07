//! What is remembered of GPUs.

use super::*;

fn record(gpu: &str, failures: u32, reason: Option<&str>) -> GpuRecord {
    let quarantine = |reason: &str| Quarantine { reason: reason.to_owned(), since: t(1), by: QuarantinedBy::Operator, next_check: None };
    GpuRecord {
        gpu: GpuId::from_trusted(gpu),
        usage: GpuUse::Checking,
        baseline: Baseline { memory_used: Some(MemoryBytes(u64::MAX)), uncorrected_errors: None, processes: [7].into() },
        failures,
        quarantine: reason.map(quarantine),
    }
}

pub(in crate::store) async fn gpus_are_remembered_by_host_until_forgotten(store: &dyn Store) {
    let (box1, box2) = (HostId::from_trusted("box1"), HostId::from_trusted("box2"));
    let all = async |host| store.gpu_records(host).await.expect("records");
    assert_eq!(all(&box1).await, []);
    let (a, b) = (record("a", 0, Some("smells of \"smoke\"; DROP TABLE")), record("b", 1, None));
    store.write_gpu_records(&box1, &[b.clone(), a.clone()], &[]).await.expect("written");
    store.write_gpu_records(&box2, &[record("a", 9, None)], &[]).await.expect("written");
    assert_eq!(all(&box1).await, [a.clone(), b]);
    let now = record("a", 2, None);
    store.write_gpu_records(&box1, std::slice::from_ref(&now), &[GpuId::from_trusted("b"), GpuId::from_trusted("c")]).await.expect("written");
    assert_eq!(all(&box1).await, [now]);
    assert_eq!(all(&box2).await, [record("a", 9, None)]);
}
