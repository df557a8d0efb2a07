//! Where the daemon is met: the TCP address of `http.listen` and, where `http.socket` names one, a Unix socket. Either may be opened by
//! systemd and handed over (socket activation), so that requests wait for a daemon that is being restarted.
//!
//! A TCP listener's callers show tokens. Who may connect to the Unix socket is decided by its file's mode and nothing else, so that mode is
//! right from the first moment, and a socket that everybody may open is not taken over.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::Http;

/// Mode of the Unix socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;
/// What lets everybody connect.
const OTHERS_MAY_WRITE: u32 = 0o002;
/// Name of the TCP listener in `FileDescriptorName=`.
const HTTP: &str = "http";
/// Name of the Unix socket in `FileDescriptorName=`.
const SOCKET: &str = "socket";

/// Why the daemon cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken or not ours.
    #[error("http.listen {address} cannot be listened on")]
    Address {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket's file cannot be made.
    #[error("http.socket {} cannot be listened on", path.display())]
    Socket {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another daemon lives.
    #[error("http.socket {}: another daemon answers there; stop it, or choose another path", .0.display())]
    Answered(PathBuf),
    /// Something else stands there.
    #[error("http.socket {}: what is there is no socket and is left alone; move it away, or choose another path", .0.display())]
    NoSocket(PathBuf),
    /// The variables of the service manager make no sense.
    #[error("the sockets that the service manager hands over cannot be used (LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES)")]
    HandOver(#[source] io::Error),
    /// It is not what it should be.
    #[error("the socket \"{name}\" that the service manager hands over must be {needed}")]
    Kind {
        /// Its `FileDescriptorName=`.
        name: String,
        /// What it has to be.
        needed: &'static str,
    },
    /// Nobody can tell what it is for.
    #[error(
        "the service manager hands over \"{name}\" beside another of its kind: set FileDescriptorName=http for the TCP listener, socket for the Unix one, and no more than one of each"
    )]
    Ambiguous {
        /// Its `FileDescriptorName=`.
        name: String,
    },
    /// Everyone could run jobs.
    #[error("the service manager hands over {0}, which is not a loopback address, and there is no [[http.tokens]]: everyone could run jobs")]
    Exposed(SocketAddr),
    /// Everyone on this machine could run jobs.
    #[error("the service manager hands over the socket {path}, to which everybody may connect and run jobs: set SocketMode=0660")]
    OpenToAll {
        /// Where it is, or that it has no file.
        path: String,
    },
}

/// Sockets that the service manager opened for us.
#[derive(Debug, Default)]
pub struct Inherited {
    http: Option<StdTcpListener>,
    socket: Option<StdUnixListener>,
}

impl Inherited {
    /// Takes them over, where there are any. Only once, and before there are threads: the variables that announce them are taken away.
    ///
    /// # Errors
    /// When one is not a listening TCP or Unix socket, or it cannot be told what it is for.
    pub fn take() -> Result<Self, ListenError> {
        // This one checks LISTEN_PID and reads the names, the other makes owned descriptors of their numbers.
        let names: Vec<String> = sd_notify::listen_fds_with_names().map_err(ListenError::HandOver)?.map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut descriptors = ListenFd::from_env();
        let mut offers = Vec::new();
        for (at, name) in names.into_iter().enumerate() {
            offers.push(Offer { socket: offered(&mut descriptors, at, &name)?, name });
        }
        assign(offers)
    }
}

/// One socket that is handed over.
#[derive(Debug)]
struct Offer {
    name: String,
    socket: Offered,
}

