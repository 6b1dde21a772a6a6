//! The pages against the command line: what they tell people to type can be typed.

use clap::CommandFactory as _;

use std::ffi::OsString;

use clap::Parser as _;

use super::{CommandLine, gathered};

/// What is wrong with a command as a page writes it, if anything.
fn fault(typed: &str) -> Option<String> {
    let root = CommandLine::command();
    let mut command = &root;
    let mut words = typed.split_whitespace().skip(1);
    // An argument's place: after it, words are values.
    let mut positional = false;
    while let Some(word) = words.next() {
        if let Some(option) = word.strip_prefix("--") {
            let name = option.split('=').next().unwrap_or_default();
            let found = [command, &root].iter().find_map(|level| {
                level
                    .get_arguments()
                    .find(|argument| argument.get_long() == Some(name))
            });
            let Some(argument) = found else {
                let known = ["help", "version"].contains(&name);
                if known {
                    continue;
                }
                return Some(format!("`{typed}`: no option --{name}"));
            };
            if argument.get_action().takes_values() && !option.contains('=') {
                words.next();
            }
        } else if command.has_subcommands() && !positional {
            match command.find_subcommand(word) {
                Some(found) => command = found,
                None => return Some(format!("`{typed}`: no command {word}")),
            }
        } else {
            positional = true;
            if command.get_positionals().next().is_none() {
                return Some(format!("`{typed}`: {word} is one word too many"));
            }
        }
    }
    None
}

/// The commands that a page tells people to type: in code marks, and at the beginning of a line of an example. What stands two blanks
/// behind a command is about it.
fn commands(page: &str) -> Vec<String> {
    let marked = page
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let typed = marked.chain(page.lines());
    typed
        .filter_map(|line| {
            let line = line
                .strip_prefix("cargo run --release -- ")
                .map_or_else(|| line.to_owned(), |rest| format!("headwater {rest}"));
            let command = line.split("  ").next()?.split(" #").next()?;
            command
                .starts_with("headwater ")
                .then(|| command.to_owned())
        })
        .collect()
}

/// Goal: every command of the pages can be typed. Method: each, with its options, against the command line itself; then planted faults.
#[test]
fn commands_of_the_pages_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    for folder in ["docs", "docs/concepts", "docs/internals", "docs/operating"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let mut faults = Vec::new();
    let mut count = 0;
    for page in &pages {
        for typed in commands(&std::fs::read_to_string(page).unwrap()) {
            count += 1;
            faults.extend(fault(&typed).map(|fault| format!("{}: {fault}", page.display())));
        }
    }
    assert!(count > 10, "{count} commands were found");
    assert!(faults.is_empty(), "{faults:#?}");

    for right in [
        "headwater --set a=b run --scale-in",
        "headwater inspect user ID",
        "headwater dlq redrive --reason x --dry-run",
    ] {
        assert_eq!(fault(right), None);
    }
    for (wrong, what) in [
        ("headwater inspect usr ID", "no command usr"),
        ("headwater retrain", "no command retrain"),
        ("headwater dlq list --raison x", "no option --raison"),
        ("headwater demo fast", "one word too many"),
    ] {
        assert!(fault(wrong).unwrap().contains(what), "{wrong}");
    }
    assert_eq!(
        commands("x `headwater run` y\n```text\nheadwater  x\nheadwater dlq list   which\n```\n"),
        ["headwater run", "headwater dlq list"]
    );
}

/// Goal: keys are set and files laid over in the order in which they are said, before the command and behind it; what stands behind `--` is left alone. Method: both forms of both options, on both sides of a command within a command.
#[test]
fn what_every_command_goes_by_is_gathered() {
    let said = [
        "headwater",
        "--config",
        "a.toml",
        "--set",
        "state.path=x",
        "models",
        "--set=texts.cut=1",
        "fetch",
        "tiny",
        "--config=b.toml",
        "--set",
        "texts.cut=2",
    ];
    let line = CommandLine::try_parse_from(gathered(said.into_iter().map(OsString::from)));
    let global = line.unwrap().global;
    let files: Vec<_> = global
        .config
        .iter()
        .map(|file| file.to_str().unwrap())
        .collect();
    assert_eq!(files, ["a.toml", "b.toml"]);
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        global.set,
        [
            set("state.path", "x"),
            set("texts.cut", "1"),
            set("texts.cut", "2")
        ]
    );
    let left = ["headwater", "run", "--", "--set", "a"].map(OsString::from);
    assert_eq!(gathered(left.clone().into_iter()), left);
    let cut = gathered(
        ["headwater", "--set", "run", "--set"]
            .map(OsString::from)
            .into_iter(),
    );
    assert!(CommandLine::try_parse_from(cut).is_err());
}
