//! Learning from recorded rows: one causal pass over each run, with the loss at every labelled row that sees a part of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use crate::dinmp::{Learning, TEXT, TEXT_SCALE};
use crate::gradient::Weighing;
use crate::language::LanguageError;
use crate::language::error::computing;

use super::adam::{Adam, AdamSettings};
use super::corpus::Corpus;
use super::deep::{Deep, DeepConfig, mean_of_texts};
use super::head::{DIRECT, Head, HeadConfig, LINES, is_of_layers, is_projection};

mod forward;
mod objective;

use forward::{Answer, Laid, laid_out};
pub use objective::Objective;

/// What becomes of the vectors of texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Depth {
    /// Nothing: the row's numbers alone.
    None,
    /// The mean of a run's vectors, and the item's own: no interaction of behaviors.
    Mean {
        /// Behaviors of a run at most.
        limit: usize,
    },
    /// Deep layers.
    Deep {
        /// What they look like.
        config: DeepConfig,
        /// Whether they stay as they are, and the head alone learns.
        frozen: bool,
    },
    /// Those of a model that scored the rows, as its head saw them: layers and projections stay what they are, and the rest of a head learns.
    Logged,
}

/// How it learns.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSettings {
    /// The optimizer.
    pub adam: AdamSettings,
    /// How much slower the deep layers learn, which were trained before.
    pub deep_factor: f64,
    /// Positions of a batch, with padding.
    pub positions: usize,
    /// Rows of a batch at most.
    pub rows_max: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// Length of the gradient at most.
    pub longest: f64,
    /// Of the order of rows.
    pub seed: u64,
    /// What it lowers, where rows have several tasks.
    pub objective: Objective,
    /// Passes at whose end all rates have fallen to nothing, in a line over the last of them; none: they stay.
    pub falling: Option<u64>,
}

/// How much faster the network of interest learns than the head: it is small, and until it tells events apart, rows of ids learn nothing from them; the head meanwhile learns its rows by heart.
const INTEREST_FACTOR: f64 = 10.0;
/// And how much slower than the head what a candidate's text says: its many numbers move all candidates at once, and each product with them.
const TEXT_FACTOR: f64 = 0.03;
/// Part of all passes in which rates fall, the last.
const FALLING: f64 = 0.3;
/// Rates that fall do not fall below this part.
const PACE_MIN: f64 = 0.01;

/// Where a trainer computes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The device. Values, gradients and the optimizer's state are there, and a batch at a time.
    pub device: Device,
    /// The numbers between vectors and outputs of deep layers ([`Deep::in_numbers`]); all else is f32.
    pub numbers: DType,
}

impl Place {
    /// The CPU, in f32.
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            numbers: DType::F32,
        }
    }
}

/// The model, while it learns.
#[derive(Debug)]
pub struct Trainer {
    device: Device,
    depth: Depth,
    deep: Option<Deep>,
    head: Head,
    variables: Vec<(String, Var)>,
    adam: Adam,
    /// Where it weighs what users did.
    interest: Option<Learning>,
    /// What it does not look at, and is a part of the model.
    carried: BTreeMap<String, Tensor>,
    settings: TrainSettings,
}

/// Where training is: all that it needs to go on, beside its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Whole passes over the rows.
    pub epoch: u64,
    /// Batches of this pass.
    pub batch: usize,
    /// Steps of the optimizer.
    pub steps: u64,
}

/// What a step says.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Where it is now.
    pub position: Position,
    /// Batches of a pass.
    pub batches: usize,
    /// Mean loss of its rows' labels, as the objective has it.
    pub loss: f32,
    /// Length of the gradient before it was cut.
    pub gradient: f64,
    /// Rows that it took in.
    pub rows: usize,
    /// Positions of the deep layers, with padding.
    pub positions: usize,
    /// What the rule for several tasks decided, by layer, or once under no name; empty where none was asked.
    pub weighings: Vec<(String, Weighing)>,
}

