//! `gitlab-stand-in`: the tests' stand-in for GitLab as a program of its own, steered with `curl`.
//!
//! Prints its address as the first line of its output, then serves until it is interrupted or terminated.

#[expect(dead_code, unused_imports, reason = "the tests use the whole handle, this program only its control surface")]
#[path = "mod.rs"]
mod gitlab;

use std::io::{self, Write as _};
use std::net::SocketAddr;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for GitLab: runner protocol, Job events, and /control for scripts.
#[derive(Parser)]
struct Options {
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8929")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let options = Options::parse();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let gitlab = gitlab::GitLab::start(options.listen).await?;
    writeln!(io::stdout(), "{}", gitlab.url())?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}
