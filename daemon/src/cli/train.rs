//! `headwater train`: models from recordings, or from what daemons logged.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use headwater::Exit;
use headwater::train::{
    Ids, Parts, Regime, Source, Texts, TrainBahe, TrainSummary, Winner, objective, of_interactions,
};
use headwater_config::{DeviceChoice, InteractionsChoice, ObjectiveChoice};
use headwater_model::DType;
use headwater_model::dinmp::Reads;
use headwater_model::{LABELS_MIN, USERS_MIN, Z_MIN};

use super::{Failure, Format, Global, print};

/// Train a model from recorded events, or from what daemons logged.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    model: Model,
}

#[derive(Debug, clap::Subcommand)]
enum Model {
    Bahe(Box<Bahe>),
}

/// Train BAHE: a language model's shallow layers meet each text once, its deep layers learn over sequences of what comes out.
///
/// What text stands for items and behaviors is a template ([texts]), which behaviors make a sequence are kinds ([sequences]); both in the configuration.
/// Rows are those that the daemon would log; their labels follow from behaviors that carry the request's id. Requests are split by their order: the first
/// are learned from, those behind them validate, the rest are scored alone. Training ends when the validation loss rises.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The folder (--out) holds the model (model.safetensors, manifest.json), the vectors of all texts under their content hashes, so that another run over the same
texts begins at once, and while training is not done a checkpoint: a run that is cut off goes on from it, and comes to the same bytes.

Examples:
  headwater --config shop.toml train bahe --items items.jsonl --events events.jsonl --out shop-bahe
  headwater --config shop.toml train bahe --log --texts none --out shop-live --on-trial
  headwater --config shop.toml train bahe --log --texts deep --out shop-deeper --on-trial
  headwater train bahe --items items.jsonl --events events.jsonl --model minilm-l6 --cut 2 --texts mean --out light --predictions light.tsv")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
