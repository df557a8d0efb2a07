//! What happened, in order: to print a seed that failed, and to compare two runs of one seed. Ids are random, so they are told by the order in
//! which they came up.

use std::collections::HashMap;

/// Before what only tells two runs apart.
pub(crate) const WHISPER: &str = "~ ";

/// The story of one simulation.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// When, in milliseconds, and what; as it was told, because most stories are never read.
    told: Vec<(u64, String)>,
    breaches: Vec<(u64, String)>,
    /// Faults made so far.
    pub(crate) faults: u64,
}

impl Story {
    /// Something happened.
    pub(crate) fn tell(&mut self, at: u64, what: &str) {
        self.told.push((at, what.to_owned()));
    }

    /// Something happened that tells two runs apart, and nobody else cares for.
    pub(crate) fn whisper(&mut self, at: u64, what: &str) {
        self.told.push((at, format!("{WHISPER}{what}")));
    }

    /// A promise was not kept.
    pub(crate) fn breach(&mut self, at: u64, what: &str) {
        self.tell(at, &format!("BROKEN: {what}"));
        self.breaches.push((at, what.to_owned()));
    }

    /// The lines, the same for two runs in which everything happened in the same order.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut names = Names::default();
        self.told.iter().map(|(at, what)| format!("{at:>8} {}", names.put_into(what))).collect()
    }

    /// What was promised and not kept.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut names = Names::default();
        for (_, what) in &self.told {
            names.put_into(what);
        }
        self.breaches.iter().map(|(at, what)| format!("at {at} ms: {}", names.put_into(what))).collect()
    }

    /// Whether every promise was kept.
    pub(crate) fn went_well(&self) -> bool {
        self.breaches.is_empty()
    }
}

/// Random ids by the order in which they came up.
#[derive(Debug, Default)]
struct Names(HashMap<String, usize>);

impl Names {
    /// Replaces what looks like a random id.
    fn put_into(&mut self, what: &str) -> String {
        let is_id = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut told = String::with_capacity(what.len());
        for piece in what.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
            let word = piece.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            if is_id(word) {
                let next = self.0.len();
                let name = format!("#{}", self.0.entry(word.to_owned()).or_insert(next));
                told.push_str(&name);
                told.push_str(&piece[word.len()..]);
            } else {
                told.push_str(piece);
            }
        }
        told
    }
}
