//! A training, from its rows to a model that is kept and judged.

use std::sync::Arc;

use headwater_config::Config;
use headwater_consumers::log::Log;
use headwater_model::KeyVectorSpec;
use headwater_model::bahe::{BaheModel, Depth, HeadConfig, Objective};
use headwater_model::dinmp::Learning;
use headwater_model::gradient::TASKS_MAX;
use headwater_model::language::{LanguageError, TextEncoder};
use parking_lot::Mutex;

use super::artifact::Artifact;
use super::going::Going;
use super::labelled::Reached;
use super::logged::{Asked, Looks};
use super::onward::Course;
use super::predict::Said;
use super::rows::{Recorded, told_apart};
use super::split::{Piece, Split};
use super::towers::Towers;
use super::vectors::TextVectors;
use super::{
    PIECE, Regime, Source, Texts, TrainBahe, TrainError, TrainSummary, Winner, logged, trial,
};

/// Numbers that are left of a vector.
const PROJECTED: usize = 64;

impl TrainBahe {
    /// Runs it.
    ///
    /// # Errors
    /// The first line that cannot be used, a model that cannot, or whatever else keeps the result from being whole.
    pub fn run(&self, config: &Config) -> Result<TrainSummary, TrainError> {
        self.run_until(config, &|| false)
    }

    /// Runs it until it is done or `stop` says so: then the same goes on from where it was.
    ///
    /// # Errors
    /// As [`TrainBahe::run`].
    pub fn run_until(
        &self,
        config: &Config,
        stop: &dyn Fn() -> bool,
    ) -> Result<TrainSummary, TrainError> {
        Ok(self.begin(config, stop)?.0)
    }

