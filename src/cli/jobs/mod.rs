//! `jobs`: submit, watch, read, cancel.

mod explain;
mod follow;
mod history;
mod show;
mod submit;
mod wait;

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Target, segment};
use super::{say, tell_error};
use crate::domain::JobState;

/// What to do with jobs.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// Submit a job and print its id; wait for its end, or follow what it writes, where that is asked for.
    #[command(after_long_help = submit::EXIT_CODES)]
    Submit(Box<submit::Options>),
    /// List jobs, newest first.
    List(List),
    /// Show a job and what has happened to it.
    Show {
        /// Its id.
        id: String,
    },
    /// Print what a job wrote, and with --follow what it will write until it ends.
    Logs(follow::Options),
    /// Cancel jobs. Those that run are stopped.
    Cancel {
        /// Their ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Submit the request of a job that has ended once more, as a new job, and print its id.
    Retry {
        /// Its id.
        id: String,
    },
    /// Tell why a job is where it is: what it lacks, who holds it, and how many go before it.
    Explain {
        /// Its id.
        id: String,
    },
}

/// Which jobs are listed.
#[derive(Debug, Args)]
struct List {
    /// Only jobs in these states, with commas between: queued, starting, running, succeeded, failed, canceled.
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(JobState::NAMES), hide_possible_values = true)]
    state: Vec<String>,
    /// Only jobs of this project.
    #[arg(long)]
    project: Option<String>,
    /// Only jobs of this class.
    #[arg(long)]
    class: Option<String>,
    /// Most jobs that are listed.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Does what was asked of the running daemon.
pub(super) async fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let client = match options.target.client(config) {
        Ok(client) => client,
        Err(error) => return tell_error(&error),
    };
    let target = &options.target;
    match &options.command {
        JobCommand::Submit(submit) => submit::run(&client, submit, target).await,
        JobCommand::Logs(logs) => follow::run(&client, logs).await,
        JobCommand::List(list) => target.tell_list("jobs", found(&client, list).await, show::rows),
        JobCommand::Show { id } if target.json => target.tell(client.get(&path(id, "")).await, |_| Vec::new()),
        JobCommand::Show { id } => target.tell(with_history(&client, id).await, show::lines),
        JobCommand::Cancel { ids } => cancel(&client, ids, target).await,
        JobCommand::Retry { id } => target.tell(client.post(&path(id, "/retry"), None).await, |job| vec![super::render::word(job, "id")]),
        JobCommand::Explain { id } => target.tell(client.get(&path(id, "/explain")).await, explain::lines),
    }
}

/// The path of a job.
fn path(id: &str, rest: &str) -> String {
    format!("/jobs/{}{rest}", segment(id))
}

async fn found(client: &Client, list: &List) -> Result<(Vec<Value>, Value), ClientError> {
    let state = (!list.state.is_empty()).then(|| list.state.join(","));
    let filters = [("state", state.as_deref()), ("project", list.project.as_deref()), ("class", list.class.as_deref())];
    client.list("/jobs", &filters, list.limit).await
}

/// The job and its whole history.
async fn with_history(client: &Client, id: &str) -> Result<Value, ClientError> {
    let job = client.get(&path(id, "")).await?;
    let mut events = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let mut page = client.get(&path(id, &format!("/events?limit=500&after={after}"))).await?;
        events.extend(page["events"].as_array().into_iter().flatten().cloned());
        after = page["next_after"].take();
    }
    Ok(json!({ "job": job, "events": events }))
}

/// Cancels every one, and fails when one could not be.
async fn cancel(client: &Client, ids: &[String], target: &Target) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match client.delete(&path(id, "")).await {
            Ok(job) if target.json => say(&job.to_string()),
            Ok(job) if job["finished_at"].is_null() => say(&format!("{id} is being stopped")),
            Ok(_) => say(&format!("{id} is canceled")),
            Err(error) => code = tell_error(&error),
        }
    }
    code
}
