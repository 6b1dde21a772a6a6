//! What the baseline promises: rates that shrink to what is known of more, and scores that are golden.

use proptest::prelude::*;

use super::*;
use crate::feature::{FeatureSchema, HalfLives, TaskSpec};

/// Levels whose own positives may only raise a score; see the module's text on `User`.
const RISING: [Level; 8] = [
    Level::Global,
    Level::Scenario,
    Level::Category,
    Level::ItemAnywhere,
    Level::Item,
    Level::UserCategory,
    Level::UserAttribute,
    Level::UserItem,
];

fn schema(tasks: usize) -> FeatureSchema {
    let lives = HalfLives {
        short_ms: None,
        long_ms: None,
    };
    FeatureSchema::new(
        (0..tasks)
            .map(|task| TaskSpec {
                name: format!("task{task}"),
                definition: String::new(),
                item: lives,
                user: lives,
            })
            .collect(),
    )
    .expect("the names are good")
}

fn seen(trials: f32, positives: f32) -> Counts {
    Counts {
        trials,
        positives,
        ..Counts::default()
    }
}

fn set(batch: &mut FeatureBatch, candidate: usize, level: Level, task: usize, counts: &Counts) {
    if level.is_shared() {
        batch.set_shared(level, task, counts);
    } else {
        batch.set(candidate, level, task, counts);
    }
}

/// The score of the only candidate for the first of `tasks`, after the given settings.
fn score_of(tasks: usize, settings: &[(Level, usize, Counts)]) -> f32 {
    let mut batch = FeatureBatch::new(&schema(tasks));
    batch.begin(0, 1);
    for (level, task, counts) in settings {
        set(&mut batch, 0, *level, *task, counts);
    }
    let mut scores = Scores::default();
    Baseline::default().score(&batch, &mut scores);
    scores.get(0, 0)
}

