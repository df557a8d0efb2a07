//! How much of the daemon requests may hold at once. What goes beyond is refused before anything is read of it, so that a flood costs
//! little, what was accepted gets done, and whoever watches the daemon is still answered.
//!
//! These bounds are the daemon's own and count what all clients of one way in ask together, the network or the Unix socket. So what they
//! refuse is answered 503 with `Retry-After` (RFC 9110, 15.6.4); 429 (RFC 6585, 4) is for a client that has too much of its own here, such
//! as a project's full queue.

use std::sync::Arc;

use axum::http::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Most answers that may stream at once: each holds a connection and wakes at every change.
const MAX_STREAMS: usize = 256;
/// Most webhooks that are taken in whole at once.
const MAX_BELLS: usize = 64;
/// Most further ones that are only listened to: a bell that rang is enough, and GitLab switches off hooks that it sees fail.
const MAX_HURRIED_BELLS: usize = 192;
/// Most requests at once that change something.
const MAX_WRITES: usize = 128;
/// Most requests at once that only look.
const MAX_READS: usize = 128;
/// Most requests at once to what watches the daemon. Nothing else takes their room.
const MAX_VITALS: usize = 16;
/// Up to this size bodies share [`SMALL_BODIES`]; an event of GitLab has a few KiB.
const SMALL_BODY: u64 = 1 << 20;
/// Most memory of small bodies, in KiB.
const SMALL_BODIES: u32 = 32 << 10;
/// Most memory of larger bodies, in KiB: two of the largest that GitLab sends. One that is larger still gets all of it.
const LARGE_BODIES: u32 = 64 << 10;

/// What a request is about, as far as it must not crowd out others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// GitLab rings.
    Bell,
    /// It changes something.
    Write,
    /// It only looks.
    Read,
    /// It asks how the daemon does.
    Vital,
}

impl Traffic {
    /// By method and the route's template.
    pub(super) fn of(method: &Method, route: Option<&str>) -> Self {
        match route {
            Some("/health" | "/metrics") => Self::Vital,
            Some("/webhook/job") => Self::Bell,
            Some(_) | None if *method == Method::GET || *method == Method::HEAD => Self::Read,
            Some(_) | None => Self::Write,
        }
    }
}

/// A bound that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// On webhooks.
    Bells,
    /// On requests that change something.
    Writes,
    /// On requests that look.
    Reads,
    /// On requests that ask how the daemon does.
    Vitals,
    /// On the memory of bodies.
    Bodies,
    /// On connections.
    Connections,
}

impl Bound {
    /// Every bound.
    pub const ALL: [Self; 6] = [Self::Bells, Self::Writes, Self::Reads, Self::Vitals, Self::Bodies, Self::Connections];

    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bells => "bells",
            Self::Writes => "writes",
            Self::Reads => "reads",
            Self::Vitals => "vitals",
            Self::Bodies => "bodies",
            Self::Connections => "connections",
        }
    }

    /// What is so, for people.
    pub(super) fn sentence(self) -> String {
        match self {
            Self::Bells => format!("{} webhooks are being taken in, as many as may", MAX_BELLS + MAX_HURRIED_BELLS),
            Self::Writes => format!("{MAX_WRITES} requests that change something are being carried out, as many as may"),
            Self::Reads => format!("{MAX_READS} requests that look are being answered, as many as may"),
            Self::Vitals => format!("{MAX_VITALS} requests for the daemon's state are being answered, as many as may"),
            Self::Bodies => "bodies of other requests take all the memory that is for them".to_owned(),
            Self::Connections => format!("{} connections are open, as many as may", super::serve::MAX_CONNECTIONS),
        }
    }
}

/// Marks a webhook that is only listened to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hurried;

/// Room for a request.
#[derive(Debug)]
pub(super) enum Room {
    /// Do all of it.
    Whole(Permit),
    /// Only what costs nothing.
    Hurried(Permit),
}

