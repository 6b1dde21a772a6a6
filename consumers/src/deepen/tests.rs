//! Vectors that grow with their sequences against vectors computed whole, whatever happens in between.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_config::Config;
use headwater_model::bahe::{DeepConfig, Described, Head, HeadConfig, Layers, Objective};
use headwater_model::language::{DecoderConfig, Family, Kernels};
use headwater_model::{Device, Tensor};
use headwater_state::{
    Behavior, Coordinates, DEEP_VECTORS, KindId, MemoryStores, Partition, ScenarioId, Sequence,
    SequenceId, Settings, Stores, Timestamp, VECTORS, read_vector, vector_bytes,
};
use proptest::prelude::*;

use super::*;
use crate::assemble::Assembler;
use crate::metrics::Metrics;

const WIDTH: usize = 8;
const LIMIT: usize = 8;
const USERS: [&str; 3] = ["a", "b", "c"];
const SEQUENCES: [&str; 2] = ["one", "two"];
const ENCODER: CurrentEncoder = CurrentEncoder {
    id: EncoderId([9; 16]),
    width: WIDTH as u16,
};

fn model(seed: u64) -> Arc<BaheModel> {
    let config = Config::from_toml("").unwrap();
    let assembler = Assembler::new(&config).unwrap();
    let schema = assembler.schema();
    let blocks = DecoderConfig {
        family: Family::Llama,
        layers: 2,
        width: WIDTH,
        inner: 12,
        heads: 2,
        kv_heads: 1,
        head_width: 4,
        vocabulary: 1,
        positions_max: LIMIT + 1,
        rope_base: 10_000.0,
        norm_epsilon: 1e-5,
        first_token: 0,
        tied: true,
    };
    let head = HeadConfig {
        width: WIDTH,
        sequences: SEQUENCES.len(),
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
    let mut values = Head::random(&head, seed).unwrap();
    let deep = DeepConfig {
        blocks: blocks.clone(),
        sequences: SEQUENCES.len(),
        limit: LIMIT,
    };
    values.extend(Deep::random(&deep, seed).unwrap());
    // Gaps begin as zeros, and would say nothing.
    let gaps: Vec<f32> = (0..32 * WIDTH)
        .map(|place| (place as f32 * 0.37).sin())
        .collect();
    let gaps = Tensor::from_vec(gaps, (32, WIDTH), &Device::Cpu).unwrap();
    values.insert("gaps".to_owned(), gaps);
    let described = Described {
        layers: (Layers::Deep, Some(blocks)),
        encoder: (Some("09".repeat(32)), 1),
        limit: LIMIT,
        sequences: SEQUENCES.map(str::to_owned).to_vec(),
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
    Arc::new(BaheModel::of(described, schema, &values).unwrap())
}

fn text(number: u8) -> TextHash {
    [number + 1; 16]
}

/// The vector of a text, as it is kept: in 16 bits.
fn vector_of(number: u8) -> Vec<f32> {
    let at = |place: usize| (f32::from(number) * 1.7 + place as f32 * 2.3).sin();
    let whole: Vec<f32> = (0..WIDTH).map(at).collect();
    read_vector(&vector_bytes(&whole)).unwrap()
}

/// The vector of a run's first behaviors, computed whole.
fn whole(model: &BaheModel, sequence: &Sequence, count: usize) -> Vec<f32> {
    let entries = &sequence.entries()[..count];
    let vectors: Vec<f32> = entries
        .iter()
        .flat_map(|entry| vector_of(entry.text[0] - 1))
        .collect();
    let mut gaps = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| entries[before].time);
        gaps.push(gap_of(before.map(|before| entry.time.since(before))));
    }
    let vectors = Tensor::from_vec(vectors, (1, count, WIDTH), &Device::Cpu).unwrap();
    let gaps = Tensor::from_vec(gaps, (1, count), &Device::Cpu).unwrap();
    let deep = model.deep().unwrap();
    let outputs = deep.outputs(&vectors, &gaps, Kernels::Fused).unwrap();
    let pooled = deep.pooled(&outputs, &[(0, count)], &[0]).unwrap();
    pooled.to_vec2().unwrap().remove(0)
}

