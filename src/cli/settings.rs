//! `config`: what the keys of the configuration mean, for who has a shell and no browser.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::say;
use crate::config::reference::{Key, REFERENCE};

/// What to do with the configuration.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default and its meaning, or those that have a text in their name.
    Reference {
        /// A part of the name, such as `gpu` or `limits.log`.
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
}

/// Does what was asked.
pub(super) fn run(options: &Options) -> ExitCode {
    let ConfigCommand::Reference { name } = &options.command;
    let found: Vec<String> = REFERENCE.iter().flat_map(|part| part.keys).filter(|key| key.name.contains(name.as_str())).map(entry).collect();
    if found.is_empty() {
        say(&format!("no key has {name:?} in its name; `runner-coordinator config reference` prints all"));
        return ExitCode::FAILURE;
    }
    say(&found.join("\n"));
    ExitCode::SUCCESS
}

fn entry(key: &Key) -> String {
    let names: Vec<String> = key.names().collect();
    format!("{}\n    default: {}\n    {}\n", names.join(", "), key.plain_default(), key.plain_meaning())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_with_its_twin_its_default_and_its_meaning() {
        let token = REFERENCE.iter().flat_map(|part| part.keys).find(|key| key.name == "gitlab.read_token").expect("a key");
        let told = entry(token);
        assert!(told.starts_with("gitlab.read_token, gitlab.read_token_file\n    default: none\n    access token"), "{told}");
        assert!(!told.contains('`') && !told.contains("]("), "{told}");
    }
}
