//! The shape of the house, read from its text: rooms use only rooms below them, each outside crate has its door, no file grows too
//! long, and nothing unfinished or machine-bound is committed.
//!
//! It reads text, so a macro could fool it: a tripwire, not a proof. The checker is tested on made-up sources first.

mod checker;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms, bottom to top. A room uses only rooms of a lower rank, and itself.
const RANKS: &[&[&str]] = &[
    &["domain"],
    &["metrics"],
    &["tasks"],
    &["config"],
    &["store"],
    &["security"],
    &["docker"],
    &["platform"],
    &["firewall"],
    &["gitlab"],
    &["traces"],
    &["jobs"],
    &["http"],
    &["lifecycle", "telemetry", "listen"],
    &["app"],
    &["cli"],
    &["main", "lib"],
    // A program of its own, which the daemon carries inside itself; it uses nothing of the house.
    &["init"],
];

/// Outside crates and the only rooms that may name them.
const DOORS: &[(&str, &[&str])] = &[
    ("prometheus_client", &["metrics"]),
    ("config", &["config"]),
    ("rusqlite", &["store"]),
    ("tokio_postgres", &["store"]),
    ("tokio_postgres_rustls", &["store"]),
    ("deadpool_postgres", &["store"]),
    // The store sums up what it copies.
    ("ring", &["security", "store"]),
    ("bollard", &["docker"]),
    ("nvml_wrapper", &["platform"]),
    // The first speaks to GitLab, the second to a collector of traces, the third, from another process, to the daemon.
    ("reqwest", &["gitlab", "traces", "cli"]),
    // Those, who reads the daemon's own certificate, who speaks with it, and who speaks with a database.
    ("rustls", &["gitlab", "traces", "cli", "config", "http", "store"]),
    ("tokio_rustls", &["http"]),
    // The composition root serves what the http room routes.
    ("axum", &["http", "app"]),
    ("tower_http", &["http"]),
    ("hyper", &["http"]),
    ("hyper_util", &["http"]),
    // One tells systemd of the daemon's state, the other learns from it which sockets are handed over.
    ("sd_notify", &["lifecycle", "listen"]),
    ("listenfd", &["listen"]),
    ("utoipa", &["http"]),
    ("utoipa_axum", &["http"]),
    ("tracing_subscriber", &["telemetry"]),
    ("tracing_journald", &["telemetry"]),
    // The log format is an option of the command line.
    ("clap", &["cli", "telemetry", "main"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("indicatif", &["cli"]),
    ("anstream", &["cli"]),
    ("anstyle", &["cli"]),
    ("unicode_width", &["cli"]),
];

/// What `app` may take from `axum`: it serves a router and knows nothing of requests.
const APP_MAY_NAME: &[&str] = &["Router"];

/// Most lines of one file.
const MOST_LINES: usize = 400;

/// A path that a source names: its segments, groups taken apart.
type Segments = Vec<String>;

/// Source text without comments and the insides of strings, so that only code is read.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, &code) {
            length
        } else if next == '"' {
            string(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            code.push(next);
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
            continue;
        };
        code.push(' ');
        rest = rest.get(skipped..).unwrap_or_default();
    }
    code
}

/// Length of the raw string that begins here, if one does.
fn raw_string(rest: &str, before: &str) -> Option<usize> {
    if before.ends_with(|last: char| last.is_alphanumeric() && last != 'b' || last == '_') {
        return None;
    }
    let hashes = rest.strip_prefix('r')?.chars().take_while(|next| *next == '#').count();
    rest.get(1 + hashes..)?.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    Some(rest.get(body..)?.find(&close).map_or(rest.len(), |end| body + end + close.len()))
}

