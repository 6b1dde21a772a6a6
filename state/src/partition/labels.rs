//! Open rows of a partition's users: opened, shown, acted on, released. What they are says [`crate::labels`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Damage, Error, Partition, Place, STORE_VERSION, Timestamp, Touched, changelog, format,
};
use crate::labels::{Changed, LabelRules, Labelled, Labels, OpenRow, Positive, Released};

/// Bytes of a timer beside its user's id: its places in the set and in the map, and what the allocator adds.
const PLACE_BYTES: usize = 128;

/// When something is to be done about a user's open rows, in event time: of all users, in memory or not. It may be said too early: whoever looks
/// then says it again.
#[derive(Debug, Default)]
pub(super) struct LabelTimers {
    by_time: BTreeSet<(Timestamp, Arc<str>)>,
    by_user: BTreeMap<Arc<str>, Timestamp>,
    bytes: usize,
}

impl LabelTimers {
    fn set(&mut self, user: &str, due: Option<Timestamp>) {
        if let Some((user, before)) = self.by_user.remove_entry(user) {
            self.bytes -= PLACE_BYTES + user.len();
            self.by_time.remove(&(before, user));
        }
        if let Some(due) = due {
            let user: Arc<str> = user.into();
            self.bytes += PLACE_BYTES + user.len();
            self.by_time.insert((due, Arc::clone(&user)));
            self.by_user.insert(user, due);
        }
    }

