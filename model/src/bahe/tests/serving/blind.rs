//! Which rows hold what a model sees of texts.

use super::*;
use crate::{LogHead, LoggedRequest, LoggedVectors};

/// Goal: a row is evidence of a model that looks at texts where it holds what that one sees: a row of another's towers, one that names texts at which nobody looked, or one with likenesses of another encoder, is none; the baseline's is, and one of a build that named no towers by the model that scored. A model without texts
/// sees all that there is. Method: rows of each sort, before a model with layers, another head of the same, and one without texts.
#[test]
fn rows_of_other_towers_are_no_evidence() {
    let schema = schema();
    let made = made_of(&schema, Layers::Deep, [2, 2, 3]);
    let model = BaheModel::of(made.described.clone(), &schema, &made.values).unwrap();
    let mut values = made.values.clone();
    values.insert("head.base".to_owned(), tensor(5, &[2]));
    let sibling = BaheModel::of(made.described.clone(), &schema, &values).unwrap();
    let bare = made_of(&schema, Layers::None, [0; 3]);
    let bare = BaheModel::of(bare.described, &schema, &bare.values).unwrap();
    assert_ne!(sibling.version(), model.version());

    let batch = batch(&schema, 1);
    let mut scores = Scores::default();
    Baseline::default().score(&batch, &mut scores);
    let towers: String = model
        .towers()
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let ours = "0a1b".repeat(8);
    let of =
        |layers: &str, kind: &str, version: u32, encoder: Option<&str>, towers: Option<&str>| {
            let head = LogHead {
                model: kind,
                version,
                request_id: "r",
                user: "u",
                scenario: "s0",
                item_state: 0,
                embeddings: encoder,
            };
            let mut logged = LoggedRequest::of(head, &schema, ["i"], &batch, &scores);
            logged.vectors = towers.map(|towers| LoggedVectors {
                layers: layers.to_owned().into(),
                towers: towers.into(),
                sequences: Vec::new(),
                users: Vec::<f32>::new().into(),
            });
            [&model, &sibling, &bare].map(|model| model.is_blind_to(&logged))
        };
    let blind = |kind: &str, version: u32, encoder: Option<&str>, towers: Option<&str>| {
        of("cd", kind, version, encoder, towers)
    };
    let (us, ours) = (model.version(), Some(ours.as_str()));
    let kind = BaheModel::NAME;
    // By either of the two, and by another's towers; by a model without texts.
    assert_eq!(blind(kind, us, ours, Some(&towers)), [false; 3]);
    assert_eq!(blind(kind, 7, ours, Some(&towers)), [false; 3]);
    assert_eq!(blind(kind, us, ours, Some("ab")), [true, true, false]);
    assert_eq!(blind(kind, 7, ours, None), [true, true, false]);
    // Before rows named towers.
    assert_eq!(blind(kind, us, ours, Some("")), [false, true, false]);
    // The baseline's say what is said without vectors, of this encoder alone.
    assert_eq!(blind(Baseline::NAME, 1, ours, None), [false; 3]);
    // Where they name the texts, they are none.
    for version in [1, us] {
        let nobody = of("", Baseline::NAME, version, ours, Some(""));
        assert_eq!(nobody, [true, true, false]);
    }
    for encoder in [None, Some("77")] {
        assert_eq!(blind(Baseline::NAME, 1, encoder, None), [true, true, false]);
    }
}
