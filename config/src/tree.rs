//! Values with the place where each was written, and how layers lie over one another.
//!
//! Before it, text: `default.toml` and the files of the user (`environment` makes trees of its own); after it, `decode`
//! makes typed sections of the merged tree, and `show` prints it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::error::Problem;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the compiled-in defaults, at this line of `default.toml`.
    Default {
        /// Counted from 1.
        line: usize,
    },
    /// In a file.
    File {
        /// As it was given.
        path: Arc<Path>,
        /// Counted from 1.
        line: usize,
    },
    /// In the text given to [`crate::Config::from_toml`].
    Text {
        /// Counted from 1.
        line: usize,
    },
    /// In a variable of the environment.
    Environment {
        /// The variable's name.
        variable: Arc<str>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default { .. } => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Text { line } => write!(formatter, "line {line}"),
            Self::Environment { variable } => formatter.write_str(variable),
        }
    }
}

/// One layer of text. The defaults are a layer like any other.
#[derive(Clone)]
pub(crate) enum Layer {
    Default,
    File(Arc<Path>),
    Text,
}

impl Layer {
    fn at(&self, line: usize) -> Origin {
        match self {
            Self::Default => Origin::Default { line },
            Self::File(path) => Origin::File {
                path: Arc::clone(path),
                line,
            },
            Self::Text => Origin::Text { line },
        }
    }
}

/// A value and where it was written. Without `Debug`: it may hold a secret.
#[derive(Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// A date or time of TOML: no key of ours is one.
    Date(String),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

/// The tables of which a user's file replaces the whole: one task less must be as easy to say as one more.
const REPLACED_WHOLE: [&str; 2] = ["tasks", "sequences"];

/// The table whose keys have dots in them.
const DOTTED: [&str; 2] = ["kafka", "client"];

/// Reads one layer; all its mistakes of syntax together.
pub(crate) fn parse(text: &str, layer: &Layer) -> Result<Node, Vec<Problem>> {
    let lines = Lines::new(text, layer);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors
            .iter()
            .map(|error| Problem {
                key: String::new(),
                origin: Some(lines.at(error.span().map_or(0, |span| span.start))),
                reason: error.message().trim_end().to_owned(),
            })
            .collect());
    }
    let origin = layer.at(1);
    let value = lines
        .table(table.get_ref())
        .map_err(|problem| vec![problem])?;
    let mut root = Node { origin, value };
    if let Some(client) = root.at_mut(&DOTTED) {
        join_dots(client);
    }
    Ok(root)
}

/// A TOML value alone, as the environment gives arrays.
pub(crate) fn parse_value(text: &str, origin: &Origin) -> Result<Value, String> {
    let value = DeValue::parse(text).map_err(|error| error.message().trim_end().to_owned())?;
    let lines = Lines {
        starts: Vec::new(),
        place: Place::Fixed(origin),
    };
    lines
        .value(value.get_ref())
        .map_err(|problem| problem.reason)
}

/// From places in a text to origins.
struct Lines<'a> {
    /// Offsets at which the lines after the first begin.
    starts: Vec<usize>,
    place: Place<'a>,
}

