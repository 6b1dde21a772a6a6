//! Who scores the rows: the baseline alone, or a trained model over it; and who is made ready to.

use std::sync::Arc;

use headwater_model::bahe::BaheModel;
use headwater_state::{EncoderId, ItemTable, SequenceId, User};

use super::Assembler;
use super::Row;
use super::deep::{Source, Trained};
use crate::deepen::{Asked, DeepVectors};
use crate::error::Error;
use crate::explore::share_of;
use crate::metrics::Metrics;

/// Who scores: the champion, and a model that some users get instead of it.
#[derive(Debug, Default)]
pub(super) struct Scorers {
    /// A model that was trained; none: the baseline scores alone.
    pub(super) champion: Option<Trained>,
    canary: Option<Canary>,
    /// A model that is to score, all users or some, when its vectors are there: rows ask for them.
    ahead: Option<Trained>,
    /// Whether the last rows were the canary's.
    is_canary: bool,
}

/// A model, and what it reads vectors from, if it looks at texts.
pub type WithVectors = (Arc<BaheModel>, Option<(Arc<DeepVectors>, Source)>);

/// A model that scores some users.
#[derive(Debug)]
struct Canary {
    trained: Trained,
    share: f64,
    salt: [u8; 16],
}

/// Whether a user is of a share of all of them, which is another with each salt, whatever partition they are of.
fn is_of(share: f64, salt: &[u8], user: &str) -> bool {
    let name = [b"canary\0", salt, user.as_bytes()].concat();
    share_of(&name) < share
}

impl Scorers {
    /// Who scores this row.
    pub(super) fn of(&mut self, row: &Row<'_>) -> Option<&mut Trained> {
        self.is_canary = (self.canary.as_ref())
            .is_some_and(|canary| is_of(canary.share, &canary.salt, row.user_id));
        if self.is_canary {
            self.canary.as_mut().map(|canary| &mut canary.trained)
        } else {
            self.champion.as_mut()
        }
    }

    /// Asks for what a row would take of the model that does not score yet.
    pub(super) fn want(&self, row: &Row<'_>, items: &ItemTable) {
        if let Some(ahead) = &self.ahead {
            ahead.want(row, items);
        }
    }

    /// Whose vectors of texts the champion was trained on, if it saw any.
    pub(super) fn encoder(&self) -> Option<EncoderId> {
        let encoder = self.champion.as_ref()?.model().encoder()?;
        Some(EncoderId(encoder))
    }

    /// Who scored the last rows.
    pub(super) fn last(&self) -> Option<&Trained> {
        if self.is_canary {
            self.canary.as_ref().map(|canary| &canary.trained)
        } else {
            self.champion.as_ref()
        }
    }
}

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
        self.scorers.champion = Some(trained);
        self.prefer();
        Ok(())
    }

    /// Has a model score a share of the users, whoever scores the others; none: nobody. With what it reads vectors from, if it looks at texts.
    ///
    /// # Errors
    /// What the tensor library says.
    pub fn score_some_with(
        &mut self,
        canary: Option<(WithVectors, f64)>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        self.scorers.canary = match canary {
            Some(((model, deep), share)) => Some(Canary {
                salt: model.id(),
                trained: Trained::new(model, deep, metrics.deep.clone())?,
                share,
            }),
            None => None,
        };
        self.scorers.is_canary = false;
        Ok(())
    }

    /// Asks for the vectors of a model that does not score yet, for whatever comes; none: of nobody.
    ///
    /// # Errors
    /// What the tensor library says.
    pub fn make_ahead(
        &mut self,
        ahead: Option<(Arc<BaheModel>, Arc<DeepVectors>, Arc<Asked>)>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let ahead = ahead.map(|(model, vectors, asked)| {
            let deep = Some((vectors, Source::Asked(asked)));
            Trained::new(model, deep, metrics.deep.clone())
        });
        self.scorers.ahead = ahead.transpose()?;
        Ok(())
    }

    /// Scores by the baseline alone.
    pub fn score_by_baseline(&mut self) {
        self.scorers.champion = None;
        self.prefer();
    }

    /// Has rows see the vectors of texts that the champion was trained on.
    fn prefer(&mut self) {
        let encoder = self.scorers.encoder();
        if let Some((look, _)) = &mut self.texts {
            look.prefer(encoder);
        }
    }

    /// A user's sequences have grown by a behavior.
    pub fn grown(&self, id: &str, user: &User, grown: &[SequenceId]) {
        let (champion, ahead) = (&self.scorers.champion, &self.scorers.ahead);
        for trained in champion.iter().chain(ahead) {
            trained.grown(id, user, grown);
        }
    }

    /// Who scores where all is there that it needs, with its version.
    pub fn model_name(&self) -> &str {
        let champion = self.scorers.champion.as_ref();
        champion.map_or(&self.model, Trained::name)
    }

    /// Who scored the last rows: the baseline, where the model had nothing to look at.
    pub fn scored_by(&self) -> &str {
        let trained = self.scorers.last();
        let trained = trained.filter(|trained| trained.has_scored());
        trained.map_or(&self.model, Trained::name)
    }

    /// After how many milliseconds the last rows may have more: they went without vectors that are being made. Those of another encoder take their time.
    pub fn again_after_ms(&self) -> Option<i64> {
        let lacks = self.lacks();
        let is_switched = lacks.contains(&"encoder") && self.encoder().is_some();
        let after_ms = if is_switched { 60_000 } else { 10_000 };
        // What a model makes of numbers it makes of them again.
        let is_made = lacks.iter().any(|lack| *lack != "numbers");
        is_made.then_some(after_ms)
    }

    /// What the last rows went without: `encoder`, `user_vectors`, `item_vectors`.
    pub fn lacks(&self) -> &[&'static str] {
        self.scorers.last().map_or(&[], Trained::lacks)
    }
}

