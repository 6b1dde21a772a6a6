//! Probabilities that mean what they say: of each task, the line over the model's log-odds that fits the validation rows best; and of each scenario another, which is drawn toward that one.
//!
//! After it, the lines are a part of the head's last layer: a served model needs nothing more. A network that learned its rows by heart is too sure of itself, and
//! its slope comes out below 1 (Platt 1999; Guo et al. 2017).

use headwater_model::bahe::{Rows, Trainer};

use super::rows::Recorded;
use super::{TrainBahe, TrainError, TrainSummary};

/// Labels that say otherwise are held against so many that say that nothing is to be changed.
const PRIOR: f64 = 25.0;
/// Steps of Newton's method; it ends earlier when nothing moves.
const STEPS: usize = 50;

/// Slope and shift of each task by scenario ([`Trainer::calibrate`]).
pub(super) type Lines = Vec<Vec<[f64; 2]>>;

impl TrainBahe {
    /// Lays the lines that fit the validation rows over the head.
    pub(super) fn calibrate(
        trainer: &mut Trainer,
        recorded: &Recorded,
        summary: &mut TrainSummary,
    ) -> Result<(), TrainError> {
        let [_, validated, _] = recorded.splits();
        let corpus = &recorded.corpus;
        let tasks = corpus.tasks.len();
        let said = trainer.score(corpus, validated.clone(), &mut |_| {})?;
        let lines = lines(
            &corpus.rows,
            (tasks, corpus.scenarios),
            validated.start,
            &said,
        );
        Self::lay(trainer, lines, summary)
    }

    /// Lays these lines over the head.
    pub(super) fn lay(
        trainer: &mut Trainer,
        lines: Lines,
        summary: &mut TrainSummary,
    ) -> Result<(), TrainError> {
        trainer.calibrate(&lines)?;
        tracing::info!(lines = ?lines, "calibrated: slope and shift by scenario and task");
        summary.calibration = lines;
        Ok(())
    }
}

/// Slope and shift of each task by scenario ([`Trainer::calibrate`]), for rows from one on: those of the least cross-entropy over labelled rows, by weight. Over all rows with a prior around slope 1 and shift 0, which is also what scenarios
/// have that the model does not know; over those of one scenario with a prior around that line: so few labels change little, and none nothing.
pub(super) fn lines(
    rows: &Rows,
    (tasks, scenarios): (usize, usize),
    from: usize,
    log_odds: &[f32],
) -> Lines {
    let labelled = |task: usize, scenario: Option<u32>| -> Vec<[f64; 3]> {
        let count = log_odds.len() / tasks.max(1);
        let of_row = |row: &usize| scenario.is_none_or(|wanted| rows.scenario[*row] == wanted);
        let labelled = (from..from + count).filter(of_row).map(|row| {
            let (said, at) = (log_odds[(row - from) * tasks + task], row * tasks + task);
            [said, rows.labels[at], rows.weights[at]].map(f64::from)
        });
        labelled.filter(|[.., weight]| *weight > 0.0).collect()
    };
    let all: Vec<[f64; 2]> = (0..tasks)
        .map(|task| line(&labelled(task, None), [1.0, 0.0]))
        .collect();
    let scenarios = (1..=scenarios as u32).map(|scenario| {
        let of_task = |(task, all): (usize, &[f64; 2])| line(&labelled(task, Some(scenario)), *all);
        all.iter().enumerate().map(of_task).collect()
    });
    std::iter::once(all.clone()).chain(scenarios).collect()
}

/// Log-odds of rows from one on with the lines of their scenarios laid over.
pub(super) fn laid(
    rows: &Rows,
    from: usize,
    log_odds: &[f32],
    lines: &[Vec<[f64; 2]>],
) -> Vec<f32> {
    let of_rows = (from..).zip(log_odds.chunks(lines[0].len().max(1)));
    let laid = of_rows.flat_map(|(row, of_row)| {
        let scenario = rows.scenario.get(row).map_or(0, |of| *of as usize);
        let lines = of_row.iter().zip(&lines[scenario]);
        lines.map(|(said, [slope, shift])| (slope * f64::from(*said) + shift) as f32)
    });
    laid.collect()
}

