//! What the page says is what the keys say.

use super::*;

#[test]
fn marks_of_markdown_are_for_the_page_only() {
    assert_eq!(plain("a GPU in [quarantine](gpu.md#health) is `x`"), "a GPU in quarantine is x");
    assert_eq!(plain("a list, `[\"team/app\", 42]`; or `[[http.tokens]]`"), "a list, [\"team/app\", 42]; or [[http.tokens]]");
    assert_eq!(plain("[a](b) and [c](d)"), "a and c");
    assert_eq!(plain("[unfinished](x"), "[unfinished](x");
}

#[test]
fn no_key_is_told_twice_and_every_one_in_its_part() {
    let names: Vec<String> = REFERENCE.iter().flat_map(|part| part.keys).flat_map(|key| key.names()).collect();
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), names.len());
    for part in REFERENCE.iter().filter(|part| part.name != "general") {
        assert!(part.keys.iter().all(|key| key.name.starts_with(part.name)), "{}", part.name);
    }
}
