//! The whole daemon in a host program, on the embedded log: no Kafka, no second process.
//!
//! `cargo run -p headwater --example embed [FOLDER]`: state and log lie in the folder, and are there again at the next run. Without it they
//! lie in a temporary one, which is removed.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater::engine::{Answer, Behavior, Item, ScoreRequest};
use headwater::produce::{INPUTS, Sender};
use headwater::{Daemon, now_ms};
use headwater_config::{Config, Topic};
use headwater_consumers::log::{PollLimit, Reader, RecordBatch, Start, TopicPartition};

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(folder) = std::env::args_os().nth(1) {
        return run(&PathBuf::from(folder));
    }
    let folder = std::env::temp_dir().join(format!("headwater-embed-{}", std::process::id()));
    let done = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = Config::from_toml(
        r#"
        [log]
        kind = "embedded"
        [topics]
        partitions = 2
        [scoring]
        on_behavior = "item"    # every behavior on an item is answered by a score
        [admin]
        address = ""            # no HTTP: the host has the handle
        "#,
    )?;
    config.state.path = folder.to_owned();

    // From here on its threads read the log, keep state, and write scores.
    let daemon = Daemon::start(config.clone())?;
    let log = daemon.log();

    // The host reads scores as any consumer of that topic does: what is committed, in order.
    let mut scores = log.reader()?;
    for partition in 0..config.topics.partitions {
        let of = TopicPartition::new(Topic::Scores, partition);
        scores.assign(of, Start::End)?;
    }

    // And writes records as any producer does; the sender keys and partitions them.
    let mut sender = Sender::new(&config, &*log, &INPUTS, now_ms)?;
    for (item_id, genre) in [
        ("dune", "science fiction"),
        ("solaris", "science fiction"),
        ("emma", "romance"),
    ] {
        let item = Item {
            item_id: item_id.to_owned(),
            time: now_ms(),
            categories: vec![genre.to_owned()],
            ..Item::default()
        };
        sender.send(Topic::Items, &item.to_json())?;
    }
    sender.flush()?;

    let shown_and_done = [
        ("dune", "impression"),
        ("dune", "click"),
        ("emma", "impression"),
    ];
    for (number, (item, kind)) in shown_and_done.into_iter().enumerate() {
        let behavior = Behavior {
            event_id: Some(format!("visit-{}-{number}", now_ms())),
            user_id: "ada".to_owned(),
            item_id: Some(item.to_owned()),
            kind: kind.to_owned(),
            scenario: "home".to_owned(),
            time: now_ms(),
            ..Behavior::default()
        };
        sender.send(Topic::Behaviors, &behavior.to_json())?;
    }
    sender.flush()?;
    // An impression alone is no cause for a score: the click is.
    let answer = next(&mut *scores)?;
    println!(
        "{} clicked {}: {:.4}",
        answer.user_id, answer.items[0].item_id, answer.items[0].score
    );

    // What is answered is committed: this request sees the click.
    let request = ScoreRequest {
        request_id: "r1".to_owned(),
        user_id: "ada".to_owned(),
        scenario: "home".to_owned(),
        time: now_ms() + 1,
        candidates: ["emma", "solaris", "dune"].map(str::to_owned).to_vec(),
        deadline_ms: None,
    };
    sender.send(Topic::ScoreRequests, &request.to_json())?;
    sender.flush()?;
    let mut answer = next(&mut *scores)?;
    answer.items.sort_by(|a, b| b.score.total_cmp(&a.score));
    for (place, item) in answer.items.iter().enumerate() {
        println!("{}. {} {:.4}", place + 1, item.item_id, item.score);
    }

    // Commits what is under way, writes state back, leaves the group.
    daemon.stop(false)?;
    println!("stopped");
    Ok(())
}

/// The next answer of the scores topic.
fn next(scores: &mut dyn Reader) -> Result<Answer, Box<dyn Error>> {
    let limit = PollLimit {
        records: 1,
        bytes: 1 << 20,
        wait: Duration::from_secs(1),
    };
    let mut batch = RecordBatch::default();
    loop {
        scores.poll(limit, &mut batch)?;
        if let Some(record) = batch.iter().next() {
            return Ok(Answer::read(record.value.unwrap_or_default())?);
        }
    }
}