/// Of rows of log-odds, label and weight, drawn toward another.
fn line(rows: &[[f64; 3]], toward: [f64; 2]) -> [f64; 2] {
    let mut at = toward;
    for _ in 0..STEPS {
        let mut slope = [PRIOR * (at[0] - toward[0]), PRIOR * (at[1] - toward[1])];
        let mut bend = [PRIOR, 0.0, PRIOR];
        for [said, label, weight] in rows {
            let rate = 1.0 / (1.0 + (-(at[0] * said + at[1])).exp());
            let (off, steep) = (weight * (rate - label), weight * rate * (1.0 - rate));
            slope[0] += off * said;
            slope[1] += off;
            bend[0] += steep * said * said;
            bend[1] += steep * said;
            bend[2] += steep;
        }
        // Never 0: the prior bends both ways.
        let whole = bend[0] * bend[2] - bend[1] * bend[1];
        let step = [
            (bend[2] * slope[0] - bend[1] * slope[1]) / whole,
            (bend[0] * slope[1] - bend[1] * slope[0]) / whole,
        ];
        // Far from the end a whole step may go too far.
        let length = step[0].hypot(step[1]);
        let part = if length > 1.0 { 1.0 / length } else { 1.0 };
        at = [at[0] - part * step[0], at[1] - part * step[1]];
        if length < 1e-9 {
            break;
        }
    }
    // A slope that turns scores around says that there is nothing to learn from.
    if at[0] > 0.0 && at.iter().all(|one| one.is_finite()) {
        at
    } else {
        toward
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose true log-odds are `slope` times what was said, and `shift` more: each as often as its probability has it.
    fn rows(slope: f64, shift: f64, each: f64) -> Vec<[f64; 3]> {
        let said = (-30..=30).map(|step| f64::from(step) / 10.0);
        said.flat_map(|said| {
            let rate = 1.0 / (1.0 + (-(slope * said + shift)).exp());
            [[said, 1.0, each * rate], [said, 0.0, each * (1.0 - rate)]]
        })
        .collect()
    }

    /// Goal: what is said too surely, too low or too high is put right, and few labels change little. Method: rows of known lines, many and few; none; rows that say the
    /// contrary.
    #[test]
    fn a_known_line_is_found() {
        let alone = [1.0, 0.0];
        for [slope, shift] in [[1.0, 0.0], [0.6, 0.2], [1.7, -1.0], [0.3, 2.0]] {
            let [found, at] = line(&rows(slope, shift, 1_000.0), alone);
            assert!(
                (found - slope).abs() < 0.01 && (at - shift).abs() < 0.02,
                "{slope}, {shift}: {found}, {at}"
            );
        }
        let [found, at] = line(&rows(0.3, 2.0, 0.05), alone);
        assert!(found > 0.8 && at < 0.3, "{found}, {at}");
        assert_eq!(line(&[], [0.8, 0.1]), [0.8, 0.1]);
        assert_eq!(line(&rows(-2.0, 0.0, 1_000.0), [0.8, 0.1]), [0.8, 0.1]);
    }

    /// Goal: each scenario has its own line, drawn toward that of all where it has few labels; one without labels has that, and so has a task. Method: two scenarios of known lines, one with a thousand
    /// times the labels of the other; a third without any; a task without any.
    #[test]
    fn scenarios_have_lines_of_their_own() {
        let mut corpus = Rows::default();
        let mut said = Vec::new();
        for (scenario, of) in [(1, rows(0.6, 0.5, 1_000.0)), (2, rows(1.5, -2.0, 1.0))] {
            for [odds, label, weight] in of {
                corpus.scenario.push(scenario);
                corpus.labels.extend([label as f32, 0.0]);
                corpus.weights.extend([weight as f32, 0.0]);
                said.extend([odds as f32, 5.0]);
            }
        }
        let found = lines(&corpus, (2, 3), 0, &said);
        assert_eq!(found.len(), 4);
        let [all, large, small, none] = [0, 1, 2, 3].map(|scenario: usize| found[scenario][0]);
        let apart = |one: [f64; 2], other: [f64; 2]| {
            (one[0] - other[0]).abs().max((one[1] - other[1]).abs())
        };
        assert!(apart(large, [0.6, 0.5]) < 0.02, "{large:?}");
        assert!(apart(all, large) < 0.02, "{all:?}");
        // Between its own line and that of all.
        assert!(
            small[1] < all[1] - 0.2 && small[1] > -1.9,
            "{small:?} beside {all:?}"
        );
        assert_eq!(none, all);
        assert!(
            found.iter().all(|of| of[1] == [1.0, 0.0]),
            "no label, no line"
        );
        // What has its scenario's line is right as it is.
        let straight = lines(&corpus, (2, 3), 0, &laid(&corpus, 0, &said, &found));
        assert!(apart(straight[1][0], [1.0, 0.0]) < 0.02, "{straight:?}");
        // Rows behind others are found by where they are.
        let behind = lines(&corpus, (2, 3), 122, &said[2 * 122..]);
        assert_eq!(behind[1], behind[0]);
        let [first, second] = [0, 122].map(|from| laid(&corpus, from, &said[2 * from..], &found));
        assert_eq!(first[2 * 122..], second);
    }
}
