//! What a step of learning costs that weighs all that users did (`ops/bench/learning` runs it beside `PyTorch`).
//!
//! ```text
//! learning FOLDER [cpu|cuda]     a JSON object a line for each number of keys; first values and batches go to FOLDER for learning.py
//! ```
//!
//! Each row has a request and a past of its own, as where one item is asked about at a time. No id is left out, so that another program can do the same steps.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use headwater_config::DeviceChoice;
use headwater_model::bahe::{
    AdamSettings, Corpus, Depth, Head, HeadConfig, History, Objective, Place, Position, Rows,
    TrainSettings, Trainer,
};
use headwater_model::device::{choose, memory_used, name};
use headwater_model::dinmp::{Asked, ItemKeys, Learning, Mark, RowSettings, Seen, WIDTH};
use headwater_model::language::to_safetensors;
use headwater_model::{DType, Device, KeyVectorSpec, Tensor};
use serde_json::json;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: [usize; 2] = [50, 300];
const ROWS: usize = 1_024;
const BATCHES: usize = 4;
const ITEMS: usize = 20_000;
const GROUPS: usize = 26;
const FEATURES: usize = 40;
const DAY: i64 = 86_400_000;
/// Steps that are held against the other program's, and those that are timed, in so many lots.
const HELD: usize = 8;
const LOT: usize = 8;
const LOTS: usize = 7;

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    /// Few of all items are met often.
    fn item(&mut self) -> usize {
        let part = self.below(1 << 20) as f64 / f64::from(1 << 20);
        (part * part * part * ITEMS as f64) as usize
    }
}

fn groups_of(number: usize) -> [usize; 2] {
    [number % 19, 19 + number % 7]
}

fn item(number: usize) -> ItemKeys {
    let groups = groups_of(number).map(|group| format!("group-{group}"));
    ItemKeys::of(&format!("i{number}"), groups.iter().map(|name| &**name))
}

/// Each row of a batch is of another user, whom the other batches have as well.
fn user(place: usize) -> String {
    place.to_string()
}

/// What a row's user did, and whom it asks about.
struct Row {
    atoms: Vec<(usize, Mark)>,
    candidate: usize,
    features: Vec<f32>,
    base: f32,
    label: f32,
}

impl Row {
    fn new(keys: usize, spec: &KeyVectorSpec, random: &mut Random) -> Self {
        let mut atoms = Vec::new();
        for key in 0..keys {
            let number = random.item();
            let stretch = random.below(5);
            for stretch in stretch..=stretch + key % 2 {
                let edge = stretch.checked_sub(1).map_or(0, |edge| spec.edges_ms[edge]);
                let age = edge + random.below(48) as i64 * DAY / 24;
                let mut counts = vec![(0, 1 + random.below(3) as u32)];
                if random.below(3) == 0 {
                    counts.push((2, 1));
                }
                atoms.push((number, Mark::new(stretch as u8, age, counts)));
            }
        }
        let mut number = || random.below(2_001) as f32 / 1_000.0 - 1.0;
        Self {
            atoms,
            features: (0..FEATURES).map(|_| number()).collect(),
            base: number(),
            label: f32::from(u8::from(number() > 0.3)),
            candidate: random.item(),
        }
    }
}

fn corpus(rows: &[Row]) -> Corpus {
    let (mut seen, mut columns) = (Seen::default(), Rows::default());
    for (place, row) in rows.iter().enumerate() {
        for (number, mark) in &row.atoms {
            let item = seen.item(item(*number));
            seen.atom(item, mark.clone());
        }
        let request = seen.end_request(&user(place % ROWS));
        let item = seen.item(item(row.candidate));
        columns.asked.push(Asked { request, item });
        columns.user.push(place as u32);
        columns.item.push(0);
        columns.features.extend(&row.features);
        columns.base.push(row.base);
        columns.labels.push(row.label);
        columns.weights.push(1.0);
    }
    Corpus {
        vectors: Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap(),
        histories: vec![History::default(); rows.len()],
        sequences: 0,
        scenarios: 0,
        features: FEATURES,
        tasks: vec!["click".to_owned()],
        seen,
        rows: columns,
    }
}

fn interest(spec: &KeyVectorSpec) -> Learning {
    let rows = RowSettings {
        rate: 0.05,
        dropout: 0.0,
        spread: 0.05,
        memory: 1 << 30,
        seed: 3,
    };
    Learning::new(spec.clone(), rows).unwrap()
}

