//! Rows of users: what is known of a user beside what they did, learned from what became of their rows.
//!
//! Before it, a row of the table for each user, by its pseudonym, as items have them; after it, the head reads the user's row, and its product with the candidate's vector, which speaks for the candidate as it is:
//! matrix factorization (Koren, Bell and Volinsky 2009) beside the network that weighs a user's past. Who has no row reads the unknown one, as items do that nobody knows: it learns from all that are left out on purpose.

use super::network::{Vector, WIDTH, dot};
use super::seen::{Asked, Seen};

/// Numbers of a row: in front of the network's the product, behind them the user's row.
pub(super) const NUMBERS: usize = 1 + WIDTH;

/// Of each row its user, among the items that are seen.
#[derive(Debug)]
pub(super) struct Users(Vec<usize>);

impl Users {
    pub(super) fn of(seen: &Seen, rows: &[Asked]) -> Self {
        let rows = rows.iter();
        Self(rows.map(|row| seen.user_of(row.request)).collect())
    }

    /// What the head reads of each row, in front of and behind the network's numbers, (rows, NUMBERS); `vectors` are the items', users among them, and `candidates` those of the rows.
    pub(super) fn numbers(&self, vectors: &[Vector], candidates: &[Vector]) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(self.0.len() * NUMBERS);
        for (user, candidate) in self.0.iter().zip(candidates) {
            numbers.push(dot(&vectors[*user], candidate));
            numbers.extend_from_slice(&vectors[*user]);
        }
        numbers
    }

    /// Puts them around what the network says, (rows, outputs).
    pub(super) fn around(
        &self,
        out: &[f32],
        vectors: &[Vector],
        candidates: &[Vector],
    ) -> Vec<f32> {
        let wide = out.len() / self.0.len().max(1);
        let numbers = self.numbers(vectors, candidates);
        let mut around = Vec::with_capacity(out.len() + numbers.len());
        for (out, numbers) in out.chunks(wide.max(1)).zip(numbers.chunks(NUMBERS)) {
            around.push(numbers[0]);
            around.extend_from_slice(out);
            around.extend_from_slice(&numbers[1..]);
        }
        around
    }

    /// Takes such rows apart again: what is the network's, (rows, outputs), and what is of users, (rows, NUMBERS).
    pub(super) fn apart(&self, around: &[f32]) -> [Vec<f32>; 2] {
        let wide = around.len() / self.0.len().max(1);
        let (mut out, mut numbers) = (Vec::new(), Vec::new());
        for row in around.chunks(wide.max(1)) {
            let (product, rest) = row.split_at(1);
            let (of_network, of_user) = rest.split_at(wide - NUMBERS);
            numbers.extend_from_slice(product);
            numbers.extend_from_slice(of_user);
            out.extend_from_slice(of_network);
        }
        [out, numbers]
    }

    /// Adds what comes back to the vectors of users and candidates, from the gradient of [`Users::numbers`].
    pub(super) fn back(
        &self,
        (vectors, candidates): (&[Vector], &[Vector]),
        gradient: &[f32],
        (to, to_candidates): (&mut [Vector], &mut [Vector]),
    ) {
        let rows = self.0.iter().zip(candidates).zip(to_candidates);
        for (((user, candidate), to_candidate), gradient) in
            rows.zip(gradient.as_chunks::<NUMBERS>().0)
        {
            let (product, of_user) = (gradient[0], &gradient[1..]);
            for at in 0..WIDTH {
                to[*user][at] += product * candidate[at] + of_user[at];
                to_candidate[at] += product * vectors[*user][at];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dinmp::ItemKeys;

    /// Goal: what goes on behind the numbers comes back to the rows of users and of candidates, and the network's numbers pass unchanged. Method: two users, one with two candidates; gradients of a weighted sum against
    /// differences of it, each number of each vector moved.
    #[test]
    fn gradients_are_those_of_differences() {
        let mut seen = Seen::default();
        let mut asked = Vec::new();
        for (user, candidates) in [("a", vec!["x", "y"]), ("b", vec!["x"])] {
            let request = seen.end_request(user);
            for item in candidates {
                let item = seen.item(ItemKeys::of(item, []));
                asked.push(Asked { request, item });
            }
        }
        let users = Users::of(&seen, &asked);
        let number = |at: usize| ((at * 7_919) % 1_009) as f32 / 504.5 - 1.0;
        let mut vectors = vec![[0.0; WIDTH]; seen.items()];
        for (at, value) in vectors.as_flattened_mut().iter_mut().enumerate() {
            *value = number(at + 1);
        }
        let weights: Vec<f32> = (0..asked.len() * NUMBERS)
            .map(|at| number(3 * at))
            .collect();
        let candidates = |vectors: &[Vector]| -> Vec<Vector> {
            let of_rows = asked.iter().map(|row| vectors[row.item as usize]);
            of_rows.collect()
        };
        let sum = |vectors: &[Vector]| -> f64 {
            let numbers = users.numbers(vectors, &candidates(vectors));
            let pairs = numbers.iter().zip(&weights);
            pairs.map(|(one, other)| f64::from(one * other)).sum()
        };

        let mut back = vec![[0.0; WIDTH]; seen.items()];
        let mut of_candidates = vec![[0.0; WIDTH]; asked.len()];
        let from = (&vectors[..], &candidates(&vectors)[..]);
        users.back(from, &weights, (&mut back, &mut of_candidates));
        for (row, of) in asked.iter().zip(of_candidates) {
            let to = back[row.item as usize].iter_mut();
            to.zip(of).for_each(|(to, of)| *to += of);
        }
        for item in 0..seen.items() {
            for at in 0..WIDTH {
                let mut moved = |by: f32| {
                    let before = vectors[item][at];
                    vectors[item][at] += by;
                    let sum = sum(&vectors);
                    vectors[item][at] = before;
                    sum
                };
                let difference = (moved(0.01) - moved(-0.01)) / 0.02;
                let found = f64::from(back[item][at]);
                assert!(
                    (found - difference).abs() < 1e-3,
                    "{item}, {at}: {found}, {difference}"
                );
            }
        }
        let out: Vec<f32> = (0..asked.len() * 5).map(number).collect();
        let candidates = candidates(&vectors);
        let [same, numbers] = users.apart(&users.around(&out, &vectors, &candidates));
        assert_eq!((same, numbers), (out, users.numbers(&vectors, &candidates)));
    }
}
