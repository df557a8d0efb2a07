//! `runners`: the containers that work, or wait for work.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::{Target, segment};
use super::render::{Cell, bytes, span, table, time, word, words};
use super::{now, tell_error};
use crate::domain::RunnerState;

/// What to do with runners.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: RunnerCommand,
}

#[derive(Debug, Subcommand)]
enum RunnerCommand {
    /// List runners, newest first. Those that are gone are listed with --state gone only.
    List {
        /// Only runners in these states, with commas between: starting, idle, busy, stopping, lost, gone.
        #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(RunnerState::NAMES), hide_possible_values = true)]
        state: Vec<String>,
        /// Only runners of this class.
        #[arg(long)]
        class: Option<String>,
        /// Most runners that are listed.
        #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Start a runner that waits for GitLab's jobs of a class.
    Spawn {
        /// The class; it must have a `gitlab_token`.
        class: String,
    },
    /// End a runner. Its job, if it has one, ends with `runner_terminated`.
    Terminate {
        /// Its id.
        id: String,
    },
}

/// Does what was asked of the running daemon.
pub(super) async fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let target = &options.target;
    let client = match target.client(config) {
        Ok(client) => client,
        Err(error) => return tell_error(&error),
    };
    match &options.command {
        RunnerCommand::List { state, class, limit } => {
            let state = (!state.is_empty()).then(|| state.join(","));
            let filters = [("state", state.as_deref()), ("class", class.as_deref())];
            let found = client.list("/runners", &filters, *limit).await;
            target.tell_list("runners", found, |runners| rows(runners, now()))
        }
        RunnerCommand::Spawn { class } => {
            target.tell(client.post("/runners", Some(&json!({ "class": class }))).await, |runner| vec![word(runner, "id")])
        }
        RunnerCommand::Terminate { id } => {
            let answer = client.delete(&format!("/runners/{}", segment(id))).await;
            target.tell(answer, |runner| vec![format!("{} is {}", word(runner, "id"), word(runner, "state"))])
        }
    }
}

fn rows(runners: &[Value], now: Timestamp) -> Vec<String> {
    if runners.is_empty() {
        return vec!["there are no such runners".to_owned()];
    }
    let row = |runner: &Value| -> [Cell; 10] {
        [
            word(runner, "id").into(),
            Cell::state(&word(runner, "state")),
            word(runner, "class").into(),
            word(runner, "origin").into(),
            word(runner, "job_id").into(),
            time(&runner["created_at"]).map_or(String::new(), |at| span(at, now)).into(),
            runner["cpu_percent"].as_f64().map_or(String::new(), |percent| format!("{percent:.0} %")).into(),
            runner["memory_bytes"].as_u64().map_or(String::new(), bytes).into(),
            words(runner, "devices").into(),
            word(runner, "reason").into(),
        ]
    };
    table(["ID", "STATE", "CLASS", "ORIGIN", "JOB", "AGE", "CPU", "MEMORY", "GPUS", "REASON"], &runners.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_are_rows() {
        let runners = [
            json!({"id": "r1", "state": "busy", "class": "gpu", "origin": "job", "job_id": "j1", "created_at": "2026-11-18T11:00:00Z",
                "cpu_percent": 153.2, "memory_bytes": 1_610_612_736_u64, "devices": ["GPU-1"], "reason": null}),
            json!({"id": "r2", "state": "idle", "class": "gitlab", "origin": "pool", "job_id": null, "created_at": "2026-11-18T10:00:00Z",
                "cpu_percent": null, "memory_bytes": null, "devices": [], "reason": null}),
        ];
        let lines = rows(&runners, "2026-11-18T11:02:00Z".parse().expect("a time"));
        insta::assert_snapshot!(anstream::adapter::strip_str(&lines.join("\n")).to_string(), @r"
        ID  STATE  CLASS   ORIGIN  JOB  AGE    CPU    MEMORY   GPUS
        r1  busy   gpu     job     j1   2m     153 %  1.5 GiB  GPU-1
        r2  idle   gitlab  pool         1h 2m
        ");
        assert_eq!(rows(&[], Timestamp::UNIX_EPOCH), ["there are no such runners"]);
    }
}
