//! What a step lowers where rows have several tasks, and the gradient that it takes for that.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::dinmp::{ROWS, Way};
use crate::gradient::{GradientError, GradientRule, Scope, TaskGradient, Weighing, combine};
use crate::language::LanguageError;
use crate::language::error::computing;

use super::super::corpus::Corpus;
use super::super::head::{cross_entropy, cross_entropy_by_task, of_one_task};
use super::{Answer, Laid, Trainer};

/// What learning lowers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The mean over all labels of a batch: a task weighs as much as it has labels.
    #[default]
    Labels,
    /// The mean over tasks, each of the mean over its own labelled rows of the step; a task without any takes no part. The gradients of what tasks share
    /// are made one by a rule; what is one task's alone (its weights of the head's last layer) has its own.
    Tasks {
        /// How. All but the plain sum cost a backward pass a task.
        rule: GradientRule,
        /// Over all that learns at once, or by layer.
        scope: Scope,
    },
}

/// What some batches say together.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// By variable, to be scaled.
    pub(super) gradients: BTreeMap<String, Tensor>,
    pub(super) scale: f64,
    pub(super) loss: f32,
    pub(super) rows: usize,
    pub(super) positions: usize,
    pub(super) weighings: Vec<(String, Weighing)>,
    /// The way through the network of interest, whose rows move with the step.
    pub(super) way: Option<Way>,
}

impl Trainer {
    /// The gradient of some batches, which make one step; with what the rows of the first see, where that is laid out already.
    pub(super) fn gathered(
        &self,
        corpus: &Corpus,
        batches: &[Vec<usize>],
        laid: Option<Laid>,
    ) -> Result<Gathered, LanguageError> {
        match &self.settings.objective {
            Objective::Labels => self.by_label(corpus, batches, laid),
            Objective::Tasks { rule, scope } => self.by_task(corpus, (batches, laid), rule, *scope),
        }
    }

    /// The loss of some batches, which make one step, and the gradient that the step would follow.
    #[cfg(test)]
    pub(in crate::bahe) fn gradients(
        &self,
        corpus: &Corpus,
        batches: &[Vec<usize>],
    ) -> Result<(f32, BTreeMap<String, Tensor>), LanguageError> {
        let gathered = self.gathered(corpus, batches, None)?;
        Ok((gathered.loss, gathered.gradients))
    }

    fn by_label(
        &self,
        corpus: &Corpus,
        batches: &[Vec<usize>],
        mut laid: Option<Laid>,
    ) -> Result<Gathered, LanguageError> {
        let mut gathered = Gathered {
            scale: 1.0 / batches.len() as f64,
            ..Gathered::default()
        };
        for batch in batches {
            let (answer, labels, weights) =
                self.answers(corpus, batch, laid.take(), &mut gathered)?;
            let one = cross_entropy(&answer.log_odds, &labels, &weights)?;
            let gradients = one.backward().map_err(computing("learning"))?;
            self.gather(&gradients, &answer, &mut gathered.gradients)?;
            gathered.loss += one.to_scalar::<f32>().map_err(computing("learning"))?;
            gathered.way = answer.way;
        }
        gathered.loss *= gathered.scale as f32;
        Ok(gathered)
    }

