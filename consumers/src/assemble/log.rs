//! The rows assembled last, as the feature log keeps them: their numbers, who scored them, and what whoever learns from them is to know beside.

use std::borrow::Cow;

use headwater_model::bahe::BaheModel;
use headwater_model::{Baseline, LogHead, LoggedRequest, Scores};
use headwater_state::ItemTable;

use super::key_vectors::Keyed;
use super::{Assembler, RowRequest};

impl Assembler {
    /// Whether the last rows have scores of a model that looks at texts.
    pub(super) fn is_looked_at(&self) -> bool {
        let last = self.scorers.last();
        last.is_some_and(|last| last.looks_at_texts() && last.has_scored())
    }

    /// The rows assembled last, as the feature log keeps them.
    pub fn log<'a>(
        &'a self,
        request: &RowRequest<'a>,
        items: &'a ItemTable,
        pseudonym: &'a str,
        scores: &'a Scores,
    ) -> LoggedRequest<'a> {
        let scorer = self.scorers.last().filter(|trained| trained.has_scored());
        let (model, version) = scorer.map_or((Baseline::NAME, Baseline::VERSION), |trained| {
            (BaheModel::NAME, trained.version())
        });
        let head = LogHead {
            model,
            version,
            request_id: request.request_id,
            user: pseudonym,
            scenario: request.scenario_name,
            item_state: self.item_state,
            embeddings: self
                .texts
                .as_ref()
                .and_then(|(look, _)| look.encoder_name()),
        };
        let candidates = request.candidates.iter().copied();
        let mut logged = LoggedRequest::of(head, &self.schema, candidates, &self.batch, scores);
        if let Some(keyed) = &self.keyed {
            logged.key_vectors = Some(keyed.key_vectors().borrowed());
            for candidate in &mut logged.candidates {
                let groups = Keyed::groups_of(&candidate.item_id, items);
                candidate.groups = groups.map(Cow::Borrowed).collect();
            }
        }
        if let Some(trained) = scorer {
            trained.log(&mut logged);
        }
        // Without an encoder the texts have no vectors to learn from.
        if let Some(told) = self.told.as_ref().filter(|_| !self.is_looked_at())
            && logged.embeddings.is_some()
        {
            told.log(&mut logged);
        }
        logged
    }
}
