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
        let address = broker_address(driver, config).await.map_err(|error| error.to_string())?;
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
        let serving = serve(listener, routes, Doors::default(), here.clone());
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

async fn broker_address(driver: &dyn Driver, config: &Config) -> Result<SocketAddr, DriverError> {
    match config.broker.listen {
        BrokerListen::Address(address) => Ok(address),
        BrokerListen::Gateway { port } => Ok(SocketAddr::new(driver.ensure_network().await?.gateway, port)),
    }
}
