//! Things of others on the same engine, some of which look like ours. Nobody may touch them.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use crate::BUSYBOX;
use crate::engine::Engine;

/// What was made.
#[derive(Debug)]
pub(crate) struct Foreign {
    containers: Vec<String>,
    network: String,
    volume: String,
}

impl Foreign {
    /// Makes containers without a label, with another instance's whole set, and with a part of ours; a network and a volume too.
    pub(crate) async fn make(engine: &Engine, instance: &str) -> Self {
        let other = "0190aaaa-bbbb-7ccc-8ddd-eeeeffff0000";
        let whole = |instance: &str| {
            ["instance", "host", "runner", "class", "devices", "nonce"]
                .map(|label| (format!("runner-coordinator.{label}"), if label == "instance" { instance } else { "chaos" }.to_owned()))
        };
        let sets: [(&str, HashMap<String, String>); 4] = [
            ("somebodys", HashMap::new()),
            ("rc-of-another-1", HashMap::from(whole(other))),
            ("rc-nobodys", HashMap::from([("runner-coordinator.host".to_owned(), "chaos".to_owned())])),
            // An instance that only begins like ours.
            ("rc-near", HashMap::from(whole(&format!("{instance}0")))),
        ];
        let mut containers = Vec::new();
        for (name, labels) in sets {
            let options = CreateContainerOptionsBuilder::new().name(name).build();
            let command = ["sh", "-c", "exit 0"].map(str::to_owned).to_vec();
            let body =
                ContainerCreateBody { image: Some(BUSYBOX.to_owned()), cmd: Some(command), labels: Some(labels), ..ContainerCreateBody::default() };
            containers.push(engine.docker().create_container(Some(options), body).await.expect("a container").id);
        }
        let labels = Some(HashMap::from([("runner-coordinator.instance".to_owned(), other.to_owned())]));
        let request = NetworkCreateRequest { name: "rc-another".to_owned(), labels: labels.clone(), ..NetworkCreateRequest::default() };
        let network = engine.docker().create_network(request).await.expect("a network").id;
        let request = VolumeCreateRequest { name: Some("rc-another".to_owned()), labels, ..VolumeCreateRequest::default() };
        let volume = engine.docker().create_volume(request).await.expect("a volume").name;
        Self { containers, network, volume }
    }

    /// What was touched, in words.
    pub(crate) async fn touched(&self, engine: &Engine) -> Vec<String> {
        let docker = engine.docker();
        let mut touched = Vec::new();
        for id in &self.containers {
            let found = docker.inspect_container(id, None).await;
            let state = found.ok().and_then(|found| found.state?.status).map(|status| status.to_string());
            if state.as_deref() != Some("created") {
                touched.push(format!("the container {id} of somebody else is {state:?}"));
            }
        }
        if docker.inspect_network(&self.network, None).await.is_err() {
            touched.push(format!("the network {} of somebody else is gone", self.network));
        }
        if docker.inspect_volume(&self.volume).await.is_err() {
            touched.push(format!("the volume {} of somebody else is gone", self.volume));
        }
        touched
    }

    pub(crate) fn has_network(&self, id: &str) -> bool {
        self.network == id
    }

    pub(crate) fn has_volume(&self, name: &str) -> bool {
        self.volume == name
    }
}
