//! `gpus`: what the running daemon knows of its GPUs, and quarantine by hand.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Target, segment};
use super::render::{Cell, bytes, table, word};
use super::tell_error;

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
pub(super) async fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let target = &options.target;
    match target.client(config) {
        Ok(client) => target.tell(ask(&client, &options.command).await, lines),
        Err(error) => tell_error(&error),
    }
}

async fn ask(client: &Client, command: &GpuCommand) -> Result<Value, ClientError> {
    match command {
        GpuCommand::List => {
            let mut hosts = client.get("/hosts").await?;
            Ok(json!({ "gpus": hosts["hosts"][0]["gpus"]["devices"].take() }))
        }
        GpuCommand::Quarantine { id, reason } => {
            let body = reason.as_ref().map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
            client.post(&format!("/gpus/{}/quarantine", segment(id)), Some(&body)).await
        }
        GpuCommand::Release { id } => client.post(&format!("/gpus/{}/release", segment(id)), None).await,
    }
}

/// A list, or the only one.
fn lines(answer: &Value) -> Vec<String> {
    rows(answer.get("gpus").unwrap_or(&Value::Array(vec![answer.clone()])))
}

/// GPUs, one in a row.
pub(super) fn rows(gpus: &Value) -> Vec<String> {
    let all = gpus.as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return vec!["this machine has no GPU".to_owned()];
    }
    let row = |gpu: &Value| -> [Cell; 7] {
        let of = |used: &str, whole: &str| match (gpu[used].as_u64(), gpu[whole].as_u64()) {
            (Some(used), Some(whole)) => format!("{} of {}", bytes(used), bytes(whole)),
            (None, Some(whole)) => bytes(whole),
            (_, None) => String::new(),
        };
        let number = |field: &str, unit: &str| gpu[field].as_u64().map_or(String::new(), |number| format!("{number} {unit}"));
        [
            word(gpu, "id").into(),
            Cell::state(gpu["state"].as_str().unwrap_or("not there")),
            word(gpu, "model").into(),
            of("memory_used_bytes", "memory_bytes").into(),
            number("utilization_percent", "%").into(),
            number("temperature_celsius", "°C").into(),
            word(gpu, "reason").into(),
        ]
    };
    table(["GPU", "STATE", "MODEL", "MEMORY", "BUSY", "TEMPERATURE", "WHY"], &all.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_single_gpu_are_rows() {
        let list = json!({ "gpus": [
            { "id": "GPU-1", "state": "free", "model": "NVIDIA A100", "reason": null, "memory_bytes": 85_899_345_920_u64, "memory_used_bytes": null,
              "utilization_percent": 0, "temperature_celsius": 31 },
            { "id": "amd-0000:03:00.0", "state": "quarantined", "model": null, "reason": "in quarantine by hand: hot" },
        ]});
        let plain = |answer: &Value| anstream::adapter::strip_str(&lines(answer).join("\n")).to_string();
        insta::assert_snapshot!(plain(&list), @r"
        GPU               STATE        MODEL        MEMORY  BUSY  TEMPERATURE  WHY
        GPU-1             free         NVIDIA A100  80 GiB  0 %   31 °C
        amd-0000:03:00.0  quarantined                                          in quarantine by hand: hot
        ");
        assert_eq!(plain(&json!({ "id": "GPU-1", "state": null })), "GPU    STATE\nGPU-1  not there");
        assert_eq!(plain(&json!({ "gpus": [] })), "this machine has no GPU");
    }
}
