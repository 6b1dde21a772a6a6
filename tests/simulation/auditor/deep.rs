//! Vectors of users and items: what rows say they saw is what had happened, in order, before them; and what they saw is what comes of it when it is computed
//! whole. Nothing of a step that was not committed, of another order, or of a run that began anew in between is in any.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headwater_config::{Config, Delivery, Topic};
use headwater_consumers::log::Log;
use headwater_model::bahe::{BaheModel, RowVectors, gap_of};
use headwater_model::language::{Kernels, text_hash};
use headwater_model::{Device, LoggedRequest, LoggedSequence, LoggedVectors, Tensor};
use headwater_state::{read_vector, vector_bytes};

use super::naive::{Counted, World};
use super::outputs::Answer;
use super::read_all;
use crate::deep;
use crate::run::Tally;
use crate::texts::vector_of;
use crate::workload::Plan;

/// One behavior of a naive run: its text, and when.
type Done = (String, i64);

/// The newest run of a user, by the naive rules: sorted, and halved when it is full.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) start: u64,
    /// Text, time, offset.
    pub(super) entries: Vec<(String, i64, i64)>,
}

/// The run of what counted, in the order in which it came.
pub(super) fn run_of<'a>(config: &Config, counted: impl Iterator<Item = &'a Counted>) -> Run {
    let limit = config.texts.sequence_max;
    let mut run = Run::default();
    for one in counted {
        if one.raw.is_empty() || config.kinds.impressions.contains(&one.kind) {
            continue;
        }
        // The template of the simulation.
        let text = match &one.item {
            Some(item) => format!("{} {item}", one.kind),
            None => one.kind.clone(),
        };
        let key = |entry: &(String, i64, i64)| (entry.1, entry.2);
        let entry = (text, one.time, one.offset);
        if run.start > 0 && key(&entry) < key(&run.entries[0]) {
            continue;
        }
        run.entries.push(entry);
        run.entries.sort_by_key(key);
        if run.entries.len() == limit {
            run.entries.drain(..limit / 2);
            run.start += limit as u64 / 2;
        }
    }
    run
}

/// Judges all rows that a model scored.
pub(super) fn judge(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    answers: &[Answer],
    tally: &mut Tally,
) -> Result<(), String> {
    // At least once, rows of steps that failed are there too, as of a state that nobody has.
    if !plan.trained || plan.config.kafka.delivery == Delivery::AtLeastOnce {
        return Ok(());
    }
    let model = deep::model(&plan.config);
    let by_id: BTreeMap<&str, &Answer> = answers
        .iter()
        .map(|answer| (answer.id.as_str(), answer))
        .collect();
    for seen in read_all(log, Topic::FeatureLog)? {
        let id = seen.header("headwater-id")?;
        let value = seen.value.unwrap_or_default();
        let logged = LoggedRequest::read(&value).map_err(|error| format!("row {id}: {error}"))?;
        let Some(vectors) = &logged.vectors else {
            continue;
        };
        // Of standing scores nobody has the position any more.
        let Some(answer) = id.strip_suffix("-0").and_then(|id| by_id.get(id)) else {
            continue;
        };
        tally.vectors += 1;
        let then = world.counted.iter().filter(|counted| {
            (counted.partition, counted.user.as_str()) == (answer.partition, &*answer.user)
                && counted.offset < answer.offset
        });
        let run = run_of(&plan.config, then);
        let before = run
            .entries
            .iter()
            .filter(|(_, time, _)| *time < answer.time);
        let mut before: Vec<Done> = before
            .map(|(text, time, _)| (text.clone(), *time))
            .collect();
        // By its definition a vector of so few would have begun with behaviors that have left.
        if run.start > 0 && before.len() < plan.config.texts.sequence_max / 2 {
            before.clear();
        }
        row(&model, &logged, vectors, (run.start, &before))
            .map_err(|error| format!("STATE-3: {error}: {answer:?}: {run:?}: {vectors:?}"))?;
    }
    Ok(())
}

