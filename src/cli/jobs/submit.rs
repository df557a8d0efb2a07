//! `jobs submit`: from options to the body of `POST /jobs`.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::wait::{self, Output};
use crate::cli::client::{Client, ClientError, Target};
use crate::cli::render::word;
use crate::cli::{complain, say, tell_error};

/// Shown below the help, because scripts need it.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  Without --wait and --follow: 0 when the job was accepted, else 1.
  With one of them: the job's own exit code; 125 when it has none (it was cancelled, timed out,
  could not start, or was not accepted), with the reason on standard error.

Ctrl-C:
  With --wait or --follow the first one cancels the job and its end is awaited (exit code 130);
  a second one leaves at once.

Examples:
  runner-coordinator jobs submit --image debian:bookworm --follow -- make test
  runner-coordinator jobs submit --class gpu --gpus nvidia:2 --timeout 2h --wait -- python train.py
  ID=$(runner-coordinator jobs submit --from-file job.json)";

/// Longest file of a body, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// What is to run, and what it needs.
#[derive(Debug, Default, Args)]
pub(super) struct Options {
    /// Image that it runs in; without it the class's.
    #[arg(long)]
    image: Option<String>,
    /// Class that gives what is not said here.
    #[arg(long)]
    class: Option<String>,
    /// A variable of its environment; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Project that it belongs to, such as team/app.
    #[arg(long)]
    project: Option<String>,
    /// Architecture: amd64, arm64 or riscv64.
    #[arg(long)]
    arch: Option<String>,
    /// Whether a machine that only emulates the architecture will do: deny or allow.
    #[arg(long, value_name = "CHOICE")]
    emulation: Option<String>,
    /// GPUs for it alone: a count, a vendor, or both, such as 2, nvidia or amd:2.
    #[arg(long, value_name = "[VENDOR:]COUNT", value_parser = gpus)]
    gpus: Option<Gpus>,
    /// Least memory of each GPU, such as 16GiB.
    #[arg(long, value_name = "AMOUNT", conflicts_with = "gpu_share")]
    gpu_memory: Option<String>,
    /// Model of each GPU, a pattern such as *A100*.
    #[arg(long, value_name = "PATTERN")]
    gpu_model: Option<String>,
    /// So much memory of one GPU that it shares with other jobs, such as 10GiB.
    #[arg(long, value_name = "AMOUNT")]
    gpu_share: Option<String>,
    /// NVIDIA MIG profile of each GPU, such as 1g.10gb.
    #[arg(long, value_name = "PROFILE")]
    mig_profile: Option<String>,
    /// Processor time, such as 2 or 0.5.
    #[arg(long, value_name = "COUNT", value_parser = amount)]
    cpus: Option<f64>,
    /// Memory, such as 4GiB.
    #[arg(long, value_name = "AMOUNT")]
    memory: Option<String>,
    /// Longest time that it may run, such as 90s, 30m or 2h.
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Higher ones go first: -1000 to 1000.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<i64>,
    /// How often it is tried again when it fails itself, at most 10.
    #[arg(long, value_name = "COUNT")]
    retries: Option<u32>,
    /// What becomes of a job that no machine could ever run: refuse or wait.
    #[arg(long, value_name = "CHOICE")]
    if_unsatisfiable: Option<String>,
    /// The same key submits one job only, however often it is sent.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// A file with the body of POST /jobs as JSON, or - for standard input; options go before what it says.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    #[command(flatten)]
    after: After,
    /// The program and its arguments, as they are: no shell takes them apart.
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "from_file")]
    command: Vec<String>,
}

/// What to do after the submission.
#[derive(Debug, Default, Args)]
#[group(multiple = true)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct After {
    /// Wait for its end, and end with its exit code. What happens is told on standard error.
    #[arg(long)]
    wait: bool,
    /// The same, and print what it writes.
    #[arg(long)]
    follow: bool,
}

