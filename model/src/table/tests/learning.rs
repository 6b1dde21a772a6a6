//! Batches, the step, rows that start, and what is refused.

use candle_core::Device;

use super::*;

/// Goal: a repeated id is one row with the sum of its gradients, and the first step of Adagrad is what the formula says. Method: numbers computed by hand.
#[test]
fn a_step_is_what_the_formula_says() {
    let mut table = Table::new(settings()).unwrap();
    table
        .meet(&keys([7, 8]), 0, |_| Some(vec![1.0, 2.0, 3.0]))
        .unwrap();
    let gathered = table.gather(&keys([8, 7, 9, 7]), None);
    assert_eq!(gathered.len(), 3);
    assert_eq!(gathered.rows()[1], gathered.rows()[3]);
    assert_eq!(gathered.rows()[2], 0);
    let position = [
        [0.0, 0.0, 0.0],
        [1.0, 0.0, 2.0],
        [0.0, 0.0, -3.0],
        [2.0, 4.0, -2.0],
    ];
    let summed = gathered.summed(position.as_flattened()).unwrap();
    let row = gathered.rows()[1] as usize;
    assert_eq!(summed[row * 3..][..3], [3.0, 4.0, 0.0]);
    let stepped = table.step(&gathered, &summed).unwrap();
    assert_eq!((stepped.rows, stepped.refused, stepped.gone), (3, 0, 0));
    // The mean of squares is 25/3: rate 0.1 / 2.8868.
    let snapshot = table.snapshot();
    let near = |found: &[f32], expected: [f64; 3]| {
        let pairs = found.iter().zip(expected);
        let mut errors = pairs.map(|(found, expected)| (f64::from(*found) - expected).abs());
        assert!(errors.all(|error| error < 1e-6), "{found:?}");
    };
    let rate = 0.1 / (25.0_f64 / 3.0).sqrt();
    near(
        snapshot.row(key(7)).unwrap(),
        [1.0 - 3.0 * rate, 2.0 - 4.0 * rate, 3.0],
    );
    near(snapshot.row(key(8)).unwrap(), [1.0, 2.0, 3.0]);
    near(snapshot.unknown(), [0.0, 0.0, 0.1 * 3.0_f64.sqrt()]);
    // The second step of the same gradient is shorter by the root of one and the part of the sum that is remembered.
    table.step(&gathered, &summed).unwrap();
    near(
        table.snapshot().row(key(7)).unwrap(),
        [
            1.0 - 3.0 * rate * (1.0 + (1.0 / 1.9_f64).sqrt()),
            2.0 - 4.0 * rate * (1.0 + (1.0 / 1.9_f64).sqrt()),
            3.0,
        ],
    );
}

/// Goal: a step changes the pages of its rows and no other, and not the unknown row unless it was read. Method: a large table with a snapshot, a step of few ids; pages are compared by their memory.
#[test]
fn only_touched_rows_move() {
    let mut table = met(settings(), 0..3000);
    let before = table.snapshot();
    let [pages, shared] = table.snapshot().pages(&before);
    assert_eq!((pages, shared), (3000_usize.div_ceil(ROWS_IN_PAGE), pages));
    let some = keys([5, 700, 2999, 5]);
    let stepped = learn(&mut table, &some, None, 1.0);
    assert_eq!(stepped.rows, 3);
    let after = table.snapshot();
    let [_, shared] = after.pages(&before);
    assert!((pages - 3..pages).contains(&shared), "{shared} of {pages}");
    for id in 0..3000 {
        let moved = before.row(key(id)) != after.row(key(id));
        assert_eq!(moved, some.contains(&key(id)), "{id}");
    }
    assert_eq!(before.unknown(), after.unknown());
    // Its sum as well is what it was.
    assert_eq!(before.rows.unknown, after.rows.unknown);
}

