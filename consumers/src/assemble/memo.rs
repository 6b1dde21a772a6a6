//! Sums over the item table, kept as long as they hold: decayed counts of an entity for the minute, the rate that an item's trials
//! were expected to have for the hour. Both are functions of that moment alone, so keeping them changes nothing but the time they take.

use headwater_model::{Baseline, Counts};
use headwater_state::{
    Cells, Entity, Grain, ItemTable, KindId, Length, ScenarioId, category_id, of_series,
    pinned_hash,
};

use super::{Role, Sums, Task};

/// What the sums of a request go by.
pub(super) struct Plan<'a> {
    pub(super) tasks: &'a [Task],
    pub(super) roles: &'a [(KindId, Vec<Role>)],
    pub(super) baseline: &'a Baseline,
    pub(super) items: &'a ItemTable,
    pub(super) scenario: ScenarioId,
}

impl Plan<'_> {
    pub(super) fn role(&self, kind: KindId) -> Option<&[Role]> {
        self.roles
            .iter()
            .find(|(other, _)| *other == kind)
            .map(|(_, roles)| roles.as_slice())
    }

    /// Decayed counts at `until` of an entity's cells that ended by then, in one scenario or in all.
    pub(super) fn entity(
        &self,
        cells: &Cells,
        scenario: Option<ScenarioId>,
        until: i64,
        to: &mut [Sums],
    ) {
        let end = |cell: &headwater_state::Cell| match cell.length {
            Length::Older => Grain::ITEM.older_end(cells.last).0,
            Length::Minute | Length::Hour | Length::Day | Length::Month => cell.end().0,
        };
        let usable = |cell: &&headwater_state::Cell| {
            end(cell) <= until
                && scenario.is_none_or(|scenario| of_series(cell.series).0 == scenario)
        };
        // Positives from before the first trial had none: those cells are left out.
        let mut first_trial = vec![i64::MAX; self.tasks.len()];
        for cell in cells.iter().filter(usable) {
            let (here, kind) = of_series(cell.series);
            let Some(roles) = self.role(kind) else {
                continue;
            };
            for (task, role) in roles.iter().enumerate() {
                // Where a task does not hold, being shown is no chance of its positive.
                if role.trial && self.tasks[task].holds_in(here) {
                    first_trial[task] = first_trial[task].min(cell.start().0);
                }
            }
        }
        for cell in cells.iter().filter(usable) {
            let (here, kind) = of_series(cell.series);
            let Some(roles) = self.role(kind) else {
                continue;
            };
            let middle = if cell.length == Length::Older {
                cells.first.0
            } else {
                cell.middle().0
            };
            for (task, role) in roles.iter().enumerate() {
                if (role.trial || role.positive)
                    && self.tasks[task].holds_in(here)
                    && end(cell) > first_trial[task]
                {
                    let lives = self.tasks[task].item;
                    to[task].add(f64::from(cell.count), *role, until - middle, lives, middle);
                }
            }
        }
    }
}

/// Decayed counts by entity as of one moment.
#[derive(Debug, Default)]
struct AsOf {
    until: i64,
    places: hashbrown::HashMap<u64, usize>,
    counts: Vec<Counts>,
}

/// Decayed counts by entity, for the minute; and expected rates by item, for the hour.
#[derive(Debug, Default)]
pub(super) struct Memo {
    minute: AsOf,
    item_state: i64,
    hour: AsOf,
    sums: Vec<Sums>,
    rate_places: hashbrown::HashMap<u64, usize>,
    rates: Vec<f32>,
}

/// Entities kept of one moment at most.
const MEMO_MAX: usize = 200_000;

impl AsOf {
    fn begin(&mut self, until: i64) -> bool {
        let stale = until != self.until || self.places.len() > MEMO_MAX;
        if stale {
            self.places.clear();
            self.counts.clear();
            self.until = until;
        }
        stale
    }

