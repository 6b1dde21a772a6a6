//! The thread of a worker: it joins the group, makes one turn after the other, and answers questions about its users in between.
//!
//! Before it, the item table is read to its end; after it, the worker has committed, written back and left. What can heal is waited out
//! here, with readiness off and the reason in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use headwater_config::{Config, Topic};
use headwater_consumers::log::{CommitError, Log, LogError, TopicPartition};
use headwater_consumers::step::Pipeline;
use headwater_consumers::worker::Worker;
use headwater_consumers::{Error, Metrics, Reaction, words};
use headwater_state::{Partition, Stores};
use parking_lot::Mutex;

use super::back_off::BackOff;
use super::error::StopError;
use crate::champion::Scoring;
use crate::inspect::{self, UserView};
use crate::status::{Board, Restoring, Stage, WorkerStatus};
use crate::supervisor::Stopping;
use crate::topics::Found;
use crate::world::SystemWorld;

/// Questions that wait for a worker at most; who comes later is told to try again.
const QUESTIONS_MAX: usize = 64;
/// How often a worker tells where it stands while all is well.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// A question to the worker that has a partition.
#[derive(Debug)]
pub(crate) struct Question {
    /// The user's partition.
    pub(crate) partition: i32,
    /// The user.
    pub(crate) user: String,
    /// Entries of history at most.
    pub(crate) entries_max: usize,
    /// Where the answer goes.
    pub(crate) answer: tokio::sync::oneshot::Sender<Answer>,
}

/// A worker's answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// What is known of the user.
    User(Box<UserView>),
    /// Nothing is known of them.
    Nobody,
    /// The partition does not work here.
    NotHere,
    /// The store failed; the worker finds out for itself.
    Failed(String),
}

/// What the thread works with.
pub(crate) struct Working {
    pub(crate) number: usize,
    pub(crate) instance: String,
    pub(crate) returns: bool,
    pub(crate) config: Config,
    pub(crate) found: Found,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) stores: Arc<dyn Stores>,
    /// What all threads have: of it, items, vectors and the trained model.
    pub(crate) inner: Arc<super::Inner>,
    pub(crate) metrics: Metrics,
    pub(crate) board: Arc<Board>,
    pub(crate) positions: Arc<Positions>,
    pub(crate) questions: Receiver<Question>,
}

/// Next offsets to read of each worker's partitions: for the metric of how far behind the log they are.
pub(crate) type Positions = Mutex<BTreeMap<usize, Vec<(TopicPartition, i64)>>>;

/// A bounded queue of questions to one worker.
pub(crate) fn questions() -> (SyncSender<Question>, Receiver<Question>) {
    sync_channel(QUESTIONS_MAX)
}

impl Working {
    pub(crate) fn run(&self, stopping: &Stopping) -> Result<(), StopError> {
        let outcome = self.work(stopping);
        self.tell(Stage::Ended, None, None);
        outcome.map_err(|error| match error {
            Failure::Stop(error) => error,
            Failure::Worker(
                Error::Log(LogError::Fenced { identity })
                | Error::Commit(CommitError::Fenced(LogError::Fenced { identity })),
            ) => StopError::Replaced {
                number: self.number,
                instance: self.instance.clone(),
                identity,
            },
            Failure::Worker(Error::Widened {
                partition,
                partitions,
                found,
            }) => self.changed(partition, partitions, found),
            Failure::Worker(source) => StopError::Worker {
                number: self.number,
                source,
            },
        })
    }

