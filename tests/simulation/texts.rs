//! Texts in a daemon of the simulation: a table of vectors, who follows them into it, and who makes them, of nothing but the text.

use std::sync::Arc;
use std::time::Duration;

use headwater_consumers::embed::{Embed, EmbedError};
use headwater_consumers::embeddings::VectorFollower;
use headwater_consumers::encode::{Encode, group_suffix};
use headwater_consumers::log::{LogError, PollLimit};
use headwater_consumers::stage::Stage;
use headwater_consumers::worker::World;
use headwater_state::{CurrentEncoder, EncoderId, Stores, VECTORS, VectorTable, pinned_hash};

use headwater_config::Topic;

use crate::cluster::{Ground, SimWorld};
use crate::deep::DeepLayers;

/// Whose vectors they are.
pub(crate) const ENCODER: CurrentEncoder = CurrentEncoder {
    id: EncoderId([9; 16]),
    width: 2,
};

/// The vector of a text: two texts that look alike point elsewhere, or one could not be told from the other by what is made of them.
pub(crate) fn vector_of(text: &str) -> Vec<f32> {
    let mixed = pinned_hash(text.as_bytes());
    let number = |bits: u64| (bits % 97) as f32 - 48.0;
    vec![number(mixed), number(mixed >> 32)]
}

#[derive(Debug, Default)]
struct Simulated(u64);

impl Embed for Simulated {
    fn encoder(&self) -> CurrentEncoder {
        ENCODER
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.0 += texts.len() as u64;
        Ok(texts.iter().map(|text| vector_of(text)).collect())
    }

    fn tokens(&self) -> u64 {
        self.0
    }
}

/// What one poll of the follower takes.
const LIMIT: PollLimit = PollLimit {
    records: 1_000,
    bytes: 1 << 20,
    wait: Duration::ZERO,
};

/// One daemon's.
pub(crate) struct Texts {
    pub table: Arc<VectorTable>,
    pub deep: Option<DeepLayers>,
    follower: VectorFollower,
    pub stage: Option<Stage<Encode>>,
}

impl Texts {
    /// Opens the table, as the daemon does; nothing goes wrong here.
    pub(crate) fn open(ground: &Ground, stores: &dyn Stores) -> Result<Self, String> {
        let open = || VectorTable::open(stores.open(VECTORS)?, 4_000);
        let table = open().or_else(|_| {
            stores.remove(VECTORS)?;
            open()
        });
        let table = Arc::new(table.map_err(|error| format!("vectors: {error:?}"))?);
        let follower = VectorFollower::new(
            &ground.plan.config,
            &*ground.log,
            Arc::clone(&table),
            ground.metrics.clone(),
        );
        let deep = ground
            .plan
            .trained
            .then(|| DeepLayers::open(ground, stores, &table));
        Ok(Self {
            deep: deep.transpose()?,
            table,
            follower: follower.map_err(|error| format!("vectors: {error:?}"))?,
            stage: None,
        })
    }

    /// The stage, as a member of its group.
    pub(crate) fn join(&self, ground: &Ground, name: &str) -> Result<Stage<Encode>, LogError> {
        let log = ground.log.beside(&group_suffix(ENCODER.id), Topic::Texts)?;
        let member = log.member(name, 0)?;
        let world: Box<dyn World> = Box::new(SimWorld(Arc::clone(&ground.fate)));
        Ok(Encode::stage(
            &ground.plan.config,
            log,
            member,
            (Box::new(Simulated::default()), Arc::clone(&self.table)),
            ground.plan.dead_letter_partitions,
            ground.metrics.clone(),
            world,
        ))
    }

    pub(crate) fn follow(&mut self) -> Result<(), String> {
        let advanced = self.follower.advance(LIMIT);
        advanced
            .map(|_| ())
            .map_err(|error| format!("vectors: {error:?}"))
    }
}
