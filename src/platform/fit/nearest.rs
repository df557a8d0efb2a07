//! Where GPUs are missing: what the machine has that comes nearest, in words.

use std::collections::BTreeSet;

use super::Ledger;
use crate::domain::{ComputeCapability, Gpu, GpuHealth, GpuRequest, Sharing};

impl Ledger<'_> {
    /// Why there are too few of the kind: what comes nearest.
    pub(super) fn nearest(&self, request: &GpuRequest) -> String {
        if request.share.is_some() {
            return self.nearest_share(request);
        }
        let same_vendor = || self.gpus_for_jobs().filter(|gpu| request.vendor.is_none_or(|vendor| gpu.vendor == vendor));
        let vendor = request.vendor.map_or(String::new(), |vendor| format!("{vendor} "));
        if self.gpus_for_jobs().next().is_none() {
            return "this machine has no GPU for jobs".to_owned();
        }
        if same_vendor().next().is_none() {
            return format!("this machine has no {vendor}GPU, only {}", self.vendors());
        }
        if let Some(model) = &request.model
            && !same_vendor().any(|gpu| gpu.model.known().is_some_and(|name| model.matches(name)))
        {
            let names: BTreeSet<&str> = same_vendor().filter_map(|gpu| gpu.model.known().map(String::as_str)).collect();
            return format!("none here is called {:?}, only {}", model.as_str(), names.into_iter().collect::<Vec<_>>().join(", "));
        }
        if let (Some(wanted), Some(largest)) = (request.min_memory, same_vendor().filter_map(|gpu| gpu.memory.known().copied()).max())
            && largest < wanted
        {
            return format!("the largest {vendor}GPU here has {largest}, asked for {wanted}");
        }
        if let (Some(wanted), Some(best)) = (request.compute_capability, same_vendor().filter_map(ComputeCapability::of).max())
            && best < wanted
        {
            return format!("the best compute capability here is {best}, asked for {wanted}");
        }
        match &request.mig_profile {
            Some(profile) if same_vendor().all(|gpu| gpu.mig_profile().is_none()) => format!("none here is divided into {profile}"),
            Some(_) | None => String::new(),
        }
    }

    /// What comes nearest to a share: what is left of a card on which it would fit, else the largest card that is open.
    fn nearest_share(&self, request: &GpuRequest) -> String {
        let usable = |gpu: &&&Gpu| gpu.health == GpuHealth::Healthy && !self.taken.contains(&gpu.id);
        let of_kind: Vec<&Gpu> = request.vendors().into_iter().flat_map(|vendor| self.of_kind(vendor, request)).collect();
        if !of_kind.is_empty() {
            let left = of_kind.iter().filter(usable).map(|gpu| self.shares.left(gpu)).max();
            return left.map_or(String::new(), |left| format!("{left} is the most that is free"));
        }
        let open = self.gpus_for_jobs().filter(|gpu| gpu.sharing == Sharing::Open && request.vendor.is_none_or(|vendor| gpu.vendor == vendor));
        match open.filter_map(|gpu| gpu.memory.known().copied()).max() {
            Some(largest) if request.share.is_some_and(|share| largest < share) => format!("the largest here that is open for sharing has {largest}"),
            Some(_) => "none here that is open for sharing is such a one".to_owned(),
            None => "none here is open for sharing".to_owned(),
        }
    }

    fn vendors(&self) -> String {
        let names: BTreeSet<&str> = self.gpus_for_jobs().map(|gpu| gpu.vendor.as_str()).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    fn gpus_for_jobs(&self) -> impl Iterator<Item = &Gpu> {
        self.facts.gpus.iter().filter(|gpu| gpu.is_for_jobs())
    }
}
