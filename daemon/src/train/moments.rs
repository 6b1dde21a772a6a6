//! Mean and spread of the rows' numbers, by which the head sees them.

/// The spread of a number that never moved: nothing was learned of it, and whatever it is one day, the model is not to be moved by weights that are still what
/// chance made them. (Statistics of items are 0 in a platform's first minute.)
const UNMOVED: f32 = 1e30;

/// Mean and spread of each number.
pub(super) fn moments<'a>(
    rows: &(impl ExactSizeIterator<Item = &'a [f32]> + Clone),
    features: usize,
) -> Vec<[f32; 2]> {
    let count = rows.len().max(1) as f64;
    (0..features)
        .map(|place| {
            let of = |row: &[f32]| f64::from(row[place]);
            let mean = rows.clone().map(of).sum::<f64>() / count;
            let squares = rows.clone().map(|row| (of(row) - mean).powi(2));
            let square = squares.sum::<f64>() / count;
            let spread = square.sqrt();
            let moved = spread > 1e-6;
            [mean as f32, if moved { spread as f32 } else { UNMOVED }]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a number that never moved while a model learned moves no score later. Method: one that moves and one that does not; what the head sees of another value.
    #[test]
    fn what_never_moved_is_not_looked_at() {
        let rows = [[1.0, 0.3], [3.0, 0.3]];
        let [moves, rests] = moments(&rows.iter().map(|row| &row[..]), 2)[..] else {
            panic!("two numbers");
        };
        assert_eq!(moves, [2.0, 1.0]);
        let seen = |[mean, spread]: [f32; 2], value: f32| (value - mean) / spread;
        assert_eq!(seen(moves, 9.0), 7.0);
        assert!(seen(rests, 1e6).abs() < 1e-20);
    }
}
