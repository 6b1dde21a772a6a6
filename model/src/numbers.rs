//! Random numbers, the same for the same seed (`SplitMix64`): what first values and orders are drawn from.

/// Where the next number comes from.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// One of many sequences of a seed, which have nothing to do with each other.
    pub(crate) fn of(seed: u64, draw: u64) -> Self {
        let mut draws = Self(draw);
        Self(seed ^ draws.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Puts things into a random order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            things.swap(place, (self.uniform() * (place + 1) as f64) as usize);
        }
    }

    /// Normally distributed around 0 (Box and Muller).
    pub(crate) fn normal(&mut self, count: usize, spread: f32) -> Vec<f32> {
        let mut one = || {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            let angle = std::f64::consts::TAU * self.uniform();
            (radius * angle.cos()) as f32 * spread
        };
        (0..count).map(|_| one()).collect()
    }
}
