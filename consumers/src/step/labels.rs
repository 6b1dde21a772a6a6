//! Labels of the rows that were scored: rows are opened, impressions and positives noted, and what is final is published. What a label is says
//! `state::labels`; before it stand `requests` and the step's behaviors, after it whoever learns.

use std::borrow::Cow;

use headwater_config::{Config, Examples, LabelKind};
use headwater_model::{LabelledRow, LoggedExample, Policy};
use headwater_state::{
    KindId, LabelRules, LabelTask, Labelled, OpenRow, Place, Positive, ScenarioId, pinned_hash,
};

use super::{
    DecodedBehavior, Failure, HEADER_ID, Owned, Pipeline, Record, RowRequest, StepOutput, Topic,
    TopicPartition, answer,
};
use crate::explore::{propensity, share_of};
use crate::json::json_length;

/// Bytes of a labelled item beside its id and its tasks' names, at most.
const EXAMPLE_BYTES: usize = 160;
/// Bytes of the examples in one record, at most.
const RECORD_BYTES_MAX: usize = 512 * 1024;
/// Bytes of the ids of a row that is shown whole, at most: they are one record of the changelog.
const SHOWN_BYTES_MAX: usize = 512 * 1024;

/// Whether rows become examples by this configuration.
#[must_use]
pub fn makes_labels(config: &Config) -> bool {
    config.labels.examples != Examples::Off && config.scoring.feature_log
}

/// Whether all candidates of a request count as shown.
fn shows_all(config: &Config) -> bool {
    config.labels.examples == Examples::AllScored || config.scoring.requests_are_impressions
}

/// What labels follow; none where there are to be none.
#[must_use]
pub fn label_rules(config: &Config) -> Option<LabelRules> {
    let ids = |names: &[String]| names.iter().map(|name| KindId::of(name)).collect();
    let tasks = config.tasks.values().map(|task| LabelTask {
        positive: ids(&task.positive),
        scenarios: task
            .scenarios
            .iter()
            .map(|name| ScenarioId::of(name))
            .collect(),
        window_ms: task.window.millis(),
    });
    makes_labels(config).then(|| LabelRules {
        shown_within_ms: if shows_all(config) {
            0
        } else {
            config.labels.shown_within.millis()
        },
        late_ms: config.labels.late.millis(),
        open_max: config.labels.open_max,
        tasks: tasks.collect(),
    })
}

/// What of the configuration publishing labels follows.
#[derive(Debug)]
pub(super) struct Labelling {
    shows_all: bool,
    /// Kinds that some task counts.
    positive: Vec<KindId>,
    tasks: Vec<(String, LabelKind)>,
    negatives: f64,
}

impl Labelling {
    pub(super) fn of(config: &Config) -> Option<Self> {
        let positive = config.tasks.values().flat_map(|task| &task.positive);
        let tasks = config.tasks.iter();
        makes_labels(config).then(|| Self {
            shows_all: shows_all(config),
            positive: positive.map(|name| KindId::of(name)).collect(),
            tasks: tasks
                .map(|(name, task)| (name.clone(), task.label))
                .collect(),
            negatives: config.labels.negatives.get(),
        })
    }

