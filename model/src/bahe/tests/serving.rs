//! The head as it answers against the head as it learns, and folders of models: what is read is what was written, or nothing.

use super::*;
use crate::feature::{Counts, FeatureBatch, FeatureSchema, Level, TaskSpec};
use crate::language::to_safetensors;
use crate::{Baseline, HalfLives, Scores};

mod blind;

const PROJECTED: usize = 5;

fn schema() -> FeatureSchema {
    schema_of(&["click", "buy"])
}

fn schema_of(names: &[&str]) -> FeatureSchema {
    let lives = HalfLives {
        short_ms: None,
        long_ms: None,
    };
    let task = |name: &str| TaskSpec {
        name: name.to_owned(),
        definition: String::new(),
        item: lives,
        user: lives,
    };
    FeatureSchema::new(names.iter().map(|name| task(name)).collect()).unwrap()
}

/// A request of so many candidates, each of other counts.
fn batch(schema: &FeatureSchema, candidates: usize) -> FeatureBatch {
    let mut batch = FeatureBatch::new(schema);
    batch.begin(1_000_000, candidates);
    let counts = |trials: f32| Counts {
        trials,
        positives: trials / 3.0,
        ..Counts::default()
    };
    for (task, spec) in schema.tasks().iter().enumerate() {
        batch.set_shared(Level::Global, task, &counts(900.0));
        // The same of a task wherever it stands.
        let more = ["click", "buy", "like"]
            .iter()
            .position(|name| *name == spec.name);
        for candidate in 0..candidates {
            let mut of = counts(3.0 + 7.0 * candidate as f32 + more.unwrap() as f32);
            // Tasks say something of an item to each other.
            of.positives *= 1.0 + more.unwrap() as f32 / 5.0;
            batch.set(candidate, Level::ItemAnywhere, task, &of);
            batch.set(candidate, Level::Item, task, &of);
        }
    }
    batch
}

struct Made {
    described: Described,
    values: std::collections::BTreeMap<String, Tensor>,
}

fn made(schema: &FeatureSchema, layers: Layers) -> Made {
    made_of(schema, layers, [0; 3])
}

/// With a head of so many scenarios, experts and a cross of that rank.
fn made_of(
    schema: &FeatureSchema,
    layers: Layers,
    [scenarios, experts, cross]: [usize; 3],
) -> Made {
    let features = schema.shared().len() + schema.own().len();
    let width = if layers == Layers::None { 0 } else { WIDTH };
    let head = HeadConfig {
        width,
        sequences: 2,
        features,
        tasks: 2,
        projected: PROJECTED,
        inner: [9, 7],
        interest: 0,
        matches: 0,
        scenarios,
        experts,
        cross,
    };
    let mut values = Head::random(&head, 3).unwrap();
    for (seed, (name, value)) in values.iter_mut().enumerate() {
        let begins_even = ["head.base", "head.gates", "head.scenarios", "head.lines"];
        if name.ends_with("bias")
            || name.ends_with("out.weight")
            || name == "head.cross.out"
            || begins_even.contains(&name.as_str())
        {
            *value = tensor(seed as u64 + 1, value.dims());
        }
    }
    if layers == Layers::Deep {
        values.extend(Deep::random(&config(), 7).unwrap());
    }
    let described = Described {
        layers: (layers, (layers == Layers::Deep).then(|| config().blocks)),
        encoder: ((width > 0).then(|| "0a1b".repeat(16)), 8),
        limit: LIMIT,
        sequences: vec!["one".to_owned(), "two".to_owned()],
        scenarios: (0..scenarios).map(|number| format!("s{number}")).collect(),
        head,
        key_vectors: None,
        reads: crate::dinmp::Reads::default(),
        features: (0..features)
            .map(|place| [0.1 * place as f32, 1.0 + 0.05 * place as f32])
            .collect(),
        objective: Objective::Labels,
        texts: Vec::new(),
        rows: [8, 1, 1],
        reached: None,
    };
    Made { described, values }
}

fn write(made: &Made, schema: &FeatureSchema, folder: &Path) {
    let bytes = to_safetensors(&made.values).unwrap();
    std::fs::write(folder.join(VALUES), &bytes).unwrap();
    let manifest = Manifest::of(made.described.clone(), schema, &bytes);
    std::fs::write(folder.join(MANIFEST), manifest.bytes()).unwrap();
}

