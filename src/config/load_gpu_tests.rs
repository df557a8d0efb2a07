//! What a class may ask for of GPUs.

use super::*;

#[test]
fn what_a_class_asks_for_of_gpus_agrees_with_itself() {
    let class = |rest: &str| format!("[[classes]]\nname = \"a\"\n{rest}");
    let of = |rest: &str| faulty(&class(rest), &[]);
    let one = |key: &str| set(&[&format!("c.toml classes[0].{key}")]);
    assert_eq!(of("gpus = { count = 1, mig_profile = \"1g.10gb\" }"), one("gpus.mig_profile"));
    assert_eq!(of("gpus = {}"), one("gpus.count"));
    assert_eq!(of("gpus = { count = 65 }"), one("gpus.count"));
    assert_eq!(of("gpus = { count = 2, memory = \"8GiB\", min_memory = \"1GiB\" }"), one("gpus.memory"));
    assert_eq!(of("gpus = { memory = \"0B\" }"), one("gpus.memory"));
    let share = good(&class("gpus = { memory = \"8GiB\" }"), &[]).classes[0].gpus.clone();
    assert_eq!(share.map(|gpus| (gpus.count, gpus.share)), Some((1, Some(MemoryBytes(8 << 30)))));
}
