//! The production step in a host program's own hands: no log, no threads, no clock.
//!
//! `cargo run -p headwater --example engine`: the same calls give the same answers, to the bit.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use headwater::Engine;
use headwater::engine::{Behavior, Item, ScoreRequest};
use headwater_config::Config;

/// Unix milliseconds; the engine's time is that of its records.
const MORNING: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::from_toml("[scenarios]\nnames = [\"home\"]\n")?;
    let mut engine = Engine::new(&config)?;

    for (item_id, genre) in [
        ("dune", "science fiction"),
        ("solaris", "science fiction"),
        ("emma", "romance"),
    ] {
        let item = Item {
            item_id: item_id.to_owned(),
            time: MORNING,
            categories: vec![genre.to_owned()],
            ..Item::default()
        };
        engine.item(item.to_json())?;
    }

    let behavior = |number: i64, item: &str, kind: &str| Behavior {
        event_id: Some(format!("e{number}")),
        user_id: "ada".to_owned(),
        item_id: Some(item.to_owned()),
        kind: kind.to_owned(),
        scenario: "home".to_owned(),
        time: MORNING + number * MINUTE,
        ..Behavior::default()
    };
    engine.ingest(behavior(1, "dune", "impression").to_json())?;
    engine.ingest(behavior(2, "emma", "impression").to_json())?;

    let ask = |minute: i64| ScoreRequest {
        request_id: format!("at-{minute}"),
        user_id: "ada".to_owned(),
        scenario: "home".to_owned(),
        time: MORNING + minute * MINUTE,
        candidates: ["emma", "solaris", "dune"].map(str::to_owned).to_vec(),
        deadline_ms: None,
    };
    let before = engine.score(ask(3).to_json())?;

    let click = behavior(4, "dune", "click").to_json();
    engine.ingest(&click)?;
    // The same event again is counted once.
    engine.ingest(&click)?;
    let after = engine.score(ask(5).to_json())?;
    // As of a time before the click: what came later is not seen.
    let again = engine.score(ask(3).to_json())?;

    println!("         before   after");
    for (before, after) in before.items.iter().zip(&after.items) {
        println!(
            "{:<8} {:.4}   {:.4}",
            before.item_id, before.score, after.score
        );
    }
    println!(
        "as of before the click, the same to the bit: {}",
        before.items == again.items
    );
    println!(
        "counted before, and left out: {}",
        engine.dropped("duplicate")?
    );
    Ok(())
}
