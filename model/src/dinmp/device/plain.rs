//! What the kernels compute, as plain loops over pairs: what tests put in their place on a CPU.

use candle_core::{Device, Result, Tensor};

use super::{Atoms, INNER, Parts, ROW, SIDES, WIDTH};

/// Parts and atoms, read.
struct Read {
    items: Vec<Vec<f32>>,
    marks: Vec<Vec<f32>>,
    rows: Vec<Vec<f32>>,
    attention: Vec<f32>,
    of_items: Vec<u32>,
    of_marks: Vec<u32>,
    of_rows: Vec<u32>,
    buckets: Vec<u32>,
    ends: Vec<u32>,
    groups: Vec<u32>,
}

/// A pair on its way.
struct Pair {
    inner: Vec<f32>,
    weight: f32,
    /// Places and how much of the atom lies there.
    shares: [(usize, f32); SIDES],
}

impl Read {
    fn of(atoms: &Atoms, parts: &Parts) -> Result<Self> {
        Ok(Self {
            items: parts.items.to_vec2()?,
            marks: parts.marks.to_vec2()?,
            rows: parts.rows.to_vec2()?,
            attention: parts.attention.to_vec1()?,
            of_items: atoms.items.to_vec1()?,
            of_marks: atoms.marks.to_vec1()?,
            of_rows: atoms.rows.to_vec1()?,
            buckets: atoms.buckets.to_vec1()?,
            ends: atoms.group_ends.to_vec1()?,
            groups: atoms.groups.to_vec1()?,
        })
    }

    fn groups(&self, item: usize) -> &[u32] {
        let from = if item == 0 { 0 } else { self.ends[item - 1] };
        &self.groups[from as usize..self.ends[item] as usize]
    }

    fn atoms(&self, row: usize) -> std::ops::Range<usize> {
        self.of_rows[3 * row] as usize..self.of_rows[3 * row + 1] as usize
    }

    fn pair(&self, row: usize, atom: usize) -> Pair {
        let (item, mark) = (self.of_items[atom] as usize, self.of_marks[atom] as usize);
        let (key, marked, of_row) = (&self.items[item], &self.marks[mark], &self.rows[row]);
        let inner = (0..INNER).map(|at| {
            let crossed = (0..WIDTH).map(|of| key[of] * of_row[INNER + of * INNER + at]);
            key[WIDTH + at] + of_row[at] + marked[at] + crossed.sum::<f32>()
        });
        let inner: Vec<f32> = inner.collect();
        let bent = inner.iter().map(|x| x / (1.0 + (-x).exp()));
        let weighed = bent
            .zip(&self.attention)
            .map(|(bent, weight)| bent * weight);
        let (ours, theirs) = (
            self.groups(item),
            self.groups(self.of_rows[3 * row + 2] as usize),
        );
        let common = ours.iter().filter(|group| theirs.contains(group)).count();
        let share = common as f32 / ours.len().max(1) as f32;
        let place = self.buckets[mark] as usize * SIDES;
        Pair {
            weight: weighed.sum::<f32>() + self.attention[INNER],
            shares: [(place, share), (place + 1, 1.0 - share)],
            inner,
        }
    }
}

pub(super) fn pool(atoms: &Atoms, parts: &Parts) -> Result<Tensor> {
    let (of, places) = (Read::of(atoms, parts)?, atoms.places);
    let wide = places * (WIDTH + 1);
    let mut out = vec![0.0; of.rows.len() * wide];
    for (row, out) in out.chunks_mut(wide).enumerate() {
        for atom in of.atoms(row) {
            let pair = of.pair(row, atom);
            let key = &of.items[of.of_items[atom] as usize];
            for (place, share) in pair.shares {
                out[places * WIDTH + place] += share;
                for at in 0..WIDTH {
                    out[place * WIDTH + at] += pair.weight * share * key[at];
                }
            }
        }
    }
    Tensor::from_vec(out, (of.rows.len(), wide), &Device::Cpu)
}

pub(super) fn unpool(atoms: &Atoms, parts: &Parts, gradient: &Tensor) -> Result<Parts> {
    let of = Read::of(atoms, parts)?;
    let gradient = gradient.to_vec2::<f32>()?;
    let mut items = vec![[0.0; WIDTH + INNER]; of.items.len()];
    let mut marks = vec![[0.0; INNER]; of.marks.len()];
    let mut rows = vec![[0.0; ROW]; of.rows.len()];
    let mut attention = [0.0; INNER + 1];
    for (row, gradient) in gradient.iter().enumerate() {
        for atom in of.atoms(row) {
            let pair = of.pair(row, atom);
            let (item, mark) = (of.of_items[atom] as usize, of.of_marks[atom] as usize);
            let (key, of_row) = (&of.items[item], &of.rows[row]);
            let mut of_weight = 0.0;
            for at in 0..WIDTH {
                let shares = pair.shares.iter();
                let of_said: f32 = shares
                    .map(|(place, share)| share * gradient[place * WIDTH + at])
                    .sum();
                of_weight += of_said * key[at];
                items[item][at] += pair.weight * of_said;
            }
            attention[INNER] += of_weight;
            for (at, x) in pair.inner.iter().enumerate() {
                let bend = 1.0 / (1.0 + (-x).exp());
                attention[at] += of_weight * x * bend;
                let below = of_weight * of.attention[at] * bend * (1.0 + x * (1.0 - bend));
                items[item][WIDTH + at] += below;
                marks[mark][at] += below;
                rows[row][at] += below;
                for of in 0..WIDTH {
                    let crossing = INNER + of * INNER + at;
                    rows[row][crossing] += key[of] * below;
                    items[item][of] += of_row[crossing] * below;
                }
            }
        }
    }
    let flat = |of: &[f32], shape: &[usize]| Tensor::from_slice(of, shape, &Device::Cpu);
    Ok(Parts {
        items: flat(items.as_flattened(), parts.items.dims())?,
        marks: flat(marks.as_flattened(), parts.marks.dims())?,
        rows: flat(rows.as_flattened(), parts.rows.dims())?,
        attention: flat(&attention, parts.attention.dims())?,
    })
}
