//! The network with its rows of ids: as it learns, and as a trained model has it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::feature::KeyVectorSpec;
use crate::language::LanguageError;
use crate::language::error::computing;
use crate::table::{
    Adagrad, Admission, Dropout, RowKey, Snapshot, Table, TableError, TableSettings,
};

#[cfg(any(test, feature = "cuda"))]
use super::device::OnDevice;
use super::learn::{Gradients, Rows};
use super::network::{Ahead, Looked, Network, WIDTH};
use super::reads::Reads;
use super::seen::{Asked, Seen};
use super::users::{NUMBERS, Users};

/// The name of the gradient of the rows that a batch read.
pub const ROWS: &str = "table";

/// Numbers of a row that the head reads, with so many stretches of time: what the network says, the user's row, and its product with the candidate's vector.
#[must_use]
pub fn outputs(stretches: usize) -> usize {
    Network::outputs(stretches) + NUMBERS
}

/// How many of them, the first, are products with the candidate.
#[must_use]
pub fn matches(stretches: usize) -> usize {
    1 + Network::matches(stretches)
}

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
                memory: 0.99,
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
    /// Of a model's values, that reads this much of key-vectors.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; `path` is where they were read.
    pub fn of(
        (spec, reads): (&KeyVectorSpec, Reads),
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
            network: Network::of(sizes(spec), reads, tensors, path)?,
            spec: spec.clone(),
            rows: table.snapshot(),
        })
    }

    /// Of what key-vectors it is.
    pub fn spec(&self) -> &KeyVectorSpec {
        &self.spec
    }

    /// Where requests are to be told that it is asked about.
    pub fn seen(&self) -> Seen {
        Seen::reading(self.network.reads)
    }

    /// Ids that have a row.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// What the head reads of each row, (rows, [`outputs`]).
    ///
    /// # Panics
    /// If rows are not of what is seen, or that is not what it reads ([`Interest::seen`]).
    pub fn forward(&self, seen: &Seen, rows: &[Asked]) -> Vec<f32> {
        let reads = self.network.reads;
        assert_eq!(seen.reads(), reads, "what is seen is what it reads");
        let looked = Looked::of(seen, &self.rows);
        let out = self.network.forward(seen, &looked, rows);
        Users::of(seen, rows).around(&out, &looked.vectors)
    }
}

/// Kinds of events and stretches of time.
fn sizes(spec: &KeyVectorSpec) -> (usize, usize) {
    (spec.kinds.len(), spec.stretches())
}

/// As it learns.
#[derive(Debug)]
pub struct Learning {
    spec: KeyVectorSpec,
    reads: Reads,
    settings: RowSettings,
    table: Table,
    /// Whether a CPU is to go the way of a device, for tests.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) apart: bool,
}

/// A way forward that can be gone back.
#[derive(Debug)]
pub struct Way {
    computed: Computed,
    reads: Reads,
    rows: Option<Rows>,
    /// (rows, outputs): what the head reads.
    pub outputs: Tensor,
}

/// Where it was computed.
#[derive(Debug)]
enum Computed {
    /// By our own code, whole; the head's graph begins at the outputs.
    Here(Box<Here>),
    /// On a device, or as there.
    #[cfg(any(test, feature = "cuda"))]
    Device(Box<There>),
}

#[derive(Debug)]
struct Here {
    network: Network,
    seen: Seen,
    asked: Vec<Asked>,
    looked: Looked,
    ahead: Ahead,
    users: Users,
}

