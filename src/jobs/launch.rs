//! Brings one runner to life: image, container, start. Every step is written down before the next, so that a crash between any
//! two lines leaves something that [`super::reconcile`] knows how to go on from.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::conclude::conclude;
use super::container::{Origin, Parts, container_plan, profile_request};
use super::deps::{OpError, Shared, class_named};
use super::finish::take_container;
use super::follow::follow;
use super::grant::{CannotGrant, grant};
use super::image::{Decision, decide};
use super::network;
use super::observer::EngineSight;
use crate::config::{Class, Config, Pull};
use crate::docker::{DriverError, ResolvedImage};
use crate::domain::{Aggregate, Arch, EndReason, EventKind, Failure, FieldFault, ImageRef, Outcome, PinnedImage, Step, Work, chain};
use crate::security::{CallFilter, DeviceGrant, ProfileRequest, SecurityManager};
use crate::store::StoreError;

/// Least time between two notes about a pull in a job's history.
const PULL_NOTE_GAP: Duration = Duration::from_secs(2);

/// Launches a runner. Failures that belong to the attempt are written down as its end; an error means "try this operation again".
pub(super) async fn launch(shared: &Arc<Shared>, aggregate: Aggregate, cancel: &CancellationToken) -> Result<(), OpError> {
    let config = shared.deps.config.current();
    let Some(class) = class_named(&config, &aggregate.runner.class) else {
        let outcome = Outcome::final_failure(EndReason::ClassRemoved, format!("class {} is no longer configured", aggregate.runner.class));
        return conclude(shared, &aggregate, outcome).await;
    };
    if let Some(fault) = over_cap(&config, &aggregate) {
        return conclude(shared, &aggregate, Outcome::final_failure(EndReason::Unsatisfiable, fault.to_string())).await;
    }
    let origin = match origin(&aggregate, class) {
        Ok(origin) => origin,
        Err(outcome) => return conclude(shared, &aggregate, outcome).await,
    };
    if let Err(fault) = class.check_image("image", origin.image()) {
        return conclude(shared, &aggregate, Outcome::final_failure(EndReason::Unsupported, fault.to_string())).await;
    }
    // A cancelled pull is dropped half-way; the engine keeps the layers it has. What is held is kept until there is a container.
    let fetched = async {
        let held = shared.images.hold(origin.image()).await;
        (fetch_image(shared, &aggregate, class, origin.image()).await, held)
    };
    let (image, _held) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(()),
        fetched = fetched => fetched,
    };
    let image = match image {
        Ok(image) => image,
        Err(Stopped::Attempt(outcome)) => return conclude(shared, &aggregate, outcome).await,
        Err(Stopped::Operation(error)) => return Err(error),
    };
    let network = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(()),
        network = network::ready(shared, class) => network?,
    };
    let broker_url = shared.deps.broker_url.borrow().clone();
    if broker_url.is_none() && !aggregate.runs_command() {
        return Err(OpError::NotYet("the broker does not listen yet"));
    }
    let devices = match granted(shared, &aggregate).await? {
        Ok(devices) => devices,
        Err(outcome) => return conclude(shared, &aggregate, outcome).await,
    };
    // Nothing of it has been started, so what there is of its log is not its own.
    if let Some((job, attempt)) = &aggregate.runner.job
        && let Err(error) = shared.deps.logs.begin(job, *attempt).await
    {
        warn!(job.id = %job, attempt, %error, "what is left of another log cannot be taken away");
    }
    let proof = if aggregate.runs_command() { Some(shared.deps.proof.prepare(&aggregate.runner.id)?) } else { None };
    let request = ProfileRequest { devices, proof, filter: filter(shared), ..profile_request(&aggregate, class, &origin, config.limits.stop_grace) };
    let profile = match SecurityManager::harden(request) {
        Ok(profile) => profile,
        Err(fault) => return conclude(shared, &aggregate, Outcome::final_failure(EndReason::StartFailed, fault.to_string())).await,
    };
    let pin = PinnedImage { id: image.id.clone(), digest: image.digest.clone() };
    let plan = container_plan(shared, &aggregate, Parts { class, origin: &origin, image, network, broker_url });
    let _permit = shared.starts.acquire().await.map_err(|_| OpError::NotYet("the coordinator is stopping"))?;
    if cancel.is_cancelled() {
        return Ok(());
    }
    let container = match shared.deps.driver.create(&plan, &profile).await {
        Ok(container) => container,
        // Somebody else removed it; the next try has it fetched again.
        Err(DriverError::NotFound { message, .. }) if message.contains("image") => return Err(OpError::NotYet("its image is gone again")),
        Err(error) => return start_failed(shared, &aggregate, None, error).await,
    };
    start(shared, aggregate, Step::ContainerCreated { container: container.clone(), image: Some(pin), opened: plan.opened }, container).await
}

/// What is wrong with a job that asks for more than its project may ever have: it was taken from GitLab, or before the limit was set.
fn over_cap(config: &Config, aggregate: &Aggregate) -> Option<FieldFault> {
    let spec = &aggregate.job.as_ref()?.spec;
    config.over_cap(spec.project.as_ref(), &spec.requirement)
}