/// What of the daemon's room one kind of request may hold at once.
#[derive(Debug, Clone)]
pub struct Rations {
    streams: Arc<Semaphore>,
    /// Those of [`Rations::beside`].
    streams_beside: Arc<Semaphore>,
    bells: Arc<Semaphore>,
    hurried_bells: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    vitals: Arc<Semaphore>,
    small_bodies: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
    disk: Arc<Semaphore>,
}

impl Default for Rations {
    fn default() -> Self {
        let room = |permits: usize| Arc::new(Semaphore::new(permits));
        let kib = |permits: u32| room(usize::try_from(permits).unwrap_or(Semaphore::MAX_PERMITS));
        Self {
            streams: room(MAX_STREAMS),
            streams_beside: room(MAX_STREAMS),
            bells: room(MAX_BELLS),
            hurried_bells: room(MAX_HURRIED_BELLS),
            writes: room(MAX_WRITES),
            reads: room(MAX_READS),
            vitals: room(MAX_VITALS),
            small_bodies: kib(SMALL_BODIES),
            large_bodies: kib(LARGE_BODIES),
            disk: room(1),
        }
    }
}

/// Held as long as the room is needed.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

fn one_of(room: &Arc<Semaphore>) -> Option<Permit> {
    Arc::clone(room).try_acquire_owned().ok().map(|permit| Permit { _permit: permit })
}

impl Rations {
    /// For one other way in, which is never too crowded because this one is. What streams is still told of both, and one at a time asks the
    /// file system.
    #[must_use]
    pub fn beside(&self) -> Self {
        let (streams, streams_beside, disk) = (Arc::clone(&self.streams_beside), Arc::clone(&self.streams), Arc::clone(&self.disk));
        Self { streams, streams_beside, disk, ..Self::default() }
    }

    /// Room for one more request.
    ///
    /// # Errors
    /// When as many of its kind are being answered as may.
    pub(super) fn request(&self, traffic: Traffic) -> Result<Room, Problem> {
        let (room, bound) = match traffic {
            Traffic::Bell => (&self.bells, Bound::Bells),
            Traffic::Write => (&self.writes, Bound::Writes),
            Traffic::Read => (&self.reads, Bound::Reads),
            Traffic::Vital => (&self.vitals, Bound::Vitals),
        };
        let whole = one_of(room).map(Room::Whole);
        let hurried = || one_of(&self.hurried_bells).filter(|_| traffic == Traffic::Bell).map(Room::Hurried);
        whole.or_else(hurried).ok_or(Problem::Overloaded(bound))
    }

    /// Room for a body of this size; `None` when it is empty.
    ///
    /// # Errors
    /// When other bodies have it.
    pub(super) fn body(&self, bytes: u64) -> Result<Option<Permit>, Problem> {
        if bytes == 0 {
            return Ok(None);
        }
        let (room, most) = if bytes <= SMALL_BODY { (&self.small_bodies, SMALL_BODIES) } else { (&self.large_bodies, LARGE_BODIES) };
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(most);
        let permit = Arc::clone(room).try_acquire_many_owned(kib).map_err(|_| Problem::Overloaded(Bound::Bodies))?;
        Ok(Some(Permit { _permit: permit }))
    }

    /// Room for one more stream.
    ///
    /// # Errors
    /// When as many are open as may.
    pub fn stream(&self) -> Result<Permit, Problem> {
        one_of(&self.streams).ok_or(Problem::TooManyStreams)
    }

