//! The way forward of a batch: what its rows see, through deep layers and the network of interest, to the head.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::dinmp::{Asked, Learning, Seen, TEXT_SCALE, Way};
use crate::language::error::computing;
use crate::language::kernel;
use crate::language::{Kernels, LanguageError};
use crate::numbers::Numbers;

use super::super::corpus::{Corpus, column};
use super::super::deep::Deep;
use super::super::head::{HeadConfig, HeadInput, SeenTexts};
use super::super::pass::Pass;
use super::{Depth, Trainer, is_of_interest};

/// Share of the rows that are passed off as of another scenario while they are learned from: so that there is something to read where a scenario is new.
const SCENARIO_DROPOUT: f64 = 0.05;
/// Rows whose candidates' texts are looked at before the first step, about.
const SCALED: usize = 20_000;

impl Trainer {
    /// Some rows of a column, where the trainer computes.
    pub(super) fn column(
        &self,
        rows: &[usize],
        values: &[f32],
        each: usize,
    ) -> Result<Tensor, LanguageError> {
        let rows = column(rows, values, each)?;
        rows.to_device(&self.device)
            .map_err(computing("laying rows out"))
    }

    /// The head's answer to a batch; one that is learned from has the way back through the deep layers.
    pub(super) fn log_odds(
        &self,
        corpus: &Corpus,
        batch: &[usize],
        laid: Option<Laid>,
        learned_from: bool,
    ) -> Result<Answer, LanguageError> {
        let features = self.column(batch, &corpus.rows.features, corpus.features)?;
        let base = self.column(batch, &corpus.rows.base, corpus.tasks.len())?;
        let vectors = match &self.deep {
            Some(deep) => Some(self.vectors(deep, corpus, batch, learned_from)?),
            None => None,
        };
        let logged = self.projections(corpus, batch)?;
        let way = match &self.interest {
            Some(interest) => {
                let items = vectors.as_ref().map(|of| self.head.projected(&of.items));
                let items = items.or_else(|| Some(Ok(logged.as_ref()?.1.clone())));
                let texts = self.texts(items.transpose()?.as_ref())?;
                let variables = self.variables.iter();
                let values = variables.filter(|(name, _)| is_of_interest(name));
                let values = values.map(|(name, value)| (name.clone(), value.as_tensor().clone()));
                let step = learned_from.then(|| self.adam.steps());
                let laid = laid.unwrap_or_else(|| laid_out(corpus, batch));
                let values = values.collect();
                let laid = (laid.seen, laid.asked, texts);
                Some(interest.forward(&values, laid, step, &self.device)?)
            }
            None => None,
        };
        let scenarios = self.scenarios(corpus, batch, learned_from)?;
        let made = vectors.as_ref();
        let made = made.map(|of| SeenTexts::Vectors(&of.users, &of.items));
        let logged = logged.as_ref();
        let logged = logged.map(|(users, items)| SeenTexts::Projections(users, items));
        let input = HeadInput {
            texts: made.or(logged),
            features: &features,
            interest: way.as_ref().map(|way| &way.outputs),
            base: &base,
            scenarios: scenarios.as_ref(),
        };
        let log_odds = self.head.forward(&input)?;
        let (positions, passes) = vectors.map_or((0, Vec::new()), |of| (of.positions, of.passes));
        Ok(Answer {
            log_odds,
            positions,
            passes,
            way,
        })
    }

    /// What the network of interest reads of candidates' texts, from what the head does: (rows, projected). Layers and projections learn nothing by it.
    fn texts(&self, items: Option<&Tensor>) -> Result<Vec<f32>, LanguageError> {
        let reads = self.interest.as_ref().is_some_and(|of| of.texts() > 0);
        let Some(items) = items.filter(|_| reads) else {
            return Ok(Vec::new());
        };
        let flat = items.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        flat.map_err(computing("reading texts"))
    }

    /// Looks at the texts of some of these rows' candidates, so that the network of interest reads them by their means and spreads. Before the first step.
    ///
    /// # Errors
    /// None but the tensor library's.
    pub fn scale_texts(
        &mut self,
        corpus: &Corpus,
        rows: std::ops::Range<usize>,
    ) -> Result<(), LanguageError> {
        let reads = self.interest.as_ref().is_some_and(|of| of.texts() > 0);
        let batch: Vec<usize> = rows
            .clone()
            .step_by(rows.len().div_ceil(SCALED).max(1))
            .collect();
        if !reads || batch.is_empty() {
            return Ok(());
        }
        let texts = match &self.deep {
            Some(deep) => {
                let (items, _) = self.items(corpus, &batch)?;
                self.head.projected(&deep.items(&items, Kernels::Fused)?)?
            }
            None => match self.projections(corpus, &batch)? {
                Some((_, items)) => items,
                None => return Ok(()),
            },
        };
        let scale = Learning::scale_of(&texts)?;
        let mut variables = self.variables.iter();
        let variable = variables.find(|(name, _)| name == TEXT_SCALE);
        let (_, variable) = variable.expect("invariant: it reads texts");
        variable.set(&scale).map_err(computing("reading texts"))
    }

    /// Vectors of the texts of a batch's candidates, each once, and the place of each row's.
    fn items(&self, corpus: &Corpus, batch: &[usize]) -> Result<(Tensor, Tensor), LanguageError> {
        let mut distinct = BTreeMap::new();
        let mut items = Vec::new();
        let mut of_row = Vec::with_capacity(batch.len());
        for row in batch {
            let text = corpus.rows.item[*row];
            let place = *distinct.entry(text).or_insert_with(|| {
                items.push(text);
                items.len() as u32 - 1
            });
            of_row.push(place);
        }
        let looked_up = || {
            let items = self.look_up(corpus, &Tensor::new(items, &Device::Cpu)?)?;
            Ok((items, Tensor::new(of_row, &self.device)?))
        };
        looked_up().map_err(computing("looking vectors up"))
    }