/// What the container is given of the GPUs that its runner was placed on. The engine is asked anew, because what it can give changes while it
/// runs; only for GPUs.
async fn granted(shared: &Arc<Shared>, aggregate: &Aggregate) -> Result<Result<DeviceGrant, Outcome>, OpError> {
    let placed = &aggregate.runner.placement.devices;
    if placed.is_empty() {
        return Ok(Ok(DeviceGrant::None));
    }
    let engine = shared.deps.driver.info().await?;
    Ok(grant(&shared.deps.platform.facts().gpus, &engine, placed).map_err(|error| match error {
        CannotGrant::Gone(_) => Outcome::infrastructure(EndReason::GpuUnhealthy, error.to_string()),
        CannotGrant::Mixed(..) | CannotGrant::Engine(_) | CannotGrant::Node { .. } => {
            Outcome::final_failure(EndReason::StartFailed, error.to_string())
        }
    }))
}

/// Who filters the container's system calls: we, unless the engine has said that it cannot.
fn filter(shared: &Shared) -> CallFilter {
    match &shared.observer.view().sight {
        EngineSight::Up { info, .. } => info.call_filter(),
        EngineSight::Down { .. } | EngineSight::Unknown => CallFilter::Ours,
    }
}

async fn start(shared: &Arc<Shared>, aggregate: Aggregate, made: Step, container: String) -> Result<(), OpError> {
    let deps = &shared.deps;
    let runner = aggregate.runner.id.clone();
    let created = deps.store.apply(&runner, made, deps.clock.now()).await;
    let sent = match created {
        Ok(_) => deps.store.apply(&runner, Step::StartSent { engine_epoch: shared.observer.epoch() }, deps.clock.now()).await,
        Err(error) => Err(error),
    };
    let aggregate = match sent {
        Ok(aggregate) => aggregate,
        // It was told to end meanwhile; the next pass takes the container away.
        Err(StoreError::Refused(_)) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if let Err(error) = deps.driver.start(&container).await {
        return start_failed(shared, &aggregate, Some(&container), error).await;
    }
    if aggregate.runs_command() {
        match deps.store.apply(&runner, Step::Started, deps.clock.now()).await {
            Ok(_) | Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
        shared.followers.ensure(&runner, || follow(shared, &aggregate, container));
    } else {
        deps.store.note(&runner, EventKind::ContainerStarted, deps.clock.now()).await?;
    }
    Ok(())
}

/// What the engine refused ends the attempt; a container that it refused to start is gone before, because one that starts after all would run
/// beside the next attempt. When its answer was lost, what it did is not known: a create is repeated, and after a start the next pass looks at
/// the container.
async fn start_failed(shared: &Arc<Shared>, aggregate: &Aggregate, container: Option<&str>, error: DriverError) -> Result<(), OpError> {
    if matches!(error, DriverError::Unreachable { .. } | DriverError::Deadline { .. } | DriverError::Interrupted { .. }) {
        return Err(error.into());
    }
    if let Some(container) = container {
        take_container(shared, container).await?;
    }
    let failure = Failure { reason: EndReason::StartFailed, exit_code: None, detail: Some(chain(&error)), disposition: error.disposition() };
    conclude(shared, aggregate, Outcome::Failed(failure)).await
}

enum Stopped {
    Attempt(Outcome),
    Operation(OpError),
}

/// Whose image the container is made of; as an error, how the attempt ends without a container.
fn origin(aggregate: &Aggregate, class: &Class) -> Result<Origin, Outcome> {
    let decision = match aggregate.job.as_ref().map(|job| &job.spec.work) {
        Some(Work::Command(command)) => return Ok(Origin::Command(command.image.clone())),
        Some(Work::GitLab(reference)) => decide(class, &reference.keywords),
        None => Decision::OfClass,
    };
    match decision {
        Decision::Refused(detail) => Err(Outcome::final_failure(EndReason::Unsupported, detail)),
        Decision::OfJob { image, runner } => Ok(Origin::Job(image, runner)),
        Decision::OfClass => match &class.image {
            Some(image) => Ok(Origin::Class(image.clone())),
            None => Err(Outcome::final_failure(EndReason::ImageUnavailable, format!("class {} has no image", class.name))),
        },
    }
}

/// The image that an earlier attempt had, which no tag that has moved since changes.
async fn same_image(
    shared: &Arc<Shared>,
    aggregate: &Aggregate,
    class: &Class,
    wanted: &ImageRef,
    pin: &PinnedImage,
) -> Result<ResolvedImage, Stopped> {
    let gone = |what: &str| {
        let detail = format!("{wanted} was {} when the job was first tried, and that image is no longer on this machine; {what}", pin.identity());
        Stopped::Attempt(Outcome::final_failure(EndReason::ImageUnavailable, detail))
    };
    let local = shared.deps.driver.resolve_image(&ImageRef::from_trusted(&pin.id)).await.map_err(|error| Stopped::Operation(error.into()))?;
    if let Some(image) = local {
        note_use(shared, wanted).await;
        return Ok(ResolvedImage { reference: wanted.clone(), digest: pin.digest.clone(), ..image });
    }
    let digest = match &pin.digest {
        Some(_) if class.pull == Pull::Never => return Err(gone("its class never pulls")),
        Some(digest) => ImageRef::from_trusted(digest),
        None => return Err(gone("it came from no registry, so it cannot be fetched again")),
    };
    claim_image(shared, &digest).await.map_err(Stopped::Operation)?;
    let image = pull(shared, aggregate, &digest, wanted_arch(shared, aggregate, class)).await?;
    if image.id == pin.id { Ok(image) } else { Err(gone("its registry has another one under that digest")) }
}

/// What its image has to be for. What the machine emulates was placed here only where that is allowed.
fn wanted_arch(shared: &Shared, aggregate: &Aggregate, class: &Class) -> Option<Arch> {
    aggregate.arch().or(class.arch).or(shared.deps.platform.facts().arch)
}

async fn fetch_image(shared: &Arc<Shared>, aggregate: &Aggregate, class: &Class, wanted: &ImageRef) -> Result<ResolvedImage, Stopped> {
    if let Some(pin) = aggregate.job.as_ref().and_then(|job| job.image.as_ref()) {
        return same_image(shared, aggregate, class, wanted, pin).await;
    }
    let unavailable = |detail: String| Stopped::Attempt(Outcome::final_failure(EndReason::ImageUnavailable, detail));
    let local = match class.pull {
        Pull::Always => None,
        Pull::IfMissing | Pull::Never => shared.deps.driver.resolve_image(wanted).await.map_err(|error| Stopped::Operation(error.into()))?,
    };
    let arch = wanted_arch(shared, aggregate, class);
    let fits = |image: &ResolvedImage| image.arch.is_none() || arch.is_none() || image.arch == arch;
    let wrong = |image: &ResolvedImage| {
        let name = |arch: Option<Arch>| arch.map_or("another architecture", Arch::as_str);
        format!("{wanted} is for {}, and {} is needed", name(image.arch), name(arch))
    };
    let image = match (local, class.pull) {
        (Some(image), _) if fits(&image) => {
            note_use(shared, wanted).await;
            image
        }
        // The engine keeps only one of a name, and has it for another architecture.
        (Some(image), Pull::Never) => return Err(unavailable(format!("{}; its class never pulls", wrong(&image)))),
        (None, Pull::Never) => return Err(unavailable(format!("{wanted} is not on this machine, and its class never pulls"))),
        (Some(_), Pull::IfMissing | Pull::Always) => pull(shared, aggregate, wanted, arch).await?,
        (None, Pull::IfMissing | Pull::Always) => {
            claim_image(shared, wanted).await.map_err(Stopped::Operation)?;
            pull(shared, aggregate, wanted, arch).await?
        }
    };
    if fits(&image) { Ok(image) } else { Err(unavailable(wrong(&image))) }
}

/// Writes down that an image is there by our doing, before it is: so none is left that nobody removes. One that was there before is not ours.
async fn claim_image(shared: &Arc<Shared>, wanted: &ImageRef) -> Result<(), OpError> {
    let deps = &shared.deps;
    if deps.driver.resolve_image(wanted).await?.is_some() {
        note_use(shared, wanted).await;
        return Ok(());
    }
    Ok(deps.store.remember_image(&deps.config.current().host.name, &wanted.qualified(), deps.clock.now()).await?)
}

/// A use that is not written down makes an image look older than it is, and no more.
async fn note_use(shared: &Arc<Shared>, image: &ImageRef) {
    let deps = &shared.deps;
    if let Err(error) = deps.store.use_images(&deps.config.current().host.name, &[image.qualified()], deps.clock.now()).await {
        warn!(%image, error = chain(&error), "that an image is used could not be written down");
    }
}

async fn pull(shared: &Arc<Shared>, aggregate: &Aggregate, wanted: &ImageRef, arch: Option<Arch>) -> Result<ResolvedImage, Stopped> {
    let deps = &shared.deps;
    let (progress, mut heard) = mpsc::channel(16);
    let notes = async {
        let mut last: Option<tokio::time::Instant> = None;
        while let Some(progress) = heard.recv().await {
            if last.is_none_or(|last| last.elapsed() >= PULL_NOTE_GAP) {
                last = Some(tokio::time::Instant::now());
                // A note that cannot be written is not worth the pull.
                let _ = deps.store.note(&aggregate.runner.id, EventKind::ImagePull { progress }, deps.clock.now()).await;
            }
        }
    };
    let (pulled, ()) = tokio::join!(deps.driver.pull(wanted, arch, progress), notes);
    match pulled {
        Ok(image) => {
            let digest = image.digest.clone().unwrap_or_else(|| image.id.clone());
            let _ = deps.store.note(&aggregate.runner.id, EventKind::ImageReady { digest }, deps.clock.now()).await;
            Ok(image)
        }
        Err(error) => {
            let (detail, disposition) = (Some(chain(&error)), error.disposition());
            Err(Stopped::Attempt(Outcome::Failed(Failure { reason: EndReason::ImageUnavailable, exit_code: None, detail, disposition })))
        }
    }
}
