//! What weighing all that a user did costs, and scoring candidates by it (`ops/bench/interest` runs it beside ONNX Runtime and `PyTorch`).
//!
//! ```text
//! interest FOLDER          times of each number of keys and candidates, a JSON object a line; networks and inputs go to FOLDER for interest.py
//! ```
//!
//! One thread, where `RAYON_NUM_THREADS` is 1. A user has keys of two categories each, every second of them in two stretches of time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_config::Config;
use headwater_consumers::assemble::Assembler;
use headwater_model::bahe::{
    BaheModel, Described, Head, HeadConfig, Layers, Objective, RowVectors, base_log_odds, squashed,
};
use headwater_model::dinmp::{Asked, ItemKeys, Learning, Mark, Reads, RowSettings, Seen, WIDTH};
use headwater_model::language::to_safetensors;
use headwater_model::{
    Device, FeatureBatch, FeatureSchema, KeyVectorSpec, KeyVectors, Scores, Tensor,
};
use serde_json::json;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: [usize; 4] = [50, 300, 2_000, 10_000];
const CANDIDATES: [usize; 3] = [1, 32, 512];
const ITEMS: usize = 20_000;
const HOUR: i64 = 3_600_000;
/// Of one measurement, and how many of them.
const SPAN: Duration = Duration::from_millis(150);
const TIMES: usize = 7;

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

    fn signed(&mut self) -> f32 {
        self.below(2_001) as f32 / 1_000.0 - 1.0
    }
}

fn groups() -> impl Iterator<Item = String> {
    (0..26).map(|group| format!("category-{group}"))
}

fn item(number: usize) -> ItemKeys {
    let groups = [number % 19, 19 + number % 7].map(|group| format!("category-{group}"));
    ItemKeys::of(&format!("item-{number}"), groups.iter().map(|name| &**name))
}

/// A model whose numbers are all random, so that nothing of it can be left out.
fn model(schema: &FeatureSchema) -> (BaheModel, BTreeMap<String, Tensor>) {
    let spec = schema.key_vectors().unwrap().clone();
    let rows = RowSettings {
        rate: 0.1,
        dropout: 0.0,
        spread: 0.5,
        memory: 1 << 30,
        seed: 3,
    };
    let mut learning = Learning::new(spec.clone(), rows).unwrap();
    let mut seen = Seen::default();
    for number in 0..ITEMS {
        seen.item(item(number));
    }
    seen.item(ItemKeys::of_user("user"));
    learning.meet(&seen, &vec![0; seen.keys().len()]).unwrap();
    let features = schema.shared().len() + schema.own().len();
    let head = HeadConfig {
        width: 0,
        sequences: 1,
        features,
        tasks: schema.tasks().len(),
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
    for (name, value) in &mut values {
        if ["head.out.weight", "dinmp.empty"].contains(&name.as_str()) {
            let numbers = (0..value.elem_count())
                .map(|_| 0.1 * random.signed())
                .collect();
            *value = Tensor::from_vec(numbers, value.shape(), &Device::Cpu).unwrap();
        }
    }
    let network = values.clone();
    values.extend(learning.tensors().unwrap());
    let described = Described {
        layers: (Layers::None, None),
        encoder: (None, 1),
        limit: 64,
        sequences: vec!["all".to_owned()],
        scenarios: Vec::new(),
        texts: Vec::new(),
        head,
        features: vec![[0.0, 1.0]; features],
        key_vectors: Some(spec),
        reads: Reads::default(),
        objective: Objective::Labels,
        rows: [1, 1, 0],
        reached: None,
    };
    (BaheModel::of(described, schema, &values).unwrap(), network)
}

/// What a user of so many keys did: of each atom the item, the stretch, the recency's mark and events by kind.
struct User {
    atoms: Vec<(usize, Mark)>,
}

impl User {
    fn new(keys: usize, random: &mut Random) -> Self {
        let mut atoms = Vec::new();
        for key in 0..keys {
            let number = key * (ITEMS / keys) + random.below(ITEMS / keys);
            let stretch = random.below(5) as u8;
            for stretch in stretch..=stretch + (key % 2) as u8 {
                let age = i64::from(stretch) * 30 * HOUR + random.below(20) as i64 * HOUR;
                let mut counts = vec![(0, 1 + random.below(5) as u32)];
                if random.below(3) == 0 {
                    counts.push((2, 1));
                }
                atoms.push((number, Mark::new(stretch, age, counts)));
            }
        }
        Self { atoms }
    }

    /// The same as assembly lays it out.
    fn key_vectors(&self, spec: &KeyVectorSpec) -> KeyVectors<'static> {
        let mut of = KeyVectors {
            layout: spec.layout().into(),
            groups: groups().map(Cow::Owned).collect(),
            ..KeyVectors::default()
        };
        let mut before = None;
        for (number, mark) in &self.atoms {
            if before != Some(number) {
                of.items.push(format!("item-{number}").into());
                of.of
                    .push(vec![(number % 19) as u32, 19 + (number % 7) as u32]);
                before = Some(number);
            }
            let counts = mark
                .counts
                .iter()
                .map(|(kind, count)| (u32::from(*kind), *count));
            let counts: Vec<(u32, u32)> = counts.collect();
            let stretch = u32::from(mark.bucket);
            of.push(of.items.len() as u32 - 1, stretch, HOUR, &counts);
        }
        of
    }

    fn told(&self, candidates: &[usize]) -> (Seen, Vec<Asked>) {
        let mut seen = Seen::default();
        for (number, mark) in &self.atoms {
            let place = seen.item(item(*number));
            seen.atom(place, mark.clone());
        }
        let request = seen.end_request("user");
        let asked = candidates.iter().map(|number| {
            let item = seen.item(item(*number));
            Asked { request, item }
        });
        let asked = asked.collect();
        (seen, asked)
    }
}

