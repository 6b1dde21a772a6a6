//! The way back through attention: from the gradients of a row's sums to all that its atoms are made of. As in [`super::pool`], atoms are taken a few at a time, and nothing of a
//! pair is kept from the way forward.
#![expect(
    clippy::inline_always,
    reason = "only what is compiled into a loop that runs by the processor's own vectors can use them"
)]

use pulp::{Arch, Simd, WithSimd};

use crate::language::kernel::exp;
use crate::wide::product;

use super::learn::{Sums, back, each, outer};
use super::mark::SIDES;
use super::network::{INNER, Inner, Network, Row, Vector, WIDTH, add, line};
use super::pool::{ATOMS, Pools, dot};
use super::seen::Atom;

/// Rows, what came out for them, and the gradient of that; what comes of it is added to `sums`.
struct Rows<'a> {
    of: Pools<'a>,
    rows: &'a [Row],
    out: &'a [f32],
    gradients: &'a [f32],
    sums: &'a mut Sums,
}

/// Buffers of one row after the other.
struct Buffers {
    of_sums: Vec<Vector>,
    keys: [Vector; ATOMS],
    /// Hidden layers; then their gradients.
    inner: [Inner; ATOMS],
    bent: [Inner; ATOMS],
    /// Of vectors of keys.
    of_keys: [Vector; ATOMS],
    /// Keys on their side.
    turned: [[f32; ATOMS]; WIDTH],
    /// Of the product's weights for this candidate, and these on their side.
    crossed: [Inner; WIDTH],
    crossing: [Vector; INNER],
}

impl Pools<'_> {
    /// Adds the gradients of some rows to `sums`.
    pub(super) fn back(self, rows: &[Row], (out, gradients): (&[f32], &[f32]), sums: &mut Sums) {
        Arch::new().dispatch(Rows {
            of: self,
            rows,
            out,
            gradients,
            sums,
        });
    }
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let network = self.of.network;
        let mut buffers = Buffers {
            of_sums: vec![[0.0; WIDTH]; network.buckets * SIDES],
            keys: [[0.0; WIDTH]; ATOMS],
            inner: [[0.0; INNER]; ATOMS],
            bent: [[0.0; INNER]; ATOMS],
            of_keys: [[0.0; WIDTH]; ATOMS],
            turned: [[0.0; ATOMS]; WIDTH],
            crossed: [[0.0; INNER]; WIDTH],
            crossing: [[0.0; WIDTH]; INNER],
        };
        let outputs = Network::outputs(network.buckets);
        let told = self.out.chunks_exact(outputs);
        let told = told.zip(self.gradients.chunks_exact(outputs));
        for (row, told) in self.rows.iter().zip(told) {
            self.of.row_back(simd, row, told, &mut buffers, self.sums);
        }
    }
}

