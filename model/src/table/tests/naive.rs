//! A table against a plain map that keeps the same rules in the plainest way.

use std::collections::BTreeMap;

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    values: Vec<f32>,
    sum: f32,
    hour: u32,
}

/// The plain map.
#[derive(Clone, Debug)]
struct Naive {
    settings: TableSettings,
    rows: BTreeMap<RowKey, Row>,
    counts: BTreeMap<RowKey, usize>,
    unknown: Row,
}

impl Naive {
    fn new(settings: TableSettings) -> Self {
        let unknown = Row {
            values: vec![0.0; settings.width],
            sum: settings.learning.start,
            hour: 0,
        };
        Self {
            settings,
            rows: BTreeMap::new(),
            counts: BTreeMap::new(),
            unknown,
        }
    }

    fn meet(&mut self, keys: &[RowKey], hour: u32, start: impl Fn(RowKey) -> Vec<f32>) -> Met {
        let mut often = Vec::new();
        for key in keys {
            if let Some(row) = self.rows.get_mut(key) {
                row.hour = row.hour.max(hour);
                continue;
            }
            *self.counts.entry(*key).or_default() += 1;
        }
        for key in keys {
            let enough = self.counts.get(key).copied().unwrap_or_default()
                >= self.settings.admission.count as usize;
            if enough && !self.rows.contains_key(key) && !often.contains(key) {
                often.push(*key);
            }
        }
        let place = |key: &RowKey| (key.address(self.settings.seed), *key);
        often.sort_by_key(place);
        let room = self.settings.rows_max();
        let mut met = Met {
            refused: often.len().saturating_sub(room),
            ..Met::default()
        };
        often.truncate(room);
        let over = (self.rows.len() + often.len()).saturating_sub(room);
        if over > 0 {
            let mut old: Vec<RowKey> = self.rows.keys().copied().collect();
            old.sort_by_key(|key| (self.rows[key].hour, place(key)));
            for key in old.iter().take(over.max(room / 64)) {
                self.rows.remove(key);
                met.dropped += 1;
            }
        }
        for key in often {
            let row = Row {
                values: start(key),
                sum: self.settings.learning.start,
                hour,
            };
            self.rows.insert(key, row);
            met.admitted += 1;
        }
        met
    }

    fn expire(&mut self, now: u32) -> usize {
        let before = self.rows.len();
        let expiry = self.settings.expiry.unwrap_or(u32::MAX);
        self.rows
            .retain(|_, row| u64::from(row.hour) + u64::from(expiry) >= u64::from(now));
        before - self.rows.len()
    }

