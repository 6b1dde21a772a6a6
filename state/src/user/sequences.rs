//! A user's sequences: found, extended by a behavior, and named in the root. What one sequence is says [`crate::sequence`].

use super::{Damage, Put, Sequence, SequenceId, Take, Touched, User};
use crate::behavior::Behavior;
use crate::sequence::SequenceEntry;

impl User {
    /// The newest runs of the user's sequences, in order of the sequences' ids.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.sequences.iter()
    }

    /// The newest run of a sequence, if anything was ever in it.
    pub fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        let place = self.sequence_place(id).ok()?;
        Some(&self.sequences[place])
    }

    fn sequence_place(&self, id: SequenceId) -> Result<usize, usize> {
        self.sequences.binary_search_by_key(&id, Sequence::id)
    }

    /// The sequence of an id, made if there is none.
    pub(crate) fn sequence_mut(&mut self, id: SequenceId) -> &mut Sequence {
        let place = self.sequence_place(id).unwrap_or_else(|place| {
            self.sequences.insert(place, Sequence::new(id));
            place
        });
        &mut self.sequences[place]
    }

    /// Takes a behavior that is counted into its sequences.
    pub(crate) fn extend_sequences(
        &mut self,
        behavior: &Behavior<'_>,
        sequence_max: usize,
        touched: &mut Vec<Touched>,
    ) {
        let Some(text) = behavior.text else { return };
        let entry = SequenceEntry {
            text,
            time: behavior.time,
            at: behavior.at,
        };
        for &id in behavior.sequences {
            let inserted = self.sequence_mut(id).insert(entry, sequence_max);
            if let Some(place) = inserted.place {
                touched.push(Touched::SequenceEntry(id, place));
            }
            if inserted.restarted {
                touched.push(Touched::SequenceStart(id));
            }
        }
    }

    /// Begins to bring what a behavior is going to read into the processor's caches.
    pub(crate) fn warm(&self) {
        self.recent.warm();
        self.sequences.iter().for_each(Sequence::warm);
    }

    /// Bytes of memory held by sequences.
    pub(crate) fn sequences_bytes(&self) -> usize {
        self.sequences.iter().map(Sequence::bytes).sum()
    }

    /// Which sequences there are, at the root's end: a user without any has no byte of it.
    pub(super) fn write_sequence_ids(&self, to: &mut Vec<u8>) {
        for sequence in &self.sequences {
            to.put_u32(sequence.id().0);
        }
    }

    pub(super) fn read_sequence_ids(&mut self, take: &mut Take<'_>) -> Result<(), Damage> {
        while !take.is_empty() {
            let id = SequenceId(take.u32()?);
            if self
                .sequences
                .last()
                .is_some_and(|before| before.id() >= id)
            {
                return Err(Damage::Contradiction);
            }
            self.sequences.push(Sequence::new(id));
        }
        Ok(())
    }
}
