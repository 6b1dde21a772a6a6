//! The environment as a layer: `HEADWATER__STATE__MEMORY=1GiB` sets `state.memory`.
//!
//! Before it, the caller hands over variables; after it, `load` lays them over the files. A value is read as the default
//! of its key suggests; what cannot be read so stays text, and `decode` says what was wanted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use crate::error::Problem;
use crate::tree::{Node, Origin, Value, parse_value};

/// What the names of our variables begin with.
const PREFIX: &str = "HEADWATER__";

/// One tree for each variable that is ours, in the order of their names; and what cannot be read at all.
pub(crate) fn layers(
    variables: &[(OsString, OsString)],
    defaults: &Node,
) -> (Vec<Node>, Vec<Problem>) {
    let mut ours: Vec<_> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value)))
        .filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)))
        .collect();
    ours.sort_by_key(|(name, ..)| *name);

    let mut trees = Vec::new();
    let mut problems = almost_ours(variables, defaults);
    for (name, key, value) in ours {
        let origin = Origin::Environment {
            variable: Arc::from(name),
        };
        let path = path(key);
        let problem = |reason: &str| Problem {
            key: path.join("."),
            origin: Some(origin.clone()),
            reason: reason.to_owned(),
        };
        if path.iter().any(String::is_empty) {
            problems.push(problem(
                "not the name of a key: sections and key have two underscores between them, as in HEADWATER__STATE__MEMORY",
            ));
            continue;
        }
        let Some(text) = value.to_str() else {
            problems.push(problem("its value is not UTF-8"));
            continue;
        };
        match read(text, shape(&path, defaults), &origin) {
            Ok(value) => trees.push(tree(&path, value, &origin)),
            Err(reason) => problems.push(problem(&reason)),
        }
    }
    (trees, problems)
}

/// Variables that would be ours with two underscores: nobody would see that they do nothing.
fn almost_ours(variables: &[(OsString, OsString)], defaults: &Node) -> Vec<Problem> {
    let mut keys = BTreeMap::new();
    defaults.leaves(&mut |path, _| {
        let name = path.join("__").replace('.', "_").to_uppercase();
        keys.insert(
            name.replace("__", "_"),
            (path.join("."), format!("{PREFIX}{name}")),
        );
    });
    let mut problems = Vec::new();
    for (name, _) in variables {
        let Some(name) = name.to_str().filter(|name| !name.starts_with(PREFIX)) else {
            continue;
        };
        let plain = name.replace("__", "_");
        let Some((key, right)) = plain
            .strip_prefix("HEADWATER_")
            .and_then(|key| keys.get(key))
        else {
            continue;
        };
        problems.push(Problem {
            key: key.clone(),
            origin: Some(Origin::Environment {
                variable: Arc::from(name),
            }),
            reason: format!("the name has one underscore where two belong: {right}"),
        });
    }
    problems
}

/// `STATE__MEMORY` is `state.memory`. Names of Kafka properties have dots, which a variable cannot have:
/// `KAFKA__CLIENT__SASL_PASSWORD` is the property `sasl.password`.
fn path(name: &str) -> Vec<String> {
    let mut path: Vec<String> = name.split("__").map(str::to_lowercase).collect();
    if path.len() > 2 && path[..2] == ["kafka", "client"] {
        let property = path.split_off(2).join(".").replace('_', ".");
        path.push(property);
    }
    path
}

/// The default at `path`; for a task or a sequence of any name, that of the one that the defaults describe.
fn shape<'a>(path: &[String], defaults: &'a Node) -> Option<&'a Value> {
    let node = match path {
        [of, _, rest @ ..] if ["tasks", "sequences"].contains(&of.as_str()) => defaults
            .at(&[of.as_str()])?
            .table()?
            .values()
            .next()?
            .at(rest),
        _ => defaults.at(path),
    };
    node.map(|node| &node.value)
}

fn read(text: &str, shape: Option<&Value>, origin: &Origin) -> Result<Value, String> {
    let plain = || Value::Text(text.to_owned());
    Ok(match shape {
        Some(Value::Integer(_)) => text.parse().map_or_else(|_| plain(), Value::Integer),
        Some(Value::Float(_)) => text.parse().map_or_else(|_| plain(), Value::Float),
        Some(Value::Boolean(_)) => text.parse().map_or_else(|_| plain(), Value::Boolean),
        Some(Value::Array(_)) if text.trim_start().starts_with('[') => {
            parse_value(text, origin).map_err(|error| format!("not an array of TOML: {error}"))?
        }
        Some(Value::Array(_)) => Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|element| !element.is_empty())
                .map(|element| Node {
                    origin: origin.clone(),
                    value: Value::Text(element.to_owned()),
                })
                .collect(),
        ),
        Some(Value::Text(_) | Value::Date(_) | Value::Table(_)) | None => plain(),
    })
}

fn tree(path: &[String], value: Value, origin: &Origin) -> Node {
    let leaf = Node {
        origin: origin.clone(),
        value,
    };
    path.iter().rev().fold(leaf, |inner, key| Node {
        origin: origin.clone(),
        value: Value::Table(BTreeMap::from([(key.clone(), inner)])),
    })
}