/// Goal: a batch as tensors through candle's graph is the same step. Method: a loss over selected rows, its gradient of the leaf, against gradients of positions summed here.
#[test]
fn gradients_of_a_graph_fit() {
    let mut table = met(settings(), 0..50);
    let batch = keys([3, 9, 3, 77, 3]);
    let gathered = table.gather(&batch, None);
    let device = Device::Cpu;
    let leaf = candle_core::Var::from_tensor(&gathered.tensor(&device).unwrap()).unwrap();
    let read = leaf
        .index_select(&gathered.index(&device).unwrap(), 0)
        .unwrap();
    let weights: Vec<f32> = (0..15).map(|at| at as f32 / 4.0 - 1.0).collect();
    let weights = candle_core::Tensor::from_vec(weights, (5, 3), &device).unwrap();
    let loss = (&read * &weights).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let leaf = gradients.get(leaf.as_tensor()).unwrap();
    let leaf: Vec<f32> = leaf.flatten_all().unwrap().to_vec1().unwrap();
    let weights: Vec<f32> = weights.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(leaf, gathered.summed(&weights).unwrap());
    assert_eq!(table.step(&gathered, &leaf).unwrap().rows, 3);
}

/// Goal: a gradient that is no number moves nothing of its row, and the others move. Method: NaN, infinity, and one whose square overflows, beside a plain one.
#[test]
fn gradients_that_are_no_numbers_move_nothing() {
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let mut table = met(settings(), 0..3);
        let before = table.snapshot();
        let gathered = table.gather(&keys([1, 2]), None);
        let mut gradients = vec![1.0; 9];
        let row = gathered.rows()[0] as usize;
        gradients[row * 3 + 1] = bad;
        let stepped = table.step(&gathered, &gradients).unwrap();
        assert_eq!((stepped.rows, stepped.refused), (1, 1));
        let after = table.snapshot();
        assert_eq!(before.row(key(1)), after.row(key(1)));
        assert_ne!(before.row(key(2)), after.row(key(2)));
        let (page, at) = after.rows.find(key(1));
        assert_eq!(after.rows.pages[page].row(at.unwrap(), 3).1, 0.0);
    }
}

/// Goal: rows dropped between gathering and step are counted, and what took their page is not moved. Method: expire all but one.
#[test]
fn rows_that_are_gone_are_counted() {
    let mut settings = settings();
    settings.expiry = Some(0);
    let mut table = met(settings, 0..10);
    let gathered = table.gather(&keys(0..10), None);
    assert_eq!(table.expire(4), 8);
    let stepped = table
        .step(&gathered, &vec![1.0; gathered.len() * 3])
        .unwrap();
    assert_eq!((stepped.rows, stepped.gone), (2, 8));
}

/// Goal: positions are left out at their rate, by seed, step and position alone, and the unknown row learns of them. Method: counts over many steps; one batch gathered twice; a step with all left out.
#[test]
fn left_out_ids_train_the_unknown_row() {
    let dropout = |seed, step, rate| Dropout { rate, seed, step };
    let drawn = |seed| {
        (0..100).flat_map(move |step| {
            (0..100).filter(move |position| dropout(seed, step, 0.1).drops(*position))
        })
    };
    let count = drawn(1).count();
    assert!((850..1150).contains(&count), "{count}");
    assert!(drawn(1).eq(drawn(1)));
    assert!(!drawn(1).eq(drawn(2)));
    let none = (0..1000).any(|position| dropout(1, 1, 0.0).drops(position));
    let all = (0..1000).all(|position| dropout(1, 1, 1.0).drops(position));
    assert!(!none && all);

    let mut table = met(settings(), 0..100);
    let half = dropout(3, 9, 0.5);
    let batch = keys(0..100);
    let gathered = table.gather(&batch, Some(half));
    assert_eq!(gathered, table.gather(&batch, Some(half)));
    for (position, row) in gathered.rows().iter().enumerate() {
        assert_eq!(*row == 0, half.drops(position as u32));
    }
    let before = table.snapshot();
    let stepped = learn(&mut table, &batch, Some(dropout(3, 9, 1.0)), 1.0);
    assert_eq!(stepped.rows, 1);
    assert_ne!(before.unknown(), table.snapshot().unknown());
    assert_eq!(before.row(key(4)), table.snapshot().row(key(4)));
}

