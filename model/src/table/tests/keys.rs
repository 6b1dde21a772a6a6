//! Keys, pages, and counts of the ids without a row.

use std::collections::BTreeSet;

use super::*;
use crate::table::counting::Counting;
use crate::table::rows::Rows;

/// Goal: no two ids have one key. Method: ids of every length around the border, that differ in a zero, in a length, in one bit of their last byte.
#[test]
fn ids_have_keys_of_their_own() {
    let mut ids = BTreeSet::new();
    for length in 0..40 {
        for fill in [0_u8, 1, 14, 15, 16, 0x7f, 0x80, 0xff] {
            for last in [0_u8, 1, 5, 0x80, 0x8f, 0xff] {
                let mut id = vec![fill; length];
                id.extend((length > 0).then_some(last));
                ids.insert(id);
            }
        }
    }
    let keys: BTreeSet<RowKey> = ids.iter().map(|id| RowKey::of(id)).collect();
    assert_eq!(keys.len(), ids.len());
    assert_eq!(RowKey::of(b"i42"), RowKey::of(b"i42"));
}

/// Goal: ids whose 64-bit addresses collide have rows of their own, and when more collide than a page holds, the rest is refused and counted, not mixed up. Method: planted
/// collisions, far more than a page holds, beside other ids; every admitted one reads what it began with.
#[test]
fn colliding_addresses_are_told_apart_or_refused() {
    let settings = settings();
    let seed = settings.seed;
    let twins: Vec<RowKey> = (0..600).map(|other| key(1).twin(seed, other)).collect();
    let addresses: BTreeSet<u64> = twins.iter().map(|key| key.address(seed)).collect();
    let distinct: BTreeSet<&RowKey> = twins.iter().collect();
    assert_eq!((addresses.len(), distinct.len()), (1, 600));

    let mut table = met(settings, 1000..1200);
    let met = table
        .meet(&twins, 1, |position| Some(vec![position as f32; 3]))
        .unwrap();
    // Others may lie in that page too: at most all that it could have.
    assert!((400..=ROWS_IN_PAGE_MAX).contains(&met.admitted), "{met:?}");
    assert_eq!(met.admitted + met.refused, 600);
    let snapshot = table.snapshot();
    let rows = twins.iter().enumerate();
    let rows = rows.filter_map(|(position, key)| Some((position, snapshot.row(*key)?)));
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), met.admitted);
    for (position, row) in rows {
        assert_eq!(row, [position as f32; 3]);
    }
    let longest = snapshot.rows.pages.iter().map(|page| page.len()).max();
    assert_eq!(longest, Some(ROWS_IN_PAGE_MAX));
    let gathered = table.gather(&twins, None);
    let unknown = gathered.rows().iter().filter(|row| **row == 0).count();
    assert_eq!(unknown, met.refused);
}

/// Goal: pages stay short for ids as they come, so a lookup does not grow. Method: many ids with consecutive names, the longest page against the Poisson law.
#[test]
fn pages_of_plain_ids_stay_short() {
    let mut settings = settings();
    settings.memory = 1 << 30;
    let mut table = Table::new(settings).unwrap();
    for start in (0..100_000).step_by(1000) {
        let met = table.meet(&keys(start..start + 1000), 0, |_| None).unwrap();
        assert_eq!(met.refused, 0);
    }
    let snapshot = table.snapshot();
    let pages = &snapshot.rows.pages;
    assert_eq!(pages.len(), 100_000_usize.div_ceil(ROWS_IN_PAGE));
    let longest = pages.iter().map(|page| page.len()).max().unwrap();
    assert!(longest < 128 + 7 * 12, "{longest}");
}

proptest! {
    /// Goal: an address means one page, and a split moves it to the new page or not at all. Method: drawn addresses and numbers of pages.
    #[test]
    fn a_split_moves_rows_to_the_new_page_alone(address: u64, pages in 1_usize..5000) {
        let before = Rows::page_of(address, pages);
        let after = Rows::page_of(address, pages + 1);
        prop_assert!(before < pages);
        prop_assert!(after == before || after == pages);
        if after == pages {
            prop_assert_eq!(before, pages - (1 << pages.ilog2()));
        }
    }

    /// Goal: counts are never too low, are exact where nothing is shared, and follow from no order. Method: drawn meetings forwards and backwards, in many counters and in few.
    #[test]
    fn counts_are_never_too_low(ids in prop::collection::vec(0_u32..30, 1..300)) {
        for (counters, exact) in [(1 << 14, true), (4, false)] {
            let admission = Admission { counters, ..settings().admission };
            let mut counts = [Counting::new(&admission), Counting::new(&admission)];
            for id in &ids {
                counts[0].add(key(*id), 3, 1);
            }
            for id in ids.iter().rev() {
                counts[1].add(key(*id), 3, 1);
            }
            prop_assert_eq!(&counts[0], &counts[1]);
            for id in 0..30 {
                let met = ids.iter().filter(|other| **other == id).count().min(255) as u8;
                let counted = counts[0].clone().add(key(id), 3, 0);
                prop_assert!(counted >= met);
                prop_assert!(!exact || counted == met);
            }
        }
    }
}

/// Goal: counts stop at 255 and are halved after a window. Method: one id, more meetings than a counter holds; then a table with a short window.
#[test]
fn counts_are_bounded_and_forget() {
    let mut counting = Counting::new(&settings().admission);
    assert_eq!(counting.add(key(1), 3, 200), 200);
    assert_eq!(counting.add(key(1), 3, 100), 255);
    assert!(counting.is_over(300) && !counting.is_over(301));
    counting.halve();
    assert_eq!(counting.add(key(1), 3, 0), 127);
    assert!(!counting.is_over(1));

    let mut settings = settings();
    settings.admission = Admission {
        count: 3,
        counters: 1 << 12,
        window: 4,
    };
    let mut table = Table::new(settings).unwrap();
    let mut meet = |ids: &[u32]| table.meet(&keys(ids.iter().copied()), 0, |_| None).unwrap();
    // 2 of the first; two others end the window; then it stands at 1 and needs two more.
    assert_eq!(meet(&[1, 1, 2, 3]).admitted, 0);
    assert_eq!(meet(&[1]).admitted, 0);
    assert_eq!(meet(&[1]).admitted, 1);
}
