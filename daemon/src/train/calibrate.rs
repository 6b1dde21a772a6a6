//! Probabilities that mean what they say: of each task, the line over the model's log-odds that fits the validation rows best.
//!
//! After it, the line is a part of the head's last layer: a served model needs nothing more. A network that learned its rows by heart is too sure of itself, and
//! its slope comes out below 1 (Platt 1999; Guo et al. 2017).

use headwater_model::bahe::Trainer;

use super::rows::Recorded;
use super::{TrainBahe, TrainError, TrainSummary};

/// Labels that say otherwise are held against so many that say that nothing is to be changed.
const PRIOR: f64 = 25.0;
/// Steps of Newton's method; it ends earlier when nothing moves.
const STEPS: usize = 50;

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
        let places = validated.start * tasks..validated.end * tasks;
        let labels = &corpus.rows.labels[places.clone()];
        let lines = lines(&said, labels, &corpus.rows.weights[places], tasks);
        trainer.calibrate(&lines)?;
        tracing::info!(lines = ?lines, "calibrated: slope and shift by task");
        summary.calibration = lines;
        Ok(())
    }
}

/// Slope and shift of each task: those of the least cross-entropy over labelled rows, by weight, with a prior around slope 1 and shift 0. A task without labels keeps
/// these.
pub(super) fn lines(
    log_odds: &[f32],
    labels: &[f32],
    weights: &[f32],
    tasks: usize,
) -> Vec<[f64; 2]> {
    let line = |task: usize| {
        let rows = log_odds.iter().zip(labels).zip(weights).skip(task);
        let rows = rows.step_by(tasks).filter(|(_, weight)| **weight > 0.0);
        let rows: Vec<[f64; 3]> = rows
            .map(|((said, label), weight)| [*said, *label, *weight].map(f64::from))
            .collect();
        line(&rows)
    };
    (0..tasks).map(line).collect()
}

/// Of rows of log-odds, label and weight.
fn line(rows: &[[f64; 3]]) -> [f64; 2] {
    let mut at = [1.0, 0.0];
    for _ in 0..STEPS {
        let mut slope = [PRIOR * (at[0] - 1.0), PRIOR * at[1]];
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
        [1.0, 0.0]
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
        for [slope, shift] in [[1.0, 0.0], [0.6, 0.2], [1.7, -1.0], [0.3, 2.0]] {
            let [found, at] = line(&rows(slope, shift, 1_000.0));
            assert!(
                (found - slope).abs() < 0.01 && (at - shift).abs() < 0.02,
                "{slope}, {shift}: {found}, {at}"
            );
        }
        let [found, at] = line(&rows(0.3, 2.0, 0.05));
        assert!(found > 0.8 && at < 0.3, "{found}, {at}");
        assert_eq!(line(&[]), [1.0, 0.0]);
        assert_eq!(line(&rows(-2.0, 0.0, 1_000.0)), [1.0, 0.0]);
        let both = lines(
            &[1.0, 5.0, -1.0, 5.0],
            &[1.0, 0.0, 0.0, 0.0],
            &[1.0, 0.0, 1.0, 0.0],
            2,
        );
        assert_eq!(both[1], [1.0, 0.0], "no label, no line");
    }
}