    /// The place of an entity's counts, one a task.
    fn counts(
        &mut self,
        plan: &Plan<'_>,
        (entity, scenario): (Entity<'_>, Option<ScenarioId>),
        sums: &mut Vec<Sums>,
    ) -> usize {
        if !plan.items.has_statistics() {
            // Nothing is known of anything: the zeros at the head, without a look-up.
            self.counts
                .resize(self.counts.len().max(plan.tasks.len()), Counts::default());
            return 0;
        }
        let key = memo_key(entity, scenario);
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        sums.clear();
        sums.resize(plan.tasks.len(), Sums::default());
        if let Some(cells) = plan.items.statistics(entity) {
            plan.entity(cells, scenario, self.until, sums);
        }
        let place = self.counts.len();
        self.counts.extend(sums.iter().map(Sums::counts));
        self.places.insert(key, place);
        place
    }
}

impl Memo {
    pub(super) fn begin(&mut self, minute: i64, item_state: i64) {
        if item_state != self.item_state {
            self.item_state = item_state;
            self.minute.until = i64::MIN;
        }
        self.minute.begin(minute);
    }

    pub(super) fn at(&self, place: usize, task: usize) -> Counts {
        self.minute.counts[place + task]
    }

    /// The place of an entity's counts as of the minute, one a task.
    pub(super) fn counts(
        &mut self,
        plan: &Plan<'_>,
        entity: Entity<'_>,
        scenario: Option<ScenarioId>,
    ) -> usize {
        self.minute.counts(plan, (entity, scenario), &mut self.sums)
    }

    /// The rate of a task at a place that `rates` gave.
    pub(super) fn rate(&self, place: usize, task: usize) -> f32 {
        self.rates[place + task]
    }

    /// Has the trials of an item expected at these rates, one a task, for the hour.
    pub(super) fn expect(&mut self, plan: &Plan<'_>, hash: u64, hour: i64, rates: &[f32]) {
        self.begin_hour(hour);
        let place = self.rates.len();
        self.rates.extend_from_slice(rates);
        self.rate_places.insert(rate_key(plan, hash), place);
    }

    fn begin_hour(&mut self, hour: i64) {
        if self.hour.begin(hour) {
            self.rate_places.clear();
            self.rates.clear();
        }
    }

    /// The place of the rates that an item's trials were expected to have, one a task: as of the beginning of the hour.
    pub(super) fn rates(&mut self, plan: &Plan<'_>, hash: u64, item: &str, hour: i64) -> usize {
        self.begin_hour(hour);
        let key = rate_key(plan, hash);
        if let Some(place) = self.rate_places.get(&key) {
            return *place;
        }
        let place = self.rates.len();
        self.rate_places.insert(key, place);
        let scenario = Some(plan.scenario);
        let mut of = |entity, scenario| self.hour.counts(plan, (entity, scenario), &mut self.sums);
        let global = of(Entity::Total, None);
        let within = of(Entity::Total, scenario);
        let own = of(Entity::Item(item), scenario);
        let known = plan.items.item(item);
        let categories: Vec<usize> = known.map_or_else(Vec::new, |known| {
            let names = known
                .categories
                .iter()
                .map(|number| plan.items.category_name(*number));
            names
                .map(|name| of(Entity::Category(name), scenario))
                .collect()
        });
        let share = 1.0 / categories.len().max(1) as f32;
        for task in 0..plan.tasks.len() {
            let at = |place: usize| &self.hour.counts[place + task];
            let mut category = Counts::default();
            for place in &categories {
                category.add(&at(*place).scaled(share));
            }
            let base = plan.baseline.base(at(global), at(within));
            self.rates.push(base.item_rate(&category, at(own)));
        }
        place
    }
}

fn rate_key(plan: &Plan<'_>, hash: u64) -> u64 {
    // While nothing is known of any item, all of them have one rate.
    let hash = if plan.items.has_statistics() { hash } else { 0 };
    hash ^ u64::from(plan.scenario.0).rotate_left(32)
}

fn memo_key(entity: Entity<'_>, scenario: Option<ScenarioId>) -> u64 {
    let (salt, id) = match entity {
        Entity::Total => (1, 0),
        Entity::Item(id) => (2, pinned_hash(id.as_bytes())),
        Entity::Category(name) => (3, category_id(name)),
    };
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(salt)
        ^ scenario.map_or(u64::MAX, |id| u64::from(id.0))
        ^ u64::from(salt)
}
