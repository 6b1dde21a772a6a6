//! What is in force, and where each value came from: `headwater config show`.
//!
//! Before it, `load`; after it, a person or a program reads. The TOML is a configuration that gives the same again
//! (secrets excepted), the JSON one object with an entry for each key. No secret comes here: `load` has taken them out.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use crate::load::{Loaded, defaults};
use crate::tree::{Node, Origin, Value};

impl Loaded {
    /// Every key in the order of `default.toml`, each with where it was written: `memory = "1GiB"  # /etc/hw.toml:3`.
    #[must_use]
    pub fn show_toml(&self) -> String {
        let defaults = defaults();
        let mut lines = String::new();
        table(&mut lines, &mut Vec::new(), self.origins.tree(), &defaults);
        lines
    }

    /// One object: for each key its `value` and its `origin` (`layer`, and `line`, `path`, `variable` where there are
    /// such).
    #[must_use]
    pub fn show_json(&self) -> serde_json::Value {
        let mut keys = serde_json::Map::new();
        self.origins.tree().leaves(&mut |path, node| {
            keys.insert(
                path.join("."),
                json!({ "value": json_value(node), "origin": json_origin(&node.origin) }),
            );
        });
        serde_json::Value::Object(keys)
    }
}

fn table(lines: &mut String, path: &mut Vec<String>, node: &Node, defaults: &Node) {
    let Some(nodes) = node.table() else {
        return;
    };
    let mut keys: Vec<&String> = nodes.keys().collect();
    keys.sort_by_key(|key| {
        let mut inner = path.clone();
        inner.push((*key).clone());
        match defaults.at(&inner).map(|node| &node.origin) {
            Some(Origin::Default { line }) => (*line, *key),
            _ => (usize::MAX, *key),
        }
    });
    let (tables, leaves): (Vec<_>, Vec<_>) = keys
        .into_iter()
        .partition(|key| nodes[*key].table().is_some());

    if !path.is_empty() && (!leaves.is_empty() || nodes.is_empty()) {
        let header: Vec<_> = path.iter().map(|key| toml_key(key)).collect();
        let gap = if lines.is_empty() { "" } else { "\n" };
        writeln!(lines, "{gap}[{}]", header.join(".")).expect("invariant: a string can grow");
    }
    for key in leaves {
        let node = &nodes[key];
        writeln!(
            lines,
            "{} = {}  # {}",
            toml_key(key),
            toml_value(node),
            node.origin
        )
        .expect("invariant: a string can grow");
    }
    for key in tables {
        path.push(key.clone());
        table(lines, path, &nodes[key], defaults);
        path.pop();
    }
}

/// A key as TOML writes it: in quotes where it needs them.
fn toml_key(key: &str) -> String {
    let bare = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        toml::Value::String(key.to_owned()).to_string()
    }
}

fn toml_value(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => {
            // In one line, so that the comment behind it stays a comment.
            if text.contains(['\n', '\r']) {
                serde_json::Value::String(text.clone()).to_string()
            } else {
                toml::Value::String(text.clone()).to_string()
            }
        }
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => toml::Value::Float(*number).to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Date(date) => date.clone(),
        Value::Array(nodes) => {
            let elements: Vec<_> = nodes.iter().map(toml_value).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Table(_) => String::new(),
    }
}

fn json_value(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) | Value::Date(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Boolean(truth) => json!(truth),
        Value::Array(nodes) => nodes.iter().map(json_value).collect(),
        Value::Table(nodes) => {
            let entries: BTreeMap<_, _> = nodes
                .iter()
                .map(|(key, node)| (key, json_value(node)))
                .collect();
            json!(entries)
        }
    }
}

fn json_origin(origin: &Origin) -> serde_json::Value {
    match origin {
        Origin::Default { line } => json!({ "layer": "default", "line": line }),
        Origin::File { path, line } => {
            json!({ "layer": "file", "path": path.display().to_string(), "line": line })
        }
        Origin::Text { line } => json!({ "layer": "text", "line": line }),
        Origin::Environment { variable } => {
            json!({ "layer": "environment", "variable": variable.as_ref() })
        }
    }
}
