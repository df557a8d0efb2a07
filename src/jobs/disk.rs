//! Watches the disks that work fills: that of `data_dir`, that of the store where it is another one, and, where the engine is on this machine, that
//! of its images and containers.
//!
//! At the first mark images make room (`images.rs`); at the second nothing new begins: nothing is claimed, GitLab is not asked and the API
//! takes no job in, while what runs goes on and what ends is written down. Where the marks lie and when a state is left is decided by
//! [`crate::domain::disk`].

use std::convert::Infallible;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::deps::Shared;
use super::handle::Status;
use super::observer::{EngineSight, EngineView};
use crate::config::{Config, StoreUrl};
use crate::domain::disk::judge;
use crate::domain::{DiskMarks, DiskState, DiskUse};
use crate::platform::process::disk_use;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskRole {
    /// The queue and the logs of jobs: `data_dir`.
    Data,
    /// The queue, where `store.url` puts it on another disk than that of `data_dir`.
    Store,
    /// The engine's images and containers.
    Engine,
}

impl DiskRole {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Data, Self::Store, Self::Engine];

    /// The name in answers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Store => "store",
            Self::Engine => "engine",
        }
    }
}

/// A disk as it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What it is for.
    pub role: DiskRole,
    /// What lies on it.
    pub path: PathBuf,
    /// How it stands.
    pub usage: DiskUse,
    /// How near its end it is.
    pub state: DiskState,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.role {
            DiskRole::Data => "data_dir",
            DiskRole::Store => "the store",
            DiskRole::Engine => "the engine",
        };
        write!(f, "of the disk of {what} {} ({})", self.usage, self.path.display())
    }
}

/// What was seen of the disks.
#[derive(Debug, Default)]
pub(super) struct Disks {
    seen: Mutex<Seen>,
    again: Notify,
    looked: Notify,
    /// Where it is told that a file system does not answer: at once, since who publishes all the rest may wait for that file system too.
    status: OnceLock<watch::Sender<Arc<Status>>>,
}

#[derive(Debug, Default)]
struct Seen {
    disks: Vec<Disk>,
    /// Where the engine keeps its images by its own word, as it was when looked at last.
    root: Option<String>,
    /// Since when a file system does not answer.
    silent: Option<Timestamp>,
}

impl Disks {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they were last looked at.
    pub(super) fn read(&self) -> Vec<Disk> {
        self.seen().disks.clone()
    }

    /// Since when one of their file systems does not answer, if one does not.
    pub(super) fn silent(&self) -> Option<Timestamp> {
        self.seen().silent
    }

    /// Whether something new may begin. Not while a disk cannot be looked at, nor while that of an engine that has just come was not: that is
    /// done at once.
    pub(super) fn let_begin(&self, view: &EngineView) -> bool {
        let seen = self.seen();
        if root_of(view) != seen.root {
            self.again.notify_one();
            return false;
        }
        seen.silent.is_none() && seen.disks.iter().all(|disk| disk.state != DiskState::Full)
    }

    /// Says where the manager's status is published.
    pub(super) fn publish_to(&self, status: watch::Sender<Arc<Status>>) {
        let _ = self.status.set(status);
    }

    /// A look has not ended in time. Not another one is begun beside it: each would keep a thread.
    fn hang(&self, now: Timestamp) {
        let mut seen = self.seen();
        let news = seen.silent.is_none();
        seen.silent.get_or_insert(now);
        drop(seen);
        if news {
            warn!("how much of a disk is free is not known: its file system does not answer, and nothing new begins");
        }
        self.publish();
    }

    fn publish(&self) {
        let silent = self.silent();
        if let Some(status) = self.status.get() {
            status.send_modify(|status| Arc::make_mut(status).disks_silent = silent);
        }
    }

    /// What a look at a disk gave: its state follows from the one before. Tells whether that changed.
    fn post(&self, (role, path): (DiskRole, &Path), usage: DiskUse, marks: DiskMarks, now: Timestamp) -> Option<Disk> {
        let mut seen = self.seen();
        let before = seen.disks.iter().find(|disk| disk.role == role && disk.path == path).cloned();
        let state = judge(usage, marks, before.as_ref().map_or(DiskState::Fine, |disk| disk.state));
        let changed = before.as_ref().map_or(DiskState::Fine, |disk| disk.state) != state;
        let since = before.filter(|disk| disk.state == state).map_or(now, |disk| disk.since);
        let disk = Disk { role, path: path.to_owned(), usage, state, since };
        seen.disks.retain(|other| other.role != role);
        seen.disks.push(disk.clone());
        seen.disks.sort_by_key(|disk| disk.role);
        changed.then_some(disk)
    }
}