/// Length of the plain string that begins here.
fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, next) in rest.char_indices().skip(1) {
        match next {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// Every path with `::` in it, and every `use`, with groups taken apart: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths_of(code: &str) -> Vec<Segments> {
    let tokens = tokens_of(code);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let used = at > 0 && tokens.get(at - 1).is_some_and(|before| before == "use");
        if is_name(tokens.get(at)) && (used || tokens.get(at + 1).is_some_and(|next| next == "::")) {
            at = path(&tokens, at, &[], &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one path from `at` on, behind `prefix`; gives where it ended.
fn path(tokens: &[String], mut at: usize, prefix: &[String], paths: &mut Vec<Segments>) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") if segments.len() > prefix.len() || !prefix.is_empty() => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = if is_name(tokens.get(at)) || tokens.get(at).is_some_and(|token| token == "{") {
                        path(tokens, at, &segments, paths)
                    } else {
                        at + 1
                    };
                }
                return at + 1;
            }
            Some(_) if is_name(tokens.get(at)) => segments.extend(tokens.get(at).cloned()),
            _ => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|next| next != "::") {
            break;
        }
        at += 1;
    }
    paths.push(segments);
    // Within a group, `x as y` names only x.
    if !prefix.is_empty() && tokens.get(at).is_some_and(|token| token == "as") { at + 2 } else { at }
}

fn tokens_of(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut glued = false;
    for next in code.chars() {
        let in_name = next.is_alphanumeric() || next == '_';
        match tokens.last_mut() {
            Some(last) if glued && (in_name && is_name(Some(last)) || next == ':' && last == ":") => last.push(next),
            _ if next.is_whitespace() => {}
            _ => tokens.push(next.to_string()),
        }
        glued = !next.is_whitespace();
    }
    tokens
}

fn is_name(token: Option<&String>) -> bool {
    token.and_then(|token| token.chars().next()).is_some_and(|first| first.is_alphanumeric() || first == '_')
}

fn rank(room: &str) -> Option<usize> {
    RANKS.iter().position(|rooms| rooms.contains(&room))
}

/// Where a file stands: `jobs/broker/mod.rs` is the module `jobs::broker`.
fn module_of(file: &str) -> Segments {
    let path = file.trim_end_matches(".rs");
    path.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

/// What is wrong with one source file, `file` being its path below `src`.
fn faults_of(file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    let room = module.first().cloned().unwrap_or_default();
    let mut faults = BTreeSet::new();
    if rank(&room).is_none() {
        faults.insert(format!("{file}: `{room}` is no room of the house"));
    }
    for path in paths_of(&code_of(text)) {
        if let Some(fault) = upward(&room, &module, &path).or_else(|| wrong_door(&room, &path)) {
            faults.insert(format!("{file}: {fault}"));
        }
    }
    faults.into_iter().collect()
}

/// A path of our own crate that leads to a room that stands higher or beside.
fn upward(room: &str, module: &[String], path: &[String]) -> Option<String> {
    let target = match path.first()?.as_str() {
        "crate" => path.get(1)?.clone(),
        // The binary is the only one that may name the library as a crate from outside.
        "runner_coordinator" if room != "main" => return Some(format!("`{}`: say crate:: within the library", path.join("::"))),
        // Each `super` leaves one module; as many as there are lead to the top.
        "super" => {
            let up = path.iter().take_while(|segment| *segment == "super").count();
            if up < module.len() {
                return None;
            }
            path.get(up)?.clone()
        }
        _ => return None,
    };
    let (own, other) = (rank(room)?, rank(&target)?);
    (other > own || other == own && target != room).then(|| format!("`{}`: {room} may not use {target}", path.join("::")))
}

/// A path of an outside crate in a room that is not its door.
fn wrong_door(room: &str, path: &[String]) -> Option<String> {
    let (outside, rooms) = DOORS.iter().find(|(outside, _)| path.first().is_some_and(|first| first == outside))?;
    let named = path.join("::");
    if !rooms.contains(&room) {
        // A local module or variable of the same name is reached with `self::` or `super::`.
        return Some(format!("`{named}`: only {} may use {outside}", rooms.join(", ")));
    }
    let too_much = room == "app" && *outside == "axum" && path.get(1).is_some_and(|second| !APP_MAY_NAME.contains(&second.as_str()));
    too_much.then(|| format!("`{named}`: app only serves a router"))
}

/// What no committed file may hold. Spelled in parts, so that this file does not hold it.
fn unwanted_in(file: &str, text: &str) -> Vec<String> {
    let unfinished = ["TO", "DO"].concat();
    let machine_bound = [["/wo", "rk/"].concat(), ["/tmp/", "w-"].concat(), ["/root/", "."].concat()];
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.split(|next: char| !next.is_alphanumeric()).any(|word| word == unfinished) {
            faults.push(format!("{file}:{number}: unfinished work belongs into an issue"));
        }
        if machine_bound.iter().any(|path| line.contains(path.as_str())) {
            faults.push(format!("{file}:{number}: names a path of the machine it was written on"));
        }
    }
    faults
}

