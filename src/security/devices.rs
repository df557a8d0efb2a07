//! The devices of a container, as a part of its profile: a device is a hole in the wall, so whoever makes the walls decides on it.
//!
//! A grant says by name what is given and nothing else: no "all", no number that means another card tomorrow, no directory. What is
//! checked here cannot be loosened later, because the create body is made of the profile.

use std::collections::BTreeSet;

use crate::domain::{FieldFault, GpuId, GpuRequest};

/// By which of the engine's ways an NVIDIA card reaches a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NvidiaWay {
    /// A device request to the driver `nvidia`: the engine calls the hook of NVIDIA's container toolkit.
    DeviceRequest,
    /// A device request to the driver `cdi`: the engine itself reads what NVIDIA's toolkit wrote about the card.
    Cdi,
}

/// A file below `/dev` that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedNode {
    /// Where it is on the machine.
    pub host_path: String,
    /// Where it is in the container; the end of `host_path`.
    pub path: String,
    /// The group that owns it, which the container's user joins; by number, because the image's names mean other numbers.
    pub group: u32,
}

/// A GPU that is given as files below `/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedGpu {
    /// Which.
    pub gpu: GpuId,
    /// Its files. AMD's cards share `/dev/kfd`; the kernel shows through it only cards whose own file was given.
    pub nodes: Vec<GrantedNode>,
}

/// What a container is given of the machine's GPUs: all of one vendor, in the order of the placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceGrant {
    /// Nothing.
    None,
    /// NVIDIA cards or MIG instances, by UUID.
    Nvidia {
        /// How.
        way: NvidiaWay,
        /// Which.
        gpus: Vec<GpuId>,
    },
    /// AMD's or Intel's cards.
    Nodes(Vec<GrantedGpu>),
}

impl DeviceGrant {
    /// The GPUs, in the order in which they were placed.
    #[must_use]
    pub fn gpus(&self) -> Vec<&GpuId> {
        match self {
            Self::None => Vec::new(),
            Self::Nvidia { gpus, .. } => gpus.iter().collect(),
            Self::Nodes(gpus) => gpus.iter().map(|granted| &granted.gpu).collect(),
        }
    }

    /// Checks that the grant names what it gives, each GPU once.
    pub(super) fn check(&self) -> Result<(), FieldFault> {
        let fault = |message: String| Err(FieldFault::new("devices", message));
        let gpus = self.gpus();
        if !matches!(self, Self::None) && !(1..=GpuRequest::MAX_COUNT as usize).contains(&gpus.len()) {
            return fault(format!("must be 1 to {} GPUs", GpuRequest::MAX_COUNT));
        }
        if gpus.iter().copied().collect::<BTreeSet<_>>().len() != gpus.len() {
            return fault("must not name a GPU twice".to_owned());
        }
        match self {
            Self::None => Ok(()),
            Self::Nvidia { gpus, .. } => match gpus.iter().find(|gpu| !is_uuid(gpu.as_str())) {
                Some(gpu) => fault(format!("{:?} is not the UUID of an NVIDIA card or MIG instance", gpu.as_str())),
                None => Ok(()),
            },
            Self::Nodes(gpus) => gpus.iter().try_for_each(check_nodes),
        }
    }
}

fn check_nodes(granted: &GrantedGpu) -> Result<(), FieldFault> {
    let GrantedGpu { gpu, nodes } = granted;
    let fault = |message: String| Err(FieldFault::new("devices", message));
    if !is_label_text(gpu.as_str()) {
        return fault(format!("{:?} cannot be the name of a GPU", gpu.as_str()));
    }
    if !nodes.iter().any(|node| is_render_node(&node.path)) {
        return fault(format!("{gpu} has no render node"));
    }
    for GrantedNode { host_path, path, group } in nodes {
        if path != KFD && !is_render_node(path) {
            return fault(format!("{path:?} of {gpu} is not a file that may be given: only {KFD} and {RENDER_NODE}<number> are"));
        }
        if !is_plain_path(host_path) || !host_path.ends_with(path.as_str()) {
            return fault(format!("{host_path:?} of {gpu} is not a plain path that ends with {path}"));
        }
        if *group == 0 {
            return fault(format!("{host_path} of {gpu} belongs to the group root, which no job may join; give it to the group render"));
        }
    }
    Ok(())
}

