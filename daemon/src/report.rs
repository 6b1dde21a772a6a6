//! How well rows were predicted, as a page to look at: one file of HTML with its pictures in it.
//!
//! Before it stand rows with their labels, and what a model and the baseline said of them; after it somebody who decides whether to trust the model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::predictions::{PredictionsError, write_whole};

mod measure;
mod plot;

pub use measure::Measured;
use measure::{bands, measured};
use plot::{Along, Line, Plot, clock};

/// Pieces that time is cut into, of equally many rows.
const PIECES: usize = 24;
/// Rows that a piece has at least.
const PIECE_MIN: usize = 50;
/// Bands of rows by what was said of them, of equally many rows.
const BANDS: usize = 10;

/// A labelled row of a task.
#[derive(Clone, Copy, Debug)]
struct Judged {
    time: i64,
    positive: bool,
    weight: f64,
    /// Probabilities of the model, and of the baseline.
    said: [f64; 2],
}

/// Rows, by task.
#[derive(Debug, Default)]
pub(crate) struct Report {
    tasks: BTreeMap<String, Vec<Judged>>,
}

const WHO: [&str; 2] = ["model", "baseline"];

/// How well a task's rows were predicted, by the model and by the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// Labelled rows.
    pub rows: usize,
    /// The model's.
    pub model: Measured,
    /// The baseline's.
    pub baseline: Measured,
}

impl Report {
    /// Takes in a row of a task: its label with its weight, and the log-odds of model and baseline.
    pub(crate) fn take(
        &mut self,
        task: &str,
        time: i64,
        (positive, weight): (bool, f64),
        log_odds: [f32; 2],
    ) {
        let said = log_odds.map(|one| 1.0 / (1.0 + (-f64::from(one)).exp()));
        let row = Judged {
            time,
            positive,
            weight,
            said,
        };
        match self.tasks.get_mut(task) {
            Some(rows) => rows.push(row),
            None => drop(self.tasks.insert(task.to_owned(), vec![row])),
        }
    }

    /// What is measured of each task.
    pub(crate) fn measured(&self) -> BTreeMap<String, Predicted> {
        let tasks = self.tasks.iter().map(|(task, rows)| {
            let [model, baseline] = [0, 1].map(|who| measured(rows, who));
            let predicted = Predicted {
                rows: rows.len(),
                model,
                baseline,
            };
            (task.clone(), predicted)
        });
        tasks.collect()
    }

