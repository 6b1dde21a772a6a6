//! The rules, each a function over a file that gives what is wrong with it.

use crate::File;
use crate::rust;

/// Lines of a source at most; most have fewer than 450.
const LINES_MAX: usize = 600;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "misc", "shared", "types",
];

/// Which crates a crate may name: the table of ARCHITECTURE.md.
const ARROWS: [(&str, &[&str]); 6] = [
    ("config", &[]),
    ("state", &["headwater-config"]),
    ("model", &["headwater-config"]),
    (
        "consumers",
        &["headwater-config", "headwater-model", "headwater-state"],
    ),
    (
        "daemon",
        &[
            "headwater-config",
            "headwater-consumers",
            "headwater-model",
            "headwater-state",
        ],
    ),
    (
        "tests",
        &[
            "headwater",
            "headwater-config",
            "headwater-consumers",
            "headwater-model",
            "headwater-state",
        ],
    ),
];

/// Libraries that have one home: the crates that may depend on them, and where in the sources they may be named.
const HOMES: [(&str, &[&str], &[&str]); 10] = [
    (
        "rdkafka",
        &["consumers", "tests"],
        &[
            "consumers/src/log/kafka.rs",
            "consumers/src/log/kafka/",
            "tests/",
        ],
    ),
    (
        "sled",
        &["state"],
        &["state/src/store.rs", "state/src/store/"],
    ),
    (
        "fjall",
        &["state"],
        &["state/src/store.rs", "state/src/store/"],
    ),
    (
        "tokenizers",
        &["model"],
        &["model/src/language.rs", "model/src/language/"],
    ),
    (
        "safetensors",
        &["model"],
        &["model/src/language.rs", "model/src/language/"],
    ),
    ("tokio", &["daemon"], &["daemon/"]),
    ("axum", &["daemon"], &["daemon/"]),
    ("clap", &["daemon"], &["daemon/"]),
    (
        "ureq",
        &["daemon"],
        &["daemon/src/models.rs", "daemon/src/models/"],
    ),
    (
        "zip",
        &["daemon"],
        &["daemon/src/models.rs", "daemon/src/models/"],
    ),
];

/// A source that is too long.
pub(crate) fn length(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| format!("{}: {lines} lines, at most {LINES_MAX}", file.path))
}

/// A module whose name says nothing.
pub(crate) fn name(file: &File) -> Option<String> {
    let parts = file
        .path
        .split('/')
        .map(|part| part.trim_end_matches(".rs"));
    let empty = parts.into_iter().find(|part| EMPTY_NAMES.contains(part))?;
    Some(format!(
        "{}: `{empty}` says nothing of what is inside",
        file.path
    ))
}

/// A source that does not say what it is.
pub(crate) fn head(file: &File) -> Option<String> {
    (!file.text.starts_with("//! ")).then(|| format!("{}: does not begin with `//!`", file.path))
}

/// Crates and libraries that a Cargo.toml may not name.
pub(crate) fn arrows(file: &File) -> Vec<String> {
    let Some(krate) = file.path.strip_suffix("/Cargo.toml") else {
        return Vec::new();
    };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == krate) else {
        return vec![format!("{}: a crate that no arrow leads to", file.path)];
    };
    let mut faults = Vec::new();
    let mut depends = false;
    for line in file.text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            depends = section.trim_end_matches(']').ends_with("dependencies");
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        if !depends || name.is_empty() || name.starts_with('#') {
            continue;
        }
        let ours = name == "headwater" || name.starts_with("headwater-");
        if ours && !allowed.contains(&name) {
            faults.push(format!("{}: {krate} may not know {name}", file.path));
        }
        let home = HOMES.iter().find(|(library, ..)| *library == name);
        if home.is_some_and(|(_, crates, _)| !crates.contains(&krate)) {
            faults.push(format!("{}: {name} has another home", file.path));
        }
    }
    faults
}

/// Libraries that a source may not name.
pub(crate) fn homes(file: &File) -> Vec<String> {
    if !file.is_rust() {
        return Vec::new();
    }
    let code = rust::code(&file.text);
    let mut faults = Vec::new();
    for (library, _, places) in HOMES {
        let path = format!("{library}::");
        let home = places.iter().any(|place| file.path.starts_with(place));
        for (at, _) in code.match_indices(&path).filter(|_| !home) {
            let before = code[..at].bytes().next_back().unwrap_or(b' ');
            if !before.is_ascii_alphanumeric() && before != b'_' {
                let line = line_of(&code, at);
                faults.push(format!("{}:{line}: names {library}", file.path));
            }
        }
    }
    faults
}

/// `matches!(…);` as a statement: its answer is thrown away.
pub(crate) fn idle_matches(file: &File) -> Vec<String> {
    let code = rust::code(&file.text);
    let mut faults = Vec::new();
    for (at, opened) in code.match_indices("matches!(") {
        let before = code[..at].trim_end();
        if !(before.is_empty() || before.ends_with([';', '{', '}'])) {
            continue;
        }
        let mut depth = 1;
        let inside = &code[at + opened.len()..];
        let end = inside.find(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            depth == 0
        });
        let after = end.map_or("", |end| inside[end + 1..].trim_start());
        if after.starts_with(';') {
            let line = line_of(&code, at);
            faults.push(format!(
                "{}:{line}: `matches!` is asked and not heard",
                file.path
            ));
        }
    }
    faults
}