/// Submits, and then waits where that is asked for.
pub(super) async fn run(client: &Client, options: &Options, target: &Target) -> ExitCode {
    let waits = options.after.wait || options.after.follow;
    let failed = |code: ExitCode| if waits { ExitCode::from(wait::NOT_ITS_OWN) } else { code };
    if target.json && options.after.follow {
        return failed(complain("--json prints the job and --follow what it writes: give one of them"));
    }
    let body = match from_file(options).and_then(|base| body(options, base)) {
        Ok(body) => body,
        Err(error) => return failed(complain(&error)),
    };
    let job = match send(client, options, &body).await {
        Ok(job) => job,
        Err(error) => return failed(tell_error(&error)),
    };
    if !waits {
        return target.tell(Ok(job), |job| vec![word(job, "id")]);
    }
    let output = match (options.after.follow, target.json) {
        (true, _) => Output::Log,
        (false, true) => Output::Json,
        (false, false) => Output::Nothing,
    };
    let id = word(&job, "id");
    if output == Output::Nothing {
        say(&id);
    }
    wait::run(client, &id, output).await
}

async fn send(client: &Client, options: &Options, body: &Value) -> Result<Value, ClientError> {
    let key: Vec<(&str, &str)> = options.idempotency_key.iter().map(|key| ("idempotency-key", key.as_str())).collect();
    client.call(Method::POST, "/jobs", Some(body), &key).await
}

/// What the file says; nothing without one.
fn from_file(options: &Options) -> Result<Map<String, Value>, String> {
    let Some(path) = &options.from_file else { return Ok(Map::new()) };
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
    };
    read.map_err(|error| format!("--from-file {} cannot be read: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("--from-file {} is not a JSON object: {error}", path.display()))
}

/// The body of `POST /jobs`. What its values mean is the daemon's business.
fn body(options: &Options, base: Map<String, Value>) -> Result<Value, String> {
    let mut body = base;
    let texts = [
        ("image", &options.image),
        ("class", &options.class),
        ("project", &options.project),
        ("arch", &options.arch),
        ("emulation", &options.emulation),
        ("memory", &options.memory),
        ("timeout", &options.timeout),
        ("if_unsatisfiable", &options.if_unsatisfiable),
    ];
    for (name, value) in texts {
        body.extend(value.as_ref().map(|value| (name.to_owned(), json!(value))));
    }
    body.extend(options.cpus.map(|cpus| ("cpus".to_owned(), json!(cpus))));
    body.extend(options.priority.map(|priority| ("priority".to_owned(), json!(priority))));
    body.extend(options.retries.map(|retries| ("retries".to_owned(), json!(retries))));
    body.extend((!options.command.is_empty()).then(|| ("command".to_owned(), json!(options.command))));
    let variables = options.env.iter().map(|(name, value)| (name.clone(), json!(value)));
    within(&mut body, "env", variables.collect())?;
    within(&mut body, "gpus", gpu_wishes(options))?;
    Ok(Value::Object(body))
}

/// Adds to an object inside the body.
fn within(body: &mut Map<String, Value>, name: &str, more: Map<String, Value>) -> Result<(), String> {
    if more.is_empty() {
        return Ok(());
    }
    match body.entry(name).or_insert_with(|| json!({})) {
        Value::Object(there) => there.extend(more),
        there @ Value::Null => *there = Value::Object(more),
        _ => return Err(format!("{name} in --from-file must be an object")),
    }
    Ok(())
}

fn gpu_wishes(options: &Options) -> Map<String, Value> {
    let mut wishes = Map::new();
    if let Some(Gpus { vendor, count }) = &options.gpus {
        wishes.insert("count".to_owned(), json!(count));
        wishes.extend(vendor.as_ref().map(|vendor| ("vendor".to_owned(), json!(vendor))));
    }
    let texts =
        [("min_memory", &options.gpu_memory), ("model", &options.gpu_model), ("memory", &options.gpu_share), ("mig_profile", &options.mig_profile)];
    for (name, value) in texts {
        wishes.extend(value.as_ref().map(|value| (name.to_owned(), json!(value))));
    }
    wishes
}

/// How many GPUs, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gpus {
    vendor: Option<String>,
    count: u32,
}

