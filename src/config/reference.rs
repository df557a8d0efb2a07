//! Every key of the configuration in words: what `runner-coordinator config reference` prints, and the tables of `docs/configuration.md`.
//!
//! Tests hold this to the code that reads the keys: no key may be missing here or made up, and a default that is a plain value must be
//! what the code does without the key.

mod keys;

pub use self::keys::REFERENCE;

/// One key, or a secret's two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The dotted name; a list's element has `[]` in it: `classes[].image`.
    pub name: &'static str,
    /// What holds without it, in Markdown.
    pub default: &'static str,
    /// What it means, in Markdown.
    pub meaning: &'static str,
    /// Whether the same name with `_file` behind it names a file that holds the value.
    pub file: HasFile,
}

/// Whether a key has a twin that names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HasFile {
    /// It has: a secret.
    Yes,
    /// It has none.
    No,
}

/// Keys that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What their table is called: the section, or `general`.
    pub name: &'static str,
    /// The keys, in the order in which they are shown.
    pub keys: &'static [Key],
}

const fn key(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning, file: HasFile::No }
}

const fn secret(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, meaning, file: HasFile::Yes }
}

impl Key {
    /// Its name, and its twin's.
    pub fn names(self) -> impl Iterator<Item = String> {
        let twin = (self.file == HasFile::Yes).then(|| format!("{}_file", self.name));
        std::iter::once(self.name.to_owned()).chain(twin)
    }

    /// What it means, without the marks of Markdown.
    #[must_use]
    pub fn plain_meaning(self) -> String {
        plain(self.meaning)
    }

    /// Its default, without the marks of Markdown.
    #[must_use]
    pub fn plain_default(self) -> String {
        plain(self.default)
    }
}

impl Part {
    /// The rows of its table in Markdown. The keys of a list are named as they stand below its heading.
    #[must_use]
    pub fn table(self) -> String {
        let shown = |name: &str| format!("`{}`", name.rsplit("[].").next().unwrap_or(name));
        let row = |key: &Key| {
            let names: Vec<String> = key.names().map(|name| shown(&name)).collect();
            format!("| {} | {} | {} |\n", names.join(", "), key.default, key.meaning)
        };
        let rows: String = self.keys.iter().map(row).collect();
        format!("| key | default | meaning |\n| --- | --- | --- |\n{rows}")
    }
}

/// Links become their words, and code is not marked.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        match link.split_once("](").and_then(|(words, after)| Some((words, after.split_once(')')?.1))) {
            Some((words, after)) if !words.contains('[') => {
                text.push_str(words);
                rest = after;
            }
            Some(_) | None => {
                text.push('[');
                rest = link;
            }
        }
    }
    text.push_str(rest);
    text.replace('`', "")
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
