//! A log that is written, cut off, forged and put aside.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::config::Config;

const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Result<AuditLog, SecurityError> {
        // Not the file of the machine that the tests run on.
        let config = Config::load(Some(Path::new("/dev/null")), std::iter::empty()).expect("the defaults serve");
        let security = SecurityManager::open(self.dir.path(), &config).expect("a key");
        AuditLog::open(self.dir.path(), &security)
    }

    /// One life of a daemon that does these.
    fn live(&self, acts: &[&str]) {
        let log = self.open().expect("a log");
        for (number, act) in acts.iter().enumerate() {
            log.note(act_named(act), at(number));
        }
        assert!(log.flush(PATIENCE));
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("audit.log")).expect("a log")
    }

    fn write(&self, text: &str) {
        fs::write(self.path("audit.log"), text).expect("written");
    }

    fn faults(&self) -> Vec<String> {
        verify(self.dir.path()).expect("read").faults
    }
}

fn at(second: usize) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + i64::try_from(second).expect("small")).expect("a time")
}

fn act_named(act: &str) -> Act {
    Act { act: act.to_owned(), who: "token:page".to_owned(), detail: Some("a \"quoted\"\nword".to_owned()), ..Act::default() }
}

#[test]
fn a_log_goes_on_over_lives_and_is_whole() {
    let place = Place::new();
    place.live(&["a", "b", "c"]);
    place.live(&["d"]);
    place.live(&[]);
    let verdict = verify(place.dir.path()).expect("read");
    assert_eq!((verdict.lines, verdict.first, verdict.last), (4, Some((1, at(0))), Some((4, at(0)))));
    assert!(verdict.is_whole(), "{:?}", verdict.faults);
    let lines: Vec<serde_json::Value> = place.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines[3]["act"].as_str(), lines[3]["previous"].as_str()), (Some("d"), lines[2]["seal"].as_str()));
    assert_eq!(fs::metadata(place.path("audit.log")).expect("there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn whatever_is_done_to_a_line_shows() {
    let place = Place::new();
    place.live(&["a", "b", "c", "d"]);
    let whole = place.text();
    let lines: Vec<&str> = whole.lines().collect();
    let of = |lines: &[&str]| lines.join("\n") + "\n";
    for (what, text, fault) in [
        ("changed", whole.replacen("token:page", "token:root", 1), "audit.log:1: it is not as it was written"),
        ("taken out", of(&[lines[0], lines[2], lines[3]]), "audit.log:2: line 3 does not follow line 1"),
        ("put in twice", of(&[lines[0], lines[1], lines[1], lines[2], lines[3]]), "audit.log:3: line 2 does not follow line 2"),
        ("turned", of(&[lines[1], lines[0], lines[2], lines[3]]), "audit.log:2: line 1 does not follow line 2"),
        ("cut off", of(&lines[..2]), "the end is missing: the last line is 2, and 4 was written"),
        ("emptied", String::new(), "the end is missing: the last line is 0, and 4 was written"),
        ("padded", whole.replacen("}\n", "} \n", 1), "audit.log:1: it is not as it was written"),
    ] {
        place.write(&text);
        let faults = place.faults();
        assert!(faults.iter().any(|told| told.contains(fault)), "{what}: {faults:?}");
    }
    place.write(&whole);
    assert_eq!(place.faults(), Vec::<String>::new());
    fs::write(place.path("audit.head"), "9 00 00\n").expect("written");
    assert!(place.faults()[0].contains("audit.head: it is not as it was written"));
    fs::remove_file(place.path("audit.head")).expect("gone");
    assert!(place.faults()[0].contains("audit.head: it is not there"));
}

#[test]
fn what_a_crash_left_of_a_line_goes_and_the_rest_stays() {
    let place = Place::new();
    place.live(&["a", "b"]);
    let whole = place.text();
    for cut in [whole.len() - 1, whole.len() - 40, whole.lines().next().expect("a line").len() + 1] {
        place.write(&whole[..cut]);
        // The head of the longer log is of another life.
        fs::remove_file(place.path("audit.head")).expect("gone");
        place.live(&["c"]);
        assert_eq!(place.faults(), Vec::<String>::new(), "cut at {cut}");
        assert_eq!(place.text().lines().count(), 2, "cut at {cut}: the first line, and the new one");
    }
}

#[test]
fn a_log_that_is_open_to_others_or_cannot_be_opened_is_refused_at_the_start() {
    let place = Place::new();
    place.live(&["a"]);
    fs::set_permissions(place.path("audit.log"), Permissions::from_mode(0o640)).expect("opened");
    let error = place.open().expect_err("refused");
    assert!(crate::domain::chain(&error).contains("make it 0600"), "{error}");
    fs::remove_file(place.path("audit.log")).expect("gone");
    fs::create_dir(place.path("audit.log")).expect("made");
    assert!(matches!(place.open(), Err(SecurityError::Audit { .. })));
}

#[test]
fn what_cannot_be_written_is_counted_and_told_with_the_next_that_can() {
    let place = Place::new();
    let log = place.open().expect("a log");
    let note = |act: &str, second: usize| {
        log.note(act_named(act), at(second));
        assert!(log.flush(PATIENCE));
        log.failing().and_then(|(_, since)| since)
    };
    assert_eq!(note("a", 1), None);
    // Somebody puts something else in the log's place.
    let (current, moved) = (place.path("audit.log"), place.path("moved"));
    fs::rename(&current, &moved).expect("moved");
    fs::create_dir(&current).expect("made");
    assert_eq!((note("b", 2), note("c", 3)), (Some(at(2)), Some(at(2))));
    fs::remove_dir(&current).expect("gone");
    fs::rename(&moved, &current).expect("moved");
    assert_eq!(note("d", 4), None);
    let last: serde_json::Value = serde_json::from_str(place.text().lines().nth(1).expect("a line")).expect("JSON");
    // The log itself may have tried again just then.
    assert!(["d", "audit.resume"].contains(&last["act"].as_str().expect("an act")), "{last}");
    assert_eq!((&last["lost"], &last["seq"]), (&2.into(), &2.into()), "{last}");
    assert_eq!(place.faults(), Vec::<String>::new());
    // What says how far the log has got cannot be written: the lines are there all the same.
    fs::create_dir(place.path("audit.head.new")).expect("made");
    assert_eq!(note("e", 5), Some(at(5)));
    fs::remove_dir(place.path("audit.head.new")).expect("gone");
    assert_eq!(note("f", 6), None);
    assert_eq!(place.faults(), Vec::<String>::new());
    for act in ["a", "d", "e", "f"] {
        assert_eq!(place.text().matches(&format!("\"act\":\"{act}\"")).count(), 1, "{act}: {}", place.text());
    }
}

#[test]
fn a_log_that_can_be_written_again_says_so_by_itself() {
    let place = Place::new();
    let log = place.open().expect("a log");
    let (current, moved) = (place.path("audit.log"), place.path("moved"));
    fs::rename(&current, &moved).expect("moved");
    fs::create_dir(&current).expect("made");
    log.note(act_named("a"), at(1));
    assert!(log.flush(PATIENCE));
    assert!(log.failing().is_some());
    fs::remove_dir(&current).expect("gone");
    fs::rename(&moved, &current).expect("moved");
    // Asked to be on the disk, it tries again at once.
    assert!(log.flush(PATIENCE));
    assert_eq!(log.failing(), None);
    let line: serde_json::Value = serde_json::from_str(place.text().lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["act"], &line["lost"], &line["who"]), (&"audit.resume".into(), &1.into(), &"daemon".into()));
}

