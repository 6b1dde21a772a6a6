//! What a feature batch promises: its layout, and numbers that come back as they were set.

use proptest::prelude::*;

use super::*;

const NONE: HalfLives = HalfLives {
    short_ms: None,
    long_ms: None,
};

fn task(name: &str) -> TaskSpec {
    TaskSpec {
        name: name.to_owned(),
        definition: "positives click, trials impression".to_owned(),
        item: NONE,
        user: NONE,
    }
}

fn schema(names: &[&str]) -> FeatureSchema {
    FeatureSchema::new(names.iter().map(|name| task(name)).collect()).expect("the names are good")
}

/// Goal: the layout cannot change unnoticed. Method: the names of all features and the schema's hash, as they were
/// written by the first version; a change here means that logged rows of old cannot be read any more.
#[test]
fn layout_is_golden() {
    let schema = schema(&["click"]);
    let names = |features: &[Feature]| -> Vec<String> {
        features
            .iter()
            .map(|feature| feature.name.clone())
            .collect()
    };
    assert_eq!(
        names(schema.shared()).join(" "),
        "click.global.trials click.global.positives click.scenario.trials click.scenario.positives click.user.trials \
         click.user.positives click.user.expected click.user.unmatched click.user.recent_trials \
         click.user.recent_positives click.user.recent_expected click.user.idle"
    );
    assert_eq!(
        names(schema.own()).join(" "),
        "click.category.trials click.category.positives click.item_anywhere.trials click.item_anywhere.positives \
         click.item.trials click.item.positives click.item.recent_trials click.item.recent_positives click.item.idle \
         click.user_category.trials click.user_category.positives click.user_category.expected \
         click.user_category.unmatched click.user_category.idle click.user_attribute.trials \
         click.user_attribute.positives click.user_attribute.expected click.user_attribute.unmatched \
         click.user_attribute.idle click.user_item.trials click.user_item.positives click.user_item.unmatched \
         click.user_item.idle"
    );
    assert_eq!(format!("{:016x}", schema.hash()), "d5fa673697b9c9d1");
}

/// Goal: rows that mean something else never pass for the same. Method: change one thing of the tasks at a time and
/// compare hashes; the same feature keeps its id in all of them.
#[test]
fn hash_follows_meaning() {
    let plain = schema(&["click", "like"]);
    let hash_with = |change: fn(&mut TaskSpec)| {
        let mut tasks = vec![task("click"), task("like")];
        change(&mut tasks[1]);
        FeatureSchema::new(tasks)
            .expect("the names are good")
            .hash()
    };
    assert_eq!(plain.hash(), hash_with(|_| {}));
    let others = [
        hash_with(|task| task.name = "share".to_owned()),
        hash_with(|task| task.definition.push('s')),
        hash_with(|task| task.item.short_ms = Some(1)),
        hash_with(|task| task.item.long_ms = Some(1)),
        hash_with(|task| task.user.short_ms = Some(1)),
        hash_with(|task| task.user.long_ms = Some(1)),
        schema(&["like", "click"]).hash(),
        schema(&["click"]).hash(),
    ];
    for (place, hash) in others.iter().enumerate() {
        assert_ne!(*hash, plain.hash(), "change {place}");
        assert!(!others[..place].contains(hash), "change {place}");
    }
    assert_eq!(plain.own()[0].id, schema(&["click"]).own()[0].id);
    let mut ids: Vec<_> = plain
        .shared()
        .iter()
        .chain(plain.own())
        .map(|feature| feature.id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), plain.shared().len() + plain.own().len());
}

/// Goal: tasks that cannot be told apart, or make unreadable feature names, are refused. Method: one of each.
#[test]
fn bad_tasks_are_refused() {
    assert_eq!(FeatureSchema::new(vec![]), Err(FeatureSchemaError::NoTask));
    for name in ["", "Click", "a.b", "a b"] {
        assert_eq!(
            FeatureSchema::new(vec![task(name)]),
            Err(FeatureSchemaError::TaskName {
                name: name.to_owned()
            })
        );
    }
    let mut still = task("click");
    still.user.short_ms = Some(0);
    assert_eq!(
        FeatureSchema::new(vec![still]),
        Err(FeatureSchemaError::HalfLife {
            name: "click".to_owned()
        })
    );
    assert_eq!(
        FeatureSchema::new(vec![task("click"), task("click")]),
        Err(FeatureSchemaError::TaskTwice {
            name: "click".to_owned()
        })
    );
}