struct Bahe {
    /// Item records, known from the start.
    #[arg(long, value_name = "FILE", required_unless_present = "log")]
    items: Option<PathBuf>,
    /// Recorded behaviors and score requests.
    #[arg(long, value_name = "FILE", required_unless_present = "log")]
    events: Option<PathBuf>,
    /// Learn from what daemons logged instead: rows of the feature log with the labels that became of them. With --texts none, beside a champion that looks at texts, what its rows hold of them is learned from, and its layers are the new model's as they are; with --texts deep they learn as well, or where it looks at none those of texts.encoder.
    #[arg(long, conflicts_with_all = ["items", "events"])]
    log: bool,
    /// The language model: a folder of the Llama, Qwen2 or BERT family, a GGUF file, or the name of one in the cache (`headwater models list`); without it,
    /// the one of texts.encoder.
    #[arg(long, value_name = "PATH|NAME")]
    model: Option<String>,
    /// The folder of what is made.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Where predictions of all rows go: .gz is packed.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Where a page goes that shows how rows behind validation were predicted: over time, by what was said, and beside the baseline.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// What becomes of the rows behind those that are learned from: frozen (they are scored by the model as it is then), prequential (in the order of time, a
    /// hundredth of all requests after the other: each is scored, then learned from).
    #[arg(long, value_enum, default_value_t)]
    regime: RegimeChoice,
    /// What becomes of texts: deep (layers that learn), frozen (layers that stay as they are), mean (no deep layers), none (no texts).
    #[arg(long, value_enum, default_value = "deep")]
    texts: TextsChoice,
    /// Weigh all that users did, by key-vectors (DINMP). From a log, its rows must have them: `key_vectors.logged`.
    #[arg(long)]
    key_vectors: bool,
    /// What of them is not read, with --key-vectors: to see what it is worth.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "PART,…",
        requires = "key_vectors"
    )]
    without: Vec<Part>,
    /// Where the model looks at texts, adds what a candidate's text says to its vector, with --key-vectors; without it, its rows alone make that.
    #[arg(long, requires = "key_vectors")]
    text_start: bool,
    /// So many of a user's items alone, those that it had to do with last, with --key-vectors; without it, all.
    #[arg(long, requires = "key_vectors", value_parser = clap::value_parser!(u32).range(1..))]
    newest: Option<u32>,
    /// Learning rate of rows of ids, with --key-vectors.
    #[arg(long, default_value_t = Ids::default().rate, value_parser = rate)]
    id_rate: f64,
    /// Part of the ids that read the row of unknown ones while it learns, with --key-vectors.
    #[arg(long, default_value_t = Ids::default().dropout, value_parser = share)]
    id_dropout: f64,
    /// Shallow layers; without it, texts.cut.
    #[arg(long, value_parser = layers)]
    cut: Option<usize>,
    /// Deep layers, those above the cut; of a log, where the champion has none.
    #[arg(long, default_value_t = 2, value_parser = layers)]
    layers: usize,
    /// Behaviors at which a run begins anew with its newest half, even; without it, `texts.sequence_max`.
    #[arg(long, value_parser = limit)]
    limit: Option<usize>,
    /// Passes over the rows at most.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    passes: u64,
    /// Learning rate.
    #[arg(long, default_value_t = 1e-3, value_parser = rate)]
    rate: f64,
    /// Learning rate of the deep layers, as a part of the other.
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    deep_factor: f64,
    /// Positions of a batch: what bounds memory.
    #[arg(long, default_value_t = 4_096, value_parser = positions)]
    positions: usize,
    /// Where texts are encoded and layers learn: auto (an NVIDIA GPU if this program was built for it and there is one, else the CPU), cpu, cuda; without it,
    /// `texts.device`.
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// In what the deep layers are computed; without it, bf16 on a GPU and f32 on a CPU. What is learned and kept is f32.
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Share of the requests to learn from.
    #[arg(long, default_value_t = 0.7, value_parser = some)]
    train: f64,
    /// Share of the requests to validate on.
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    valid: f64,
    /// Seed of first values and of the order of rows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Parts of the second hidden layer that each task of each scenario mixes by weights of its own; 0: none.
    /// Without it, `train.experts`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=64))]
    experts: Option<u64>,
    /// Rank of the layer of crosses of all numbers (as in DCN-V2); 0: none.
    /// Without it, `train.cross`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=256))]
    cross: Option<u64>,
    /// How stretches and sides of what users did go together, with --key-vectors: none, products of all pairs (as in a factorization machine), attention (self-attention), both.
    /// Without it, `train.interactions`.
    #[arg(long, value_parser = words(InteractionsChoice::ALL, |of| of.as_str()), requires = "key_vectors")]
    interactions: Option<InteractionsChoice>,
    /// What is lowered where there are several tasks: labels (the mean over all labels), or the mean over tasks, whose gradients are made one by a rule: sum, gdod,
    /// pcgrad, mgda, cagrad, aligned-mtl. Without it, `train.objective`.
    #[arg(long, value_parser = words(ObjectiveChoice::ALL, |of| of.as_str()))]
    objective: Option<ObjectiveChoice>,
    /// Make it champion of all instances (`headwater champion`) if it is better than the one there is, on later rows than it was made from. With --log.
    #[arg(long, requires = "log", conflicts_with_all = ["items", "events"])]
    promote: bool,
    /// Put it on trial beside the champion if it is better at all there: an instance with train.every holds both against each other on rows that are scored from
    /// then on, and promotes it once it has proved itself. With --log.
    #[arg(long, requires = "log", conflicts_with_all = ["promote", "items", "events"])]
    on_trial: bool,
    /// Steps of this run at most; the same command goes on from there, as it does after a run that was killed.
    #[arg(long)]
    steps: Option<u64>,
    /// How the summary is written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum RegimeChoice {
    #[default]
    Frozen,
    Prequential,
}

