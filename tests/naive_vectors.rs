//! Vectors of users and items, worked out from what users did: sorted lists and whole runs, none of the state's code and nothing that grows.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headwater_model::bahe::{BaheModel, RowVectors, gap_of};
use headwater_model::language::{Kernels, LanguageError, text_hash};
use headwater_model::{Device, LoggedRequest, LoggedSequence, LoggedVectors, Tensor};

/// One behavior of a sequence.
#[derive(Clone, Debug)]
pub struct Done {
    /// What stands for it.
    pub text: String,
    /// When.
    pub time: i64,
    /// Where it stood in its partition.
    pub offset: i64,
}

/// The newest run of a sequence, by the naive rules: sorted, and halved when it is full.
#[derive(Debug, Default)]
pub struct Run {
    /// Behaviors that have left.
    pub start: u64,
    /// The others.
    pub entries: Vec<Done>,
}

impl Run {
    /// The run of what was done, in the order in which it came.
    pub fn of(limit: usize, done: impl Iterator<Item = Done>) -> Self {
        let mut run = Self::default();
        let key = |done: &Done| (done.time, done.offset);
        for one in done {
            if run.start > 0 && key(&one) < key(&run.entries[0]) {
                continue;
            }
            run.entries.push(one);
            run.entries.sort_by_key(key);
            if run.entries.len() == limit {
                run.entries.drain(..limit / 2);
                run.start += limit as u64 / 2;
            }
        }
        run
    }

    /// What a row of that time sees of it.
    fn before(&self, limit: usize, time: i64) -> &[Done] {
        let count = self.entries.iter().filter(|done| done.time < time).count();
        // By its definition a vector of so few would have begun with behaviors that have left.
        if self.start > 0 && count < limit / 2 && count < self.entries.len() {
            return &[];
        }
        &self.entries[..count]
    }

    /// Whether what a row of that time would have seen has left.
    pub fn has_left(&self, limit: usize, time: i64) -> bool {
        self.start > 0 && self.before(limit, time).is_empty()
    }
}

/// Holds what a row of one sequence names, at which nobody looked, against the run of its user, which begins anew at so many behaviors; `text_of` is an item's text.
///
/// # Errors
/// What differs.
pub fn judge_named(
    logged: &LoggedRequest<'_>,
    vectors: &LoggedVectors<'_>,
    (run, limit): (&Run, usize),
    text_of: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    let [sequence] = &vectors.sequences[..] else {
        return Err("not one sequence".to_owned());
    };
    if run.has_left(limit, logged.time) {
        return Err("the row is from before the run began anew".to_owned());
    }
    if sequence.used > 0 || !vectors.users.is_empty() {
        return Err("nobody looked, and there are vectors".to_owned());
    }
    content(sequence, run.start, run.before(limit, logged.time))?;
    for candidate in &logged.candidates {
        // An item that was not known then has no text.
        let hash = BASE64_STANDARD.encode(text_hash(&text_of(&candidate.item_id)));
        let is_named = candidate
            .text
            .as_deref()
            .is_some_and(|text| text.is_empty() || text == hash);
        if !is_named || !candidate.vector.is_empty() {
            return Err(format!(
                "{} has the text {:?}",
                candidate.item_id, candidate.text
            ));
        }
    }
    Ok(())
}

/// Holds what a row of one sequence says that the model saw against the run of its user, and against what comes of it; `vector_of` is a text's vector as it is
/// kept, `text_of` an item's text.
///
/// # Errors
/// What differs.
pub fn judge_row(
    model: &BaheModel,
    logged: &LoggedRequest<'_>,
    vectors: &LoggedVectors<'_>,
    run: &Run,
    vector_of: &dyn Fn(&str) -> Vec<f32>,
    text_of: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    let [sequence] = &vectors.sequences[..] else {
        return Err("not one sequence".to_owned());
    };
    let before = run.before(model.manifest().limit, logged.time);
    content(sequence, run.start, before)?;
    let used = &before[..sequence.used];
    let wrong = |error: LanguageError| error.to_string();
    let layers = model.deep().ok_or("no deep layers")?;
    let user = if used.is_empty() {
        layers.emptiness(0).map_err(wrong)?
    } else {
        whole(model, used, vector_of).map_err(wrong)?
    };
    let scorer = model.scorer();
    let mut expected = RowVectors::default();
    scorer.begin(logged.candidates.len(), &mut expected);
    scorer.set_user(0, &user, &mut expected);
    near("the user's vector", &vectors.users, expected.users())?;
    for (place, candidate) in logged.candidates.iter().enumerate() {
        if candidate.vector.is_empty() {
            continue;
        }
        // An item that was not known then has the vector of no text.
        let texts = [
            vector_of(&text_of(&candidate.item_id)),
            vec![0.0; user.len()],
        ];
        let mut judged = Err(String::new());
        for vector in texts {
            let item = layers.item_vectors(&[&vector]).map_err(wrong)?;
            scorer.set_item(place, &item[0], &mut expected);
            let expected = expected.item(place).unwrap_or_default();
            judged = judged.or_else(|_| near(&candidate.item_id, &candidate.vector, expected));
        }
        judged?;
    }
    Ok(())
}

/// What a row says of a sequence is what was done before it.
fn content(sequence: &LoggedSequence<'_>, start: u64, before: &[Done]) -> Result<(), String> {
    let texts: Vec<u8> = before
        .iter()
        .flat_map(|done| text_hash(&done.text))
        .collect();
    let gaps = gaps(before).into_iter();
    let right = sequence.start == start
        && sequence.length == before.len()
        && sequence.used <= before.len()
        && *sequence.texts == BASE64_STANDARD.encode(texts)
        && gaps.eq(sequence.gaps.iter().map(|gap| u32::from(*gap)));
    right
        .then_some(())
        .ok_or_else(|| format!("the sequence began at {start} and had {before:?} before the row"))
}

fn gaps(run: &[Done]) -> Vec<u32> {
    (0..run.len())
        .map(|place| {
            gap_of(
                place
                    .checked_sub(1)
                    .map(|last| run[place].time - run[last].time),
            )
        })
        .collect()
}

/// The vector of a run, computed whole.
fn whole(
    model: &BaheModel,
    run: &[Done],
    vector_of: &dyn Fn(&str) -> Vec<f32>,
) -> Result<Vec<f32>, LanguageError> {
    let vectors: Vec<f32> = run.iter().flat_map(|done| vector_of(&done.text)).collect();
    let layers = model.deep().expect("asked for before");
    let vectors = Tensor::from_vec(vectors, (1, run.len(), ()), &Device::Cpu).unwrap();
    let gaps = Tensor::from_vec(gaps(run), (1, run.len()), &Device::Cpu).unwrap();
    let outputs = layers.outputs(&vectors, &gaps, Kernels::Fused)?;
    let pooled = layers.pooled(&outputs, &[(0, run.len())], &[0])?;
    Ok(pooled.to_vec2().unwrap().remove(0))
}

/// As near as 16 bits and another order of adding up allow.
fn near(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    let mut pairs = found.iter().zip(expected);
    let far =
        pairs.any(|(found, expected)| (found - expected).abs() > 1e-2 * expected.abs() + 1e-2);
    if far || found.len() != expected.len() {
        return Err(format!("{what}: must be {expected:?}, is {found:?}"));
    }
    Ok(())
}
