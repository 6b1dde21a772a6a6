//! Rules of `[train]`.

use super::Rules;
use crate::Config;
use crate::labels::Examples;
use crate::train::ObjectiveChoice;

/// Tasks whose gradients are made one: a backward pass each.
const RULED_TASKS_MAX: usize = 16;

pub(super) fn check(rules: &mut Rules, config: &Config) {
    let train = &config.train;
    rules.range("train.rows_min", train.rows_min, (100, 1_000_000_000));
    rules.range("train.passes", train.passes, (1, 100));
    rules.range("train.layers", train.layers, (1, 64));
    rules.range("train.experts", train.experts, (0, 64));
    rules.range("train.cross", train.cross, (0, 256));
    rules.require(train.canary.get() < 1.0, &["train.canary"], || {
        format!(
            "{} is not below 1: nobody would be left to compare with",
            train.canary.get()
        )
    });
    rules.require(
        train.rate > 0.0 && train.rate <= 1.0,
        &["train.rate"],
        || format!("{} is not above 0 and at most 1", train.rate),
    );
    rules.require(
        train.rows_max >= train.rows_min,
        &["train.rows_max", "train.rows_min"],
        || {
            format!(
                "rows_max ({}) is less than rows_min ({}): there would never be enough",
                train.rows_max, train.rows_min
            )
        },
    );
    rules.require(
        train.objective == ObjectiveChoice::Labels || config.tasks.len() <= RULED_TASKS_MAX,
        &["train.objective", "tasks"],
        || {
            format!(
                "\"{}\" takes {RULED_TASKS_MAX} tasks at most, and there are {}",
                train.objective,
                config.tasks.len()
            )
        },
    );
    if train.every.is_zero() {
        return;
    }
    rules.require(
        config.labels.examples != Examples::Off && config.scoring.feature_log,
        &["train.every", "labels.examples", "scoring.feature_log"],
        || "there are no labelled rows to learn from: labels.examples is off, or scoring.feature_log".to_owned(),
    );
    rules.require(
        config.scoring.model.is_none(),
        &["train.every", "scoring.model"],
        || "instances that have a scoring.model follow no champion: what is learned would never score".to_owned(),
    );
}