impl From<RegimeChoice> for Regime {
    fn from(choice: RegimeChoice) -> Self {
        match choice {
            RegimeChoice::Frozen => Self::Frozen,
            RegimeChoice::Prequential => Self::Prequential,
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TextsChoice {
    None,
    Mean,
    Frozen,
    Deep,
}

/// Parts of what key-vectors are read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// How many events of which kinds an item has: it counts once.
    Counts,
    /// Weights by item and candidate: counts and time alone weigh, and without these each item weighs 1 (sum pooling).
    Attention,
    /// Stretches of time, and recency: all lies in one.
    Time,
    /// What is of the candidate's own categories and attributes, apart from the rest: all lies on one side.
    Category,
}

fn reads(newest: Option<u32>, without: &[Part], text: bool) -> Reads {
    let has = |part| !without.contains(&part);
    Reads {
        newest,
        counts: has(Part::Counts),
        attention: has(Part::Attention),
        time: has(Part::Time),
        category: has(Part::Category),
        text,
        ..Reads::default()
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Device {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Precision {
    F32,
    Bf16,
}

/// The words of a choice of the configuration's.
fn words<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    word_of: fn(&T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let choice = move |word: String| {
        let mut all = all.iter().copied();
        all.find(|choice| word_of(choice) == word)
            .expect("invariant: no other word is possible")
    };
    PossibleValuesParser::new(all.iter().map(word_of)).map(choice)
}

fn layers(text: &str) -> Result<usize, String> {
    let layers = text.parse().ok().filter(|layers: &usize| *layers > 0);
    layers.ok_or_else(|| format!("`{text}` is not a number of layers"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok();
    let rate = rate.filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("`{text}` is not a number above 0"))
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok();
    limit
        .filter(|limit: &usize| (2..=4_096).contains(limit) && limit.is_multiple_of(2))
        .ok_or_else(|| format!("`{text}` is not an even number from 2 to 4096"))
}

fn some(text: &str) -> Result<f64, String> {
    let share = share(text).ok().filter(|share| *share > 0.0);
    share.ok_or_else(|| format!("`{text}` is not a share above 0, and at most 1"))
}

fn positions(text: &str) -> Result<usize, String> {
    let positions = text.parse().ok().filter(|positions: &usize| *positions > 0);
    positions.ok_or_else(|| format!("`{text}` is not a number of positions"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is not a share from 0 to 1"))
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let config = global.load()?.config;
    headwater::telemetry::init(&config.telemetry);
    let Model::Bahe(bahe) = &arguments.model;
    let named = bahe.model.as_ref().or(config.texts.encoder.as_ref());
    let model = match named {
        Some(named) => headwater::models::locate(&config, named)
            .map_err(|error| Failure::of(error.exit(), &error))?,
        None if bahe.log || matches!(bahe.texts, TextsChoice::None) => PathBuf::new(),
        None => {
            let words = "no language model: neither --model nor texts.encoder names one";
            return Err(Failure::new(Exit::Configuration, words.to_owned()));
        }
    };
    let training = TrainBahe {
        source: match (&bahe.items, &bahe.events) {
            (Some(items), Some(events)) => Source::Recordings {
                items: items.clone(),
                events: events.clone(),
            },
            _ => {
                let log = headwater::daemon::open_log(&config);
                Source::Log(log.map_err(|error| Failure::of(error.exit(), &error))?)
            }
        },
        model,
        out: bahe.out.clone(),
        predictions: bahe.predictions.clone(),
        report: bahe.report.clone(),
        regime: bahe.regime.into(),
        texts: match bahe.texts {
            TextsChoice::None => Texts::None,
            TextsChoice::Mean => Texts::Mean,
            TextsChoice::Frozen => Texts::Frozen,
            TextsChoice::Deep => Texts::Deep,
        },
        key_vectors: bahe.key_vectors,
        reads: of_interactions(
            reads(bahe.newest, &bahe.without, bahe.text_start),
            bahe.interactions.unwrap_or(config.train.interactions),
        ),
        ids: Ids {
            rate: bahe.id_rate,
            dropout: bahe.id_dropout,
        },
        cut: bahe.cut.unwrap_or(config.texts.cut),
        layers: bahe.layers,
        limit: bahe.limit.unwrap_or(config.texts.sequence_max),
        passes: bahe.passes,
        rate: bahe.rate,
        deep_factor: bahe.deep_factor,
        positions: bahe.positions,
        device: match bahe.device {
            Some(Device::Auto) => DeviceChoice::Auto,
            Some(Device::Cpu) => DeviceChoice::Cpu,
            Some(Device::Cuda) => DeviceChoice::Cuda,
            None => config.texts.device,
        },
        numbers: bahe.precision.map(|precision| match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }),
        shares: [bahe.train, bahe.valid],
        seed: bahe.seed,
        parts: Parts {
            experts: bahe.experts.map_or(config.train.experts, |of| of as usize),
            cross: bahe.cross.map_or(config.train.cross, |of| of as usize),
        },
        objective: objective(bahe.objective.unwrap_or(config.train.objective), bahe.seed),
        log_rows: [0, usize::MAX],
        later_than: i64::MIN,
        winner: match (bahe.promote, bahe.on_trial) {
            (true, _) => Winner::Promoted,
            (false, true) => Winner::OnTrial,
            (false, false) => Winner::Stays,
        },
        steps: bahe.steps,
        progress: std::io::stderr().is_terminal(),
    };
    let summary = training
        .run(&config)
        .map_err(|error| Failure::of(error.exit(), &error))?;
    match bahe.format {
        Format::Text => tell(&summary, print),
        Format::Json => print(&serde_json::json!(summary).to_string()),
    }
    Ok(())
}

/// Tells what was trained in words, each line to `print`.
pub(super) fn tell(summary: &TrainSummary, print: fn(&str)) {
    let [learned, validated, scored] = summary.rows;
    print(&format!(
        "{learned} rows learned from, {validated} validated on, {scored} scored alone"
    ));
    let [without_row, other_schema] = summary.left_out;
    if without_row + other_schema > 0 {
        print(&format!(
            "left out: {without_row} labelled items without a row in the feature log, {other_schema} requests that were scored under other tasks or settings"
        ));
    }
    if summary.without_vectors > 0 {
        print(&format!(
            "left out: {} labelled rows that do not hold what the champion sees of texts",
            summary.without_vectors
        ));
    }
    if summary.waiting > 0 {
        print(&format!(
            "left for later: {} labelled items, until the longest window of a task is over for their rows as well",
            summary.waiting
        ));
    }
    if summary.distinct_texts > 0 {
        print(&format!(
            "{} texts, {} distinct: each is met {:.1} times; {} encoded in {:.1} s",
            summary.texts,
            summary.distinct_texts,
            summary.texts as f64 / summary.distinct_texts as f64,
            summary.encoded,
            summary.encode_seconds
        ));
    }
    let losses: Vec<String> = summary
        .validation_loss
        .iter()
        .map(|loss| format!("{loss:.5}"))
        .collect();
    if !summary.finished {
        print("not done yet: the same command goes on");
    }
    print(&format!(
        "validation loss before and after each pass: {}; kept: pass {}; {:.1} s",
        losses.join(", "),
        summary.kept,
        summary.train_seconds
    ));
    if summary.onward > 0 {
        print(&format!(
            "then {} pieces in the order of time, each scored and then learned from",
            summary.onward
        ));
    }
    for (task, predicted) in &summary.predicted {
        let [model, baseline] = [predicted.model, predicted.baseline];
        let auc = |of: Option<f64>| of.map_or("–".to_owned(), |auc| format!("{auc:.4}"));
        print(&format!(
            "{task}: AUC {} (baseline {}), log loss {:.4} ({:.4}), calibration error {:.4} ({:.4}) on {} rows",
            auc(model.auc),
            auc(baseline.auc),
            model.loss,
            baseline.loss,
            model.calibration,
            baseline.calibration,
            predicted.rows
        ));
    }
    if let Some(judged) = &summary.judged {
        let [rows, users] = judged.rows;
        let [champion, challenger] = judged.losses;
        let outcome = match (judged.wins, judged.promoted) {
            (_, true) => "promoted".to_owned(),
            _ if judged.on_trial => "on trial from now on".to_owned(),
            // What has learned from the rows that judged it is not promoted by them.
            (true, false) if summary.onward > 0 => "it would win (--on-trial)".to_owned(),
            (true, false) => "it would win (--promote)".to_owned(),
            (false, false) if !judged.enough => format!(
                "too little to judge by: {LABELS_MIN} positives and as many negatives are needed, and differences that come from {USERS_MIN} users or more, not from a few who have most of the rows"
            ),
            (false, false) => format!("not enough to take over, {Z_MIN} errors are needed"),
        };
        if rows == 0 {
            print(
                "nothing is later than what it was made from by the time that a label takes: not judged",
            );
        } else {
            print(&format!(
                "beside {} on {rows} later rows of {users} users: loss {challenger:.5} against {champion:.5}, {:+.1} errors better: {outcome}",
                judged.champion, judged.z
            ));
        }
    }
}