/// Tests whose comment has no goal and no method.
pub(crate) fn goals(file: &File) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let code = rust::code(&file.text);
    let mut faults = Vec::new();
    for (number, line) in code.lines().enumerate() {
        if line.trim() != "#[test]" {
            continue;
        }
        let about = lines[..number].iter().rev();
        let about: Vec<&&str> = about
            .take_while(|line| line.starts_with("///") || line.starts_with("#["))
            .collect();
        let says = |word: &str| about.iter().any(|line| line.contains(word));
        if !(says("Goal:") && says("Method:")) {
            let line = number + 1;
            faults.push(format!(
                "{}:{line}: a test without goal and method",
                file.path
            ));
        }
    }
    faults
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].lines().count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Goal: a long file, an empty name and a missing head are found. Method: one of each planted, beside one that is right.
    #[test]
    fn planted_files_are_found() {
        assert_eq!(length(&file("a.rs", &"x\n".repeat(600))), None);
        assert_eq!(
            length(&file("a.rs", &"x\n".repeat(601))).unwrap(),
            "a.rs: 601 lines, at most 600"
        );
        assert_eq!(name(&file("state/src/format.rs", "")), None);
        for path in [
            "state/src/util.rs",
            "daemon/src/helpers/time.rs",
            "consumers/src/log/shared.rs",
        ] {
            assert!(
                name(&file(path, "")).unwrap().contains("says nothing"),
                "{path}"
            );
        }
        assert_eq!(head(&file("a.rs", "//! What it is.\n")), None);
        for text in ["use x;\n", "// What it is.\n", ""] {
            assert!(head(&file("a.rs", text)).is_some(), "{text}");
        }
    }

    /// Goal: a wrong arrow is found, whichever section it stands in. Method: each crate with one it may not know, and one it may.
    #[test]
    fn planted_arrows_are_found() {
        let of = |krate: &str, text: &str| arrows(&file(&format!("{krate}/Cargo.toml"), text));
        for (krate, name) in [
            ("state", "headwater-model"),
            ("model", "headwater-state"),
            ("config", "headwater-state"),
            ("consumers", "headwater"),
            ("daemon", "headwater-tests"),
        ] {
            for section in ["dependencies", "dev-dependencies", "target.x.dependencies"] {
                let text = format!("[{section}]\n{name}.workspace = true\n");
                assert_eq!(
                    of(krate, &text),
                    [format!("{krate}/Cargo.toml: {krate} may not know {name}")]
                );
            }
        }
        assert_eq!(
            of("model", "[dependencies]\nrdkafka = \"1\"\n"),
            ["model/Cargo.toml: rdkafka has another home"]
        );
        assert_eq!(of("other", "").len(), 1);
        let right = "[package]\nname = \"headwater-state\"\n[dependencies]\nheadwater-config.workspace = true\nsled.workspace = true\n";
        assert_eq!(of("state", right), [""; 0]);
    }

    /// Goal: a library outside of its home is found, and words of it are not. Method: paths, uses, attributes; then comments and texts.
    #[test]
    fn planted_libraries_are_found() {
        let of = |path: &str, text: &str| homes(&file(path, text));
        assert_eq!(
            of("consumers/src/worker.rs", "//! x\nuse rdkafka::Message;\n"),
            ["consumers/src/worker.rs:2: names rdkafka"]
        );
        assert_eq!(
            of("consumers/src/log/kafka/sink.rs", "use rdkafka::Message;").len(),
            0
        );
        assert_eq!(
            of("state/src/user.rs", "fn f() { ::sled::open() }").len(),
            1
        );
        assert_eq!(of("state/src/store/fjall.rs", "::fjall::Error").len(), 0);
        assert_eq!(of("consumers/src/step.rs", "#[tokio::main]").len(), 1);
        assert_eq!(
            of(
                "consumers/src/step.rs",
                "// rdkafka::x\nlet a = \"sled::x\"; my_sled::x();"
            )
            .len(),
            0
        );
    }

    /// Goal: an answer that nobody hears is found, in whatever form. Method: statements, and the same words where they are heard.
    #[test]
    fn planted_idle_answers_are_found() {
        let of = |text: &str| idle_matches(&file("a.rs", text)).len();
        assert_eq!(of("fn f() { matches!(x, Some(_)); }"), 1);
        assert_eq!(
            of(
                "fn f() {\n    a();\n    matches!(\n        f(g(1), \")\"),\n        Err(_)\n    );\n}"
            ),
            1
        );
        assert_eq!(of("fn f() -> bool { matches!(x, Some(_)) }"), 0);
        assert_eq!(of("fn f() { assert!(matches!(x, Some(_))); }"), 0);
        assert_eq!(
            of("fn f() { assert!(\n    matches!(x, Some(_)),\n    \"x\"\n); }"),
            0
        );
        assert_eq!(of("// matches!(x, y);\n"), 0);
    }

    /// Goal: a test that does not say what it is for is found. Method: with goal and method, without one, without both.
    #[test]
    fn planted_tests_without_goals_are_found() {
        let of = |text: &str| goals(&file("a.rs", text));
        let attribute = "#[test]";
        assert_eq!(
            of(&format!(
                "/// Goal: x. Method: y.\n{attribute}\nfn f() {{}}"
            ))
            .len(),
            0
        );
        assert_eq!(
            of(&format!(
                "/// Goal: x.\n/// Method: y.\n#[ignore]\n{attribute}\nfn f() {{}}"
            ))
            .len(),
            0
        );
        assert_eq!(
            of(&format!("/// Goal: x.\n{attribute}\nfn f() {{}}")),
            ["a.rs:2: a test without goal and method"]
        );
        assert_eq!(of(&format!("{attribute}\nfn f() {{}}")).len(), 1);
    }
}
