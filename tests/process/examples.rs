//! The examples of the package, as a reader runs them: host programs that embed Headwater.

use crate::program::{Place, example};

/// The numbers of a table's row that begins with a name.
fn row(answer: &str, name: &str) -> Vec<f64> {
    let line = answer
        .lines()
        .find(|line| {
            line.trim_start_matches(|c: char| !c.is_alphabetic())
                .starts_with(name)
        })
        .unwrap_or_else(|| panic!("no {name} in {answer}"));
    let words = line.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Goal: a host program runs the whole daemon: behaviors in, scores out, a stop in good order; and goes on from there the next time.
/// Method: run the example twice over one folder, and look into the folder; once without one.
#[test]
fn a_host_runs_the_whole_daemon() {
    let place = Place::new("");
    let folder = place.state().display().to_string();
    for arguments in [&[&*folder][..], &[&*folder], &[]] {
        let ran = example("embed", arguments);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let lines: Vec<&str> = ran.answer.lines().collect();
        assert_eq!(lines.len(), 5, "{ran:?}");
        assert!(lines[0].starts_with("ada clicked dune: 0."), "{ran:?}");
        assert!(lines[1].starts_with("1. dune 0."), "{ran:?}");
        assert_eq!(lines[4], "stopped", "{ran:?}");
    }
    let inspect = ["inspect", "user", "ada", "--format", "json"];
    let ada = place
        .run(&[&inspect[..], &["--set", "topics.partitions=2"]].concat())
        .json();
    assert_eq!(ada["recent"].as_array().unwrap().len(), 6, "{ada}");
}

/// Goal: the step without any log. Method: the example; a click raises the item most, its category less, and what was before it stays.
#[test]
fn a_host_runs_the_step_alone() {
    let ran = example("engine", &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let raised = |name| {
        let row = row(&ran.answer, name);
        row[1] / row[0]
    };
    assert!(raised("dune") > raised("solaris"), "{ran:?}");
    assert!(raised("solaris") > raised("emma"), "{ran:?}");
    assert!(ran.answer.contains("same to the bit: true"), "{ran:?}");
    assert!(ran.answer.contains("left out: 1"), "{ran:?}");
}