    /// The examples of a row as they are published: of those without any positive a share, which stands for the others by its weight. Which these are follows
    /// from the row and the item alone, so that they are the same whenever they are published. A correction is told in any case: what was a positive before may
    /// be one that is left out now, and then it stands for none.
    fn examples<'a>(&'a self, labelled: &'a Labelled, correction: bool) -> Vec<LoggedExample<'a>> {
        let row = &labelled.row;
        let examples = labelled.examples.iter().filter_map(|example| {
            let all = example.labels.iter().flatten();
            let is_negative = all.clone().count() > 0 && all.clone().all(|label| label.count == 0);
            let weight = if is_negative {
                let mut name = row.id.as_bytes().to_vec();
                name.push(0);
                name.extend_from_slice(example.item.as_bytes());
                if share_of(&name) < self.negatives {
                    1.0 / self.negatives
                } else {
                    0.0
                }
            } else {
                1.0
            };
            let tasks = self.tasks.iter().zip(&example.labels);
            let labels = tasks.filter_map(|((name, kind), label)| {
                let label = (*label)?;
                let number = match kind {
                    LabelKind::Binary => f64::from(u8::from(label.count > 0)),
                    LabelKind::Count => f64::from(label.count),
                    LabelKind::Value => label.sum.get(),
                };
                Some((Cow::Borrowed(name.as_str()), number))
            });
            (weight > 0.0 || correction).then(|| LoggedExample {
                item_id: Cow::Borrowed(&*example.item),
                shown: example.shown.0,
                position: example.position,
                propensity: row.random.then(|| propensity(row.candidates as usize)),
                weight,
                labels: labels.collect(),
            })
        });
        examples.collect()
    }
}

impl Pipeline {
    /// Opens the row of a request that was scored and logged.
    pub(super) fn open_row(
        &mut self,
        request: &RowRequest<'_>,
        id: &str,
        owned: &mut Owned,
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let Some(labels) = &self.settings.labels else {
            return Ok(());
        };
        if request.candidates.is_empty() {
            return Ok(());
        }
        // Logged rows bear a pseudonym, whose salt made its user known.
        let Some(place) = owned.users.place(request.user)? else {
            return Ok(());
        };
        let shown: &[&str] = if labels.shows_all {
            request.candidates
        } else {
            &[]
        };
        if shown.iter().map(|item| item.len()).sum::<usize>() > SHOWN_BYTES_MAX {
            self.metrics.labels.forgotten(1);
            return Ok(());
        }
        let row = OpenRow::new(
            (id, request.request_id, request.scenario_name),
            (request.scenario, request.time),
            (request.candidates.len(), request.order.is_some()),
            shown.iter().copied(),
        );
        let opened = owned.users.open_row(place, row);
        self.metrics
            .labels
            .rows
            .with_label_values(&["opened"])
            .inc();
        self.metrics.labels.forgotten(opened.forgotten);
        for (number, correction) in opened.corrections.iter().enumerate() {
            let id = format!("{id}-corrects-{number}");
            self.publish_labels(
                (request.user, place),
                (&id, true),
                correction,
                owned,
                output,
            );
        }
        Ok(())
    }