fn close(found: f32, expected: f64) {
    let found = f64::from(found);
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

/// Goal: the first record of a new installation is answered by the prior, later ones by the global rate. Method: an
/// empty row, and rows with global counts alone, against the formula by hand.
#[test]
fn nothing_known_scores_the_prior() {
    close(score_of(1, &[]), 0.25);
    close(score_of(1, &[(Level::Global, 0, seen(996.0, 39.0))]), 0.04);
}

/// Goal: the item's term is the Beta posterior that the docs promise. Method: an item under a known global rate, by hand:
/// r = 0.2, k = 3 / (0.2 · 0.8) = 18.75, (3 + 18.75 · 0.2) / (10 + 18.75).
#[test]
fn item_is_shrunk_as_documented() {
    let global = (Level::Global, 0, seen(16.0, 3.0));
    close(score_of(1, &[global]), 0.2);
    close(
        score_of(
            1,
            &[
                global,
                (Level::Item, 0, seen(10.0, 3.0)),
                (Level::ItemAnywhere, 0, seen(10.0, 3.0)),
            ],
        ),
        6.75 / 28.75,
    );
}

/// Goal: much evidence overrules what was expected, none leaves it. Method: each level in turn with 10 million trials at
/// 90 % where 10 % was expected; and with no trials.
#[test]
fn shrinkage_has_its_limits() {
    let global = (Level::Global, 0, seen(996.0, 99.0));
    for level in [
        Level::Scenario,
        Level::Category,
        Level::ItemAnywhere,
        Level::Item,
        Level::UserCategory,
        Level::UserAttribute,
        Level::UserItem,
        Level::User,
    ] {
        let much = Counts {
            expected: 1e6,
            ..seen(1e7, 9e6)
        };
        let score = score_of(1, &[global, (level, 0, much)]);
        assert!((score - 0.9).abs() < 1e-3, "{level:?}: {score}");
        let none = score_of(1, &[global, (level, 0, seen(0.0, 0.0))]);
        assert_eq!(
            none.to_bits(),
            score_of(1, &[global]).to_bits(),
            "{level:?}"
        );
    }
}

/// Goal: a user who liked what everybody likes is no different from others; one who liked what nobody likes is. Method:
/// the same 8 of 10, with 8 and with 2 expected.
#[test]
fn users_are_judged_by_what_they_were_shown() {
    let global = (Level::Global, 0, seen(96.0, 49.0));
    let user = |expected| {
        let counts = Counts {
            expected,
            ..seen(10.0, 8.0)
        };
        score_of(1, &[global, (Level::User, 0, counts)])
    };
    close(user(8.0), 0.5);
    assert!(user(2.0) > 0.7, "{}", user(2.0));
}

/// Goal: an item's reception in other tasks counts here, its own does not count twice. Method: counts in the second task
/// alone; and the same with a correlation of 0.
#[test]
fn other_tasks_speak_for_an_item() {
    let settings = [
        (Level::Global, 1, seen(96.0, 24.0)),
        (Level::ItemAnywhere, 1, seen(50.0, 40.0)),
    ];
    assert!(score_of(2, &settings) > 0.4);
    let mut batch = FeatureBatch::new(&schema(2));
    batch.begin(0, 1);
    for (level, task, counts) in &settings {
        set(&mut batch, 0, *level, *task, counts);
    }
    let smoothing = Smoothing {
        other_tasks: 0.0,
        ..Smoothing::default()
    };
    let mut scores = Scores::default();
    Baseline::new(smoothing)
        .expect("the constants are good")
        .score(&batch, &mut scores);
    close(scores.get(0, 0), 0.25);
}

/// Goal: constants that would make a scorer divide by zero or turn round are refused by name. Method: one of each.
#[test]
fn bad_constants_are_refused() {
    let good = Smoothing::default();
    assert!(Baseline::new(good).is_ok());
    let bad = [
        (
            Smoothing {
                prior_rate: 1.0,
                ..good
            },
            "prior_rate",
        ),
        (
            Smoothing {
                prior_trials: f64::NAN,
                ..good
            },
            "prior_trials",
        ),
        (Smoothing { item: 0.0, ..good }, "item"),
        (
            Smoothing {
                user_item: -1.0,
                ..good
            },
            "user_item",
        ),
        (
            Smoothing {
                user: f64::INFINITY,
                ..good
            },
            "user",
        ),
        (
            Smoothing {
                other_tasks: 1.5,
                ..good
            },
            "other_tasks",
        ),
    ];
    for (smoothing, name) in bad {
        let error = Baseline::new(smoothing).expect_err(name).to_string();
        assert!(error.starts_with(&format!("{name} = ")), "{error}");
    }
}

/// Goal: scores do not change from version to version without `VERSION` being raised. Method: a batch of two candidates
/// and two tasks with everything set, against the bits that the first version gave.
#[test]
fn scores_are_golden() {
    let mut batch = FeatureBatch::new(&schema(2));
    batch.begin(1_000_000, 2);
    let mut number = 1.0_f32;
    for level in Level::ALL {
        for task in 0..2 {
            for candidate in 0..2 {
                let counts = Counts {
                    trials: 10.0 + 7.0 * number,
                    positives: 1.5 * number,
                    expected: 2.0 * number,
                    unmatched: 0.25 * number,
                    recent_trials: 3.0 + number,
                    recent_positives: 0.5 * number,
                    recent_expected: 0.75 * number,
                    last_ms: 900_000,
                };
                set(&mut batch, candidate, level, task, &counts);
                number = if number > 9.0 { 1.0 } else { number + 1.0 };
            }
        }
    }
    let mut scores = Scores::default();
    Baseline::default().score(&batch, &mut scores);
    let bits: Vec<_> = (0..2)
        .flat_map(|candidate| scores.candidate(candidate).to_vec())
        .map(|score| format!("{:08x} {score}", score.to_bits()))
        .collect();
    assert_eq!(
        bits,
        [
            "3decf03c 0.115692586",
            "3e1e1b9f 0.15440224",
            "3e08dcc0 0.1336546",
            "3e27cc3d 0.16386504"
        ]
    );
}

/// Any number that a count could ever hold, and some that it should not.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => 0.0_f32..1_000.0,
        2 => Just(0.0),
        1 => prop::num::f32::ANY,
        1 => prop::sample::select(vec![f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::NAN, f32::INFINITY, -1.0]),
    ]
}

fn counts() -> impl Strategy<Value = Counts> {
    (
        [
            number(),
            number(),
            number(),
            number(),
            number(),
            number(),
            number(),
        ],
        prop_oneof![Just(Counts::NEVER_MS), any::<i64>()],
    )
        .prop_map(|(of, last_ms)| Counts {
            trials: of[0],
            positives: of[1],
            expected: of[2],
            unmatched: of[3],
            recent_trials: of[4],
            recent_positives: of[5],
            recent_expected: of[6],
            last_ms,
        })
}

/// The settings of one candidate, or of the shared part: whatever levels, for two tasks.
fn settings() -> impl Strategy<Value = Vec<(usize, usize, Counts)>> {
    prop::collection::vec((0..Level::ALL.len(), 0_usize..2, counts()), 0..24)
}

