//! Asks a person: for the administrator's token, without showing it, and for a yes.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::SecretString;

use super::SetupError;
use crate::cli::check::TOKEN_VARIABLE;
use crate::config::{read_secret_file, secret_of_env};

/// The administrator's token: from the file, else the environment, else a person, else the standard input. Kept nowhere.
pub(super) fn administrators_token(file: Option<&Path>) -> Result<SecretString, SetupError> {
    if let Some(file) = file {
        return read_secret_file(file).map_err(|error| SetupError::Words(format!("--token-file {error}")));
    }
    if let Some(token) = secret_of_env(TOKEN_VARIABLE) {
        return Ok(token);
    }
    let token = if io::stdin().is_terminal() {
        prompt("An access token of GitLab (scopes create_runner, manage_runner and api; it is not kept): ");
        unseen_line()
    } else {
        line()
    }?;
    if token.is_empty() {
        let how = format!("give it in {TOKEN_VARIABLE}, with --token-file, or on the standard input");
        return Err(SetupError::Words(format!("an administrator's access token of GitLab is needed: {how}")));
    }
    Ok(SecretString::from(token))
}

/// Whether a person says yes; nobody says yes without a terminal.
pub(super) fn agreed(question: &str) -> Result<Agreed, SetupError> {
    if !io::stdin().is_terminal() {
        return Ok(Agreed::No);
    }
    prompt(&format!("{question} Type yes: "));
    Ok(if line()? == "yes" { Agreed::Yes } else { Agreed::No })
}

/// A person's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    Yes,
    No,
}

fn prompt(text: &str) {
    let mut out = io::stderr();
    // Without a prompt the answer is still read.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line() -> Result<String, SetupError> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|source| SetupError::Words(format!("the standard input cannot be read: {source}")))?;
    Ok(line.trim().to_owned())
}

/// A line that the terminal does not show while it is typed.
fn unseen_line() -> Result<String, SetupError> {
    let silent = |source| SetupError::Words(format!("the terminal cannot be made silent: {source}"));
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(silent)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    quiet.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(silent)?;
    let line = line();
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(silent)?;
    line
}
