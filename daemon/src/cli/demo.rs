//! `headwater demo`: the whole loop, with nothing to configure.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headwater::Exit;
use headwater::demo::{Clicks, Demo, DemoError, Latency, Second};
use headwater_config::Span;

use super::{Failure, Format, Global, say};

/// Simulate a small platform on the embedded log: no Kafka, nothing to configure.
///
/// Users with hidden tastes ask for 20 candidates and see five: what Headwater ranks first, or for one request in five a random
/// order, for comparison. What they were shown and clicked comes back as behaviors. Clicks come from the hidden taste and the position
/// alone, never from a score.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long, such as 30s or 5m. Without it: until Ctrl-C.
    #[arg(long = "for", value_name = "SPAN", value_parser = span)]
    duration: Option<Span>,
    /// Users of the platform.
    #[arg(long, default_value_t = 1000, value_parser = users)]
    users: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    rate: f64,
    /// Seed of the platform and of its users' choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where log and state lie. Without it: a temporary folder, removed at the end.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Give items titles, compare them in rows by a language model (a name of `headwater models list`, a folder or a GGUF file), and let five new items come
    /// each second.
    #[arg(long, value_name = "MODEL", num_args = 0..=1, default_missing_value = "smollm2-135m")]
    text: Option<String>,
    /// text, or json: one object a second.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn span(text: &str) -> Result<Span, String> {
    text.parse::<Span>()
}

fn users(text: &str) -> Result<usize, String> {
    let users = text.parse().ok();
    users
        .filter(|users| (1..=1_000_000).contains(users))
        .ok_or_else(|| format!("`{text}` is not a number of users, 1 to 1000000"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate| (1.0..=100_000.0).contains(rate))
        .ok_or_else(|| format!("`{text}` is not a number of requests a second, 1 to 100000"))
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    // Read in any case: what is wrong in it is wrong here, too.
    let config = global.load()?.config;
    if arguments.text.is_none() && global.is_given() {
        say(
            "the demo configures itself: nothing of --config and --set holds in it, but where models lie, with --text",
        );
    }
    let encoder = match &arguments.text {
        None => None,
        Some(named) => {
            let located = headwater::models::locate(&config, named);
            Some(located.map_err(|error| Failure::of(error.exit(), &error))?)
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    super::run::on_signal(Arc::clone(&stop))
        .map_err(|error| Failure::of(Exit::TryAgain, &error))?;
    let demo = Demo {
        duration: arguments.duration.map(Span::duration),
        users: arguments.users,
        rate: arguments.rate,
        seed: arguments.seed,
        folder: arguments.dir.clone(),
        encoder,
    };
    let json = arguments.format == Format::Json;
    let redraw = std::io::stdout().is_terminal() && !json;
    let mut last = Second::default();
    let mut rates = Vec::new();
    let done = demo.run(&stop, &mut |second| {
        let text = if json {
            serde_json::to_string(second).unwrap_or_default()
        } else {
            rates.push(recent_rate(&last, second));
            picture(second, &rates, redraw)
        };
        last = second.clone();
        // Whoever reads may have gone: then there is nobody to tell.
        if writeln!(std::io::stdout(), "{text}").is_err() {
            stop.store(true, Ordering::Relaxed);
        }
    });
    done.map_err(|error| {
        let exit = match &error {
            DemoError::Start(start) => start.exit(),
            DemoError::Stop(stop) => stop.exit(),
            DemoError::Config(_) | DemoError::Topic => Exit::Bug,
            DemoError::Log(_) => Exit::TryAgain,
        };
        Failure::of(exit, &error)
    })
}

/// Click rates of the last second: ranked and random.
fn recent_rate(before: &Second, now: &Second) -> f64 {
    Clicks::new(
        now.ranked.shown - before.ranked.shown,
        now.ranked.clicked - before.ranked.clicked,
    )
    .rate
}

/// A second as people look at it.
fn picture(second: &Second, rates: &[f64], redraw: bool) -> String {
    let bar = |clicks: Clicks| "█".repeat((clicks.rate * 60.0) as usize);
    let lift = match (second.lift, second.lift_error) {
        (Some(lift), Some(error)) => format!("{:+.0} % ± {:.0}", lift * 100.0, error * 100.0),
        _ => "not known yet".to_owned(),
    };
    let Latency { p50, p95, p99 } = second.latency_ms;
    let texts = second.texts.as_ref().map(|texts| {
        format!(
            "{} embedded ({} items and what is done with them), {} wait ({:.1} s), {:.1} % of lookups hit",
            texts.embedded,
            texts.items,
            texts.waiting,
            texts.waited_seconds,
            texts.hits * 100.0
        )
    });
    let trial = second.trial.map(|trial| match trial.rows {
        0 => ", one on trial".to_owned(),
        rows => format!(
            ", one on trial: {:+.1} errors better on {rows} live rows",
            trial.z
        ),
    });
    let trial = trial.unwrap_or_default();
    let scorer = match (&second.champion, second.judged) {
        (Some(model), judged) => format!(", scored by {model}, the best of {judged} learned here"),
        (None, 0) => String::new(),
        (None, judged) => format!(", {judged} learned here, none better than the baseline yet"),
    };
    if !redraw {
        return format!(
            "{:>4} s  {:>6} behaviors/s  {:>6} scores/s  latency p50 {p50:.1} p95 {p95:.1} p99 {p99:.1} ms  freshness {:.1} ms  clicks: \
             ranked {:.1} %, random {:.1} %, lift {lift}{scorer}{trial}{}",
            second.second,
            second.behaviors,
            second.scores,
            second.freshness_ms,
            second.ranked.rate * 100.0,
            second.random.rate * 100.0,
            texts.map_or_else(String::new, |texts| format!("  texts: {texts}")),
        );
    }
    let highest = rates.iter().copied().fold(0.01, f64::max);
    let steps: Vec<char> = "▁▂▃▄▅▆▇█".chars().collect();
    let line: String = rates[rates.len().saturating_sub(60)..]
        .iter()
        .map(|rate| steps[((rate / highest * 7.0) as usize).min(7)])
        .collect();
    let (up, texts) = match (rates.len() > 1, &texts) {
        (false, texts) => ("", texts),
        (true, None) => ("\x1b[8A", &None),
        (true, texts) => ("\x1b[9A", texts),
    };
    let texts = texts
        .as_ref()
        .map_or_else(String::new, |texts| format!("\ntexts       {texts}"));
    format!(
        "{up}\x1b[J\
         Headwater demo, {} s: a simulated platform on the embedded log. Ctrl-C ends it.\n\n\
         throughput  {:>6} behaviors/s  {:>6} scores/s\n\
         latency     p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1} ms      freshness {:.1} ms\n\
         ranked      {:>5.1} % clicked  {}\n\
         random      {:>5.1} % clicked  {}\n\
         lift        {lift}{scorer}{trial}\n\
         click rate  {line}{texts}",
        second.second,
        second.behaviors,
        second.scores,
        second.freshness_ms,
        second.ranked.rate * 100.0,
        bar(second.ranked),
        second.random.rate * 100.0,
        bar(second.random),
    )
}
