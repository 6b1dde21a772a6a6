//! What rows see of their users' pasts: sparse key-vectors, laid out as compressed rows.

use std::collections::BTreeMap;

use crate::feature::{KeyVectorSpec, KeyVectors};
use crate::feature_log::LoggedRequest;
use crate::gap::GAPS;
use crate::table::RowKey;

use super::mark::Mark;
use super::reads::Reads;

/// An item, as the network knows it: by rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ItemKeys {
    /// Of its id.
    pub id: RowKey,
    /// Of its categories and attributes, each once.
    pub groups: Vec<RowKey>,
}

impl ItemKeys {
    /// The keys of an item of these names.
    pub fn of<'a>(id: &str, groups: impl IntoIterator<Item = &'a str>) -> Self {
        let key = |sort: u8, name: &str| {
            let mut bytes = vec![sort];
            bytes.extend_from_slice(name.as_bytes());
            RowKey::of(&bytes)
        };
        let mut groups: Vec<RowKey> = groups.into_iter().map(|name| key(b'g', name)).collect();
        groups.sort_unstable();
        groups.dedup();
        Self {
            id: key(b'i', id),
            groups,
        }
    }

    /// A user, by its pseudonym: of no group.
    pub fn of_user(pseudonym: &str) -> Self {
        let mut bytes = vec![b'u'];
        bytes.extend_from_slice(pseudonym.as_bytes());
        Self {
            id: RowKey::of(&bytes),
            groups: Vec::new(),
        }
    }

    /// Its id's key, then its groups'.
    pub(super) fn all(&self) -> impl Iterator<Item = RowKey> {
        std::iter::once(self.id).chain(self.groups.iter().copied())
    }
}

/// A key of a user in one stretch of time: an item, and what is known of it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atom {
    /// Of [`Seen::items`].
    pub item: u32,
    /// Of [`Seen::marks`].
    pub mark: u32,
}

/// What some requests see, each thing once: as much of it as is read.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    reads: Reads,
    items: Items,
    /// Atoms of the request that is being told.
    told: Vec<(u32, Mark)>,
    marks: Vec<Mark>,
    atoms: Vec<Atom>,
    /// Where each request's atoms end.
    ends: Vec<usize>,
    /// Each request's user, among the items.
    users: Vec<u32>,
    item_places: hashbrown::HashMap<ItemKeys, u32>,
    mark_places: BTreeMap<Mark, u32>,
}

/// Items as lists of keys, which are numbered as they were met.
#[derive(Clone, Debug, Default)]
struct Items {
    keys: Vec<RowKey>,
    places: hashbrown::HashMap<RowKey, u32>,
    /// Of each item its id's key, then its groups', one item behind the other; and where each item's end.
    of: Vec<u32>,
    ends: Vec<usize>,
}

impl Items {
    fn push(&mut self, item: &ItemKeys) {
        for key in item.all() {
            let place = *self.places.entry(key).or_insert_with(|| {
                self.keys.push(key);
                self.keys.len() as u32 - 1
            });
            self.of.push(place);
        }
        self.ends.push(self.of.len());
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.places.clear();
        self.of.clear();
        self.ends.clear();
    }

    #[inline]
    fn keys_of(&self, item: usize) -> &[u32] {
        let start = if item == 0 { 0 } else { self.ends[item - 1] };
        &self.of[start..self.ends[item]]
    }
}

/// Which things of a whole are in a part, and where there.
struct Places {
    items: Vec<u32>,
    keys: Vec<u32>,
    marks: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;

/// A row: what its request sees, and whom it asks about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The request, by its place.
    pub request: u32,
    /// The candidate, of [`Seen::items`].
    pub item: u32,
}

impl Seen {
    /// Nothing so far, and of what is told so much.
    #[must_use]
    pub fn reading(reads: Reads) -> Self {
        Self {
            reads,
            ..Self::default()
        }
    }

    /// What of what is told is read.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// The place of an item.
    pub fn item(&mut self, item: ItemKeys) -> u32 {
        if let Some(place) = self.item_places.get(&item) {
            return *place;
        }
        let place = self.items() as u32;
        self.items.push(&item);
        self.item_places.insert(item, place);
        place
    }

    /// Adds an atom to the request that is being told.
    pub fn atom(&mut self, item: u32, mark: Mark) {
        self.told.push((item, mark));
    }