fn gpus(text: &str) -> Result<Gpus, String> {
    let (vendor, count) = match text.split_once(':') {
        Some((vendor, count)) => (Some(vendor), Some(count)),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => (None, Some(text)),
        None => (Some(text), None),
    };
    let count = count.map_or(Some(1), |count| count.parse().ok());
    let known = vendor.is_none_or(|vendor| !vendor.is_empty() && vendor.bytes().all(|byte| byte.is_ascii_lowercase()));
    match (known, count) {
        (true, Some(count)) => Ok(Gpus { vendor: vendor.map(str::to_owned), count }),
        _ => Err("must be a count, a vendor (nvidia, amd, intel), or both: 2, nvidia, nvidia:2".to_owned()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn amount(text: &str) -> Result<f64, String> {
    let amount = text.parse::<f64>().ok().filter(|amount| amount.is_finite() && *amount > 0.0);
    amount.ok_or_else(|| "must be a number above 0, such as 2 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Command::try_parse_from([&["submit"], arguments].concat()).unwrap_or_else(|error| panic!("{error}")).options
    }

    fn of(arguments: &[&str], base: Value) -> Result<Value, String> {
        let Value::Object(base) = base else { panic!("an object") };
        body(&options(arguments), base)
    }

    #[test]
    fn every_option_is_a_field_of_the_body() {
        let arguments = "--image a:1 --class gpu --env A=1 --env B=x=y --project team/app --arch arm64 --emulation allow --gpus nvidia:2 --gpu-memory 16GiB \
            --gpu-model *A100* --mig-profile 1g.10gb --cpus 0.5 --memory 4GiB --timeout 2h --priority -5 --retries 3 --if-unsatisfiable wait";
        let arguments: Vec<&str> = arguments.split_whitespace().chain(["--", "sh", "-c", "a b; --wait"]).collect();
        let expected = json!({
            "image": "a:1", "class": "gpu", "env": {"A": "1", "B": "x=y"}, "project": "team/app", "arch": "arm64", "emulation": "allow",
            "gpus": {"count": 2, "vendor": "nvidia", "min_memory": "16GiB", "model": "*A100*", "mig_profile": "1g.10gb"},
            "cpus": 0.5, "memory": "4GiB", "timeout": "2h", "priority": -5, "retries": 3, "if_unsatisfiable": "wait", "command": ["sh", "-c", "a b; --wait"],
        });
        assert_eq!(of(&arguments, json!({})), Ok(expected.clone()));
        let known: Vec<String> = expected.as_object().expect("an object").keys().cloned().collect();
        serde_json::from_value::<crate::http::submit::SubmitBody>(expected).unwrap_or_else(|error| panic!("{known:?}: {error}"));
    }

    #[test]
    fn options_go_before_the_file_and_leave_the_rest_of_it() {
        let base = json!({"image": "a", "command": ["x"], "env": {"A": "1", "B": "2"}, "gpus": {"count": 4, "vendor": "amd"}, "unknown": 1});
        let expected = json!({"image": "b", "command": ["x"], "env": {"A": "9", "B": "2"}, "gpus": {"count": 4, "vendor": "amd", "memory": "1GiB"}, "unknown": 1});
        assert_eq!(of(&["--from-file", "f", "--image", "b", "--env", "A=9", "--gpu-share", "1GiB"], base), Ok(expected));
        assert_eq!(of(&["--from-file", "f", "--gpus", "1"], json!({"gpus": null})), Ok(json!({"gpus": {"count": 1}})));
        assert_eq!(of(&["--from-file", "f", "--env", "A=1"], json!({"env": []})), Err("env in --from-file must be an object".to_owned()));
    }

    #[test]
    fn gpus_are_a_count_a_vendor_or_both() {
        let read = |text: &str| gpus(text).map(|Gpus { vendor, count }| (vendor.unwrap_or_default(), count)).ok();
        assert_eq!(read("2"), Some((String::new(), 2)));
        assert_eq!(read("nvidia"), Some(("nvidia".to_owned(), 1)));
        assert_eq!(read("amd:3"), Some(("amd".to_owned(), 3)));
        for bad in ["", ":", ":2", "amd:", "amd:x", "2:amd", "-1", "AMD", "99999999999"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_mistake_of_usage() {
        for bad in [
            vec![],
            vec!["--image", "a"],
            vec!["--env", "A", "--", "x"],
            vec!["--env", "=1", "--", "x"],
            vec!["--cpus", "0", "--", "x"],
            vec!["--cpus", "NaN", "--", "x"],
            vec!["--gpu-share", "1GiB", "--gpu-memory", "1GiB", "--", "x"],
            vec!["x"],
        ] {
            let error = Command::try_parse_from([&["submit"], &bad[..]].concat()).expect_err("a mistake");
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
    }
}