/// Probabilities of a request by the baseline, and by the model.
fn scored(model: &BaheModel, (batch, scenario): (&FeatureBatch, usize)) -> [Scores; 2] {
    let scorer = model.scorer();
    let mut base = Scores::default();
    Baseline::default().score(batch, &mut base);
    let mut vectors = RowVectors::default();
    scorer.begin(batch.len(), &mut vectors);
    let [users, items] = vectors_of(batch.len());
    if scorer.config().width > 0 {
        for (sequence, vector) in users.to_vec2::<f32>().unwrap().iter().enumerate() {
            scorer.set_user(sequence, vector, &mut vectors);
        }
        for (candidate, vector) in items.to_vec2::<f32>().unwrap().iter().enumerate() {
            scorer.set_item(candidate, vector, &mut vectors);
        }
    }
    assert_eq!(vectors.known(), batch.len());
    let mut scores = base.clone();
    let to = (&Baseline::default(), &mut scores);
    scorer.score((batch, scenario), (&vectors, &[]), to);
    [base, scores]
}

/// Vectors of the user's sequences, and of so many candidates.
fn vectors_of(candidates: usize) -> [Tensor; 2] {
    [tensor(21, &[2, WIDTH]), tensor(22, &[candidates, WIDTH])]
}

/// Probabilities of a request by the model, and log-odds by the network that learns.
fn both(
    model: &BaheModel,
    made: &Made,
    (batch, scenario): (&FeatureBatch, usize),
) -> (Scores, Vec<Vec<f32>>) {
    let [base, scores] = scored(model, (batch, scenario));
    let has_vectors = made.described.head.width > 0;
    let [users, items] = vectors_of(batch.len());
    let head = Head::of(
        &made.described.head,
        &made.values,
        Path::new("here"),
        &Device::Cpu,
        None,
    )
    .unwrap();
    let (mut features, mut odds) = (Vec::new(), Vec::new());
    for (candidate, row) in batch.rows().enumerate() {
        let numbers = row.shared.iter().chain(row.own);
        let centred = numbers.zip(&made.described.features);
        features.extend(centred.map(|(value, [mean, spread])| (squashed(*value) - mean) / spread));
        let probabilities = base.candidate(candidate).iter();
        odds.extend(probabilities.map(|one| base_log_odds(*one)));
    }
    let users = users
        .unsqueeze(0)
        .and_then(|users| users.broadcast_as((batch.len(), 2, WIDTH))?.contiguous())
        .unwrap();
    let rows = batch.len();
    let features = Tensor::from_vec(features, (rows, ()), &Device::Cpu).unwrap();
    let input = HeadInput {
        texts: has_vectors.then_some(SeenTexts::Vectors(&users, &items)),
        features: &features,
        interest: None,
        base: &Tensor::from_vec(odds, (rows, 2), &Device::Cpu).unwrap(),
        scenarios: Some(
            &Tensor::from_vec(vec![scenario as u32; rows], rows, &Device::Cpu).unwrap(),
        ),
    };
    let log_odds = head.forward(&input).unwrap().to_vec2::<f32>().unwrap();
    (scores, log_odds)
}