impl Trainer {
    /// Begins with these values: those of [`Deep::above`] or [`Deep::random`], and of [`Head::random`].
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn new(
        depth: Depth,
        head: &HeadConfig,
        values: &BTreeMap<String, Tensor>,
        path: &Path,
        (interest, settings): (Option<Learning>, TrainSettings),
        place: &Place,
    ) -> Result<Self, LanguageError> {
        let device = &place.device;
        let mut variables = Vec::new();
        assert!(
            interest.is_none() || settings.accumulate == 1,
            "rows of ids move with each batch"
        );
        if interest.is_some() {
            for (name, value) in values.iter().filter(|(name, _)| is_of_interest(name)) {
                let value = value.to_device(device);
                let variable = value.and_then(|value| Var::from_tensor(&value));
                let variable = variable.map_err(computing("making variables"))?;
                variables.push((name.clone(), variable));
            }
        }
        let deep = match &depth {
            Depth::Deep { config, .. } => {
                let deep = Deep::of(config, values, path, device, Some(&mut variables))?;
                Some(deep.in_numbers(place.numbers))
            }
            Depth::Mean { limit } => {
                let (width, sequences) = (head.width, head.sequences);
                Some(mean_of_texts(width, sequences, *limit, device)?)
            }
            Depth::None | Depth::Logged => None,
        };
        let carried = values.iter().filter(|(name, _)| is_of_layers(name));
        let carried = match &depth {
            Depth::Logged => carried
                .map(|(name, of)| (name.clone(), of.clone()))
                .collect(),
            Depth::None | Depth::Mean { .. } | Depth::Deep { .. } => BTreeMap::new(),
        };
        let head = Head::of(head, values, path, device, Some(&mut variables))?;
        let deep_factor = match &depth {
            Depth::Deep { frozen: true, .. } => 0.0,
            _ => settings.deep_factor,
        };
        let is_logged = depth == Depth::Logged;
        let adam = Adam::new(settings.adam, &variables, |name| {
            if is_logged && is_projection(name) {
                // Rows hold what came of them.
                0.0
            } else if name == LINES {
                // Calibration lays it.
                0.0
            } else if name == TEXT_SCALE {
                // It is looked at once.
                0.0
            } else if name == TEXT {
                TEXT_FACTOR
            } else if is_of_interest(name) {
                INTEREST_FACTOR
            } else if name.starts_with("head.") {
                1.0
            } else {
                deep_factor
            }
        });
        Ok(Self {
            device: device.clone(),
            depth,
            deep,
            head,
            variables,
            adam,
            interest,
            carried,
            settings,
        })
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The values as they are now, by name, in the CPU's memory.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn values(&self) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let values = self.variables.iter().map(|(name, variable)| {
            // A step changes the variable's own memory.
            let copy = if variable.device().is_cpu() {
                variable.as_tensor().copy()
            } else {
                variable.as_tensor().to_device(&Device::Cpu)
            };
            copy.map(|copy| (name.clone(), copy))
        });
        let values = values.collect::<Result<BTreeMap<_, _>, _>>();
        let mut values = values.map_err(computing("copying values"))?;
        values.extend(self.carried.clone());
        if let Some(interest) = &self.interest {
            values.extend(interest.tensors()?);
        }
        Ok(values)
    }

    /// Puts values back that [`Trainer::values`] gave.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn restore(&mut self, values: &BTreeMap<String, Tensor>) -> Result<(), LanguageError> {
        for (name, variable) in &self.variables {
            let value = values
                .get(name)
                .ok_or_else(|| LanguageError::Input(format!("the values lack `{name}`")))?;
            value
                .to_device(&self.device)
                .and_then(|value| variable.set(&value))
                .map_err(computing("putting values back"))?;
        }
        match &mut self.interest {
            Some(interest) => interest.restore(values),
            None => Ok(()),
        }
    }

    /// From now on all rates stay at this part of theirs.
    pub fn keep_pace(&mut self, pace: f64) {
        self.settings.falling = None;
        self.set_pace(pace);
    }

    fn set_pace(&mut self, pace: f64) {
        self.adam.set_pace(pace);
        if let Some(interest) = &mut self.interest {
            interest.set_pace(pace);
        }
    }

    /// Lays a line over each task's log-odds, slope and shift, as a part of the head: one for each of its scenarios, the first for those that it does not know. A head that knows none takes the first.
    ///
    /// # Errors
    /// None but the tensor library's.
    ///
    /// # Panics
    /// If there is not one a scenario and task.
    pub fn calibrate(&mut self, lines: &[Vec<[f64; 2]>]) -> Result<(), LanguageError> {
        let lines_of_scenarios = self.variables.iter().find(|(name, _)| name == LINES);
        let Some((_, variable)) = lines_of_scenarios else {
            return self.calibrate_all(&lines[0]);
        };
        let laid = || {
            let all = variable.as_tensor().to_device(&Device::Cpu)?;
            let all = all.to_vec2::<f32>()?;
            assert_eq!(all.len(), lines.len(), "a line for each scenario");
            let of = all.iter().zip(lines).flat_map(|(before, lines)| {
                let before = before.as_chunks::<2>().0;
                assert_eq!(before.len(), lines.len(), "a line for each task");
                let each = before.iter().zip(lines);
                each.flat_map(|([slope, shift], [steeper, more])| {
                    let (slope, shift) = (f64::from(*slope), f64::from(*shift));
                    [(slope * steeper) as f32, (shift * steeper + more) as f32]
                })
            });
            let of: Vec<f32> = of.collect();
            variable.set(&Tensor::from_vec(of, variable.shape(), variable.device())?)
        };
        laid().map_err(computing("calibrating"))
    }

    /// The same where scenarios are not told apart: into what is there already.
    fn calibrate_all(&self, lines: &[[f64; 2]]) -> Result<(), LanguageError> {
        for (name, variable) in &self.variables {
            let doing = "calibrating";
            let column = |part: usize| {
                let column: Vec<f32> = lines.iter().map(|line| line[part] as f32).collect();
                Tensor::from_vec(column, lines.len(), variable.device())
            };
            let changed = || {
                Ok(match name.as_str() {
                    "head.out.weight" | "head.cross.out" | DIRECT => {
                        variable.broadcast_mul(&column(0)?.unsqueeze(1)?)?
                    }
                    "head.out.bias" => ((variable.as_tensor() * column(0)?)? + column(1)?)?,
                    "head.base" => (variable.as_tensor() * column(0)?)?,
                    _ => return Ok(()),
                })
                .and_then(|value| variable.set(&value))
            };
            changed().map_err(computing(doing))?;
        }
        Ok(())
    }

    /// The values and the optimizer's state: with the position, all that [`Trainer::resume`] needs.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn checkpoint(&self) -> Result<BTreeMap<String, Tensor>, LanguageError> {
        let mut all = self.values()?;
        all.extend(self.adam.state()?);
        Ok(all)
    }

    /// Goes on from a checkpoint, to the bit.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn resume(
        &mut self,
        checkpoint: &BTreeMap<String, Tensor>,
        position: Position,
    ) -> Result<(), LanguageError> {
        self.restore(checkpoint)?;
        self.adam.resume(checkpoint, position.steps)
    }

    /// One pass over rows, from a position on; `each` is told of every step, and ends the pass by `false`. The answer is where it ended: the beginning of the
    /// next pass, or where it was told to stop.
    ///
    /// # Errors
    /// A loss that is no number, and the tensor library's.
    pub fn pass(
        &mut self,
        corpus: &Corpus,
        rows: Range<usize>,
        from: Position,
        each: &mut dyn FnMut(&Self, StepReport) -> bool,
    ) -> Result<Position, LanguageError> {
        let limits = (self.settings.positions, self.settings.rows_max);
        let seed = self
            .settings
            .seed
            .wrapping_add(from.epoch.wrapping_mul(0x9e37_79b9));
        let batches = corpus.batches(rows, limits, self.limit(), Some(seed));
        let left = &batches[from.batch.min(batches.len())..];
        std::thread::scope(|scope| {
            // One is laid out while another is learned from, and waits: what long pasts take is there twice and no more.
            let (give, laid) = mpsc::sync_channel(0);
            if self.interest.is_some() {
                scope.spawn(move || {
                    for batch in left {
                        // Nobody takes what lies behind the last step.
                        if give.send(laid_out(corpus, batch)).is_err() {
                            break;
                        }
                    }
                });
            }
            self.steps((left, batches.len()), corpus, from, (&laid, each))
        })
    }

    /// The steps of what is left of a pass.
    fn steps(
        &mut self,
        (left, all): (&[Vec<usize>], usize),
        corpus: &Corpus,
        from: Position,
        (laid, each): (
            &mpsc::Receiver<Laid>,
            &mut dyn FnMut(&Self, StepReport) -> bool,
        ),
    ) -> Result<Position, LanguageError> {
        let mut position = from;
        for group in left.chunks(self.settings.accumulate) {
            if let Some(passes) = self.settings.falling {
                let done = from.epoch as f64 + position.batch as f64 / all as f64;
                let left = 1.0 - done / passes as f64;
                self.set_pace((left / FALLING).clamp(PACE_MIN, 1.0));
            }
            let of_group = match &mut self.interest {
                Some(interest) => {
                    let laid = laid.recv().expect("invariant: a batch is laid out a step");
                    interest.meet(&laid.seen, &laid.met)?;
                    Some(laid)
                }
                None => None,
            };
            let gathered = self.gathered(corpus, group, of_group)?;
            let (scale, loss) = (gathered.scale, gathered.loss);
            let longest = self.settings.longest;
            let gradient = self.adam.step(&gathered.gradients, scale, longest)?;
            if let (Some(interest), Some(way), true) =
                (&mut self.interest, &gathered.way, gradient.is_finite())
            {
                let scale = scale * (longest / gradient).min(1.0);
                interest.step(way, &gathered.gradients, scale)?;
            }
            if !loss.is_finite() || !gradient.is_finite() {
                return Err(LanguageError::Input(format!(
                    "after {} steps the loss is {loss} and the gradient {gradient} long: nothing was learned from that",
                    self.adam.steps()
                )));
            }
            position.batch += group.len();
            position.steps = self.adam.steps();
            let report = StepReport {
                position,
                batches: all,
                loss,
                gradient,
                rows: gathered.rows,
                positions: gathered.positions,
                weighings: gathered.weighings,
            };
            if !each(self, report) {
                return Ok(position);
            }
        }
        Ok(Position {
            epoch: from.epoch + 1,
            batch: 0,
            steps: self.adam.steps(),
        })
    }

    /// Log-odds of rows, one a task, in their order; `each` is told how many are done.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn score(
        &self,
        corpus: &Corpus,
        rows: Range<usize>,
        each: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, LanguageError> {
        let from = rows.start;
        let mut scores = vec![0.0; rows.len() * corpus.tasks.len()];
        let limits = (self.settings.positions, self.settings.rows_max);
        let mut done = 0;
        for batch in corpus.batches(rows, limits, self.limit(), None) {
            let answer = self.log_odds(corpus, &batch, None, false)?;
            let log_odds = answer
                .log_odds
                .to_vec2::<f32>()
                .map_err(computing("scoring"))?;
            for (row, log_odds) in batch.iter().zip(log_odds) {
                let at = (row - from) * corpus.tasks.len();
                scores[at..at + corpus.tasks.len()].copy_from_slice(&log_odds);
            }
            done += batch.len();
            each(done);
        }
        Ok(scores)
    }

    /// Behaviors of a run at most, where runs are looked at.
    fn limit(&self) -> Option<usize> {
        match &self.depth {
            Depth::None | Depth::Logged => None,
            Depth::Mean { limit } => Some(*limit),
            Depth::Deep { config, .. } => Some(config.limit),
        }
    }

    fn learns_deep(&self) -> bool {
        matches!(self.depth, Depth::Deep { frozen: false, .. })
    }

    /// Adds the gradients of all that learns to `into`, by name: those of the graph, and those that the deep layers' way back gives from there.
    fn gather(
        &self,
        gradients: &GradStore,
        answer: &Answer,
        into: &mut BTreeMap<String, Tensor>,
    ) -> Result<(), LanguageError> {
        self.adam.gather(gradients, into)?;
        if let Some(way) = &answer.way {
            way.backward(gradients, into)?;
        }
        for (deep, pass) in answer
            .passes
            .iter()
            .filter_map(|pass| Some((self.deep.as_ref()?, pass)))
        {
            // A batch whose rows all have empty sequences looks at no output.
            if let Some(gradient) = gradients.get(pass.outputs()) {
                deep.backward(pass, gradient, into)?;
            }
        }
        Ok(())
    }
}

/// Whether the variable of this name is of the network of interest.
fn is_of_interest(name: &str) -> bool {
    name.starts_with("dinmp.")
}
