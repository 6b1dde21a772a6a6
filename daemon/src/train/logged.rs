//! What daemons logged, to rows: the rows of the feature log that the topic of labels speaks of.
//!
//! Before it stand both topics, as `consumers` wrote them; after it the same [`Recorded`] that recordings give. Rows saw what they saw when they were
//! scored, so nothing of it is computed again but the baseline's scores, over which a model learns.

use std::collections::{BTreeMap, BTreeSet};

use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::{Log, Record, TopicPartition};
use headwater_model::bahe::{BaheModel, History, base_log_odds, squashed};
use headwater_model::dinmp::Seen;
use headwater_model::{LabelledRow, LoggedRequest};

use super::TrainError;
use super::rows::{Gathered, Met, Recorded};
use crate::progress::Progress;
use crate::scan;

/// Records between two looks at the clock.
const PROGRESS_RECORDS: u64 = 256;

/// A label and its weight, by task; none: it has none.
type Labels = Vec<Option<(f32, f32)>>;

/// What became of a row.
#[derive(Default)]
struct OfRow {
    time: i64,
    /// By item.
    items: BTreeMap<String, Labels>,
}

/// What could not be learned from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeftOut {
    /// Labelled items without a row in the feature log.
    pub(super) without_row: u64,
    /// Logged requests of another schema.
    pub(super) other_schema: u64,
}

struct Reader<'a> {
    config: &'a Config,
    /// Who is to be judged against; none: the baseline.
    champion: Option<&'a BaheModel>,
    assembler: Assembler,
    /// By row and item: what is not matched yet.
    labels: BTreeMap<String, OfRow>,
    users: BTreeMap<String, u32>,
    rows: Vec<(String, Met)>,
    seen: Seen,
    other_schema: u64,
}

/// Reads both topics to their ends as of now.
pub(super) fn read(
    (config, log): (&Config, &dyn Log),
    champion: Option<&BaheModel>,
    (shares, [rows_min, rows_max], later_than): ([f64; 2], [usize; 2], i64),
    progress: bool,
) -> Result<(Recorded, LeftOut), TrainError> {
    let mut reader = Reader {
        config,
        champion,
        assembler: Assembler::new(config).map_err(TrainError::Schema)?,
        labels: BTreeMap::new(),
        users: BTreeMap::new(),
        rows: Vec::new(),
        seen: Seen::default(),
        other_schema: 0,
    };
    let each = |topic: Topic, take: &mut dyn FnMut(&Record<'_>) -> Result<(), String>| {
        let stretches = scan::whole(log, topic, &config.topic_name(topic))?;
        let whole: i64 = stretches.iter().map(|of| of.until - of.from).sum();
        let bar = Progress::new(u64::try_from(whole).ok(), progress);
        let (mut count, mut wrong) = (0, None);
        scan::read(log, &stretches, &mut |record| {
            if let (None, Err(reason)) = (&wrong, take(record)) {
                wrong = Some((record.at, record.offset, reason));
            }
            count += 1;
            if count % PROGRESS_RECORDS == 0 {
                bar.at(count, count);
            }
        })?;
        bar.finish();
        match wrong {
            None => Ok(()),
            Some((at, offset, reason)) => Err(TrainError::Logged {
                place: place(config, at, offset),
                reason,
            }),
        }
    };
    each(Topic::Labels, &mut |record| reader.labelled(record))?;
    let found: usize = reader.labels.values().map(|of| of.items.len()).sum();
    let newest = reader.labels.values().map(|of| of.time).max();
    if found < rows_min || newest.is_some_and(|newest| newest <= later_than) {
        return Err(TrainError::TooFew {
            found,
            wanted: rows_min,
        });
    }
    reader.keep_newest(rows_max);
    each(Topic::FeatureLog, &mut |record| reader.row(record))?;
    let left: usize = reader.labels.values().map(|of| of.items.len()).sum();
    let left_out = LeftOut {
        without_row: left as u64,
        other_schema: reader.other_schema,
    };
    Ok((reader.finish(shares), left_out))
}

fn place(config: &Config, at: TopicPartition, offset: i64) -> String {
    format!(
        "{}-{} at offset {offset}",
        config.topic_name(at.topic),
        at.partition
    )
}

