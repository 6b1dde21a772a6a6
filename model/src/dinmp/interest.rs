//! The network with its rows of ids: as it learns, and as a trained model has it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

use crate::feature::KeyVectorSpec;
use crate::language::LanguageError;
use crate::language::error::computing;
use crate::table::{
    Adagrad, Admission, Dropout, RowKey, Snapshot, Table, TableError, TableSettings,
};

use super::learn::{Gradients, Rows};
use super::network::{Ahead, Looked, Network, WIDTH};
use super::seen::{Asked, ItemKeys, Seen};

/// The name of the gradient of the rows that a batch read.
pub const ROWS: &str = "table";

/// How rows of ids learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSettings {
    /// Learning rate.
    pub rate: f32,
    /// Part of the ids that read the unknown row while it learns.
    pub dropout: f64,
    /// Rows begin with numbers between -spread and spread.
    pub spread: f32,
    /// Bytes that rows may take.
    pub memory: u64,
    /// Of first values and of what is left out.
    pub seed: u64,
}

impl RowSettings {
    fn table(&self) -> TableSettings {
        TableSettings {
            width: WIDTH,
            seed: self.seed,
            memory: self.memory,
            // Recorded rows are gone over several times: whoever is met at all is met again.
            admission: Admission {
                count: 1,
                counters: 1,
                window: 1,
            },
            expiry: None,
            learning: Adagrad {
                rate: self.rate,
                epsilon: 1e-8,
                start: 1e-4,
            },
            spread: self.spread,
        }
    }
}

fn of_table(error: TableError) -> LanguageError {
    match error {
        TableError::Tensor(source) => computing("reading rows of ids")(source),
        error => LanguageError::Input(format!("rows of ids: {error}")),
    }
}

/// As a trained model has it.
#[derive(Debug)]
pub struct Interest {
    spec: KeyVectorSpec,
    network: Network,
    rows: Snapshot,
}

impl Interest {
    /// Of a model's values.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; `path` is where they were read.
    pub fn of(
        spec: &KeyVectorSpec,
        tensors: &BTreeMap<String, Tensor>,
        path: &Path,
    ) -> Result<Self, LanguageError> {
        let settings = RowSettings {
            rate: 1.0,
            dropout: 0.0,
            spread: 0.0,
            memory: u64::MAX,
            seed: 0,
        };
        let table = Table::of_tensors(settings.table(), tensors).map_err(of_table)?;
        Ok(Self {
            network: Network::of(spec.kinds.len(), spec.stretches(), tensors, path)?,
            spec: spec.clone(),
            rows: table.snapshot(),
        })
    }

    /// Of what key-vectors it is.
    pub fn spec(&self) -> &KeyVectorSpec {
        &self.spec
    }

    /// Ids that have a row.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// What the head reads of each row, (rows, [`Network::outputs`]).
    ///
    /// # Panics
    /// If rows are not of what is seen.
    pub fn forward(&self, seen: &Seen, rows: &[Asked]) -> Vec<f32> {
        let looked = Looked::of(seen, &self.rows);
        self.network.forward(seen, &looked, rows)
    }
}

/// As it learns.
#[derive(Debug)]
pub struct Learning {
    spec: KeyVectorSpec,
    settings: RowSettings,
    table: Table,
}

/// A way forward that can be gone back.
#[derive(Debug)]
pub struct Way {
    network: Network,
    seen: Seen,
    asked: Vec<Asked>,
    looked: Looked,
    ahead: Ahead,
    rows: Option<Rows>,
    /// (rows, outputs): where the head's graph begins.
    pub outputs: Var,
}

