//! Eigenvectors of a small symmetric matrix, by cyclic Jacobi rotations (Golub & Van Loan, section 8.5).
//!
//! Jacobi, and not a reduction to tridiagonal form: where gradients are of very different length the small eigenvalues come out with as many right digits as the
//! matrix of cosines allows (Demmel & Veselić 1992), so a task with a gradient a million times smaller keeps its direction.

use super::gram::{Gram, inner};

/// Sweeps at most; six to ten are what 16 tasks take.
const SWEEPS: usize = 40;

/// Part of the gradients' own size along an eigenvector below which its eigenvalue is rounding: gradients in f32 differ by more.
const RANK: f64 = 1e-12;

/// Eigenvalues, falling, and an eigenvector of length 1 for each.
#[derive(Clone, Debug)]
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Vec<Vec<f64>>,
}

impl Eigen {
    /// All of them: K = Σⱼ λⱼ uⱼ uⱼᵀ.
    pub(super) fn of(gram: &Gram) -> Self {
        let size = gram.tasks();
        let mut matrix: Vec<Vec<f64>> = (0..size)
            .map(|one| (0..size).map(|other| gram.at(one, other)).collect())
            .collect();
        let unit = |at: usize| (0..size).map(move |place| f64::from(u8::from(place == at)));
        let mut vectors: Vec<Vec<f64>> = (0..size).map(|at| unit(at).collect()).collect();
        for _ in 0..SWEEPS {
            let mut turned = false;
            for one in 0..size {
                for other in one + 1..size {
                    let between = matrix[one][other];
                    let (first, second) = (matrix[one][one], matrix[other][other]);
                    // By the two diagonals, not by the whole: small eigenvalues stay exact.
                    if between.abs() <= 1e-16 * first.abs().sqrt() * second.abs().sqrt() {
                        continue;
                    }
                    turned = true;
                    rotate(&mut matrix, &mut vectors, one, other);
                }
            }
            if !turned {
                break;
            }
        }
        let mut order: Vec<usize> = (0..size).collect();
        order.sort_by(|one, other| matrix[*other][*other].total_cmp(&matrix[*one][*one]));
        Self {
            values: order.iter().map(|at| matrix[*at][*at].max(0.0)).collect(),
            vectors: order.iter().map(|at| vectors[*at].clone()).collect(),
        }
    }

    /// Coordinates of each task's gradient on these vectors: as few numbers as there are vectors, with the same inner products as the gradients.
    pub(super) fn coordinates(&self, tasks: usize) -> Vec<Vec<f64>> {
        let of = |task: usize| {
            let pairs = self.values.iter().zip(&self.vectors);
            pairs.map(move |(value, vector)| vector[task] * value.sqrt())
        };
        (0..tasks).map(|task| of(task).collect()).collect()
    }

    /// Those whose eigenvalue is more than rounding: a basis of the gradients' span.
    pub(super) fn living(gram: &Gram) -> Self {
        let all = Self::of(gram);
        let lengths: Vec<f64> = (0..gram.tasks()).map(|task| gram.length(task)).collect();
        let alive = |(value, vector): &(f64, Vec<f64>)| {
            let sizes: Vec<f64> = vector.iter().map(|part| part.abs()).collect();
            *value > RANK * inner(&sizes, &lengths).powi(2)
        };
        let pairs = all.values.into_iter().zip(all.vectors);
        let (values, vectors) = pairs.filter(alive).unzip();
        Self { values, vectors }
    }
}

/// One rotation in the plane of two places, after which the entry between them is zero.
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], one: usize, other: usize) {
    let between = matrix[one][other];
    let apart = (matrix[other][other] - matrix[one][one]) / (2.0 * between);
    let tangent = 1_f64.copysign(apart) / (apart.abs() + apart.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    matrix[one][one] -= tangent * between;
    matrix[other][other] += tangent * between;
    matrix[one][other] = 0.0;
    matrix[other][one] = 0.0;
    for place in (0..matrix.len()).filter(|place| *place != one && *place != other) {
        let (first, second) = (matrix[place][one], matrix[place][other]);
        matrix[place][one] = cosine * first - sine * second;
        matrix[place][other] = sine * first + cosine * second;
        matrix[one][place] = matrix[place][one];
        matrix[other][place] = matrix[place][other];
    }
    for place in 0..matrix.len() {
        let (first, second) = (vectors[one][place], vectors[other][place]);
        vectors[one][place] = cosine * first - sine * second;
        vectors[other][place] = sine * first + cosine * second;
    }
}