#[cfg(any(test, feature = "cuda"))]
#[derive(Debug)]
struct There {
    way: OnDevice,
    looked: Looked,
    users: Users,
    /// (rows, NUMBERS)
    numbers: Var,
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
            reads: Reads::default(),
            settings,
            #[cfg(any(test, feature = "cuda"))]
            apart: false,
        })
    }

    /// The same, reading this much of key-vectors; what is seen must be told so ([`Seen::reading`]).
    #[must_use]
    pub fn reading(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// First values of the network.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn random(&self, seed: u64) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let mut values = Network::random(sizes(&self.spec), self.reads, seed)?;
        let held = self.reads.hold(&mut values);
        held.map_err(computing("making first values"))?;
        Ok(values)
    }

    /// Numbers of a row that the head reads.
    pub fn outputs(&self) -> usize {
        outputs(self.spec.stretches())
    }

    /// How many of them, the first, are products with the candidate.
    pub fn matches(&self) -> usize {
        matches(self.spec.stretches())
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

    /// Gives ids that are seen, and that have no row yet, one; `met` are the hours in which they were met ([`Seen::met`]). Where there is no room, those go that were not met for
    /// longest: nobody goes for a newcomer who was met no later.
    ///
    /// # Errors
    /// None: no vector is handed in.
    pub fn meet(&mut self, seen: &Seen, met: &[u32]) -> Result<(), LanguageError> {
        let mut by_hour: BTreeMap<u32, Vec<RowKey>> = BTreeMap::new();
        for (key, hour) in seen.keys().iter().zip(met) {
            by_hour.entry(*hour).or_default().push(*key);
        }
        // The newest first: who goes is older than they.
        for (hour, mut keys) in by_hour.into_iter().rev() {
            if self.table.oldest().is_some_and(|oldest| hour <= oldest) {
                let mut room = (self.table.settings().rows_max()).saturating_sub(self.table.len());
                keys.retain(|key| {
                    let has = self.table.has(*key);
                    let stays = has || room > 0;
                    room -= usize::from(!has && stays);
                    stays
                });
            }
            let met = self.table.meet(&keys, hour, |_| None);
            met.map_err(of_table)?;
        }
        Ok(())
    }

    /// From now on rows of ids go by this part of their rate.
    pub fn set_pace(&mut self, pace: f64) {
        self.table.set_rate(self.settings.rate * pace as f32);
    }

    /// The way forward of rows over what they see, and nothing more ([`Seen::part`]); `step` is the number of the step that will be learned, none where nothing will.
    ///
    /// # Errors
    /// A tensor of the network that is missing.
    ///
    /// # Panics
    /// If what is seen is not what it reads.
    pub fn forward(
        &self,
        values: &BTreeMap<String, Tensor>,
        (seen, asked): (Seen, Vec<Asked>),
        step: Option<u64>,
        device: &Device,
    ) -> Result<Way, LanguageError> {
        assert_eq!(seen.reads(), self.reads, "what is seen is what it reads");
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
        let (sizes, reads) = (sizes(&self.spec), self.reads);
        #[cfg(any(test, feature = "cuda"))]
        if self.apart || !device.is_cpu() {
            let sizes = (sizes.0, sizes.1, reads);
            let way = OnDevice::forward(sizes, values, (&seen, &looked), &asked, device)?;
            let users = Users::of(&seen, &asked);
            let around = || {
                let numbers = users.numbers(&looked.vectors);
                let numbers = Tensor::from_vec(numbers, (asked.len(), NUMBERS), device)?;
                let numbers = Var::from_tensor(&numbers)?;
                let [product, of_user] = [numbers.narrow(1, 0, 1)?, numbers.narrow(1, 1, WIDTH)?];
                let outputs = Tensor::cat(&[&product, &way.outputs, &of_user], 1)?;
                candle_core::Result::Ok((numbers, outputs))
            };
            let (numbers, outputs) = around().map_err(computing("reading rows of users"))?;
            let there = There {
                way,
                looked,
                users,
                numbers,
            };
            return Ok(Way {
                outputs,
                computed: Computed::Device(Box::new(there)),
                reads,
                rows,
            });
        }
        let network = Network::of(sizes, reads, values, Path::new("the values"))?;
        let (out, ahead) = network.forward_kept(&seen, &looked, &asked);
        let users = Users::of(&seen, &asked);
        let out = users.around(&out, &looked.vectors);
        let shape = (asked.len(), self.outputs());
        let out = Tensor::from_vec(out, shape, device);
        let outputs = out.and_then(|out| Ok(Var::from_tensor(&out)?.as_tensor().clone()));
        Ok(Way {
            outputs: outputs.map_err(computing("running the network of interest"))?,
            computed: Computed::Here(Box::new(Here {
                network,
                seen,
                asked,
                looked,
                ahead,
                users,
            })),
            reads,
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
    /// The way back from the gradients of the head's graph: those of the network's tensors and of the rows, added to `into` by name.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn backward(
        &self,
        gradients: &GradStore,
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        let doing = "learning interest";
        let of_vectors = match &self.computed {
            Computed::Here(here) => {
                let Some(gradient) = gradients.get(&self.outputs) else {
                    return Ok(());
                };
                let flat = |of: &Tensor| of.flatten_all()?.to_vec1::<f32>();
                let out = flat(&self.outputs).map_err(computing(doing))?;
                let gradient = flat(gradient).map_err(computing(doing))?;
                let [out, _] = here.users.apart(&out);
                let [gradient, of_users] = here.users.apart(&gradient);
                let of = (&here.seen, &here.looked, &here.ahead);
                let network = &here.network;
                let gradients: Gradients = network.backward(of, &here.asked, &out, &gradient);
                network.gather(&gradients, into)?;
                let mut vectors = gradients.vectors;
                (here.users).back(&here.looked.vectors, &of_users, &mut vectors);
                vectors
            }
            #[cfg(any(test, feature = "cuda"))]
            Computed::Device(there) => {
                let There {
                    way,
                    looked,
                    users,
                    numbers,
                } = &**there;
                let [mut of_items, of_asked] = way.backward(gradients, into)?;
                for (item, of) in users.candidates().zip(of_asked) {
                    let to = of_items[item].iter_mut();
                    to.zip(of).for_each(|(to, of)| *to += of);
                }
                if let Some(gradient) = gradients.get(numbers) {
                    let flat = gradient
                        .flatten_all()
                        .and_then(|flat| flat.to_vec1::<f32>());
                    let flat = flat.map_err(computing(doing))?;
                    users.back(&looked.vectors, &flat, &mut of_items);
                }
                of_items
            }
        };
        let learned = self.reads.learned(into);
        learned.map_err(computing(doing))?;
        if let Some(rows) = &self.rows {
            let gradient = rows.gradient(&of_vectors)?;
            let sum = match into.remove(ROWS) {
                Some(sum) => (sum + gradient).map_err(computing(doing))?,
                None => gradient,
            };
            into.insert(ROWS.to_owned(), sum);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dinmp::ItemKeys;

    /// Goal: where rows of ids are as many as memory holds, who was not met for longest goes for a newcomer, and nobody goes for one who was met no later. Method: a table of 64 rows; users
    /// and items of one hour after the other, one item met again and again, then those of old.
    #[test]
    fn who_was_not_met_for_longest_goes() {
        let mut settings = RowSettings {
            rate: 0.1,
            dropout: 0.0,
            spread: 0.5,
            memory: 1 << 20,
            seed: 3,
        };
        settings.memory = 64 * settings.table().bytes_of_row();
        let spec = KeyVectorSpec {
            kinds: vec!["click".to_owned()],
            edges_ms: Vec::new(),
        };
        let mut learning = Learning::new(spec, settings).unwrap();
        let key = |item: &str| ItemKeys::of(item, []).id;
        // Each hour four new items, one that is always there, and a user.
        let meet = |learning: &mut Learning, hour: u32| {
            let mut seen = Seen::default();
            let request = seen.end_request(&format!("u{hour}"));
            let names = (0..4).map(|number| format!("i{hour}-{number}"));
            let names: Vec<String> = names.chain(["always".to_owned()]).collect();
            let rows = names.iter().map(|name| Asked {
                request,
                item: seen.item(ItemKeys::of(name, [])),
            });
            let rows: Vec<Asked> = rows.collect();
            let met = seen.met(&rows, &vec![hour; rows.len()]);
            learning.meet(&seen, &met).unwrap();
        };
        for hour in 100..140 {
            meet(&mut learning, hour);
        }
        let has = |learning: &Learning, hour: u32| {
            let names = (0..4).map(|number| format!("i{hour}-{number}"));
            names.filter(|name| learning.table.has(key(name))).count()
        };
        assert!(learning.table.len() <= 64 && learning.table.len() > 56);
        assert_eq!((has(&learning, 100), has(&learning, 120)), (0, 0));
        assert!((130..140).all(|hour| has(&learning, hour) == 4));
        assert!(learning.table.has(key("always")));
        // The others are full of newer ones by now.
        let before = learning.tensors().unwrap();
        for hour in 100..120 {
            meet(&mut learning, hour);
        }
        let room = 64 - before["table.met"].dims()[0];
        let newcomers = (100..120).map(|hour| has(&learning, hour)).sum::<usize>();
        assert!(newcomers <= room, "{newcomers} in {room} places");
        assert!((130..140).all(|hour| has(&learning, hour) == 4));
    }
}
