//! What happened, in order: to print a seed that failed, and to compare two runs of one seed. Ids are random, so they are told by the order in
//! which they came up.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The story of one simulation.
#[derive(Debug, Default)]
pub(crate) struct Story {
    names: HashMap<String, usize>,
    lines: Option<Vec<String>>,
    digest: DefaultHasher,
    /// What was promised and not kept.
    pub(crate) broken: Vec<String>,
    /// Faults made so far.
    pub(crate) faults: u64,
}

impl Story {
    /// One whose lines are kept.
    pub(crate) fn kept() -> Self {
        Self { lines: Some(Vec::new()), ..Self::default() }
    }

    /// A random id by its place in the order of all.
    pub(crate) fn name(&mut self, id: &str) -> String {
        let next = self.names.len();
        format!("#{}", *self.names.entry(id.to_owned()).or_insert(next))
    }

    /// Something happened.
    pub(crate) fn tell(&mut self, at: u64, what: &str) {
        let line = format!("{at:>8} {}", self.told(what));
        line.hash(&mut self.digest);
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// A promise was not kept.
    pub(crate) fn breach(&mut self, at: u64, what: &str) {
        self.tell(at, &format!("BROKEN: {what}"));
        let told = self.told(what);
        self.broken.push(format!("at {at} ms: {told}"));
    }

    /// The same for two runs of which everything happened in the same order.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// The lines that were kept.
    pub(crate) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// Replaces what looks like a random id.
    fn told(&mut self, what: &str) -> String {
        let is_id = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut told = String::with_capacity(what.len());
        for piece in what.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
            let word = piece.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
            if is_id(word) {
                let name = self.name(word);
                told.push_str(&name);
                told.push_str(&piece[word.len()..]);
            } else {
                told.push_str(piece);
            }
        }
        told
    }
}
