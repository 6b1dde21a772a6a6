//! Runs as rows have them, and vectors on a log in memory.

use headwater_consumers::log::local::{LocalLog, Options};
use headwater_consumers::log::{Outgoing, TopicPartition, TopicSpec};
use headwater_model::bahe::gap_of;
use headwater_state::vector_bytes;

use super::*;
use crate::world::unix_ms;

/// The text of a name.
pub(in crate::train) fn hash(name: u8) -> TextHash {
    [name; 16]
}

/// A log whose topic of vectors has these records, by encoder and text.
pub(in crate::train) fn published(
    records: impl IntoIterator<Item = (EncoderId, u8, Option<Vec<u8>>)>,
) -> LocalLog {
    let log = LocalLog::in_memory(Options::new(unix_ms));
    let spec = TopicSpec {
        topic: Topic::Embeddings,
        partitions: 2,
        replication_factor: 1,
        min_insync_replicas: 1,
    };
    log.create(&spec).unwrap();
    let mut producer = log.producer().unwrap();
    for (encoder, text, value) in records {
        let key = VectorKey::Vector(encoder, hash(text)).bytes();
        let outgoing = Outgoing {
            to: TopicPartition::new(Topic::Embeddings, i32::from(text % 2)),
            key: Some(&key),
            value: value.as_deref(),
            headers: &[],
        };
        producer.send(outgoing).unwrap();
    }
    producer.flush().unwrap();
    log
}

/// What a row of one sequence says that it saw.
fn vectors(start: u64, texts: &[u8], gaps: &[u8]) -> LoggedVectors<'static> {
    let hashes: Vec<u8> = texts.iter().flat_map(|name| hash(*name)).collect();
    LoggedVectors {
        layers: "cd".into(),
        towers: "".into(),
        sequences: vec![LoggedSequence {
            name: "clicks".into(),
            start,
            length: texts.len(),
            used: texts.len(),
            texts: BASE64_STANDARD.encode(hashes).into(),
            gaps: gaps.to_vec().into(),
        }],
        users: Vec::new().into(),
    }
}

/// Goal: where nobody looked at texts a row's run is whole, and where a vector was made of a part of it, that part. Method: a row of two behaviors of which none, one and both are in a vector, told by layers and by nobody.
#[test]
fn where_nobody_looked_runs_are_whole() {
    for (used, layers, counted) in [(0, "cd", 0), (1, "cd", 1), (2, "cd", 2), (0, "", 2)] {
        let mut told = vectors(0, &[1, 2], &[0, 3]);
        told.layers = layers.into();
        told.sequences[0].used = used;
        let mut runs = none();
        let saw = runs.take("a", &told).unwrap().unwrap();
        assert_eq!(saw.counts, [counted], "{used} by `{layers}`");
        assert_eq!(runs.histories()[0].texts.len(), counted as usize);
    }
}

fn none() -> Runs {
    Runs::new(&["clicks".to_owned()], 4)
}