    fn by_task(
        &self,
        corpus: &Corpus,
        (batches, mut laid): (&[Vec<usize>], Option<Laid>),
        rule: &GradientRule,
        scope: Scope,
    ) -> Result<Gathered, LanguageError> {
        let tasks = corpus.tasks.len();
        let labels_of = |rows: &[usize], task: usize| -> f32 {
            let weights = rows
                .iter()
                .map(|row| corpus.rows.weights[row * tasks + task]);
            weights.sum()
        };
        // Of the whole step: so each task's loss is a mean over its own rows, whichever batch they are in.
        let counts: Vec<f32> = (0..tasks)
            .map(|task| batches.iter().map(|batch| labels_of(batch, task)).sum())
            .collect();
        let labelled = counts.iter().filter(|count| **count > 0.0).count();
        let mut gathered = Gathered {
            scale: 1.0 / labelled.max(1) as f64,
            ..Gathered::default()
        };
        let mut of_tasks = vec![BTreeMap::new(); tasks];
        for batch in batches {
            let (answer, labels, weights) =
                self.answers(corpus, batch, laid.take(), &mut gathered)?;
            let losses = cross_entropy_by_task(&answer.log_odds, &labels, &weights, &counts)?;
            let values = losses.to_vec1::<f32>().map_err(computing("learning"))?;
            // Before any gradient: behind it, one task's NaN would be in all.
            if let Some(task) = values.iter().position(|loss| !loss.is_finite()) {
                return Err(LanguageError::Input(format!(
                    "after {} steps the loss of task `{}` is {}: nothing was learned from that",
                    self.adam.steps(),
                    corpus.tasks[task],
                    values[task]
                )));
            }
            gathered.loss += values.iter().sum::<f32>();
            if *rule == GradientRule::Sum {
                let gradients = losses.sum_all().and_then(|all| all.backward());
                let gradients = gradients.map_err(computing("learning"))?;
                self.gather(&gradients, &answer, &mut gathered.gradients)?;
            } else {
                for (task, gradient) in of_tasks.iter_mut().enumerate() {
                    // A task that no row here speaks of would add nothing.
                    if labels_of(batch, task) > 0.0 {
                        let one = losses.get(task).and_then(|one| one.backward());
                        let one = one.map_err(computing("learning"))?;
                        self.gather(&one, &answer, gradient)?;
                    }
                }
            }
            gathered.way = answer.way;
        }
        gathered.loss *= gathered.scale as f32;
        if *rule == GradientRule::Sum {
            gathered.gradients.retain(|name, _| self.learns(name));
            return Ok(gathered);
        }
        let mut gradients = Vec::with_capacity(tasks);
        for (name, (count, mut parameters)) in corpus.tasks.iter().zip(counts.iter().zip(of_tasks))
        {
            parameters.retain(|name, _| self.learns(name));
            let own: Vec<String> = parameters
                .keys()
                .filter(|name| of_one_task(name))
                .cloned()
                .collect();
            for own in own {
                let gradient = parameters.remove(&own).expect("invariant: it was listed");
                // Other tasks' rows of it are zeros.
                let sum = match gathered.gradients.remove(&own) {
                    Some(sum) => (sum + gradient).map_err(computing("gathering gradients"))?,
                    None => gradient,
                };
                gathered.gradients.insert(own, sum);
            }
            gradients.push(TaskGradient {
                task: name.clone(),
                parameters: (*count > 0.0).then_some(parameters),
            });
        }
        let steps = self.adam.steps();
        let combined = combine(&gradients, rule, scope, steps).map_err(|error| match error {
            GradientError::Compute(source) => computing("combining gradients")(source),
            error => LanguageError::Input(format!(
                "after {steps} steps {error}: nothing was learned from that"
            )),
        })?;
        gathered.gradients.extend(combined.parameters);
        gathered.weighings = combined.weighings;
        Ok(gathered)
    }

    fn learns(&self, name: &str) -> bool {
        name == ROWS || self.adam.learns(name)
    }

    /// What the head says of a batch, its labels and their weights, (rows, tasks) each.
    fn answers(
        &self,
        corpus: &Corpus,
        batch: &[usize],
        laid: Option<Laid>,
        gathered: &mut Gathered,
    ) -> Result<(Answer, Tensor, Tensor), LanguageError> {
        let answer = self.log_odds(corpus, batch, laid, true)?;
        let tasks = corpus.tasks.len();
        let labels = self.column(batch, &corpus.rows.labels, tasks)?;
        let weights = self.column(batch, &corpus.rows.weights, tasks)?;
        gathered.rows += batch.len();
        gathered.positions += answer.positions;
        Ok((answer, labels, weights))
    }
}