    /// The same; gives as well what goes on from there, if it has learned from a log's rows in the order of time.
    ///
    /// # Errors
    /// As [`TrainBahe::run`].
    pub(crate) fn begin(
        &self,
        config: &Config,
        stop: &dyn Fn() -> bool,
    ) -> Result<(TrainSummary, Option<Going>), TrainError> {
        self.check(config)?;
        let config = &self.effective(config);
        let log = match &self.source {
            Source::Recordings { .. } => None,
            Source::Log(log) => Some(log),
        };
        let artifact = Artifact::open(&self.out)?;
        let _alone = artifact.alone()?;
        let mut summary = TrainSummary::default();
        let place = self.place(config)?;
        if log.is_none() && matches!(self.texts, Texts::Frozen | Texts::Deep) {
            // Before anything is encoded for them.
            self.language_model(config)?;
        }
        let encoder = Self::encoder(config, &place.device)?;
        let vectors = match &encoder {
            Some(encoder) => {
                let file = artifact.vectors(encoder.version());
                let vectors = TextVectors::open(Arc::clone(encoder), file, self.progress)?;
                Some(Arc::new(Mutex::new(vectors)))
            }
            None => None,
        };
        let began = crate::world::unix_ms();
        let champion = match log {
            Some(log) => crate::champion::current(config, &**log, &self.out)?,
            None => None,
        };
        let towers = Towers::of(champion.as_ref(), &self.out.join("champion"))?;
        let layers = towers.as_ref().and_then(Towers::layers);
        let looks = self.looks((config, encoder.as_ref()), champion.as_ref())?;
        let from_log = log.map(|log| {
            let asked = Asked {
                champion: champion.as_ref(),
                reads: self.reads,
                looks: looks.as_ref(),
            };
            (&**log, asked)
        });
        let (mut recorded, reached) =
            self.read(config, vectors.as_ref(), from_log, &mut summary)?;
        summary.rows = recorded.split_sizes();
        if !recorded.has_labels() && log.is_some() {
            let [without_row, other_schema] = summary.left_out;
            return Err(TrainError::NoRows {
                without_row,
                other_schema,
                waiting: summary.waiting,
            });
        }
        if !recorded.has_labels() {
            return Err(TrainError::NoLabels);
        }
        if let Some(log) = log.filter(|_| self.winner != Winner::Stays) {
            // For trainings under later schemas.
            crate::schemas::tell(config, &**log);
        }
        if summary.rows[1] == 0 {
            return Err(TrainError::NoValidation);
        }
        summary.texts = recorded.texts_asked;
        summary.distinct_texts = recorded.texts.len();
        let mut width = 0;
        if let Some(vectors) = &vectors {
            let mut vectors = vectors.lock();
            if log.is_none() && self.texts != Texts::None {
                recorded.with_vectors(&mut vectors, &place.device)?;
                width = vectors.encoder().width();
            }
            summary.encoded = vectors.made.0;
            summary.encode_seconds = vectors.made.1.as_secs_f64();
        }
        drop(vectors);
        if log.is_some() {
            recorded.lay_vectors(&place.device)?;
        }
        let encoder = encoder.as_deref();
        let spec = recorded.schema.key_vectors().filter(|_| self.key_vectors);
        if let Some(looks) = &looks {
            width = looks.width;
        }
        let widths = towers.as_ref().map(Towers::widths);
        let widths = widths.unwrap_or([width, config.sequences.len(), PROJECTED]);
        let interest = spec.map(|spec| self.interest(spec, widths)).transpose()?;
        let head = self.head(config, &recorded, interest.as_ref(), widths);
        let depth = match (&towers, layers) {
            (Some(towers), Some(config)) if self.texts == Texts::Deep => {
                let frozen = false;
                (Depth::Deep { config, frozen }, towers.values.clone())
            }
            (Some(towers), _) => (Depth::Logged, towers.values.clone()),
            (None, _) => self.depth(config, encoder)?,
        };
        let mut described = self.described(config, &recorded, encoder, (&head, &depth.0));
        if let Some(towers) = &towers {
            towers.describe(&mut described);
        }
        described.reached = reached.as_ref().map(|reached| reached.from.clone());
        let mut trainer = self.trainer(&head, depth, interest, &place)?;
        trainer.scale_texts(&recorded.corpus, 0..summary.rows[0])?;
        let of = self.identity(&recorded, encoder, &place);
        self.learn(&mut trainer, &recorded, &artifact, (of, stop), &mut summary)?;
        if !summary.finished {
            return Ok((summary, None));
        }
        if summary.kept > 0 {
            Self::calibrate(&mut trainer, &recorded, &mut summary)?;
        }
        let mut course = Course::default();
        let onward = match self.regime {
            Regime::Frozen => None,
            Regime::Prequential => {
                // Labels of recordings count as known once time has moved past their row.
                let known_after_ms = log.map_or(0, |_| trial::labels_ms(config));
                let until = (known_after_ms, stop);
                let onward = self.onward(&mut trainer, &recorded, &mut course, until)?;
                summary.finished = onward.is_some();
                if !summary.finished {
                    return Ok((summary, None));
                }
                onward
            }
        };
        let (said, lines) = onward.unzip();
        let before = log.and(reached).filter(|_| said.is_some());
        let before = before.map(|reached| Ok::<_, TrainError>((reached, trainer.values()?)));
        let before = before.transpose()?;
        if let Some(lines) = lines.filter(|_| course.pieces > 0) {
            Self::lay(&mut trainer, lines, &mut summary)?;
        }
        summary.onward = course.pieces;
        artifact.keep(&trainer.values()?, described.clone(), &recorded.schema)?;
        artifact.finished()?;
        if let Some(log) = log {
            let beside = (&**log, champion.as_ref(), began);
            let of = (&trainer, said.as_ref());
            summary.judged = Some(self.judge(config, beside, of, &recorded)?);
        }
        if self.predictions.is_some() || self.report.is_some() {
            let said = match said {
                Some(said) => said,
                None => Said::by(&trainer, &recorded, self.progress)?,
            };
            let report = self.tell(&said, &recorded, config)?;
            summary.predicted = report.measured();
            if let Some(path) = &self.report {
                report.write(path, &self.words(&summary))?;
            }
        }
        let going = match before {
            Some((reached, values)) => {
                trainer.restore(&values)?;
                let towers = champion.as_ref().and_then(BaheModel::towers);
                let of = (reached, towers, looks);
                Some(Going::of((trainer, course), described, &recorded, of))
            }
            None => None,
        };
        Ok((summary, going))
    }

    /// What layers look at that are to learn from a log; none: none are. Where they begin as the language model's own, it must have as many.
    fn looks(
        &self,
        (config, encoder): (&Config, Option<&Arc<TextEncoder>>),
        champion: Option<&BaheModel>,
    ) -> Result<Option<Looks>, TrainError> {
        if self.texts != Texts::Deep || !matches!(self.source, Source::Log(_)) {
            return Ok(None);
        }
        let looks = Looks::of((config, encoder), champion)?;
        if champion.and_then(BaheModel::towers).is_none() {
            self.language_model(config)?;
        }
        Ok(Some(looks))
    }

