//! The real engine behind the seam.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use super::client::{Client, encode};
use super::create_body::{create_body, file_seen};
use super::error::DriverError;
use super::facts::{ContainerFacts, EngineEvent, EngineInfo, ImageRemoval, LogRecord, NetworkInfo, Usage};
use super::memory::EngineMemory;
use super::network::{self, OwnNetworks};
use super::plan::{ContainerPlan, RegistryLogin, ResolvedImage};
use super::wire::{Info, InspectedContainer, ListedContainer, MadeOf, Stats};
use super::{Driver, error, image, labels, logs};
use crate::domain::{Arch, ClassName, HostFile, ImageRef, RunnerId};
use crate::security::HardenedProfile;

const PING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_secs(10);
const CREATE: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(60);
const REMOVE: Duration = Duration::from_secs(60);
/// How much longer than its grace a stop may take.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// How often and at what distance a container is looked for whose name is taken.
const APPEARANCE_LOOKS: u32 = 50;
const APPEARANCE_STEP: Duration = Duration::from_millis(100);
/// The events that can mean a change of what `list` tells.
const EVENTS: [&str; 7] = ["create", "start", "die", "oom", "destroy", "pause", "unpause"];

/// Tells the registries' logins.
struct Logins(Box<dyn Fn() -> Vec<RegistryLogin> + Send + Sync>);

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logins")
    }
}

/// A Docker engine.
#[derive(Debug)]
pub struct DockerDriver {
    client: Arc<Client>,
    instance: String,
    logins: Logins,
    networks: OwnNetworks,
}

impl DockerDriver {
    /// For the engine at `host` (`unix:///path`, `tcp://host:port` or `http://host:port`), on behalf of the coordinator `instance`.
    /// Connects only when needed, so the engine may come later.
    ///
    /// # Errors
    /// When the address is not one that can be used.
    pub fn new(host: &str, instance: String, logins: Vec<RegistryLogin>) -> Result<Self, DriverError> {
        let networks = OwnNetworks::new(&instance);
        Ok(Self { client: Arc::new(Client::new(host)?), instance, logins: Logins(Box::new(move || logins.clone())), networks })
    }

    /// Waits for no call but pulls and streams longer than this, whatever its own deadline is: for tests of what follows.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn hurried(host: &str, instance: String, most: Duration) -> Result<Self, DriverError> {
        let driver = Self::new(host, instance, Vec::new())?;
        Ok(Self { client: Arc::new(Client::new(host)?.at_most(most)), ..driver })
    }

    /// Asks for the registries' logins at every pull, because they may change.
    #[must_use]
    pub fn logging_in_by(self, logins: impl Fn() -> Vec<RegistryLogin> + Send + Sync + 'static) -> Self {
        Self { logins: Logins(Box::new(logins)), ..self }
    }

    /// The filter for what is ours.
    fn own_label(&self) -> String {
        format!("{}={}", labels::INSTANCE, self.instance)
    }

    /// The name is taken: by the same runner's container, whose create answered too late, or by somebody else's. An engine takes the
    /// name before it shows the container, so one that is not there yet is waited for.
    async fn adopt(&self, plan: &ContainerPlan, message: String) -> Result<String, DriverError> {
        let ours =
            |facts: &ContainerFacts| facts.owner.as_ref().is_some_and(|owner| owner.instance == self.instance && owner.runner == plan.owner.runner);
        for _ in 0..APPEARANCE_LOOKS {
            match self.inspect(&plan.name).await? {
                Some(facts) if ours(&facts) => return self.as_planned(plan, facts.id).await,
                Some(_) => break,
                None => tokio::time::sleep(APPEARANCE_STEP).await,
            }
        }
        Err(DriverError::Conflict { call: "create", message })
    }

    /// One that an earlier try made, unless its tag has moved since or its class opens something else now: then it goes, for it never ran, and the next
    /// try makes another.
    async fn as_planned(&self, plan: &ContainerPlan, container: String) -> Result<String, DriverError> {
        let mut made: MadeOf = self.client.read("inspect", LOOK, format!("/containers/{container}/json")).await?;
        let opens_as_planned = labels::opens_as_planned(&made.take_labels(), plan);
        if made.image == plan.image.id && opens_as_planned {
            return Ok(container);
        }
        self.remove(&container).await?;
        let other = if opens_as_planned {
            format!("{} was made of {}, and its image is {} now", plan.name, made.image, plan.image.id)
        } else {
            format!("{} was made before its class {} was changed", plan.name, plan.owner.class)
        };
        Err(DriverError::Interrupted { call: "create", source: other.into() })
    }
}

