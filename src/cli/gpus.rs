//! `gpus`: what the running daemon knows of its GPUs, and quarantine by hand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{ClientError, Target, call, segment};
use crate::config::Config;

/// What to do with GPUs.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: GpuCommand,
}

#[derive(Debug, Subcommand)]
enum GpuCommand {
    /// Show every GPU: id, state, model, and why it is given to nobody.
    List,
    /// Give a GPU to no job until it is released. A job that has it goes on.
    Quarantine {
        /// Its id, as `list` shows it.
        id: String,
        /// Why, for those who look later.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a GPU out of quarantine, whoever put it there.
    Release {
        /// Its id.
        id: String,
    },
}

/// Does what was asked of the running daemon.
pub(super) async fn run(config: &Config, options: &Options) -> ExitCode {
    options.target.tell(ask(config, options).await, lines)
}

async fn ask(config: &Config, options: &Options) -> Result<Value, ClientError> {
    let target = &options.target;
    match &options.command {
        GpuCommand::List => {
            let mut hosts = call(config, target, "GET", "/hosts", None).await?;
            Ok(json!({ "gpus": hosts["hosts"][0]["gpus"]["devices"].take() }))
        }
        GpuCommand::Quarantine { id, reason } => {
            let body = reason.as_ref().map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            call(config, target, "POST", &format!("/gpus/{}/quarantine", segment(id)), Some(&body)).await
        }
        GpuCommand::Release { id } => call(config, target, "POST", &format!("/gpus/{}/release", segment(id)), None).await,
    }
}

/// One line for each GPU of a list, or for the only one.
fn lines(answer: &Value) -> Vec<String> {
    let all = answer["gpus"].as_array().map_or_else(|| vec![answer], |gpus| gpus.iter().collect());
    if all.is_empty() {
        return vec!["this machine has no GPU".to_owned()];
    }
    let word = |gpu: &Value, field: &str| gpu[field].as_str().unwrap_or_default().to_owned();
    let widest = all.iter().map(|gpu| word(gpu, "id").len()).max().unwrap_or(0);
    let line = |gpu: &&Value| {
        let state = gpu["state"].as_str().unwrap_or("not there");
        format!("{:widest$}  {state:11}  {}  {}", word(gpu, "id"), word(gpu, "model"), word(gpu, "reason")).trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_single_gpu_are_lines() {
        let list = json!({ "gpus": [
            { "id": "GPU-1", "state": "free", "model": "NVIDIA A100", "reason": null },
            { "id": "amd-0000:03:00.0", "state": "quarantined", "model": null, "reason": "in quarantine by hand: hot" },
        ]});
        assert_eq!(lines(&list), ["GPU-1             free         NVIDIA A100", "amd-0000:03:00.0  quarantined    in quarantine by hand: hot"]);
        assert_eq!(lines(&json!({ "id": "GPU-1", "state": null })), ["GPU-1  not there"]);
        assert_eq!(lines(&json!({ "gpus": [] })), ["this machine has no GPU"]);
    }
}
