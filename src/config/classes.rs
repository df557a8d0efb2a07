//! Reads `[[classes]]`.

use std::time::Duration;

use super::network;
use super::section::Section;
use super::values::{self, SECOND, duration};
use super::{Class, JobImage, Network, Pull, Shell};
use crate::domain::{
    Arch, ClassName, ComputeCapability, CpuMillis, Emulation, GpuRequest, GpuVendor, HostFile, ImagePattern, ImageRef, MemoryBytes, ModelPattern,
};

/// Most runners of one class on one machine; a bound against nonsense.
const MAX_RUNNERS: i64 = 10_000;
/// Most patterns of images in one class.
const MAX_PATTERNS: usize = 100;
/// What the class is called when none is configured.
const DEFAULT_CLASS: &str = "default";

/// What classes have to agree with.
pub(super) struct Around {
    /// `limits.max_timeout`.
    pub(super) max_timeout: Duration,
    /// Whether a GitLab is configured.
    pub(super) has_gitlab: bool,
}

/// Every class; one `default` when none is given.
pub(super) fn read(whole: &mut Section<'_>, around: &Around) -> Vec<Class> {
    let mut names: Vec<ClassName> = Vec::new();
    let mut classes = whole.each("classes", |section| {
        let class = read_one(section, around);
        if let Some(class) = &class {
            if names.contains(&class.name) {
                section.fault("name", "is the name of another class already");
            }
            names.push(class.name.clone());
        }
        class
    });
    if classes.is_empty() {
        classes.push(Class::named(ClassName::from_trusted(DEFAULT_CLASS)));
    }
    classes
}

fn read_one(section: &mut Section<'_>, around: &Around) -> Option<Class> {
    let name = section.required("name", ClassName::parse);
    // The other keys are read even without a name, so that their faults are told too.
    let base = Class::named(name.clone().unwrap_or_else(|| ClassName::from_trusted(DEFAULT_CLASS)));
    let class = Class {
        image: section.parsed("image", ImageRef::parse),
        tags: tags(section),
        arch: section.parsed("arch", Arch::parse),
        emulation: section.parsed("emulation", Emulation::parse).unwrap_or(base.emulation),
        gpus: gpus(section),
        cpus: section.number("cpus", CpuMillis::parse).unwrap_or(base.cpus),
        memory: section.parsed("memory", MemoryBytes::parse_of_container).unwrap_or(base.memory),
        pids: section.whole_number("pids", 8..=4_194_304).unwrap_or(base.pids),
        timeout: section.parsed("timeout", duration(SECOND..=around.max_timeout)).unwrap_or(base.timeout.min(around.max_timeout)),
        network: section.parsed("network", values::choice(&Network::ALL, Network::as_str)).unwrap_or(base.network),
        network_allow: network::destinations(section),
        runtime: section.parsed("runtime", values::runtime).unwrap_or(base.runtime),
        user: section.parsed("user", values::user).unwrap_or(base.user),
        warm: section.whole_number("warm", 0..=MAX_RUNNERS).unwrap_or(base.warm),
        max_runners: section.whole_number("max_runners", 1..=MAX_RUNNERS),
        priority: section.whole_number("priority", i64::from(i32::MIN)..=i64::from(i32::MAX)).unwrap_or(base.priority),
        gitlab_token: section.secret("gitlab_token"),
        pull: section.parsed("pull", values::choice(&Pull::ALL, Pull::as_str)).unwrap_or(base.pull),
        require_digest: section.flag("require_digest").unwrap_or(base.require_digest),
        tmp_size: section.parsed("tmp_size", MemoryBytes::parse).unwrap_or(base.tmp_size),
        job_image: job_image(section).unwrap_or(base.job_image),
        shell: section.parsed("shell", values::choice(&Shell::ALL, Shell::as_str)).unwrap_or(base.shell),
        name: base.name,
    };
    check(section, &class, around);
    name.map(|_| class)
}

