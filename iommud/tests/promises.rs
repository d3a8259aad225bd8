//! `PROMISES.md` names tests: each is where the page says it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A line of the page that names a test: `` - [`NAME`](PATH): WHAT IT DOES ``.
fn named(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("- [`")?.split_once("`](")?;
    let (path, _) = rest.split_once("):")?;
    Some((name, path))
}

#[test]
fn each_test_that_is_named_is_there_and_each_rule_has_some() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("PROMISES.md")).unwrap();
    let mut rules = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("- [")) {
        let (name, path) = named(line).unwrap_or_else(|| panic!("not as others: {line}"));
        let source =
            fs::read_to_string(root.join(path)).unwrap_or_else(|it| panic!("{path}: {it}"));
        assert!(source.contains(&format!("fn {name}(")), "{path} has no {name}");
        rules.extend(name.split('_').take_while(|word| is_rule(word)).map(str::to_owned));
    }
    let expected = (1..=8).map(|rule| format!("r{rule}")).collect();
    assert_eq!(rules, expected, "the rules with tests");
}

fn is_rule(word: &str) -> bool {
    word.strip_prefix('r').is_some_and(|number| number.parse::<u8>().is_ok())
}
