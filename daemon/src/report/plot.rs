//! Lines over an axis, drawn as SVG.

use std::fmt::Write as _;

use super::escaped;
use crate::world::moment;

const WIDE: f64 = 470.0;
const HIGH: f64 = 250.0;
/// Room at the left, the right, above and below.
const ROOM: [f64; 4] = [52.0, 16.0, 26.0, 38.0];
const TICKS: usize = 5;
const DAY_MS: f64 = 86_400_000.0;

/// A line of a plot.
pub(super) struct Line {
    name: String,
    /// Of the page's styles.
    style: usize,
    points: Vec<[f64; 2]>,
}

/// What numbers along are, and so how they are written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Along {
    /// Unix milliseconds.
    Time,
    /// Parts of a whole.
    Share,
    /// Probabilities.
    Probability,
}

impl Along {
    /// One of numbers that lie so far apart.
    fn written(self, value: f64, apart: f64) -> String {
        match self {
            Self::Share => format!("{:.0} %", 100.0 * value),
            Self::Probability => format!("{value:.2}"),
            Self::Time if apart > 4.0 * DAY_MS => moment(value as i64)[..10].to_owned(),
            Self::Time => moment(value as i64)[5..16].to_owned(),
        }
    }
}

/// A plot.
pub(super) struct Plot {
    pub(super) title: String,
    /// What is along, and what is up.
    pub(super) axes: [String; 2],
    pub(super) lines: Vec<Line>,
    pub(super) along: Along,
    /// Whether both axes are the same, so that what lies where they are equal is drawn.
    pub(super) diagonal: bool,
}

impl Line {
    pub(super) fn of(name: &str, style: usize, points: Vec<[f64; 2]>) -> Self {
        Self {
            name: name.to_owned(),
            style,
            points,
        }
    }
}

/// A time, Unix milliseconds, to the minute.
pub(super) fn clock(time: i64) -> String {
    moment(time)[..16].to_owned()
}

/// Numbers to mark between two, at round places; and how many digits they need.
fn ticks(from: f64, to: f64) -> (Vec<f64>, usize) {
    let rough = (to - from) / TICKS as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let digits = (-step.log10()).ceil().clamp(0.0, 6.0) as usize;
    let first = (from / step).ceil() as i64;
    let ticks = (first..)
        .map(|at| at as f64 * step)
        .take_while(|at| *at <= to + step * 1e-9);
    (ticks.take(4 * TICKS).collect(), digits)
}

/// The least and the most of some numbers, with some room around them where they are one.
fn span(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let span =
        values
            .filter(|value| value.is_finite())
            .fold(None, |span: Option<[f64; 2]>, value| {
                let [low, high] = span.unwrap_or([value; 2]);
                Some([low.min(value), high.max(value)])
            });
    span.map(|[low, high]| {
        let room = if high > low {
            0.06 * (high - low)
        } else {
            low.abs().max(1.0) * 0.05
        };
        [low - room, high + room]
    })
}

impl Plot {
    /// The figure; one of nothing where no line has a point.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (Some(along), Some(up)) = (
            span(points().map(|point| point[0])),
            span(points().map(|point| point[1])),
        ) else {
            return String::new();
        };
        let [left, right, above, below] = ROOM;
        let x =
            |value: f64| left + (value - along[0]) / (along[1] - along[0]) * (WIDE - left - right);
        let y =
            |value: f64| HIGH - below - (value - up[0]) / (up[1] - up[0]) * (HIGH - above - below);
        let title = escaped(&self.title);
        let mut svg = format!(
            "<figure>\n<figcaption>{title}</figcaption>\n<svg width=\"{WIDE}\" height=\"{HIGH}\" viewBox=\"0 0 {WIDE} {HIGH}\" role=\"img\" aria-label=\"{title}\">\n"
        );
        let (marks, digits) = ticks(up[0], up[1]);
        for mark in marks {
            let at = y(mark);
            let _ = writeln!(
                svg,
                "<line class=\"rule\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark:.digits$}</text>",
                WIDE - right,
                left - 6.0,
                at + 4.0
            );
        }
        let base = HIGH - below;
        for part in 0..4 {
            let value = along[0] + (along[1] - along[0]) * (0.06 + 0.88 * f64::from(part) / 3.0);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(value),
                base + 15.0,
                self.along.written(value, along[1] - along[0])
            );
        }
        let _ = writeln!(
            svg,
            "<line class=\"rule\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text x=\"4\" y=\"12\">{}</text>",
            WIDE - right,
            WIDE - right,
            HIGH - 6.0,
            escaped(&self.axes[0]),
            escaped(&self.axes[1])
        );
        if self.diagonal {
            let [low, high] = [along[0].max(up[0]), along[1].min(up[1])];
            if low < high {
                let _ = writeln!(
                    svg,
                    "<line class=\"guide\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
                    x(low),
                    y(low),
                    x(high),
                    y(high)
                );
            }
        }
        for line in &self.lines {
            let style = line.style;
            let places = line.points.iter();
            let places = places.map(|[at, up]| format!("{:.1},{:.1}", x(*at), y(*up)));
            let places: Vec<String> = places.collect();
            let _ = writeln!(
                svg,
                "<polyline class=\"line s{style}\" points=\"{}\"/>",
                places.join(" ")
            );
            for ([at, up], place) in line.points.iter().zip(&places) {
                let (cx, cy) = place.split_once(',').unwrap_or_default();
                let name = escaped(&line.name);
                let _ = writeln!(
                    svg,
                    "<circle class=\"f{style}\" cx=\"{cx}\" cy=\"{cy}\" r=\"2.5\"><title>{name}, {}: {up:.4}</title></circle>",
                    self.along.written(*at, along[1] - along[0])
                );
            }
        }
        let mut from = left + 50.0;
        for line in &self.lines {
            let (name, style) = (escaped(&line.name), line.style);
            let _ = writeln!(
                svg,
                "<line class=\"line s{style}\" x1=\"{from}\" x2=\"{}\" y1=\"12\" y2=\"12\"/><text class=\"name\" x=\"{}\" y=\"16\">{name}</text>",
                from + 18.0,
                from + 23.0
            );
            from += 40.0 + 6.5 * line.name.chars().count() as f64;
        }
        svg.push_str("</svg>\n</figure>\n");
        svg
    }
}