#[derive(Debug)]
enum Offered {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// The descriptor at a place, when it listens.
fn offered(descriptors: &mut ListenFd, at: usize, name: &str) -> Result<Offered, ListenError> {
    let wrong = |needed| ListenError::Kind { name: name.to_owned(), needed };
    let offered = match (descriptors.take_tcp_listener(at), descriptors.take_unix_listener(at)) {
        (Ok(Some(listener)), _) => Offered::Tcp(listener),
        (_, Ok(Some(listener))) => Offered::Unix(listener),
        _ => return Err(wrong("a TCP or a Unix stream socket")),
    };
    let descriptor = match &offered {
        Offered::Tcp(listener) => listener.as_fd(),
        Offered::Unix(listener) => listener.as_fd(),
    };
    match rustix::net::sockopt::socket_acceptconn(descriptor) {
        Ok(true) => Ok(offered),
        Ok(false) | Err(_) => Err(wrong("a socket that listens, not one of its connections: set Accept=no")),
    }
}

/// Which one is for what: by its name, or because it is the only one of its kind.
fn assign(offers: Vec<Offer>) -> Result<Inherited, ListenError> {
    let mut taken = Inherited::default();
    for Offer { name, socket } in offers {
        let doubled = match socket {
            Offered::Unix(_) if name == HTTP => return Err(ListenError::Kind { name, needed: "a TCP socket" }),
            Offered::Tcp(_) if name == SOCKET => return Err(ListenError::Kind { name, needed: "a Unix stream socket" }),
            Offered::Tcp(listener) => taken.http.replace(listener).is_some(),
            Offered::Unix(listener) => taken.socket.replace(listener).is_some(),
        };
        if doubled {
            return Err(ListenError::Ambiguous { name });
        }
    }
    Ok(taken)
}

/// Where the daemon is met.
#[derive(Debug)]
pub struct Listeners {
    /// For everybody, by token.
    pub http: TcpListener,
    /// Its address.
    pub address: SocketAddr,
    /// For whom the file's mode lets in.
    pub socket: Option<LocalSocket>,
}

/// A Unix socket that listens.
#[derive(Debug)]
pub struct LocalSocket {
    /// The listener.
    pub listener: UnixListener,
    /// Where it is.
    pub path: PathBuf,
    /// Its file, which goes with this value; `None` where it is the service manager's.
    pub file: Option<SocketFile>,
}

/// Opens what was not handed over.
///
/// # Errors
/// When an address or a path cannot be had, or what was handed over lets everybody in.
pub async fn open(http: &Http, inherited: Inherited) -> Result<Listeners, ListenError> {
    let failed = |source| ListenError::Address { address: http.listen, source };
    let listener = match inherited.http {
        Some(listener) => taken_over(listener).map_err(ListenError::HandOver)?,
        None => TcpListener::bind(http.listen).await.map_err(failed)?,
    };
    let address = listener.local_addr().map_err(failed)?;
    if http.tokens.is_empty() && !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::Exposed(address));
    }
    let socket = match (inherited.socket, &http.socket) {
        (Some(listener), _) => Some(guarded(listener)?),
        (None, Some(path)) => Some(bind(path).await?),
        (None, None) => None,
    };
    Ok(Listeners { http: listener, address, socket })
}

fn taken_over(listener: StdTcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A Unix socket that was handed over, if its file keeps others out.
fn guarded(listener: StdUnixListener) -> Result<LocalSocket, ListenError> {
    let address = listener.local_addr().map_err(ListenError::HandOver)?;
    let Some(path) = address.as_pathname() else { return Err(ListenError::OpenToAll { path: "without a file".to_owned() }) };
    let mode = std::fs::metadata(path).map_err(ListenError::HandOver)?.mode();
    if mode & OTHERS_MAY_WRITE != 0 {
        return Err(ListenError::OpenToAll { path: path.display().to_string() });
    }
    let taken = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener)).map_err(ListenError::HandOver)?;
    Ok(LocalSocket { listener: taken, path: path.to_path_buf(), file: None })
}

/// Makes the socket beside its path and moves it there when its mode is right, over one that a dead daemon left.
async fn bind(path: &Path) -> Result<LocalSocket, ListenError> {
    let failed = |source| ListenError::Socket { path: path.to_path_buf(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(ListenError::NoSocket(path.to_path_buf())),
        // Whatever else an attempt to connect brings, somebody is there.
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(_) | Err(_) => return Err(ListenError::Answered(path.to_path_buf())),
        },
    }
    // Nobody else gets into the directory in which it is made, whatever its mode is at first.
    let mut room = path.as_os_str().to_owned();
    room.push(format!(".{}", std::process::id()));
    let room = PathBuf::from(room);
    // One that a process of the same number left when it was killed.
    let _ = std::fs::remove_dir_all(&room);
    std::fs::DirBuilder::new().mode(0o700).create(&room).map_err(failed)?;
    let new = room.join("s");
    let made = UnixListener::bind(&new).and_then(|listener| Ok((listener, settle(&new, path)?)));
    let _ = std::fs::remove_dir_all(&room);
    let (listener, file) = made.map_err(failed)?;
    Ok(LocalSocket { listener, path: path.to_path_buf(), file: Some(file) })
}

fn settle(new: &Path, path: &Path) -> io::Result<SocketFile> {
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    std::fs::rename(new, path)?;
    let made = std::fs::symlink_metadata(path)?;
    Ok(SocketFile { path: path.to_path_buf(), id: (made.dev(), made.ino()) })
}

/// The file of a Unix socket of ours, removed when this is dropped, unless another daemon has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.id);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the socket's file cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests;
