//! How alike a candidate's text is to the texts of what its user did: features that are no counts. Made once from the configured sequences and
//! times; its numbers lie behind the counts in a candidate's part of a row.

use std::fmt::Write as _;

/// What a likeness is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The mean direction of the sequence's behaviors in one stretch of time before the row, by the number of the stretch; 0 is the latest.
    Stretch(usize),
    /// The nearest of the sequence's newest behaviors.
    Newest,
}

/// Which likenesses a row holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LikenessSpec {
    /// Names of the sequences, in order.
    pub sequences: Vec<String>,
    /// Where stretches of time end, milliseconds before the row, ascending; behind the last is one more.
    pub edges_ms: Vec<i64>,
    /// Anything else that fixes what the numbers mean (templates, kinds of each sequence), in a canonical text: it goes into the schema's hash.
    pub definition: String,
}

impl LikenessSpec {
    /// Numbers of a candidate.
    pub fn width(&self) -> usize {
        self.sequences.len() * self.of_sequence()
    }

    /// Numbers of one sequence.
    fn of_sequence(&self) -> usize {
        self.edges_ms.len() + 2
    }

    /// The stretch that holds what happened so long before the row.
    pub fn stretch(&self, age_ms: i64) -> usize {
        self.edges_ms.partition_point(|edge| *edge <= age_ms)
    }

    /// How many stretches there are.
    pub fn stretches(&self) -> usize {
        self.edges_ms.len() + 1
    }

    /// The place of a number among a candidate's likenesses.
    pub fn place(&self, sequence: usize, against: Against) -> usize {
        sequence * self.of_sequence()
            + match against {
                Against::Stretch(stretch) => stretch,
                Against::Newest => self.stretches(),
            }
    }

    /// All numbers, in order, with their names: `text.sequence.before_1h`, …, `text.sequence.newest`.
    pub(super) fn features(&self) -> impl Iterator<Item = (String, usize, Against)> {
        self.sequences
            .iter()
            .enumerate()
            .flat_map(move |(place, sequence)| {
                let stretches = (0..self.stretches()).map(move |stretch| {
                    let name = match self.edges_ms.get(stretch) {
                        Some(edge) => format!("within_{}", span(*edge)),
                        None => match self.edges_ms.last() {
                            Some(edge) => format!("before_{}", span(*edge)),
                            None => "ever".to_owned(),
                        },
                    };
                    (name, Against::Stretch(stretch))
                });
                stretches
                    .chain([("newest".to_owned(), Against::Newest)])
                    .map(move |(name, against)| (format!("text.{sequence}.{name}"), place, against))
            })
    }

    pub(super) fn describe(&self, text: &mut String) {
        if self.sequences.is_empty() {
            return;
        }
        writeln!(text, "likeness {:?} {:?}", self.edges_ms, self.definition)
            .expect("invariant: a String takes any text");
    }
}

/// A time in its largest whole unit.
fn span(ms: i64) -> String {
    for (unit, name) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ] {
        if ms % unit == 0 {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}