/// Goal: the network that answers is the one that learned; a candidate's score does not depend on its company, to the bit; one without a vector keeps the
/// baseline's. Method: random values, with vectors and without, against the training graph; each candidate alone.
#[test]
fn answering_equals_learning() {
    let schema = schema();
    for layers in [Layers::None, Layers::Mean, Layers::Deep] {
        let folder = tempfile::tempdir().unwrap();
        let made = made(&schema, layers);
        write(&made, &schema, folder.path());
        let model = BaheModel::open(folder.path(), &schema).unwrap();
        assert_eq!(model.deep().is_some(), layers != Layers::None);
        let batch = batch(&schema, 6);
        let (scores, log_odds) = both(&model, &made, (&batch, 0));
        let mut plain = Scores::default();
        Baseline::default().score(&batch, &mut plain);
        for (candidate, log_odds) in log_odds.iter().enumerate() {
            for (task, log_odds) in log_odds.iter().enumerate() {
                let (found, expected) =
                    (scores.get(candidate, task), 1.0 / (1.0 + (-log_odds).exp()));
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                assert!((found - plain.get(candidate, task)).abs() > 1e-4);
            }
        }
        if layers == Layers::None {
            continue;
        }
        // Each with the vectors that it had in company, as they are logged; one has none.
        let scorer = model.scorer();
        let mut vectors = RowVectors::default();
        scorer.begin(6, &mut vectors);
        let (users, items) = (tensor(21, &[2, WIDTH]), tensor(22, &[6, WIDTH]));
        let (users, items): (Vec<Vec<f32>>, Vec<Vec<f32>>) =
            (users.to_vec2().unwrap(), items.to_vec2().unwrap());
        for (sequence, vector) in users.iter().enumerate() {
            scorer.set_user(sequence, vector, &mut vectors);
        }
        for (candidate, vector) in items.iter().enumerate().skip(1) {
            scorer.set_item(candidate, vector, &mut vectors);
        }
        assert_eq!((vectors.known(), vectors.item(0)), (5, None));
        let mut some = plain.clone();
        scorer.score(
            (&batch, 0),
            (&vectors, &[]),
            (&Baseline::default(), &mut some),
        );
        let mut alone = plain.candidate(3).to_vec();
        let item = vectors.item(3).unwrap();
        let to = (&Baseline::default(), &mut alone[..]);
        scorer.score_row((batch.row(3), 0), (vectors.users(), item, &[]), to);
        let bits =
            |scores: &[f32]| -> Vec<u32> { scores.iter().map(|one| one.to_bits()).collect() };
        assert_eq!(bits(&alone), bits(scores.candidate(3)));
        assert_eq!(bits(some.candidate(3)), bits(scores.candidate(3)));
        assert_eq!(bits(some.candidate(0)), bits(plain.candidate(0)));
    }
}

/// Goal: what is folded for serving (experts of a scenario, the cross, lines of calibration) is what the graph learned; scenarios have scores of their own, one that is not known those of the first row; a
/// candidate's score does not depend on its company, to the bit. Method: heads with each part alone and all of them, random values, every scenario, against the training graph; a candidate alone.
#[test]
fn scenarios_experts_and_crosses_answer_as_they_learned() {
    let schema = schema();
    for (layers, parts) in [
        (Layers::None, [2, 0, 0]),
        (Layers::None, [0, 3, 0]),
        (Layers::None, [0, 0, 5]),
        (Layers::Mean, [2, 3, 5]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let made = made_of(&schema, layers, parts);
        write(&made, &schema, folder.path());
        let model = BaheModel::open(folder.path(), &schema).unwrap();
        let place = |name| model.scenario(name);
        let expected = if parts[0] > 0 { [0, 1, 2] } else { [0; 3] };
        assert_eq!([place("elsewhere"), place("s0"), place("s1")], expected);
        let batch = batch(&schema, 6);
        let mut told = Vec::new();
        for scenario in 0..=parts[0] {
            let (scores, log_odds) = both(&model, &made, (&batch, scenario));
            for (candidate, log_odds) in log_odds.iter().enumerate() {
                for (task, log_odds) in log_odds.iter().enumerate() {
                    let found = scores.get(candidate, task);
                    let expected = 1.0 / (1.0 + (-log_odds).exp());
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{parts:?}: {found} {expected}"
                    );
                }
            }
            let bits = |of: &[f32]| of.iter().map(|one| one.to_bits()).collect::<Vec<_>>();
            if layers == Layers::None {
                let mut alone = Scores::default();
                Baseline::default().score(&batch, &mut alone);
                let mut alone = alone.candidate(4).to_vec();
                let row = (batch.row(4), scenario);
                let to = (&Baseline::default(), &mut alone[..]);
                model.scorer().score_row(row, (&[], &[], &[]), to);
                assert_eq!(bits(&alone), bits(scores.candidate(4)), "{parts:?}");
            }
            told.push(bits(scores.candidate(4)));
        }
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), parts[0] + 1, "each scenario has its own");
    }
    // A manifest whose parts contradict each other, or that asks for what nobody can mean.
    let folder = tempfile::tempdir().unwrap();
    for (odd, key) in [
        ([1, 3, 0], "scenarios"),
        ([2, 1 << 40, 0], "head"),
        ([2, 0, 1 << 40], "head"),
    ] {
        let mut made = made_of(&schema, Layers::None, [2, 0, 0]);
        let head = &mut made.described.head;
        [head.scenarios, head.experts, head.cross] = odd;
        write(&made, &schema, folder.path());
        let said = BaheModel::open(folder.path(), &schema)
            .unwrap_err()
            .to_string();
        assert!(said.contains(&format!("`{key}` is odd")), "{said}");
    }
}

