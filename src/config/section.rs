//! Takes values out of one table by key, so that what is left over is unknown and no fault hides another.
//!
//! Serde's `deny_unknown_fields` would do the same but stops at the first fault and cannot say which variable it came from.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use config::{Map, Value, ValueKind};

use super::fault::ConfigFault;
use crate::domain::FieldFault;

/// What is made of a secret's file that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretFiles {
    /// A fault.
    Needed,
    /// The secret counts as not given: the set-up is about to write the file.
    MayBeMissing,
}

/// What the reading of all sections shares.
pub(super) struct Reading {
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// Where systemd put this service's credentials.
    pub(super) credentials: Option<PathBuf>,
    /// Whether a secret's file may be missing.
    pub(super) files: SecretFiles,
    /// Every file that is named for a secret, by dotted key.
    pub(super) named: RefCell<BTreeMap<String, PathBuf>>,
    /// Faults found so far.
    pub(super) faults: RefCell<Vec<ConfigFault>>,
    /// Every key that was asked for, lists without their places: `classes[].name`.
    pub(super) known: RefCell<BTreeSet<String>>,
}

/// One table of the configuration.
pub(super) struct Section<'a> {
    reading: &'a Reading,
    /// Dotted path with a dot at the end; empty for the whole.
    path: String,
    /// The same without places in lists.
    pattern: String,
    left: BTreeMap<String, Value>,
    /// The variables that values came from, by key; `None` for the file.
    origins: BTreeMap<String, Option<String>>,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn whole(reading: &'a Reading, values: Map<String, Value>) -> Self {
        Self::of(reading, (String::new(), String::new()), values)
    }

    fn of(reading: &'a Reading, (path, pattern): (String, String), values: Map<String, Value>) -> Self {
        let origins = values.iter().map(|(key, value)| (key.clone(), value.origin().map(str::to_owned))).collect();
        Self { reading, path, pattern, left: values.into_iter().collect(), origins }
    }

    /// The reading that this belongs to.
    pub(super) fn reading(&self) -> &'a Reading {
        self.reading
    }

    /// Whether the key is given, without taking it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Full dotted key.
    pub(super) fn field(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// Notes a fault of `key`.
    pub(super) fn fault(&self, key: &str, message: impl Into<String>) {
        let from_file = || self.reading.file.as_ref().map_or_else(|| "configuration".to_owned(), |file| file.display().to_string());
        let source = self.origins.get(key).cloned().flatten().unwrap_or_else(from_file);
        self.reading.faults.borrow_mut().push(ConfigFault { source, key: Some(self.field(key)), message: message.into() });
    }

    /// Notes the fault in a result, if there is one.
    pub(super) fn note<T>(&self, key: &str, result: Result<T, FieldFault>) -> Option<T> {
        result.map_err(|fault| self.fault(key, fault.message)).ok()
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.reading.known.borrow_mut().insert(format!("{}{key}", self.pattern));
        self.left.remove(key)
    }

    fn is_variable(&self, key: &str) -> bool {
        self.origins.get(key).is_some_and(Option::is_some)
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let text = as_text(self.take(key)?);
        if text.is_none() {
            self.fault(key, "must be a text in quotes");
        }
        text
    }

    /// A text that `read` understands; `read` gets the dotted key and the text.
    pub(super) fn parsed<T>(&mut self, key: &str, read: impl FnOnce(&str, &str) -> Result<T, FieldFault>) -> Option<T> {
        let text = self.text(key)?;
        self.note(key, read(&self.field(key), &text))
    }

    /// The same for a text that must be there.
    pub(super) fn required<T>(&mut self, key: &str, read: impl FnOnce(&str, &str) -> Result<T, FieldFault>) -> Option<T> {
        let value = self.parsed(key, read);
        if !self.has(key) {
            self.fault(key, "must be given");
        }
        value
    }

    /// A whole number within `range`.
    pub(super) fn whole_number<T: TryFrom<i64>>(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<T> {
        let number = match self.take(key)?.kind {
            ValueKind::I64(number) => Some(number),
            ValueKind::String(text) if self.is_variable(key) => text.parse().ok(),
            _ => None,
        };
        let read = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if read.is_none() {
            self.fault(key, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        read
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let read = match self.take(key)?.kind {
            ValueKind::Boolean(flag) => Some(flag),
            ValueKind::String(text) if self.is_variable(key) => text.parse().ok(),
            _ => None,
        };
        if read.is_none() {
            self.fault(key, "must be true or false");
        }
        read
    }

    /// A number, whole or not, that `read` understands.
    pub(super) fn number<T>(&mut self, key: &str, read: impl FnOnce(&str, f64) -> Result<T, FieldFault>) -> Option<T> {
        let number = match self.take(key)?.kind {
            ValueKind::I64(number) => i32::try_from(number).map_or(f64::INFINITY, f64::from),
            ValueKind::Float(number) => number,
            ValueKind::String(text) if self.is_variable(key) => text.parse().unwrap_or(f64::NAN),
            _ => f64::NAN,
        };
        self.note(key, read(&self.field(key), number))
    }

    /// A list of texts; a variable gives them with commas between. A single text is a list of one.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let split = self.is_variable(key);
        let texts = self.whole_texts(key);
        match texts.as_slice() {
            [text] if split => text.split(',').map(|part| part.trim().to_owned()).collect(),
            _ => texts,
        }
    }

    /// The same for texts some of which may be written as whole numbers.
    pub(super) fn texts_or_numbers(&mut self, key: &str) -> Vec<String> {
        if let Some(Value { kind: ValueKind::Array(values), .. }) = self.left.get_mut(key) {
            for value in values {
                if let ValueKind::I64(number) = value.kind {
                    value.kind = ValueKind::String(number.to_string());
                }
            }
        }
        self.texts(key)
    }

    /// The same for texts in which a comma is a character like any other.
    pub(super) fn whole_texts(&mut self, key: &str) -> Vec<String> {
        let texts = match self.take(key).map(|value| value.kind) {
            None => Some(Vec::new()),
            Some(ValueKind::String(text)) => Some(vec![text]),
            Some(ValueKind::Array(values)) => values.into_iter().map(as_text).collect(),
            Some(_) => None,
        };
        texts.unwrap_or_else(|| {
            self.fault(key, "must be a list of texts in quotes");
            Vec::new()
        })
    }

    /// Reads the table under `key`, empty when it is not given, and reports what `read` left of it.
    pub(super) fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let values = match self.left.remove(key).map(|value| value.kind) {
            None => Map::new(),
            Some(ValueKind::Table(values)) => values,
            Some(_) => {
                self.fault(key, "must be a section with keys of its own");
                Map::new()
            }
        };
        let paths = (format!("{}.", self.field(key)), format!("{}{key}.", self.pattern));
        Section::of(self.reading, paths, values).read(read)
    }

    /// Reads every table of the list under `key`.
    pub(super) fn each<T>(&mut self, key: &str, mut read: impl FnMut(&mut Section<'a>) -> Option<T>) -> Vec<T> {
        let values = match self.left.remove(key).map(|value| value.kind) {
            None => Vec::new(),
            Some(ValueKind::Array(values)) => values,
            Some(_) => {
                self.fault(key, format!("must be a list of sections, each headed [[{}]]", self.field(key)));
                Vec::new()
            }
        };
        let mut found = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let place = format!("{key}[{index}]");
            let ValueKind::Table(values) = value.kind else {
                self.fault(&place, "must be a section with keys of its own");
                continue;
            };
            let paths = (format!("{}.", self.field(&place)), format!("{}{key}[].", self.pattern));
            found.extend(Section::of(self.reading, paths, values).read(&mut read));
        }
        found
    }

    /// Reads this section with `read` and reports the keys that were not asked for.
    pub(super) fn read<T>(mut self, read: impl FnOnce(&mut Section<'a>) -> T) -> T {
        let result = read(&mut self);
        for (key, value) in &self.left {
            // A value that stands deeper tells its own origin better than the table that holds it.
            match deepest(key, value) {
                (key, Some(variable)) => {
                    let fault = ConfigFault { source: variable, key: Some(self.field(&key)), message: UNKNOWN.to_owned() };
                    self.reading.faults.borrow_mut().push(fault);
                }
                (key, None) => self.fault(&key, UNKNOWN),
            }
        }
        result
    }
}

const UNKNOWN: &str = "is not a known key";

fn as_text(value: Value) -> Option<String> {
    match value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// The first value under an unknown key with the variable that it came from.
fn deepest(key: &str, value: &Value) -> (String, Option<String>) {
    match &value.kind {
        ValueKind::Table(values) => match values.iter().min_by_key(|(name, _)| (*name).clone()) {
            Some((name, inner)) if value.origin().is_none() && deepest(name, inner).1.is_some() => {
                let (rest, origin) = deepest(name, inner);
                (format!("{key}.{rest}"), origin)
            }
            _ => (key.to_owned(), value.origin().map(str::to_owned)),
        },
        _ => (key.to_owned(), value.origin().map(str::to_owned)),
    }
}