    /// Sums by row in the order of positions, then moves each.
    fn learn(&mut self, keys: &[RowKey], dropout: Option<Dropout>, scale: f32) {
        let width = self.settings.width;
        let mut sums: BTreeMap<Option<RowKey>, Vec<f32>> = BTreeMap::new();
        for (position, key) in keys.iter().enumerate() {
            let out = dropout.is_some_and(|dropout| dropout.drops(position as u32));
            let row = (!out && self.rows.contains_key(key)).then_some(*key);
            let sum = sums.entry(row).or_insert_with(|| vec![0.0; width]);
            for at in 0..width {
                sum[at] += scale * (((position * width + at) % 7) as f32 - 2.5);
            }
        }
        let learning = self.settings.learning;
        for (key, gradient) in sums {
            let row = match key {
                Some(key) => self.rows.get_mut(&key).unwrap(),
                None => &mut self.unknown,
            };
            let squares: f32 = gradient.iter().map(|one| one * one).sum();
            row.sum = row.sum * learning.memory + squares / width as f32;
            for (value, one) in row.values.iter_mut().zip(gradient) {
                *value -= learning.rate / (row.sum.sqrt() + learning.epsilon) * one;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Do {
    Meet(Vec<u32>, u32),
    Learn(Vec<u32>, bool),
    Expire(u32),
    Snapshot,
    Resume,
}

fn doing() -> impl Strategy<Value = Vec<Do>> {
    let ids = || prop::collection::vec(0_u32..400, 1..120);
    let one = prop_oneof![
        4 => (ids(), 0_u32..40).prop_map(|(ids, hour)| Do::Meet(ids, hour)),
        3 => (ids(), any::<bool>()).prop_map(|(ids, out)| Do::Learn(ids, out)),
        1 => (0_u32..60).prop_map(Do::Expire),
        1 => Just(Do::Snapshot),
        1 => Just(Do::Resume),
    ];
    prop::collection::vec(one, 1..30)
}

/// What a new row of a key begins with: of some ids a vector made of their text, of others none.
fn text(key: RowKey) -> Option<Vec<f32>> {
    let first = key.to_bytes()[1];
    first
        .is_multiple_of(2)
        .then(|| vec![f32::from(first) / 8.0, -1.0, 0.25])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Goal: lookups, steps, admission, expiry and the cap are those of the plain map; a snapshot stays what it was. Method: drawn histories, all rows compared to the bit after each deed, and every
    /// snapshot with its bits of then at the end.
    #[test]
    fn a_table_is_a_plain_map(
        deeds in doing(),
        count in 1_u8..4,
        rows in prop_oneof![Just(1_u64), 20_u64..300],
        expiry in prop_oneof![Just(None), (0_u32..20).prop_map(Some)],
        start in prop_oneof![Just(0.0_f32), Just(0.5)],
    ) {
        let mut settings = room(rows);
        settings.admission.count = count;
        settings.expiry = expiry;
        settings.learning.start = start;
        let mut table = Table::new(settings).unwrap();
        let mut naive = Naive::new(settings);
        let mut snapshots = Vec::new();
        for (step, deed) in deeds.into_iter().enumerate() {
            match deed {
                Do::Meet(ids, hour) => {
                    let keys = keys(ids);
                    let first = |key: RowKey| {
                        let mut first = table.rows().first(key, settings.spread, 0.0);
                        first.truncate(3);
                        text(key).unwrap_or(first)
                    };
                    let expected = naive.meet(&keys, hour, first);
                    let met = table.meet(&keys, hour, |position| text(keys[position])).unwrap();
                    prop_assert_eq!(met, expected);
                }
                Do::Learn(ids, out) => {
                    let dropout = out.then_some(Dropout { rate: 0.3, seed: 5, step: step as u64 });
                    let keys = keys(ids);
                    naive.learn(&keys, dropout, 0.5);
                    let stepped = learn(&mut table, &keys, dropout, 0.5);
                    prop_assert_eq!(stepped.refused + stepped.gone, 0);
                }
                Do::Expire(now) => prop_assert_eq!(table.expire(now), naive.expire(now)),
                Do::Snapshot => {
                    let snapshot = table.snapshot();
                    let bits = bits(&snapshot);
                    snapshots.push((snapshot, bits));
                }
                Do::Resume => table = Table::resume(settings, &table.snapshot()).unwrap(),
            }
            let snapshot = table.snapshot();
            prop_assert_eq!(snapshot.len(), naive.rows.len());
            prop_assert_eq!(snapshot.rows.pages.len(), naive.rows.len().div_ceil(ROWS_IN_PAGE).max(1));
            prop_assert_eq!(snapshot.unknown(), &naive.unknown.values[..]);
            for id in 0..400 {
                let expected = naive.rows.get(&key(id));
                prop_assert_eq!(snapshot.row(key(id)), expected.map(|row| &row.values[..]));
                let (page, at) = snapshot.rows.find(key(id));
                let page = &snapshot.rows.pages[page];
                let sum_and_hour = at.map(|at| (page.row(at, 3).1, page.touched()[at]));
                prop_assert_eq!(sum_and_hour, expected.map(|row| (row.sum, row.hour)));
            }
        }
        for (snapshot, then) in snapshots {
            prop_assert_eq!(bits(&snapshot), then);
        }
    }

    /// Goal: the same ids met in another order are the same lookups and the same bytes. Method: drawn ids, forwards, backwards and all at once, then some dropped again by expiry.
    #[test]
    fn order_leaves_no_trace(ids in prop::collection::btree_set(0_u32..5000, 1..700), now in 0_u32..8) {
        let mut settings = settings();
        settings.expiry = Some(1);
        let ids: Vec<u32> = ids.into_iter().collect();
        let mut tables = [
            met(settings, ids.iter().copied()),
            met(settings, ids.iter().rev().copied()),
            Table::new(settings).unwrap(),
        ];
        for hour in 0..5 {
            let some: Vec<u32> = ids.iter().copied().filter(|id| id % 5 == hour).collect();
            tables[2].meet(&keys(some), hour, |_| None).unwrap();
        }
        for table in &mut tables {
            table.expire(now);
        }
        // Whoever never had the dropped rows has the same bytes, too.
        let stay = ids.iter().copied().filter(|id| id % 5 + 1 >= now);
        let expected = bits(&met(settings, stay).snapshot());
        for table in &tables {
            prop_assert_eq!(&bits(&table.snapshot()), &expected);
        }
    }
}
