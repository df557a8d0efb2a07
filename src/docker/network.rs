//! Our own bridge: outwards and to the machine, but not from container to container.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::NetworkCreateRequest;
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Client, encode};
use super::error::DriverError;
use super::facts::NetworkInfo;
use super::labels;
use super::wire::Network;

const CALL: &str = "ensure the network";
const DEADLINE: Duration = Duration::from_secs(30);

/// The network's name and the lock that keeps us from making it twice at once.
#[derive(Debug)]
pub(super) struct OwnNetwork {
    name: String,
    instance: String,
    making: Mutex<()>,
}

impl OwnNetwork {
    pub(super) fn new(instance: &str) -> Self {
        // The end of the id is random; its beginning is a time, which two coordinators may share, and engines start no container on a
        // network whose name another one has too.
        let plain: String = instance.chars().filter(char::is_ascii_alphanumeric).collect();
        let short = plain.get(plain.len().saturating_sub(12)..).unwrap_or(&plain);
        Self { name: format!("rc-{short}"), instance: instance.to_owned(), making: Mutex::new(()) }
    }

    /// Finds the network or makes it. Older engines make a second network of the same name without a word, so after making one we
    /// look again: all racers then settle on the oldest, and the others are removed.
    pub(super) async fn ensure(&self, client: &Client) -> Result<NetworkInfo, DriverError> {
        let _making = self.making.lock().await;
        let mut found = self.find(client).await?;
        if found.is_empty() {
            let request = self.request();
            let made = client.call(CALL, DEADLINE, |c| async move {
                c.docker.create_network(request).await.map_err(|error| DriverError::from_engine(CALL, error))
            });
            let made = made.await;
            found = self.find(client).await?;
            if found.is_empty() {
                let absent = DriverError::Conflict { call: CALL, message: format!("the network {} is gone right after it was made", self.name) };
                return Err(made.err().unwrap_or(absent));
            }
        }
        found.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        let mut found = found.into_iter();
        let first = found.next().and_then(Network::into_info);
        for double in found {
            self.remove_double(client, double.id).await;
        }
        first.ok_or_else(|| DriverError::Garbled { call: CALL, message: format!("the network {} has no gateway", self.name) })
    }

    /// Takes it away, if it is there.
    pub(super) async fn remove(&self, client: &Client) -> Result<(), DriverError> {
        for network in self.find(client).await? {
            let id = network.id;
            let removed = client
                .call(CALL, DEADLINE, |c| async move { c.docker.remove_network(&id).await.map_err(|error| DriverError::from_engine(CALL, error)) });
            removed.await?;
        }
        Ok(())
    }

    /// Networks of this name that are ours; the engine's filter takes a part of a name for the name.
    async fn find(&self, client: &Client) -> Result<Vec<Network>, DriverError> {
        let label = format!("{}={}", labels::INSTANCE, self.instance);
        let filters = json!({ "name": [self.name], "label": [label] }).to_string();
        let all: Vec<Network> = client.read(CALL, DEADLINE, format!("/networks?filters={}", encode(&filters))).await?;
        let ours = |network: &Network| network.labels.as_ref().and_then(|labels| labels.get(labels::INSTANCE)) == Some(&self.instance);
        Ok(all.into_iter().filter(|network| network.name == self.name && ours(network)).collect())
    }

    fn request(&self) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(false),
            attachable: Some(false),
            options: Some(HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())])),
            labels: Some(HashMap::from([(labels::INSTANCE.to_owned(), self.instance.clone())])),
            ..NetworkCreateRequest::default()
        }
    }

    /// A double that still has a container stays until the next time.
    async fn remove_double(&self, client: &Client, id: String) {
        let removed =
            client.call(CALL, DEADLINE, |c| async move { c.docker.remove_network(&id).await.map_err(|error| DriverError::from_engine(CALL, error)) });
        if let Err(error) = removed.await {
            tracing::debug!(network.name = %self.name, %error, "a second network of our name stays for now");
        }
    }
}