/// The one that lets nothing begin.
#[must_use]
pub fn full(disks: &[Disk]) -> Option<&Disk> {
    disks.iter().find(|disk| disk.state == DiskState::Full)
}

fn root_of(view: &EngineView) -> Option<String> {
    match &view.sight {
        EngineSight::Up { info, .. } => info.data_root.clone(),
        EngineSight::Unknown | EngineSight::Down { .. } => None,
    }
}

/// Where the engine's disk can be seen from here: it is this machine's, and we are not in a container that hides it.
fn engine_path(config: &Config, root: Option<&str>) -> Option<PathBuf> {
    let path = PathBuf::from(root.filter(|_| config.docker.host.starts_with("unix://"))?);
    path.is_dir().then_some(path)
}

/// Where the disks are that work fills; `root` is where the engine keeps its images and containers by its own word. May wait as long as a disk does.
#[must_use]
pub fn disk_places(config: &Config, root: Option<&str>) -> Vec<(DiskRole, PathBuf)> {
    let store = store_path(config).map(|path| (DiskRole::Store, path));
    let engine = engine_path(config, root).map(|path| (DiskRole::Engine, path));
    [(DiskRole::Data, config.data_dir.clone())].into_iter().chain(store).chain(engine).collect()
}

/// Where the store lies, if that is another file system than that of `data_dir`.
fn store_path(config: &Config) -> Option<PathBuf> {
    let StoreUrl::Sqlite(database) = &config.store else { return None };
    let device = |path: &Path| std::fs::metadata(path).map(|about| about.dev()).ok();
    let path = database.parent()?;
    (device(path)? != device(&config.data_dir)?).then(|| path.to_owned())
}

/// Looks until told to stop, and has images make room beside that: the engine may take minutes to remove one.
pub(super) async fn run(shared: &Arc<Shared>) {
    let rooms = async {
        loop {
            shared.disks.looked.notified().await;
            super::images::make_room(shared).await;
        }
    };
    // A look that is cut off is made again by the next start.
    let _ = shared.deps.stop.run_until_cancelled(future::join(looks(shared), rooms)).await;
}

async fn looks(shared: &Shared) -> Infallible {
    let mut reloads = shared.deps.config.subscribe();
    loop {
        in_time(look(shared), || shared.disks.hang(shared.deps.clock.now())).await;
        shared.disks.looked.notify_one();
        // All arms only wait. Without settings there is no manager either, and `stop` comes next.
        tokio::select! {
            biased;
            () = tokio::time::sleep(EVERY) => {}
            () = shared.disks.again.notified() => {}
            Ok(()) = reloads.changed() => {}
        }
    }
}

/// Waits for a look, and says so again and again when it does not end in time: somebody else may have published what was before.
async fn in_time(look: impl Future<Output = ()>, hangs: impl Fn()) {
    let mut look = pin!(look);
    while tokio::time::timeout(PATIENCE, look.as_mut()).await.is_err() {
        hangs();
    }
}

/// Looks before anything is begun. A file system that hangs delays no start for long: what runs is waiting to be looked after.
pub(super) async fn first_look(shared: &Shared) {
    if tokio::time::timeout(PATIENCE, look(shared)).await.is_err() {
        shared.disks.hang(shared.deps.clock.now());
    }
}

