//! A user's side of a row: decayed counts by item, and by category and attribute.

use headwater_model::Counts;
use headwater_state::{Length, ScenarioId, SlotId, Timestamp, User, of_series, pinned_hash};

use super::memo::Plan;
use super::{Role, Sums};

/// A user's items with their decayed counts, recent and history together.
#[derive(Debug, Default)]
pub(super) struct Entries {
    places: hashbrown::HashMap<u64, usize>,
    /// Hash and text of each item.
    pub(super) items: Vec<(u64, (usize, usize))>,
    texts: String,
    /// One for each item and task.
    pub(super) sums: Vec<Sums>,
    tasks: usize,
}

impl Entries {
    pub(super) fn begin(&mut self, tasks: usize) {
        self.places.clear();
        self.items.clear();
        self.texts.clear();
        self.sums.clear();
        self.tasks = tasks;
    }

    pub(super) fn text(&self, (start, end): (usize, usize)) -> &str {
        &self.texts[start..end]
    }

    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        self.places.get(&hash).copied()
    }

    fn place(&mut self, hash: u64, item: &str) -> usize {
        if let Some(place) = self.places.get(&hash) {
            return *place;
        }
        let start = self.texts.len();
        self.texts.push_str(item);
        self.items.push((hash, (start, self.texts.len())));
        self.sums
            .resize(self.items.len() * self.tasks, Sums::default());
        self.places.insert(hash, self.items.len() - 1);
        self.items.len() - 1
    }

    /// One pass over what is known of the user from before `time`.
    pub(super) fn fill(&mut self, plan: &Plan<'_>, user: &User, time: Timestamp) {
        for behavior in user
            .recent()
            .iter()
            .take_while(|behavior| behavior.time < time)
        {
            let Some(item) = behavior.item else { continue };
            let Some(roles) = plan.role(behavior.kind) else {
                continue;
            };
            let place = self.place(pinned_hash(item.as_bytes()), item);
            let at = behavior.time.0;
            self.add(
                plan,
                place,
                roles,
                behavior.scenario,
                1.0,
                (time.0 - at, at),
            );
        }
        let late = user.history_newest() >= time;
        for entry in user.history(SlotId::ITEM) {
            if entry.key.is_empty() {
                continue;
            }
            let mut place = None;
            for cell in entry.cells() {
                let (scenario, kind) = of_series(cell.series);
                let Some(roles) = plan.role(kind) else {
                    continue;
                };
                let place = *place.get_or_insert_with(|| self.place(entry.hash, entry.key));
                // History is all before the row, unless the row is late, and says so: then what may be newer is left out.
                if late
                    && (cell.end() > time || (cell.length == Length::Older && entry.last >= time))
                {
                    continue;
                }
                // A cell's middle may lie after its last event.
                let middle = if cell.length == Length::Older {
                    entry.first
                } else {
                    cell.middle().min(entry.last)
                };
                self.add(
                    plan,
                    place,
                    roles,
                    scenario,
                    f64::from(cell.count),
                    (time.0 - middle.0, middle.0),
                );
            }
        }
    }

    pub(super) fn add(
        &mut self,
        plan: &Plan<'_>,
        place: usize,
        roles: &[Role],
        scenario: ScenarioId,
        count: f64,
        (age_ms, at): (i64, i64),
    ) {
        for (task, role) in roles.iter().enumerate() {
            if (role.trial || role.positive) && plan.tasks[task].holds_in(scenario) {
                self.sums[place * self.tasks + task].add(
                    count,
                    *role,
                    age_ms,
                    plan.tasks[task].user,
                    at,
                );
            }
        }
    }
}

/// Counts by category and attribute number.
#[derive(Debug, Default)]
pub(super) struct Groups {
    counts: Vec<Counts>,
    filled: Vec<bool>,
    touched: Vec<u32>,
    tasks: usize,
}

impl Groups {
    pub(super) fn begin(&mut self, numbers: usize, tasks: usize) {
        for number in self.touched.drain(..) {
            self.filled[number as usize] = false;
            let start = number as usize * self.tasks;
            self.counts[start..start + self.tasks].fill(Counts::default());
        }
        self.tasks = tasks;
        if self.filled.len() < numbers {
            self.filled.resize(numbers, false);
            self.counts.resize(numbers * tasks, Counts::default());
        }
    }

    pub(super) fn add(&mut self, number: u32, task: usize, counts: &Counts) {
        if !std::mem::replace(&mut self.filled[number as usize], true) {
            self.touched.push(number);
        }
        self.counts[number as usize * self.tasks + task].add(counts);
    }

    pub(super) fn get(&self, number: u32, task: usize) -> Option<&Counts> {
        self.filled[number as usize].then(|| &self.counts[number as usize * self.tasks + task])
    }
}