impl Pools<'_> {
    #[inline(always)]
    fn row_back<S: Simd>(
        self,
        simd: S,
        row: &Row,
        told: (&[f32], &[f32]),
        buffers: &mut Buffers,
        sums: &mut Sums,
    ) {
        let Self { network, seen, .. } = self;
        let (asked, candidate) = (row.asked.item as usize, &row.candidate);
        let (of_sums, of_network) = (&mut buffers.of_sums, &mut sums.network);
        let mut of_candidate = network.unread(told, candidate, of_sums, of_network);
        let crossing = network.crossing(candidate);
        for (at, line) in crossing.iter().enumerate() {
            for (to, value) in buffers.crossing.iter_mut().zip(line) {
                to[at] = *value;
            }
        }
        buffers.crossed.as_flattened_mut().fill(0.0);
        let mut of_asked = [0.0; INNER];
        for atoms in seen.atoms_of(row.asked.request).chunks(ATOMS) {
            let (keys, inner) = (&mut buffers.keys, &mut buffers.inner);
            self.hidden(simd, atoms, (&row.inner, &crossing), keys, inner);
            self.atoms_back(simd, atoms, asked, buffers, sums);
            for inner in &buffers.inner[..atoms.len()] {
                add(&mut of_asked, 1.0, inner);
            }
        }
        outer(&mut sums.network.candidate, candidate, &of_asked);
        back(&mut of_candidate, &network.weights.candidate, &of_asked);
        each(&mut sums.network.inner_bias, &of_asked);
        // The product's weights are multiplied by the candidate: from there to both.
        let lines = network.weights.product.as_chunks::<INNER>().0;
        let products = sums.network.product.as_chunks_mut::<INNER>().0;
        for (at, crossed) in buffers.crossed.iter_mut().enumerate() {
            add(&mut products[at], candidate[at], crossed);
            of_candidate[at] += dot(simd, crossed, &lines[at]);
        }
        sums.candidates.push(of_candidate);
    }

    /// Of some atoms, whose hidden layers lie in the buffers; leaves the gradients of these there.
    #[inline(always)]
    fn atoms_back<S: Simd>(
        self,
        simd: S,
        atoms: &[Atom],
        asked: usize,
        buffers: &mut Buffers,
        sums: &mut Sums,
    ) {
        let Self {
            network,
            seen,
            ahead,
            ..
        } = self;
        let attention: &Inner = line(&network.weights.attention, 0);
        let bias = network.weights.attention_bias[0];
        let Buffers {
            of_sums,
            keys,
            inner,
            bent,
            of_keys,
            turned,
            crossed,
            crossing,
        } = buffers;
        // x σ(x), whose slope is σ (1 + x (1 − σ))
        let lines = inner.as_flattened_mut().iter_mut();
        for (inner, bent) in lines.zip(bent.as_flattened_mut()) {
            let bend = 1.0 / (1.0 + exp(-*inner));
            *bent = *inner * bend;
            *inner = bend * (1.0 + *inner * (1.0 - bend));
        }
        for at in atoms.len()..ATOMS {
            // What lies behind the last atom adds nothing.
            (keys[at], inner[at]) = ([0.0; WIDTH], [0.0; INNER]);
        }
        for (place, atom) in atoms.iter().enumerate() {
            let (item, of_mark) = (atom.item as usize, atom.mark as usize);
            let (key, mark) = (&keys[place], &ahead.marks[of_mark]);
            let (bent, inner) = (&mut bent[place], &mut inner[place]);
            let begun = *bent;
            let weight = bias + dot(simd, bent, attention);
            let share = seen.share(item, asked);
            let mut of_said: Vector = [0.0; WIDTH];
            for (side, share) in [share, 1.0 - share].into_iter().enumerate() {
                add(&mut of_said, share, &of_sums[mark.bucket * SIDES + side]);
            }
            let of_inner = &mut sums.marks[of_mark];
            let mut each_of_weight = [0.0; WIDTH];
            for at in 0..WIDTH {
                each_of_weight[at] = of_said[at] * key[at];
                of_keys[place][at] = weight * of_said[at];
            }
            let of_weight = each_of_weight.iter().sum::<f32>();
            sums.network.attention_bias[0] += of_weight;
            let of_attention = sums.network.attention.as_chunks_mut::<INNER>().0;
            add(&mut of_attention[0], of_weight, &begun);
            for at in 0..INNER {
                inner[at] *= of_weight * attention[at];
            }
            add(of_inner, 1.0, inner);
            add(&mut sums.keys[item], 1.0, inner);
        }
        for (place, key) in keys.iter().enumerate() {
            for (turned, value) in turned.iter_mut().zip(key) {
                turned[place] = *value;
            }
        }
        let below = inner.as_flattened();
        let (turned, crossed) = (turned.as_flattened(), crossed.as_flattened_mut());
        product(simd, turned, below, crossed, INNER);
        let of_keys = of_keys.as_flattened_mut();
        product(simd, below, crossing.as_flattened(), of_keys, WIDTH);
        for (atom, of_key) in atoms.iter().zip(of_keys.as_chunks::<WIDTH>().0) {
            add(&mut sums.vectors[atom.item as usize], 1.0, of_key);
        }
    }
}