/// Checks what no key can tell by itself.
fn check(section: &Section<'_>, class: &Class, around: &Around) {
    network::check(section, class);
    if let Some(fault) = class.image.as_ref().and_then(|image| class.check_image("image", image).err()) {
        section.fault("image", fault.message);
    }
    let token_key = if section.has("gitlab_token_file") { "gitlab_token_file" } else { "gitlab_token" };
    if section.has(token_key) {
        if !section.has("image") {
            section.fault("image", "must be given, because the class has a gitlab_token: the image that holds gitlab-runner");
        }
        if !around.has_gitlab {
            section.fault(token_key, "needs gitlab.url");
        }
        if class.network == Network::None {
            section.fault("network", "must not be none, because the runners of a class with a gitlab_token talk to the broker");
        }
    } else if class.warm > 0 {
        section.fault("warm", "needs gitlab_token: without one there is no work to wait for");
    }
    if class.max_runners.is_some_and(|most| class.warm > most) {
        section.fault("warm", "must not be more than max_runners");
    }
}

fn tags(section: &mut Section<'_>) -> Vec<String> {
    let tags = section.texts("tags");
    if tags.len() > 50 || tags.iter().any(|tag| tag.trim().is_empty() || tag.len() > 255 || tag.chars().any(char::is_control)) {
        section.fault("tags", "must be at most 50 texts, each 1 to 255 bytes without control characters");
    }
    tags
}

/// Three keys that make one decision.
fn job_image(section: &mut Section<'_>) -> Option<JobImage> {
    let choice = section.parsed("job_image", values::choice(&["deny", "ignore", "allow"], |name| name));
    let images: Vec<Option<ImagePattern>> =
        section.texts("job_images").iter().map(|text| section.note("job_images", ImagePattern::parse("job_images", text))).collect();
    if images.len() > MAX_PATTERNS {
        section.fault("job_images", format!("must be at most {MAX_PATTERNS} patterns"));
    }
    let runner_binary = section.parsed("runner_binary", HostFile::parse);
    if choice == Some("allow") {
        if !section.has("runner_binary") {
            section.fault("runner_binary", "must be given, because job_image is allow: the path of gitlab-runner on the engine's machine");
        }
        return Some(JobImage::Allow { images: images.into_iter().collect::<Option<_>>()?, runner_binary: runner_binary? });
    }
    for key in ["job_images", "runner_binary"] {
        // A choice that could not be read has a fault of its own.
        if section.has(key) && (choice.is_some() || !section.has("job_image")) {
            section.fault(key, "needs job_image = \"allow\"");
        }
    }
    Some(if choice? == "ignore" { JobImage::Ignore } else { JobImage::Deny })
}

fn gpus(section: &mut Section<'_>) -> Option<GpuRequest> {
    let given = section.has("gpus");
    section.within("gpus", |gpus| {
        let count = gpus.whole_number("count", 1..=i64::from(GpuRequest::MAX_COUNT));
        let vendor = gpus.parsed("vendor", GpuVendor::parse);
        let min_memory = gpus.parsed("min_memory", MemoryBytes::parse);
        let model = gpus.parsed("model", ModelPattern::parse);
        let compute_capability = gpus.parsed("compute_capability", ComputeCapability::parse);
        let mig_profile = gpus.parsed("mig_profile", GpuRequest::checked_mig_profile);
        let share = gpus.parsed("memory", MemoryBytes::parse);
        if given && !gpus.has("count") && !gpus.has("memory") {
            gpus.fault("count", "must be given, or memory for a share of one GPU");
        }
        let count = count.or_else(|| share.filter(|_| !gpus.has("count")).map(|_| 1));
        let request = GpuRequest { vendor, min_memory, model, compute_capability, mig_profile, share, ..GpuRequest::any(count.unwrap_or(1)) };
        for (field, message) in request.against_share(None) {
            // Told of the key that changes what the others mean: it may come from elsewhere than they do.
            gpus.fault("memory", format!("makes a share: {field} {message}"));
        }
        for field in request.only_nvidia() {
            gpus.fault(field, "needs vendor = \"nvidia\"");
        }
        count.map(|count| GpuRequest { count, ..request })
    })
}
