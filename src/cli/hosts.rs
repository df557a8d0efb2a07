//! `hosts`: the machines, and taking one out of work.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Target, segment};
use super::render::{Cell, bytes, list, table, word};
use super::tell_error;

/// What to do with machines.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: HostCommand,
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// List machines with what of them is free.
    List,
    /// Give a machine no new work until it is resumed; what runs goes on to its end.
    Drain {
        /// Its name, as `list` shows it; not needed where there is one only.
        host: Option<String>,
        /// Why, for those who look later.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a machine take work again.
    Resume {
        /// Its name, as `list` shows it; not needed where there is one only.
        host: Option<String>,
    },
}

/// Does what was asked of the running daemon.
pub(super) async fn run(config: Option<&Path>, options: &Options) -> ExitCode {
    let target = &options.target;
    match target.client(config) {
        Ok(client) => target.tell(ask(&client, &options.command).await, rows),
        Err(error) => tell_error(&error),
    }
}

async fn ask(client: &Client, command: &HostCommand) -> Result<Value, ClientError> {
    match command {
        HostCommand::List => client.get("/hosts").await,
        HostCommand::Drain { host, reason } => {
            let body = reason.as_ref().map(|reason| json!({ "reason": reason }));
            client.post(&format!("/hosts/{}/drain", segment(&named(client, host.as_deref()).await?)), body.as_ref()).await
        }
        HostCommand::Resume { host } => client.post(&format!("/hosts/{}/resume", segment(&named(client, host.as_deref()).await?)), None).await,
    }
}

/// The machine that is named, or the only one.
async fn named(client: &Client, host: Option<&str>) -> Result<String, ClientError> {
    if let Some(host) = host {
        return Ok(host.to_owned());
    }
    let hosts = client.get("/hosts").await?;
    match list(&hosts, "hosts") {
        [only] => Ok(word(only, "id")),
        all => Err(ClientError::WhichHost(all.iter().map(|host| word(host, "id")).collect::<Vec<_>>().join(", "))),
    }
}

/// A list of machines, or one alone.
pub(super) fn rows(answer: &Value) -> Vec<String> {
    let alone = std::slice::from_ref(answer);
    let hosts = answer["hosts"].as_array().map_or(alone, Vec::as_slice);
    let row = |host: &Value| -> [Cell; 7] {
        let of = |free: String, total: String| format!("{free} of {total}");
        let memory = |field: &str| host["memory"][field].as_u64().map_or(String::new(), bytes);
        let gpus = &host["gpus"];
        let count = |field: &str| gpus[field].as_u64().unwrap_or(0);
        let unfit = if count("unhealthy") > 0 { format!(", {} unfit", count("unhealthy")) } else { String::new() };
        [
            word(host, "id").into(),
            Cell::state(&word(host, "state")),
            word(host, "arch").into(),
            of(host["cpus"]["free"].to_string(), host["cpus"]["total"].to_string()).into(),
            of(memory("free_bytes"), memory("total_bytes")).into(),
            if count("total") > 0 { format!("{} of {}{unfit}", count("free"), count("total")) } else { String::new() }.into(),
            word(&host["drain"], "reason").into(),
        ]
    };
    table(["HOST", "STATE", "ARCH", "CPUS FREE", "MEMORY FREE", "GPUS FREE", "WHY"], &hosts.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_rows_alone_too() {
        let host = json!({"id": "box1", "state": "draining", "arch": "amd64", "cpus": {"total": 16, "free": 3.5},
            "memory": {"total_bytes": 68_719_476_736_u64, "free_bytes": 1_073_741_824}, "gpus": {"total": 4, "free": 1, "unhealthy": 1, "devices": []},
            "drain": {"reason": "new kernel"}});
        let plain = |answer: &Value| anstream::adapter::strip_str(&rows(answer).join("\n")).to_string();
        insta::assert_snapshot!(plain(&host), @r"
        HOST  STATE     ARCH   CPUS FREE  MEMORY FREE      GPUS FREE        WHY
        box1  draining  amd64  3.5 of 16  1 GiB of 64 GiB  1 of 4, 1 unfit  new kernel
        ");
        assert_eq!(plain(&json!({ "hosts": [host] })), plain(&host));
    }
}
