//! Who comes to the platform, and what they do: users ask for candidates, see the first of them, and click by their hidden tastes.
//!
//! Before it, a seed and [`super::platform`]; after it, [`super::stage`], which asks Headwater for the order. Everything follows from the seed and
//! the number of a visit, nothing from when it came or from what others saw: whoever ranks meets the same users, candidates and moods.

use std::collections::BTreeSet;

use super::platform::{Platform, Random, Stream};

/// Candidates of a visit.
pub const CANDIDATES: usize = 20;
/// How many of them a user sees.
pub const SHOWN: usize = 5;
/// One visit in so many is shown in random order.
const RANDOM_SHARE: usize = 5;

/// A user asks.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Its number, from 0 on.
    pub number: u64,
    /// Who asks.
    pub user: usize,
    /// For which items, by number.
    pub candidates: Vec<usize>,
    /// Whether it is shown in the order that it is given; if not, in a random one, for comparison.
    pub ranked: bool,
}

/// What a user was shown, in that order, and what of it was clicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The item.
    pub item: usize,
    /// Whether it was clicked.
    pub clicked: bool,
}

/// All visits of a seed.
#[derive(Debug)]
pub struct Visits {
    seed: u64,
    platform: Platform,
    drifts: u64,
}

impl Visits {
    /// Visits to a platform of so many users and items.
    #[must_use]
    pub fn new(seed: u64, users: usize, items: usize) -> Self {
        let mut random = Random::of(seed, Stream::Platform, 0);
        Self {
            seed,
            platform: Platform::new(users.max(1), items, &mut random),
            drifts: 0,
        }
    }

    /// Users and items.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Another item comes; gives its number.
    pub fn add_item(&mut self) -> usize {
        let number = self.platform.items() as u64;
        let mut random = Random::of(self.seed, Stream::Items, number);
        self.platform.add_item(&mut random)
    }

    /// Users like other things from here on. What was asked before and is not answered yet is clicked by the new tastes.
    pub fn drift(&mut self) {
        let mut random = Random::of(self.seed, Stream::Drift, self.drifts);
        self.drifts += 1;
        self.platform.drift(&mut random);
    }

    /// The visit of that number.
    #[must_use]
    pub fn visit(&self, number: u64) -> Visit {
        let mut random = Random::of(self.seed, Stream::Visits, number);
        let items = self.platform.items();
        let user = random.below(self.platform.users());
        let ranked = random.below(RANDOM_SHARE) > 0;
        let mut candidates = BTreeSet::new();
        while candidates.len() < CANDIDATES.min(items) {
            candidates.insert(random.below(items));
        }
        Visit {
            number,
            user,
            candidates: candidates.into_iter().collect(),
            ranked,
        }
    }

    /// A random order of a visit's candidates.
    #[must_use]
    pub fn random_order(&self, visit: &Visit) -> Vec<usize> {
        let mut random = Random::of(self.seed, Stream::Order, visit.number);
        let mut items = visit.candidates.clone();
        for place in (1..items.len()).rev() {
            items.swap(place, random.below(place + 1));
        }
        items
    }

    /// The order of whoever knows the user's taste and every item: no other is clicked more.
    #[must_use]
    pub fn best_order(&self, visit: &Visit) -> Vec<usize> {
        let likes = |item: &usize| self.platform.likes(visit.user, *item, 0);
        let mut items = visit.candidates.clone();
        items.sort_by(|a, b| likes(b).total_cmp(&likes(a)));
        items
    }

    /// What the user sees of an order, and clicks. In the same mood, whatever the order: an item that is clicked in one position is clicked in each
    /// that is further up.
    #[must_use]
    pub fn see(&self, visit: &Visit, order: &[usize]) -> Vec<Seen> {
        let mut random = Random::of(self.seed, Stream::Clicks, visit.number);
        let moods: Vec<f64> = visit.candidates.iter().map(|_| random.unit()).collect();
        let shown = order.iter().take(SHOWN).enumerate();
        shown
            .map(|(position, &item)| {
                // What nobody asked about is clicked by nobody.
                let mood = visit.candidates.binary_search(&item);
                let mood = mood.map_or(1.0, |place| moods[place]);
                let clicked = mood < self.platform.likes(visit.user, item, position);
                Seen { item, clicked }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(visits: &Visits, numbers: std::ops::Range<u64>, best: bool) -> f64 {
        let (mut shown, mut clicked) = (0, 0);
        for number in numbers {
            let visit = visits.visit(number);
            let order = if best {
                visits.best_order(&visit)
            } else {
                visits.random_order(&visit)
            };
            for seen in visits.see(&visit, &order) {
                shown += 1;
                clicked += usize::from(seen.clicked);
            }
        }
        clicked as f64 / shown as f64
    }

    /// Goal: whoever ranks meets the same visits, and only the order makes a difference. Method: visits asked for twice and in another order; a worse
    /// place for an item is clicked only where the better one is.
    #[test]
    fn visits_follow_from_seed_and_number() {
        let (one, two) = (Visits::new(3, 50, 100), Visits::new(3, 50, 100));
        let others = Visits::new(4, 50, 100);
        let mut same = 0;
        for number in (0..500).rev() {
            let visit = one.visit(number);
            assert_eq!(visit.candidates.len(), CANDIDATES);
            assert_eq!(visit.candidates, two.visit(number).candidates);
            same += usize::from(visit.candidates == others.visit(number).candidates);
            let order = one.random_order(&visit);
            assert_eq!(order, two.random_order(&visit));
            let seen = one.see(&visit, &order);
            assert_eq!(seen, two.see(&visit, &order));
            let mut later = order.clone();
            later.swap(0, SHOWN - 1);
            let further = two.see(&visit, &later)[SHOWN - 1];
            assert_eq!(further.item, order[0]);
            assert!(seen[0].clicked || !further.clicked);
        }
        assert_eq!(same, 0);
    }

    /// Goal: who knows the tastes is clicked most, before and after they change; a drift changes tastes and nothing else. Method: click rates of the best and of random orders,
    /// and the former best order after the drift.
    #[test]
    fn the_best_order_is_clicked_most_and_a_drift_spoils_it() {
        let mut visits = Visits::new(1, 200, 400);
        let before = Visits::new(1, 200, 400);
        visits.drift();
        for visits in [&visits, &before] {
            let [best, random] = [true, false].map(|best| rate(visits, 0..4000, best));
            assert!(best > 1.8 * random, "{best} {random}");
        }
        let (mut stale, mut fresh) = (0, 0);
        for number in 0..4000 {
            let visit = visits.visit(number);
            assert_eq!(visit.candidates, before.visit(number).candidates);
            let clicks = |order: Vec<usize>| {
                let seen = visits.see(&visit, &order);
                seen.iter().filter(|seen| seen.clicked).count()
            };
            stale += clicks(before.best_order(&visit));
            fresh += clicks(visits.best_order(&visit));
        }
        assert!(stale * 10 < fresh * 8, "{stale} {fresh}");
    }
}
