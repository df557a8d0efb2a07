//! One round: clients ask, faults strike, everybody is left in peace, and the oracle looks at what became of each job.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clients::Desk;
use crate::faults::{Theme, strike};
use crate::forge::Forge;
use crate::rng::Rng;
use crate::tally::Wrong;
use crate::work::Kind;
use crate::world::World;
use crate::{oracle, quiet, say, setting};

/// How long faults strike in a round.
const SECONDS: u64 = 20;
/// The same in the one that is part of every test run.
const SHORT: u64 = 10;

/// A client of a round: which daemon it speaks to, what is new for each job, and how long the round lasts.
struct Client {
    desk: Desk,
    forge: Forge,
    daemon: usize,
    rng: Rng,
    lasting: Duration,
}

impl Client {
    /// Some moment of the round.
    fn moment(&mut self) -> Duration {
        let millis = u64::try_from(self.lasting.as_millis()).unwrap_or(u64::MAX);
        self.rng.millis(0, millis)
    }

    async fn job(mut self, key: String, cancels: u64) {
        tokio::time::sleep(self.moment()).await;
        let kind = Kind::any(&mut self.rng);
        let Some(id) = self.desk.submit(self.daemon, kind, &key, &mut self.rng).await else { return };
        if self.rng.chance(cancels) {
            tokio::time::sleep(self.rng.millis(0, 4000)).await;
            self.desk.cancel(self.daemon, &id).await;
        }
    }

    async fn job_of_gitlab(mut self, cancels: u64) {
        tokio::time::sleep(self.moment()).await;
        let kind = Kind::plain(&mut self.rng);
        let id = self.forge.queue(self.daemon, kind);
        if self.rng.chance(cancels) {
            tokio::time::sleep(self.rng.millis(0, 4000)).await;
            self.forge.cancel(id);
        }
    }

    async fn operator(mut self, key: String) {
        tokio::time::sleep(self.moment() / 2).await;
        match self.rng.between(0, 3) {
            0 => self.desk.drain(self.daemon, self.rng.clone().millis(100, 3000)).await,
            1 => self.desk.flood(self.daemon, &key, self.rng.clone().millis(300, 2000), &mut self.rng).await,
            _ => {
                for _ in 0..self.rng.between(1, 4) {
                    self.desk.terminate(self.daemon, &mut self.rng).await;
                    tokio::time::sleep(self.rng.millis(100, 2000)).await;
                }
            }
        }
    }
}

fn theme(number: u64) -> Theme {
    let themes = [Theme::Everything, Theme::GitLab, Theme::Daemons, Theme::Everything, Theme::Meddling, Theme::Cancels];
    themes[usize::try_from((number - 1) % 6).unwrap_or(0)]
}

/// One round.
pub(crate) async fn round(world: &mut World, number: u64, rng: &mut Rng) {
    let theme = theme(number);
    let lasting = Duration::from_secs(setting("RC_CHAOS_SECONDS").unwrap_or(if setting("RC_CHAOS_ROUNDS").is_some() { SECONDS } else { SHORT }));
    let (jobs, of_gitlab, cancels) = match theme {
        Theme::Cancels => (500, 4, 85),
        Theme::GitLab => (10, rng.between(15, 30), 10),
        Theme::Daemons | Theme::Everything | Theme::Meddling => (rng.between(20, 40), 8, 10),
    };
    let for_the_time = |jobs: u64| (jobs * lasting.as_secs() / SECONDS).max(4);
    let (jobs, of_gitlab) = (for_the_time(jobs), for_the_time(of_gitlab));
    say(&format!("round {number}: {theme:?}, {jobs} jobs, {of_gitlab} of GitLab"));
    world.daemons.iter_mut().for_each(|daemon| daemon.begin_round(number));
    (world.broken, world.struck_jobs) = Default::default();
    let mut clients = JoinSet::new();
    for job in 0..jobs {
        clients.spawn(client(world, rng, lasting).job(format!("{number}-{job}-{}", rng.next()), cancels));
    }
    for _ in 0..of_gitlab {
        clients.spawn(client(world, rng, lasting).job_of_gitlab(cancels));
    }
    for operator in 0..2 {
        clients.spawn(client(world, rng, lasting).operator(format!("{number}-flood-{operator}-{}", rng.next())));
    }
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        let fault = *rng.weighted(theme.faults());
        let told = strike(world, fault, rng).await;
        say(&format!("  {told}"));
        tokio::time::sleep(rng.millis(0, 900)).await;
    }
    let settled = quiet::settle(world).await;
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client does not die");
    }
    quiet::all_have_ended(world, settled).await;
    let cancels = oracle::judge(world).await;
    if theme == Theme::Cancels && cancels.seem_ignored() {
        world.complain(Wrong::Outcome, format!("cancels were answered and ignored: {cancels:?}"));
    }
}

fn client(world: &World, rng: &mut Rng, lasting: Duration) -> Client {
    let daemon = usize::try_from(rng.between(0, 1)).unwrap_or(0);
    Client { desk: world.desk.clone(), forge: world.forge.clone(), daemon, rng: Rng::new(rng.next()), lasting }
}
