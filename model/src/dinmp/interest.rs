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
use super::network::{Ahead, Looked, Network, Vector, WIDTH};
use super::reads::Reads;
use super::seen::{Asked, Seen};
use super::start::Start;
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
    start: Start,
    rows: Snapshot,
}

impl Interest {
    /// Of a model's values, that reads this much of key-vectors, under a head that reads so many numbers of a text.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; `path` is where they were read.
    pub fn of(
        (spec, reads, texts): (&KeyVectorSpec, Reads, usize),
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
            start: Start::of(tensors, reads.texts(texts), path)?,
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

    /// Numbers of a candidate's text that it reads: those that the head does ([`crate::bahe::RowVectors::item`]), or none.
    pub fn texts(&self) -> usize {
        self.start.numbers()
    }

    /// What the head reads of each row, (rows, [`outputs`]); of each row's candidate its text, (rows, [`Interest::texts`]), zeros where there is none.
    ///
    /// # Panics
    /// If rows are not of what is seen, or that is not what it reads ([`Interest::seen`]), or texts are not as many numbers.
    pub fn forward(&self, seen: &Seen, rows: &[Asked], texts: &[f32]) -> Vec<f32> {
        let reads = self.network.reads;
        assert_eq!(seen.reads(), reads, "what is seen is what it reads");
        let looked = Looked::of(seen, &self.rows);
        let candidates = self.start.candidates(&looked, rows, texts);
        let (out, _) = self.network.forward(seen, &looked, (rows, &candidates));
        Users::of(seen, rows).around(&out, &looked.vectors, &candidates)
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
    /// Numbers of a candidate's text.
    texts: usize,
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
    of: Of,
    start: Start,
    /// (rows, numbers of a text)
    texts: Vec<f32>,
    /// (rows, outputs): what the head reads.
    pub outputs: Tensor,
}

/// What it is of: rows, vectors of items, users, and candidates' vectors, one a row.
#[derive(Debug)]
struct Of {
    asked: Vec<Asked>,
    looked: Looked,
    users: Users,
    candidates: Vec<Vector>,
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
    ahead: Ahead,
}

#[cfg(any(test, feature = "cuda"))]
#[derive(Debug)]
struct There {
    way: OnDevice,
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
            texts: 0,
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

    /// The same, under a head that reads so many numbers of a candidate's text: there items start, if that is read.
    #[must_use]
    pub fn with_texts(mut self, numbers: usize) -> Self {
        self.texts = numbers;
        self
    }

    /// The means and spreads of candidates' texts, (texts, numbers), by which it reads them: the value of [`TEXT_SCALE`](super::TEXT_SCALE).
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn scale_of(texts: &Tensor) -> Result<Tensor, LanguageError> {
        Start::scale_of(texts).map_err(computing("reading texts"))
    }

    /// Numbers of a candidate's text that it reads: those of the head, or none.
    pub fn texts(&self) -> usize {
        self.reads.texts(self.texts)
    }

    /// First values of the network.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn random(&self, seed: u64) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let mut values = Network::random(sizes(&self.spec), self.reads, seed)?;
        let mut begin = || {
            self.reads.hold(&mut values)?;
            if self.texts() > 0 {
                values.extend(Start::first(self.texts())?);
            }
            Ok(())
        };
        begin().map_err(computing("making first values"))?;
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

    /// The way forward of rows over what they see, and nothing more ([`Seen::part`]), with their candidates' texts ([`Interest::forward`]); `step` is the number of the step that will be learned, none where nothing will.
    ///
    /// # Errors
    /// A tensor of the network that is missing.
    ///
    /// # Panics
    /// If what is seen is not what it reads, or texts are not as many numbers.
    pub fn forward(
        &self,
        values: &BTreeMap<String, Tensor>,
        (seen, asked, texts): (Seen, Vec<Asked>, Vec<f32>),
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
        let start = Start::of(values, self.texts(), Path::new("the values"))?;
        let candidates = start.candidates(&looked, &asked, &texts);
        let of = Of {
            users: Users::of(&seen, &asked),
            asked,
            looked,
            candidates,
        };
        #[cfg(any(test, feature = "cuda"))]
        let (computed, outputs) = if self.apart || !device.is_cpu() {
            self.there(values, &seen, &of, device)?
        } else {
            self.here(values, seen, &of, device)?
        };
        #[cfg(not(any(test, feature = "cuda")))]
        let (computed, outputs) = self.here(values, seen, &of, device)?;
        Ok(Way {
            computed,
            of,
            reads: self.reads,
            rows,
            start,
            texts,
            outputs,
        })
    }

    /// By our own code.
    fn here(
        &self,
        values: &BTreeMap<String, Tensor>,
        seen: Seen,
        of: &Of,
        device: &Device,
    ) -> Result<(Computed, Tensor), LanguageError> {
        let path = Path::new("the values");
        let network = Network::of(sizes(&self.spec), self.reads, values, path)?;
        let rows = (&*of.asked, &*of.candidates);
        let (out, ahead) = network.forward(&seen, &of.looked, rows);
        let out = (of.users).around(&out, &of.looked.vectors, &of.candidates);
        let shape = (of.asked.len(), self.outputs());
        let out = Tensor::from_vec(out, shape, device);
        let outputs = out.and_then(|out| Ok(Var::from_tensor(&out)?.as_tensor().clone()));
        let outputs = outputs.map_err(computing("running the network of interest"))?;
        let here = Here {
            network,
            seen,
            ahead,
        };
        Ok((Computed::Here(Box::new(here)), outputs))
    }

    /// On a device, or as there.
    #[cfg(any(test, feature = "cuda"))]
    fn there(
        &self,
        values: &BTreeMap<String, Tensor>,
        seen: &Seen,
        of: &Of,
        device: &Device,
    ) -> Result<(Computed, Tensor), LanguageError> {
        let (kinds, buckets) = sizes(&self.spec);
        let sizes = (kinds, buckets, self.reads);
        let rows = (&*of.asked, &*of.candidates);
        let way = OnDevice::forward(sizes, values, (seen, &of.looked), rows, device)?;
        let around = || {
            let numbers = (of.users).numbers(&of.looked.vectors, &of.candidates);
            let numbers = Tensor::from_vec(numbers, (of.asked.len(), NUMBERS), device)?;
            let numbers = Var::from_tensor(&numbers)?;
            let [product, of_user] = [numbers.narrow(1, 0, 1)?, numbers.narrow(1, 1, WIDTH)?];
            let outputs = Tensor::cat(&[&product, &way.outputs, &of_user], 1)?;
            candle_core::Result::Ok((numbers, outputs))
        };
        let (numbers, outputs) = around().map_err(computing("reading rows of users"))?;
        Ok((Computed::Device(Box::new(There { way, numbers })), outputs))
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
        let flat = |of: &Tensor| {
            let flat = of.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            flat.map_err(computing(doing))
        };
        let of = &self.of;
        let from = (&*of.looked.vectors, &*of.candidates);
        let (mut of_vectors, mut of_candidates);
        match &self.computed {
            Computed::Here(here) => {
                let Some(gradient) = gradients.get(&self.outputs) else {
                    return Ok(());
                };
                let [out, _] = of.users.apart(&flat(&self.outputs)?);
                let [gradient, of_users] = of.users.apart(&flat(gradient)?);
                let ahead = (&here.seen, &of.looked, &here.ahead);
                let gradients: Gradients = here.network.backward(ahead, &out, &gradient);
                here.network.gather(&gradients, into)?;
                (of_vectors, of_candidates) = (gradients.vectors, gradients.candidates);
                let to = (&mut *of_vectors, &mut *of_candidates);
                of.users.back(from, &of_users, to);
            }
            #[cfg(any(test, feature = "cuda"))]
            Computed::Device(there) => {
                [of_vectors, of_candidates] = there.way.backward(gradients, into)?;
                if let Some(gradient) = gradients.get(&there.numbers) {
                    let to = (&mut *of_vectors, &mut *of_candidates);
                    of.users.back(from, &flat(gradient)?, to);
                }
            }
        }
        let texts = (&*of.asked, &*self.texts);
        (self.start).back(texts, &of_candidates, &mut of_vectors, into)?;
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