#[test]
fn a_log_that_is_taken_away_is_missed() {
    let place = Place::new();
    place.live(&["a", "b"]);
    fs::remove_file(place.path("audit.log")).expect("gone");
    assert!(place.faults()[0].contains("the end is missing: the last line is 0, and 2 was written"), "{:?}", place.faults());
    place.live(&["c"]);
    assert_eq!(place.faults(), ["the beginning is missing: the first line is 3, and 1 is kept"]);
    let log = place.open().expect("a log");
    fs::remove_file(place.path("audit.log")).expect("gone");
    log.note(act_named("d"), at(9));
    assert!(log.flush(PATIENCE));
    assert_eq!((log.failing(), place.text().lines().count()), (None, 1), "it is written into a new file, and not into one that nobody can find");
    assert_eq!(place.faults(), ["the beginning is missing: the first line is 4, and 1 is kept"]);
}

#[test]
fn files_are_put_aside_by_their_size_the_oldest_go_and_the_chain_goes_on() {
    let place = Place::new();
    let act = Act { detail: Some("x".repeat(4 << 10)), ..act_named("long") };
    let log = place.open().expect("a log");
    // More than all files hold together.
    for number in 0..400 {
        log.note(act.clone(), at(number));
        if number % 10 == 0 {
            assert!(log.flush(PATIENCE));
        }
    }
    assert!(log.flush(PATIENCE));
    let verdict = verify(place.dir.path()).expect("read");
    assert!(verdict.is_whole(), "{:?}", verdict.faults);
    assert!(verdict.first.is_some_and(|(first, _)| first > 1) && verdict.last.is_some_and(|(last, _)| last == 400), "{verdict:?}");
    let bytes: u64 = fs::read_dir(place.dir.path()).expect("files").map(|file| file.expect("a file").metadata().expect("there").len()).sum();
    // Files are put aside between two batches.
    assert!(bytes < 8 * (128 << 10), "{bytes}");
    drop(log);
    // Who takes old files away cannot pass that off as their age.
    let oldest = place.path("audit.log.7");
    let kept = fs::read(&oldest).expect("read");
    fs::rename(place.path("audit.log.6"), &oldest).expect("moved");
    assert!(place.faults()[0].contains("the beginning is missing"), "{:?}", place.faults());
    fs::rename(&oldest, place.path("audit.log.6")).expect("moved");
    fs::write(&oldest, kept).expect("written");
    assert_eq!(place.faults(), Vec::<String>::new());
}

#[test]
fn the_first_line_of_a_file_goes_on_where_the_one_before_ends_also_over_a_restart() {
    let place = Place::new();
    place.live(&["a", "b"]);
    fs::rename(place.path("audit.log"), place.path("audit.log.1")).expect("moved");
    place.live(&["c"]);
    assert_eq!((place.faults(), place.text().lines().count()), (Vec::new(), 1));
}
