//! The champion's way through the topic, whole and in pieces.

use std::sync::Arc;

use headwater_consumers::assemble::Assembler;
use headwater_consumers::log::TopicSpec;
use headwater_consumers::log::local::{LocalLog, Options};
use headwater_model::bahe::{Described, Head, HeadConfig, Manifest, Objective};
use headwater_model::language::to_safetensors;

use super::*;
use headwater_model::bahe::Layers;

fn log() -> LocalLog {
    let log = LocalLog::in_memory(Options::new(unix_ms));
    let spec = TopicSpec {
        topic: Topic::Models,
        partitions: 1,
        replication_factor: 1,
        min_insync_replicas: 1,
    };
    log.create(&spec).unwrap();
    log
}

fn config(folder: &Path) -> Config {
    let state = folder.join("state").display().to_string();
    Config::from_toml(&format!("state.path = '{state}'\n")).unwrap()
}

/// Writes a model of the configuration's rows; another seed, another model.
fn write(config: &Config, folder: &Path, seed: u64) {
    let schema = Assembler::new(config).unwrap().schema().clone();
    let features = schema.shared().len() + schema.own().len();
    let head = HeadConfig {
        width: 0,
        sequences: 1,
        features,
        tasks: 1,
        // Several parts.
        projected: 64,
        inner: [1_024, 256],
        interest: 0,
        matches: 0,
        scenarios: 0,
        experts: 0,
        cross: 0,
    };
    let values = to_safetensors(&Head::random(&head, seed).unwrap()).unwrap();
    assert!(values.len() > 2 * PART_BYTES, "{}", values.len());
    let described = Described {
        layers: (Layers::None, None),
        encoder: (None, 1),
        limit: 64,
        sequences: vec!["all".to_owned()],
        scenarios: Vec::new(),
        texts: Vec::new(),
        head,
        features: vec![[0.0, 1.0]; features],
        key_vectors: None,
        reads: headwater_model::dinmp::Reads::default(),
        objective: Objective::Labels,
        rows: [1, 1, 0],
        reached: None,
    };
    std::fs::create_dir_all(folder).unwrap();
    let manifest = Manifest::of(described, &schema, &values).bytes();
    std::fs::write(folder.join(MANIFEST), manifest).unwrap();
    std::fs::write(folder.join(VALUES), values).unwrap();
}

/// A follower that has read all, and whom it holds.
fn follow(config: &Config, log: &LocalLog) -> (Follower, Arc<Held>) {
    let held = Arc::<Held>::default();
    let mut follower = Follower::new(config, log, Arc::clone(&held)).unwrap();
    while !follower.turn().unwrap() {}
    (follower, held)
}

fn id(held: &Held) -> Option<String> {
    held.status().0.map(|model| hex(model.id()))
}

/// Puts or deletes a record of the topic.
fn put(log: &LocalLog, key: &str, value: Option<&[u8]>) {
    let mut producer = log.producer().unwrap();
    send(&mut *producer, key.as_bytes(), value).unwrap();
    producer.flush().unwrap();
}

/// Goal: who was announced last is loaded by who follows and by who comes later, from the topic alone; going back and forth ends where it began; bytes of former
/// models do not stay. Method: three models promoted, rolled back twice, followed all along; copies on disk, and keys in the topic.
#[test]
fn a_fleet_agrees_on_its_champion() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let log = log();
    let (mut follower, held) = follow(&config, &log);
    assert_eq!(id(&held), None);
    assert!(matches!(
        roll_back(&config, &log),
        Err(ChampionError::NoFormer)
    ));
    let mut ids = Vec::new();
    for seed in 1..=3 {
        let from = folder.path().join(format!("model-{seed}"));
        write(&config, &from, seed);
        let announced = promote(&config, &log, &from).unwrap();
        ids.push(announced.champion.clone().unwrap().id);
        assert_eq!(
            announced.former.clone().map(|former| former.id),
            ids.iter().rev().nth(1).cloned()
        );
        // Who asks again loses nothing.
        assert_eq!(promote(&config, &log, &from).unwrap(), announced);
        std::fs::remove_dir_all(&from).unwrap();
        let number = held.other_than(u64::MAX).unwrap().0;
        while !follower.turn().unwrap() {}
        assert_eq!(id(&held).as_ref(), ids.last());
        assert_eq!(held.other_than(number).unwrap().0, number + 1);
    }
    // Again the same: nothing changes.
    let number = held.other_than(u64::MAX).unwrap().0;
    let back = roll_back(&config, &log).unwrap();
    assert_eq!(back.champion.unwrap().id, ids[1]);
    while !follower.turn().unwrap() {}
    assert_eq!(id(&held).as_ref(), Some(&ids[1]));
    roll_back(&config, &log).unwrap();
    while !follower.turn().unwrap() {}
    assert_eq!(id(&held).as_ref(), Some(&ids[2]));
    assert_eq!(held.other_than(number).unwrap().0, number + 2);
    let kept: Vec<String> = copied(&config)
        .iter()
        .map(|model| hex(model.id()))
        .collect();
    assert_eq!(kept.len(), 2, "champion and former");
    assert!(kept.contains(&ids[1]) && kept.contains(&ids[2]));
    // The baseline alone, twice, and back.
    let retired = retire(&config, &log).unwrap();
    assert_eq!(retire(&config, &log).unwrap(), retired);
    while !follower.turn().unwrap() {}
    assert_eq!(id(&held), None);
    roll_back(&config, &log).unwrap();
    while !follower.turn().unwrap() {}
    assert_eq!(id(&held).as_ref(), Some(&ids[2]));
    // Whoever comes with an empty folder.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = self::config(elsewhere.path());
    assert_eq!(id(&follow(&other, &log).1).as_ref(), Some(&ids[2]));
    let registry = Registry::read(&config, &log).unwrap();
    assert!(
        registry.parts.keys().all(|key| !key.contains(&ids[0])),
        "{:?}",
        registry.parts.keys()
    );
    let copies: Vec<String> = copied(&config)
        .iter()
        .map(|model| hex(model.id()))
        .collect();
    assert_eq!(copies, [ids[2].clone()], "before it was the baseline");
}

