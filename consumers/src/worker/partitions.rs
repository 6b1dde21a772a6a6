//! The partitions of a worker: how they come, are restored, and go.

use super::{
    Error, Owned, Partition, Reaction, Rebalance, Statistics, Topic, Worker, keep_going,
    settings_of_share,
};

impl Worker {
    /// Whether a record that does not belong where it is came of a topic that was widened: told before the step goes out, since its users would
    /// be counted where nobody looks for them.
    pub(super) fn check_width(&self) -> Result<(), Error> {
        let Some(partition) = self.output.misplaced else {
            return Ok(());
        };
        let partitions = self.pipeline.partitions();
        let found = self.log.describe(Topic::Behaviors)?;
        match found.map(|facts| facts.partitions) {
            Some(found) if found != partitions => Err(Error::Widened {
                partition,
                partitions,
                found,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Notes what a rebalance says. It is said once: so everything is noted before anything can fail.
    pub(super) fn rebalance(&mut self, rebalance: &Rebalance) -> Result<(), Error> {
        if rebalance.is_empty() {
            return Ok(());
        }
        tracing::info!(assigned = ?rebalance.assigned, revoked = ?rebalance.revoked, lost = ?rebalance.lost, "partitions moved");
        self.leaving
            .retain(|leaving| !rebalance.lost.contains(leaving));
        self.leaving.extend(&rebalance.revoked);
        self.arriving
            .retain(|arriving, _| !rebalance.lost.contains(arriving));
        self.arriving
            .extend(rebalance.assigned.iter().map(|number| (*number, false)));
        // What is pending may hold records of what is lost: nothing of it may be committed.
        self.recovering |= !rebalance.lost.is_empty();
        for number in &rebalance.lost {
            self.let_go(*number)?;
        }
        if self.recovering {
            self.recover()?;
        }
        // The other topics have no such partition, and users are looked for by the old number.
        let partitions = self.pipeline.partitions();
        match rebalance
            .assigned
            .iter()
            .find(|number| **number >= partitions)
        {
            Some(&partition) => Err(Error::Widened {
                partition,
                partitions,
                found: partition + 1,
            }),
            None => Ok(()),
        }
    }

    /// Forgets a partition. What of it is not in the store is in the changelog; a store that fails is found when it is opened again.
    pub(super) fn let_go(&mut self, number: i32) -> Result<(), Error> {
        self.writer
            .wait(number, &mut self.owned)
            .or_else(keep_going)?;
        self.owned.remove(&number);
        self.restorer.cancel(number)?;
        Ok(())
    }

    pub(super) fn give_back(&mut self) -> Result<(), Error> {
        for number in self.leaving.clone() {
            self.flush(number).or_else(keep_going)?;
            self.let_go(number)?;
            self.arriving.remove(&number);
        }
        self.member.release(&self.leaving)?;
        self.leaving.clear();
        Ok(())
    }

    /// Opens the stores of partitions that came, and has them restored.
    pub(super) fn open_arriving(&mut self) -> Result<(), Error> {
        while let Some((&number, &afresh)) = self.arriving.first_key_value() {
            if afresh {
                self.remake(number)?;
            }
            let owned = match self.open(number) {
                Err(error) if error.reaction() == Reaction::Restore => {
                    tracing::warn!(
                        partition = number,
                        error = &error as &dyn std::error::Error,
                        "store made again"
                    );
                    self.remake(number)?;
                    self.open(number)?
                }
                other => other?,
            };
            self.arriving.remove(&number);
            self.restorer.add(owned);
        }
        Ok(())
    }

    /// Deletes a partition's store: the changelog has it all.
    pub(super) fn remake(&mut self, number: i32) -> Result<(), Error> {
        self.stores.remove(number).map_err(|error| Error::State {
            partition: number,
            source: error.into(),
        })
    }

    pub(super) fn open(&self, number: i32) -> Result<Owned, Error> {
        let state = |source| Error::State {
            partition: number,
            source,
        };
        let settings = settings_of_share(
            &self.limits.settings,
            self.owned.len() + 1,
            self.limits.workers,
        );
        let store = self
            .stores
            .open(number)
            .map_err(|error| state(error.into()))?;
        Ok(Owned {
            number,
            users: Partition::open(store, settings).map_err(state)?,
            statistics: Statistics::default(),
        })
    }

    pub(super) fn restore(&mut self) -> Result<(), Error> {
        if self.restorer.is_idle() {
            return Ok(());
        }
        let ready = self.restorer.advance(
            &*self.log,
            &mut *self.member,
            self.world.now(),
            // What is left of a poll may hold records that were read of a partition before it was restored, not from its position on.
            !self.output.rest,
            self.pipeline.metrics(),
        )?;
        for owned in ready {
            tracing::info!(partition = owned.number, "partition restored");
            self.last_write_back.insert(owned.number, self.world.now());
            self.owned.insert(owned.number, owned);
        }
        self.share_memory();
        Ok(())
    }

    pub(super) fn share_memory(&mut self) {
        let settings =
            settings_of_share(&self.limits.settings, self.owned.len(), self.limits.workers);
        for owned in self.owned.values_mut() {
            owned.users.set_settings(settings.clone());
        }
    }
}