/// Looks at all disks.
pub(super) async fn look(shared: &Shared) {
    let (deps, config) = (&shared.deps, shared.deps.config.current());
    let root = root_of(&shared.observer.view());
    let (asked, of) = (root.clone(), Arc::clone(&config));
    let found = deps.logs.work(move || {
        let places = disk_places(&of, asked.as_deref()).into_iter();
        Ok(places.map(|(role, path)| (role, disk_use(&path), path)).collect::<Vec<_>>())
    });
    let Ok(found) = found.await else { return };
    let mut changed = false;
    for (role, usage, path) in &found {
        match usage {
            Ok(usage) => {
                let told = shared.disks.post((*role, path), *usage, config.disk, deps.clock.now());
                changed |= told.is_some();
                told.iter().for_each(tell);
            }
            Err(error) => warn!(path = %path.display(), %error, "how much of a disk is free is not known"),
        }
    }
    let mut seen = shared.disks.seen();
    seen.disks.retain(|disk| found.iter().any(|(role, _, path)| (*role, path) == (disk.role, &disk.path)));
    changed |= seen.root != root || seen.silent.is_some();
    (seen.root, seen.silent) = (root, None);
    drop(seen);
    shared.disks.publish();
    if changed {
        deps.handle.nudge();
    }
}

fn tell(disk: &Disk) {
    match disk.state {
        DiskState::Fine => info!("there is room again: {disk}"),
        DiskState::Low if disk.role == DiskRole::Engine => warn!("a disk fills up: {disk}; images that were not used lately make room"),
        DiskState::Low => warn!("a disk fills up: {disk}"),
        DiskState::Full => warn!("a disk is nearly full, and nothing new begins: {disk}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::publish;
    use super::*;
    use crate::docker::fixture;
    use crate::domain::DiskMark;

    fn marks() -> DiskMarks {
        let mark = |text| DiskMark::parse("m", text).expect("a mark");
        DiskMarks { low: mark("20%"), full: mark("10%") }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn view(root: Option<&str>) -> EngineView {
        let info = crate::docker::EngineInfo { data_root: root.map(str::to_owned), ..fixture::engine() };
        EngineView { stamp: 1, sight: EngineSight::Up { containers: Arc::default(), info: Arc::new(info), since: at(0) } }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_while_a_file_system_does_not_answer() {
        let (disks, answer) = (Disks::default(), Notify::new());
        let (status, told) = watch::channel(Arc::new(publish::of_nothing()));
        disks.publish_to(status);
        let hangs = async {
            answer.notified().await;
            disks.seen().silent = None;
        };
        let mut looking = pin!(in_time(hangs, || disks.hang(at(7))));
        assert!(tokio::time::timeout(PATIENCE / 2, looking.as_mut()).await.is_err());
        assert!(disks.let_begin(&view(None)), "it has time");
        assert!(tokio::time::timeout(3 * PATIENCE, looking.as_mut()).await.is_err(), "it is waited for, and none is begun beside it");
        assert_eq!(told.borrow().disks_silent, Some(at(7)), "it is told although nobody else publishes");
        assert_eq!((disks.let_begin(&view(None)), disks.silent()), (false, Some(at(7))), "nobody knows how much is free");
        answer.notify_one();
        looking.await;
        assert_eq!((disks.let_begin(&view(None)), disks.silent()), (true, None));
    }

    #[test]
    fn nothing_begins_while_a_disk_is_full_or_was_not_looked_at() {
        let disks = Disks::default();
        let (data, engine) = ((DiskRole::Data, Path::new("/data")), (DiskRole::Engine, Path::new("/engine")));
        let of = |free| DiskUse { total: 1000, free, ..DiskUse::default() };
        assert!(!disks.let_begin(&view(Some("/engine"))), "the engine's disk was not looked at yet");
        disks.seen().root = Some("/engine".to_owned());
        assert_eq!(disks.post(data, of(500), marks(), at(1)), None, "that there is room is no news");
        assert!(disks.let_begin(&view(Some("/engine"))));
        let told = disks.post(engine, of(50), marks(), at(2)).expect("news");
        assert_eq!((told.state, told.since), (DiskState::Full, at(2)));
        assert!(!disks.let_begin(&view(Some("/engine"))));
        assert_eq!(full(&disks.read()).map(|disk| disk.role), Some(DiskRole::Engine));
        assert_eq!(disks.post(engine, of(110), marks(), at(3)), None, "within the band it stays so");
        assert_eq!(disks.read()[1].since, at(2));
        assert_eq!(disks.post(engine, of(130), marks(), at(4)).map(|disk| disk.state), Some(DiskState::Low));
        assert!(disks.let_begin(&view(Some("/engine"))));
        assert_eq!(disks.read().len(), 2);
        let words = disks.read()[1].to_string();
        assert!(words.contains("the engine") && words.contains("(/engine)"), "{words}");
    }
}
