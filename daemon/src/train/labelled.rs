//! Labels and the rows that they speak of, put together: what daemons logged, as examples.
//!
//! Before it stand the topics of labels and of rows, as `consumers` wrote them; after it, training makes rows to learn from of them, and trials hold models
//! against each other.

use std::collections::BTreeMap;

use headwater_config::{Config, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::{Log, Record, TopicPartition};
use headwater_model::bahe::{BaheModel, base_log_odds};
use headwater_model::{LabelledRow, LoggedRequest, Policy, Translation};
use serde::Deserialize;

use super::TrainError;
use crate::progress::Progress;
use crate::scan::{self, Stretch};
use crate::schemas::Schemas;

/// Records between two looks at the clock.
const PROGRESS_RECORDS: u64 = 256;

/// A label and its weight, by task; none: it has none.
pub(super) type Labels = Vec<Option<(f32, f32)>>;

/// Which rows are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Later ones than this.
    pub(super) later_than: i64,
    /// The newest, so many labelled items at most: what is held never comes to more than twice as many.
    pub(super) newest: usize,
}

/// What became of a row.
struct OfRow {
    /// Where the first of its labels lies.
    first: (TopicPartition, i64),
    time: i64,
    policy: Policy,
    /// By item.
    items: BTreeMap<String, Labels>,
}

/// A logged request with the labels of its candidates.
pub(super) struct Matched<'a> {
    /// What its rows are called.
    pub(super) row: &'a str,
    pub(super) logged: &'a LoggedRequest<'a>,
    /// Who put its candidates in order.
    pub(super) policy: Policy,
    /// Of each candidate; none: it has none, or had them in another part of the request.
    pub(super) labels: Vec<Option<Labels>>,
}

/// The head's projections of what a user did, and of a candidate.
pub(super) type SeenTexts<'m> = (&'m [f32], &'m [f32]);

/// How far what was logged is used up, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Rows that are not later than this are, Unix milliseconds; of a partition that had no label so far: none.
    settled: BTreeMap<i32, i64>,
    /// Where the first labels and rows lie that are of later ones; the first partition's at the front.
    pub(super) from: [Vec<i64>; 2],
}

/// What a logged request says of its time.
#[derive(Deserialize)]
struct Timed {
    time: i64,
}

/// What labels were read, by row and item; those that are not matched yet.
pub(super) struct Labelled<'a> {
    config: &'a Config,
    log: &'a dyn Log,
    assembler: Assembler,
    rows: BTreeMap<String, OfRow>,
    wanted: Wanted,
    /// Labelled items that are held.
    items: usize,
    /// Of each partition of rows, where the first that is later than all that was left out lies.
    first_rows: BTreeMap<TopicPartition, i64>,
    /// What is used up when all of this is, once [`Labelled::settle`] has said so.
    settled: BTreeMap<i32, i64>,
    /// By partition, the first label and the first row behind that.
    behind: [BTreeMap<i32, i64>; 2],
    /// What was read of labels, and of rows.
    read: [Vec<Stretch>; 2],
    /// Whether rows of other schemas are read as those of ours.
    pub(super) translates: bool,
    /// How, once there was one.
    schemas: Option<Schemas>,
    /// Logged requests that had labels, of another schema whose numbers mean something else.
    pub(super) other_schema: u64,
    /// Labelled items that were left for later, since other tasks' labels of their rows may still come.
    pub(super) waiting: u64,
    progress: bool,
}

/// What a topic holds from these offsets on, the first partition's at the front; none: all of it.
pub(super) fn stretches(
    config: &Config,
    log: &dyn Log,
    topic: Topic,
    from: Option<&[i64]>,
) -> Result<Vec<Stretch>, TrainError> {
    let mut stretches = scan::whole(log, topic, &config.topic_name(topic))?;
    for (stretch, from) in stretches.iter_mut().zip(from.unwrap_or_default()) {
        // What retention has deleted is not there, and offsets of a topic that was made anew are behind its end.
        stretch.from = stretch.from.max(*from).min(stretch.until);
    }
    Ok(stretches)
}