    /// Takes in what a request sees, whole; gives its place.
    ///
    /// # Errors
    /// Says what does not fit together: a place, stretch or kind that there is not.
    pub fn request(
        &mut self,
        user: &str,
        of: &KeyVectors<'_>,
        spec: &KeyVectorSpec,
    ) -> Result<u32, String> {
        if of.layout != spec.layout() {
            return Err("they are of other kinds or stretches of time".to_owned());
        }
        let atoms = of.atoms().ok_or("its atoms do not come out even")?;
        if of.items.len() != of.of.len() {
            return Err("its items have not each a list of groups".to_owned());
        }
        let items = of.items.iter().zip(&of.of);
        let items = items.map(|(id, groups)| Self::named(of, id, groups));
        let items: Vec<ItemKeys> = items.collect::<Result<_, _>>()?;
        let kinds = spec.kinds.len();
        for atom in &atoms {
            let counts = atom.counts.as_chunks::<2>().0;
            let fits = (atom.item as usize) < items.len()
                && (atom.stretch as usize) < spec.stretches()
                && (atom.recency as usize) < GAPS
                && counts.iter().all(|[kind, _]| (*kind as usize) < kinds);
            if !fits {
                return Err(format!("its atom {atom:?} is of what there is not"));
            }
        }
        let places: Vec<u32> = items.into_iter().map(|item| self.item(item)).collect();
        for atom in atoms {
            let counts = atom.counts.as_chunks::<2>().0;
            let mark = Mark {
                bucket: atom.stretch as u8,
                recency: atom.recency as u8,
                counts: counts
                    .iter()
                    .map(|[kind, count]| (*kind as u8, *count))
                    .collect(),
            };
            self.atom(places[atom.item as usize], mark);
        }
        Ok(self.end_request(user))
    }

    /// Takes in what a logged request sees; gives what each of its candidates asks about.
    ///
    /// # Errors
    /// Says that it was logged without key-vectors, or what of them does not fit together.
    pub fn logged(
        &mut self,
        logged: &LoggedRequest<'_>,
        spec: &KeyVectorSpec,
    ) -> Result<Vec<Asked>, String> {
        let of = logged.key_vectors.as_ref();
        let of = of.ok_or("it was logged without key-vectors")?;
        let request = self.request(&logged.user, of, spec)?;
        let asked = logged.candidates.iter().map(|candidate| {
            let groups = candidate.groups.iter().map(|name| &**name);
            let item = self.item(ItemKeys::of(&candidate.item_id, groups));
            Asked { request, item }
        });
        Ok(asked.collect())
    }

    fn named(of: &KeyVectors<'_>, id: &str, groups: &[u32]) -> Result<ItemKeys, String> {
        let name = |place: &u32| {
            let name = of.groups.get(*place as usize).map(|name| &**name);
            name.ok_or_else(|| format!("item `{id}` has a group {place}, which there is not"))
        };
        let names: Vec<&str> = groups.iter().map(name).collect::<Result<_, _>>()?;
        Ok(ItemKeys::of(id, names))
    }

    /// Ends the request that was told, of a user by its pseudonym; gives its place.
    pub fn end_request(&mut self, user: &str) -> u32 {
        for (item, mark) in self.reads.of(std::mem::take(&mut self.told)) {
            let mark = match self.mark_places.get(&mark) {
                Some(place) => *place,
                None => {
                    let place = self.marks.len() as u32;
                    self.marks.push(mark.clone());
                    self.mark_places.insert(mark, place);
                    place
                }
            };
            self.atoms.push(Atom { item, mark });
        }
        let user = self.item(ItemKeys::of_user(user));
        self.users.push(user);
        self.ends.push(self.atoms.len());
        self.ends.len() as u32 - 1
    }

