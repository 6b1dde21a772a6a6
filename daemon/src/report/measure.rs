//! What is measured of labelled rows. Each row counts by its weight.

use serde::Serialize;

use super::{BANDS, Judged};

/// Of some rows, by what one of the two said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// How often a positive row stands above another, equal ones by half; none where there are no two sorts.
    pub auc: Option<f64>,
    /// Mean log loss.
    pub loss: f64,
    /// That over the loss of who always says the share of positives; none where that is 0 or 1.
    pub entropy: Option<f64>,
    /// Mean distance of what is said from what happens, over ten bands of equally many rows in the order of what was said.
    pub calibration: f64,
    /// Mean of what is said.
    pub said: f64,
    /// Share of positives.
    pub rate: f64,
}

/// Rows of about one probability.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    pub(super) said: f64,
    pub(super) rate: f64,
    pub(super) weight: f64,
}

/// Rows in the order of what was said, cut into bands of equally many, the lowest first. Rows of one probability may be in two bands.
pub(super) fn bands(rows: &[Judged], who: usize, count: usize) -> Vec<Band> {
    let mut ordered: Vec<&Judged> = rows.iter().collect();
    ordered.sort_by(|one, other| one.said[who].total_cmp(&other.said[who]));
    let wide = ordered.len().div_ceil(count).max(1);
    let bands = ordered.chunks(wide).map(|rows| {
        let sums = rows.iter().fold([0.0; 3], |sums: [f64; 3], row| {
            let hit = f64::from(u8::from(row.positive));
            [
                sums[0] + row.weight * row.said[who],
                sums[1] + row.weight * hit,
                sums[2] + row.weight,
            ]
        });
        Band {
            said: sums[0] / sums[2],
            rate: sums[1] / sums[2],
            weight: sums[2],
        }
    });
    bands.collect()
}

fn auc(rows: &[Judged], who: usize) -> Option<f64> {
    let mut ordered: Vec<&Judged> = rows.iter().collect();
    ordered.sort_by(|one, other| one.said[who].total_cmp(&other.said[who]));
    let (mut won, mut positives, mut negatives) = (0.0, 0.0, 0.0);
    for equal in ordered.chunk_by(|one, other| one.said[who] == other.said[who]) {
        let [mut hits, mut misses] = [0.0; 2];
        for row in equal {
            *(if row.positive { &mut hits } else { &mut misses }) += row.weight;
        }
        won += hits * (negatives + misses / 2.0);
        positives += hits;
        negatives += misses;
    }
    (positives > 0.0 && negatives > 0.0).then(|| won / (positives * negatives))
}

/// All of it. `rows` are some.
pub(super) fn measured(rows: &[Judged], who: usize) -> Measured {
    let [mut loss, mut said, mut hits, mut weight] = [0.0; 4];
    for row in rows {
        let probability = row.said[who].clamp(1e-12, 1.0 - 1e-12);
        let of_label = if row.positive {
            probability
        } else {
            1.0 - probability
        };
        loss -= row.weight * of_label.ln();
        said += row.weight * row.said[who];
        hits += row.weight * f64::from(u8::from(row.positive));
        weight += row.weight;
    }
    let rate: f64 = hits / weight;
    let always = -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln());
    let bands = bands(rows, who, BANDS);
    let off = bands
        .iter()
        .map(|band| band.weight * (band.said - band.rate).abs());
    Measured {
        auc: auc(rows, who),
        loss: loss / weight,
        entropy: (always > 0.0).then(|| loss / weight / always),
        calibration: off.sum::<f64>() / weight,
        said: said / weight,
        rate,
    }
}
