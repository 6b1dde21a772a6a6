//! What of a user's past is read: all that key-vectors tell, or less of it, to hold each part of the network against its absence.
//!
//! What is left out of key-vectors is left out where they are laid out ([`super::Seen`]), so training, serving and `explain` read the same. What is left out of the network keeps its place, says 0, and does not learn:
//! networks that read more and less have the same sizes, and begin with the same values. Self-attention, and where a candidate's text says that it starts, have tensors of their own, which are not there without.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::mark::{Mark, SIDES};

/// Which parts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a part of its own that is there or is not"
)]
pub struct Reads {
    /// So many of a user's items, those that it had to do with last; none: all. What is newer is told by the kind of gap to an item's newest event, of equal ones by the order in which they were told.
    pub newest: Option<u32>,
    /// How many events of which kinds an item has; else they are one, of no kind.
    pub counts: bool,
    /// An atom's weight by its item and the candidate; else by its mark alone, and where that tells nothing apart each weighs 1: sum pooling.
    pub attention: bool,
    /// Stretches of time and recency; else an item's events lie in one stretch.
    pub time: bool,
    /// What is of the candidate's own kind apart from the rest; else all lies on one side. Groups are a part of an item's vector in either case, as they are in DIN.
    pub category: bool,
    /// What a candidate's text says of its vector, where the head looks at texts; else, as by default, its rows alone make it.
    pub text: bool,
    /// Products of all pairs of buckets. Those of a bucket with the candidate are how the head reads any bucket, and stay.
    pub products: bool,
    /// Self-attention among buckets, before they are held against each other and the candidate.
    pub self_attention: bool,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            newest: None,
            counts: true,
            attention: true,
            time: true,
            category: true,
            text: false,
            products: true,
            self_attention: false,
        }
    }
}

impl Reads {
    /// Whether it is what is read where nobody chose: nothing is left out, and nothing more than that is read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// How many numbers are read of a candidate's text, where a head reads so many.
    pub(super) fn texts(self, numbers: usize) -> usize {
        if self.text { numbers } else { 0 }
    }

    /// What is read of a request's atoms, by their items.
    pub(super) fn of(self, mut told: Vec<(u32, Mark)>) -> Vec<(u32, Mark)> {
        if let Some(newest) = self.newest {
            let mut items: Vec<(u8, usize, u32)> = Vec::new();
            let mut places = BTreeMap::new();
            for (item, mark) in &told {
                let place = *places.entry(*item).or_insert(items.len());
                match items.get_mut(place) {
                    Some((recency, ..)) => *recency = mark.recency.min(*recency),
                    None => items.push((mark.recency, place, *item)),
                }
            }
            items.sort_unstable_by_key(|(recency, place, _)| (*recency, Reverse(*place)));
            for (_, _, item) in items.iter().skip(newest as usize) {
                places.remove(item);
            }
            told.retain(|(item, _)| places.contains_key(item));
        }
        if !self.counts {
            told.iter_mut().for_each(|(_, mark)| mark.counts.clear());
        }
        if self.time {
            return told;
        }
        let mut whole: Vec<(u32, Mark)> = Vec::new();
        let mut places = BTreeMap::new();
        for (item, mark) in told {
            let place = *places.entry(item).or_insert(whole.len());
            if place == whole.len() {
                let timeless = Mark {
                    bucket: 0,
                    recency: 0,
                    counts: Vec::new(),
                };
                whole.push((item, timeless));
            }
            let sums = &mut whole[place].1.counts;
            for (kind, count) in mark.counts {
                match sums.binary_search_by_key(&kind, |(kind, _)| *kind) {
                    Ok(at) => sums[at].1 = sums[at].1.saturating_add(count),
                    Err(at) => sums.insert(at, (kind, count)),
                }
            }
        }
        whole
    }

    /// What each number of a tensor is that does not learn.
    fn held(self, name: &str) -> Option<f32> {
        let is_sum = !self.attention && !self.counts && !self.time;
        match name {
            "dinmp.key" | "dinmp.candidate" | "dinmp.product" if !self.attention => Some(0.0),
            "dinmp.attention" if is_sum => Some(0.0),
            "dinmp.attention_bias" if is_sum => Some(1.0),
            _ => None,
        }
    }

    /// Puts what does not learn into the network's first values.
    pub(super) fn hold(self, values: &mut BTreeMap<String, Tensor>) -> Result<()> {
        for (name, value) in values {
            if let Some(held) = self.held(name) {
                *value = Tensor::full(held, value.shape(), &Device::Cpu)?;
            }
        }
        Ok(())
    }

    /// Leaves it out of gradients; with it what stands for buckets that nothing can lie in, which is 0.
    pub(super) fn learned(self, gradients: &mut BTreeMap<String, Tensor>) -> Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        gradients.retain(|name, _| self.held(name).is_none());
        if let Some(empty) = gradients.get_mut("dinmp.empty") {
            let places = 0..empty.dim(0)?;
            let is_used = |place: usize| {
                (self.time || place < SIDES) && (self.category || !place.is_multiple_of(SIDES))
            };
            let used = places.map(|place| f32::from(u8::from(is_used(place))));
            let used = Tensor::from_vec(used.collect(), (empty.dim(0)?, 1), empty.device())?;
            *empty = empty.broadcast_mul(&used)?;
        }
        Ok(())
    }
}