/// AMD's file for computing.
const KFD: &str = "/dev/kfd";
/// How the files of single cards begin; `card<number>` beside them can also set the screen and is never given.
const RENDER_NODE: &str = "/dev/dri/renderD";

fn is_render_node(path: &str) -> bool {
    let number = path.strip_prefix(RENDER_NODE).unwrap_or_default();
    (1..=6).contains(&number.len()) && number.bytes().all(|digit| digit.is_ascii_digit())
}

/// `GPU-…` or `MIG-…`, older instances with slashes. Not `all`, a number, or several.
fn is_uuid(text: &str) -> bool {
    let rest = text.strip_prefix("GPU-").or_else(|| text.strip_prefix("MIG-")).unwrap_or_default();
    !rest.is_empty() && text.len() <= MAX_ID && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/'))
}

/// Longest name of a GPU.
const MAX_ID: usize = 96;

/// What the label can hold between its commas.
fn is_label_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b'_'))
}

/// Nothing that the engine could read as two paths or as another one.
fn is_plain_path(path: &str) -> bool {
    let part_ok = |part: &str| !matches!(part, "" | "." | "..") && !part.contains([',', ':']) && !part.chars().any(char::is_control);
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part_ok))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nvidia(ids: &[&str]) -> DeviceGrant {
        DeviceGrant::Nvidia { way: NvidiaWay::DeviceRequest, gpus: ids.iter().map(|id| GpuId::from_trusted(*id)).collect() }
    }

    fn node(host_path: &str, path: &str, group: u32) -> DeviceGrant {
        let nodes = vec![GrantedNode { host_path: host_path.to_owned(), path: path.to_owned(), group }];
        DeviceGrant::Nodes(vec![GrantedGpu { gpu: GpuId::from_trusted("intel-0000:03:00.0"), nodes }])
    }

    #[test]
    fn names_are_taken() {
        let good = [
            DeviceGrant::None,
            nvidia(&["GPU-9fb1a3c2-0000-1111-2222-333344445555", "MIG-9fb1a3c2-0000-1111-2222-333344445555", "MIG-GPU-9fb1/1/0"]),
            node("/dev/dri/renderD128", "/dev/dri/renderD128", 105),
            node("/srv/x/dev/dri/renderD129", "/dev/dri/renderD129", 44),
        ];
        for grant in good {
            assert_eq!(grant.check(), Ok(()), "{grant:?}");
        }
    }

    #[test]
    fn what_would_give_more_than_it_says_is_refused() {
        let twice = ["GPU-1", "GPU-1"];
        let many: Vec<String> = (0..65).map(|n| format!("GPU-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut bad: Vec<DeviceGrant> =
            ["all", "0", "", "void", "none", "GPU-", "GPU-1,GPU-2", "GPU-1 ", "gpu-1", "nvidia.com/gpu=all"].map(|id| nvidia(&[id])).to_vec();
        bad.extend([nvidia(&[]), nvidia(&twice), nvidia(&many), DeviceGrant::Nodes(Vec::new()), node("/dev/kfd", "/dev/kfd", 105)]);
        let render = "/dev/dri/renderD128";
        bad.extend(
            ["/dev/dri", "/dev/dri/card0", "/dev/sda", "/dev/dri/renderD", "/dev/dri/renderD1/x", "/dev/dri/renderD-1"]
                .map(|path| node(path, path, 105)),
        );
        let host = [
            "/dev/dri/renderD129",
            "/dev/sda",
            "dev/dri/renderD128",
            "/x/../dev/dri/renderD128",
            "/a:b/dev/dri/renderD128",
            "/a//dev/dri/renderD128",
        ];
        bad.extend(host.map(|host| node(host, render, 105)));
        bad.push(node(render, render, 0));
        for grant in bad {
            assert_eq!(grant.check().map_err(|fault| fault.field), Err("devices".to_owned()), "{grant:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_one_card_by_name(id in "(GPU-|MIG-|gpu|all|)[ -~]{0,6}", path in "/(dev|x)/(dri/renderD|dri/card|kfd|sd)[0-9a-z/.]{0,3}") {
            if nvidia(&[&id]).check().is_ok() {
                prop_assert!(!id.contains(',') && (id.starts_with("GPU-") || id.starts_with("MIG-")));
            }
            if node(&path, &path, 1).check().is_ok() {
                prop_assert!(path.strip_prefix("/dev/dri/renderD").is_some_and(|number| number.parse::<u32>().is_ok()));
            }
        }
    }
}