/// Goal: what is set is found under the feature's name, and nowhere else. Method: for each task and level set counts of
/// distinct numbers in an otherwise empty batch, and read every feature of every candidate by its place in the schema.
#[test]
fn set_numbers_lie_where_the_schema_says() {
    let schema = schema(&["click", "like", "share"]);
    let mut batch = FeatureBatch::new(&schema);
    let counts = Counts {
        trials: 1.0,
        positives: 2.0,
        expected: 3.0,
        unmatched: 4.0,
        recent_trials: 5.0,
        recent_positives: 6.0,
        recent_expected: 7.0,
        last_ms: 2_000,
    };
    for level in Level::ALL {
        for task in 0..3 {
            batch.begin(10_000, 4);
            if level.is_shared() {
                batch.set_shared(level, task, &counts);
            } else {
                batch.set(2, level, task, &counts);
            }
            for candidate in 0..4 {
                let row = batch.row(candidate);
                for (feature, value) in schema
                    .shared()
                    .iter()
                    .zip(row.shared)
                    .chain(schema.own().iter().zip(row.own))
                {
                    let Meaning::Counted {
                        task: of,
                        level: at,
                        quantity,
                    } = feature.meaning
                    else {
                        panic!("{} counts nothing", feature.name);
                    };
                    let here = at == level && of == task && (level.is_shared() || candidate == 2);
                    let expected = if here {
                        match quantity {
                            Idle => 8.0,
                            other => 1.0 + f32::from(other as u8),
                        }
                    } else {
                        feature.default()
                    };
                    assert_eq!(
                        value.to_bits(),
                        expected.to_bits(),
                        "{} of {candidate}",
                        feature.name
                    );
                    let got = row.get(at, of, quantity);
                    assert_eq!(got.to_bits(), expected.to_bits(), "{}", feature.name);
                }
            }
        }
    }
}

/// Goal: a batch can be used for ever without allocation. Method: the buffers' capacity after the largest request stays
/// through smaller and equal ones, and nothing of an earlier request is left.
#[test]
fn buffers_are_used_again() {
    let schema = schema(&["click"]);
    let mut batch = FeatureBatch::new(&schema);
    batch.begin(0, 100);
    let held = batch.capacity();
    for size in [1, 100, 0, 37] {
        batch.begin(5_000, size);
        assert_eq!((batch.len(), batch.is_empty()), (size, size == 0));
        assert!(
            batch
                .rows()
                .all(|row| row.get(Level::Item, 0, Trials) == 0.0)
        );
        for candidate in 0..size {
            let counts = Counts {
                trials: 3.0,
                ..Counts::default()
            };
            batch.set(candidate, Level::Item, 0, &counts);
        }
        assert_eq!(batch.capacity(), held);
    }
}

/// Goal: a caller's mistake is loud. Method: a shared level as a candidate's, the other way round, and two ranges.
#[test]
fn wrong_places_panic() {
    let calls: [fn(&mut FeatureBatch); 5] = [
        |batch| batch.set(0, Level::User, 0, &Counts::default()),
        |batch| batch.set_shared(Level::Item, 0, &Counts::default()),
        |batch| batch.set(2, Level::Item, 0, &Counts::default()),
        |batch| batch.set(0, Level::Item, 1, &Counts::default()),
        |batch| batch.set_shared(Level::User, 1, &Counts::default()),
    ];
    for (place, call) in calls.into_iter().enumerate() {
        let caught = std::panic::catch_unwind(|| {
            let mut batch = FeatureBatch::new(&schema(&["click"]));
            batch.begin(0, 2);
            call(&mut batch);
        });
        assert!(caught.is_err(), "call {place}");
    }
}

proptest! {
    /// Goal: an entry loses no positive, and none of the matched exceed the trials. Method: any counts of an entry.
    #[test]
    fn entries_part_positives(trials in 0_u16..500, positives in 0_u16..500, rate in 0.0_f32..1.0) {
        let (trials, positives) = (f32::from(trials), f32::from(positives));
        let counts = Counts::of_entry([trials, positives], [trials / 2.0, positives], rate, 7);
        prop_assert_eq!((counts.positives + counts.unmatched).to_bits(), positives.to_bits());
        prop_assert!(counts.positives <= counts.trials && counts.recent_positives <= counts.recent_trials);
        prop_assert!(counts.expected <= counts.trials && counts.recent_expected <= counts.recent_trials);
    }
}
