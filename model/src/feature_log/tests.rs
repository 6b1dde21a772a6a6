//! What the feature log promises: its form, and rows that score again to the bit.

use proptest::prelude::*;

use super::*;
use crate::baseline::Baseline;
use crate::feature::{Counts, HalfLives, Level, LikenessSpec, TaskSpec, Translation};

fn schema() -> FeatureSchema {
    let lives = HalfLives {
        short_ms: Some(3_600_000),
        long_ms: None,
    };
    FeatureSchema::new(vec![TaskSpec {
        name: "click".to_owned(),
        definition: String::new(),
        item: lives,
        user: lives,
    }])
    .expect("the name is good")
}

const HEAD: LogHead<'_> = LogHead {
    model: Baseline::NAME,
    version: Baseline::VERSION,
    request_id: "r\"1",
    user: "p7",
    scenario: "news",
    item_state: 42,
    embeddings: None,
};

/// A batch of two candidates and its scores.
fn scored() -> (FeatureBatch, Scores) {
    let mut batch = FeatureBatch::new(&schema());
    batch.begin(1_700_000_000_000, 2);
    let counts = |trials, positives| Counts {
        trials,
        positives,
        expected: trials * 0.3,
        last_ms: 1_699_999_999_900,
        ..Counts::default()
    };
    batch.set_shared(Level::Global, 0, &counts(1_000.0, 100.1));
    batch.set_shared(Level::User, 0, &counts(3.0, 1.0));
    batch.set(0, Level::Item, 0, &counts(0.1, 0.025));
    batch.set(1, Level::UserItem, 0, &counts(1.0, 0.0));
    let mut scores = Scores::default();
    Baseline::default().score(&batch, &mut scores);
    (batch, scores)
}

fn written(batch: &FeatureBatch, scores: &Scores) -> Vec<u8> {
    let mut out = Vec::new();
    LoggedRequest::of(HEAD, &schema(), ["a", "b"], batch, scores)
        .write(&mut out)
        .expect("all numbers are finite");
    out
}

/// Goal: readers of the feature log find what the first version wrote. Method: the whole text of a logged request against the golden
/// file, which `BLESS=1` writes again.
#[test]
fn form_is_golden() {
    let (batch, scores) = scored();
    let text = String::from_utf8(written(&batch, &scores)).expect("JSON is UTF-8");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/feature_log/golden.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, format!("{text}\n")).expect("the sources can be written");
    }
    let held = std::fs::read_to_string(path).expect("the golden file is there");
    assert_eq!(text, held.trim_end());
}

/// Goal: a score can be computed again from its logged row. Method: write, read, score the read rows, compare bits.
#[test]
fn logged_rows_score_again_to_the_bit() {
    let (batch, scores) = scored();
    let bytes = written(&batch, &scores);
    let read = LoggedRequest::read(&bytes).expect("as written");
    assert_eq!(
        read,
        LoggedRequest::of(HEAD, &schema(), ["a", "b"], &batch, &scores)
    );
    let rows = read.rows(&schema()).expect("the same schema");
    assert_eq!(rows.len(), 2);
    for (candidate, row) in rows.enumerate() {
        let again = Baseline::default().explain(row, 0).probability;
        assert_eq!(again.to_bits(), scores.get(candidate, 0).to_bits());
        assert_eq!(
            again.to_bits(),
            read.candidates[candidate].scores[0].to_bits()
        );
    }
}

/// Goal: a record that cannot be used says why, with its request. Method: spoil one thing of a good record at a time.
#[test]
fn unusable_records_say_why() {
    let (batch, scores) = scored();
    let good = String::from_utf8(written(&batch, &scores)).expect("JSON is UTF-8");
    let why = |from: &str, to: &str| -> String {
        let spoilt = good.replacen(from, to, 1);
        assert_ne!(spoilt, good, "{from}");
        let answer = LoggedRequest::read(spoilt.as_bytes())
            .and_then(|read| read.rows(&schema()).map(|_| ()));
        answer.expect_err(from).to_string()
    };
    assert_eq!(
        why("\"format\":1", "\"format\":2"),
        "the record has form 2, this version reads form 1"
    );
    assert_eq!(
        why("\"time\"", "\"tine\""),
        "the record is no logged request"
    );
    let hash = format!("{:016x}", schema().hash());
    assert_eq!(
        why(&hash, "00000000000000ff"),
        format!("request r\"1 was logged under schema 00000000000000ff, not {hash}")
    );
    assert_eq!(
        why(&hash, "+0000000000000ff"),
        "the record is no logged request"
    );
    assert_eq!(
        why("\"shared\":[", "\"shared\":[1,"),
        "request r\"1: the shared part holds 13 numbers, its schema says 12"
    );
    assert_eq!(
        why("\"values\":[", "\"values\":[1,"),
        "request r\"1: values of item a holds 24 numbers, its schema says 23"
    );
    assert_eq!(
        why("\"scores\":[", "\"scores\":[1,"),
        "request r\"1: scores of item a holds 2 numbers, its schema says 1"
    );
    assert!(LoggedRequest::read(b"").is_err());
}

