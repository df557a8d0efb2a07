//! Which environment variables a job may set.
//!
//! Refused is what would change the devices that a job was given, what the engine or this daemon tells a container, or what runs before
//! the job's own command does. `docs/configuration.md` justifies each name; a test holds the two together.

use std::collections::BTreeMap;

use crate::domain::FieldFault;

/// Names that are refused by how they begin.
pub(super) const REFUSED_PREFIXES: [&str; 5] = ["LD_", "NVIDIA_", "CUDA_MPS_", "DOCKER_", "RUNNER_COORDINATOR_"];
/// Names that are refused by how they end.
pub(super) const REFUSED_SUFFIXES: [&str; 1] = ["_VISIBLE_DEVICES"];
/// Names that are refused whole.
pub(super) const REFUSED_NAMES: [&str; 6] =
    ["BASH_ENV", "CUDA_DEVICE_ORDER", "GCONV_PATH", "GLIBC_TUNABLES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"];
/// Longest name with its value, in bytes: Linux takes 128 KiB for one string with `=` and a zero byte (`MAX_ARG_STRLEN`).
const MAX_VARIABLE_BYTES: usize = 128 * 1024 - 2;

/// How much environment a job may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnvLimits {
    /// Most variables.
    pub(super) variables: usize,
    /// Most bytes of names and values together, two more counted for each variable.
    pub(super) bytes: u64,
}

/// The environment if all of it may be set.
pub(super) fn sanitise(field: &str, env: BTreeMap<String, String>, limits: EnvLimits) -> Result<BTreeMap<String, String>, Vec<FieldFault>> {
    if env.len() > limits.variables {
        return Err(vec![FieldFault::new(field, format!("must not have more than {} variables", limits.variables))]);
    }
    let mut faults: Vec<_> = env.iter().filter_map(|(name, value)| fault_of(field, name, value)).collect();
    let bytes = env.iter().map(|(name, value)| (name.len() + value.len() + 2) as u64).sum::<u64>();
    if bytes > limits.bytes {
        faults.push(FieldFault::new(field, format!("must not be more than {} bytes together", limits.bytes)));
    }
    if faults.is_empty() { Ok(env) } else { Err(faults) }
}

fn fault_of(field: &str, name: &str, value: &str) -> Option<FieldFault> {
    let message = if !is_portable(name) {
        "has a name that is not letters, digits and '_', beginning with no digit"
    } else if is_refused(name) {
        "must not be set by a job, because it could change its devices or what runs before its command"
    } else if value.contains('\0') {
        "must not contain a zero byte"
    } else if name.len() + value.len() > MAX_VARIABLE_BYTES {
        "is longer than Linux takes for one variable"
    } else {
        return None;
    };
    let shown: String = name.chars().take(64).collect();
    Some(FieldFault::new(format!("{field}.{}", shown.escape_debug()), message))
}

fn is_portable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a name could subvert the runtime, the assignment of devices or what the daemon tells a container: jobs may not set it, and what
/// an image says for it is overruled.
#[must_use]
pub fn is_refused(name: &str) -> bool {
    REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || REFUSED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        || REFUSED_NAMES.contains(&name)
}
