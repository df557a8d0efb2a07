//! What a daemon of a fleet does beside its work: it renews the lease of its machine, tells the others of it, and looks again when another daemon
//! changed something.

use tracing::{debug, info, warn};

use crate::domain::chain;
use crate::http::{AppState, HostDto};
use crate::lifecycle::Lifecycle;
use crate::store::fleet::{Fleet, HostReport, RENEWS_EVERY, Renewal};

/// Starts it, where the store is shared.
pub(super) fn keep(state: &AppState, lifecycle: &Lifecycle) {
    if state.store.fleet().is_none() {
        return;
    }
    let within = (&lifecycle.tracker, &lifecycle.stop);
    let (renewing, stop) = (state.clone(), lifecycle.stop.clone());
    state.manager.tasks().keep(within, "lease", move || {
        let (state, stop) = (renewing.clone(), stop.clone());
        async move {
            let _stopped = stop.run_until_cancelled(renew(&state)).await;
        }
    });
    let (hearing, stop) = (state.clone(), lifecycle.stop.clone());
    state.manager.tasks().keep(within, "fleet", move || {
        let (state, stop) = (hearing.clone(), stop.clone());
        async move {
            let _stopped = stop.run_until_cancelled(hear(&state)).await;
        }
    });
}

/// Renews the lease for ever.
async fn renew(state: &AppState) {
    let Some(fleet) = state.store.fleet() else { return };
    let mut was_renewed = true;
    loop {
        let renewed = fleet.renew(&report(state)).await;
        match &renewed {
            Ok(Renewal::Renewed) if was_renewed => {}
            Ok(Renewal::Renewed) => info!("the lease of this machine is renewed again"),
            Ok(Renewal::TakenAnew) => {
                warn!("this machine was taken for lost: its jobs were ended by other daemons, and what runs of them here is taken away");
                state.manager.nudge();
            }
            Err(error) if was_renewed => warn!(error = chain(error), "the lease of this machine cannot be renewed: no new work is begun here"),
            Err(error) => debug!(error = chain(error), "the lease of this machine still cannot be renewed"),
        }
        was_renewed = renewed.is_ok();
        tokio::time::sleep(RENEWS_EVERY).await;
    }
}

fn report(state: &AppState) -> HostReport {
    let status = state.manager.status();
    HostReport {
        facts: status.facts.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: state.config.current().fleet.url.clone(),
        shown: HostDto::told(&status),
    }
}

/// Has the manager look whenever something was changed elsewhere: a job was taken in, or one of this machine's is to end.
async fn hear(state: &AppState) {
    let Some(mut elsewhere) = state.store.fleet().map(Fleet::elsewhere) else { return };
    while elsewhere.changed().await.is_ok() {
        state.manager.nudge();
    }
}