impl<'a> Labelled<'a> {
    /// Reads labels of the rows that are wanted, from these offsets on, to the topic's end as of now.
    ///
    /// # Errors
    /// The log's, or a record that cannot be read.
    pub(super) fn read(
        (config, log): (&'a Config, &'a dyn Log),
        from: Option<&[i64]>,
        wanted: Wanted,
        progress: bool,
    ) -> Result<Self, TrainError> {
        let mut labelled = Self {
            config,
            log,
            assembler: Assembler::new(config).map_err(TrainError::Schema)?,
            rows: BTreeMap::new(),
            wanted,
            items: 0,
            first_rows: BTreeMap::new(),
            settled: BTreeMap::new(),
            behind: Default::default(),
            read: Default::default(),
            translates: false,
            schemas: None,
            other_schema: 0,
            waiting: 0,
            progress,
        };
        let stretches = stretches(config, log, Topic::Labels, from)?;
        let mut take = |record: &Record<'_>| labelled.label(record);
        each(
            (config, log),
            Topic::Labels,
            &stretches,
            progress,
            &mut take,
        )?;
        labelled.leave_oldest();
        labelled.read[0] = stretches;
        Ok(labelled)
    }

    /// Leaves rows out that were used up before, and those of which another task's labels may still come: labels are released in the order of rows' times, in each partition and of each window. So rows are taken that are
    /// older than the newest labelled one by as much as windows differ, and once; what comes later of one of them, a correction, changes nothing.
    pub(super) fn settle(&mut self, before: Option<&Reached>) {
        let windows = || {
            let tasks = self.config.tasks.values();
            tasks.map(|task| task.window.millis())
        };
        let apart = windows().max().unwrap_or_default() - windows().min().unwrap_or_default();
        let before = before.map(|before| before.settled.clone());
        let before = before.unwrap_or_default();
        let mut settled = before.clone();
        for of in self.rows.values() {
            let newest = settled.entry(of.first.0.partition).or_insert(i64::MIN);
            *newest = of.time.saturating_sub(apart).max(*newest);
        }
        let (behind, waiting) = (&mut self.behind[0], &mut self.waiting);
        self.rows.retain(|_, of| {
            let (at, offset) = (of.first.0.partition, of.first.1);
            if of.time > settled[&at] {
                let first = behind.entry(at).or_insert(offset);
                *first = offset.min(*first);
                *waiting += of.items.len() as u64;
                return false;
            }
            before.get(&at).is_none_or(|used| of.time > *used)
        });
        self.items = self.len();
        self.settled = settled;
    }

    /// What is used up once all of this is; to be asked behind [`Labelled::each`].
    pub(super) fn reached(&self) -> Reached {
        let from = |place: usize| {
            let stretches = self.read[place].iter();
            let from = stretches.map(|stretch| {
                let behind = self.behind[place].get(&stretch.of.partition);
                behind.copied().unwrap_or(stretch.until)
            });
            from.collect()
        };
        Reached {
            settled: self.settled.clone(),
            from: [from(0), from(1)],
        }
    }

    /// The schema of rows, and the baseline.
    pub(super) fn assembler(&self) -> &Assembler {
        &self.assembler
    }

    /// Labelled items that no row was found for so far.
    pub(super) fn len(&self) -> usize {
        self.rows.values().map(|of| of.items.len()).sum()
    }

    /// Time of the newest of these rows.
    pub(super) fn newest(&self) -> Option<i64> {
        self.rows.values().map(|of| of.time).max()
    }

    /// Which rows were left out: those that are not later than this.
    pub(super) fn later_than(&self) -> i64 {
        self.wanted.later_than
    }

    /// Leaves the labels of the oldest rows out, until there are as many items as are wanted.
    fn leave_oldest(&mut self) {
        let rows = self.rows.values();
        let mut rows: Vec<(i64, usize)> = rows.map(|of| (of.time, of.items.len())).collect();
        rows.sort_unstable_by(|one, other| other.cmp(one));
        let mut kept = 0;
        let beyond = rows.into_iter().find(|(_, items)| {
            kept += items;
            kept > self.wanted.newest
        });
        if let Some((time, _)) = beyond {
            self.wanted.later_than = time;
            self.rows.retain(|_, of| of.time > time);
            self.items = self.len();
        }
    }

    /// Of each partition of labels where the first lies that is of a row that was not left out; to be asked before [`Labelled::each`], which forgets what it matched.
    pub(super) fn first_labels(&self) -> BTreeMap<TopicPartition, i64> {
        let mut first: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for (at, offset) in self.rows.values().map(|of| of.first) {
            let least = first.entry(at).or_insert(offset);
            *least = offset.min(*least);
        }
        first
    }