fn too_long(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MOST_LINES).then(|| format!("{file}: {lines} lines, at most {MOST_LINES}: is it still about one thing?"))
}

/// A way into the API that its document would not know: what people and programs are served is mounted with `routes!`.
fn undescribed_route(file: &str, text: &str) -> Option<String> {
    // The listener for runners speaks GitLab's protocol, and is described there. Tests serve nobody.
    let is_ours = file.starts_with("http/") && file != "http/broker.rs" && !file.ends_with("_tests.rs");
    let served = code_of(text.split("#[cfg(test)]").next().unwrap_or_default());
    let mounts = [".route(", ".route_service(", ".nest_service("].iter().any(|call| served.contains(call));
    (is_ours && mounts).then(|| format!("{file}: mounts a route without its description: use routes!"))
}

fn is_counted(file: &str) -> bool {
    is_rust(file) || [".js", ".css", ".html"].iter().any(|end| file.ends_with(end))
}

fn is_rust(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

/// Every file below a directory of the repository with its text; what is not text is left out.
#[expect(clippy::expect_used, reason = "the helpers of tests fail like tests")]
fn files_below(directory: &str) -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![top.join(directory)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory can be read");
            open.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let name = path.strip_prefix(top).expect("it lies below the top").to_string_lossy().into_owned();
            found.push((name, text));
        }
    }
    assert!(!found.is_empty(), "nothing lies below {directory}");
    found.sort();
    found
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn rooms_use_only_rooms_below_them_and_crates_have_one_door() {
    let faults: Vec<String> = files_below("src")
        .iter()
        .filter(|(file, _)| is_rust(file))
        .flat_map(|(file, text)| faults_of(file.trim_start_matches("src/"), text))
        .collect();
    assert_none(&faults);
}

#[test]
fn every_route_of_the_api_is_described() {
    let sources = files_below("src");
    let faults: Vec<String> = sources
        .iter()
        .filter(|(file, _)| is_rust(file))
        .filter_map(|(file, text)| undescribed_route(file.trim_start_matches("src/"), text))
        .collect();
    assert_none(&faults);
}

/// A choice among several that are ready must not be the runtime's, or a simulation does not tell the same story twice.
#[test]
fn what_the_simulation_runs_chooses_in_order() {
    let unordered = |text: &str| text.split("tokio::select! {").skip(1).filter(|rest| !rest.trim_start().starts_with("biased;")).count();
    let jobs = files_below("src/jobs");
    let faults = jobs.iter().filter(|(file, text)| is_rust(file) && unordered(text) > 0).map(|(file, text)| format!("{file}: {}", unordered(text)));
    assert_none(&faults.collect::<Vec<_>>());
}

#[test]
fn no_file_is_about_too_much() {
    let sources = [files_below("src"), files_below("tests")].concat();
    let faults: Vec<String> = sources.iter().filter(|(file, _)| is_counted(file)).filter_map(|(file, text)| too_long(file, text)).collect();
    assert_none(&faults);
}

#[test]
fn nothing_unfinished_or_machine_bound_is_committed() {
    let places = ["src", "tests", "docs", "config", ".ci", "Makefile", "README.md", "CHANGELOG.md", "Cargo.toml", "Dockerfile"];
    let faults: Vec<String> = places.into_iter().flat_map(files_below).flat_map(|(file, text)| unwanted_in(&file, &text)).collect();
    assert_none(&faults);
}
