//! How far a long command is: a bar with rate and time left where a person looks at a terminal, nothing elsewhere.
//!
//! Before it stand the commands that read recordings or fetch models; after it standard error.

use std::time::Duration;

use indicatif::{
    BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

/// A bar over the bytes of a file, or over a count of records.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over `whole` (bytes or records); without it a spinner. Drawn on standard error if that is a terminal and `wanted`.
    pub(crate) fn new(whole: Option<u64>, wanted: bool) -> Self {
        let target = if wanted {
            ProgressDrawTarget::stderr_with_hz(5)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(whole, target);
        let template = if whole.is_some() {
            "{elapsed_precise} [{bar:32}] {percent:>3} %  {msg}  {left} left"
        } else {
            "{elapsed_precise} {spinner} {msg}"
        };
        let style = ProgressStyle::with_template(template)
            .expect("invariant: the template is right")
            .with_key(
                "left",
                |state: &ProgressState, to: &mut dyn std::fmt::Write| {
                    // What cannot be written to a text in memory is nobody's loss.
                    write!(to, "{}", span(state.eta())).unwrap_or_default();
                },
            )
            .progress_chars("=> ");
        bar.set_style(style);
        Self { bar }
    }

    /// The bar stands at `place` (of the whole), after `records`.
    pub(crate) fn at(&self, place: u64, records: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.bar.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 {
            records as f64 / seconds
        } else {
            0.0
        };
        self.bar.set_message(format!(
            "{} records, {}/s",
            HumanCount(records),
            HumanCount(rate as u64)
        ));
        self.bar.set_position(place);
    }

    /// The bar stands at `place`, in bytes, of which `before` were there when it began; `doing` says what they are.
    pub(crate) fn at_bytes(&self, doing: &str, place: u64, before: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.bar.elapsed().as_secs_f64().max(0.001);
        let rate = place.saturating_sub(before) as f64 / seconds;
        self.bar.set_message(format!(
            "{doing}  {}, {}/s",
            BinaryBytes(place),
            BinaryBytes(rate as u64)
        ));
        self.bar.set_position(place);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A span as people say it: 42s, 3m05s, 2h07m.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}
