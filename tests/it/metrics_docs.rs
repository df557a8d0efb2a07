//! What the documentation says of metrics is what there is: the table is written from the catalogue, and every expression of the alert rules and
//! of the dashboard names metrics and labels that exist.
//!
//! `UPDATE_DOCS=1 cargo test --test it metrics_docs` writes the table anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use runner_coordinator::http::metrics::catalogue;
use serde_json::Value;

const BEGIN: &str = "<!-- the table of metrics: written by a test -->\n";
const END: &str = "<!-- the end of the table -->\n";

/// Labels that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).expect(name)
}

/// The labels of every series, by name, those that Prometheus adds included.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let series = catalogue().into_iter().flat_map(|one| one.series());
    let with_own = |labels: Vec<&'static str>| labels.into_iter().chain(OF_PROMETHEUS).map(str::to_owned).collect();
    let mut known: BTreeMap<String, BTreeSet<String>> = series.map(|(name, labels)| (name, with_own(labels))).collect();
    known.insert("up".to_owned(), OF_PROMETHEUS.map(str::to_owned).into());
    known
}

fn is_word(next: char) -> bool {
    next.is_ascii_alphanumeric() || next == '_'
}

/// The metrics of an expression, each with the labels by which it is selected.
fn selected(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let from = &rest[start..];
        let word = &from[..from.find(|next| !is_word(next)).unwrap_or(from.len())];
        rest = &from[word.len()..];
        if word == "by" || word == "without" || word == "on" {
            rest = rest.split_once(')').map_or("", |(_, after)| after);
            continue;
        }
        let mut labels = Vec::new();
        if let Some(matchers) = rest.strip_prefix('{') {
            let (inside, after) = matchers.split_once('}').expect("a closed selector");
            labels = inside.split(',').filter_map(|one| Some(one.split_once(['=', '!'])?.0.trim().to_owned())).collect();
            rest = after;
        }
        if word == "up" || word.starts_with("runner_coordinator_") || word.starts_with("process_") {
            found.push((word.to_owned(), labels));
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').map_or("", |(_, after)| after);
        }
    }
    found
}

/// The labels by which an expression groups.
fn grouped(expression: &str) -> Vec<String> {
    let groups = expression.split(" by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(',')).map(|label| label.trim().to_owned()).collect()
}

/// The labels that a text for people shows: `{{class}}` and `{{ $labels.class }}`.
fn shown(text: &str) -> Vec<String> {
    let inside = text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(inside, _)| inside.trim());
    let label = |inside: &str| match inside.strip_prefix("$labels.") {
        Some(label) => Some(label.to_owned()),
        None => (!inside.starts_with('$')).then(|| inside.to_owned()),
    };
    inside.filter_map(label).collect()
}

/// What is wrong with an expression and the texts that go with it.
fn faults(place: &str, expression: &str, texts: &[&str]) -> Vec<String> {
    let (known, selected) = (known(), selected(expression));
    let mut faults = Vec::new();
    if selected.is_empty() {
        faults.push(format!("{place}: no metric of ours in {expression}"));
    }
    let mut labels = BTreeSet::new();
    for (name, used) in &selected {
        let Some(has) = known.get(name) else {
            faults.push(format!("{place}: there is no metric {name}"));
            continue;
        };
        faults.extend(used.iter().filter(|label| !has.contains(*label)).map(|label| format!("{place}: {name} has no label {label}")));
        labels.extend(has.iter().cloned());
    }
    let others = grouped(expression).into_iter().chain(texts.iter().flat_map(|text| shown(text)));
    faults.extend(others.filter(|label| !labels.contains(label)).map(|label| format!("{place}: no metric there has a label {label}")));
    faults
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn table() -> String {
    let mut table = "| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for one in catalogue() {
        let labels: Vec<String> = one.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(table, "| `{}` | {} | {} | {} |", one.name, one.kind.as_str(), labels.join(", "), one.help);
    }
    table
}

#[test]
fn the_table_lists_what_there_is() {
    let text = read("metrics.md");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (listed, after) = rest.split_once(END).expect("the end of the table");
    if std::env::vars().any(|(name, _)| name == "UPDATE_DOCS") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).expect("written");
        return;
    }
    assert_eq!(listed, table(), "run it once with UPDATE_DOCS=1");
}

#[test]
fn every_alert_is_about_what_there_is() {
    let rules: Value = serde_saphyr::from_str(&read("alerts.yml")).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    let mut faults = Vec::new();
    for rule in &rules {
        let (name, expression) = (rule["alert"].as_str().expect("a name"), rule["expr"].as_str().expect("an expression"));
        let notes = rule["annotations"].as_object().expect("annotations");
        let texts: Vec<&str> = notes.values().map(|text| text.as_str().expect("a text")).collect();
        faults.extend(self::faults(name, expression, &texts));
        if !["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()) || !notes.contains_key("summary") {
            faults.push(format!("{name}: a severity and a summary are missing"));
        }
    }
    assert_none(&faults);
    assert!(rules.len() >= 15, "{} rules", rules.len());
}

#[test]
fn every_panel_shows_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read("grafana-dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "each has an id of its own");
    let (mut faults, mut targets) = (Vec::new(), 0);
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            targets += 1;
            let (title, legend) = (panel["title"].as_str().expect("a title"), target["legendFormat"].as_str().expect("a legend"));
            faults.extend(self::faults(title, target["expr"].as_str().expect("an expression"), &[legend]));
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables").iter().filter(|one| one["type"] == "query") {
        let query = variable["definition"].as_str().expect("a query");
        let (metric, label) = query.trim_start_matches("label_values(").trim_end_matches(')').split_once(", ").expect("a metric and a label");
        faults.extend(self::faults("a variable", metric, &[&format!("{{{{{label}}}}}")]));
    }
    assert_none(&faults);
    assert!(targets > 40, "{targets} expressions");
}

/// A checker that finds nothing proves nothing.
#[test]
fn the_checker_finds_what_is_not_there() {
    let fine = "sum by (class, le) (rate(runner_coordinator_job_wait_seconds_bucket{class=~\"a,b\", le!=\"1\"}[5m])) > 3";
    assert_eq!(faults("a", fine, &["{{class}} {{ $labels.class }} {{ $value }}"]), Vec::<String>::new());
    for (expression, text) in [
        ("runner_coordinator_no_such_metric > 1", ""),
        ("sum(runner_coordinator_engine_up{class=\"a\"})", ""),
        ("sum by (project) (runner_coordinator_queue_ready_jobs)", ""),
        ("runner_coordinator_job_wait_seconds > 1", ""),
        ("runner_coordinator_engine_up", "{{class}}"),
        ("runner_coordinator_engine_up", "{{ $labels.class }}"),
        ("vector(1)", ""),
    ] {
        assert_eq!(faults("a", expression, &[text]).len(), 1, "{expression} {text}");
    }
}
