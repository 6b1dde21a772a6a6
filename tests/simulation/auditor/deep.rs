//! Vectors of users and items: what rows say they saw is what had happened, in order, before them; and what they saw is what comes of it when it is computed
//! whole. Nothing of a step that was not committed, of another order, of another model, or of a run that began anew in between is in any.

use std::collections::BTreeMap;

use headwater_config::{Config, Delivery, Topic};
use headwater_consumers::log::Log;
use headwater_model::LoggedRequest;
use headwater_state::{read_vector, vector_bytes};
use headwater_tests::naive_vectors::{Done, Run, judge_row};

use super::naive::{Counted, World};
use super::outputs::Answer;
use super::read_all;
use crate::deep;
use crate::run::Tally;
use crate::texts::vector_of;
use crate::workload::Plan;

/// The run of what counted, in the order in which it came.
pub(super) fn run_of<'a>(config: &Config, counted: impl Iterator<Item = &'a Counted>) -> Run {
    let done = counted.filter_map(|one| {
        if one.raw.is_empty() || config.kinds.impressions.contains(&one.kind) {
            return None;
        }
        Some(Done {
            // The template of the simulation.
            text: match &one.item {
                Some(item) => format!("{} {item}", one.kind),
                None => one.kind.clone(),
            },
            time: one.time,
            offset: one.offset,
        })
    });
    Run::of(config.texts.sequence_max, done)
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
    let models = deep::models(&plan.config);
    let by_id: BTreeMap<&str, &Answer> = answers
        .iter()
        .map(|answer| (answer.id.as_str(), answer))
        .collect();
    // As it is kept.
    let vector_of = |text: &str| {
        read_vector(&vector_bytes(&vector_of(text))).expect("invariant: written just now")
    };
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
        let model = models
            .iter()
            .find(|model| model.version() == logged.version);
        let model = model.ok_or_else(|| format!("row {id}: no model {}", logged.version))?;
        tally.vectors += 1;
        let then = world.counted.iter().filter(|counted| {
            (counted.partition, counted.user.as_str()) == (answer.partition, &*answer.user)
                && counted.offset < answer.offset
        });
        let run = run_of(&plan.config, then);
        judge_row(model, &logged, vectors, &run, &vector_of, &str::to_owned)
            .map_err(|error| format!("STATE-3: {error}: {answer:?}: {run:?}: {vectors:?}"))?;
    }
    Ok(())
}