fn row(
    model: &BaheModel,
    logged: &LoggedRequest<'_>,
    vectors: &LoggedVectors<'_>,
    (start, before): (u64, &[Done]),
) -> Result<(), String> {
    let [sequence] = &vectors.sequences[..] else {
        return Err("not one sequence".to_owned());
    };
    content(sequence, start, before)?;
    let used = &before[..sequence.used];
    let wrong = |error: headwater_model::language::LanguageError| error.to_string();
    let layers = model.deep().ok_or("no deep layers")?;
    let user = if used.is_empty() {
        layers.emptiness(0).map_err(wrong)?
    } else {
        whole(model, used).map_err(wrong)?
    };
    let scorer = model.scorer();
    let mut expected = RowVectors::default();
    scorer.begin(logged.candidates.len(), &mut expected);
    scorer.set_user(0, &user, &mut expected);
    near("the user's vector", &vectors.users, expected.users())?;
    for (place, candidate) in logged.candidates.iter().enumerate() {
        if candidate.vector.is_empty() {
            continue;
        }
        let vector = kept(&candidate.item_id);
        let item = layers.item_vectors(&[&vector]).map_err(wrong)?;
        scorer.set_item(place, &item[0], &mut expected);
        let expected = expected.item(place).unwrap_or_default();
        near(&candidate.item_id, &candidate.vector, expected)?;
    }
    Ok(())
}

/// What a row says of a sequence is what was done before it.
fn content(sequence: &LoggedSequence<'_>, start: u64, before: &[Done]) -> Result<(), String> {
    let texts: Vec<u8> = before
        .iter()
        .flat_map(|(text, _)| text_hash(text))
        .collect();
    let gaps = before.iter().enumerate().map(|(place, (_, time))| {
        let last = place.checked_sub(1).map(|last| before[last].1);
        gap_of(last.map(|last| time - last)) as u8
    });
    let right = sequence.start == start
        && sequence.length == before.len()
        && sequence.used <= before.len()
        && *sequence.texts == BASE64_STANDARD.encode(texts)
        && gaps.eq(sequence.gaps.iter().copied());
    right
        .then_some(())
        .ok_or_else(|| format!("the sequence began at {start} and had {before:?} before the row"))
}

/// The vector of a text, as it is kept.
fn kept(text: &str) -> Vec<f32> {
    read_vector(&vector_bytes(&vector_of(text))).expect("invariant: written just now")
}

/// The vector of a run, computed whole.
fn whole(
    model: &BaheModel,
    run: &[Done],
) -> Result<Vec<f32>, headwater_model::language::LanguageError> {
    let vectors: Vec<f32> = run.iter().flat_map(|(text, _)| kept(text)).collect();
    let gaps: Vec<u32> = (0..run.len())
        .map(|place| gap_of(place.checked_sub(1).map(|last| run[place].1 - run[last].1)))
        .collect();
    let layers = model.deep().expect("invariant: asked for before");
    let shaped = Tensor::from_vec(vectors, (1, run.len(), ()), &Device::Cpu);
    let gaps = Tensor::from_vec(gaps, (1, run.len()), &Device::Cpu);
    let (vectors, gaps) = (
        shaped.expect("invariant: whole rows"),
        gaps.expect("the same"),
    );
    let outputs = layers.outputs(&vectors, &gaps, Kernels::Fused)?;
    let pooled = layers.pooled(&outputs, &[(0, run.len())], &[0])?;
    Ok(pooled.to_vec2().expect("invariant: one row").remove(0))
}

/// As near as 16 bits and another order of adding up allow.
fn near(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    let mut pairs = found.iter().zip(expected);
    let far =
        pairs.any(|(found, expected)| (found - expected).abs() > 1e-2 * expected.abs() + 1e-2);
    if far || found.len() != expected.len() {
        return Err(format!("{what}: must be {expected:?}, is {found:?}"));
    }
    Ok(())
}