    /// Writes the page, whole or not at all; `words` say what it is of.
    pub(crate) fn write(
        mut self,
        path: &Path,
        words: &[[String; 2]],
    ) -> Result<(), PredictionsError> {
        let mut page = String::from(HEAD);
        page.push_str("<h1>How rows were predicted</h1>\n<table class=\"words\">\n");
        for [what, value] in words {
            let (what, value) = (escaped(what), escaped(value));
            let _ = writeln!(page, "<tr><th>{what}</th><td>{value}</td></tr>");
        }
        page.push_str("</table>\n");
        if self.tasks.is_empty() {
            page.push_str("<p>No row has a label.</p>\n");
        }
        for (task, rows) in &mut self.tasks {
            rows.sort_by_key(|row| row.time);
            section(&mut page, task, rows);
        }
        page.push_str("</body>\n</html>\n");
        write_whole(path, page.as_bytes())
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn section(page: &mut String, task: &str, rows: &[Judged]) {
    let positives = rows.iter().filter(|row| row.positive).count();
    let (first, last) = (rows[0].time, rows[rows.len() - 1].time);
    let _ = writeln!(
        page,
        "<h2>{}</h2>\n<p>{} labelled rows, {positives} of them positive, from {} to {} (UTC).</p>",
        escaped(task),
        rows.len(),
        clock(first),
        clock(last)
    );
    page.push_str("<table>\n<tr><th></th><th>AUC</th><th>log loss</th><th>normalised entropy</th><th>calibration error</th><th>mean said</th><th>share of positives</th></tr>\n");
    for (who, name) in WHO.iter().enumerate() {
        let Measured {
            auc,
            loss,
            entropy,
            calibration,
            said,
            rate,
        } = measured(rows, who);
        let or_none =
            |value: Option<f64>| value.map_or("–".to_owned(), |one| format!("{one:.4}"));
        let _ = writeln!(
            page,
            "<tr><th>{name}</th><td>{}</td><td>{loss:.4}</td><td>{}</td><td>{calibration:.4}</td><td>{said:.4}</td><td>{rate:.4}</td></tr>",
            or_none(auc),
            or_none(entropy)
        );
    }
    page.push_str("</table>\n<div class=\"plots\">\n");
    for plot in plots(rows) {
        page.push_str(&plot.svg());
    }
    page.push_str("</div>\n");
}

/// Over time: who orders rows how well, at what loss, and how right the level is; over all rows: calibration and lift.
fn plots(rows: &[Judged]) -> Vec<Plot> {
    let piece = rows.len().div_ceil(PIECES).max(PIECE_MIN);
    // What is left over at the end goes with the piece before it.
    let pieces: Vec<&[Judged]> = match rows.len() / piece {
        0 => vec![rows],
        whole => (0..whole)
            .map(|at| {
                let end = if at + 1 == whole {
                    rows.len()
                } else {
                    (at + 1) * piece
                };
                &rows[at * piece..end]
            })
            .collect(),
    };
    let at = |rows: &[Judged]| rows[rows.len() / 2].time as f64;
    let over_time = |of: &dyn Fn(&Measured) -> Option<f64>, who: usize| {
        let points = pieces.iter().filter_map(|rows| {
            let value = of(&measured(rows, who))?;
            Some([at(rows), value])
        });
        points.collect::<Vec<_>>()
    };
    let both = |of: &dyn Fn(&Measured) -> Option<f64>| {
        let lines = WHO.iter().enumerate();
        lines
            .map(|(who, name)| Line::of(name, who, over_time(of, who)))
            .collect::<Vec<_>>()
    };
    let mut level = both(&|measured| Some(measured.said));
    level.push(Line::of(
        "what happened",
        2,
        over_time(&|measured| Some(measured.rate), 0),
    ));
    let by_time = |title: &str, lines| Plot {
        title: title.to_owned(),
        axes: ["time (UTC)".to_owned(), String::new()],
        lines,
        along: Along::Time,
        diagonal: false,
    };
    let calibration = WHO.iter().enumerate().map(|(who, name)| {
        let bands = bands(rows, who, BANDS).into_iter();
        Line::of(
            name,
            who,
            bands.map(|band| [band.said, band.rate]).collect(),
        )
    });
    let lift = WHO.iter().enumerate().map(|(who, name)| {
        let bands = bands(rows, who, 2 * BANDS);
        let all: [f64; 2] = bands.iter().fold([0.0; 2], |[weight, hits], band| {
            [weight + band.weight, hits + band.rate * band.weight]
        });
        let mut met = [0.0; 2];
        let mut points = vec![[0.0, 0.0]];
        for band in bands.iter().rev() {
            met = [met[0] + band.weight, met[1] + band.rate * band.weight];
            points.push([met[0] / all[0], met[1] / all[1].max(f64::MIN_POSITIVE)]);
        }
        Line::of(name, who, points)
    });
    vec![
        by_time(
            "AUC: how often a positive row stands above another",
            both(&|measured| measured.auc),
        ),
        by_time("Log loss", both(&|measured| Some(measured.loss))),
        by_time("Level: mean said, and share of positives", level),
        Plot {
            title: "Calibration: share of positives, by what was said".to_owned(),
            axes: ["said".to_owned(), "happened".to_owned()],
            lines: calibration.collect(),
            along: Along::Probability,
            diagonal: true,
        },
        Plot {
            title: "Lift: positives among the rows that were put first".to_owned(),
            axes: ["rows".to_owned(), "positives".to_owned()],
            lines: lift.collect(),
            along: Along::Share,
            diagonal: true,
        },
    ]
}

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Headwater: how rows were predicted</title>
<style>
:root { --ink: #1a1a1a; --dim: #6b6b6b; --rule: #dcdcdc; --page: #ffffff; --one: #0b62a8; --two: #c1631a; --three: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --dim: #a0a0a0; --rule: #3a3a3a; --page: #161616; --one: #66b2ee; --two: #eea05f; --three: #a8a8a8; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto; padding: 0 1rem; max-width: 62rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; } th, td { text-align: right; padding: 0.2rem 0.9rem 0.2rem 0; font-weight: normal; } tr:first-child th { color: var(--dim); } th:first-child { text-align: left; }
table.words th { color: var(--dim); text-align: left; } table.words td { text-align: left; }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; } figcaption { margin-bottom: 0.2rem; } svg { display: block; max-width: 100%; height: auto; }
text { font: 11px system-ui, sans-serif; fill: var(--dim); } text.name { fill: var(--ink); } .rule { stroke: var(--rule); } .guide { stroke: var(--dim); stroke-dasharray: 3 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .s0 { stroke: var(--one); } .s1 { stroke: var(--two); } .s2 { stroke: var(--three); stroke-dasharray: 6 3; } circle { stroke: none; } .f0 { fill: var(--one); } .f1 { fill: var(--two); } .f2 { fill: var(--three); }
</style>
</head>
<body>
"#;

#[cfg(test)]
mod tests;