/// Goal: a model of before a task came goes on to score rows of today: its own tasks to the bit as before, the new one as the baseline does; what it reads must be there and mean the same. Method: a task in front of the
/// others, so that all places move, with experts and a cross; a row of one task less, and manifests whose columns are not those of their head.
#[test]
fn a_model_reads_rows_that_have_more_than_it_was_trained_on() {
    let (old, new) = (schema(), schema_of(&["like", "buy", "click"]));
    let folder = tempfile::tempdir().unwrap();
    let made = made_of(&old, Layers::Deep, [2, 2, 3]);
    write(&made, &old, folder.path());
    let answers = [&old, &new].map(|schema| {
        let model = BaheModel::open(folder.path(), schema).unwrap();
        let batch = batch(schema, 5);
        scored(&model, (&batch, 1))
    });
    let [[_, before], [base, today]] = &answers;
    for candidate in 0..5 {
        let (before, today) = (before.candidate(candidate), today.candidate(candidate));
        assert_eq!(before[0].to_bits(), today[2].to_bits(), "click");
        assert_eq!(before[1].to_bits(), today[1].to_bits(), "buy");
        let base = base.candidate(candidate);
        assert_eq!(base[0].to_bits(), today[0].to_bits(), "like");
        assert_ne!(base[2].to_bits(), today[2].to_bits(), "it says something");
    }
    let fewer = schema_of(&["click", "like"]);
    let said = BaheModel::open(folder.path(), &fewer).unwrap_err();
    let said = said.to_string();
    assert!(said.contains("`buy` is not there, or means"), "{said}");
    // As models were written before columns were told: their own rows, and no others.
    let text = std::fs::read_to_string(folder.path().join(MANIFEST)).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut with = |key: &str, value: Option<serde_json::Value>| {
        let held = manifest.as_object_mut().unwrap();
        match value {
            Some(value) => held.insert(key.to_owned(), value),
            None => held.remove(key),
        };
        held.insert("manifest".to_owned(), String::new().into());
        let bare: Manifest = serde_json::from_value(manifest.clone()).unwrap();
        manifest["manifest"] = bare.sum().into();
        std::fs::write(folder.path().join(MANIFEST), manifest.to_string()).unwrap();
        [&old, &new].map(|schema| BaheModel::open(folder.path(), schema).map(|_| ()))
    };
    let mut twice = old.columns();
    twice.own[1].name = twice.own[0].name.clone();
    let [one, _] = with("columns", Some(serde_json::to_value(twice).unwrap()));
    let said = one.unwrap_err().to_string();
    assert!(said.contains("`columns` is odd"), "{said}");
    let columns = serde_json::to_value(new.columns()).unwrap();
    let [one, other] = with("columns", Some(columns)).map(|of| of.unwrap_err().to_string());
    assert!(
        one.contains("`columns` is odd") && other.contains("`columns` is odd"),
        "{one}"
    );
    let [its, more] = with("columns", None);
    its.unwrap();
    let said = more.unwrap_err().to_string();
    assert!(
        said.contains("reads rows that have all that it was trained on"),
        "{said}"
    );
}

