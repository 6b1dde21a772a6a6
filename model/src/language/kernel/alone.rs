//! Attention of many that are each alone behind one first position: an item is such a run of one behavior. What the first position is does not depend on
//! what follows it, so it is computed once for all, as row 0, and every other row is one item.
//!
//! A rotation turns both sides of a product by the same angle, so an item's query meets its own key as both are, and the first key turned back by one
//! position: only that one is turned.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Turn, added, dot, exp, floats, made, rows_of, turned};

/// How heads share keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Queries' heads.
    pub(crate) heads: usize,
    /// Those of keys and values.
    pub(crate) kv: usize,
    /// Width of each.
    pub(crate) wide: usize,
}

impl Heads {
    /// Where the keys of a query's head begin.
    fn keys_of(self, head: usize) -> usize {
        head / (self.heads / self.kv) * self.wide
    }

    /// Keys at position 0 as seen from position 1 (`sign` −1), or the way back (1).
    fn first(self, keys: &[f32], (cosines, sines): &Turn, sign: f32) -> Result<Vec<f32>> {
        let half = self.wide / 2;
        let (cosines, sines) = (floats(cosines)?, floats(sines)?);
        let angles = (&cosines[half..2 * half], &sines[half..2 * half]);
        let mut out = vec![0.0; keys.len()];
        let pairs = out.chunks_mut(self.wide).zip(keys.chunks(self.wide));
        pairs.for_each(|(to, from)| turned(to, from, angles, sign));
        Ok(out)
    }
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.wide as f32).sqrt()
}

/// From queries, (rows, heads · head width), and keys and values, (rows, key heads · head width), that were not turned: what the heads see, (rows, heads ·
/// head width), and how much of that is the first position, (rows, heads). `turn` has two positions at least.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: Heads,
    turn: &Turn,
) -> Result<(Tensor, Tensor)> {
    let (queries, keys, values) = (floats(query)?, floats(key)?, floats(value)?);
    let (width, narrow) = (heads.heads * heads.wide, heads.kv * heads.wide);
    let first = heads.first(&keys[..narrow], turn, -1.0)?;
    let first_value = &values[..narrow];
    let count = queries.len() / width;
    let (mut mixed, mut parts) = (vec![0.0; count * width], vec![1.0; count * heads.heads]);
    let rows = rows_of(width);
    let keys = keys.par_chunks(rows * narrow);
    mixed
        .par_chunks_mut(rows * width)
        .zip(parts.par_chunks_mut(rows * heads.heads))
        .zip(queries.par_chunks(rows * width))
        .zip(keys.zip(values.par_chunks(rows * narrow)))
        .enumerate()
        .for_each(|(piece, (((mixed, parts), queries), (keys, values)))| {
            for row in 0..queries.len() / width {
                for head in 0..heads.heads {
                    let at = row * width + head * heads.wide;
                    let own = heads.keys_of(head);
                    let of_first = own..own + heads.wide;
                    let own = row * narrow + own;
                    let own = own..own + heads.wide;
                    let to = &mut mixed[at..at + heads.wide];
                    if piece + row == 0 {
                        to.copy_from_slice(&first_value[of_first]);
                        continue;
                    }
                    let query = &queries[at..at + heads.wide];
                    let ahead =
                        dot(query, &keys[own.clone()]) - dot(query, &first[of_first.clone()]);
                    let part = 1.0 / (1.0 + exp(scale(heads) * ahead));
                    parts[row * heads.heads + head] = part;
                    let both = first_value[of_first].iter().zip(&values[own]);
                    for (to, (first, own)) in to.iter_mut().zip(both) {
                        *to = part * first + (1.0 - part) * own;
                    }
                }
            }
        });
    Ok((
        made(mixed, &[count, width])?,
        made(parts, &[count, heads.heads])?,
    ))
}

/// The way back of [`attention`]: gradients of queries, keys and values.
pub(crate) fn attention_back(
    [query, key, value, parts]: [&Tensor; 4],
    heads: Heads,
    turn: &Turn,
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    let (queries, keys, values) = (floats(query)?, floats(key)?, floats(value)?);
    let (parts, gradients) = (floats(parts)?, floats(gradient)?);
    let (width, narrow) = (heads.heads * heads.wide, heads.kv * heads.wide);
    let first = heads.first(&keys[..narrow], turn, -1.0)?;
    let first_value = &values[..narrow];
    let count = queries.len() / width;
    let mut of_queries = vec![0.0; count * width];
    let (mut of_keys, mut of_values) = (vec![0.0; count * narrow], vec![0.0; count * narrow]);
    let rows = rows_of(width);
    // Of the first key and the first value, one behind the other, for which all rows have something to say.
    let of_first: Vec<Vec<f32>> = of_queries
        .par_chunks_mut(rows * width)
        .zip(
            of_keys
                .par_chunks_mut(rows * narrow)
                .zip(of_values.par_chunks_mut(rows * narrow)),
        )
        .zip(
            queries
                .par_chunks(rows * width)
                .zip(gradients.par_chunks(rows * width)),
        )
        .zip(
            keys.par_chunks(rows * narrow)
                .zip(values.par_chunks(rows * narrow)),
        )
        .zip(parts.par_chunks(rows * heads.heads))
        .enumerate()
        .map(
            |(
                piece,
                (
                    (((of_queries, (of_keys, of_values)), (queries, gradients)), (keys, values)),
                    parts,
                ),
            )| {
                let mut of_first = vec![0.0; 2 * narrow];
                let (of_first_key, of_first_value) = of_first.split_at_mut(narrow);
                for row in 0..queries.len() / width {
                    for head in 0..heads.heads {
                        let at = row * width + head * heads.wide;
                        let shared = heads.keys_of(head);
                        let own = row * narrow + shared;
                        let gradient = &gradients[at..at + heads.wide];
                        if piece + row == 0 {
                            for (to, gradient) in of_first_value[shared..].iter_mut().zip(gradient)
                            {
                                *to += gradient;
                            }
                            continue;
                        }
                        let part = parts[row * heads.heads + head];
                        let difference = dot(gradient, &first_value[shared..shared + heads.wide])
                            - dot(gradient, &values[own..own + heads.wide]);
                        // Of the first position's score; of the item's it is the contrary.
                        let of_score = scale(heads) * part * (1.0 - part) * difference;
                        for place in 0..heads.wide {
                            let (query, gradient) = (queries[at + place], gradient[place]);
                            of_queries[at + place] =
                                of_score * (first[shared + place] - keys[own + place]);
                            of_keys[own + place] -= of_score * query;
                            of_values[own + place] += (1.0 - part) * gradient;
                            of_first_key[shared + place] += of_score * query;
                            of_first_value[shared + place] += part * gradient;
                        }
                    }
                }
                of_first
            },
        )
        .collect();
    let of_first = added(of_first, 2 * narrow);
    let (of_first_key, of_first_value) = of_first.split_at(narrow);
    of_keys[..narrow].copy_from_slice(&heads.first(of_first_key, turn, 1.0)?);
    of_values[..narrow].copy_from_slice(of_first_value);
    Ok([
        made(of_queries, &[count, width])?,
        made(of_keys, &[count, narrow])?,
        made(of_values, &[count, narrow])?,
    ])
}