enum Place<'a> {
    Layer(&'a Layer),
    Fixed(&'a Origin),
}

impl<'a> Lines<'a> {
    fn new(text: &str, layer: &'a Layer) -> Self {
        Self {
            starts: text.match_indices('\n').map(|(at, _)| at + 1).collect(),
            place: Place::Layer(layer),
        }
    }

    fn at(&self, offset: usize) -> Origin {
        match self.place {
            Place::Layer(layer) => {
                layer.at(1 + self.starts.partition_point(|start| *start <= offset))
            }
            Place::Fixed(origin) => origin.clone(),
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Value, Problem> {
        let mut nodes = BTreeMap::new();
        for (key, value) in table {
            // The key's line: that of a value may be lines below it, and a table's is wherever its last header stands.
            let origin = self.at(key.span().start);
            let value = self.value(value.get_ref()).map_err(|problem| Problem {
                origin: problem.origin.or_else(|| Some(origin.clone())),
                ..problem
            })?;
            nodes.insert(key.get_ref().to_string(), Node { origin, value });
        }
        Ok(Value::Table(nodes))
    }

    fn value(&self, value: &DeValue<'_>) -> Result<Value, Problem> {
        let too_large = |number: &dyn fmt::Display| Problem {
            key: String::new(),
            origin: None,
            reason: format!("{number} does not fit 64 bits"),
        };
        Ok(match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => Value::Integer(
                i64::from_str_radix(number.as_str(), number.radix())
                    .map_err(|_| too_large(number))?,
            ),
            DeValue::Float(number) => {
                Value::Float(number.as_str().parse().map_err(|_| too_large(number))?)
            }
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(array) => {
                let mut nodes = Vec::with_capacity(array.len());
                for element in array {
                    nodes.push(Node {
                        origin: self.at(element.span().start),
                        value: self.value(element.get_ref())?,
                    });
                }
                Value::Array(nodes)
            }
            DeValue::Table(table) => self.table(table)?,
        })
    }
}

/// `sasl.password = "x"` without quotes is a table in a table for TOML; here it is the property `sasl.password`.
fn join_dots(client: &mut Node) {
    fn leaves(prefix: &str, table: BTreeMap<String, Node>, into: &mut BTreeMap<String, Node>) {
        for (key, node) in table {
            let name = if prefix.is_empty() {
                key
            } else {
                format!("{prefix}.{key}")
            };
            match node.value {
                Value::Table(inner) => leaves(&name, inner, into),
                _ => {
                    into.insert(name, node);
                }
            }
        }
    }
    if let Value::Table(table) = &mut client.value {
        let mut joined = BTreeMap::new();
        leaves("", std::mem::take(table), &mut joined);
        *table = joined;
    }
}

impl Node {
    /// The table that it is, or none.
    pub(crate) fn table(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The node at `path`.
    pub(crate) fn at<S: AsRef<str>>(&self, path: &[S]) -> Option<&Self> {
        path.iter()
            .try_fold(self, |node, key| node.table()?.get(key.as_ref()))
    }

    pub(crate) fn at_mut<S: AsRef<str>>(&mut self, path: &[S]) -> Option<&mut Self> {
        path.iter()
            .try_fold(self, |node, key| match &mut node.value {
                Value::Table(table) => table.get_mut(key.as_ref()),
                _ => None,
            })
    }

    /// The deepest node on the way to `path`: where a missing or misplaced key is to be looked for.
    pub(crate) fn nearest<S: AsRef<str>>(&self, path: &[S]) -> &Self {
        let mut node = self;
        for key in path {
            match node.table().and_then(|table| table.get(key.as_ref())) {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node
    }

    /// Takes the node at `path` out.
    pub(crate) fn remove(&mut self, path: &[String]) -> bool {
        let Some((last, parents)) = path.split_last() else {
            return false;
        };
        match self.at_mut(parents).map(|node| &mut node.value) {
            Some(Value::Table(table)) => table.remove(last).is_some(),
            _ => false,
        }
    }

    /// Lays a layer of text over this one: tables key by key, everything else (arrays too) replaced, `[tasks]` and `[sequences]`
    /// replaced whole. `defaults` says what is a table and what is not.
    pub(crate) fn lay_file(&mut self, over: Self, defaults: &Self) {
        for table in REPLACED_WHOLE {
            if over.at(&[table]).is_some() {
                self.remove(&[table.to_owned()]);
            }
        }
        self.lay(over, Some(defaults));
    }

    /// Lays a tree over this one, key by key. What should be a table and is none, or the other way round, stays visible
    /// whatever is laid over it: it is a mistake to be told.
    pub(crate) fn lay(&mut self, over: Self, default: Option<&Self>) {
        let is_misshapen =
            default.is_some_and(|node| node.table().is_some() != self.table().is_some());
        match (&mut self.value, over.value) {
            (Value::Table(below), Value::Table(above)) => {
                // Who says something of a table last is whom to ask about what is not in it.
                self.origin = over.origin;
                for (key, node) in above {
                    if let Some(old) = below.get_mut(&key) {
                        let default = default.and_then(|node| node.table()?.get(&key));
                        old.lay(node, default);
                    } else {
                        below.insert(key, node);
                    }
                }
            }
            (Value::Table(_), _) | (_, Value::Table(_)) if is_misshapen => {}
            (_, value) => {
                *self = Self {
                    origin: over.origin,
                    value,
                }
            }
        }
    }

    /// Every leaf with its path, in the order of keys. An empty table is no leaf.
    pub(crate) fn leaves<'a>(&'a self, visit: &mut impl FnMut(&[&'a str], &'a Self)) {
        fn walk<'a>(
            node: &'a Node,
            path: &mut Vec<&'a str>,
            visit: &mut impl FnMut(&[&'a str], &'a Node),
        ) {
            match node.table() {
                Some(table) => {
                    for (key, inner) in table {
                        path.push(key);
                        walk(inner, path, visit);
                        path.pop();
                    }
                }
                None => visit(path, node),
            }
        }
        walk(self, &mut Vec::new(), visit);
    }
}
