//! Vectors of users and items: what rows say they saw is what had happened, in order, before them; and what they saw is what comes of it when it is computed
//! whole. Nothing of a step that was not committed, of another order, of another model, or of a run that began anew in between is in any. Scores are those of the
//! model that the row names, and of what it saw.

use std::collections::BTreeMap;

use headwater_config::{Config, Delivery, Topic};
use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::Log;
use headwater_model::LoggedRequest;
use headwater_model::bahe::BaheModel;
use headwater_state::{read_vector, vector_bytes};
use headwater_tests::naive_vectors::{Done, Run, judge_named, judge_row};

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

/// Judges all rows that a model scored, or that name texts at which nobody looked.
pub(super) fn judge(
    log: &dyn Log,
    plan: &Plan,
    world: &World,
    answers: &[Answer],
    tally: &mut Tally,
) -> Result<(), String> {
    // At least once, rows of steps that failed are there too, as of a state that nobody has.
    let (config, is_named) = (&plan.config, plan.config.texts.logged);
    if !(plan.trained || is_named) || config.kafka.delivery == Delivery::AtLeastOnce {
        return Ok(());
    }
    let models = plan.trained.then(|| deep::models(config));
    let models = models.iter().flatten().collect::<Vec<_>>();
    let assembler = Assembler::new(&plan.config).expect("invariant: asked for before");
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
        let looked = (logged.vectors.as_ref()).filter(|vectors| !vectors.is_of_nobody());
        if looked.is_none() {
            // Whoever looks at texts says what it saw.
            if logged.model == "bahe" {
                return Err(format!("row {id} says nothing of texts"));
            }
            is_of(None, &assembler, &logged)
                .map_err(|error| format!("MODEL-1: row {id}: {error}"))?;
        }
        // Of standing scores nobody has the position any more.
        let Some(answer) = id.strip_suffix("-0").and_then(|id| by_id.get(id)) else {
            continue;
        };
        let then = world.counted.iter().filter(|counted| {
            (counted.partition, counted.user.as_str()) == (answer.partition, &*answer.user)
                && counted.offset < answer.offset
        });
        let run = run_of(config, then);
        let Some(vectors) = looked else {
            let limit = config.texts.sequence_max;
            let judged = match &logged.vectors {
                Some(named) => judge_named(&logged, named, (&run, limit), &str::to_owned),
                None if !is_named
                    || logged.embeddings.is_none()
                    || run.has_left(limit, logged.time) =>
                {
                    Ok(())
                }
                None => Err("it names no texts".to_owned()),
            };
            judged.map_err(|error| {
                format!(
                    "STATE-3: {error}: {answer:?}: {run:?}: {:?}",
                    logged.vectors
                )
            })?;
            tally.named += u64::from(logged.vectors.is_some());
            continue;
        };
        let place = models
            .iter()
            .position(|model| model.version() == logged.version);
        let place = place.ok_or_else(|| format!("row {id}: no model {}", logged.version))?;
        let model = models[place];
        is_of(Some(model), &assembler, &logged)
            .map_err(|error| format!("MODEL-1: row {id}: {error}"))?;
        tally.vectors += 1;
        tally.by_model[place] += 1;
        judge_row(model, &logged, vectors, &run, &vector_of, &str::to_owned)
            .map_err(|error| format!("STATE-3: {error}: {answer:?}: {run:?}: {vectors:?}"))?;
    }
    Ok(())
}

/// Whether a row's scores are a model's, or the baseline's, to the bit.
fn is_of(
    model: Option<&BaheModel>,
    assembler: &Assembler,
    logged: &LoggedRequest<'_>,
) -> Result<(), String> {
    let wrong = |error| format!("{error:?}");
    let rows = logged.rows(assembler.schema()).map_err(wrong)?;
    let interest = match model.and_then(BaheModel::interest) {
        Some(network) => {
            let mut seen = network.seen();
            let asked = seen.logged(logged, network.spec())?;
            let mut texts = vec![0.0; asked.len() * network.texts()];
            if network.texts() > 0 {
                let texts = texts.chunks_mut(network.texts());
                for (text, candidate) in texts.zip(&logged.candidates) {
                    if !candidate.vector.is_empty() {
                        text.copy_from_slice(&candidate.vector);
                    }
                }
            }
            network.forward(&seen, &asked, &texts)
        }
        None => Vec::new(),
    };
    let wide = model.map_or(0, |model| model.scorer().config().interest);
    let users = logged.vectors.as_ref().map_or(&[][..], |of| &*of.users);
    for (place, (row, candidate)) in rows.zip(&logged.candidates).enumerate() {
        let baseline = assembler.baseline();
        let of_baseline = |task| baseline.explain(row, task).probability;
        let mut scores: Vec<f32> = (0..assembler.schema().tasks().len())
            .map(of_baseline)
            .collect();
        if let Some(model) = model.filter(|_| !candidate.vector.is_empty()) {
            let seen = (users, &*candidate.vector, &interest[place * wide..][..wide]);
            let scenario = model.scenario(&logged.scenario);
            (model.scorer()).score_row((row, scenario), seen, (baseline, &mut scores));
        }
        let pairs = scores.iter().zip(&*candidate.scores);
        if pairs.clone().count() != scores.len()
            || pairs
                .into_iter()
                .any(|(of, told)| of.to_bits() != told.to_bits())
        {
            let (told, item) = (&candidate.scores, &candidate.item_id);
            return Err(format!("{item} must have {scores:?}, has {told:?}"));
        }
    }
    Ok(())
}
