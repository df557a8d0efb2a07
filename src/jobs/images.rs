//! Removes images so that the engine's disk does not fill up: those that were not used for longest go first.
//!
//! Only what this coordinator had the engine fetch goes, and of that nothing that a container of anybody's is made of, that is configured or pinned,
//! or that a launch is about to use. A removal names the image and forces nothing, so the engine has the last word: what is in use by the time it
//! is asked stays.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::deps::{OpError, Shared};
use super::disk::{self, DiskRole};
use super::observer::EngineSight;
use crate::config::Config;
use crate::docker::ImageRemoval;
use crate::domain::{DiskState, ImageRef, chain};

/// Time between two looks at the age of images.
const AGES_EVERY: Duration = Duration::from_secs(60 * 60);
/// Rest after a round that made no room: what is in use stays so for a while.
const NO_ROOM_REST: Duration = Duration::from_secs(60);

/// Which images are being launched or removed at this moment.
#[derive(Debug, Default)]
pub(super) struct ImageBook {
    busy: Mutex<Busy>,
    removed: Notify,
    rests: Mutex<Rests>,
}

#[derive(Debug, Default)]
struct Busy {
    /// How many launches hold an image, by its full name.
    held: HashMap<ImageRef, u32>,
    removing: Option<ImageRef>,
}

/// When the next round may be.
#[derive(Debug, Default)]
struct Rests {
    room: Option<Instant>,
    ages: Option<Instant>,
}

impl ImageBook {
    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rests(&self) -> MutexGuard<'_, Rests> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an image from being removed until the answer is dropped. While it is being removed, waits for that.
    pub(super) async fn hold(&self, image: &ImageRef) -> Held<'_> {
        let image = image.qualified();
        loop {
            // Made before the look, so that an end between the two is not missed.
            let removed = self.removed.notified();
            {
                let mut busy = self.busy();
                if busy.removing.as_ref() != Some(&image) {
                    *busy.held.entry(image.clone()).or_default() += 1;
                    return Held { book: self, image };
                }
            }
            removed.await;
        }
    }

    /// Says that an image is being removed until the answer is dropped; `None` when a launch holds it.
    fn begin_removal(&self, image: &ImageRef) -> Option<Removing<'_>> {
        let mut busy = self.busy();
        if busy.held.contains_key(image) || busy.removing.is_some() {
            return None;
        }
        busy.removing = Some(image.clone());
        Some(Removing { book: self })
    }
}

/// An image that a launch is about to use.
#[derive(Debug)]
pub(super) struct Held<'b> {
    book: &'b ImageBook,
    image: ImageRef,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut busy = self.book.busy();
        if let Some(launches) = busy.held.get_mut(&self.image) {
            *launches -= 1;
            if *launches == 0 {
                busy.held.remove(&self.image);
            }
        }
    }
}

#[derive(Debug)]
struct Removing<'b> {
    book: &'b ImageBook,
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.book.busy().removing = None;
        self.book.removed.notify_waiters();
    }
}

/// An image that was fetched for us and is on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    image: ImageRef,
    used_at: Timestamp,
    /// What is made of it.
    use_of: UseOf,
}

/// What is made of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UseOf {
    /// A container, in whatever state and whosever it is.
    Container,
    /// Nothing.
    Nothing,
}

/// What images have to go for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Room on the engine's disk: as many as it takes.
    Room,
    /// Those that were last used earlier.
    Older(Timestamp),
}

/// Which images may go, the one first that was not used for longest.
fn to_go(kept: &[Kept], spared: impl Fn(&ImageRef) -> bool, need: Need) -> Vec<&ImageRef> {
    let old = |one: &Kept| match need {
        Need::Room => true,
        Need::Older(than) => one.used_at < than,
    };
    let mut may: Vec<&Kept> = kept.iter().filter(|one| one.use_of == UseOf::Nothing && old(one) && !spared(&one.image)).collect();
    may.sort_by(|a, b| (a.used_at, &a.image).cmp(&(b.used_at, &b.image)));
    may.into_iter().map(|one| &one.image).collect()
}