#[cfg(test)]
mod tests {
    use headwater_config::Config;
    use headwater_model::bahe::{Described, Head, HeadConfig, Layers, Objective};
    use headwater_model::dinmp::Reads;
    use headwater_model::{Device, Scores, Tensor};
    use headwater_state::{ScenarioId, Timestamp};

    use super::*;

    /// Goal: a canary scores the share that it is to, always the same users, and another model's are others. Method: 20,000 users, two salts.
    #[test]
    fn a_canary_has_its_share() {
        let of = |share, salt: &[u8]| -> Vec<bool> {
            let users = (0..20_000).map(|user| is_of(share, salt, &format!("u{user}")));
            users.collect()
        };
        let count = |users: &[bool]| users.iter().filter(|user| **user).count();
        let (one, other) = (of(0.1, &[1; 16]), of(0.1, &[2; 16]));
        // Three standard deviations are 127.
        assert!(count(&one).abs_diff(2_000) < 150 && count(&other).abs_diff(2_000) < 150);
        let both: Vec<bool> = one
            .iter()
            .zip(&other)
            .map(|(one, other)| *one && *other)
            .collect();
        assert!(count(&both).abs_diff(200) < 60, "{}", count(&both));
        assert_eq!(one, of(0.1, &[1; 16]));
        assert_eq!(count(&of(0.0, &[1; 16])), 0);
    }

    /// A model that looks at no texts, one number of which is this large.
    fn model(assembler: &Assembler, large: f32) -> Arc<BaheModel> {
        let schema = assembler.schema();
        let head = HeadConfig {
            width: 0,
            sequences: 0,
            features: schema.shared().len() + schema.own().len(),
            tasks: schema.tasks().len(),
            projected: 4,
            inner: [6, 5],
            interest: 0,
            matches: 0,
            scenarios: 0,
            experts: 0,
            cross: 0,
        };
        let mut values = Head::random(&head, 1).unwrap();
        // Sums without bounds, and one of them less another.
        let full = |value: f32, shape: &[usize]| Tensor::full(value, shape, &Device::Cpu).unwrap();
        values.insert("head.hidden.0.bias".to_owned(), full(large, &[6]));
        values.insert("head.hidden.1.weight".to_owned(), full(-large, &[5, 6]));
        let out = [1.0_f32, -0.5, 1.0, -0.5, 1.0].repeat(head.tasks);
        let out = Tensor::from_vec(out, (head.tasks, 5), &Device::Cpu).unwrap();
        values.insert("head.out.weight".to_owned(), out);
        let described = Described {
            layers: (Layers::None, None),
            encoder: (None, 1),
            limit: 2,
            sequences: Vec::new(),
            scenarios: Vec::new(),
            features: vec![[0.0, 1.0]; head.features],
            key_vectors: None,
            reads: Reads::default(),
            head,
            objective: Objective::Labels,
            texts: Vec::new(),
            rows: [1, 0, 0],
            reached: None,
        };
        Arc::new(BaheModel::of(described, schema, &values).unwrap())
    }

    /// Goal: what is no finite number never goes out: the baseline scores, and the row says so. Method: a model whose sums overflow, one that is sound, and the baseline alone.
    #[test]
    fn what_is_no_number_is_not_a_score() {
        let config = Config::from_toml("key_vectors.logged = false").unwrap();
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let mut assembler = Assembler::new(&config).unwrap();
        let items = ItemTable::default();
        let row = Row {
            user_id: "u",
            user: None,
            pseudonym: None,
            scenario_name: "home",
            scenario: ScenarioId::of("home"),
            time: Timestamp(1_700_000_000_000),
            candidates: &["a", "b"],
        };
        let mut scores = [Scores::default(), Scores::default(), Scores::default()];
        assembler.score(&row, &items, &mut scores[0]);
        for (at, large) in [(1, 1e30), (2, 0.5)] {
            let model = model(&assembler, large);
            assembler.score_with(model, None, &metrics).unwrap();
            assembler.score(&row, &items, &mut scores[at]);
            let is_sound = large < 1.0;
            assert!(scores[at].are_finite());
            assert_eq!(assembler.scored_by().starts_with("bahe"), is_sound);
            let lacks: &[&str] = if is_sound { &[] } else { &["numbers"] };
            assert_eq!(assembler.lacks(), lacks);
            let is_same = scores[at].candidate(0) == scores[0].candidate(0);
            assert_eq!(is_same, !is_sound);
        }
        assert_eq!(metrics.deep.refused.get(), 1);
    }
}
