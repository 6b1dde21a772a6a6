//! What is in force, and where each value came from.

use std::ffi::OsString;

use headwater_config::{Config, Sources};

/// Goal: what is shown says for each key its value and where it was written. Method: golden lines of each layer.
#[test]
fn each_key_is_shown_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headwater.toml");
    std::fs::write(
        &file,
        "[state]\nmemory = \"1GiB\"\n[kafka.client]\n\"sasl.password\" = \"x\"\n[source.behaviors.kinds]\n\"4 2\" = \"click\"\n\
         [source.behaviors]\nmapped = true\nuser_id = \"/u\"\ntime = \"/t\"\nkind = \"/k\"\nscenario = \"/a\\nb\"\n",
    )
    .unwrap();
    let environment: [(OsString, OsString); 1] =
        [("HEADWATER__STATE__ATTRIBUTES".into(), "query".into())];
    let loaded = Config::load(&Sources {
        files: &[file],
        environment: &environment,
    })
    .unwrap();
    let shown = loaded
        .show_toml()
        .replace(folder.path().to_str().unwrap(), "DIR");
    for line in [
        "[instance]",
        "workers = 1  # default",
        "memory = \"1GiB\"  # DIR/headwater.toml:2",
        "attributes = [\"query\"]  # HEADWATER__STATE__ATTRIBUTES",
        "\"sasl.password\" = \"(hidden)\"  # DIR/headwater.toml:4",
        "[source.behaviors.kinds]",
        "\"4 2\" = \"click\"  # DIR/headwater.toml:6",
        "scenario = \"/a\\nb\"  # DIR/headwater.toml:12",
        "[tasks.click]",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} is not in\n{shown}"
        );
    }
    let sections: Vec<_> = shown.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(
        sections[..4],
        ["[instance]", "[log]", "[kafka]", "[kafka.client]"]
    );

    let json = loaded.show_json();
    assert_eq!(json["state.memory"]["value"], "1GiB");
    assert_eq!(json["state.memory"]["origin"]["layer"], "file");
    assert_eq!(json["state.memory"]["origin"]["line"], 2);
    assert_eq!(
        json["state.attributes"]["origin"]["variable"],
        "HEADWATER__STATE__ATTRIBUTES"
    );
    assert_eq!(json["instance.workers"]["origin"]["layer"], "default");
    assert_eq!(json["kafka.client.sasl.password"]["value"], "(hidden)");
}

/// Goal: what is shown is a configuration that gives the same again. Method: load it, for the defaults and for a
/// configuration with every free table filled.
#[test]
fn what_is_shown_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for text in [
        "",
        "[kafka.client]\n\"security.protocol\" = \"SSL\"\nlinger.ms = 5\n[tasks.a]\npositive = [\"click\"]\ntrials = [\"view\"]\nscenarios = [\"other\"]\n\
         [source.behaviors]\nmapped = true\nuser_id = \"^/u\"\ntime = \"/t\"\nevents = \"/e\"\n\
         kinds = { \"4.2\" = \"click\", \"\" = \"view\" }\nattributes = { \"a \\\"b\\\"\" = \"/a\" }\nconstant = { kind = \"view\", scenario = \"f\" }\n",
    ] {
        let file = folder.path().join("first.toml");
        std::fs::write(&file, text).unwrap();
        let first = Config::load(&Sources {
            files: &[file],
            environment: &[],
        })
        .unwrap();
        let again = Config::from_toml(&first.show_toml()).unwrap();
        assert_eq!(again, first.config);
    }
}
