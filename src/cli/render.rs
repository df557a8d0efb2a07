//! How answers look to a person: tables, amounts, times and colours. Colours are always written; the stream that prints them takes them
//! away where there is no terminal or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

/// Headings.
pub(super) const BOLD: Style = Style::new().bold();
/// What matters less.
pub(super) const DIM: Style = Style::new().dimmed();
/// As it is.
pub(super) const PLAIN: Style = Style::new();
/// What is well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// What goes on.
pub(super) const BUSY: Style = AnsiColor::Cyan.on_default();
/// What waits, or needs an eye.
pub(super) const WAIT: Style = AnsiColor::Yellow.on_default();
/// Between two columns.
const GAP: &str = "  ";

/// A text in a style.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The style of a state of a job, a runner, a host or a GPU.
pub(super) fn of_state(state: &str) -> Style {
    match state {
        "succeeded" | "ready" | "free" | "idle" | "up" | "ok" => GOOD,
        "failed" | "lost" | "engine_down" | "disk_full" | "disk_unresponsive" | "network_unguarded" | "down" | "unhealthy" | "quarantined" => BAD,
        "running" | "starting" | "busy" | "in_use" | "checking" => BUSY,
        "queued" | "draining" | "drained" | "stopping" => WAIT,
        "canceled" | "gone" | "unused" | "divided" => DIM,
        _ => PLAIN,
    }
}

/// One place in a table.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A text in a style. What a terminal would obey is taken out of it.
    pub(super) fn styled(text: &str, style: Style) -> Self {
        Self { text: clean(text), style }
    }

    /// A state in its colour.
    pub(super) fn state(state: &str) -> Self {
        Self::styled(state, of_state(state))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::styled(text, PLAIN)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::styled(&text, PLAIN)
    }
}

/// Rows under a head, each column as wide as its widest text. A column in which nothing stands is left out.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[Cell; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].text.width()).max().unwrap_or(0);
    let shown: Vec<(usize, usize)> = (0..N).filter(|at| width(*at) > 0).map(|at| (at, width(at).max(head[at].width()))).collect();
    let line = |cells: &[Cell; N]| {
        let mut line = String::new();
        for (nth, (at, width)) in shown.iter().enumerate() {
            let Cell { text, style } = &cells[*at];
            // The last column needs no room behind it.
            let room = if nth + 1 < shown.len() { width - text.width().min(*width) } else { 0 };
            line.push_str(if nth > 0 { GAP } else { "" });
            line.push_str(&if text.is_empty() { String::new() } else { paint(*style, text) });
            line.extend(std::iter::repeat_n(' ', room));
        }
        line.trim_end().to_owned()
    };
    std::iter::once(line(&head.map(|text| Cell::styled(text, BOLD)))).chain(rows.iter().map(line)).collect()
}

/// Names and values, one line each; those without a value are left out.
pub(super) fn fields(pairs: &[(&str, String)]) -> Vec<String> {
    let given: Vec<&(&str, String)> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
    let widest = given.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    given.iter().map(|(name, value)| format!("{}{GAP}{value}", paint(DIM, &format!("{name:widest$}")))).collect()
}

/// A text without what a terminal would obey: others may have written it.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text of an answer; empty where there is none.
pub(super) fn word(value: &Value, field: &str) -> String {
    clean(value[field].as_str().unwrap_or_default())
}

/// A list of an answer; empty where there is none.
pub(super) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list with commas between.
pub(super) fn words(value: &Value, field: &str) -> String {
    list(value, field).iter().filter_map(Value::as_str).map(clean).collect::<Vec<_>>().join(", ")
}

/// At most so many characters of a text.
pub(super) fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

/// A time of an answer.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long it is from one time to another in its two greatest units: `3d 4h`, `5m 12s`, `0s`. Clocks that differ count as no time.
pub(super) fn span(from: Timestamp, to: Timestamp) -> String {
    seconds(u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0))
}

/// So many seconds in their two greatest units.
pub(super) fn seconds(seconds: u64) -> String {
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(amount, _)| *amount > 0).unwrap_or(3);
    let parts = units.iter().skip(first).take(2).filter(|(amount, unit)| *amount > 0 || (first == 3 && *unit == "s"));
    parts.map(|(amount, unit)| format!("{amount}{unit}")).collect::<Vec<_>>().join(" ")
}

/// An amount of bytes with three digits: `1.50 GiB`.
pub(super) fn bytes(amount: u64) -> String {
    let (mut whole, mut rest, mut unit) = (amount, 0, 0);
    while whole >= 1024 && unit < 4 {
        (rest, whole, unit) = (whole % 1024, whole / 1024, unit + 1);
    }
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"][unit];
    // Tenths are enough; they are cut, so that what is free is never told too large.
    let tenths = rest * 10 / 1024;
    if tenths > 0 && whole < 100 { format!("{whole}.{tenths} {unit}") } else { format!("{whole} {unit}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(lines: &[String]) -> String {
        anstream::adapter::strip_str(&lines.join("\n")).to_string()
    }

    #[test]
    fn a_table_is_as_wide_as_it_must_be_and_leaves_out_what_is_empty() {
        let rows =
            [[Cell::state("running"), "".into(), "größer".into(), "x".into()], [Cell::state("ok"), "".into(), "漢字".into(), "y\u{1b}[31m".into()]];
        let lines = table(["STATE", "NOTHING", "NAME", "WHY"], &rows);
        insta::assert_snapshot!(plain(&lines), @r"
        STATE    NAME    WHY
        running  größer  x
        ok       漢字    y�[31m
        ");
        assert!(lines[1].contains("\u{1b}[36mrunning\u{1b}[0m"), "{lines:?}");
        assert_eq!(plain(&table(["A", "B"], &[])), "");
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let lines = fields(&[("id", "1".to_owned()), ("reason", String::new()), ("class", "gpu".to_owned())]);
        assert_eq!(plain(&lines), "id     1\nclass  gpu");
    }

    #[test]
    fn times_are_told_in_two_units() {
        let told = [0, 1, 60, 61, 3599, 3600, 3660, 86_400, 90_061, 9_999_999].map(seconds);
        assert_eq!(told, ["0s", "1s", "1m", "1m 1s", "59m 59s", "1h", "1h 1m", "1d", "1d 1h", "115d 17h"]);
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert_eq!([span(at(0), at(75)), span(at(75), at(0))], ["1m 15s", "0s"]);
    }

    #[test]
    fn amounts_are_told_in_their_greatest_unit_and_never_too_large() {
        let told = [0, 1023, 1024, 1536, (1 << 30) - 1, 64 << 30, 3 << 39].map(bytes);
        assert_eq!(told, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1023 MiB", "64 GiB", "1.5 TiB"]);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!([short("äöü", 3), short("äöüß", 3), short("", 3)], ["äöü", "äö…", ""]);
    }

    proptest! {
        #[test]
        fn no_text_of_others_reaches_the_terminal_as_a_command(text in any::<String>()) {
            prop_assert!(!clean(&text).chars().any(char::is_control));
        }
    }
}