/// Goal: rows that see more and more of what a user did, and a run that began anew, are one history, and each row sees what it saw; a behavior that came late begins another, and so does a hole; another user's is their own.
/// Method: rows of one user and of another; the history that each has, what it counts, and the texts and gaps of its run.
#[test]
fn runs_of_a_user_are_put_together() {
    let none_before = u8::try_from(gap_of(None)).unwrap();
    let mut runs = none();
    let mut take = |user: &str, start: u64, texts: &[u8], gaps: &[u8]| {
        let saw = runs.take(user, &vectors(start, texts, gaps));
        saw.unwrap().map(|saw| (saw.histories, saw.counts[0]))
    };
    assert_eq!(take("a", 0, &[], &[]), Some((0, 0)));
    assert_eq!(take("a", 0, &[1, 2], &[none_before, 3]), Some((0, 2)));
    assert_eq!(take("b", 0, &[1], &[none_before]), Some((1, 1)));
    assert_eq!(take("a", 0, &[1, 2, 1], &[none_before, 3, 4]), Some((0, 3)));
    // Begun anew with its newest half, at four: the third's gap is known from before.
    assert_eq!(take("a", 2, &[1, 5], &[none_before, 6]), Some((0, 4)));
    // A row that is older than another sees less.
    assert_eq!(take("a", 0, &[1], &[none_before]), Some((0, 1)));
    // What was second before is third now.
    assert_eq!(take("a", 2, &[9, 1, 5], &[none_before, 1, 6]), Some((2, 5)));
    assert_eq!(take("a", 8, &[7, 7], &[none_before, 2]), Some((3, 10)));
    // Without a vector it saw an empty sequence, also behind a run that began anew.
    assert_eq!(take("a", 10, &[], &[]), Some((3, 0)));
    assert_eq!(take("c", 4, &[], &[]), Some((4, 0)));
    assert_eq!(take("c", 0, &[7], &[none_before]), Some((5, 1)));
    let (names, asked) = runs.texts();
    assert_eq!((names.len(), asked), (1 + 5, 2 + 1 + 3 + 2 + 1 + 3 + 2 + 1));
    assert_eq!(names[1], "01".repeat(16));
    let [one, two, five, nine, seven] = [1, 2, 3, 4, 5];
    let histories = runs.histories();
    let told: Vec<(u64, Vec<u32>, Vec<u32>)> = histories
        .into_iter()
        .map(|of| (of.start, of.texts, of.gaps))
        .collect();
    assert_eq!(
        told,
        [
            (0, vec![one, two, one, five], vec![0, 3, 4, 6]),
            (0, vec![one], vec![0]),
            (2, vec![nine, one, five], vec![0, 1, 6]),
            (8, vec![seven, seven], vec![0, 2]),
            (4, Vec::new(), Vec::new()),
            (0, vec![seven], vec![0]),
        ]
    );
}

/// Goal: by a smaller limit a row sees less of its run, and by a larger one nothing if its run would begin before what rows hold; a row that lacks a sequence, or a candidate's text, is none; no text is a text.
/// Method: the same run by limits of two and of eight; rows of another sequence; candidates.
#[test]
fn what_rows_do_not_hold_is_not_made_up() {
    let of = |limit: usize| {
        let mut runs = Runs::new(&["clicks".to_owned()], limit);
        let saw = runs.take("a", &vectors(2, &[1, 2, 3], &[0, 1, 1])).unwrap();
        saw.map(|saw| saw.counts[0])
    };
    assert_eq!([of(4), of(2), of(8)], [Some(5), Some(5), None]);
    let mut others = Runs::new(&["purchases".to_owned()], 4);
    let taken = others.take("a", &vectors(0, &[1], &[0])).unwrap();
    assert!(taken.is_none());
    let mut runs = none();
    let mut item = |text: Option<&str>| {
        runs.item(&LoggedCandidate {
            item_id: "i1".into(),
            values: Vec::new().into(),
            vector: Vec::new().into(),
            text: text.map(|text| text.to_owned().into()),
            groups: Vec::new(),
            scores: Vec::new().into(),
        })
    };
    assert_eq!(item(None), Ok(None));
    assert_eq!(item(Some("")), Ok(Some(0)));
    assert_eq!(item(Some(&BASE64_STANDARD.encode(hash(3)))), Ok(Some(1)));
    assert_eq!(
        item(Some("not one")),
        Err("the text of item i1 is no hash: `not one`".to_owned())
    );
}

