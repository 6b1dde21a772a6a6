//! Exploration: of a share of requests the candidates are put in a random order, so that what users do about it says something of all of them, not only of
//! those that a model likes. Which requests and which order follows from the request alone: a step that is computed again gives the same.

use headwater_state::{Timestamp, pinned_hash};

/// A number from 0 to 1, below 1, that follows from a name.
pub(crate) fn share_of(name: &[u8]) -> f64 {
    // The upper 53 bits: as many as a double holds.
    (pinned_hash(name) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A random order of a request's candidates. Each place is as likely for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomOrder(u64);

impl RandomOrder {
    /// The order of a request that is scored at `time`, if it is of the `share` that has a random one. Each time that a request is scored is drawn anew.
    pub(crate) fn of(share: f64, (user, request): (&str, &str), time: Timestamp) -> Option<Self> {
        if share <= 0.0 {
            return None;
        }
        let mut name = b"explore\0".to_vec();
        for text in [user, request] {
            name.extend_from_slice(&(text.len() as u64).to_le_bytes());
            name.extend_from_slice(text.as_bytes());
        }
        name.extend_from_slice(&time.0.to_le_bytes());
        let drawn = share_of(&name) < share;
        name.extend_from_slice(b"order");
        drawn.then(|| Self(pinned_hash(&name)))
    }

    /// What an item is to be ordered by, from 0 to 1.
    pub(crate) fn score(self, item: &str) -> f32 {
        let mut name = self.0.to_le_bytes().to_vec();
        name.extend_from_slice(item.as_bytes());
        share_of(&name) as f32
    }
}

/// The probability of each place for one of so many candidates in a random order.
pub(crate) fn propensity(candidates: usize) -> f64 {
    1.0 / candidates.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn orders(share: f64) -> impl Iterator<Item = RandomOrder> {
        (0..40_000).filter_map(move |number| {
            let request = format!("r{}", number % 100);
            RandomOrder::of(share, ("u", &request), Timestamp(number / 100))
        })
    }

    /// Goal: the share is what is configured, and drawn anew each time that a request is scored. Method: 40,000 draws at 0, a tenth and all; how often one request of
    /// a hundred is drawn; the same draw again.
    #[test]
    fn the_share_is_as_configured() {
        assert_eq!(orders(0.0).count(), 0);
        assert_eq!(orders(1.0).count(), 40_000);
        let tenth = orders(0.1).count();
        assert!(
            (3_760..4_240).contains(&tenth),
            "4 standard deviations: {tenth}"
        );
        let of_one = (0..400).filter_map(|time| RandomOrder::of(0.1, ("u", "r7"), Timestamp(time)));
        let of_one = of_one.count();
        assert!((16..=64).contains(&of_one), "{of_one}");
        let again = || RandomOrder::of(1.0, ("u", "r7"), Timestamp(5));
        assert_eq!(again(), again());
        assert_ne!(again(), RandomOrder::of(1.0, ("ur", "7"), Timestamp(5)));
    }

    /// Goal: every order is as likely: what a propensity of 1 / n says. Method: how often each of the 24 orders of four candidates comes in 40,000, by the chi-squared
    /// statistic (23 degrees of freedom: above 49.7 once in a thousand).
    #[test]
    fn every_order_is_as_likely() {
        let mut seen: BTreeMap<Vec<&str>, f64> = BTreeMap::new();
        for order in orders(1.0) {
            let mut items = vec!["a", "b", "c", "d"];
            items.sort_by(|one, other| order.score(other).total_cmp(&order.score(one)));
            *seen.entry(items).or_default() += 1.0;
        }
        let expected = 40_000.0 / 24.0;
        assert_eq!(seen.len(), 24);
        let chi: f64 = seen
            .values()
            .map(|count| (count - expected).powi(2) / expected)
            .sum();
        assert!(chi < 49.7, "{chi}");
        assert!((propensity(4) - 0.25).abs() < 1e-12);
    }
}
