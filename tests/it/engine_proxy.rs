//! Stands between a daemon and its engine, and can kill the daemon at any request: before the engine hears it, or when it has answered and
//! the daemon does not know. So every word to the engine is a place to die, and the product needs no code for it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// When the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The engine has not heard the request.
    Before,
    /// The engine has answered, and the daemon has not heard it.
    After,
}

/// What becomes of a request in place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// Nothing: the engine does not hear it, and nobody is answered until it is let go.
    Hang,
    /// The same, once; the next such request is answered.
    HangOnce,
    /// The engine refuses.
    Refuse,
}

#[derive(Debug, Default)]
struct State {
    spoiled: Vec<(String, Spoil)>,
    spoils: u32,
    /// Ours to the engine, those that are closed among them.
    open: Vec<UnixStream>,
    seen: Vec<String>,
    armed: Option<(String, Moment, u32)>,
    struck: bool,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    state: Mutex<State>,
    let_go: Condvar,
}

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    _directory: TempDir,
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    /// One before the tests' engine.
    pub(crate) fn start() -> Self {
        let engine = super::harness::engine::host();
        let engine = PathBuf::from(engine.strip_prefix("unix://").expect("the tests' engine has a socket"));
        let directory = TempDir::with_prefix("rc-proxy-").expect("a directory");
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let shared = Arc::new(Shared { engine, state: Mutex::default(), let_go: Condvar::new() });
        let served = Arc::clone(&shared);
        // It ends with the test's process.
        std::thread::spawn(move || listener.incoming().flatten().for_each(|client| served.serve(client)));
        Self { _directory: directory, socket, shared }
    }

    /// Where the daemon finds it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The requests since the last time that this was asked, each once, without ids.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().seen)
    }

    /// Spoils these requests from now on.
    pub(crate) fn spoil(&self, requests: &[&str], how: Spoil) {
        let mut state = self.shared.state();
        state.spoiled = requests.iter().map(|request| ((*request).to_owned(), how)).collect();
        state.spoils = 0;
    }

    /// Breaks off every connection.
    pub(crate) fn cut(&self) {
        for stream in std::mem::take(&mut self.shared.state().open) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many requests were spoiled since.
    pub(crate) fn spoils(&self) -> u32 {
        self.shared.state().spoils
    }

    /// Spoils nothing any more; connections that hang break off.
    pub(crate) fn let_go(&self) {
        self.shared.state().spoiled.clear();
        self.shared.let_go.notify_all();
    }

    /// The process dies at its next such request.
    pub(crate) fn kill_at(&self, request: &str, moment: Moment, process: u32) {
        let mut state = self.shared.state();
        state.armed = Some((request.to_owned(), moment, process));
        state.struck = false;
    }

    /// Whether it did.
    pub(crate) fn has_killed(&self) -> bool {
        self.shared.state().struck
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, client: UnixStream) {
        let engine = UnixStream::connect(&self.engine).expect("the engine listens");
        self.state().open.push(copy_of(&engine));
        let dies = Arc::new(AtomicBool::new(false));
        let (answers, shared) = (Pipe { from: copy_of(&engine), to: copy_of(&client) }, Arc::clone(self));
        let told = Arc::clone(&dies);
        std::thread::spawn(move || shared.answer(answers, &told));
        let (requests, shared) = (Pipe { from: client, to: engine }, Arc::clone(self));
        std::thread::spawn(move || shared.ask(requests, &dies));
    }

    /// Hands requests to the engine, one by one.
    fn ask(&self, mut pipe: Pipe, dies: &AtomicBool) {
        let mut bytes = Vec::new();
        while let Some((name, length)) = pipe.request(&mut bytes) {
            match self.meet(&name) {
                Some((Moment::Before, process)) => return self.strike(&pipe, process),
                Some((Moment::After, _)) => dies.store(true, Ordering::SeqCst),
                None => {}
            }
            match self.spoil(&name) {
                Some(Spoil::Hang | Spoil::HangOnce) => {
                    let held = self.let_go.wait_while(self.state(), |state| !state.spoiled.is_empty());
                    drop(held.unwrap_or_else(PoisonError::into_inner));
                    break;
                }
                Some(Spoil::Refuse) => {
                    let refusal =
                        "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{\"message\":\"spoiled\"}";
                    if pipe.from.write_all(refusal.as_bytes()).is_err() {
                        break;
                    }
                    bytes.drain(..length);
                    continue;
                }
                None => {}
            }
            if pipe.to.write_all(&bytes[..length]).is_err() {
                break;
            }
            bytes.drain(..length);
        }
        pipe.close();
    }

    /// Hands answers to the daemon.
    fn answer(&self, mut pipe: Pipe, dies: &AtomicBool) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = pipe.from.read(&mut bytes) {
            if dies.load(Ordering::SeqCst) {
                let process = self.state().armed.as_ref().map(|(_, _, process)| *process);
                // Another connection was quicker.
                let Some(process) = process else { break };
                return self.strike(&pipe, process);
            }
            if pipe.to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        pipe.close();
    }

    fn spoil(&self, name: &str) -> Option<Spoil> {
        let mut state = self.state();
        let (_, how) = state.spoiled.iter().find(|(spoiled, _)| spoiled == name)?.clone();
        if how == Spoil::HangOnce && state.spoils > 0 {
            return None;
        }
        state.spoils += 1;
        Some(how)
    }

    fn meet(&self, name: &str) -> Option<(Moment, u32)> {
        let mut state = self.state();
        if !state.seen.iter().any(|seen| seen == name) {
            state.seen.push(name.to_owned());
        }
        let struck = state.struck;
        state.armed.as_ref().filter(|(at, ..)| at == name && !struck).map(|(_, moment, process)| (*moment, *process))
    }

    fn strike(&self, pipe: &Pipe, process: u32) {
        let mut state = self.state();
        if !state.struck {
            let process = rustix::process::Pid::from_raw(i32::try_from(process).expect("a process")).expect("a process");
            rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("killed");
            state.armed = None;
            state.struck = true;
        }
        drop(state);
        pipe.close();
    }
}

fn copy_of(stream: &UnixStream) -> UnixStream {
    stream.try_clone().expect("a copy")
}

/// One direction of a connection.
struct Pipe {
    from: UnixStream,
    to: UnixStream,
}

impl Pipe {
    /// Reads until `bytes` begins with a whole request: its name, and how long it is. `None` at the end.
    fn request(&mut self, bytes: &mut Vec<u8>) -> Option<(String, usize)> {
        let mut more = [0; 16 * 1024];
        loop {
            if let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
                assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "bodies have a length: {text}");
                let body = text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
                let length = head + 4 + body.unwrap_or(0);
                if bytes.len() >= length {
                    return Some((name(&text), length));
                }
            }
            match self.from.read(&mut more) {
                Ok(length @ 1..) => bytes.extend_from_slice(&more[..length]),
                Ok(0) | Err(_) => return None,
            }
        }
    }

    fn close(&self) {
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }
}

/// `DELETE /containers/*` of `DELETE /v1.41/containers/0123…?force=true HTTP/1.1`.
fn name(head: &str) -> String {
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
    let path = path.split('?').next().unwrap_or(path);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && !part.starts_with("v1.")).collect();
    let known = |part: &&str| part.len() < 20 && part.chars().all(|c| c.is_ascii_lowercase()) || part.starts_with('_');
    let last = parts.len().saturating_sub(1);
    let shown = parts.iter().enumerate().map(|(at, part)| if at == 0 || at == last && known(part) { part } else { "*" });
    format!("{method} /{}", shown.collect::<Vec<_>>().join("/"))
}