    /// Streams that are open, by either way in.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        [&self.streams, &self.streams_beside].into_iter().map(|room| MAX_STREAMS - room.available_permits()).sum()
    }

    /// The right to ask the file system something; `None` while it has not answered to who asked before.
    #[must_use]
    pub fn look_at_disk(&self) -> Option<Permit> {
        one_of(&self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_come_back() {
        let rations = Rations::default();
        let mut open: Vec<Permit> = (0..MAX_STREAMS).map(|_| rations.stream().expect("room")).collect();
        assert_eq!(rations.stream().err(), Some(Problem::TooManyStreams));
        open.pop();
        assert!(rations.stream().is_ok());
    }

    #[test]
    fn another_way_in_has_room_however_crowded_the_first_is() {
        let network = Rations::default();
        let socket = network.beside();
        let writes: Vec<Room> = (0..MAX_WRITES).map(|_| network.request(Traffic::Write).expect("room")).collect();
        let bodies: Vec<_> = (0..SMALL_BODIES >> 10).map(|_| network.body(SMALL_BODY).expect("room")).collect();
        let streams: Vec<Permit> = (0..MAX_STREAMS).map(|_| network.stream().expect("room")).collect();
        assert!(network.request(Traffic::Write).is_err() && network.body(1).is_err() && network.stream().is_err());
        let held = (socket.request(Traffic::Write).expect("room"), socket.body(1).expect("room"), socket.stream().expect("room"));
        assert_eq!((network.open_streams(), socket.open_streams()), (MAX_STREAMS + 1, MAX_STREAMS + 1));
        drop((writes, bodies, streams, held));
        assert_eq!(network.open_streams(), 0);
    }

    #[test]
    fn each_kind_of_request_has_room_of_its_own_that_comes_back() {
        for (traffic, most, bound) in [
            (Traffic::Bell, MAX_BELLS + MAX_HURRIED_BELLS, Bound::Bells),
            (Traffic::Write, MAX_WRITES, Bound::Writes),
            (Traffic::Read, MAX_READS, Bound::Reads),
            (Traffic::Vital, MAX_VITALS, Bound::Vitals),
        ] {
            let rations = Rations::default();
            let mut held: Vec<Room> = (0..most).map(|_| rations.request(traffic).expect("room")).collect();
            assert_eq!(rations.request(traffic).err(), Some(Problem::Overloaded(bound)));
            for other in [Traffic::Bell, Traffic::Write, Traffic::Read, Traffic::Vital].into_iter().filter(|other| *other != traffic) {
                assert!(matches!(rations.request(other), Ok(Room::Whole(_))), "{other:?} beside {traffic:?}");
            }
            held.pop();
            assert!(rations.request(traffic).is_ok());
        }
    }

    #[test]
    fn webhooks_beyond_those_that_are_taken_in_whole_are_listened_to() {
        let rations = Rations::default();
        let held: Vec<Room> = (0..=MAX_BELLS).map(|_| rations.request(Traffic::Bell).expect("room")).collect();
        assert!(held[..MAX_BELLS].iter().all(|room| matches!(room, Room::Whole(_))));
        assert!(matches!(held[MAX_BELLS], Room::Hurried(_)));
    }

    #[test]
    fn requests_are_told_apart_by_what_they_do() {
        let of = |method: Method, route| Traffic::of(&method, route);
        assert_eq!(of(Method::GET, Some("/health")), Traffic::Vital);
        assert_eq!(of(Method::HEAD, Some("/metrics")), Traffic::Vital);
        assert_eq!(of(Method::POST, Some("/webhook/job")), Traffic::Bell);
        assert_eq!(of(Method::GET, Some("/jobs/{id}")), Traffic::Read);
        assert_eq!(of(Method::HEAD, None), Traffic::Read);
        for method in [Method::POST, Method::DELETE, Method::PATCH] {
            assert_eq!(of(method, Some("/jobs")), Traffic::Write);
        }
    }

    #[test]
    fn bodies_share_memory_and_large_ones_take_none_of_the_small_ones() {
        const LARGEST: u64 = 25 << 20;
        let rations = Rations::default();
        assert!(matches!(rations.body(0), Ok(None)), "no body needs no room");
        let large = [rations.body(LARGEST).expect("room"), rations.body(LARGEST).expect("room")];
        assert_eq!(rations.body(LARGEST).err(), Some(Problem::Overloaded(Bound::Bodies)));
        let small: Vec<_> = (0..32).map(|_| rations.body(SMALL_BODY).expect("room")).collect();
        assert_eq!(rations.body(1).err(), Some(Problem::Overloaded(Bound::Bodies)));
        drop((large, small));
        let huge = rations.body(256 << 20).expect("alone");
        assert!(rations.body(SMALL_BODY + 1).is_err());
        drop(huge);
        assert!(rations.body(LARGEST).is_ok());
    }
}
