//! What packages install beside the program: completions of shells and manual pages, made from the definition of the command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{complain, say};

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_parser = clap::value_parser!(Shell))]
    shell: Shell,
}

/// Where the manual pages go.
#[derive(Debug, Args)]
pub(super) struct Manual {
    /// A directory for the pages of every command, made if need be; without it the first page is printed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the completions.
pub(super) fn completions(mut command: Command, options: &Completions) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    written(std::io::stdout().write_all(&script))
}

/// Prints the manual page of the program, or writes all pages.
pub(super) fn manual(command: Command, options: &Manual) -> ExitCode {
    let Some(directory) = &options.out else {
        let mut page = Vec::new();
        return written(clap_mangen::Man::new(command).render(&mut page).and_then(|()| std::io::stdout().write_all(&page)));
    };
    match write_all(command, directory) {
        Ok(()) => {
            say(&format!("the pages are in {}", directory.display()));
            ExitCode::SUCCESS
        }
        Err(error) => complain(&format!("{} cannot be written: {error}", directory.display())),
    }
}

/// One page for each command, named as `man` looks for it: `runner-coordinator-jobs-submit.1`.
fn write_all(command: Command, directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
}

fn written(result: std::io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => complain(&format!("standard output cannot be written: {error}")),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// The name of every command with those above it, `-` between.
    fn names(command: &Command, above: &str) -> BTreeSet<String> {
        let name = if above.is_empty() { command.get_name().to_owned() } else { format!("{above}-{}", command.get_name()) };
        command.get_subcommands().flat_map(|inner| names(inner, &name)).chain([name.clone()]).collect()
    }

    #[test]
    fn every_command_has_its_page() {
        let directory = tempfile::tempdir().expect("a directory");
        write_all(Cli::command(), directory.path()).expect("written");
        let pages = std::fs::read_dir(directory.path()).expect("read").map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        let expected = names(&Cli::command(), "").into_iter().map(|name| format!("{name}.1"));
        assert_eq!(pages.collect::<BTreeSet<_>>(), expected.collect::<BTreeSet<_>>());
        let page = std::fs::read_to_string(directory.path().join("runner-coordinator-jobs-submit.1")).expect("a page");
        assert!(page.contains("idempotency\\-key") && page.contains("Exit codes:"), "{page}");
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "runner-coordinator", &mut script);
            let script = String::from_utf8(script).expect("text");
            for word in ["quarantine", "submit", "terminate", "drain", "teardown", "token-file"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_and_option_is_explained() {
        fn unexplained(command: &Command, path: &str) -> Vec<String> {
            let path = format!("{path} {}", command.get_name());
            let options =
                command.get_arguments().filter(|argument| argument.get_help().is_none()).map(|argument| format!("{path} {}", argument.get_id()));
            let own = command.get_about().is_none().then(|| path.clone());
            command.get_subcommands().flat_map(|inner| unexplained(inner, &path)).chain(options).chain(own).collect()
        }
        assert_eq!(unexplained(&Cli::command(), ""), Vec::<String>::new());
    }
}
