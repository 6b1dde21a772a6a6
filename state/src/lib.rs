//! What is known of users and items, and how it is kept.
//!
//! Before this crate, `consumers::decode` turns bytes into behaviors; after it, `consumers::assemble` turns a user, and the item
//! table, into feature rows. In between nothing reads a clock, a socket or a random number.
//!
//! A user is recent behaviors ([`Recent`]) with exact times, and history: for each slot a set of entries ([`Entry`]), one a
//! distinct key, with counts by kind and time cell ([`Cells`]). Beside them stand the newest runs of its sequences ([`Sequence`]).
//! A [`Partition`] holds its users in memory over a [`Store`].
//!
//! What it guarantees (`STATE-1`, `STATE-2`, `STATE-3`) is stated in ARCHITECTURE.md.

mod behavior;
mod cell;
mod changelog;
mod entities;
mod error;
mod format;
mod generations;
#[cfg(test)]
mod golden;
mod item_state;
mod items;
mod labels;
mod page;
mod partition;
mod position;
mod recent;
mod sequence;
mod statistics;
mod store;
mod user;
mod user_vectors;
mod vectors;

pub use behavior::{
    Behavior, Coordinates, FixedSum, KindId, ScenarioId, SequenceId, SlotId, TextHash, Timestamp,
    pinned_hash,
};
pub use cell::{Cell, Cells, Grain, Length};
pub use changelog::ChangelogKey;
pub use error::{Damage, Error, StoreError};
pub use generations::Generations;
pub use items::{Item, ItemTable, ItemTableBytes};
pub use labels::{Example, Label, LabelRules, LabelTask, Labelled, Labels, OpenRow, Positive};
pub use page::Entry;
pub use partition::{CacheCounts, Folded, Noted, Partition, Place, Settings, WriteBack, Written};
pub use position::Position;
pub use recent::{Recent, RecentBehavior};
pub use sequence::{Sequence, SequenceEntry};
pub use statistics::{Delta, Entity, Statistics, category_id, of_series, series};
pub use store::{Backend, Batch, DEEP_VECTORS, MemoryStores, Opened, Store, Stores, VECTORS, open};
pub use user::{Standing, User};
pub use user_vectors::{UserVector, UserVectors};
pub use vectors::{
    CurrentEncoder, EncoderId, Looked, Spread, VectorKey, VectorRecord, VectorTable, read_vector,
    use_bytes, vector_bytes,
};