    /// The same of the requests of some rows alone, and the rows as they stand there.
    pub fn part(&self, rows: &[Asked]) -> (Self, Vec<Asked>) {
        let mut part = Self::reading(self.reads);
        let mut places = Places {
            items: vec![ABSENT; self.items()],
            keys: vec![ABSENT; self.items.keys.len()],
            marks: vec![ABSENT; self.marks.len()],
        };
        let mut requests = BTreeMap::new();
        let mut asked = Vec::with_capacity(rows.len());
        for row in rows {
            let request = *requests.entry(row.request).or_insert_with(|| {
                for atom in self.atoms_of(row.request) {
                    let mark = &mut places.marks[atom.mark as usize];
                    if *mark == ABSENT {
                        *mark = part.marks.len() as u32;
                        part.marks.push(self.marks[atom.mark as usize].clone());
                    }
                    let mark = *mark;
                    let item = part.take(self, atom.item, &mut places);
                    part.atoms.push(Atom { item, mark });
                }
                let user = part.take(self, self.users[row.request as usize], &mut places);
                part.users.push(user);
                part.ends.push(part.atoms.len());
                part.ends.len() as u32 - 1
            });
            let item = part.take(self, row.item, &mut places);
            asked.push(Asked { request, item });
        }
        (part, asked)
    }

    /// The place of an item of `whole`, which it has or gets.
    fn take(&mut self, whole: &Self, item: u32, places: &mut Places) -> u32 {
        let place = &mut places.items[item as usize];
        if *place == ABSENT {
            *place = self.items() as u32;
            for key in whole.keys_of(item as usize) {
                let of_key = &mut places.keys[*key as usize];
                if *of_key == ABSENT {
                    *of_key = self.items.keys.len() as u32;
                    self.items.keys.push(whole.items.keys[*key as usize]);
                }
                self.items.of.push(*of_key);
            }
            self.items.ends.push(self.items.of.len());
        }
        *place
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.items.clear();
        self.told.clear();
        self.marks.clear();
        self.atoms.clear();
        self.ends.clear();
        self.users.clear();
        self.item_places.clear();
        self.mark_places.clear();
    }

    /// How many items there are.
    pub fn items(&self) -> usize {
        self.items.ends.len()
    }

    /// Keys of all items, each once.
    pub fn keys(&self) -> &[RowKey] {
        &self.items.keys
    }

    /// Those of an item, by their places: its id's, then its groups'.
    #[inline]
    pub fn keys_of(&self, item: usize) -> &[u32] {
        self.items.keys_of(item)
    }

    /// Its groups' alone, where these tell what is of the candidate's kind; else none.
    #[inline]
    pub(super) fn groups_of(&self, item: usize) -> &[u32] {
        if self.reads.category {
            &self.items.keys_of(item)[1..]
        } else {
            &[]
        }
    }

    /// Where keys of each item end, one item behind the other.
    pub(super) fn item_ends(&self) -> &[usize] {
        &self.items.ends
    }

    /// Which part of an item is of the other's kind: of k categories and attributes each counts 1/k.
    #[inline]
    pub(super) fn share(&self, item: usize, other: usize) -> f32 {
        let (groups, others) = (self.groups_of(item), self.groups_of(other));
        let common = groups.iter().filter(|group| others.contains(group));
        common.count() as f32 / groups.len().max(1) as f32
    }

    /// The marks.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// All atoms.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }

    /// The atoms of a request.
    pub fn atoms_of(&self, request: u32) -> &[Atom] {
        let [start, end] = self.places_of(request);
        &self.atoms[start..end]
    }

    /// The user of a request, among the items.
    pub(super) fn user_of(&self, request: u32) -> usize {
        self.users[request as usize] as usize
    }

    /// Of each key, the newest hour among the rows that see it, which are of these hours.
    pub fn met(&self, rows: &[Asked], hours: &[u32]) -> Vec<u32> {
        let mut items = vec![0; self.items()];
        let mut requests = vec![0; self.ends.len()];
        for (row, hour) in rows.iter().zip(hours) {
            for newest in [
                &mut items[row.item as usize],
                &mut requests[row.request as usize],
            ] {
                *newest = (*newest).max(*hour);
            }
        }
        for (request, hour) in (0..).zip(&requests) {
            let atoms = self.atoms_of(request).iter().map(|atom| atom.item as usize);
            for item in atoms.chain([self.user_of(request)]) {
                items[item] = items[item].max(*hour);
            }
        }
        let mut keys = vec![0; self.keys().len()];
        for (item, hour) in items.iter().enumerate() {
            for key in self.keys_of(item) {
                let newest = &mut keys[*key as usize];
                *newest = (*newest).max(*hour);
            }
        }
        keys
    }

    /// Where they begin and end.
    pub(super) fn places_of(&self, request: u32) -> [usize; 2] {
        let end = self.ends[request as usize];
        let start = match request {
            0 => 0,
            later => self.ends[later as usize - 1],
        };
        [start, end]
    }
}