    /// What weighs all that users did, beside vectors that are so wide, of so many sequences, and of so many numbers once they are projected.
    fn interest(
        &self,
        spec: &KeyVectorSpec,
        [width, _, projected]: [usize; 3],
    ) -> Result<Learning, LanguageError> {
        let of = (self.seed, self.winner != Winner::Stays);
        let learning = self.ids.learning(spec, of)?.reading(self.reads);
        let texts = if width == 0 { 0 } else { projected };
        if self.reads.text && texts == 0 {
            tracing::warn!("--text-start adds nothing: no texts are looked at");
        }
        Ok(learning.with_texts(texts))
    }

    /// Whether what is asked for goes together.
    fn check(&self, config: &Config) -> Result<(), TrainError> {
        if self.winner != Winner::Stays && config.scoring.model.is_some() {
            return Err(TrainError::NobodyFollows);
        }
        if matches!(self.source, Source::Log(_)) {
            if !matches!(self.texts, Texts::None | Texts::Deep) {
                return Err(TrainError::TextsOfLog);
            }
            if self.regime != Regime::Frozen && self.winner == Winner::Promoted {
                return Err(TrainError::OnwardPromoted);
            }
        }
        if self.shares[0] + self.shares[1] > 1.0 + 1e-9 {
            return Err(TrainError::Shares {
                learned: self.shares[0],
                validated: self.shares[1],
            });
        }
        let found = config.tasks.len();
        if matches!(self.objective, Objective::Tasks { .. }) && found > TASKS_MAX {
            return Err(TrainError::Tasks { found });
        }
        self.check_places()
    }

    /// What the head looks like: with so wide vectors, so many sequences, and so many numbers of a projection.
    fn head(
        &self,
        config: &Config,
        recorded: &Recorded,
        interest: Option<&Learning>,
        [width, sequences, projected]: [usize; 3],
    ) -> HeadConfig {
        HeadConfig {
            width,
            sequences,
            features: recorded.corpus.features,
            tasks: recorded.corpus.tasks.len(),
            projected,
            inner: match self.parts.experts {
                0 => [128, 64],
                _ => [128, 32],
            },
            interest: interest.map_or(0, Learning::outputs),
            matches: interest.map_or(0, Learning::matches),
            scenarios: told_apart(config).len(),
            experts: self.parts.experts,
            cross: self.parts.cross,
        }
    }

    /// The rows, and how far what was logged is used up by them.
    fn read(
        &self,
        config: &Config,
        vectors: Option<&Arc<Mutex<TextVectors>>>,
        from_log: Option<(&dyn Log, Asked<'_>)>,
        summary: &mut TrainSummary,
    ) -> Result<(Recorded, Option<Reached>), TrainError> {
        let champion = from_log.and_then(|(_, asked)| asked.champion);
        let config = &self.reading(config, champion);
        if let Some((log, asked)) = from_log {
            let (recorded, left_out, reached) = logged::read(
                (config, log),
                asked,
                (self.split(), self.log_rows, self.later_than),
                (&self.out, self.progress),
            )?;
            summary.left_out = [left_out.without_row, left_out.other_schema];
            summary.waiting = left_out.waiting;
            summary.without_vectors = left_out.without_vectors;
            summary.newest = recorded.newest();
            return Ok((recorded, Some(reached)));
        }
        let Source::Recordings { items, events } = &self.source else {
            unreachable!("invariant: a log was opened for this source");
        };
        let recorded = Recorded::read(
            config,
            (items, events),
            vectors,
            (self.split(), self.reads),
            self.progress,
        )?;
        Ok((recorded, None))
    }

    /// The configuration, with what rows must tell for it and for a champion.
    pub(super) fn reading(&self, config: &Config, champion: Option<&BaheModel>) -> Config {
        let mut config = config.clone();
        let reads = champion.is_some_and(|champion| champion.interest().is_some());
        config.key_vectors.logged = self.key_vectors || reads;
        config
    }

    fn split(&self) -> Split {
        let [learned, validated] = self.shares;
        let piece = (self.regime == Regime::Prequential).then_some(Piece::Part(PIECE));
        Split {
            learned,
            validated,
            piece,
        }
    }
}
