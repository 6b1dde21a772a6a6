//! Open rows in the random histories: rows are opened, shown and acted on about the watermark.

use super::*;
use crate::labels::{LabelRules, LabelTask, OpenRow, Positive};

/// What labels follow in the random histories: little is kept.
pub(super) fn rules() -> Arc<LabelRules> {
    let task = |kind, window_ms| LabelTask {
        positive: vec![KindId(kind)],
        scenarios: Vec::new(),
        window_ms,
    };
    Arc::new(LabelRules {
        shown_within_ms: 3_000_000_000,
        late_ms: 2_000_000_000,
        open_max: 6,
        tasks: vec![task(0, 1_000_000_000), task(1, 9_000_000_000)],
    })
}

/// Opens a row of a user (whole or not), shows one of its items, or has the user do something.
pub(super) fn label(
    partition: &mut Partition,
    (user, what, request, item, ago): (u8, u8, u8, u8, i64),
) {
    let Some(place) = partition.place(&format!("user-{user}")).unwrap() else {
        return;
    };
    let time = partition.position().watermark.minus(ago);
    let (request, item) = (format!("request-{request}"), format!("item-{item}"));
    match what {
        0 | 1 => {
            let whole = ["item-0", "item-1"].into_iter().take(usize::from(what) * 2);
            let names = ("row", &*request, "feed");
            let row = OpenRow::new(names, (ScenarioId(3), time), (2, false), whole);
            partition.open_row(place, row);
        }
        2 => drop(partition.show(place, (&request, &item), (time, None))),
        _ => {
            let positive = Positive {
                time,
                kind: KindId((ago % 2) as u32),
                item: pinned_hash(item.as_bytes()),
                request: 0,
                value: None,
                at: Coordinates::default(),
            };
            partition.act(place, &item, positive);
        }
    }
}

/// The users about whose open rows something is to be done some day.
pub(super) fn waiting(partition: &mut Partition) -> (BTreeSet<String>, BTreeSet<String>) {
    let ids = partition.user_ids().unwrap();
    let open = ids.into_iter().filter(|id| {
        let user = partition.whole_user(id).unwrap().unwrap();
        user.labels().rows().next().is_some()
    });
    let open = open.collect();
    let before = std::mem::replace(&mut partition.position.watermark, Timestamp(i64::MAX));
    let due = partition.labels_due().map(str::to_owned).collect();
    partition.position.watermark = before;
    (open, due)
}

/// Looks at everybody who is due.
pub(super) fn release_all(partition: &mut Partition) {
    let due: Vec<String> = partition.labels_due().map(str::to_owned).collect();
    for user in due {
        partition.release(&user).unwrap();
    }
    assert_eq!(partition.labels_due().next(), None, "all was looked at");
}