    fn work(&self, stopping: &Stopping) -> Result<(), Failure> {
        // A row needs its items: folding starts once they are all there. An instance that comes back joins meanwhile, since its
        // partitions wait for it; a new one would only take partitions from those who work on them.
        if !self.returns && self.wait_for_items(stopping)? {
            return Ok(());
        }
        let Some(mut worker) = self.join(stopping)? else {
            return Ok(());
        };
        if self.wait_for_items(stopping)? {
            return Ok(worker.stop(stopping.forever())?);
        }
        let mut pauses = BackOff::new();
        let mut told: Option<Instant> = None;
        let mut checked: Vec<i32> = Vec::new();
        let mut champion = 0;
        while !stopping.is_set() {
            self.follow_champion(&mut worker, &mut champion)?;
            worker.turn()?;
            // Before the next turn makes a step of them.
            if !worker.partitions().eq(checked.iter().copied()) {
                checked = worker.partitions().collect();
                self.check_pinned(&mut worker, &checked)?;
                told = None;
            }
            self.answer(Some(&mut worker))?;
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) || worker.has_failed() {
                told = Some(Instant::now());
                self.tell_of(&mut worker, &checked);
            }
            if worker.has_failed() {
                stopping.pause(pauses.next());
            } else if worker.is_well() {
                pauses.reset();
            }
        }
        tracing::info!(worker = self.number, partitions = ?checked, "draining");
        worker.stop(stopping.forever())?;
        Ok(())
    }

    /// Waits for the item table; gives whether the thread is to end.
    fn wait_for_items(&self, stopping: &Stopping) -> Result<bool, Failure> {
        self.tell(Stage::WaitingForItems, None, None);
        while !self.board.items().0 {
            self.answer(None)?;
            if stopping.pause(Duration::from_millis(5)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Becomes a member. Brokers that are away are waited for.
    fn join(&self, stopping: &Stopping) -> Result<Option<Worker>, Failure> {
        let mut pauses = BackOff::new();
        self.tell(Stage::Joining, None, None);
        loop {
            let error = match self.try_join() {
                Ok(worker) => return Ok(Some(worker)),
                Err(error) if error.reaction() == Reaction::Retry => error,
                Err(error) => return Err(error.into()),
            };
            tracing::warn!(
                worker = self.number,
                error = &error as &dyn std::error::Error,
                "cannot join the group"
            );
            self.tell(Stage::Joining, None, Some(words(&error)));
            self.answer(None)?;
            if stopping.pause(pauses.next()) {
                return Ok(None);
            }
        }
    }

    fn try_join(&self) -> Result<Worker, Error> {
        let member = self.log.member(&self.instance, self.number)?;
        let counts = (self.found.partitions, self.found.dead_letters);
        let mut pipeline = Pipeline::new(&self.config, counts, self.metrics.clone())?;
        let assembler = pipeline.assembler();
        if let Some(texts) = &self.inner.texts {
            let table = Arc::clone(&texts.table);
            assembler.read_vectors(&self.config, table, &self.metrics);
        }
        if let Some(sampler) = &self.inner.sampler {
            pipeline.sample(sampler.clone());
        }
        let assembler = pipeline.assembler();
        if let Some(model) = &self.inner.trained {
            let scoring = Scoring {
                model: Some(Arc::clone(model)),
                ..Scoring::default()
            };
            (self.inner).score_in(assembler, (0, &scoring), &self.metrics)?;
        }
        Worker::new(
            &self.config,
            Arc::clone(&self.log),
            Arc::clone(&self.stores),
            member,
            pipeline,
            Arc::clone(&self.inner.items),
            Box::new(SystemWorld),
        )
    }

    /// Has the worker score with the champion, where another was announced since: between two turns, so that no step sees two.
    fn follow_champion(&self, worker: &mut Worker, number: &mut u64) -> Result<(), Failure> {
        // Another may be announced meanwhile, whose vectors take the place of these.
        while let Some((now, scoring)) = self.inner.champion.other_than(*number) {
            (self.inner).score_in(worker.assembler(), (now, &scoring), &self.metrics)?;
            *number = now;
        }
        Ok(())
    }

    /// State that was made for another number of partitions must not be folded into.
    fn check_pinned(&self, worker: &mut Worker, partitions: &[i32]) -> Result<(), Failure> {
        for &partition in partitions {
            let pinned = worker
                .partition(partition)
                .map_or(0, |users| users.position().partitions);
            if pinned != 0 && pinned != self.found.partitions {
                let found = self.found.partitions;
                return Err(Failure::Stop(self.changed(partition, pinned, found)));
            }
        }
        Ok(())
    }

    fn changed(&self, partition: i32, pinned: i32, found: i32) -> StopError {
        StopError::PartitionsChanged {
            partition,
            name: self.config.topic_name(Topic::Behaviors),
            pinned,
            found,
        }
    }

    fn answer(&self, mut worker: Option<&mut Worker>) -> Result<(), Failure> {
        loop {
            let question = match self.questions.try_recv() {
                Ok(question) => question,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            };
            let users = worker
                .as_mut()
                .and_then(|worker| worker.partition(question.partition));
            let answer = users.map_or(Answer::NotHere, |users| self.view(users, &question));
            // Who asked may have gone.
            drop(question.answer.send(answer));
        }
    }

    fn view(&self, users: &mut Partition, question: &Question) -> Answer {
        let position = users.position().clone();
        match users.whole_user(&question.user) {
            Ok(Some(user)) => Answer::User(Box::new(inspect::view(
                &self.config,
                &question.user,
                (question.partition, &position),
                user,
                question.entries_max,
            ))),
            Ok(None) => Answer::Nobody,
            Err(error) => Answer::Failed(words(&error)),
        }
    }

    fn tell_of(&self, worker: &mut Worker, partitions: &[i32]) {
        let status = worker.status();
        let mut positions = Vec::new();
        for &partition in partitions {
            if let Some(users) = worker.partition(partition) {
                let inputs = users.position().inputs.iter();
                positions.extend(
                    inputs.map(|(topic, next)| (TopicPartition::new(*topic, partition), *next)),
                );
            }
        }
        self.positions.lock().insert(self.number, positions);
        self.tell(Stage::Running, Some(&status), status.trouble.clone());
    }

    fn tell(
        &self,
        stage: Stage,
        status: Option<&headwater_consumers::worker::Status>,
        trouble: Option<String>,
    ) {
        let (working, restoring) = status.map_or_else(Default::default, |status| {
            let restoring = status.restoring.iter();
            let restoring = restoring.map(|&(partition, remaining)| Restoring {
                partition,
                remaining,
            });
            (status.working.clone(), restoring.collect())
        });
        self.board.tell(WorkerStatus {
            number: self.number,
            stage,
            working,
            restoring,
            trouble,
        });
    }
}

enum Failure {
    Worker(Error),
    Stop(StopError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Worker(error)
    }
}
