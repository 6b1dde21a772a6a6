//! What a user keeps, and no more.

use super::*;
use crate::behavior::{Coordinates, KindId, ScenarioId};

/// Goal: a state of a build that remembered more late events does not grow. Method: one with forty, and a late behavior.
#[test]
fn late_events_are_cut_to_the_limit() {
    let mut meta = vec![7; 16];
    meta.put_u64(0);
    meta.put_u8(40);
    (1..=40).for_each(|event| meta.put_u64(event));
    let mut user = User::new([0; 16]);
    user.read_meta(&mut Take(&meta)).unwrap();
    let mut fold = |event: u64, time: i64| {
        let behavior = Behavior {
            at: Coordinates::default(),
            time: Timestamp(time),
            event,
            kind: KindId(1),
            scenario: ScenarioId(1),
            item: Some("i"),
            value: None,
            attributes: &[],
            text: None,
            sequences: &[],
        };
        let mut fetch = |_, _| Ok(Page::default());
        user.fold(&behavior, 1, &mut fetch, &mut Vec::new())
            .unwrap();
        user.late_events.clone()
    };
    assert_eq!(fold(100, 9).len(), 40);
    let expected: Vec<u64> = (10..=40).chain([101]).collect();
    assert_eq!(fold(101, 1), expected);
}