/// Goal: `MODEL-2`: what is not whole, not right or not ours is never loaded, whoever scored before goes on, and the status says why. Method: a champion; then
/// another of which a part is missing, is cut, is another's; announcements of a newer form and of none; rows of other tasks; copies on disk that were cut.
#[test]
fn what_is_not_whole_is_never_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let log = log();
    let [good, other] = [1, 2].map(|seed| {
        let from = folder.path().join(format!("model-{seed}"));
        write(&config, &from, seed);
        from
    });
    let first = promote(&config, &log, &good).unwrap().champion.unwrap();
    let (mut follower, held) = follow(&config, &log);
    let mut goes_on = |what: &str, words: &str| {
        while !follower.turn().unwrap() {}
        let (model, trouble) = held.status();
        assert_eq!(
            model.map(|model| hex(model.id())),
            Some(first.id.clone()),
            "{what}"
        );
        let trouble = trouble.unwrap_or_default();
        assert!(trouble.contains(words), "{what}: {trouble}");
    };
    // Promoted and spoilt before anybody looked: announced again each time.
    let second = promote(&config, &log, &other).unwrap();
    let model = second.champion.clone().unwrap();
    let key = |part: u32| format!("{ARTIFACT}{}/{part}", model.id);
    let bytes = Registry::read(&config, &log).unwrap().parts;
    let again = || {
        let value = serde_json::to_vec(&second).unwrap();
        put(&log, "champion", Some(&value));
    };
    put(&log, &key(2), None);
    again();
    goes_on("a part is missing", "part 2 of");
    put(&log, &key(2), Some(&bytes[&key(2)][1..]));
    again();
    goes_on("a part is cut", "was cut off or changed");
    put(&log, &key(2), Some(&bytes[&key(2)]));
    put(&log, &key(0), Some(b"{}"));
    again();
    goes_on("no manifest", "manifest.json");
    let foreign = bytes.iter().filter(|(key, _)| key.contains(&first.id));
    for (foreign, bytes) in foreign {
        let part = foreign.rsplit('/').next().unwrap();
        put(&log, &format!("{ARTIFACT}{}/{part}", model.id), Some(bytes));
    }
    again();
    goes_on("the bytes of another", "are those of");
    put(&log, "champion", Some(br#"{"format":2,"champion":7}"#));
    goes_on("a newer form", "has form 2");
    put(&log, "champion", Some(b"no JSON"));
    goes_on("no announcement", "cannot be read");
    let copies = std::fs::read_dir(super::copies(&config)).unwrap();
    assert!(copies.count() <= 2, "its own copy, and what was tried last");

    // A copy that was cut is made again.
    promote(&config, &log, &good).unwrap();
    let path = super::copies(&config).join(&first.id).join(VALUES);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(id(&follow(&config, &log).1), Some(first.id.clone()));
    assert!(std::fs::read(&path).unwrap() == whole);

    // Rows of other tasks.
    let text = format!(
        "state.path = '{}'\n[tasks.buy]\npositive = [\"purchase\"]\ntrials = [\"click\"]\nscenarios = []\n",
        folder.path().join("other").display()
    );
    let tasks = Config::from_toml(&text).unwrap();
    let (_, held) = follow(&tasks, &log);
    let (model, trouble) = held.status();
    assert!(model.is_none());
    assert!(trouble.unwrap().contains("schema"));
    assert!(matches!(
        promote(&tasks, &log, &good),
        Err(ChampionError::Trained(_))
    ));
}
