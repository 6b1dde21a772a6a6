//! Recorded rows and the sequences of their users, in the form that training reads: flat, and each text's vector once.

use candle_core::{Device, Tensor};

use crate::language::LanguageError;
use crate::language::error::computing;
use crate::numbers::Numbers;

use super::segment::start_of;
use crate::dinmp::{Asked, Seen};
use crate::gap::gap_of;

/// What one user did in one sequence, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Behaviors before those that are held here: no run of a row begins among them.
    pub start: u64,
    /// Rows of [`Corpus::vectors`].
    pub texts: Vec<u32>,
    /// Kinds of the gaps before each of them ([`crate::bahe::gap_of`]). With which a run begins has none before it, whatever is said here.
    pub gaps: Vec<u32>,
}

impl History {
    /// All that a user did, at these times (Unix milliseconds, never falling).
    pub fn of(texts: Vec<u32>, times: &[i64]) -> Self {
        let before = std::iter::once(None).chain(times.iter().map(Some));
        let gaps = times.iter().zip(before);
        Self {
            start: 0,
            texts,
            gaps: gaps
                .map(|(time, before)| gap_of(before.map(|before| time - before)))
                .collect(),
        }
    }
}

/// Rows to learn from, or to score.
#[derive(Debug)]
pub struct Corpus {
    /// One vector a distinct text, (texts, width).
    pub vectors: Tensor,
    /// Histories, one a user and sequence.
    pub histories: Vec<History>,
    /// Sequences of a user.
    pub sequences: usize,
    /// Scenarios that are told apart, beside those that are not: of [`Rows::scenario`].
    pub scenarios: usize,
    /// Numbers of a row.
    pub features: usize,
    /// Names of a row's tasks.
    pub tasks: Vec<String>,
    /// What rows see of their users' pasts, where they do: [`Rows::asked`].
    pub seen: Seen,
    /// The rows.
    pub rows: Rows,
}

/// Rows, column by column; row r has the places r·n to (r + 1)·n of a column of n values a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The first of the user's histories: the others follow it. Rows of a user follow each other, in the order of time.
    pub user: Vec<u32>,
    /// Of each sequence, behaviors strictly before the row's time.
    pub counts: Vec<u32>,
    /// The item's text.
    pub item: Vec<u32>,
    /// The scenario, of the head's; 0: another one. Empty: all are.
    pub scenario: Vec<u32>,
    /// Of what is seen: the row's request and item; empty where nothing is.
    pub asked: Vec<Asked>,
    /// The row's hour ([`crate::table::hour_of`]), by which rows of ids grow old; empty: all are of one.
    pub hours: Vec<u32>,
    /// What a head saw of texts when the row was logged, its projections of the user's vectors and of the item's; empty: nothing, or the vectors are made here.
    pub projections: Vec<f32>,
    /// The row's other numbers.
    pub features: Vec<f32>,
    /// The baseline's log-odds.
    pub base: Vec<f32>,
    /// 0 or 1, one a task; whatever it is where the weight is 0.
    pub labels: Vec<f32>,
    /// 1 where there is a label, else 0.
    pub weights: Vec<f32>,
}

/// The runs that some rows need.
#[derive(Debug)]
pub(super) struct RunsOf {
    /// (runs, longest): rows of the vectors, 0 behind a run's end.
    pub(super) texts: Tensor,
    /// (runs, longest)
    pub(super) gaps: Tensor,
    pub(super) shape: (usize, usize),
    /// Of each row and sequence: its run, and behaviors of it.
    pub(super) places: Vec<(usize, usize)>,
}