impl Learning {
    /// Begins with no rows of ids.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn new(spec: KeyVectorSpec, settings: RowSettings) -> Result<Self, LanguageError> {
        Ok(Self {
            table: Table::new(settings.table()).map_err(of_table)?,
            spec,
            settings,
        })
    }

    /// First values of the network.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn random(&self, seed: u64) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        Network::random(self.spec.kinds.len(), self.spec.stretches(), seed)
    }

    /// Numbers of a row that the head reads.
    pub fn outputs(&self) -> usize {
        Network::outputs(self.spec.stretches())
    }

    /// The rows of ids as tensors.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        self.table.snapshot().tensors().map_err(of_table)
    }

    /// Puts rows back that [`Learning::tensors`] gave.
    ///
    /// # Errors
    /// Tensors that are missing or do not fit.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<(), LanguageError> {
        self.table = Table::of_tensors(self.settings.table(), tensors).map_err(of_table)?;
        Ok(())
    }

    /// Gives ids that some rows see, and that have no row yet, one.
    ///
    /// # Errors
    /// None: no vector is handed in.
    pub fn meet(&mut self, seen: &Seen, rows: &[Asked]) -> Result<(), LanguageError> {
        let keys = seen.items_of(rows).flat_map(ItemKeys::all);
        let keys: Vec<RowKey> = keys.filter(|key| !self.table.has(*key)).collect();
        let met = self.table.meet(&keys, 0, |_| None);
        met.map(|_| ()).map_err(of_table)
    }

    /// From now on rows of ids go by this part of their rate.
    pub fn set_pace(&mut self, pace: f64) {
        self.table.set_rate(self.settings.rate * pace as f32);
    }

    /// The way forward of some rows; `step` is the number of the step that will be learned, none where nothing will.
    ///
    /// # Errors
    /// A tensor of the network that is missing.
    pub fn forward(
        &self,
        values: &BTreeMap<String, Tensor>,
        seen: &Seen,
        rows: &[Asked],
        step: Option<u64>,
    ) -> Result<Way, LanguageError> {
        let (kinds, stretches) = (self.spec.kinds.len(), self.spec.stretches());
        let network = Network::of(kinds, stretches, values, Path::new("the values"))?;
        let (seen, asked) = seen.part(rows);
        let RowSettings { dropout, seed, .. } = self.settings;
        let (looked, rows) = match step {
            Some(step) => {
                let left_out = Dropout {
                    rate: dropout,
                    seed,
                    step,
                };
                let rows = Rows::gather(&seen, &self.table, Some(left_out));
                (rows.looked(), Some(rows))
            }
            None => (Looked::of(&seen, &self.table.snapshot()), None),
        };
        let (out, ahead) = network.forward_kept(&seen, &looked, &asked);
        let shape = (asked.len(), self.outputs());
        let out = Tensor::from_vec(out, shape, &Device::Cpu);
        let outputs = out.and_then(|out| Var::from_tensor(&out));
        Ok(Way {
            outputs: outputs.map_err(computing("running the network of interest"))?,
            network,
            seen,
            asked,
            looked,
            ahead,
            rows,
        })
    }

    /// Moves the rows that a way read, against the gradient under [`ROWS`] times `scale`.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn step(
        &mut self,
        way: &Way,
        gradients: &BTreeMap<String, Tensor>,
        scale: f64,
    ) -> Result<(), LanguageError> {
        let (Some(rows), Some(gradient)) = (&way.rows, gradients.get(ROWS)) else {
            return Ok(());
        };
        let flat = (gradient * scale).and_then(|scaled| scaled.flatten_all()?.to_vec1::<f32>());
        let flat = flat.map_err(computing("moving rows of ids"))?;
        self.table.step(rows.gathered(), &flat).map_err(of_table)?;
        Ok(())
    }
}

impl Way {
    /// The way back from the gradient of what came out: those of the network's tensors and of the rows, added to `into` by name.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn backward(
        &self,
        gradient: &Tensor,
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        let doing = "learning interest";
        let flat = |of: &Tensor| of.flatten_all()?.to_vec1::<f32>();
        let out = flat(self.outputs.as_tensor()).map_err(computing(doing))?;
        let gradient = flat(gradient).map_err(computing(doing))?;
        let of = (&self.seen, &self.looked, &self.ahead);
        let gradients: Gradients = self.network.backward(of, &self.asked, &out, &gradient);
        self.network.gather(&gradients, into)?;
        if let Some(rows) = &self.rows {
            let gradient = rows.gradient(&gradients)?;
            let sum = match into.remove(ROWS) {
                Some(sum) => (sum + gradient).map_err(computing(doing))?,
                None => gradient,
            };
            into.insert(ROWS.to_owned(), sum);
        }
        Ok(())
    }
}