/// One instance's, over stores that outlive it.
struct Instance {
    stores: MemoryStores,
    partition: Partition,
    texts: Arc<VectorTable>,
    metrics: Metrics,
    offset: i64,
}

impl Instance {
    fn new() -> Self {
        let stores = MemoryStores::default();
        let settings = Settings {
            recent_max: 4,
            memory: 1 << 20,
            keys_max: 0,
            allowed_lateness_ms: i64::MAX / 4,
            drop_late: false,
            sequence_max: LIMIT,
            labels: None,
        };
        Self {
            partition: Partition::open(stores.open(0).unwrap(), settings).unwrap(),
            texts: Arc::new(VectorTable::open(stores.open(VECTORS).unwrap(), 1 << 20).unwrap()),
            metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
            stores,
            offset: 0,
        }
    }

    fn encode(&self, texts: impl IntoIterator<Item = u8>) {
        let made: Vec<_> = texts
            .into_iter()
            .map(|number| (text(number), vector_of(number)))
            .collect();
        self.texts.insert(ENCODER, &made).unwrap();
    }

    /// The layers at work; `memory` is of runs.
    fn deepen(&self, model: &Arc<BaheModel>, memory: u64) -> Deepen {
        let store = self.stores.open(DEEP_VECTORS).unwrap();
        let vectors = DeepVectors::open(store, model, 2_000).unwrap();
        Deepen::new(
            Arc::clone(model),
            Arc::clone(&self.texts),
            Arc::new(vectors),
            memory,
            self.metrics.deep.clone(),
        )
    }

    fn fold(&mut self, user: &str, number: u8, time: i64, sequences: &[SequenceId]) {
        let at = Coordinates {
            offset: self.offset,
            index: 0,
        };
        self.offset += 1;
        let behavior = Behavior {
            at,
            time: Timestamp(time),
            event: 0,
            kind: KindId::of("click"),
            scenario: ScenarioId::of("home"),
            item: Some("i"),
            value: None,
            attributes: &[],
            text: Some(text(number)),
            sequences,
        };
        self.partition
            .fold(user, &behavior, &mut || [1; 16])
            .unwrap();
    }

    /// All runs there are.
    fn runs(&mut self) -> Vec<WantedRun> {
        let mut runs = Vec::new();
        for user in USERS {
            for (place, name) in SEQUENCES.iter().enumerate() {
                let known = self.partition.whole_user(user).unwrap();
                let sequence = known.and_then(|known| known.sequence(SequenceId::of(name)));
                if let Some(sequence) = sequence.cloned() {
                    runs.push(WantedRun {
                        user: user.into(),
                        place,
                        sequence,
                    });
                }
            }
        }
        runs
    }

    /// Holds all vectors that are valid against what is computed whole; gives how many are of all behaviors.
    fn check(&mut self, deepen: &Deepen) -> usize {
        let mut current = 0;
        for run in self.runs() {
            let sequence = &run.sequence;
            let (layers, id) = (deepen.vectors.layers.id, sequence.id());
            let found = deepen.vectors.users.get(layers, &run.user, id).unwrap();
            let found = found.into_iter().find(|found| {
                let count = found.count as usize;
                found.start == sequence.start()
                    && count <= sequence.entries().len()
                    && found.digest == sequence.digest(count)
            });
            let Some(found) = found else { continue };
            let count = found.count as usize;
            assert_eq!(found.newest, sequence.entries()[count - 1].time);
            let expected = whole(&deepen.model, sequence, count);
            for (found, expected) in found.vector.iter().zip(&expected) {
                // Keys, values and vectors are held in 16 bits.
                let off = (found - expected).abs();
                assert!(off < 5e-3 * expected.abs() + 2e-3, "{found} {expected}");
            }
            current += usize::from(count == sequence.entries().len());
        }
        current
    }
}