/// Goal: a cold row begins with the vector of its text, else with small numbers that follow from id and seed. Method: both, in two tables and with another seed.
#[test]
fn cold_rows_begin_with_what_is_known() {
    let text = |position| (position == 1).then(|| vec![0.5, -0.25, 9.0]);
    let begin = |seed| {
        let mut table = Table::new(TableSettings { seed, ..settings() }).unwrap();
        table.meet(&keys([1, 2, 3]), 0, text).unwrap();
        table.snapshot()
    };
    let [one, same, other] = [begin(1), begin(1), begin(2)];
    assert_eq!(one.row(key(2)).unwrap(), [0.5, -0.25, 9.0]);
    let row = one.row(key(1)).unwrap();
    assert!(row.iter().all(|value| value.abs() <= 0.05 && *value != 0.0));
    assert_eq!(row, same.row(key(1)).unwrap());
    assert_ne!(row, other.row(key(1)).unwrap());
    assert_ne!(row, one.row(key(3)).unwrap());
    let all = met(settings(), 0..1000).snapshot();
    let sum: f32 = (0..1000).map(|id| all.row(key(id)).unwrap()[0]).sum();
    assert!(sum.abs() / 1000.0 < 0.005, "{sum}");
}

/// Goal: what does not fit is refused with its name, and changes nothing. Method: wrong lengths, a start that is no number, settings out of range or other than the snapshot's.
#[test]
fn what_does_not_fit_is_refused() {
    let mut table = met(settings(), 0..10);
    let before = bits(&table.snapshot());
    let gathered = table.gather(&keys([1]), None);
    let errors = [
        gathered.summed(&[0.0; 4]).unwrap_err().to_string(),
        table.step(&gathered, &[0.0; 7]).unwrap_err().to_string(),
        table
            .meet(&keys([50]), 0, |_| Some(vec![0.0; 2]))
            .unwrap_err()
            .to_string(),
        table
            .meet(&keys([1, 50]), 0, |_| Some(vec![0.0, f32::NAN, 0.0]))
            .unwrap_err()
            .to_string(),
    ];
    assert_eq!(
        errors,
        [
            "table: gradients of positions: 4 numbers, 3 expected",
            "table: gradients of rows: 7 numbers, 6 expected",
            "table: the vector that starts a row: 2 numbers, 3 expected",
            "table: the vector that starts the row of position 1 holds NaN",
        ]
    );
    assert_eq!(bits(&table.snapshot()), before);

    let snapshot = table.snapshot();
    let wrong: [(&str, fn(&mut TableSettings)); 12] = [
        ("width", |settings| settings.width = 0),
        ("width", |settings| settings.width = 4),
        ("seed", |settings| settings.seed = 1),
        ("memory", |settings| settings.memory = 10),
        ("admission.count", |settings| settings.admission.count = 0),
        ("admission.counters", |settings| {
            settings.admission.counters = 3;
        }),
        ("admission.counters", |settings| {
            settings.admission.counters = 2;
        }),
        ("admission.window", |settings| settings.admission.window = 0),
        ("learning.rate", |settings| settings.learning.rate = 0.0),
        ("learning.epsilon", |settings| {
            settings.learning.epsilon = f32::NAN;
        }),
        ("learning.start", |settings| settings.learning.start = -1.0),
        ("spread", |settings| settings.spread = f32::INFINITY),
    ];
    for (name, change) in wrong {
        let mut settings = settings();
        change(&mut settings);
        let error = Table::resume(settings, &snapshot).unwrap_err().to_string();
        assert!(error.starts_with(&format!("table: `{name}` ")), "{error}");
    }
}

/// Goal: a trainer that goes on with less memory drops the oldest. Method: resumed with room for a third.
#[test]
fn less_memory_drops_the_oldest() {
    let table = met(settings(), 0..300);
    let less = Table::resume(room(120), &table.snapshot()).unwrap();
    // Hours 4 and 3 have 60 ids each.
    let snapshot = less.snapshot();
    let kept = (0..300).filter(|id| snapshot.row(key(*id)).is_some());
    assert!(kept.eq((0..300).filter(|id| id % 5 >= 3)));
    assert_eq!(hour_of(7_199_999), 1);
    assert_eq!(hour_of(-1), 0);
}
