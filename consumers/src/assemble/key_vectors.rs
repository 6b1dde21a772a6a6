//! What a request's user did with each item, by kind and stretch of time: the key-vectors of its rows.
//!
//! Of a user, behaviors count as everywhere in a row: strictly before its time (`STATE-3`). All items are there, however long ago, as far as one record of the log
//! can hold them: beyond [`BYTES_MAX`] those that were not met for longest are left out, and counted. What lies in cells of history belongs to the stretch in which
//! its cell began; recent behaviors have their exact times.

use headwater_config::Config;
use headwater_model::{KeyVectorSpec, KeyVectors};
use headwater_state::{ItemTable, KindId, Length, SlotId, User, of_series, pinned_hash};

use super::Row;
use crate::json::json_length;

/// The key-vectors of a configuration, where rows have them.
pub(super) fn spec(config: &Config) -> Option<KeyVectorSpec> {
    let edges = config.key_vectors.buckets.iter();
    config.key_vectors.logged.then(|| KeyVectorSpec {
        kinds: config.kinds.names.clone(),
        edges_ms: edges.map(|edge| edge.millis()).collect(),
    })
}

/// Bytes of a request's key-vectors in the feature log at most, about: its candidates come on top, and brokers take 1 MiB by default.
const BYTES_MAX: usize = 256 * 1024;
/// Bytes of an item beside its id and groups, and of an atom beside its counts, and of each of these.
const ITEM_BYTES: usize = 8;
const ATOM_BYTES: usize = 16;
const COUNT_BYTES: usize = 8;

/// An item that the user had to do with.
#[derive(Debug)]
struct Met {
    id: String,
    groups: Vec<u32>,
    /// Unix milliseconds of the newest event.
    newest: i64,
    bytes: usize,
}

/// One item in one stretch of time.
#[derive(Debug)]
struct Atom {
    item: u32,
    stretch: u32,
    /// Unix milliseconds of the newest event.
    newest: i64,
    /// By kind, in the order in which they were met.
    counts: Vec<(u32, u32)>,
}

/// The key-vectors of one request after the other.
#[derive(Debug)]
pub(super) struct Keyed {
    spec: KeyVectorSpec,
    kinds: hashbrown::HashMap<KindId, u32>,
    items: hashbrown::HashMap<u64, u32>,
    groups: hashbrown::HashMap<u32, u32>,
    places: hashbrown::HashMap<(u32, u32), usize>,
    atoms: Vec<Atom>,
    met: Vec<Met>,
    left_out: u64,
    key_vectors: KeyVectors<'static>,
}

impl Keyed {
    pub(super) fn new(spec: KeyVectorSpec) -> Self {
        let kinds = spec.kinds.iter().zip(0..);
        Self {
            kinds: kinds
                .map(|(kind, place)| (KindId::of(kind), place))
                .collect(),
            items: hashbrown::HashMap::default(),
            groups: hashbrown::HashMap::default(),
            places: hashbrown::HashMap::default(),
            atoms: Vec::new(),
            met: Vec::new(),
            left_out: 0,
            key_vectors: KeyVectors {
                layout: spec.layout().into(),
                ..KeyVectors::default()
            },
            spec,
        }
    }