fn batch_of(
    candidates: &[&Vec<(usize, usize, Counts)>],
    shared: &[(usize, usize, Counts)],
) -> FeatureBatch {
    let mut batch = FeatureBatch::new(&schema(2));
    batch.begin(5_000, candidates.len());
    for (level, task, counts) in shared {
        if Level::ALL[*level].is_shared() {
            batch.set_shared(Level::ALL[*level], *task, counts);
        }
    }
    for (candidate, settings) in candidates.iter().enumerate() {
        for (level, task, counts) in *settings {
            if !Level::ALL[*level].is_shared() {
                batch.set(candidate, Level::ALL[*level], *task, counts);
            }
        }
    }
    batch
}

proptest! {
    /// Goal: no counts whatever make a score that is not a probability. Method: random and extreme counts, numbers that
    /// are none included; each score, and each term of its explanation.
    #[test]
    fn scores_are_probabilities(shared in settings(), own in settings()) {
        let batch = batch_of(&[&own], &shared);
        let mut scores = Scores::default();
        Baseline::default().score(&batch, &mut scores);
        for task in 0..2 {
            let score = scores.get(0, task);
            prop_assert!(score > 0.0 && score < 1.0, "{score}");
            let explanation = Baseline::default().explain(batch.row(0), task);
            prop_assert_eq!(explanation.probability.to_bits(), score.to_bits());
            prop_assert!(explanation.contributions.iter().all(|term| term.log_odds.is_finite()));
            let terms: Vec<_> = explanation.contributions.iter().map(|one| one.term).collect();
            prop_assert_eq!(terms, Term::ALL);
            let sum: f64 = explanation.contributions.iter().map(|term| term.log_odds).sum();
            prop_assert_eq!(sum.clamp(-13.0, 13.0).to_bits(), explanation.log_odds.to_bits());
        }
    }

    /// Goal: a candidate's score does not depend on who else is in the batch, or where. Method: score candidates
    /// together, in reverse and each alone, and compare bits.
    #[test]
    fn candidates_do_not_see_each_other(shared in settings(), own in prop::collection::vec(settings(), 1..6)) {
        let together: Vec<_> = own.iter().collect();
        let mut reversed = together.clone();
        reversed.reverse();
        let (mut scores, mut others, mut alone) = (Scores::default(), Scores::default(), Scores::default());
        Baseline::default().score(&batch_of(&together, &shared), &mut scores);
        Baseline::default().score(&batch_of(&reversed, &shared), &mut others);
        prop_assert_eq!(scores.len(), own.len());
        for (candidate, settings) in own.iter().enumerate() {
            Baseline::default().score(&batch_of(&[settings], &shared), &mut alone);
            for task in 0..2 {
                let bits = scores.get(candidate, task).to_bits();
                prop_assert_eq!(bits, others.get(own.len() - 1 - candidate, task).to_bits());
                prop_assert_eq!(bits, alone.get(0, task).to_bits());
            }
        }
    }

    /// Goal: more positives in the same trials never lower a score. Method: any row of sane counts, one level's positives
    /// raised within its trials. `ItemAnywhere` holds what is elsewhere and what is here, as assembly makes it: a
    /// positive of the item here is one of the item anywhere too.
    #[test]
    fn positives_never_hurt(
        row in prop::collection::vec((1.0_f32..500.0, 0.0_f32..1.0, 0.01_f32..0.99), Level::ALL.len()),
        raised in 0..RISING.len(),
        by in 0.0_f32..1.0,
    ) {
        let settings = |raise: f32| -> Vec<(Level, usize, Counts)> {
            let mut settings: Vec<_> = Level::ALL.into_iter().zip(&row).map(|(level, &(trials, share, expected))| {
                let share = if level == RISING[raised] { share + (1.0 - share) * raise } else { share };
                (level, 0, Counts {
                    expected: trials * expected,
                    recent_trials: trials / 4.0,
                    recent_positives: trials / 4.0 * share,
                    recent_expected: trials / 4.0 * expected,
                    ..seen(trials, trials * share)
                })
            }).collect();
            let place = |level| Level::ALL.iter().position(|&other| other == level).expect("it is a level");
            let here = settings[place(Level::Item)].2;
            settings[place(Level::ItemAnywhere)].2.add(&here);
            settings
        };
        let (before, after) = (score_of(1, &settings(0.0)), score_of(1, &settings(by)));
        // A sum of f32 counts below 1,000 is off by up to 6e-5, and no count moves a score by more than 1/12.
        prop_assert!(after >= before - 1e-5, "{:?}: {before} became {after}", RISING[raised]);
    }
}