/// Goal: a row whose run is not whole is refused with what is wrong. Method: too few hashes, gaps, a kind of gap that is none, what is no base64, and a start behind all numbers.
#[test]
fn a_damaged_run_is_refused() {
    let whole = vectors(0, &[1, 2], &[0, 1]);
    assert!(none().take("a", &whole).unwrap().is_some());
    let damaged = |change: &dyn Fn(&mut LoggedSequence<'static>)| {
        let mut vectors = whole.clone();
        change(&mut vectors.sequences[0]);
        none().take("a", &vectors).unwrap_err()
    };
    let wrong = "the run of sequence `clicks` is not whole: ";
    let hashes = damaged(&|of| of.texts = BASE64_STANDARD.encode([1; 17]).into());
    assert_eq!(
        hashes,
        format!("{wrong}2 behaviors, 2 of them used, 1 hashes, 2 gaps")
    );
    let gaps = damaged(&|of| of.gaps = vec![0].into());
    assert_eq!(
        gaps,
        format!("{wrong}2 behaviors, 2 of them used, 2 hashes, 1 gaps")
    );
    let used = damaged(&|of| of.used = 3);
    assert_eq!(
        used,
        format!("{wrong}2 behaviors, 3 of them used, 2 hashes, 2 gaps")
    );
    let many = damaged(&|of| of.start = u64::MAX - 1);
    assert!(many.contains("nobody has so many"), "{many}");
    let text = damaged(&|of| of.texts = "?".into());
    assert_eq!(
        text,
        format!("{wrong}2 behaviors, 2 of them used, 0 hashes, 2 gaps")
    );
    assert!(damaged(&|of| of.gaps = vec![0, GAPS as u8].into()).starts_with(wrong));
}

/// Goal: vectors are those of the encoder that is asked for, the newest of each text; a row is whole if all that it sees is there, and not for what lies before its run or behind it.
/// Method: a topic of two encoders' vectors, of one that was deleted, of one of another width, of one that is damaged and of one that is so later; rows that see them.
#[test]
fn vectors_come_from_their_topic() {
    let config = Config::from_toml("").unwrap();
    let [ours, other] = [EncoderId([1; 16]), EncoderId([2; 16])];
    let of = |value: f32| Some(vector_bytes(&[value, 2.0 * value]));
    let damaged = Some(b"no vector".to_vec());
    let log = published([
        (ours, 1, of(0.5)),
        (ours, 1, of(1.0)),
        (other, 1, of(9.0)),
        (ours, 2, of(2.0)),
        (ours, 2, None),
        (ours, 3, Some(vector_bytes(&[3.0]))),
        (ours, 4, damaged.clone()),
        (other, 5, of(5.0)),
        (ours, 6, of(6.0)),
        // Passed over: what was there before stays.
        (ours, 6, damaged),
    ]);
    let mut runs = none();
    let mut take = |texts: &[u8]| {
        let gaps = vec![1; texts.len()];
        runs.take("a", &vectors(0, texts, &gaps)).unwrap().unwrap()
    };
    let saw = [
        take(&[1]),
        take(&[1, 6]),
        take(&[1, 6, 3]),
        take(&[1, 6, 3, 1]),
        take(&[2]),
        take(&[4]),
        take(&[5]),
    ];
    let found = runs.vectors((&config, &log), (ours, 2), false).unwrap();
    assert_eq!(found.flat[..6], [0.0, 0.0, 1.0, 2.0, 6.0, 12.0]);
    let whole = saw.map(|saw| runs.is_whole(&found, &saw, 0));
    // Of four behaviors the newest half is seen.
    assert_eq!(whole, [true, true, false, false, false, false, false]);
    let mut late = take_of(&mut runs, 2, &[3, 1, 6, 6]);
    assert!(runs.is_whole(&found, &late, 1));
    assert!(!runs.is_whole(&found, &late, 3));
    late.counts[0] -= 1;
    assert!(!runs.is_whole(&found, &late, 1));
}

fn take_of(runs: &mut Runs, start: u64, texts: &[u8]) -> Saw {
    let gaps = vec![1; texts.len()];
    let saw = runs.take("b", &vectors(start, texts, &gaps));
    saw.unwrap().unwrap()
}
