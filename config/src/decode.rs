//! From the tree to types: a serde deserializer whose errors know the key and speak to the operator.
//!
//! Before it, `tree` has merged the layers; after it, `validate` holds the sections against one another. serde stops at
//! the first fault, so the tree is repaired there (with the default, or by leaving the key out) and read again, until all
//! faults are found. Text is never quoted in a fault of type: it may be a secret in the wrong place.

mod fault;

use std::collections::{BTreeMap, btree_map};
use std::slice;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use crate::Config;
use crate::error::Problem;
use crate::tree::{Node, Value};

use fault::Fault;

/// Faults found in one go; what has more is not a configuration of ours.
const FAULTS_MAX: usize = 100;

/// What was read, and what was wrong with it: keys that are wrong have their defaults in the configuration.
pub(crate) struct Decoded {
    pub(crate) config: Config,
    pub(crate) problems: Vec<Problem>,
    /// The paths of the keys that were wrong.
    pub(crate) failed: Vec<Vec<String>>,
}

/// Reads the merged tree. `defaults` is the tree of `default.toml` alone.
pub(crate) fn decode(tree: &Node, defaults: &Node) -> Decoded {
    let mut repaired = tree.clone();
    let mut problems = Vec::new();
    let mut failed: Vec<Vec<String>> = Vec::new();
    let mut filled: Vec<Vec<String>> = Vec::new();
    loop {
        let fault = match Config::deserialize(Reader(&repaired)) {
            Ok(config) => {
                return Decoded {
                    config,
                    problems,
                    failed,
                };
            }
            Err(fault) => fault,
        };
        let path = fault.keys();
        // A key that was taken out may be missed by what held it: that is one mistake, not two.
        let follows = failed.iter().any(|earlier| earlier.starts_with(&path));
        if !follows {
            problems.push(Problem {
                key: fault.place(),
                origin: Some(tree.nearest(&path).origin.clone()),
                reason: fault.reason(defaults),
            });
        }
        // Once: what turned out to be of another type here would be taken out, and be missing, again and again.
        if fault.is_missing() && !filled.contains(&path) && fill(&mut repaired, defaults, &path) {
            filled.push(path.clone());
        } else {
            repair(&mut repaired, defaults, &path);
        }
        failed.push(path);
        if problems.len() >= FAULTS_MAX {
            repaired = defaults.clone();
        }
    }
}

/// Puts what another table of the same sort has by default in the place of a key that is missing, as in a task of the user's own: so what
/// is wrong beside it is found too. Gives whether there is such a table.
fn fill(tree: &mut Node, defaults: &Node, path: &[String]) -> bool {
    let [above @ .., _, key] = path else {
        return false;
    };
    // The sections themselves are not of one sort.
    if above.is_empty() {
        return false;
    }
    let others = defaults.at(above).and_then(Node::table);
    let default =
        others.and_then(|others| others.values().find_map(|other| other.at(&[key.as_str()])));
    let holder = tree.at_mut(&path[..path.len() - 1]);
    match (default, holder.map(|holder| &mut holder.value)) {
        (Some(default), Some(Value::Table(holder))) => {
            holder.insert(key.clone(), default.clone());
            true
        }
        _ => false,
    }
}

/// Puts the default in the place of what is at `path`, or takes it out where there is no default.
fn repair(tree: &mut Node, defaults: &Node, path: &[String]) {
    for depth in (0..=path.len()).rev() {
        let path = &path[..depth];
        if let Some(default) = defaults.at(path) {
            let node = tree.at_mut(path);
            assert!(
                node.as_deref() != Some(default),
                "invariant: default.toml can be read; not so at `{}`",
                path.join(".")
            );
            match node {
                Some(node) => *node = default.clone(),
                None => continue,
            }
            return;
        }
        if tree.remove(path) {
            return;
        }
    }
}

/// Reads a node.
struct Reader<'a>(&'a Node);

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(truth) => visitor.visit_bool(*truth),
            Value::Date(_) => Err(Fault::invalid_type(
                Unexpected::Other("a date (is it without quotes?)"),
                &visitor,
            )),
            Value::Array(nodes) => visitor.visit_seq(Elements {
                nodes: nodes.iter(),
                index: 0,
            }),
            Value::Table(nodes) => visitor.visit_map(Entries {
                nodes: nodes.iter(),
                entry: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Elements<'a> {
    nodes: slice::Iter<'a, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.nodes.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Reader(node))
            .map(Some)
            .map_err(|fault| fault.at_index(index))
    }
}

struct Entries<'a> {
    nodes: btree_map::Iter<'a, String, Node>,
    entry: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.nodes.next() else {
            return Ok(None);
        };
        self.entry = Some((key, node));
        let reader: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(reader)
            .map(Some)
            .map_err(|fault| fault.at_key(key))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let (key, node) = self
            .entry
            .take()
            .expect("invariant: serde asks for a key before its value");
        seed.deserialize(Reader(node))
            .map_err(|fault| fault.at_key(key))
    }
}

/// Every leaf key of the defaults, for the nearest one to a wrong key.
fn known_keys(defaults: &Node) -> BTreeMap<String, Vec<String>> {
    let mut known = BTreeMap::new();
    defaults.leaves(&mut |path, _| {
        let path: Vec<String> = path.iter().map(|&key| key.to_owned()).collect();
        known.insert(path.join("."), path);
    });
    known
}
