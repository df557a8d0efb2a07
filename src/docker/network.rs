//! Our own bridges: one for each class, outwards only, and one whose address is the broker's. What may pass is the firewall's to say.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Client, encode};
use super::error::DriverError;
use super::facts::NetworkInfo;
use super::labels;
use super::wire::Network;
use crate::domain::ClassName;
use crate::domain::ids::short_instance;

const CALL: &str = "ensure the network";
const LIST: &str = "list our networks";
const REMOVE: &str = "remove a network";
const DEADLINE: Duration = Duration::from_secs(30);

/// Whose the networks are, and those that we made or found, under the lock that keeps us from making one twice at once. One that somebody takes
/// away (`docker network prune`) is made again with the addresses that it had, for running jobs know the broker's.
#[derive(Debug)]
pub(super) struct OwnNetworks {
    prefix: String,
    instance: String,
    made: Mutex<HashMap<String, NetworkInfo>>,
}

impl OwnNetworks {
    pub(super) fn new(instance: &str) -> Self {
        // Engines start no container on a network whose name another one has too.
        Self { prefix: format!("rc-{}", short_instance(instance)), instance: instance.to_owned(), made: Mutex::default() }
    }

    fn name(&self, class: Option<&ClassName>) -> String {
        class.map_or_else(|| self.prefix.clone(), |class| format!("{}-{class}", self.prefix))
    }

    /// Finds the network or makes it. Older engines make a second network of the same name without a word, so after making one we
    /// look again: all racers then settle on the oldest, and the others are removed.
    pub(super) async fn ensure(&self, client: &Client, class: Option<&ClassName>) -> Result<NetworkInfo, DriverError> {
        let mut made = self.made.lock().await;
        let name = self.name(class);
        let mut found = self.find(client, &name).await?;
        if found.is_empty() {
            let before = made.get(&name).cloned();
            let mut answer = make(client, self.request(name.clone(), class, before.as_ref())).await;
            if before.is_some() && answer.is_err() {
                // Somebody else may have its addresses by now.
                answer = make(client, self.request(name.clone(), class, None)).await;
            }
            found = self.find(client, &name).await?;
            if found.is_empty() {
                let absent = DriverError::Conflict { call: CALL, message: format!("the network {name} is gone right after it was made") };
                return Err(answer.err().unwrap_or(absent));
            }
        }
        found.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        let mut found = found.into_iter();
        let first = found.next().and_then(Network::into_info);
        for double in found {
            // One that still has a container stays until the next time.
            if let Err(error) = remove(client, double.id).await {
                tracing::debug!(network.name = name, %error, "a second network of our name stays for now");
            }
        }
        let first = first.ok_or_else(|| DriverError::Garbled { call: CALL, message: format!("the network {name} has no gateway") })?;
        made.insert(name, first.clone());
        Ok(first)
    }

    /// All of ours that have a gateway.
    pub(super) async fn all(&self, client: &Client) -> Result<Vec<NetworkInfo>, DriverError> {
        let found = self.labelled(client, LIST, json!({})).await?;
        Ok(found.into_iter().filter_map(Network::into_info).collect())
    }

    /// Networks of this name that are ours; the engine's filter takes a part of a name for the name.
    async fn find(&self, client: &Client, name: &str) -> Result<Vec<Network>, DriverError> {
        let mut found = self.labelled(client, CALL, json!({ "name": [name] })).await?;
        found.retain(|network| network.name == name);
        Ok(found)
    }

    async fn labelled(&self, client: &Client, call: &'static str, mut filters: serde_json::Value) -> Result<Vec<Network>, DriverError> {
        filters["label"] = json!([format!("{}={}", labels::INSTANCE, self.instance)]);
        let mut all: Vec<Network> = client.read(call, DEADLINE, format!("/networks?filters={}", encode(&filters.to_string()))).await?;
        all.retain(|network| network.labels.as_ref().and_then(|labels| labels.get(labels::INSTANCE)) == Some(&self.instance));
        Ok(all)
    }

    fn request(&self, name: String, class: Option<&ClassName>, before: Option<&NetworkInfo>) -> NetworkCreateRequest {
        let addresses = before.and_then(|before| {
            let subnet = before.subnets.iter().find(|subnet| subnet.contains(&before.gateway))?;
            let config = IpamConfig { subnet: Some(subnet.to_string()), gateway: Some(before.gateway.to_string()), ..IpamConfig::default() };
            Some(Ipam { config: Some(vec![config]), ..Ipam::default() })
        });
        let class = class.map(|class| (labels::CLASS.to_owned(), class.to_string()));
        NetworkCreateRequest {
            name,
            driver: Some("bridge".to_owned()),
            internal: Some(false),
            // Whatever the engine's own default is: what the rules say of neighbours is of IPv4.
            enable_ipv6: Some(false),
            attachable: Some(false),
            options: Some(HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())])),
            ipam: addresses,
            labels: Some([(labels::INSTANCE.to_owned(), self.instance.clone())].into_iter().chain(class).collect()),
            ..NetworkCreateRequest::default()
        }
    }
}

async fn make(client: &Client, request: NetworkCreateRequest) -> Result<(), DriverError> {
    let made =
        client.call(CALL, DEADLINE, |c| async move { c.docker.create_network(request).await.map_err(|error| DriverError::from_engine(CALL, error)) });
    made.await.map(|_id| ())
}

/// Takes one away. One that is gone is fine; one on which a container is stays, and that is an error.
pub(super) async fn remove(client: &Client, id: String) -> Result<(), DriverError> {
    let removed =
        client.call(REMOVE, DEADLINE, |c| async move { c.docker.remove_network(&id).await.map_err(|error| DriverError::from_engine(REMOVE, error)) });
    match removed.await {
        Ok(()) | Err(DriverError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
