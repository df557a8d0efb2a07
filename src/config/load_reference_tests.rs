//! The reference and the code that reads the keys say the same.

use super::*;
use crate::config::reference::REFERENCE;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

#[test]
fn the_reference_has_every_key_and_no_other() {
    let told: BTreeSet<String> = REFERENCE.iter().flat_map(|part| part.keys).flat_map(|key| key.names()).collect();
    assert_eq!(told, known_keys());
}

/// A default that is one value in code marks, as TOML: as it is where it reads so, else as a text.
fn plain_value(default: &str) -> Option<String> {
    let value = default.strip_prefix('`')?.strip_suffix('`')?;
    if value.contains('`') {
        return None;
    }
    let bare = value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok() || value.starts_with('[');
    Some(if bare { value.to_owned() } else { format!("{value:?}") })
}

#[test]
fn a_default_that_is_told_is_what_the_code_does() {
    let mut tried = 0;
    for key in REFERENCE.iter().flat_map(|part| part.keys) {
        let Some(value) = plain_value(key.default) else { continue };
        // Beside what else the section needs, the same configuration without the key and with it.
        let (around, line) = match key.name.rsplit_once('.') {
            Some(("classes[]", name)) => ("[[classes]]\nname = \"x\"\n", format!("{name} = {value}")),
            Some(("projects[]", name)) => ("[[projects]]\nname = \"x\"\n", format!("{name} = {value}")),
            Some(("gitlab", name)) => ("[gitlab]\nurl = \"http://gitlab.example\"\n", format!("{name} = {value}")),
            Some(("traces", name)) => ("[traces]\nendpoint = \"http://collector.example\"\n", format!("{name} = {value}")),
            _ => ("", format!("{} = {value}", key.name)),
        };
        let dir = written("");
        let base = format!("store.url = \"sqlite:{}/a.db\"\ndata_dir = \"{}\"\n", dir.path().display(), dir.path().display());
        let base = if ["data_dir", "store.url"].contains(&key.name) { String::new() } else { base };
        let without = format!("{:?}", good(&format!("{base}{around}"), &[]));
        assert_eq!(without, format!("{:?}", good(&format!("{base}{around}{line}"), &[])), "{} = {value}", key.name);
        tried += 1;
    }
    assert!(tried >= 40, "only {tried} defaults are plain values");
}

/// `RC_WRITE_DOCS=1` writes the tables anew.
#[test]
fn the_page_holds_the_reference() {
    let page = fs::read_to_string(PAGE).expect("the page");
    let mut anew = page.clone();
    for part in REFERENCE {
        let mark = format!("<!-- keys: {} -->\n", part.name.trim_end_matches("[]"));
        let (before, rest) = anew.split_once(&mark).unwrap_or_else(|| panic!("docs/configuration.md has no {mark}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("an end");
        anew = format!("{before}{mark}{}<!-- end -->{after}", part.table());
    }
    if crate::config::secret_of_env("RC_WRITE_DOCS").is_some() {
        fs::write(PAGE, anew).expect("written");
    } else {
        assert!(page == anew, "docs/configuration.md is not what src/config/reference.rs says: RC_WRITE_DOCS=1 cargo test --lib config:: writes it");
    }
}
