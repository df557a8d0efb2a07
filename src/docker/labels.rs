//! The labels on our containers: the facts from which ownership is rebuilt after any crash.

use std::collections::HashMap;

use super::plan::{ContainerPlan, Owner};
use crate::domain::{ClassName, GpuId, HostId, JobId, RunnerId};
use crate::security::HardenedProfile;

/// Which coordinator's; also on our network.
pub(super) const INSTANCE: &str = "runner-coordinator.instance";
/// Which runner's.
pub(super) const RUNNER: &str = "runner-coordinator.runner";
const HOST: &str = "runner-coordinator.host";
/// Which class's; also on its network.
pub(super) const CLASS: &str = "runner-coordinator.class";
const JOB: &str = "runner-coordinator.job";
const ATTEMPT: &str = "runner-coordinator.attempt";
const DEVICES: &str = "runner-coordinator.devices";
/// What its class opened beyond the default when it was made.
const OPENED: &str = "runner-coordinator.opened";
const NONCE: &str = "runner-coordinator.nonce";

/// The labels of a container to make. Its devices are written there from what it is really given, so that the two cannot differ.
pub(super) fn of_plan(plan: &ContainerPlan, profile: &HardenedProfile) -> HashMap<String, String> {
    let owner = &plan.owner;
    let devices = profile.devices().gpus().into_iter().map(GpuId::as_str).collect::<Vec<_>>().join(",");
    let mut labels = HashMap::from([
        (INSTANCE.to_owned(), owner.instance.clone()),
        (HOST.to_owned(), owner.host.to_string()),
        (RUNNER.to_owned(), owner.runner.to_string()),
        (CLASS.to_owned(), owner.class.to_string()),
        (DEVICES.to_owned(), devices),
        (NONCE.to_owned(), owner.nonce.clone()),
        (OPENED.to_owned(), opened(plan)),
    ]);
    if let Some((job, attempt)) = &owner.job {
        labels.insert(JOB.to_owned(), job.to_string());
        labels.insert(ATTEMPT.to_owned(), attempt.to_string());
    }
    labels
}

/// Whether a container was made with just what its plan opens. One without the label, of an earlier version, may have been made with anything.
pub(super) fn opens_as_planned(labels: &HashMap<String, String>, plan: &ContainerPlan) -> bool {
    labels.get(OPENED).is_some_and(|made| *made == opened(plan))
}

fn opened(plan: &ContainerPlan) -> String {
    plan.opened.join("; ")
}

/// Whose container it is; `None` unless the labels say so in full.
pub(super) fn owner(labels: &HashMap<String, String>) -> Option<Owner> {
    let job = match (labels.get(JOB), labels.get(ATTEMPT)) {
        (Some(job), Some(attempt)) => Some((JobId::from_trusted(job.as_str()), attempt.parse().ok()?)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return None,
    };
    Some(Owner {
        instance: labels.get(INSTANCE)?.clone(),
        host: HostId::from_trusted(labels.get(HOST)?.as_str()),
        runner: RunnerId::from_trusted(labels.get(RUNNER)?.as_str()),
        class: ClassName::from_trusted(labels.get(CLASS)?.as_str()),
        job,
        nonce: labels.get(NONCE)?.clone(),
    })
}

/// The GPUs that a container holds.
pub(super) fn devices(labels: &HashMap<String, String>) -> Vec<GpuId> {
    let text = labels.get(DEVICES).map_or("", String::as_str);
    text.split(',').filter(|id| !id.is_empty()).map(GpuId::from_trusted).collect()
}
