//! The witness: jobs tell it of their beginning, of their life and of their end, and go on only when it has heard them. So it knows what ran
//! without asking the daemon or the engine.
//!
//! A job says `WHAT NONCE CONTAINER JOB MACHINE:GPU`; the nonce is new for each run of its script. What is heard is numbered in the order in which
//! connections came, so that a word of one run after the beginning of another one proves that both were alive at once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// Where jobs find it, on the gateway of any network. Below the range from which systems take ports by themselves.
pub(crate) const PORT: u16 = 18_999;
/// What lets them, in the settings of a class.
pub(crate) const REACHED: &str = "network_allow = [\"0.0.0.0/0:18999\"]\n";
/// How long a word may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One run of a job's script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) nonce: String,
    /// The first twelve digits of the container's id.
    pub(crate) container: String,
    /// The GPU that it sees, and whose; without one only whose.
    pub(crate) gpu: String,
    pub(crate) began: u64,
    /// The latest that was heard of it.
    pub(crate) last: u64,
    pub(crate) ended: Option<u64>,
}

#[derive(Debug, Default)]
struct Heard {
    lives: HashMap<String, Vec<Life>>,
    /// Jobs of which nothing more may be heard.
    over: HashSet<String>,
    late: Vec<String>,
}

/// What was heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Heard>>);

impl Witness {
    /// Listens until the process ends.
    pub(crate) async fn listen(tasks: &TaskTracker) -> Self {
        let witness = Self::default();
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await.expect("the witness's port is free");
        let (heard, words) = (witness.clone(), tasks.clone());
        tasks.spawn(async move {
            for number in 1_u64.. {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let heard = heard.clone();
                words.spawn(async move { tokio::time::timeout(PATIENCE, heard.hear(number, stream)).await });
            }
        });
        witness
    }

    async fn hear(&self, number: u64, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        // Whoever died in the middle of a word has not said it.
        let words: Vec<&str> = line.split_whitespace().collect();
        if let (true, [what, nonce, container, job, gpu]) = (line.ends_with('\n'), words.as_slice()) {
            self.lock().note(number, what, [nonce, container, job, gpu]);
            stream.write_all(b"ok\n").await?;
        }
        stream.shutdown().await
    }

    /// What ran of a job.
    pub(crate) fn lives(&self, job: &str) -> Vec<Life> {
        self.lock().lives.get(job).cloned().unwrap_or_default()
    }

    /// From now on nothing may be heard of the job; what was heard is forgotten.
    pub(crate) fn is_over(&self, job: &str) {
        let mut heard = self.lock();
        heard.lives.remove(job);
        heard.over.insert(job.to_owned());
    }

    /// What was heard of jobs that are over.
    pub(crate) fn late(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().late)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn note(&mut self, number: u64, what: &str, [nonce, container, job, gpu]: [&str; 4]) {
        if self.over.contains(job) {
            self.late.push(format!("{what} of {job} in {container}"));
            return;
        }
        let lives = self.lives.entry(job.to_owned()).or_default();
        let at = lives.iter().position(|life| life.nonce == nonce).unwrap_or_else(|| {
            let life =
                Life { nonce: nonce.to_owned(), container: container.to_owned(), gpu: gpu.to_owned(), began: number, last: number, ended: None };
            lives.push(life);
            lives.len() - 1
        });
        let life = &mut lives[at];
        life.began = life.began.min(number);
        life.last = life.last.max(number);
        if what == "end" {
            life.ended.get_or_insert(number);
        }
    }
}

/// Two runs that were alive at once.
pub(crate) fn overlap(lives: &[Life]) -> Option<(&Life, &Life)> {
    let pairs = lives.iter().flat_map(|one| lives.iter().map(move |other| (one, other)));
    pairs.into_iter().find(|(one, other)| one.nonce != other.nonce && one.began < other.began && one.last > other.began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_after_anothers_beginning_is_an_overlap_and_one_before_it_is_none() {
        let mut heard = Heard::default();
        heard.note(1, "begin", ["a", "c1", "job", "0:"]);
        heard.note(2, "alive", ["a", "c1", "job", "0:"]);
        heard.note(3, "begin", ["b", "c2", "job", "0:"]);
        heard.note(4, "end", ["b", "c2", "job", "0:"]);
        assert_eq!(overlap(&heard.lives["job"]), None);
        heard.note(5, "alive", ["a", "c1", "job", "0:"]);
        assert!(overlap(&heard.lives["job"]).is_some());
        heard.over.insert("job".to_owned());
        heard.note(6, "alive", ["a", "c1", "job", "0:"]);
        assert_eq!(heard.late.len(), 1);
    }
}
