//! Items: the record with the newest time holds, a null ends it, in every table that follows the topic and in the topic itself, of which
//! compaction keeps the last record of each.

use std::collections::BTreeMap;

use headwater_config::Topic;
use headwater_consumers::log::Log;
use headwater_consumers::step::SharedItems;
use serde_json::Value;

use super::read_all;
use crate::workload::Input;

/// Titles by item.
type Titles = BTreeMap<String, String>;

fn read(value: &[u8]) -> (i64, String) {
    let json: Value = serde_json::from_slice(value).expect("invariant: we wrote it");
    let title = json["fields"]["title"].as_str().unwrap_or_default();
    (json["time"].as_i64().unwrap_or_default(), title.to_owned())
}

/// Judges what became of all that was `said`, in its order.
pub(crate) fn judge<'a>(
    log: &dyn Log,
    said: &[Input],
    tables: impl Iterator<Item = &'a SharedItems>,
) -> Result<(), String> {
    let mut held: BTreeMap<&str, (i64, String)> = BTreeMap::new();
    for input in said {
        let Some(value) = &input.value else {
            held.remove(&*input.key);
            continue;
        };
        let (time, title) = read(value);
        if held
            .get(&*input.key)
            .is_none_or(|(newest, _)| *newest <= time)
        {
            held.insert(&input.key, (time, title));
        }
    }
    let expected: Titles = held
        .into_iter()
        .map(|(id, (_, title))| (id.to_owned(), title))
        .collect();
    let mut left = Titles::new();
    for seen in read_all(log, Topic::Items)? {
        let id = String::from_utf8_lossy(&seen.key).into_owned();
        if !said.iter().any(|input| input.key == id) {
            continue;
        }
        match &seen.value {
            Some(value) => drop(left.insert(id, read(value).1)),
            None => drop(left.remove(&id)),
        }
    }
    if left != expected {
        return Err(format!(
            "compaction would leave the items {left:?}, and must {expected:?}"
        ));
    }
    for table in tables {
        let table = table.read();
        let known: Titles = (0..3)
            .map(|number| format!("x{number}"))
            .filter_map(|id| {
                let title = String::from(&*table.item(&id)?.fields["title"]);
                Some((id, title))
            })
            .collect();
        if known != expected {
            return Err(format!("a table knows {known:?}, and must {expected:?}"));
        }
    }
    Ok(())
}