#[derive(Clone, Debug)]
enum Turn {
    /// A behavior: user, text, milliseconds after the newest (or before it), sequences.
    Behave(usize, u8, i64, u8),
    /// The layers work off what waits.
    Work,
    /// The process begins anew: its memory is gone.
    Restart,
    /// Another model, and back.
    Switch,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let behave = (0..USERS.len(), 0..12_u8, -5_000..20_000_i64, 1..4_u8);
    let behave = behave.prop_map(|(user, text, gap, of)| Turn::Behave(user, text, gap, of));
    let turn = prop_oneof![12 => behave, 6 => Just(Turn::Work), 1 => Just(Turn::Restart), 1 => Just(Turn::Switch)];
    prop::collection::vec(turn, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Goal: a vector that counts is that of its sequence's behaviors, computed whole, within a stated tolerance; and once nothing waits, all are current. Method:
    /// behaviors in order and late, of several users at once, runs that begin anew, memory for a run or two, restarts, another model and back.
    #[test]
    fn incremental_equals_recomputed(turns in turns()) {
        let mut instance = Instance::new();
        instance.encode(0..12);
        let models = [model(1), model(2)];
        let mut used = 0;
        let memory = 3_000;
        let mut deepen = instance.deepen(&models[used], memory);
        let asked = Asked::new(instance.metrics.deep.clone());
        let mut newest = 1_700_000_000_000;
        for turn in turns {
            match turn {
                Turn::Behave(user, number, gap, of) => {
                    let time = newest + gap;
                    newest = newest.max(time);
                    let sequences: Vec<SequenceId> = SEQUENCES
                        .iter()
                        .enumerate()
                        .filter(|(place, _)| of >> place & 1 == 1)
                        .map(|(_, name)| SequenceId::of(name))
                        .collect();
                    instance.fold(USERS[user], number, time, &sequences);
                    for run in instance.runs() {
                        if &*run.user == USERS[user] && sequences.contains(&run.sequence.id()) {
                            asked.run(&run.user, run.place, &run.sequence);
                        }
                    }
                }
                Turn::Work => {
                    let left = deepen.work(asked.take(2, Duration::ZERO)).unwrap();
                    prop_assert!(left.is_empty());
                }
                Turn::Restart => deepen = instance.deepen(&models[used], memory),
                Turn::Switch => {
                    used = 1 - used;
                    deepen = instance.deepen(&models[used], memory);
                }
            }
            instance.check(&deepen);
            prop_assert!(deepen.runs.bytes() as u64 <= memory);
        }
        // Rows ask for what is not current: here, for everything.
        for run in instance.runs() {
            asked.run(&run.user, run.place, &run.sequence);
        }
        while !asked.is_empty() {
            deepen.work(asked.take(2, Duration::ZERO)).unwrap();
        }
        let runs = instance.runs().len();
        prop_assert_eq!(instance.check(&deepen), runs);
    }
}

/// Goal: what lacks vectors of texts goes as far as they reach, and on when they come, whichever encoder is the current one. Method: a run of which the third
/// text has no vector, an item without one; then they have.
#[test]
fn what_lacks_texts_is_tried_again() {
    let mut instance = Instance::new();
    let model = model(1);
    let mut deepen = instance.deepen(&model, 1 << 20);
    let one = [SequenceId::of("one")];
    for number in 0..4 {
        instance.fold("a", number, 1_000 * i64::from(number), &one);
    }
    let asked = Asked::new(instance.metrics.deep.clone());
    let ask = |instance: &mut Instance| {
        for run in instance.runs() {
            asked.run(&run.user, run.place, &run.sequence);
        }
        asked.item(text(3));
        asked.take(9, Duration::ZERO)
    };
    // No encoder at all: all of it is left.
    let wanted = ask(&mut instance);
    let left = deepen.work(wanted).unwrap();
    assert_eq!((left.runs.len(), left.items.len()), (1, 1));
    instance.encode([0, 1, 3]);
    let made = deepen.work(left).unwrap();
    assert_eq!((made.runs.len(), made.items.len()), (1, 0));
    let layers = deepen.vectors.layers();
    let count = |deepen: &Deepen| {
        let found = deepen.vectors.users.get(layers.id, "a", one[0]).unwrap();
        found.first().map_or(0, |found| found.count)
    };
    assert_eq!(count(&deepen), 2);
    instance.encode([2]);
    assert!(deepen.work(made).unwrap().is_empty());
    assert_eq!((count(&deepen), instance.check(&deepen)), (4, 1));
    let runs = |outcome: &str| {
        let metric = &instance.metrics.deep.runs;
        metric.with_label_values(&[outcome]).get()
    };
    assert_eq!((runs("anew"), runs("held")), (1, 1));
    let Looked::Hit(item) = deepen.vectors.items.look(layers, &text(3)).unwrap() else {
        panic!("no vector of the item");
    };
    let expected = model
        .deep()
        .unwrap()
        .item_vectors(&[&vector_of(3)])
        .unwrap();
    for (found, expected) in item.iter().zip(&expected[0]) {
        assert!((found - expected).abs() < 1e-3 * expected.abs() + 1e-4);
    }
    // Another encoder is announced, which the layers do not take.
    let other = CurrentEncoder {
        id: EncoderId([8; 16]),
        ..ENCODER
    };
    instance.texts.insert(other, &[]).unwrap();
    instance.fold("a", 0, 9_000, &one);
    let wanted = ask(&mut instance);
    assert!(deepen.work(wanted).unwrap().is_empty());
    assert_eq!(count(&deepen), 5);
}

/// Goal: what waits is bounded and each thing waits once, the newest of it, the longest waiting first. Method: the same run twice, more runs than fit, and what
/// could not be made put back beside what was asked for anew.
#[test]
fn what_waits_is_bounded() {
    let mut instance = Instance::new();
    let one = [SequenceId::of("one")];
    let mut sequences = Vec::new();
    for number in 0..3 {
        instance.fold("a", number, i64::from(number), &one);
        sequences.push(instance.runs().remove(0).sequence);
    }
    let metrics = &instance.metrics.deep;
    let asked = Asked::new(metrics.clone());
    asked.run("b", 0, &sequences[0]);
    asked.run("a", 0, &sequences[0]);
    asked.run("b", 0, &sequences[1]);
    asked.item(text(1));
    asked.item(text(1));
    assert_eq!(asked.len(), 3);
    let taken = asked.take(1, Duration::ZERO);
    let first = &taken.runs[0];
    assert_eq!((&*first.user, first.sequence.entries().len()), ("b", 2));
    assert_eq!(taken.items, [text(1)]);
    asked.run("b", 0, &sequences[2]);
    asked.again(taken);
    let lengths: BTreeMap<String, usize> = asked
        .take(9, Duration::ZERO)
        .runs
        .iter()
        .map(|run| (run.user.to_string(), run.sequence.entries().len()))
        .collect();
    assert_eq!(lengths, BTreeMap::from([("a".into(), 1), ("b".into(), 3)]));
    assert!(asked.take(9, Duration::ZERO).items.is_empty());
    for number in 0..200_000 {
        asked.run(&format!("u{number}"), 0, &sequences[2]);
    }
    assert!(metrics.dropped.get() > 0);
    let waiting = asked.len();
    assert!((50_000..200_000).contains(&waiting), "{waiting}");
    asked.take(waiting, Duration::ZERO);
    assert!(asked.is_empty());
    asked.run("a", 0, &sequences[0]);
    assert_eq!(asked.len(), 1);
}