    /// Vectors of texts. All may be more than a GPU holds: those that are asked for are moved, unless all of them are there already.
    fn look_up(&self, corpus: &Corpus, texts: &Tensor) -> candle_core::Result<Tensor> {
        let texts = texts.to_device(corpus.vectors.device())?;
        let vectors = corpus.vectors.index_select(&texts, 0)?;
        vectors.to_device(&self.device)
    }

    /// What a head saw of texts when the rows were logged: of users, and of items.
    fn projections(
        &self,
        corpus: &Corpus,
        batch: &[usize],
    ) -> Result<Option<(Tensor, Tensor)>, LanguageError> {
        if self.depth != Depth::Logged {
            return Ok(None);
        }
        let HeadConfig {
            sequences,
            projected,
            ..
        } = *self.head.config();
        let wide = (sequences + 1) * projected;
        let both = self.column(batch, &corpus.rows.projections, wide)?;
        let apart = || {
            let users = both.narrow(1, 0, sequences * projected)?.contiguous()?;
            let users = users.reshape((batch.len(), sequences, projected))?;
            let items = both.narrow(1, sequences * projected, projected)?;
            Ok(Some((users, items.contiguous()?)))
        };
        apart().map_err(computing("laying rows out"))
    }

    /// Scenarios of a batch's rows, where the head tells them apart; of those that are learned from a few are passed off as another one.
    fn scenarios(
        &self,
        corpus: &Corpus,
        batch: &[usize],
        learned_from: bool,
    ) -> Result<Option<Tensor>, LanguageError> {
        if corpus.rows.scenario.is_empty() {
            return Ok(None);
        }
        let step = self.adam.steps();
        let mut numbers = Numbers::of(self.settings.seed, step);
        let scenarios = batch.iter().map(|row| {
            let is_other = learned_from && numbers.uniform() < SCENARIO_DROPOUT;
            if is_other {
                0
            } else {
                corpus.rows.scenario[*row]
            }
        });
        let scenarios = Tensor::new(scenarios.collect::<Vec<u32>>(), &self.device);
        scenarios.map(Some).map_err(computing("laying rows out"))
    }

    /// Vectors of a batch's users and items.
    fn vectors(
        &self,
        deep: &Deep,
        corpus: &Corpus,
        batch: &[usize],
        learned_from: bool,
    ) -> Result<Vectors, LanguageError> {
        let limit = self.limit().expect("invariant: runs are looked at");
        let runs = corpus.runs(batch, limit)?;
        let (count, longest) = runs.shape;
        let doing = "looking vectors up";
        let texts = runs.texts.flatten_all();
        let inputs = texts.and_then(|texts| {
            let looked_up = self.look_up(corpus, &texts)?;
            looked_up.reshape((count, longest, ()))
        });
        let inputs = inputs.map_err(computing(doing))?;
        let gaps = runs.gaps.to_device(&self.device);
        let gaps = gaps.map_err(computing(doing))?;
        let (items, of_row) = self.items(corpus, batch)?;
        let sequences: Vec<usize> = (0..batch.len()).flat_map(|_| 0..corpus.sequences).collect();
        let mut passes = Vec::new();
        // Layers that stay as they are need no way back.
        let (outputs, items) = if learned_from && self.learns_deep() {
            let users = deep.forward_kept(&inputs, &gaps)?;
            let items = deep.items_kept(&items)?;
            let outputs = (users.outputs().clone(), items.outputs().clone());
            passes.extend([users, items]);
            outputs
        } else {
            let kernels = Kernels::Fused;
            let outputs = deep.outputs(&inputs, &gaps, kernels)?;
            (outputs, deep.items(&items, kernels)?)
        };
        let users = deep.pooled(&outputs, &runs.places, &sequences)?;
        let shaped = || {
            let users = users.reshape((batch.len(), corpus.sequences, ()))?;
            Ok((users, kernel::picked(&items, &of_row)?))
        };
        let (users, items) = shaped().map_err(computing(doing))?;
        Ok(Vectors {
            users,
            items,
            positions: count * longest,
            passes,
        })
    }
}

/// What the head says of a batch.
pub(super) struct Answer {
    /// (rows, tasks)
    pub(super) log_odds: Tensor,
    /// Positions of runs, with padding.
    pub(super) positions: usize,
    pub(super) passes: Vec<Pass>,
    pub(super) way: Option<Way>,
}

/// What the rows of a batch see of their users' pasts, and whom they ask about.
pub(super) struct Laid {
    pub(super) seen: Seen,
    pub(super) asked: Vec<Asked>,
    /// Of each key of what is seen, the newest hour that it was met in.
    pub(super) met: Vec<u32>,
}

pub(super) fn laid_out(corpus: &Corpus, batch: &[usize]) -> Laid {
    let rows = &corpus.rows;
    let asked = batch.iter().map(|row| rows.asked[*row]);
    let (seen, asked) = corpus.seen.part(&asked.collect::<Vec<Asked>>());
    let hours = batch.iter().map(|row| rows.hours.get(*row).copied());
    let hours: Vec<u32> = hours.map(Option::unwrap_or_default).collect();
    let met = seen.met(&asked, &hours);
    Laid { seen, asked, met }
}

/// What a batch's rows are seen by.
struct Vectors {
    /// (rows, sequences, width)
    users: Tensor,
    /// (rows, width)
    items: Tensor,
    positions: usize,
    passes: Vec<Pass>,
}