/// Microseconds of one: median, least and most of several measurements.
fn timed(mut one: impl FnMut()) -> [f64; 3] {
    let mut found: Vec<f64> = (0..TIMES)
        .map(|_| {
            let (began, mut times) = (Instant::now(), 0);
            while began.elapsed() < SPAN {
                one();
                times += 1;
            }
            began.elapsed().as_secs_f64() * 1e6 / f64::from(times)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    [found[TIMES / 2], found[0], found[TIMES - 1]]
}

fn flat(numbers: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// The inputs as another program takes them: atoms with the vectors of their items, candidates, and which part of each atom is of a candidate's kind.
fn write(
    folder: &Path,
    (model, network): (&BaheModel, &BTreeMap<String, Tensor>),
    (user, candidates): (&User, &[usize]),
    (batch, base, scores): (&FeatureBatch, &[f32], &[f32]),
) {
    let interest = model.interest().unwrap();
    let (kinds, outputs) = (
        interest.spec().kinds.len(),
        model.scorer().config().interest,
    );
    // Behind the network's numbers stand the candidate's vector and the user's.
    let vectors = |number: usize| {
        let (seen, asked) = User { atoms: Vec::new() }.told(&[number]);
        let said = interest.forward(&seen, &asked, &[]);
        said[outputs - 2 * WIDTH..].to_vec()
    };
    let vector = |number: usize| vectors(number)[..WIDTH].to_vec();
    let atoms = user.atoms.len();
    let mut counts = vec![0.0; atoms * kinds];
    for (of, (_, mark)) in counts.chunks_mut(kinds).zip(&user.atoms) {
        for (kind, count) in &mark.counts {
            of[usize::from(*kind)] = (*count as f32).ln_1p();
        }
    }
    let share = |of: usize, number: usize| {
        let common = usize::from(of % 19 == number % 19) + usize::from(of % 7 == number % 7);
        common as f32 / 2.0
    };
    let keys: Vec<f32> = user
        .atoms
        .iter()
        .flat_map(|(number, _)| vector(*number))
        .collect();
    let shares: Vec<f32> = candidates
        .iter()
        .flat_map(|number| user.atoms.iter().map(|(of, _)| share(*of, *number)))
        .collect();
    let mut tensors = network.clone();
    let places = |of: fn(&Mark) -> u8| {
        let places = user.atoms.iter().map(|(_, mark)| f32::from(of(mark)));
        flat(places.collect(), &[atoms])
    };
    let of_user = vectors(0)[WIDTH..].to_vec();
    tensors.insert("in.user".to_owned(), flat(of_user, &[WIDTH]));
    tensors.insert("in.keys".to_owned(), flat(keys, &[atoms, WIDTH]));
    tensors.insert("in.counts".to_owned(), flat(counts, &[atoms, kinds]));
    tensors.insert("in.buckets".to_owned(), places(|mark| mark.bucket));
    tensors.insert("in.recency".to_owned(), places(|mark| mark.recency));
    tensors.insert(
        "in.share".to_owned(),
        flat(shares, &[candidates.len(), atoms]),
    );
    let vectors = candidates
        .iter()
        .flat_map(|number| vector(*number))
        .collect();
    tensors.insert(
        "in.candidates".to_owned(),
        flat(vectors, &[candidates.len(), WIDTH]),
    );
    let row = batch.row(0);
    let features = row.shared.iter().chain(row.own);
    let features: Vec<f32> = features.map(|value| squashed(*value)).collect();
    let count = features.len();
    tensors.insert("in.features".to_owned(), flat(features, &[count]));
    tensors.insert("in.base".to_owned(), flat(base.to_vec(), &[base.len()]));
    tensors.insert(
        "out.scores".to_owned(),
        flat(scores.to_vec(), &[scores.len()]),
    );
    let name = format!("{}-{}.safetensors", user.atoms.len(), candidates.len());
    std::fs::write(folder.join(name), to_safetensors(&tensors).unwrap()).unwrap();
}

fn main() {
    let folder = std::env::args().nth(1).filter(|first| first != "--bench");
    let folder = folder.expect("interest FOLDER");
    std::fs::create_dir_all(&folder).unwrap();
    let config = Config::from_toml("key_vectors.logged = true").unwrap();
    let assembler = Assembler::new(&config).unwrap();
    let schema = assembler.schema();
    let (model, network) = model(schema);
    let (interest, scorer) = (model.interest().unwrap(), model.scorer());
    let mut random = Random(11);
    for keys in KEYS {
        let user = User::new(keys, &mut random);
        for count in CANDIDATES {
            let candidates: Vec<usize> = (0..count).map(|_| random.below(ITEMS)).collect();
            let mut batch = FeatureBatch::new(schema);
            batch.begin(1_700_000_000_000, count);
            let (mut scores, mut vectors) = (Scores::default(), RowVectors::default());
            assembler.baseline().score(&batch, &mut scores);
            let base: Vec<f32> = (0..count)
                .map(|at| base_log_odds(scores.candidate(at)[0]))
                .collect();
            let of = user.key_vectors(interest.spec());
            let names: Vec<String> = candidates.iter().map(|at| format!("item-{at}")).collect();
            let categories: Vec<String> = groups().collect();
            let mut met = Seen::default();
            let told = timed(|| {
                met.clear();
                met.request("user", &of, interest.spec()).unwrap();
                for (name, number) in names.iter().zip(&candidates) {
                    let groups = [number % 19, 19 + number % 7];
                    let groups = groups.map(|group| &*categories[group]);
                    met.item(ItemKeys::of(name, groups));
                }
            });
            let (seen, asked) = user.told(&candidates);
            let said = interest.forward(&seen, &asked, &[]);
            let weighed = timed(|| drop(interest.forward(&seen, &asked, &[])));
            scorer.begin(count, &mut vectors);
            let headed = timed(|| {
                let mut scores = scores.clone();
                scorer.score(
                    (&batch, 0),
                    (&vectors, &said),
                    (assembler.baseline(), &mut scores),
                );
            });
            let whole = timed(|| {
                let said = interest.forward(&seen, &asked, &[]);
                let mut scores = scores.clone();
                scorer.score(
                    (&batch, 0),
                    (&vectors, &said),
                    (assembler.baseline(), &mut scores),
                );
            });
            scorer.score(
                (&batch, 0),
                (&vectors, &said),
                (assembler.baseline(), &mut scores),
            );
            let scored: Vec<f32> = (0..count).map(|at| scores.candidate(at)[0]).collect();
            write(
                Path::new(&folder),
                (&model, &network),
                (&user, &candidates),
                (&batch, &base, &scored),
            );
            let answer = json!({
                "keys": keys, "atoms": user.atoms.len(), "candidates": count, "told_us": told, "interest_us": weighed, "head_us": headed,
                "whole_us": whole, "candidates_per_second": 1e6 * count as f64 / whole[0],
            });
            println!("{answer}");
        }
    }
}