#[async_trait]
impl Driver for DockerDriver {
    async fn ping(&self) -> Result<(), DriverError> {
        let ping = |c: super::client::Connection| async move { c.docker.ping().await.map_err(|error| DriverError::from_engine("ping", error)) };
        self.client.call("ping", PING, ping).await.map(|_ok| ())
    }

    async fn info(&self) -> Result<EngineInfo, DriverError> {
        let info: Info = self.client.read("info", LOOK, "/info".to_owned()).await?;
        Ok(info.into_info(self.client.connect("info").await?.api))
    }

    async fn memory(&self, now: Timestamp) -> Result<Option<EngineMemory>, DriverError> {
        // Without a beginning the engine tells nothing of what was; with an end it does not wait for what comes.
        let until = format!("{}.{:09}", now.as_second(), now.subsec_nanosecond());
        let options = EventsOptionsBuilder::new().since("1").until(&until).build();
        let remember = |c: super::client::Connection| async move {
            let events = c.docker.events(Some(options)).map_err(|error| DriverError::from_engine("memory", error));
            events
                .try_fold(EngineMemory::default(), |mut memory, event| async {
                    memory.add(event);
                    Ok(memory)
                })
                .await
        };
        self.client.call("memory", LOOK, remember).await.map(Some)
    }

    async fn sees_file(&self, file: &HostFile) -> Result<bool, DriverError> {
        // An engine looks at the files before it looks for the image, and this image nobody has: nothing is made either way.
        let body = file_seen(file);
        let create = self.client.call("create", CREATE, |c| async move {
            let options = None::<bollard::query_parameters::CreateContainerOptions>;
            c.docker.create_container(options, body).await.map_err(|error| DriverError::from_engine("create", error))
        });
        match create.await {
            Err(DriverError::NotFound { .. }) => Ok(true),
            Err(DriverError::Refused { status: 400, message, .. }) if message.contains("bind") => Ok(false),
            Err(error) => Err(error),
            Ok(made) => self.remove(&made.id).await.map(|()| true),
        }
    }

