//! The environment of a job: lines of `NAME=VALUE`, zero bytes and all.
//!
//! What must hold: what is let through is what was asked for, and holds no name that could change a job's devices or what runs before its
//! command.

use std::collections::BTreeMap;

use runner_coordinator::config::{Config, Limits};
use runner_coordinator::security::{SecurityManager, is_refused};

thread_local! {
    static LIMITS: Limits = Config::load(Some(std::path::Path::new("/dev/null")), std::iter::empty()).expect("the defaults serve").limits;
}

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let env: BTreeMap<String, String> = text.split('\n').filter_map(|line| line.split_once('=')).map(super::owned).collect();
    let asked = env.clone();
    LIMITS.with(|limits| match SecurityManager::sanitise_env("env", env, limits) {
        Ok(let_through) => {
            assert_eq!(let_through, asked);
            check(&let_through);
            assert!(let_through.len() as u64 <= u64::from(limits.env_vars));
        }
        Err(faults) => assert!(!faults.is_empty(), "refused without a reason"),
    });
}

/// What holds of every environment that was let through, by whichever way it came.
pub(crate) fn check(env: &BTreeMap<String, String>) {
    for (name, value) in env {
        let well_made = |(at, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || at > 0 && c.is_ascii_digit();
        assert!(!name.is_empty() && name.char_indices().all(well_made), "{name:?}");
        assert!(!value.contains('\0'), "{name}");
        assert!(!is_refused(name), "{name}");
        // The list once more, as it stands in docs/configuration.md, so that one that is shortened by mistake is noticed.
        let begins = ["LD_", "NVIDIA_", "CUDA_MPS_", "DOCKER_", "RUNNER_COORDINATOR_"].iter().any(|start| name.starts_with(start));
        let whole = ["BASH_ENV", "CUDA_DEVICE_ORDER", "GCONV_PATH", "GLIBC_TUNABLES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"];
        assert!(!begins && !name.ends_with("_VISIBLE_DEVICES") && !whole.contains(&name.as_str()), "{name}");
    }
}
