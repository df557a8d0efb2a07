//! What a container is to be: the part that differs from job to job. What is the same for all stands in the profile.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;

use crate::domain::{Arch, ClassName, HostId, ImageRef, JobId, RunnerId};

/// Whose container it is: what its labels say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The coordinator, by its store's id.
    pub instance: String,
    /// The machine.
    pub host: HostId,
    /// The runner.
    pub runner: RunnerId,
    /// The runner's class.
    pub class: ClassName,
    /// The job and its attempt; `None` for a runner that was made without one.
    pub job: Option<(JobId, u32)>,
    /// A random text of this creation, which tells it from another with the same name.
    pub nonce: String,
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// As it was asked for.
    pub reference: ImageRef,
    /// The engine's id of it: containers are made from the id, so a tag that moves meanwhile changes nothing.
    pub id: String,
    /// `name@sha256:…` when it came from a registry.
    pub digest: Option<String>,
    /// The architecture that it was built for; `None` for one that we do not schedule for.
    pub arch: Option<Arch>,
    /// Paths of its `VOLUME`s, as it names them.
    pub volumes: Vec<String>,
    /// Names in its environment that could subvert the runtime or the assignment of devices.
    pub forced_env: Vec<String>,
    /// The user that it names, if any; ours wins.
    pub user: Option<String>,
}

/// One container to make. The values of `env` may be secrets: they are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// [`crate::domain::Runner::container_name`].
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// The image.
    pub image: ResolvedImage,
    /// Arguments; empty leaves the image's own, unless an entry point is given.
    pub command: Vec<String>,
    /// The program; `None` leaves the image's own, an empty one removes it.
    pub entrypoint: Option<Vec<String>>,
    /// Environment, already sanitised.
    pub env: BTreeMap<String, String>,
    /// Id of our network, used only when the profile allows one.
    pub network: Option<String>,
    /// Working directory; `None` leaves the image's own.
    pub workdir: Option<String>,
    /// What its class opens beyond the default, in words: it says so in a label.
    pub opened: Vec<String>,
}

impl fmt::Debug for ContainerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerPlan")
            .field("name", &self.name)
            .field("owner", &self.owner)
            .field("image", &self.image)
            .field("env", &self.env.keys())
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// How to log in at a registry of images.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// Host and port, as [`ImageRef::registry`] tells it.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: SecretString,
}
