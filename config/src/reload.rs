//! What it takes to change a key of a running daemon, as the marks in `default.toml` say.
//!
//! Before it, the text of the defaults with its `[hot]`, `[rolling]` and `[restart]`; after it, whoever compares two
//! configurations. The reference and the behavior cannot disagree, since there is one text for both.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::DEFAULTS;
use crate::choice::choice;

choice! {
    /// What it takes to change a key of a running daemon.
    ReloadClass {
        /// The next step sees it.
        Hot = "hot",
        /// Applied while running, at a cost that a plan states.
        Rolling = "rolling",
        /// Only a restart changes it.
        Restart = "restart",
    }
}

/// What it takes to change `key`, such as `state.memory`: its own mark, or that of the innermost table around it that has
/// one, which is how keys of the user's own (`tasks.*`, `kafka.client.*`) have theirs. None where nothing is marked.
#[must_use]
pub fn reload_class(key: &str) -> Option<ReloadClass> {
    static MARKS: LazyLock<BTreeMap<String, ReloadClass>> = LazyLock::new(|| marks(DEFAULTS));
    // The longest marked part of the key that ends with a whole name.
    let mut part = key;
    loop {
        if let Some(class) = MARKS.get(part) {
            return Some(*class);
        }
        part = part.rsplit_once('.')?.0;
    }
}

/// Marks by key and by table. A mark behind a table's header holds for all in it that have none of their own, tables
/// below it included; a mark in the comment above a key, or behind it, holds for that key.
fn marks(text: &str) -> BTreeMap<String, ReloadClass> {
    let mut marks = BTreeMap::new();
    let mut table = String::new();
    let mut above = None;
    for line in text.lines() {
        let (code, comment) = line.split_once('#').unwrap_or((line, ""));
        let here = mark(comment);
        let code = code.trim();
        if let Some(header) = code
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            // The defaults describe one task; what holds for it holds for those of any name.
            table = if header.starts_with("tasks.") {
                "tasks".to_owned()
            } else {
                header.to_owned()
            };
            if let Some(class) = here {
                marks.insert(table.clone(), class);
            }
            above = None;
        } else if let Some((key, _)) = code.split_once('=') {
            if let Some(class) = here.or(above) {
                marks.insert(format!("{table}.{}", key.trim()), class);
            }
            above = None;
        } else if code.is_empty() {
            // A blank line ends a comment.
            above = if comment.is_empty() {
                None
            } else {
                here.or(above)
            };
        }
    }
    marks
}

fn mark(comment: &str) -> Option<ReloadClass> {
    ReloadClass::ALL
        .iter()
        .copied()
        .find(|class| comment.contains(&format!("[{class}]")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::defaults;

    /// Goal: every key says what a reload of it takes. Method: each leaf and each table of `default.toml` is asked for.
    #[test]
    fn every_key_has_a_class() {
        defaults().leaves(&mut |path, _| {
            let key = path.join(".");
            assert!(reload_class(&key).is_some(), "{key} has no mark");
        });
        assert_eq!(reload_class("nowhere.at_all"), None);
        assert_eq!(reload_class(""), None);
    }

    /// Goal: marks are read where they stand. Method: one key for each place of a mark.
    #[test]
    fn marks_are_read_where_they_stand() {
        for (key, class) in [
            ("instance.workers", ReloadClass::Restart),
            ("state.path", ReloadClass::Restart),
            ("state.memory", ReloadClass::Rolling),
            ("state.late", ReloadClass::Hot),
            ("step.wait", ReloadClass::Hot),
            ("kinds.names", ReloadClass::Rolling),
            ("kafka.client.sasl.password", ReloadClass::Restart),
            ("tasks.like.positive", ReloadClass::Rolling),
            ("source.behaviors.kinds.42", ReloadClass::Restart),
        ] {
            assert_eq!(reload_class(key), Some(class), "{key}");
        }
    }
}