    /// What the last request saw.
    pub(super) fn key_vectors(&self) -> &KeyVectors<'static> {
        &self.key_vectors
    }

    /// Names of an item's categories and attributes.
    pub(super) fn groups_of<'a>(id: &str, items: &'a ItemTable) -> impl Iterator<Item = &'a str> {
        let groups = items.item(id).into_iter().flat_map(|item| {
            let numbers = item.categories.iter().chain(item.attributes.iter());
            numbers.copied()
        });
        groups.map(|number| items.category_name(number))
    }

    pub(super) fn fill(&mut self, row: &Row<'_>, items: &ItemTable) {
        self.items.clear();
        self.groups.clear();
        self.places.clear();
        self.atoms.clear();
        self.met.clear();
        let of = &mut self.key_vectors;
        of.groups.clear();
        of.items.clear();
        of.of.clear();
        of.atoms.clear();
        if let Some(user) = row.user {
            self.user(user, row, items);
            self.write(row);
        }
    }

    /// How many items were left out since this was asked last.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Lays out what was met.
    fn write(&mut self, row: &Row<'_>) {
        for atom in &self.atoms {
            let met = &mut self.met[atom.item as usize];
            met.newest = met.newest.max(atom.newest);
            met.bytes += ATOM_BYTES + COUNT_BYTES * atom.counts.len();
        }
        let mut places: Vec<usize> = (0..self.met.len()).collect();
        let bytes: usize = self.met.iter().map(|met| met.bytes).sum();
        let names = self.key_vectors.groups.iter();
        let names: usize = names.map(|name| json_length(name)).sum();
        if names + bytes > BYTES_MAX {
            places.sort_by_key(|place| std::cmp::Reverse(self.met[*place].newest));
            let mut bytes = names;
            places.retain(|place| {
                bytes += self.met[*place].bytes;
                bytes <= BYTES_MAX
            });
            self.left_out += (self.met.len() - places.len()) as u64;
            places.sort_unstable();
        }
        let mut kept = vec![None; self.met.len()];
        for (to, place) in (0..).zip(places) {
            kept[place] = Some(to);
            let met = &mut self.met[place];
            self.key_vectors
                .items
                .push(std::mem::take(&mut met.id).into());
            self.key_vectors.of.push(std::mem::take(&mut met.groups));
        }
        for atom in &mut self.atoms {
            let Some(item) = kept[atom.item as usize] else {
                continue;
            };
            atom.counts.sort_unstable();
            let age = row.time.0.saturating_sub(atom.newest);
            self.key_vectors.push(item, atom.stretch, age, &atom.counts);
        }
    }

    fn user(&mut self, user: &User, row: &Row<'_>, items: &ItemTable) {
        for behavior in user
            .recent()
            .iter()
            .take_while(|behavior| behavior.time < row.time)
        {
            let Some(item) = behavior.item else { continue };
            let Some(kind) = self.kinds.get(&behavior.kind).copied() else {
                continue;
            };
            let item = self.item(pinned_hash(item.as_bytes()), item, items);
            let at = behavior.time.0;
            self.add(item, row.time.0.saturating_sub(at), at, (kind, 1));
        }
        let late = user.history_newest() >= row.time;
        for entry in user.history(SlotId::ITEM) {
            if entry.key.is_empty() {
                continue;
            }
            for cell in entry.cells() {
                let (_, kind) = of_series(cell.series);
                let Some(kind) = self.kinds.get(&kind).copied() else {
                    continue;
                };
                let older = cell.length == Length::Older;
                // As for counts: of a row that is late, what may be newer is left out.
                if late && (cell.end() > row.time || (older && entry.last >= row.time)) {
                    continue;
                }
                let (began, newest) = if older {
                    (entry.first.0, entry.first.0)
                } else {
                    (cell.start().0, cell.middle().min(entry.last).0)
                };
                let item = self.item(entry.hash, entry.key, items);
                let age = row.time.0.saturating_sub(began);
                self.add(item, age, newest, (kind, cell.count));
            }
        }
    }

    fn add(&mut self, item: u32, age_ms: i64, newest: i64, (kind, count): (u32, u32)) {
        let stretch = self.spec.stretch(age_ms) as u32;
        let place = *self.places.entry((item, stretch)).or_insert_with(|| {
            self.atoms.push(Atom {
                item,
                stretch,
                newest: i64::MIN,
                counts: Vec::new(),
            });
            self.atoms.len() - 1
        });
        let atom = &mut self.atoms[place];
        atom.newest = atom.newest.max(newest);
        match atom.counts.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, sum)) => *sum = sum.saturating_add(count),
            None => atom.counts.push((kind, count)),
        }
    }

    /// The place of an item among those that the user had to do with.
    fn item(&mut self, hash: u64, id: &str, items: &ItemTable) -> u32 {
        if let Some(place) = self.items.get(&hash) {
            return *place;
        }
        let place = self.met.len() as u32;
        self.items.insert(hash, place);
        let groups = self.groups_in(id, items);
        self.met.push(Met {
            bytes: ITEM_BYTES + json_length(id) + COUNT_BYTES * groups.len(),
            id: id.to_owned(),
            groups,
            newest: i64::MIN,
        });
        place
    }

    /// Places of the groups of an item.
    fn groups_in(&mut self, id: &str, items: &ItemTable) -> Vec<u32> {
        let Some(item) = items.item(id) else {
            return Vec::new();
        };
        let numbers = item.categories.iter().chain(item.attributes.iter());
        let places = numbers.map(|number| {
            *self.groups.entry(*number).or_insert_with(|| {
                let name = items.category_name(*number).to_owned();
                self.key_vectors.groups.push(name.into());
                self.key_vectors.groups.len() as u32 - 1
            })
        });
        places.collect()
    }
}