    /// Says it no later than this.
    fn set_no_later(&mut self, user: &str, due: Timestamp) {
        if self.by_user.get(user).is_none_or(|before| due < *before) {
            self.set(user, Some(due));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a behavior that was shown or done has led to.
#[derive(Debug, Default)]
pub struct Noted {
    /// Labels that were released and are others now.
    pub corrections: Vec<Labelled>,
    /// Rows that were given up before their labels were final, because the user has too many.
    pub forgotten: u64,
    /// Whether it concerns an open row.
    pub matched: bool,
}

impl Partition {
    fn rules(&self) -> Option<Arc<LabelRules>> {
        self.settings.labels.clone()
    }

    fn labels_mut(&mut self, place: Place) -> &mut Labels {
        let resident = self.residents[place.0 as usize].as_mut();
        &mut resident
            .expect("invariant: places hold within a step")
            .user
            .labels
    }

    /// Notes what a change of a user's open rows touches.
    fn changed(&mut self, place: Place, changed: &Changed) {
        if changed.places.is_empty() {
            return;
        }
        let resident = self.residents[place.0 as usize]
            .as_mut()
            .expect("invariant: places hold within a step");
        resident.user.labels_dirty = true;
        let touched = changed.places.iter().map(|place| Touched::Label(*place));
        self.touched.extend(touched);
        // What was given back is measured at the next write-back.
        self.grow(place.0, changed.grown);
        self.note(place.0);
    }

    /// Opens a row of a user who is known. One that is shown whole may take positives that came before it from others.
    ///
    /// # Panics
    /// If the place is not of this step.
    pub fn open_row(&mut self, place: Place, row: OpenRow) -> Noted {
        let Some(rules) = self.rules() else {
            return Noted::default();
        };
        let labels = self.labels_mut(place);
        let contested = labels.contested_by(&row);
        let before = contested
            .iter()
            .map(|item| labels.released_of(item, &rules));
        let before: Vec<Released> = before.collect();
        let (due, changed) = labels.open(row, &rules);
        let corrected = contested.iter().zip(&before);
        let corrections = corrected
            .flat_map(|(item, before)| labels.corrections(before, item, &rules))
            .collect();
        if let Some(due) = due {
            let id = self.residents[place.0 as usize].as_ref();
            let id = &id.expect("invariant: places hold within a step").id;
            self.label_timers.set_no_later(id, due);
        }
        self.changed(place, &changed);
        Noted {
            corrections,
            forgotten: changed.forgotten,
            matched: true,
        }
    }

    /// Notes that an item of a request was shown to a user, with the place in the list where it is known.
    ///
    /// # Panics
    /// If the place is not of this step.
    pub fn show(
        &mut self,
        place: Place,
        (request, item): (&str, &str),
        (time, position): (Timestamp, Option<u32>),
    ) -> Noted {
        let Some(rules) = self.rules() else {
            return Noted::default();
        };
        let labels = self.labels_mut(place);
        let before = labels.released_of(item, &rules);
        let Some((row, changed)) = labels.show((request, item), (time, position), &rules) else {
            return Noted::default();
        };
        let corrections = labels.corrections(&before, item, &rules);
        self.expect_labels(place.0, row);
        self.changed(place, &changed);
        Noted {
            corrections,
            forgotten: changed.forgotten,
            matched: true,
        }
    }

    /// Notes that a user did what a task counts.
    ///
    /// # Panics
    /// If the place is not of this step.
    pub fn act(&mut self, place: Place, item: &str, positive: Positive) -> Noted {
        let Some(rules) = self.rules() else {
            return Noted::default();
        };
        let labels = self.labels_mut(place);
        if labels.is_empty() {
            return Noted::default();
        }
        let before = labels.released_of(item, &rules);
        let changed = labels.act(positive, &rules);
        let corrections = labels.corrections(&before, item, &rules);
        self.changed(place, &changed);
        Noted {
            corrections,
            forgotten: changed.forgotten,
            matched: !changed.places.is_empty(),
        }
    }

    /// The users about whose open rows something is to be done at the watermark, those first who have waited longest.
    pub fn labels_due(&self) -> impl Iterator<Item = &str> {
        let watermark = self.position.watermark;
        let due = self.label_timers.by_time.iter();
        due.take_while(move |(due, _)| *due < watermark)
            .map(|(_, user)| &**user)
    }

    /// Releases the labels of a user that are final at the watermark, and closes rows that are over. Gives them with the user's place, and how many rows
    /// were given up unfinished.
    ///
    /// # Errors
    /// The store's.
    pub fn release(&mut self, user: &str) -> Result<Option<(Place, Vec<Labelled>, u64)>, Error> {
        let Some(place) = self.place(user)? else {
            self.label_timers.set(user, None);
            return Ok(None);
        };
        let watermark = self.position.watermark;
        let rules = self.rules();
        let labels = self.labels_mut(place);
        let (released, changed) = match &rules {
            Some(rules) => labels.release(watermark, rules),
            None => (Vec::new(), labels.give_up()),
        };
        let due = rules.and_then(|rules| labels.due(&rules));
        self.label_timers.set(user, due);
        self.changed(place, &changed);
        Ok(Some((place, released, changed.forgotten)))
    }

    /// Has a user looked at when it is time for the row in a place.
    pub(super) fn expect_labels(&mut self, place: u32, row: u32) {
        let resident = self.residents[place as usize]
            .as_ref()
            .expect("invariant: found just now");
        let due = match &self.settings.labels {
            Some(rules) => resident.user.labels.due_of(row, rules),
            None => Some(Timestamp::MIN),
        };
        if let Some(due) = due {
            self.label_timers.set_no_later(&resident.id, due);
        }
    }

    /// The timers of the open rows of the store.
    pub(super) fn read_label_timers(&mut self) -> Result<(), Error> {
        self.label_timers = LabelTimers::default();
        let timers = &mut self.label_timers;
        let rules = self.settings.labels.as_ref();
        let mut bad = None;
        let prefix = changelog::labels_key(None);
        self.store.scan(&prefix, &mut |key, value| {
            let read = changelog::user_of_root(key).and_then(|user| {
                let labels = format::open(STORE_VERSION, value).and_then(Labels::read)?;
                Ok::<_, Damage>((user, labels))
            });
            match read {
                Ok((user, labels)) => {
                    let due = match rules {
                        Some(rules) => labels.due(rules),
                        None => Some(Timestamp::MIN),
                    };
                    timers.set(user, due);
                }
                Err(damage) => bad = Some(damage),
            }
            bad.is_none()
        })?;
        bad.map_or(Ok(()), |damage| {
            Err(Error::Damaged {
                key: "open rows".to_owned(),
                damage,
            })
        })
    }
}