impl Reader<'_> {
    /// Takes labels in; what is said later of a row, an item and a task holds.
    fn labelled(&mut self, record: &Record<'_>) -> Result<(), String> {
        let labelled = LabelledRow::read(record.value.unwrap_or_default());
        let labelled = labelled.map_err(|error| words(&error))?;
        let of_row = self.labels.entry(labelled.row.into_owned()).or_default();
        of_row.time = labelled.time;
        for example in labelled.items {
            let of_item = of_row.items.entry(example.item_id.into_owned());
            let of_item = of_item.or_insert_with(|| vec![None; self.config.tasks.len()]);
            for (held, name) in of_item.iter_mut().zip(self.config.tasks.keys()) {
                if let Some(label) = example.labels.get(name.as_str()) {
                    let label = f32::from(u8::from(*label > 0.0));
                    *held = Some((label, example.weight as f32));
                }
            }
        }
        Ok(())
    }

    /// Leaves the labels of the oldest rows out, until there are so many items at most.
    fn keep_newest(&mut self, rows_max: usize) {
        let mut rows: Vec<(i64, usize)> = self
            .labels
            .values()
            .map(|of| (of.time, of.items.len()))
            .collect();
        rows.sort_unstable_by(|one, other| other.cmp(one));
        let mut kept = 0;
        let beyond = rows.into_iter().find(|(_, items)| {
            kept += items;
            kept > rows_max
        });
        if let Some((time, _)) = beyond {
            self.labels.retain(|_, of| of.time > time);
        }
    }

    /// Takes the labelled candidates of a logged request, each once.
    fn row(&mut self, record: &Record<'_>) -> Result<(), String> {
        let id = record.headers.get("headwater-id").unwrap_or_default();
        let id = String::from_utf8_lossy(id);
        // The last number is the part's.
        let row = id.rsplit_once('-').map_or(&*id, |(row, _)| row);
        let Some(of_row) = self.labels.get_mut(row) else {
            return Ok(());
        };
        let logged = LoggedRequest::read(record.value.unwrap_or_default());
        let logged = logged.map_err(|error| words(&error))?;
        let spec = self.assembler.schema().key_vectors();
        let of = logged.key_vectors.as_ref();
        // Rows from before key-vectors were logged, or were laid out so.
        let lacks = spec.is_some_and(|spec| of.is_none_or(|of| of.layout != spec.layout()));
        if lacks || logged.schema != self.assembler.schema().hash() {
            self.other_schema += 1;
            return Ok(());
        }
        let rows = logged.rows(self.assembler.schema());
        let rows = rows.map_err(|error| words(&error))?;
        let (tasks, sequences) = (self.config.tasks.len(), self.config.sequences.len());
        let next = self.users.len() * sequences;
        let told = spec.map(|spec| self.seen.logged(&logged, spec));
        let told = told.transpose()?.unwrap_or_default();
        // By itself: of all that was read, only this request concerns the champion.
        let mut of_champion = Vec::new();
        if let Some(interest) = self.champion.and_then(BaheModel::interest) {
            let mut seen = Seen::default();
            let asked = seen.logged(&logged, interest.spec())?;
            of_champion = interest.forward(&seen, &asked);
        }
        let wide = of_champion.len() / logged.candidates.len().max(1);
        for (place, (candidate, row_of_it)) in logged.candidates.iter().zip(rows).enumerate() {
            let Some(labels) = of_row.items.remove(&*candidate.item_id) else {
                continue;
            };
            let user = *self
                .users
                .entry(logged.user.to_string())
                .or_insert(next as u32);
            let numbers = logged.shared.iter().chain(&*candidate.values);
            let baseline = self.assembler.baseline();
            let probability = |task| baseline.explain(row_of_it, task).probability;
            let base: Vec<f32> = (0..tasks).map(probability).collect();
            let mut scores = base.clone();
            let asked = told.get(place).copied().unwrap_or_default();
            if let Some(champion) = self.champion {
                let interest = &of_champion[place * wide..][..wide];
                let seen = (&[][..], &[][..], interest);
                (champion.scorer()).score_row(row_of_it, seen, &mut scores);
            }
            let log_odds =
                |scores: &[f32]| scores.iter().map(|score| base_log_odds(*score)).collect();
            let label = |label: &Option<(f32, f32)>| label.unwrap_or_default();
            let met = Met {
                names: [
                    (&*logged.request_id).into(),
                    (&*candidate.item_id).into(),
                    (&*logged.scenario).into(),
                ],
                user,
                time: logged.time,
                item: 0,
                asked,
                features: numbers.map(|value| squashed(*value)).collect(),
                base: log_odds(&base),
                labels: labels.iter().map(|of| label(of).0).collect(),
                weights: labels.iter().map(|of| label(of).1).collect(),
                request: 0,
                champion: log_odds(&scores),
            };
            self.rows.push((row.to_owned(), met));
        }
        if of_row.items.is_empty() {
            self.labels.remove(row);
        }
        Ok(())
    }

    /// The rows in the order of time, over all partitions.
    fn finish(mut self, shares: [f64; 2]) -> Recorded {
        self.rows.sort_by(|(one, met), (other, other_met)| {
            (met.time, one, &met.names[1]).cmp(&(other_met.time, other, &other_met.names[1]))
        });
        let names: BTreeSet<(i64, &str)> = self
            .rows
            .iter()
            .map(|(id, met)| (met.time, id.as_str()))
            .collect();
        let requests = names.len();
        let mut number = 0;
        let mut before: Option<String> = None;
        let rows = self.rows.into_iter().map(|(id, mut met)| {
            if before.as_ref().is_some_and(|before| *before != id) {
                number += 1;
            }
            met.request = number;
            before = Some(id);
            met
        });
        let gathered = Gathered {
            rows: rows.collect(),
            seen: self.seen,
            histories: vec![History::default(); self.users.len() * self.config.sequences.len()],
            requests,
            ..Gathered::default()
        };
        Recorded::of(
            self.config,
            gathered,
            shares,
            self.assembler.schema().clone(),
        )
    }
}

fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words += &format!(": {error}");
        source = error.source();
    }
    words
}
