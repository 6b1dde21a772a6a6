//! Who scores the rows: the baseline alone, or a trained model over it.

use std::sync::Arc;

use headwater_model::bahe::BaheModel;
use headwater_state::{SequenceId, User};

use super::Assembler;
use super::deep::{Source, Trained};
use crate::deepen::DeepVectors;
use crate::error::Error;
use crate::metrics::Metrics;

impl Assembler {
    /// Scores with a trained model over the baseline; `deep` is what it reads vectors from, if it looks at texts.
    ///
    /// # Errors
    /// What the tensor library says.
    pub fn score_with(
        &mut self,
        model: Arc<BaheModel>,
        deep: Option<(Arc<DeepVectors>, Source)>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let trained = Trained::new(model, deep, metrics.deep.clone())?;
        self.trained = Some(trained);
        Ok(())
    }

    /// Scores by the baseline alone.
    pub fn score_by_baseline(&mut self) {
        self.trained = None;
    }

    /// A user's sequences have grown by a behavior.
    pub fn grown(&self, id: &str, user: &User, grown: &[SequenceId]) {
        if let Some(trained) = &self.trained {
            trained.grown(id, user, grown);
        }
    }

    /// Who scores where all is there that it needs, with its version.
    pub fn model_name(&self) -> &str {
        self.trained.as_ref().map_or(&self.model, Trained::name)
    }

    /// Who scored the last rows: the baseline, where the model had nothing to look at.
    pub fn scored_by(&self) -> &str {
        let trained = self.trained.as_ref();
        let trained = trained.filter(|trained| trained.has_scored());
        trained.map_or(&self.model, Trained::name)
    }

    /// After how many milliseconds the last rows may have more: they went without vectors that are being made. Those of another encoder take their time.
    pub fn again_after_ms(&self) -> Option<i64> {
        let lacks = self.lacks();
        let is_switched = lacks.contains(&"encoder") && self.encoder().is_some();
        let after_ms = if is_switched { 60_000 } else { 10_000 };
        (!lacks.is_empty()).then_some(after_ms)
    }

    /// What the last rows went without: `encoder`, `user_vectors`, `item_vectors`.
    pub fn lacks(&self) -> &[&'static str] {
        self.trained.as_ref().map_or(&[], Trained::lacks)
    }
}
