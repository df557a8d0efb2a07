//! The engine: one container per job, made hardened, watched, and taken away.
//!
//! [`Driver`] is the seam that tests replace; [`DockerDriver`] is the real one. Events only wake; `list` and `inspect` tell what is
//! true; [`judge`] says what an end proves. No call here is tried again here: the caller decides, by [`DriverError::disposition`].

pub mod create_body;
pub mod devices;
pub mod error;
pub mod facts;
pub mod init;
pub mod plan;
pub mod verdict;

mod client;
mod driver;
mod image;
mod labels;
mod logs;
mod memory;
mod metered;
mod network;
mod wire;

#[cfg(test)]
pub(crate) mod fixture;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use driver::DockerDriver;
pub use error::DriverError;
pub use facts::{ContainerFacts, ContainerState, EngineEvent, EngineInfo, ImageRemoval, LogRecord, LogStream, NetworkInfo, Usage};
pub use memory::EngineMemory;
pub use metered::Metered;
pub use plan::{ContainerPlan, Owner, RegistryLogin, ResolvedImage};
pub use verdict::judge;

use crate::domain::{Arch, ClassName, HostFile, ImageRef};
use crate::security::HardenedProfile;

/// A container engine. Every call has its own deadline, so none hangs with an engine that accepts and never answers.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Shows that the engine answers, within two seconds.
    async fn ping(&self) -> Result<(), DriverError>;

    /// What the engine is and can do.
    async fn info(&self) -> Result<EngineInfo, DriverError>;

    /// What the engine remembers of the time before `now`; `None` of one that does not tell.
    async fn memory(&self, now: Timestamp) -> Result<Option<EngineMemory>, DriverError> {
        let _ = now;
        Ok(None)
    }

    /// Whether the engine sees this file at this path: another machine's engine does not, nor one outside of the container that we may be in.
    async fn sees_file(&self, file: &HostFile) -> Result<bool, DriverError>;

    /// The bridge of a class's containers, or the one whose address is the broker's; made when it is missing.
    async fn ensure_network(&self, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError>;

    /// Every bridge of ours.
    async fn networks(&self) -> Result<Vec<NetworkInfo>, DriverError>;

    /// Takes a bridge away on which nothing is. One that is gone is fine.
    async fn remove_network(&self, id: &str) -> Result<(), DriverError>;

    /// An image that the engine already has. `None` when it has not.
    async fn resolve_image(&self, image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError>;

    /// Fetches an image. `progress` gets the engine's own words about how far it is; what does not fit is left out. Gives up
    /// only when nothing has moved for five minutes.
    async fn pull(&self, image: &ImageRef, platform: Option<Arch>, progress: mpsc::Sender<String>) -> Result<ResolvedImage, DriverError>;

    /// The ids of the images that containers are made of: all containers, in any state, whosever they are.
    async fn images_in_use(&self) -> Result<Vec<String>, DriverError>;

    /// Takes away an image by its name, without force: one that the engine needs stays.
    async fn remove_image(&self, image: &ImageRef) -> Result<ImageRemoval, DriverError>;

    /// Makes a container, without starting it, and answers its id. When the name is taken by the same runner's container, as after
    /// a create whose answer was lost, that one's id.
    async fn create(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> Result<String, DriverError>;

    /// Starts a container. One that runs is left as it is; **one that has ended would run its job again**, so start only what was
    /// never started.
    async fn start(&self, container: &str) -> Result<(), DriverError>;

    /// Everything known about a container, by id or name. `None` when there is none.
    async fn inspect(&self, container: &str) -> Result<Option<ContainerFacts>, DriverError>;

    /// All containers of ours, in any state. What only `inspect` tells is `None`.
    async fn list(&self) -> Result<Vec<ContainerFacts>, DriverError>;

    /// Ends a container with TERM, and KILL after `grace`. Fine when it has ended or is gone.
    async fn stop(&self, container: &str, grace: Duration) -> Result<(), DriverError>;

    /// Takes a container away with its anonymous volumes, whatever its state. Fine when it is gone or going.
    async fn remove(&self, container: &str) -> Result<(), DriverError>;

    /// What a running container uses now. `None` when it does not run.
    async fn usage(&self, container: &str) -> Result<Option<Usage>, DriverError>;

    /// The container's output from the second `since_seconds` (Unix time) on, until it ends. Open it after the start: before, the
    /// engine ends it at once. To resume, ask from the second of the last record and leave out what is not newer. Resume so once after the end was seen:
    /// engine 20.10 sometimes ends the stream before it has sent the last piece.
    fn logs(&self, container: &str, since_seconds: i64) -> BoxStream<'static, Result<LogRecord, DriverError>>;

    /// What happens to our containers, as a wake-up: an engine that died sends nothing, and one that hangs stays silent.
    fn events(&self) -> BoxStream<'static, Result<EngineEvent, DriverError>>;
}
