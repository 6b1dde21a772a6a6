//! Layers to configuration: defaults, files, environment.
//!
//! Before it, the caller names files and hands over variables; after it, everything goes by [`Loaded::config`]. A load
//! gives a configuration that obeys every rule, or all that is wrong, and nothing in between.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Config;
use crate::decode::{Decoded, decode};
use crate::error::{LoadError, Problem};
use crate::kafka::{is_secret, read_files};
use crate::secret::HIDDEN;
use crate::tree::{self, Layer, Node, Origin, Value};
use crate::validate::{Violation, validate};
use crate::{DEFAULTS, environment};

/// What a configuration is made of, besides the defaults. Later files go over earlier ones, the environment over all.
#[derive(Clone, Copy, Default)]
pub struct Sources<'a> {
    /// TOML files. One that cannot be read is an error.
    pub files: &'a [PathBuf],
    /// Variables, such as `std::env::vars_os()`: those whose names begin with `HEADWATER__` are keys.
    pub environment: &'a [(OsString, OsString)],
}

impl fmt::Debug for Sources<'_> {
    /// Less the environment: passwords may be in it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sources")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// A configuration, and where each of its values was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the daemon goes by.
    pub config: Config,
    /// Where each value was written.
    pub origins: Origins,
}

/// Where each value was written. Secrets are not in it.
#[derive(Clone, PartialEq)]
pub struct Origins {
    /// The merged tree, less its secrets.
    tree: Node,
}

/// The largest file that is read as a configuration.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Origins {
    /// Where the value of `key` (such as `state.memory`) was written; none where there is no such key.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<&Origin> {
        self.iter()
            .find(|(name, _)| name == key)
            .map(|(_, origin)| origin)
    }

    /// Every key with where its value was written, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (String, &Origin)> {
        let mut all = Vec::new();
        self.tree
            .leaves(&mut |path, node| all.push((path.join("."), &node.origin)));
        all.into_iter()
    }

    pub(crate) fn tree(&self) -> &Node {
        &self.tree
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_map()
            .entries(self.iter().map(|(key, origin)| (key, origin.to_string())))
            .finish()
    }
}

/// The tree of the defaults alone.
pub(crate) fn defaults() -> Node {
    tree::parse(DEFAULTS, &Layer::Default).unwrap_or_else(|problems| {
        panic!("invariant: default.toml is TOML: {problems:?}");
    })
}

pub(crate) fn load(sources: &Sources<'_>) -> Result<Loaded, LoadError> {
    let mut problems = Vec::new();
    let mut layers = Vec::new();
    for file in sources.files {
        match read_file(file) {
            Ok(text) => match tree::parse(&text, &Layer::File(Arc::from(file.as_path()))) {
                Ok(layer) => layers.push(layer),
                Err(found) => problems.extend(found),
            },
            Err(reason) => problems.push(Problem {
                key: String::new(),
                origin: None,
                reason: format!("cannot read {}: {reason}", file.display()),
            }),
        }
    }
    // With a file missing every complaint about what is left would be a guess.
    if !problems.is_empty() {
        return Err(LoadError::new(problems));
    }
    merge(layers, sources.environment)
}

pub(crate) fn load_text(text: &str) -> Result<Loaded, LoadError> {
    let layer = tree::parse(text, &Layer::Text).map_err(LoadError::new)?;
    merge(vec![layer], &[])
}

fn merge(layers: Vec<Node>, variables: &[(OsString, OsString)]) -> Result<Loaded, LoadError> {
    let defaults = defaults();
    let mut tree = defaults.clone();
    for layer in layers {
        tree.lay_file(layer, &defaults);
    }
    let (layers, mut problems) = environment::layers(variables, &defaults);
    for layer in layers {
        tree.lay(layer, Some(&defaults));
    }

    let Decoded {
        mut config,
        problems: found,
        failed,
    } = decode(&tree, &defaults);
    problems.extend(found);
    for (property, reason) in read_files(&mut config.kafka.client) {
        problems.push(Problem {
            origin: tree
                .at(&["kafka", "client", property.as_str()])
                .map(|node| node.origin.clone()),
            key: format!("kafka.client.{property}"),
            reason,
        });
    }
    // A key that could not be read has its default for the time being: no rule is held against it.
    let sound = |violation: &Violation| {
        violation
            .keys
            .iter()
            .all(|key| !failed.iter().any(|path| overlaps(path, key)))
    };
    problems.extend(
        validate(&config)
            .into_iter()
            .filter(sound)
            .map(|violation| blame(violation, &tree)),
    );
    if !problems.is_empty() {
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        return Err(LoadError::new(problems));
    }
    hide_secrets(&mut tree);
    Ok(Loaded {
        config,
        origins: Origins { tree },
    })
}

/// Holds a configuration against the rules alone.
pub(crate) fn check(config: &Config) -> Result<(), LoadError> {
    let problems: Vec<_> = validate(config)
        .into_iter()
        .map(|violation| Problem {
            key: violation.keys[0].join("."),
            origin: None,
            reason: violation.reason,
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(LoadError::new(problems))
    }
}

/// Whether one path leads to, or through, the other.
fn overlaps(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Of the keys that a rule binds, the first that somebody wrote is the one to look at.
fn blame(violation: Violation, tree: &Node) -> Problem {
    let written = |key: &&Vec<String>| !matches!(tree.nearest(key).origin, Origin::Default { .. });
    let key = violation
        .keys
        .iter()
        .find(written)
        .unwrap_or(&violation.keys[0]);
    Problem {
        origin: Some(tree.nearest(key).origin.clone()),
        key: key.join("."),
        reason: violation.reason,
    }
}

fn hide_secrets(tree: &mut Node) {
    let Some(Value::Table(client)) = tree
        .at_mut(&["kafka", "client"])
        .map(|client| &mut client.value)
    else {
        return;
    };
    for (name, node) in client {
        // The name of a file may be shown: what was in it never came into the tree.
        let is_file = matches!(&node.value, Value::Text(text) if text.starts_with("file:"));
        if is_secret(name) && !is_file {
            node.value = Value::Text(HIDDEN.to_owned());
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}