/// Whether the settings keep an image: a class names it, or it is pinned.
fn is_spared(config: &Config, image: &ImageRef) -> bool {
    let of_class = config.classes.iter().filter_map(|class| class.image.as_ref()).any(|of_class| of_class.qualified() == *image);
    of_class || config.images.pinned.iter().any(|pattern| pattern.matches(image))
}

/// Removes what has to go at present, if anything has to.
pub(super) async fn make_room(shared: &Arc<Shared>) {
    if !matches!(shared.observer.view().sight, EngineSight::Up { .. }) {
        return;
    }
    let now = Instant::now();
    let is_due = |rest: Option<Instant>| rest.is_none_or(|until| until <= now);
    let (room_due, ages_due) = {
        let rests = shared.images.rests();
        (is_due(rests.room), is_due(rests.ages))
    };
    if is_crowded(shared) && room_due {
        let removed = told(round(shared, Need::Room).await);
        shared.images.rests().room = (removed == 0).then(|| now + NO_ROOM_REST);
    }
    if ages_due {
        shared.images.rests().ages = Some(now + AGES_EVERY);
        let config = shared.deps.config.current();
        let limit = config.images.max_age.and_then(|age| shared.deps.clock.now().checked_sub(age).ok());
        // Without an age none is older; those that are in use or gone are noted all the same.
        told(round(shared, Need::Older(limit.unwrap_or(Timestamp::MIN))).await);
    }
}

fn told(round: Result<u32, OpError>) -> u32 {
    round.unwrap_or_else(|error| {
        warn!(error = chain(&error), "images could not be removed; this is tried again");
        0
    })
}

/// Whether room is needed on the engine's disk.
fn is_crowded(shared: &Shared) -> bool {
    shared.disks.read().iter().any(|disk| disk.role == DiskRole::Engine && disk.state >= DiskState::Low)
}

/// One round; tells how many images went.
async fn round(shared: &Shared, need: Need) -> Result<u32, OpError> {
    let kept = kept(shared).await?;
    let config = shared.deps.config.current();
    let mut removed = 0;
    for image in to_go(&kept, |image| is_spared(&config, image), need) {
        if need == Need::Room && !is_crowded(shared) {
            break;
        }
        if remove(shared, image).await? {
            removed += 1;
            disk::look(shared).await;
        }
    }
    Ok(removed)
}

/// What was fetched for us and is there still. What is in use is noted as used now; what is gone is forgotten, so that it is not ours when
/// somebody else fetches it.
async fn kept(shared: &Shared) -> Result<Vec<Kept>, OpError> {
    let deps = &shared.deps;
    let host = deps.config.current().host.name.clone();
    let known = deps.store.images(&host).await?;
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let in_use: HashSet<String> = deps.driver.images_in_use().await?.into_iter().collect();
    let mut kept = Vec::new();
    for (image, used_at) in known {
        // One that is being fetched is not there yet, and not forgotten.
        let Some(_held) = shared.images.begin_removal(&image) else { continue };
        match deps.driver.resolve_image(&image).await? {
            None => deps.store.forget_image(&host, &image).await?,
            Some(found) => {
                let use_of = if in_use.contains(&found.id) { UseOf::Container } else { UseOf::Nothing };
                kept.push(Kept { image, used_at, use_of });
            }
        }
    }
    let used: Vec<ImageRef> = kept.iter().filter(|one| one.use_of == UseOf::Container).map(|one| one.image.clone()).collect();
    if !used.is_empty() {
        deps.store.use_images(&host, &used, deps.clock.now()).await?;
    }
    Ok(kept)
}

/// Removes one, unless somebody uses it; tells whether it went.
async fn remove(shared: &Shared, image: &ImageRef) -> Result<bool, OpError> {
    let deps = &shared.deps;
    let Some(_removing) = shared.images.begin_removal(image) else { return Ok(false) };
    match deps.driver.remove_image(image).await? {
        ImageRemoval::InUse => Ok(false),
        ImageRemoval::Gone => {
            deps.store.forget_image(&deps.config.current().host.name, image).await?;
            deps.metrics.images_removed.count([]);
            info!(%image, "an image that was not used lately was removed");
            Ok(true)
        }
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