/// First values of all tensors, and of rows of ids by number.
fn values(spec: &KeyVectorSpec) -> (HeadConfig, BTreeMap<String, Tensor>) {
    let mut learning = interest(spec);
    let head = HeadConfig {
        width: 0,
        sequences: 0,
        features: FEATURES,
        tasks: 1,
        projected: 1,
        inner: [128, 64],
        interest: learning.outputs(),
        matches: learning.matches(),
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let mut values = Head::random(&head, 1).unwrap();
    values.extend(learning.random(1).unwrap());
    let mut random = Random(7);
    // What begins at nothing lets no gradient through.
    for name in ["head.out.weight", "dinmp.empty"] {
        let value = values.get_mut(name).unwrap();
        let numbers = (0..value.elem_count()).map(|_| random.below(2_001) as f32 / 1e4 - 0.1);
        *value = Tensor::from_vec(numbers.collect(), value.shape(), &Device::Cpu).unwrap();
    }
    let mut seen = Seen::default();
    for number in 0..ITEMS {
        seen.item(item(number));
    }
    for place in 0..ROWS {
        seen.item(ItemKeys::of_user(&user(place)));
    }
    learning.meet(&seen, &vec![0; seen.keys().len()]).unwrap();
    values.extend(learning.tensors().unwrap());
    (head, values)
}

/// First values as another program reads them: rows of ids by number: items', groups', users'.
fn written(values: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let keys = values["table.keys"].to_vec2::<u32>().unwrap();
    let rows = values["table.rows"].to_vec2::<f32>().unwrap();
    let by_key: BTreeMap<&[u32], &[f32]> = keys
        .iter()
        .map(Vec::as_slice)
        .zip(rows[1..].iter().map(Vec::as_slice))
        .collect();
    // A short id is its own key, with its length behind it.
    let key = |id: String| {
        let mut bytes = [0; 16];
        bytes[..id.len()].copy_from_slice(id.as_bytes());
        bytes[15] = id.len() as u8;
        let parts = bytes.as_chunks::<4>().0.iter();
        parts
            .map(|part| u32::from_le_bytes(*part))
            .collect::<Vec<u32>>()
    };
    let ids = (0..ITEMS).map(|number| format!("ii{number}"));
    let ids = ids.chain((0..GROUPS).map(|group| format!("ggroup-{group}")));
    let ids = ids.chain((0..ROWS).map(|place| format!("u{}", user(place))));
    let numbers: Vec<f32> = ids
        .flat_map(|id| by_key[&key(id)[..]][..WIDTH].to_vec())
        .collect();
    let mut all = values.clone();
    all.retain(|name, _| !name.starts_with("table."));
    let shape = (ITEMS + GROUPS + ROWS, WIDTH);
    let table = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
    all.insert("table".to_owned(), table);
    all
}

/// A batch as another program reads it: everything that is there more than once is there once, and pairs point to it.
fn batch(rows: &[Row], kinds: usize) -> BTreeMap<String, Tensor> {
    let (mut items, mut marks) = (BTreeMap::new(), BTreeMap::new());
    for row in rows {
        items.insert(row.candidate, 0);
        for (number, mark) in &row.atoms {
            items.insert(*number, 0);
            marks.insert(mark.clone(), 0);
        }
    }
    items
        .values_mut()
        .enumerate()
        .for_each(|(at, to)| *to = at as i64);
    marks
        .values_mut()
        .enumerate()
        .for_each(|(at, to)| *to = at as i64);
    let (mut pair_item, mut pair_mark, mut pair_row) = (Vec::new(), Vec::new(), Vec::new());
    let mut share = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let groups = groups_of(row.candidate);
        for (number, mark) in &row.atoms {
            pair_item.push(items[number]);
            pair_mark.push(marks[mark]);
            pair_row.push(at as i64);
            let common = groups_of(*number)
                .iter()
                .filter(|group| groups.contains(group))
                .count();
            share.push(common as f32 / 2.0);
        }
    }
    let mut counts = vec![0.0; marks.len() * kinds];
    for (of, mark) in counts.chunks_mut(kinds).zip(marks.keys()) {
        for (kind, count) in &mark.counts {
            of[usize::from(*kind)] = (*count as f32).ln_1p();
        }
    }
    let floats =
        |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    let places = |values: Vec<i64>| {
        let count = values.len();
        Tensor::from_vec(values, count, &Device::Cpu).unwrap()
    };
    let groups = items.keys().flat_map(|number| groups_of(*number));
    let groups = groups.map(|group| (ITEMS + group) as i64);
    let features = rows.iter().flat_map(|row| row.features.clone());
    let each = |of: fn(&Row) -> f32| floats(rows.iter().map(of).collect(), &[rows.len()]);
    let all = [
        ("groups", places(groups.collect())),
        (
            "items",
            places(items.keys().map(|number| *number as i64).collect()),
        ),
        (
            "asked",
            places(rows.iter().map(|row| items[&row.candidate]).collect()),
        ),
        (
            "user",
            places(
                (0..rows.len())
                    .map(|at| (ITEMS + GROUPS + at) as i64)
                    .collect(),
            ),
        ),
        ("counts", floats(counts, &[marks.len(), kinds])),
        (
            "bucket",
            places(marks.keys().map(|mark| mark.bucket.into()).collect()),
        ),
        (
            "recency",
            places(marks.keys().map(|mark| mark.recency.into()).collect()),
        ),
        ("share", floats(share, &[pair_row.len()])),
        ("pair_item", places(pair_item)),
        ("pair_mark", places(pair_mark)),
        ("pair_row", places(pair_row)),
        (
            "features",
            floats(features.collect(), &[rows.len(), FEATURES]),
        ),
        ("base", each(|row| row.base)),
        ("label", each(|row| row.label)),
    ];
    all.map(|(name, tensor)| (name.to_owned(), tensor)).into()
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|one| one != "--bench");
    let folder = arguments.next().expect("learning FOLDER [cpu|cuda]");
    let choice = match arguments.next().as_deref() {
        None | Some("cpu") => DeviceChoice::Cpu,
        Some(_) => DeviceChoice::Cuda,
    };
    let device = choose(choice).unwrap().device;
    let place = Place {
        device: device.clone(),
        numbers: DType::F32,
    };
    std::fs::create_dir_all(&folder).unwrap();
    let spec = KeyVectorSpec {
        kinds: ["impression", "click", "purchase", "like", "hide"]
            .map(str::to_owned)
            .into(),
        edges_ms: [1, 3, 14, 60, 365].map(|days| days * DAY).into(),
    };
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 1e-3,
            beta: [0.9, 0.999],
            epsilon: 1e-8,
            decay: 0.01,
        },
        deep_factor: 1.0,
        positions: usize::MAX,
        rows_max: ROWS,
        accumulate: 1,
        longest: 1.0,
        seed: 1,
        objective: Objective::Labels,
        falling: None,
    };
    let (head, first) = values(&spec);
    for keys in KEYS {
        let mut random = Random(11);
        let rows: Vec<Row> = (0..BATCHES * ROWS)
            .map(|_| Row::new(keys, &spec, &mut random))
            .collect();
        let corpus = corpus(&rows);
        let mut tensors = written(&first);
        for (at, rows) in rows.chunks(ROWS).enumerate() {
            let batch = batch(rows, spec.kinds.len()).into_iter();
            tensors.extend(batch.map(|(name, tensor)| (format!("{at}.{name}"), tensor)));
        }
        let file = Path::new(&folder).join(format!("{keys}.safetensors"));
        std::fs::write(file, to_safetensors(&tensors).unwrap()).unwrap();
        let given = (Some(interest(&spec)), settings.clone());
        let path = Path::new("the benchmark");
        let mut trainer = Trainer::new(Depth::None, &head, &first, path, given, &place).unwrap();
        trainer.restore(&first).unwrap();
        let mut said = Vec::new();
        let mut position = Position::default();
        for at in 0..HELD {
            let from = at % BATCHES * ROWS;
            let taken = trainer.pass(&corpus, from..from + ROWS, position, &mut |_, report| {
                said.push([f64::from(report.loss), report.gradient]);
                true
            });
            position = taken.unwrap();
        }
        let mut found: Vec<f64> = (0..LOTS)
            .map(|_| {
                let began = Instant::now();
                for _ in 0..LOT / BATCHES {
                    let all = 0..BATCHES * ROWS;
                    let taken = trainer.pass(&corpus, all, position, &mut |_, _| true);
                    position = taken.unwrap();
                }
                device.synchronize().unwrap();
                began.elapsed().as_secs_f64() * 1e3 / LOT as f64
            })
            .collect();
        found.sort_by(f64::total_cmp);
        let median = found[LOTS / 2];
        let pairs: usize = rows.iter().map(|row| row.atoms.len()).sum();
        let answer = json!({
            "device": name(&device), "keys": keys, "atoms": pairs / rows.len(), "rows": ROWS, "step_ms": [median, found[0], found[LOTS - 1]],
            "samples_per_second": 1e3 * ROWS as f64 / median, "steps": said, "memory": memory_used(&device),
        });
        println!("{answer}");
    }
}