    /// Notes what a behavior says of open rows, and publishes what it corrects.
    pub(super) fn note_for_labels(
        &mut self,
        record: &Record<'_>,
        (decoded, item): (&DecodedBehavior<'_>, &str),
        place: Place,
        owned: &mut Owned,
        output: &mut StepOutput,
    ) {
        let Some(labels) = &self.settings.labels else {
            return;
        };
        let (mut impression, mut positive) = (None, None);
        if self.settings.impressions.contains(&decoded.kind) && !labels.shows_all {
            let shown = decoded.request.as_deref().map(|request| {
                let at = (decoded.time, decoded.position);
                owned.users.show(place, (request, item), at)
            });
            let shown = shown.unwrap_or_default();
            let outcome = if shown.matched {
                "matched"
            } else {
                "unmatched"
            };
            let impressions = &self.metrics.labels.impressions;
            impressions.with_label_values(&[outcome]).inc();
            impression = Some(shown);
        }
        if labels.positive.contains(&decoded.kind) {
            let request = decoded.request.as_deref();
            let acted = Positive {
                time: decoded.time,
                kind: decoded.kind,
                item: pinned_hash(item.as_bytes()),
                request: request.map_or(0, |request| pinned_hash(request.as_bytes()).max(1)),
                value: decoded.value,
                at: headwater_state::Coordinates {
                    offset: record.offset,
                    index: decoded.index,
                },
            };
            positive = Some(owned.users.act(place, item, acted));
        }
        let mut number = 0;
        for noted in [impression, positive].into_iter().flatten() {
            self.metrics.labels.forgotten(noted.forgotten);
            for correction in noted.corrections {
                let cause = self.cause(record);
                let id = format!("{cause}.{}-corrects-{number}", decoded.index);
                number += 1;
                let whose = (&*decoded.user, place);
                self.publish_labels(whose, (&id, true), &correction, owned, output);
            }
        }
    }

    /// Publishes labels that are final at the watermark, in the order of their rows' times, until `full` bytes are given out: the others wait.
    pub(super) fn release_labels(
        &mut self,
        owned: &mut Owned,
        full: usize,
        output: &mut StepOutput,
    ) -> Result<(), Failure> {
        let users_max = self.settings.config.step.records_max;
        let users: Vec<String> = owned
            .users
            .labels_due()
            .take(users_max)
            .map(str::to_owned)
            .collect();
        let mut released = Vec::new();
        let mut bytes = self.given(owned, output);
        for user in users {
            if bytes >= full {
                break;
            }
            let Some((place, of_user, forgotten)) = owned.users.release(&user)? else {
                continue;
            };
            self.metrics.labels.forgotten(forgotten);
            let examples: usize = of_user.iter().map(|of| of.examples.len()).sum();
            bytes += examples * EXAMPLE_BYTES;
            released.extend(of_user.into_iter().map(|of| (user.clone(), place, of)));
        }
        released.sort_by(|(_, _, one), (_, _, other)| {
            (one.row.time, &one.row.id).cmp(&(other.row.time, &other.row.id))
        });
        for (user, place, labelled) in &released {
            let id = format!("{}-labels-{}", labelled.row.id, labelled.window_ms);
            self.publish_labels((user, *place), (&id, false), labelled, owned, output);
        }
        Ok(())
    }

    fn publish_labels(
        &mut self,
        (user, place): (&str, Place),
        (id, correction): (&str, bool),
        labelled: &Labelled,
        owned: &Owned,
        output: &mut StepOutput,
    ) {
        let Some(labels) = &self.settings.labels else {
            return;
        };
        let what = if correction { "corrected" } else { "released" };
        self.metrics.labels.rows.with_label_values(&[what]).inc();
        let examples = labels.examples(labelled, correction);
        let without = labelled.examples.len() - examples.len();
        let metric = &self.metrics.labels.examples;
        metric
            .with_label_values(&["published"])
            .inc_by(examples.len() as u64);
        metric
            .with_label_values(&["left_out"])
            .inc_by(without as u64);
        if examples.is_empty() {
            return;
        }
        let names: usize = labels.tasks.iter().map(|(name, _)| name.len() + 32).sum();
        let lengths = examples
            .iter()
            .map(|example| EXAMPLE_BYTES + json_length(&example.item_id) + names);
        let parts = answer::parts(lengths, RECORD_BYTES_MAX);
        let pseudonym = crate::pseudonym::pseudonym(user, owned.users.user(place).salt());
        let at = TopicPartition::new(Topic::Labels, owned.number);
        let row = &labelled.row;
        for (part, range) in parts.iter().enumerate() {
            let logged = LabelledRow {
                row: Cow::Borrowed(&*row.id),
                request_id: Cow::Borrowed(&*row.request),
                user: Cow::Borrowed(pseudonym.as_str()),
                scenario: Cow::Borrowed(&*row.scenario_name),
                time: row.time.0,
                window_ms: labelled.window_ms,
                policy: if row.random {
                    Policy::Random
                } else {
                    Policy::Scored
                },
                correction,
                items: examples[range.clone()].to_vec(),
            };
            let id = match parts.len() {
                1 => Cow::Borrowed(id),
                _ => Cow::Owned(format!("{id}-{part}")),
            };
            let headers = [(HEADER_ID, Some(id.as_bytes()))];
            self.scratch.clear();
            logged.write(&mut self.scratch);
            output.transactional.push(
                at,
                (0, 0),
                Some(pseudonym.as_bytes()),
                Some(&self.scratch),
                headers,
            );
        }
    }
}
