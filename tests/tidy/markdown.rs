//! The pages: their links, and the keys of the configuration that they name.

use std::collections::BTreeSet;

use crate::File;

/// Relative links of a page whose file or heading is not there.
pub(crate) fn links(page: &File, files: &[File], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in prose(&page.text) {
        for (at, _) in line.match_indices("](") {
            let Some(target) = line[at + 2..].split(')').next() else {
                continue;
            };
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() {
                page.path.clone()
            } else {
                resolve(&page.path, path)
            };
            let mut fault = |what: &str| {
                faults.push(format!("{}:{number}: ({target}) {what}", page.path));
            };
            if !exists(&path) {
                fault("is not there");
            } else if let Some(file) = files.iter().find(|file| file.path == path)
                && !heading.is_empty()
                && !headings(&file.text).contains(heading)
            {
                fault("has no such heading");
            }
        }
    }
    faults
}

/// A link's path from the root.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The headings of a page as links name them.
fn headings(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect()
}

/// The lines of a page that are no examples, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut example = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        example ^= fence;
        !example && !fence
    })
}

/// The keys of a TOML file of our form, sections and keys: `state`, `state.memory`.
pub(crate) fn keys(toml: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut section = "";
    for line in toml.lines() {
        if let Some(rest) = line.strip_prefix('[') {
            section = rest.split(']').next().unwrap_or_default();
            let mut path = section;
            while !path.is_empty() {
                keys.insert(path.to_owned());
                path = path.rsplit_once('.').map_or("", |(above, _)| above);
            }
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with(['#', ' '])
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

/// Keys in code marks that are none. What stands below `kafka.client` and `tasks` is the operator's.
pub(crate) fn unknown_keys(page: &File, keys: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in prose(&page.text) {
        for word in line.split('`').skip(1).step_by(2) {
            // `state.late = "keep"` names a key too.
            let word = word.split([' ', '=']).next().unwrap_or_default();
            let plain = |letter: char| letter.is_ascii_lowercase() || "._".contains(letter);
            let Some((section, _)) = word.split_once('.') else {
                continue;
            };
            let theirs = ["kafka.client.", "tasks.", "source.behaviors.kinds."]
                .iter()
                .any(|table| word.starts_with(table));
            let file = [".toml", ".md", ".rs", ".json", ".log"]
                .iter()
                .any(|end| word.ends_with(end));
            if word.chars().all(plain)
                && keys.contains(section)
                && !theirs
                && !file
                && !keys.contains(word.trim_end_matches('.'))
            {
                faults.push(format!("{}:{number}: no key `{word}`", page.path));
            }
        }
    }
    faults
}

/// Tests that a page names and that are none: words of the form `a_full_disk_loses_nothing`, of four parts or more.
pub(crate) fn unknown_tests(page: &File, files: &[File]) -> Vec<String> {
    let letters =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let mut faults = Vec::new();
    for (number, line) in prose(&page.text) {
        for word in line.split(|letter| !letters(letter)) {
            let parts = word.split('_');
            if parts.clone().count() < 4 || parts.clone().any(str::is_empty) {
                continue;
            }
            let test = format!("fn {word}(");
            if !files
                .iter()
                .any(|file| file.is_rust() && file.text.contains(&test))
            {
                faults.push(format!("{}:{number}: no test `{word}`", page.path));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> File {
        File {
            path: "docs/operating/a.md".to_owned(),
            text: text.to_owned(),
        }
    }

    /// Goal: links to nowhere are found, the others are not. Method: files, folders, headings, examples, other places.
    #[test]
    fn planted_links_are_found() {
        let other = File {
            path: "docs/b.md".to_owned(),
            text: "# What it *is*, and why\n```text\n# no heading\n```\n".to_owned(),
        };
        let files = [other];
        let exists = |path: &str| {
            ["docs/b.md", "config/default.toml", "docs/operating/a.md"].contains(&path)
        };
        let of = |text: &str| links(&page(text), &files, &exists);
        for right in [
            "[a](../b.md)",
            "[a](../b.md#what-it-is-and-why)",
            "[a](../../config/default.toml)",
            "[a](https://example.org/x)",
            "```text\n[a](nowhere.md)\n```",
        ] {
            assert_eq!(of(right), [""; 0], "{right}");
        }
        assert_eq!(
            of("\n[a](b.md)"),
            ["docs/operating/a.md:2: (b.md) is not there"]
        );
        assert_eq!(
            of("[a](../b.md), [a](../c.md)"),
            ["docs/operating/a.md:1: (../c.md) is not there"]
        );
        assert_eq!(
            of("[a](../b.md#no-heading)"),
            ["docs/operating/a.md:1: (../b.md#no-heading) has no such heading"]
        );
    }

    /// Goal: keys that are none are found. Method: keys that are, that are not, and what only looks like one.
    #[test]
    fn planted_keys_are_found() {
        let keys = keys(
            "# a\n[state]   # [hot]\nmemory = \"1\"\n[source.behaviors]\nmapped = false\n[tasks.click]\n[kafka.client]\n",
        );
        let of = |text: &str| unknown_keys(&page(text), &keys);
        let right = "`state.memory`, `state.memory = \"2\"`, `source.behaviors.mapped`, `kafka.client.x.y`, `tasks.buy.trials`, `state.rs`, state.x";
        assert_eq!(of(right), [""; 0]);
        assert_eq!(
            of("`state.memry`"),
            ["docs/operating/a.md:1: no key `state.memry`"]
        );
        assert_eq!(
            of("`state.memory`, `source.mapped = 1`"),
            ["docs/operating/a.md:1: no key `source.mapped`"]
        );
    }

    /// Goal: a page that names a test that is gone is found. Method: one that is, one that is not, and keys, which are shorter.
    #[test]
    fn planted_tests_are_found() {
        let source = File {
            path: "tests/a.rs".to_owned(),
            text: "fn a_disk_is_full() {}".to_owned(),
        };
        let files = [source];
        let of = |text: &str| unknown_tests(&page(text), &files);
        assert_eq!(
            of("| `process` a_disk_is_full, `state.allowed_lateness` |"),
            [""; 0]
        );
        assert_eq!(
            of("x a_disk_is_empty"),
            ["docs/operating/a.md:1: no test `a_disk_is_empty`"]
        );
    }
}