    /// The same of rows, once [`Labelled::each`] has gone over them.
    pub(super) fn first_rows(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.first_rows
    }

    /// Gives each logged request that has labels, with these: each item once. Reads rows from these offsets on, to the topic's end as of now.
    ///
    /// # Errors
    /// The log's, or a record that cannot be read.
    pub(super) fn each(
        &mut self,
        from: Option<&[i64]>,
        take: &mut dyn FnMut(&Assembler, &Matched<'_>) -> Result<(), String>,
    ) -> Result<(), TrainError> {
        let (config, log) = (self.config, self.log);
        let stretches = stretches(config, log, Topic::FeatureLog, from)?;
        let progress = self.progress;
        let mut one = |record: &Record<'_>| self.row(record, take);
        each(
            (config, log),
            Topic::FeatureLog,
            &stretches,
            progress,
            &mut one,
        )?;
        self.read[1] = stretches;
        Ok(())
    }

    /// Takes labels in; what is said later of a row, an item and a task holds.
    fn label(&mut self, record: &Record<'_>) -> Result<(), String> {
        let labelled = LabelledRow::read(record.value.unwrap_or_default());
        let labelled = labelled.map_err(|error| headwater_consumers::words(&error))?;
        if labelled.time <= self.wanted.later_than {
            return Ok(());
        }
        let of_row = self.rows.entry(labelled.row.into_owned());
        let of_row = of_row.or_insert_with(|| OfRow {
            first: (record.at, record.offset),
            time: labelled.time,
            policy: labelled.policy,
            items: BTreeMap::new(),
        });
        let tasks = &self.config.tasks;
        let is_of_a_task = |name: &str| tasks.keys().any(|task| task.as_str() == name);
        for example in labelled.items {
            if !example.labels.keys().any(|name| is_of_a_task(name)) {
                continue;
            }
            let of_item = of_row.items.entry(example.item_id.into_owned());
            let of_item = of_item.or_insert_with(|| {
                self.items += 1;
                vec![None; self.config.tasks.len()]
            });
            for (held, name) in of_item.iter_mut().zip(self.config.tasks.keys()) {
                if let Some(label) = example.labels.get(name.as_str()) {
                    let label = f32::from(u8::from(*label > 0.0));
                    *held = Some((label, example.weight as f32));
                }
            }
        }
        if self.items / 2 > self.wanted.newest {
            self.leave_oldest();
        }
        Ok(())
    }

    fn row(
        &mut self,
        record: &Record<'_>,
        take: &mut dyn FnMut(&Assembler, &Matched<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let is_first = !self.first_rows.contains_key(&record.at);
        if is_first || !self.behind[1].contains_key(&record.at.partition) {
            // One that nobody can read is nobody's, unless it has labels.
            let timed = serde_json::from_slice::<Timed>(record.value.unwrap_or_default());
            let time = timed.map_or(i64::MIN, |timed| timed.time);
            if is_first && time > self.wanted.later_than {
                self.first_rows.insert(record.at, record.offset);
            }
            let settled = self.settled.get(&record.at.partition);
            if settled.is_none_or(|settled| time > *settled) {
                let first = self.behind[1].entry(record.at.partition);
                first.or_insert(record.offset);
            }
        }
        let id = record.headers.get("headwater-id").unwrap_or_default();
        let id = String::from_utf8_lossy(id);
        // The last number is the part's.
        let row = id.rsplit_once('-').map_or(&*id, |(row, _)| row);
        if !self.rows.contains_key(row) {
            return Ok(());
        }
        let words = |error: &dyn std::error::Error| headwater_consumers::words(error);
        let logged = LoggedRequest::read(record.value.unwrap_or_default());
        let mut logged = logged.map_err(|error| words(&error))?;
        let Some(of_row) = self.rows.get_mut(row) else {
            unreachable!("invariant: it was there just now");
        };
        let (policy, candidates) = (of_row.policy, logged.candidates.iter());
        let labels: Vec<Option<Labels>> = candidates
            .map(|candidate| of_row.items.remove(&*candidate.item_id))
            .collect();
        if of_row.items.is_empty() {
            self.rows.remove(row);
        }
        if labels.iter().all(Option::is_none) {
            return Ok(());
        }
        let schema = self.assembler.schema();
        let of = logged.key_vectors.as_ref();
        // Rows from before key-vectors were logged, or were laid out so.
        let lacks = (schema.key_vectors())
            .is_some_and(|spec| of.is_none_or(|of| of.layout != spec.layout()));
        let is_ours = logged.schema == schema.hash();
        if !is_ours && self.translates && self.schemas.is_none() {
            let schemas = Schemas::read(self.config, self.log, schema);
            self.schemas = Some(schemas.map_err(|error| words(&error))?);
        }
        let schemas = self.schemas.as_ref().filter(|_| !is_ours);
        let translation = schemas.and_then(|schemas| schemas.of(logged.schema));
        // What was told of it may be another's, or damaged: then it is read no more than one that nobody told of.
        let is_translated = |of: &Translation| of.apply(&mut logged).is_ok();
        if lacks || (!is_ours && !translation.is_some_and(is_translated)) {
            self.other_schema += 1;
            return Ok(());
        }
        let matched = Matched {
            row,
            logged: &logged,
            policy,
            labels,
        };
        take(&self.assembler, &matched)
    }
}

impl Matched<'_> {
    /// What a model says of the candidates that have labels, those of the others left out: log-odds, (labelled candidates, tasks). None: the baseline. What a row does not hold of what the model sees of texts, `made` may have: of a candidate, as [`BaheModel::saw`].
    ///
    /// # Errors
    /// If the record is not whole.
    pub(super) fn log_odds<'m>(
        &self,
        assembler: &Assembler,
        model: Option<&BaheModel>,
        made: &dyn Fn(usize) -> Option<SeenTexts<'m>>,
    ) -> Result<Vec<f32>, String> {
        let rows = self.logged.rows(assembler.schema());
        let rows = rows.map_err(|error| headwater_consumers::words(&error))?;
        let tasks = assembler.schema().tasks().len();
        // What a model that looks at texts did not score itself, it has nothing to say of but what the baseline says.
        let saw = (0..self.labels.len())
            .map(|place| model?.saw(self.logged, place).or_else(|| made(place)));
        let saw: Vec<_> = saw.collect();
        // By itself: of all that is read, only this request concerns the model.
        let mut interest = Vec::new();
        if let Some(network) = model.and_then(BaheModel::interest) {
            let mut seen = network.seen();
            let asked = seen.logged(self.logged, network.spec())?;
            let mut texts = vec![0.0; asked.len() * network.texts()];
            if network.texts() > 0 {
                for (text, saw) in texts.chunks_mut(network.texts()).zip(&saw) {
                    if let Some((_, item)) = saw {
                        text.copy_from_slice(item);
                    }
                }
            }
            interest = network.forward(&seen, &asked, &texts);
        }
        let wide = interest.len() / self.labels.len().max(1);
        let mut found = Vec::new();
        for (place, (row, labels)) in rows.zip(&self.labels).enumerate() {
            if labels.is_none() {
                continue;
            }
            let mut scores: Vec<f32> = (0..tasks)
                .map(|task| assembler.baseline().explain(row, task).probability)
                .collect();
            if let Some((model, (users, item))) = model.zip(saw[place]) {
                let interest = &interest[place * wide..][..wide];
                let seen = (users, item, interest);
                let scenario = model.scenario(&self.logged.scenario);
                let to = (assembler.baseline(), &mut scores[..]);
                model.scorer().score_row((row, scenario), seen, to);
            }
            found.extend(scores.into_iter().map(base_log_odds));
        }
        Ok(found)
    }
}

/// Gives each record of the stretches; the first that cannot be read ends it, with its place.
fn each(
    (config, log): (&Config, &dyn Log),
    topic: Topic,
    stretches: &[Stretch],
    progress: bool,
    take: &mut dyn FnMut(&Record<'_>) -> Result<(), String>,
) -> Result<(), TrainError> {
    let whole: i64 = stretches.iter().map(|of| of.until - of.from).sum();
    let bar = Progress::new(u64::try_from(whole).ok(), progress);
    let (mut count, mut wrong) = (0, None);
    scan::read(log, stretches, &mut |record| {
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
            place: place(config, topic, at, offset),
            reason,
        }),
    }
}

fn place(config: &Config, topic: Topic, at: TopicPartition, offset: i64) -> String {
    format!(
        "{}-{} at offset {offset}",
        config.topic_name(topic),
        at.partition
    )
}