/// Goal: what JSON cannot hold is refused before a byte is written. Method: a NaN among the values.
#[test]
fn numbers_that_are_none_are_refused() {
    let (batch, scores) = scored();
    let mut logged = LoggedRequest::of(HEAD, &schema(), ["a", "b"], &batch, &scores);
    logged.candidates[1].values.to_mut()[3] = f32::NAN;
    let mut out = Vec::new();
    let error = logged.write(&mut out).expect_err("NaN has no JSON form");
    assert_eq!(
        error.to_string(),
        "request r\"1: values of item b holds a number that is not finite"
    );
    assert!(out.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Goal: every f32 comes back bit for bit. Method: random bit patterns, those that are no number left out.
    #[test]
    fn numbers_come_back_to_the_bit(bits in prop::collection::vec(any::<u32>(), 12)) {
        let (batch, scores) = scored();
        let mut logged = LoggedRequest::of(HEAD, &schema(), ["a", "b"], &batch, &scores);
        let numbers = bits.into_iter().map(f32::from_bits);
        let numbers: Vec<_> = numbers.map(|number| if number.is_finite() { number } else { 0.0 }).collect();
        logged.shared = numbers.clone().into();
        let mut out = Vec::new();
        logged.write(&mut out).expect("all numbers are finite");
        let read = LoggedRequest::read(&out).expect("as written");
        let as_bits = |list: &[f32]| list.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(as_bits(&read.shared), as_bits(&numbers));
    }
}

/// Goal: rows that were logged before a task and a likeness came are read as rows of today: what both have stays to the bit, what is new has its defaults, and so the baseline says the same of the old task. Method: a
/// logged request under one task, read under two and a likeness, by columns that went through JSON.
#[test]
fn rows_of_an_older_schema_are_read_as_those_of_a_newer() {
    let old = schema();
    let click = old.tasks()[0].clone();
    let buy = TaskSpec {
        name: "buy".to_owned(),
        ..click.clone()
    };
    let likeness = LikenessSpec {
        sequences: vec!["clicks".to_owned()],
        edges_ms: vec![1_000],
        definition: String::new(),
    };
    // In front of the old one: places move.
    let new = FeatureSchema::with_likeness(vec![buy, click], likeness).unwrap();
    let columns = serde_json::to_string(&old.columns()).unwrap();
    let translation = Translation::new(&serde_json::from_str(&columns).unwrap(), &new).unwrap();

    let (batch, scores) = scored();
    let bytes = written(&batch, &scores);
    let before = LoggedRequest::read(&bytes).unwrap();
    let mut after = before.clone();
    translation.apply(&mut after).unwrap();

    let rows: Vec<_> = before.rows(&old).unwrap().collect();
    let translated: Vec<_> = after.rows(&new).unwrap().collect();
    assert_eq!(rows.len(), translated.len());
    for (row, translated) in rows.iter().zip(&translated) {
        for (features, olds, numbers, old_numbers) in [
            (new.shared(), old.shared(), translated.shared, row.shared),
            (new.own(), old.own(), translated.own, row.own),
        ] {
            for (feature, number) in features.iter().zip(numbers) {
                let place = olds.iter().position(|old| old.name == feature.name);
                let expected = place.map_or(feature.default(), |place| old_numbers[place]);
                assert_eq!(number.to_bits(), expected.to_bits(), "{}", feature.name);
            }
        }
        let baseline = Baseline::default();
        let said = [baseline.explain(*row, 0), baseline.explain(*translated, 1)];
        let [before, after] = said.map(|said| said.probability);
        assert!((before - after).abs() < 1e-6, "{before} {after}");
    }
    let narrow = Translation::new(&new.columns(), &old).unwrap();
    narrow.apply(&mut after).unwrap();
    let back: Vec<_> = after.rows(&old).unwrap().collect();
    assert_eq!(
        back, rows,
        "and back, without what the older schema has not"
    );
    let mut short = before.clone();
    short.shared = vec![0.0; 3].into();
    let error = translation.apply(&mut short).unwrap_err();
    assert!(
        matches!(error, FeatureLogError::Width { found: 3, .. }),
        "{error}"
    );
}

/// Goal: a task that counts other things under the same name is not taken for what it was. Method: another definition, another half-life.
#[test]
fn a_task_that_counts_other_things_has_no_rows_from_before() {
    let old = schema();
    let mut defined = old.tasks()[0].clone();
    defined.definition = "other kinds".to_owned();
    let mut faster = old.tasks()[0].clone();
    faster.item.short_ms = Some(1_000);
    for task in [defined, faster] {
        let new = FeatureSchema::new(vec![task]).unwrap();
        let refused = Translation::new(&old.columns(), &new).unwrap_err();
        assert_eq!(refused, "click.global.trials");
    }
    assert!(Translation::new(&old.columns(), &old).is_ok());
}