impl Corpus {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.user.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.user.is_empty()
    }

    /// Where the run of a row's sequence begins and how many behaviors of it the row sees.
    fn run_of(&self, row: usize, sequence: usize, limit: usize) -> (usize, u64, usize) {
        let history = self.rows.user[row] as usize + sequence;
        let count = u64::from(self.rows.counts[row * self.sequences + sequence]);
        let start = start_of(count, limit as u64);
        (history, start, (count - start) as usize)
    }

    /// The runs of some rows: rows that see parts of one run share it.
    pub(super) fn runs(&self, rows: &[usize], limit: usize) -> Result<RunsOf, LanguageError> {
        let mut runs: Vec<(usize, u64, usize)> = Vec::new();
        let mut places = Vec::with_capacity(rows.len() * self.sequences);
        // Rows of a user follow each other: a run is among the last ones, if it is there.
        let mut found = std::collections::BTreeMap::new();
        for row in rows {
            for sequence in 0..self.sequences {
                let (history, start, count) = self.run_of(*row, sequence, limit);
                if count == 0 {
                    places.push((0, 0));
                    continue;
                }
                let run = *found.entry((history, start)).or_insert_with(|| {
                    runs.push((history, start, 0));
                    runs.len() - 1
                });
                runs[run].2 = runs[run].2.max(count);
                places.push((run, count));
            }
        }
        let longest = runs.iter().map(|run| run.2).max().unwrap_or(0).max(1);
        let shape = (runs.len().max(1), longest);
        let (mut texts, mut gaps) = (vec![0; shape.0 * longest], vec![0; shape.0 * longest]);
        for (run, (history, start, count)) in runs.iter().enumerate() {
            let history = &self.histories[*history];
            let from = (start - history.start) as usize;
            for place in 0..*count {
                texts[run * longest + place] = history.texts[from + place];
                gaps[run * longest + place] = match place {
                    0 => gap_of(None),
                    _ => history.gaps[from + place],
                };
            }
        }
        let tensor = |values: Vec<u32>| {
            Tensor::from_vec(values, shape, &Device::Cpu).map_err(computing("laying runs out"))
        };
        Ok(RunsOf {
            texts: tensor(texts)?,
            gaps: tensor(gaps)?,
            shape,
            places,
        })
    }

    /// Cuts rows into batches: each of rows of some users, whose runs have about `positions` positions together with padding, and `rows_max` rows at most. The
    /// order is random and the same for the same seed; rows of a user stay together as far as a batch goes, since they share runs. Without a `limit` no run is looked
    /// at, and any rows may come together.
    pub(super) fn batches(
        &self,
        rows: std::ops::Range<usize>,
        (positions, rows_max): (usize, usize),
        limit: Option<usize>,
        seed: Option<u64>,
    ) -> Vec<Vec<usize>> {
        // Pieces: rows of one user, as many as a batch may hold.
        let mut pieces: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        for row in rows {
            let of = |limit| {
                let runs = (0..self.sequences).map(move |place| self.run_of(row, place, limit));
                runs.map(|(_, _, count)| count).max()
            };
            let longest = limit.and_then(of).unwrap_or(0);
            match pieces.last_mut() {
                Some((length, piece))
                    if limit.is_some()
                        && piece.end == row
                        && self.rows.user[row] == self.rows.user[row - 1]
                        && piece.len() < rows_max.div_ceil(4) =>
                {
                    *length = (*length).max(longest);
                    piece.end += 1;
                }
                _ => pieces.push((longest, row..row + 1)),
            }
        }
        let mut numbers = seed.map(Numbers);
        if let Some(numbers) = &mut numbers {
            numbers.shuffle(&mut pieces);
        }
        // Pieces of about one length share a batch; the order among many stays random.
        for window in pieces.chunks_mut(512) {
            window.sort_by_key(|(longest, piece)| (*longest, piece.start));
        }
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let (mut runs, mut widest) = (0, 0);
        for (longest, piece) in pieces {
            let wider = widest.max(longest);
            let fits = batches.last().is_some_and(|batch| {
                batch.len() + piece.len() <= rows_max
                    && (runs + self.sequences) * wider <= positions
            });
            if fits {
                runs += self.sequences;
                widest = wider;
            } else {
                batches.push(Vec::new());
                (runs, widest) = (self.sequences, longest);
            }
            batches
                .last_mut()
                .expect("invariant: one was put")
                .extend(piece);
        }
        if let Some(numbers) = &mut numbers {
            numbers.shuffle(&mut batches);
        }
        batches
    }
}

/// Some rows of a column of `each` values a row, (rows, each).
pub(super) fn column(rows: &[usize], values: &[f32], each: usize) -> Result<Tensor, LanguageError> {
    let picked: Vec<f32> = rows
        .iter()
        .flat_map(|row| &values[row * each..(row + 1) * each])
        .copied()
        .collect();
    Tensor::from_vec(picked, (rows.len(), each), &Device::Cpu).map_err(computing("laying rows out"))
}