/// Goal: a folder is read as it was written, or refused with what is wrong: nothing of another model is ever fed. Method: what two models share and do not
/// share of their names; each thing spoilt that can be.
#[test]
fn a_folder_is_whole_or_refused() {
    let schema = schema();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let made = made(&schema, Layers::Deep);
    write(&made, &schema, path);
    let model = BaheModel::open(path, &schema).unwrap();
    assert_eq!(
        model.encoder(),
        Some(*b"\x0a\x1b\x0a\x1b\x0a\x1b\x0a\x1b\x0a\x1b\x0a\x1b\x0a\x1b\x0a\x1b")
    );
    assert_eq!(model.manifest().tasks, ["click", "buy"]);
    let ids = |made: &Made| {
        write(made, &schema, path);
        let model = BaheModel::open(path, &schema).unwrap();
        (model.id(), model.deep_id())
    };
    let before = (model.id(), model.deep_id());
    let mut other = Made {
        described: made.described.clone(),
        values: made.values.clone(),
    };
    other
        .values
        .insert("head.base".to_owned(), tensor(99, &[2]));
    let head_alone = ids(&other);
    assert!(head_alone.0 != before.0 && head_alone.1 == before.1);
    other
        .values
        .insert("first".to_owned(), tensor(98, &[WIDTH]));
    assert_ne!(ids(&other).1, before.1);

    let refused = || BaheModel::open(path, &schema).unwrap_err().to_string();
    let text = std::fs::read_to_string(path.join(MANIFEST)).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(path.join(MANIFEST), text.replacen(from, to, 1)).unwrap();
        refused()
    };
    let said = with("\"format\": 5", "\"format\": 1");
    assert!(said.contains("train it anew"), "{said}");
    let said = with("\"cut\"", "\"cat\"");
    assert!(said.contains("unknown field `cat`"), "{said}");
    for (from, to) in [
        ("\"limit\": 12", "\"limit\": 10"),
        ("\"click\"", "\"buy\""),
        ("\"labels\"", "\"labels2\""),
    ] {
        let said = with(from, to);
        let is_told =
            said.contains("was changed since it was written") || said.contains("unknown variant");
        assert!(is_told, "{said}");
    }
    // What was never right, though its sum is.
    let with = |change: &dyn Fn(&mut Described)| {
        let mut odd = Made {
            described: made.described.clone(),
            values: made.values.clone(),
        };
        change(&mut odd.described);
        write(&odd, &schema, path);
        refused()
    };
    let said = with(&|odd| odd.layers.0 = Layers::Mean);
    assert!(said.contains("`blocks` is odd"), "{said}");
    let said = with(&|odd| odd.limit = 1 << 40);
    assert!(said.contains("`limit` is odd"), "{said}");
    let said = with(&|odd| odd.encoder.0 = Some("z".repeat(64)));
    assert!(said.contains("`encoder` is odd"), "{said}");
    let said = with(&|odd| odd.features[3][1] = 0.0);
    assert!(said.contains("`features` is odd"), "{said}");
    write(&made, &schema, path);
    // Other rows: the first thing that is not the same is told.
    let other = {
        let mut tasks = schema.tasks().to_vec();
        "x".clone_into(&mut tasks[1].definition);
        FeatureSchema::new(tasks).unwrap()
    };
    let said = BaheModel::open(path, &other).unwrap_err().to_string();
    let difference = "it was trained on `task buy \"\"`, and here is `task buy \"x\"`";
    assert!(said.contains(difference), "{said}");
    // Values that are no numbers, though their hash is right.
    let mut odd = Made {
        described: made.described.clone(),
        values: made.values.clone(),
    };
    let nan = Tensor::new(&[f32::NAN, 1.0], &Device::Cpu).unwrap();
    odd.values.insert("head.base".to_owned(), nan);
    write(&odd, &schema, path);
    assert!(refused().contains("tensor `head.base` holds what is no finite number"));
    let whole = Tensor::new(&[1_i64, 2], &Device::Cpu).unwrap();
    odd.values.insert("head.base".to_owned(), whole);
    write(&odd, &schema, path);
    assert!(refused().contains("tensor `head.base` is of I64"));
    write(&made, &schema, path);
    std::fs::write(path.join(MANIFEST), &text[..100]).unwrap();
    assert!(refused().contains("is no manifest of a model"));
    std::fs::write(path.join(MANIFEST), &text).unwrap();
    let values = std::fs::read(path.join(VALUES)).unwrap();
    for spoilt in [&values[..values.len() - 1], &[&values[..], b"x"].concat()] {
        std::fs::write(path.join(VALUES), spoilt).unwrap();
        let said = refused();
        assert!(said.contains("was cut off or changed"), "{said}");
    }
    std::fs::remove_file(path.join(VALUES)).unwrap();
    assert!(refused().contains("model.safetensors: cannot be read"));
}

