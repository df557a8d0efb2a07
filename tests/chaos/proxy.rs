//! Stands between a daemon and its engine and meddles: delays, cuts, refuses, answers half, or loses an answer after the engine did as told.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::TaskTracker;

use crate::rng::Rng;

/// What it does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meddle {
    /// It comes late.
    Delay(Duration),
    /// The engine does not hear it.
    Cut,
    /// It is answered 500 and the engine does not hear it.
    Refuse,
    /// Its answer ends in the middle.
    Half,
    /// The engine hears it and its answer is lost.
    Lose,
}

const REFUSAL: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 19\r\nConnection: close\r\n\r\n\
    {\"message\":\"chaos\"}";

/// Meddles with so many of a hundred requests.
#[derive(Debug, Clone, Copy)]
struct Mood {
    meddle: Meddle,
    percent: u64,
}

#[derive(Debug)]
struct State {
    mood: Option<Mood>,
    rng: Rng,
}

/// The proxy.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    socket: PathBuf,
    engine: PathBuf,
    state: Arc<Mutex<State>>,
}

/// What becomes of the answer to the request before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Whole,
    Half,
    None,
}

impl Proxy {
    /// One at `socket` before the engine at `engine`; it serves until the process ends.
    pub(crate) fn start(tasks: &TaskTracker, socket: &Path, engine: &Path, rng: Rng) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let state = Arc::new(Mutex::new(State { mood: None, rng }));
        let proxy = Self { socket: socket.to_owned(), engine: engine.to_owned(), state };
        let (served, connections) = (proxy.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let served = served.clone();
                connections.spawn(async move { served.serve(client).await });
            }
        });
        proxy
    }

    /// Where the daemon finds it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// From now on it does this to so many of a hundred requests.
    pub(crate) fn meddle(&self, meddle: Meddle, percent: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).mood = Some(Mood { meddle, percent });
    }

    /// From now on it hands everything on.
    pub(crate) fn behave(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).mood = None;
    }

    fn next(&self) -> Option<Meddle> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mood = state.mood?;
        state.rng.chance(mood.percent).then_some(mood.meddle)
    }

    async fn serve(&self, mut client: UnixStream) {
        let Ok(mut engine) = UnixStream::connect(&self.engine).await else { return };
        let (mut up, mut down) = (vec![0; 32 * 1024], vec![0; 32 * 1024]);
        let mut answer = Answer::Whole;
        loop {
            // Neither loses anything when the other is first.
            tokio::select! {
                read = client.read(&mut up) => {
                    let Ok(length @ 1..) = read else { return };
                    match self.next() {
                        None => {}
                        Some(Meddle::Delay(delay)) => tokio::time::sleep(delay).await,
                        Some(Meddle::Cut) => return,
                        Some(Meddle::Refuse) => {
                            let _ = client.write_all(REFUSAL).await;
                            return;
                        }
                        Some(Meddle::Half) => answer = Answer::Half,
                        Some(Meddle::Lose) => answer = Answer::None,
                    }
                    if engine.write_all(&up[..length]).await.is_err() {
                        return;
                    }
                }
                read = engine.read(&mut down) => {
                    let Ok(length @ 1..) = read else { return };
                    let told = match answer {
                        Answer::Whole => length,
                        Answer::Half => length / 2,
                        Answer::None => return,
                    };
                    if client.write_all(&down[..told]).await.is_err() || answer == Answer::Half {
                        return;
                    }
                }
            }
        }
    }
}
