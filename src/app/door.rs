//! The way of runners to the broker: a listener that stays where they reach it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{BrokerListen, Config};
use crate::docker::{Driver, DriverError};
use crate::http::{Doors, broker_router, metered, serve};
use crate::jobs::ManagerHandle;
use crate::jobs::broker::Broker;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// How often the broker makes sure that its address still exists.
const BROKER_CHECK: Duration = Duration::from_secs(10);
/// Wait before the broker tries again to listen.
const BROKER_RETRY: Duration = Duration::from_secs(1);

/// What it takes to let runners in.
pub(super) struct Door {
    pub(super) broker: Arc<Broker>,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) config: Arc<Config>,
    pub(super) url: watch::Sender<Option<String>>,
    pub(super) metrics: Arc<Metrics>,
}

/// Keeps it open.
pub(super) fn keep(door: Door, handle: &ManagerHandle, lifecycle: &Lifecycle) {
    let (door, stop) = (Arc::new(door), lifecycle.stop.clone());
    handle.tasks().keep((&lifecycle.tracker, &lifecycle.stop), "broker", move || {
        let (door, stop) = (Arc::clone(&door), stop.clone());
        async move { door.run(&stop).await }
    });
}

impl Door {
    /// Keeps the broker listening where runners reach it, also when the engine comes late or makes its network anew.
    async fn run(&self, stop: &CancellationToken) {
        let mut said = String::new();
        while !stop.is_cancelled() {
            let served = self.serve(stop).await;
            self.url.send_replace(None);
            if let Err(error) = served
                && error != said
            {
                warn!(%error, "the broker cannot listen");
                said = error;
            }
            tokio::select! {
                () = tokio::time::sleep(BROKER_RETRY) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Listens until the daemon stops or the address is no longer the right one.
    async fn serve(&self, stop: &CancellationToken) -> Result<(), String> {
        let (driver, config) = (self.driver.as_ref(), &self.config);
        // An engine that does not answer holds up no stop. A network that it makes all the same is found by the next start.
        let Some(address) = stop.run_until_cancelled(broker_address(driver, config)).await else { return Ok(()) };
        let address = address.map_err(|error| error.to_string())?;
        let listener = TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
        let bound = listener.local_addr().map_err(|error| error.to_string())?;
        let base = config.broker.advertise.clone().unwrap_or_else(|| format!("http://{bound}"));
        info!(address = %bound, url = base, "the broker listens");
        self.url.send_replace(Some(base));
        let here = stop.child_token();
        let moved = async {
            loop {
                tokio::time::sleep(BROKER_CHECK).await;
                if broker_address(driver, config).await.is_ok_and(|now| now != address) {
                    return;
                }
            }
        };
        // Dropping `moved` loses nothing; `serve` is ended by its token and waited for.
        let routes = metered(broker_router(Arc::clone(&self.broker)), Arc::clone(&self.metrics));
        let serving = serve(listener, routes, doors(config), here.clone());
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => {}
            () = moved => {
                here.cancel();
                serving.await;
            }
        }
        Ok(())
    }
}

/// Runners come to the gateway's address straight from their containers, each with an address of its own, and no job may keep the others
/// out. By another way all of them may come from one address.
fn doors(config: &Config) -> Doors {
    match (config.broker.listen, &config.broker.advertise) {
        (BrokerListen::Gateway { .. }, None) => Doors::fair(),
        (BrokerListen::Gateway { .. }, Some(_)) | (BrokerListen::Address(_), _) => Doors::default(),
    }
}

async fn broker_address(driver: &dyn Driver, config: &Config) -> Result<SocketAddr, DriverError> {
    match config.broker.listen {
        BrokerListen::Address(address) => Ok(address),
        BrokerListen::Gateway { port } => Ok(SocketAddr::new(driver.ensure_network(None).await?.gateway, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::DockerDriver;
    use crate::jobs::broker::tests::Rig;

    #[tokio::test]
    async fn an_engine_that_never_answers_holds_up_no_stop() {
        let (rig, directory) = (Rig::idle(), tempfile::tempdir().expect("a directory"));
        let (socket, file) = (directory.path().join("engine.sock"), directory.path().join("c.toml"));
        let engine = tokio::net::UnixListener::bind(&socket).expect("a socket");
        std::fs::write(&file, format!("data_dir = \"{}\"", directory.path().display())).expect("written");
        let config = Config::load(Some(&file), std::iter::empty()).expect("a configuration");
        let driver = DockerDriver::new(&format!("unix://{}", socket.display()), "i".to_owned(), Vec::new()).expect("a driver");
        let (url, _) = watch::channel(None);
        let door = Door { broker: Arc::clone(&rig.broker), driver: Arc::new(driver), config: Arc::new(config), url, metrics: Arc::default() };
        let stop = CancellationToken::new();
        let asked = async {
            let connection = engine.accept().await.expect("it is asked");
            stop.cancel();
            connection
        };
        let both = async { tokio::join!(door.run(&stop), asked) };
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("it stops");
    }
}