/// Goal: from what a head saw of texts another learns that sees them by the same: before learning both say the same; layers and projections stay to the bit, all else moves; and what it says as it learns it says as it answers. Method: a
/// request's projections as rows log them, by a model of random values; some steps; the model of what came of it. A head of other projections has other towers.
#[test]
fn what_was_seen_of_texts_teaches_another_head() {
    let schema = schema();
    let made = made_of(&schema, Layers::Deep, [2, 2, 3]);
    let batch = batch(&schema, 4);
    let model = BaheModel::of(made.described.clone(), &schema, &made.values).unwrap();
    let mut seen = RowVectors::default();
    model.scorer().begin(batch.len(), &mut seen);
    let [users, items] = vectors_of(batch.len());
    let vectors = |of: &Tensor| of.to_vec2::<f32>().unwrap();
    for (sequence, vector) in vectors(&users).iter().enumerate() {
        model.scorer().set_user(sequence, vector, &mut seen);
    }
    for (candidate, vector) in vectors(&items).iter().enumerate() {
        model.scorer().set_item(candidate, vector, &mut seen);
    }
    let mut base = Scores::default();
    Baseline::default().score(&batch, &mut base);
    let mut rows = Rows::default();
    for (candidate, row) in batch.rows().enumerate() {
        let numbers = row.shared.iter().chain(row.own);
        let centred = numbers.zip(&made.described.features);
        let centred = centred.map(|(value, [mean, spread])| (squashed(*value) - mean) / spread);
        rows.features.extend(centred);
        let odds = base.candidate(candidate).iter();
        rows.base.extend(odds.map(|one| base_log_odds(*one)));
        rows.projections.extend(seen.users());
        rows.projections.extend(seen.item(candidate).unwrap());
        rows.user.push(0);
        rows.counts.extend([0, 0]);
        rows.item.push(0);
        rows.scenario.push(1);
        rows.labels.extend([(candidate % 2) as f32, 1.0]);
        rows.weights.extend([1.0, 1.0]);
    }
    let corpus = Corpus {
        vectors: tensor(3, &[1, 1]),
        histories: vec![History::default(); 2],
        sequences: 2,
        scenarios: 2,
        features: made.described.features.len(),
        tasks: vec!["click".to_owned(), "buy".to_owned()],
        seen: crate::dinmp::Seen::default(),
        rows,
    };
    let settings = TrainSettings {
        adam: AdamSettings {
            rate: 1e-2,
            beta: [0.9, 0.99],
            epsilon: 1e-8,
            decay: 0.01,
        },
        deep_factor: 1.0,
        positions: 100,
        rows_max: 2,
        accumulate: 1,
        longest: 1.0,
        seed: 1,
        objective: Objective::Labels,
        falling: None,
    };
    let (head, here) = (&made.described.head, Path::new("here"));
    let given = (None, settings);
    let depth = Depth::Logged;
    let trainer = Trainer::new(depth, head, &made.values, here, given, &Place::cpu());
    let mut trainer = trainer.unwrap();
    let says_the_same = |model: &BaheModel, trainer: &Trainer| {
        let said = trainer.score(&corpus, 0..batch.len(), &mut |_| {}).unwrap();
        for (candidate, (row, said)) in batch.rows().zip(said.chunks(2)).enumerate() {
            let mut scores = base.candidate(candidate).to_vec();
            let seen = (seen.users(), seen.item(candidate).unwrap(), &[][..]);
            let to = (&Baseline::default(), &mut scores[..]);
            model.scorer().score_row((row, 1), seen, to);
            for (score, said) in scores.iter().zip(said) {
                let odds = base_log_odds(*score);
                assert!((odds - said).abs() < 1e-4, "{candidate}: {odds} {said}");
            }
        }
    };
    says_the_same(&model, &trainer);
    let from = Position::default();
    let each = &mut |_: &Trainer, _| true;
    trainer.pass(&corpus, 0..batch.len(), from, each).unwrap();
    let values = trainer.values().unwrap();
    assert_eq!(
        values.keys().collect::<Vec<_>>(),
        made.values.keys().collect::<Vec<_>>()
    );
    for (name, value) in &values {
        let bits = |of: &Tensor| of.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let is_same = bits(value) == bits(&made.values[name]);
        let stays = is_of_towers(name) || name == "head.lines";
        assert_eq!(is_same, stays, "{name}");
    }
    let learned = BaheModel::of(made.described.clone(), &schema, &values).unwrap();
    says_the_same(&learned, &trainer);
    assert_eq!(learned.towers(), model.towers());
    let mut other = made.values.clone();
    other.insert("head.item.bias".to_owned(), tensor(77, &[PROJECTED]));
    let other = BaheModel::of(made.described, &schema, &other).unwrap();
    assert_ne!(other.towers(), model.towers());
    assert_eq!(other.deep_id(), model.deep_id());
}
