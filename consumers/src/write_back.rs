//! Write-backs off the worker's thread: one thread, one batch at a time for each partition.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};

use headwater_state::{WriteBack, Written};

use crate::error::Error;
use crate::metrics::Metrics;
use crate::step::Owned;

/// Runs write-backs on a thread of its own, in order. At most one a partition is under way, so the queue is bounded by the partitions.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `None` where write-backs run on the caller's thread.
    work: Option<Sender<(i32, WriteBack)>>,
    done: Receiver<(i32, Written)>,
    back: Sender<(i32, Written)>,
    under_way: Vec<i32>,
    metrics: Metrics,
}

impl Writer {
    /// A writer with a thread that ends with it.
    pub(crate) fn new(metrics: Metrics) -> Self {
        let (work, jobs) = channel::<(i32, WriteBack)>();
        let (back, done) = channel();
        let answer = back.clone();
        let timing = metrics.write_back_seconds.clone();
        let spawned = std::thread::Builder::new()
            .name("headwater-store".to_owned())
            .spawn(move || {
                for (number, job) in jobs {
                    let timer = timing.start_timer();
                    let written = job.run();
                    timer.observe_duration();
                    if answer.send((number, written)).is_err() {
                        break;
                    }
                }
            });
        // Without a thread the caller's does the work: slower, nothing else.
        Self {
            work: spawned.is_ok().then_some(work),
            done,
            back,
            under_way: Vec::new(),
            metrics,
        }
    }

    /// A writer that works on the caller's thread.
    pub(crate) fn inline(metrics: Metrics) -> Self {
        let (back, done) = channel();
        Self {
            work: None,
            done,
            back,
            under_way: Vec::new(),
            metrics,
        }
    }

    pub(crate) fn start(&mut self, number: i32, job: WriteBack) -> Result<(), Error> {
        self.under_way.push(number);
        match &self.work {
            Some(work) => work.send((number, job)).map_err(|_| Error::Writer),
            None => self
                .back
                .send((number, job.run()))
                .map_err(|_| Error::Writer),
        }
    }

    /// Takes in what is done, without waiting.
    pub(crate) fn collect(&mut self, owned: &mut BTreeMap<i32, Owned>) -> Result<(), Error> {
        while let Ok((number, written)) = self.done.try_recv() {
            self.take_in(number, written, owned)?;
        }
        Ok(())
    }

    /// Waits until nothing of the partition is under way.
    pub(crate) fn wait(
        &mut self,
        number: i32,
        owned: &mut BTreeMap<i32, Owned>,
    ) -> Result<(), Error> {
        while self.under_way.contains(&number) {
            let (done, written) = self.done.recv().map_err(|_| Error::Writer)?;
            self.take_in(done, written, owned)?;
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        number: i32,
        written: Written,
        owned: &mut BTreeMap<i32, Owned>,
    ) -> Result<(), Error> {
        self.under_way.retain(|other| *other != number);
        self.metrics.written_back.inc_by(written.values as u64);
        match owned.get_mut(&number) {
            Some(owned) => owned.users.written(written).map_err(|source| Error::State {
                partition: number,
                source,
            }),
            None => Ok(()),
        }
    }
}
