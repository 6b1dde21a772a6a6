//! What is made of rows' runs at once, held against what grows by a behavior at a time.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headwater_consumers::assemble::Assembler;
use headwater_model::bahe::{
    DeepConfig, Described, Head, HeadConfig, Layers, Objective, Taken, gap_of,
};
use headwater_model::language::{DecoderConfig, Family};
use headwater_model::{
    Device, FeatureBatch, FeatureSchema, LogHead, LoggedRequest, LoggedSequence, LoggedVectors,
    Policy, Scores, Tensor,
};
use headwater_state::{read_vector, vector_bytes};

use super::*;
use crate::train::runs::tests::{hash, published};

const WIDTH: usize = 8;
/// Behaviors of a run, by the layers that scored, and by those that look.
const THEIRS: u64 = 16;
const OURS: usize = 8;
const ENCODER: EncoderId = EncoderId([9; 16]);
/// A text that has no vector.
const LOST: u8 = 40;

fn model(schema: &FeatureSchema) -> BaheModel {
    let blocks = DecoderConfig {
        family: Family::Llama,
        layers: 2,
        width: WIDTH,
        inner: 12,
        heads: 2,
        kv_heads: 1,
        head_width: 4,
        vocabulary: 1,
        positions_max: OURS + 1,
        rope_base: 10_000.0,
        norm_epsilon: 1e-5,
        first_token: 0,
        tied: true,
    };
    let head = HeadConfig {
        width: WIDTH,
        sequences: 2,
        features: schema.shared().len() + schema.own().len(),
        tasks: schema.tasks().len(),
        projected: 4,
        inner: [6, 5],
        interest: 0,
        matches: 0,
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let deep = DeepConfig {
        blocks: blocks.clone(),
        sequences: 2,
        limit: OURS,
    };
    let mut values = Head::random(&head, 1).unwrap();
    values.extend(Deep::random(&deep, 2).unwrap());
    // Gaps and emptiness begin as zeros, and would say nothing.
    for (name, rows) in [("gaps", 32), ("empty", 2)] {
        let of = |place: usize| (place as f32 * 0.37).sin();
        let some = (0..rows * WIDTH).map(of).collect::<Vec<f32>>();
        assert!(values.contains_key(name), "{:?}", values.keys());
        let some = Tensor::from_vec(some, (rows, WIDTH), &Device::Cpu).unwrap();
        values.insert(name.to_owned(), some);
    }
    let described = Described {
        layers: (Layers::Deep, Some(blocks)),
        encoder: (Some("09".repeat(32)), 1),
        limit: OURS,
        sequences: ["two", "one"].map(str::to_owned).to_vec(),
        scenarios: Vec::new(),
        features: vec![[0.0, 1.0]; head.features],
        key_vectors: None,
        reads: headwater_model::dinmp::Reads::default(),
        head,
        objective: Objective::Labels,
        texts: Vec::new(),
        rows: [1, 0, 0],
        reached: None,
    };
    BaheModel::of(described, schema, &values).unwrap()
}

/// The vector of a text, as it is kept: in 16 bits.
fn vector_of(text: u8) -> Vec<f32> {
    let at = |place: usize| (f32::from(text) * 1.7 + place as f32 * 2.3).sin();
    let whole: Vec<f32> = (0..WIDTH).map(at).collect();
    read_vector(&vector_bytes(&whole)).unwrap()
}

/// What a user did: texts, and when.
type Done = Vec<(u8, i64)>;

/// A row that was scored by other layers, of runs that begin as theirs do.
fn row<'a>(
    (schema, request): (&FeatureSchema, &'a str),
    (user, done, behind): (&'a str, &[Done; 2], usize),
    texts: &[Option<u8>],
) -> LoggedRequest<'a> {
    let mut batch = FeatureBatch::new(schema);
    batch.begin(1_000_000, texts.len());
    let assembler = Assembler::new(&headwater_config::Config::from_toml("").unwrap()).unwrap();
    let mut scores = Scores::default();
    assembler.baseline().score(&batch, &mut scores);
    let encoder = ENCODER.to_string();
    let head = LogHead {
        model: "bahe",
        version: 1,
        request_id: request,
        user,
        scenario: "home",
        item_state: 0,
        embeddings: Some(&encoder),
    };
    let items: Vec<String> = (0..texts.len()).map(|at| format!("i{at}")).collect();
    let items = items.iter().map(String::as_str);
    let mut logged = LoggedRequest::of(head, schema, items, &batch, &scores);
    for (candidate, text) in logged.candidates.iter_mut().zip(texts) {
        let text = text.map_or_else(String::new, |text| BASE64_STANDARD.encode(hash(text)));
        candidate.text = Some(text.into());
    }
    let sequences = ["one", "two"].into_iter().zip(done).map(|(name, done)| {
        let start = start_of(done.len() as u64, THEIRS);
        let run = &done[start as usize..];
        let hashes: Vec<u8> = run.iter().flat_map(|(text, _)| hash(*text)).collect();
        LoggedSequence {
            name: name.into(),
            start,
            length: run.len(),
            used: run.len().saturating_sub(behind),
            texts: BASE64_STANDARD.encode(hashes).into(),
            gaps: gaps(run)
                .iter()
                .map(|gap| *gap as u8)
                .collect::<Vec<_>>()
                .into(),
        }
    });
    logged.vectors = Some(LoggedVectors {
        layers: "cd".into(),
        towers: "00".into(),
        sequences: sequences.collect(),
        users: Vec::new().into(),
    });
    let mut bytes = Vec::new();
    logged.write(&mut bytes).unwrap();
    // As a reader has it.
    LoggedRequest::read(bytes.leak()).unwrap()
}

fn gaps(run: &[(u8, i64)]) -> Vec<u32> {
    let before = std::iter::once(None).chain(run.iter().map(|(_, time)| Some(*time)));
    let both = run.iter().zip(before);
    both.map(|((_, time), before)| gap_of(before.map(|before| time - before)))
        .collect()
}

/// What the head would see of a user and of an item, by runs that grow by one behavior after the other.
fn grown(model: &BaheModel, done: &[Done; 2], item: Option<u8>) -> (Vec<f32>, Vec<f32>) {
    let deep = model.deep().unwrap();
    let vector = |run: &[(u8, i64)]| {
        let mut grown = deep.begin().unwrap();
        for ((text, _), gap) in run.iter().zip(gaps(run)) {
            let vector = vector_of(*text);
            let taken = Taken {
                run: 0,
                vector: &vector,
                gap,
            };
            deep.advance(&mut [&mut grown], &[taken]).unwrap();
        }
        grown.vector()
    };
    let mut row = RowVectors::default();
    model.scorer().begin(1, &mut row);
    // The model has them the other way round.
    for (sequence, done) in done.iter().rev().enumerate() {
        let start = start_of(done.len() as u64, OURS as u64) as usize;
        let seen = vector(&done[start..]).unwrap_or_else(|| deep.emptiness(sequence).unwrap());
        model.scorer().set_user(sequence, &seen, &mut row);
    }
    let item = match item {
        Some(text) => vector(&[(text, 0)]).unwrap(),
        None => deep.item_vectors(&[&[0.0; WIDTH]]).unwrap().swap_remove(0),
    };
    model.scorer().set_item(0, &item, &mut row);
    (row.users().to_vec(), row.item(0).unwrap().to_vec())
}

/// Goal: of rows that other layers scored, by longer runs and sequences in another order, a model sees what it would have seen in the stream; and of rows whose texts have no vector, nothing. Method: rows of three users whose sequences grow
/// over several beginnings of theirs and of ours, some of vectors that are a behavior behind, with candidates that have a text, none, and one without a vector; runs that grow by one behavior after the other.
#[test]
fn a_model_sees_what_it_would_have_seen() {
    let config = headwater_config::Config::from_toml("").unwrap();
    let texts = (0..60).filter(|text| *text != LOST);
    let log = published(texts.map(|text| (ENCODER, text, Some(vector_bytes(&vector_of(text))))));
    let schema = Assembler::new(&config).unwrap().schema().clone();
    let model = model(&schema);
    let mut sight = Sight::of(&model).unwrap();
    let mut rows = Vec::new();
    for (number, user) in ["a", "b", "c"].into_iter().enumerate() {
        let mut done: [Done; 2] = Default::default();
        for step in 0..45_usize {
            let texts = [Some((step % 30) as u8), None, Some(LOST)];
            let request = format!("{user}{step}").leak();
            // Now and then its vectors had not come so far.
            let behind = usize::from(step % 7 == 3);
            let logged = row((&schema, request), (user, &done, behind), &texts);
            let used = done
                .each_ref()
                .map(|done| done[..done.len().saturating_sub(behind)].to_vec());
            rows.push((logged, used, texts));
            let time = (step * step * 7_000 * (number + 1)) as i64;
            let text = (step * (number + 2) % 50) as u8;
            done[0].push((text, time));
            if step % 3 == number {
                done[1].push(((step % 20) as u8, time));
            }
        }
    }
    let named = |logged: &'static LoggedRequest<'static>, is_labelled: [bool; 3]| Matched {
        row: &logged.request_id,
        logged,
        policy: Policy::Scored,
        labels: is_labelled
            .map(|labelled| labelled.then(|| vec![Some((1.0, 1.0))]))
            .to_vec(),
    };
    let rows: &'static [_] = rows.leak();
    for (logged, ..) in rows {
        sight.take(&named(logged, [true; 3]));
    }
    sight.make((&config, &log), &|| false).unwrap();
    let (mut seen, mut unseen, mut furthest) = (0, 0, 0.0_f32);
    for (logged, done, texts) in rows {
        let of = named(logged, [true, true, false]);
        let of_run = |done: &Done| {
            let start = start_of(done.len() as u64, OURS as u64) as usize;
            done[start..].iter().any(|(text, _)| *text == LOST)
        };
        if done.iter().any(of_run) {
            assert!(!sight.has(&of), "{}", logged.request_id);
            assert_eq!(sight.saw(&of, 0), None);
            unseen += 1;
            continue;
        }
        assert!(sight.has(&of), "{}", logged.request_id);
        assert!(!sight.has(&named(logged, [true; 3])));
        assert_eq!(sight.saw(&of, 2), None);
        for (place, text) in texts[..2].iter().enumerate() {
            let (users, item) = sight.saw(&of, place).unwrap();
            let (expected, its) = grown(&model, done, *text);
            for (one, other) in users.iter().chain(item).zip(expected.iter().chain(&its)) {
                furthest = furthest.max((one - other).abs());
            }
            assert_eq!((users.len(), item.len()), (expected.len(), its.len()));
        }
        seen += 1;
    }
    // Keys and values of what grows are kept in 16 bits.
    assert!(furthest < 5e-3, "{furthest}");
    assert!(seen > 100 && unseen > 5, "{seen} {unseen}");
}
