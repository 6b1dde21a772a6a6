//! Guarantees: the table of ARCHITECTURE.md is where each is stated, and a test's goal is where each is shown.

use std::collections::{BTreeMap, BTreeSet};

use crate::File;

const PAGE: &str = "ARCHITECTURE.md";
/// Where the rule itself names guarantees that there are not.
const PLANTED: &str = "tests/tidy/";

/// Everything that is wrong with guarantees in the tree.
pub(crate) fn faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut stated: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.path.starts_with(PLANTED)) {
        for (number, line) in file.text.lines().enumerate() {
            let Some(id) = statement(line) else { continue };
            if file.path == PAGE {
                *stated.entry(id).or_default() += 1;
            } else {
                let (path, line) = (&file.path, number + 1);
                faults.push(format!(
                    "{path}:{line}: {id} is stated in {PAGE}: once is enough"
                ));
            }
        }
    }
    if stated.is_empty() {
        faults.push(format!("{PAGE}: states no guarantee"));
    }
    for (id, _) in stated.iter().filter(|(_, count)| **count > 1) {
        faults.push(format!("{PAGE}: {id} is stated twice"));
    }
    let mut shown = BTreeSet::new();
    for file in files.iter().filter(|file| !file.path.starts_with(PLANTED)) {
        if file.is_rust() {
            shown.extend(goals(&file.text));
        }
        for (number, line) in file.text.lines().enumerate() {
            for id in ids(line).filter(|id| !stated.contains_key(id)) {
                let (path, line) = (&file.path, number + 1);
                faults.push(format!("{path}:{line}: {PAGE} states no {id}"));
            }
        }
    }
    for id in stated.keys().filter(|id| !shown.contains(**id)) {
        faults.push(format!("{PAGE}: {id} is the goal of no test"));
    }
    faults
}

/// The guarantee that a line states: a row of a table, or an item of a list, that begins with it.
fn statement(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(['/', '!', ' ']);
    let rest = ["| ", "- ", "* "]
        .iter()
        .find_map(|mark| line.strip_prefix(mark))?;
    let rest = rest.trim_start_matches(['`', '*']);
    let id = ids(rest).next()?;
    rest.starts_with(id).then_some(id)
}

/// The guarantees that a line names: `STATE-1` and its like.
fn ids(line: &str) -> impl Iterator<Item = &str> {
    const FAMILIES: [&str; 4] = ["STATE-", "PIPE-", "LIMIT-", "MODEL-"];
    let found = FAMILIES.into_iter().flat_map(move |family| {
        line.match_indices(family).filter_map(move |(at, _)| {
            let digits = line[at + family.len()..]
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count();
            let begins = !line[..at].ends_with(|letter: char| letter.is_alphanumeric());
            (digits > 0 && begins).then(|| (at, &line[at..at + family.len() + digits]))
        })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    found.into_iter().map(|(_, id)| id)
}

/// The guarantees that are goals of tests of a source.
fn goals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut goal = false;
    for line in text.lines().map(str::trim) {
        let Some(about) = line.strip_prefix("///") else {
            goal = false;
            continue;
        };
        goal |= about.contains("Goal:");
        let (before, after) = about
            .split_once("Method:")
            .map_or((about, false), |(before, _)| (before, true));
        if goal {
            found.extend(ids(before).map(str::to_owned));
        }
        goal &= !after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(page: &str, source: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        faults(&[file(PAGE, page), file("state/src/a.rs", source)])
    }

    const ROW: &str = "| STATE-1 | counted once | x |\n";
    const TEST: &str = "/// Goal: STATE-1 holds.\n/// Method: x.\n";

    /// Goal: what is stated twice, or nowhere, or shown by nobody is found. Method: each planted, beside what is right.
    #[test]
    fn planted_guarantees_are_found() {
        assert_eq!(of(ROW, TEST), [""; 0]);
        assert_eq!(of(ROW, &format!("{TEST}// see `STATE-1`\n")), [""; 0]);
        assert_eq!(
            of(&ROW.repeat(2), TEST),
            ["ARCHITECTURE.md: STATE-1 is stated twice"]
        );
        assert_eq!(
            of(ROW, &format!("//! - `STATE-1` counted once.\n{TEST}")),
            ["state/src/a.rs:1: STATE-1 is stated in ARCHITECTURE.md: once is enough"]
        );
        assert_eq!(
            of(ROW, &format!("{TEST}/// PIPE-9 too.\n")),
            ["state/src/a.rs:3: ARCHITECTURE.md states no PIPE-9"]
        );
        for source in [
            "",
            "/// STATE-1.\n",
            "/// Goal: x. Method: STATE-1.\n",
            "// Goal: STATE-1.\n",
        ] {
            assert_eq!(
                of(ROW, source),
                ["ARCHITECTURE.md: STATE-1 is the goal of no test"],
                "{source}"
            );
        }
        assert_eq!(of("", ""), ["ARCHITECTURE.md: states no guarantee"]);
    }
}