    async fn ensure_network(&self, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError> {
        self.networks.ensure(&self.client, class).await
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>, DriverError> {
        self.networks.all(&self.client).await
    }

    async fn remove_network(&self, id: &str) -> Result<(), DriverError> {
        network::remove(&self.client, id.to_owned()).await
    }

    async fn resolve_image(&self, image: &ImageRef) -> Result<Option<ResolvedImage>, DriverError> {
        image::resolve(&self.client, image).await
    }

    async fn pull(&self, image: &ImageRef, platform: Option<Arch>, progress: mpsc::Sender<String>) -> Result<ResolvedImage, DriverError> {
        image::pull(&self.client, &(self.logins.0)(), image, platform, progress).await
    }

    async fn images_in_use(&self) -> Result<Vec<String>, DriverError> {
        image::in_use(&self.client).await
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<ImageRemoval, DriverError> {
        image::remove(&self.client, image).await
    }

    async fn create(&self, plan: &ContainerPlan, profile: &HardenedProfile) -> Result<String, DriverError> {
        let options = CreateContainerOptionsBuilder::new().name(&plan.name).build();
        let body = create_body(plan, profile);
        let create = self.client.call("create", CREATE, |c| async move {
            c.docker.create_container(Some(options), body).await.map_err(|error| DriverError::from_engine("create", error))
        });
        match create.await {
            Ok(created) => {
                for warning in created.warnings {
                    tracing::warn!(container.name = %plan.name, runner.id = %plan.owner.runner, "the engine made {} with a warning: {warning}", plan.name);
                }
                Ok(created.id)
            }
            Err(DriverError::Conflict { message, .. }) => self.adopt(plan, message).await,
            Err(error) => Err(error),
        }
    }

    async fn start(&self, container: &str) -> Result<(), DriverError> {
        let start = |c: super::client::Connection| async move {
            c.docker.start_container(container, None::<StartContainerOptions>).await.map_err(|error| DriverError::from_engine(error::START, error))
        };
        self.client.call(error::START, START, start).await
    }

    async fn inspect(&self, container: &str) -> Result<Option<ContainerFacts>, DriverError> {
        let path = format!("/containers/{}/json", encode(container));
        found(self.client.read::<InspectedContainer>("inspect", LOOK, path).await).map(|found| found.map(InspectedContainer::into_facts))
    }

    async fn list(&self) -> Result<Vec<ContainerFacts>, DriverError> {
        let filters = json!({ "label": [self.own_label()] }).to_string();
        let path = format!("/containers/json?all=true&filters={}", encode(&filters));
        let rows: Vec<ListedContainer> = self.client.read("list", LOOK, path).await?;
        Ok(rows.into_iter().map(ListedContainer::into_facts).collect())
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), DriverError> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let stop = |c: super::client::Connection| async move {
            c.docker.stop_container(container, Some(options)).await.map_err(|error| DriverError::from_engine("stop", error))
        };
        found(self.client.call("stop", grace.saturating_add(STOP_MARGIN), stop).await).map(|_stopped| ())
    }

    async fn remove(&self, container: &str) -> Result<(), DriverError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let remove = |c: super::client::Connection| async move {
            c.docker.remove_container(container, Some(options)).await.map_err(|error| DriverError::from_engine("remove", error))
        };
        match found(self.client.call("remove", REMOVE, remove).await) {
            Ok(_) => Ok(()),
            Err(DriverError::Conflict { message, .. }) if message.contains("already in progress") => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn usage(&self, container: &str) -> Result<Option<Usage>, DriverError> {
        let path = format!("/containers/{}/stats?stream=false&one-shot=true", encode(container));
        found(self.client.read::<Stats>("usage", LOOK, path).await).map(|found| found.and_then(Stats::into_usage))
    }

    fn logs(&self, container: &str, since_seconds: i64) -> BoxStream<'static, Result<LogRecord, DriverError>> {
        let since = i32::try_from(since_seconds.max(0)).unwrap_or(i32::MAX);
        let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true).since(since).build();
        let (client, container) = (Arc::clone(&self.client), container.to_owned());
        let opened = async move {
            let connection = client.connect("logs").await?;
            let records = connection.docker.logs(&container, Some(options));
            Ok(records.map(move |output| client.forget_after(output.map_err(|error| DriverError::from_engine("logs", error)).and_then(logs::record))))
        };
        stream::once(opened).try_flatten().boxed()
    }

    fn events(&self) -> BoxStream<'static, Result<EngineEvent, DriverError>> {
        let filters: HashMap<String, Vec<String>> = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![self.own_label()]),
            ("event".to_owned(), EVENTS.map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let client = Arc::clone(&self.client);
        let opened = async move {
            let connection = client.connect("events").await?;
            let events = connection.docker.events(Some(options));
            Ok(events.map(move |message| {
                let event = message.map(event).map_err(|error| DriverError::from_engine("events", error));
                client.forget_after(event)
            }))
        };
        stream::once(opened).try_flatten().boxed()
    }
}

/// What does not exist is an answer, not a failure.
fn found<T>(result: Result<T, DriverError>) -> Result<Option<T>, DriverError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(DriverError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn event(message: bollard::models::EventMessage) -> EngineEvent {
    let actor = message.actor.unwrap_or_default();
    let runner = actor.attributes.unwrap_or_default().remove(labels::RUNNER).map(RunnerId::from_trusted);
    EngineEvent { container: actor.id.unwrap_or_default(), action: message.action.unwrap_or_default(), runner }
}
