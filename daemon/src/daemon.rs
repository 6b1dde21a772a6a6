//! The whole daemon in a host program: started, looked at, stopped.
//!
//! Before it, a valid configuration; after it, threads under a [`crate::supervisor`]. Everything that can be refused is refused before
//! the first thread starts, in the order in which a person can mend it: the configuration, the folder, the log, the topics, the stores.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use headwater_config::{Backend, Config, LogKind};
use headwater_consumers::log::Log;
use headwater_consumers::skew::{Sample, Sampler};
use headwater_consumers::step::SharedItems;
use headwater_model::bahe::BaheModel;
use headwater_state::{Opened, Stores};
use prometheus::Registry;

use crate::admin;
use crate::fleet::{self, Fleet};
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::status::{Board, PutAside, Readiness, Status, Stopped};
use crate::stores::AgedStores;
use crate::supervisor::{Phase, Supervisor, TaskKind};
use crate::topics::Found;
use crate::world::unix_ms;

mod back_off;
mod champion;
mod error;
mod fleet_task;
mod items;
mod open;
mod pool;
mod repartition;
mod skew;
mod texts;
mod train;
mod trained;
mod worker;

pub use error::{StartError, StopError};
pub use open::{check_log, kafka_settings, local_options, open_log};
pub(crate) use repartition::{of_fast_loop, open_log as open_stage};
pub use trained::check_model;
pub(crate) use worker::{Answer, Question};

/// Headwater, to be started.
#[derive(Clone, Copy, Debug)]
pub struct Daemon;

/// What a host program brings. The default brings nothing.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Where metrics are registered; none: a registry of the daemon's own. A registry belongs to one daemon.
    pub registry: Option<Registry>,
    /// A log that is open already, with its topics; none: the one of the configuration. For hosts and tests that share an embedded log
    /// with the daemon.
    pub log: Option<Arc<dyn Log>>,
}

/// A running daemon. Dropping it stops the daemon and waits, as [`Handle::stop`] does.
#[derive(Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

/// Asks a daemon to stop, from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Supervisor);

/// What the threads of a daemon have in common.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) found: Found,
    pub(crate) identity: Identity,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) stores: Arc<dyn Stores>,
    /// Hands rows over that are to be held against the log.
    pub(crate) sampler: Option<Sampler>,
    /// What is known of items.
    items: SharedItems,
    texts: Option<texts::Texts>,
    /// The model of `scoring.model`.
    trained: Option<Arc<BaheModel>>,
    /// Vectors of the model that scores, where it may look at texts.
    layers: Option<trained::Layers>,
    /// The champion of the topic of models, where `scoring.model` names none.
    pub(crate) champion: Arc<crate::champion::Held>,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) fast: headwater_consumers::Metrics,
    pub(crate) board: Arc<Board>,
    pub(crate) positions: Arc<worker::Positions>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) questions: Vec<SyncSender<Question>>,
    /// Held while a request is being explained.
    pub(crate) explaining: tokio::sync::Mutex<()>,
    pub(crate) supervisor: Supervisor,
    /// Where HTTP listens.
    pub(crate) address: Option<SocketAddr>,
    /// The same as others are told.
    pub(crate) told_address: Option<String>,
    pub(crate) put_aside: Option<PutAside>,
    pub(crate) started: i64,
    pub(crate) config_hash: String,
}

impl Daemon {
    /// Starts a daemon.
    ///
    /// # Errors
    /// If anything that it needs is not as it must be; nothing is left running then.
    pub fn start(config: Config) -> Result<Handle, StartError> {
        Self::start_in(config, Host::default())
    }

    /// Starts a daemon with what a host program brings.
    ///
    /// # Errors
    /// If anything that it needs is not as it must be; nothing is left running then.
    pub fn start_in(config: Config, host: Host) -> Result<Handle, StartError> {
        config.check()?;
        let identity = Identity::take(&config)?;
        let source = repartition::open_log(&config, host.log.is_some())?;
        let log = match host.log {
            Some(log) => log,
            None => open_log(&repartition::of_fast_loop(&config))?,
        };
        let found = repartition::check(&config, &*log).map_err(StartError::Topics)?;
        let registry = host.registry.unwrap_or_default();
        let fast = headwater_consumers::Metrics::register(&registry)?;
        let metrics = Metrics::register(&registry)?;
        let (stores, put_aside) = open_stores(&config, &found, &metrics)?;
        let texts = texts::open(&config, &*stores)?;
        let encoder = texts.as_ref().and_then(texts::Texts::encoder);
        let trained = if config.instance.workers > 0 {
            trained::open(&config, encoder)?
        } else {
            None
        };
        let layers = trained::Layers::new(&config, &stores, &fast);
        let champion = Arc::default();
        let follower = champion::begin(&config, &*log, &champion)?;
        let listener = config.admin.address.map(listen).transpose()?;
        let address = listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let (questions, asked): (Vec<_>, Vec<_>) = (0..config.instance.workers)
            .map(|_| worker::questions())
            .unzip();
        let (sampler, samples) = Sampler::new(&config, fast.skew.clone()).unzip();
        metrics.start.set(unix_ms() / 1000);
        let inner = Arc::new(Inner {
            found,
            identity,
            log,
            stores,
            sampler,
            items: Arc::default(),
            texts,
            trained,
            layers,
            champion,
            registry,
            metrics,
            fast,
            board: Arc::new(Board::new(
                config.instance.workers + usize::from(source.is_some()),
            )),
            positions: Arc::new(parking_lot::Mutex::new(BTreeMap::new())),
            fleet: Arc::default(),
            questions,
            explaining: tokio::sync::Mutex::new(()),
            supervisor: Supervisor::new(),
            address,
            told_address: address.map(|address| reachable(&config, address)),
            put_aside,
            started: unix_ms(),
            config_hash: fleet::config_hash(&config),
            config,
        });
        // From here on a failure stops what runs already: the handle's drop does.
        let handle = Handle {
            inner: Arc::clone(&inner),
        };
        spawn(&inner, (asked, samples), listener, (source, follower))
            .map_err(StartError::Thread)?;
        tracing::info!(
            version = crate::VERSION,
            instance = inner.identity.instance,
            log = %inner.config.log.kind,
            group = inner.config.group(),
            partitions = inner.found.partitions,
            workers = inner.config.instance.workers,
            backend = %inner.config.state.backend,
            address = inner.address.map(tracing::field::display),
            config_hash = inner.config_hash,
            "started"
        );
        Ok(handle)
    }
}

impl Handle {
    /// The log, for hosts that send and read records themselves.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.inner.log)
    }

    /// The configuration that it goes by.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The registry of its metrics.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Where its HTTP listens, if it does.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.inner.address
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// Whether it does its work, and why not.
    #[must_use]
    pub fn ready(&self) -> Readiness {
        self.inner.readiness()
    }

    /// Whether nobody asked it to stop and nothing has stopped it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.inner.supervisor.phase() == Phase::Running
    }

    /// What asks it to stop from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.inner.supervisor.clone())
    }

    /// Waits until it has stopped: somebody asked it to, or it failed. The failure is given once.
    ///
    /// # Errors
    /// What stopped it, where nobody asked it to; or what went wrong while it stopped.
    pub fn wait(&self) -> Result<(), StopError> {
        let outcome = self.inner.supervisor.wait();
        if let Err(error) = self.inner.stores.sync() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "syncing the stores at the end"
            );
        }
        outcome
    }

    /// Stops it: commits what is under way, writes everything back, and leaves the group and the fleet; `forever` gives its partitions to
    /// the others at once. Without it they are kept for its return for `kafka.session_timeout`.
    ///
    /// # Errors
    /// What stopped it before, or what went wrong while it stopped. State is right in any case: what was not committed is done again.
    pub fn stop(self, forever: bool) -> Result<(), StopError> {
        self.inner.supervisor.stop(forever);
        self.wait()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.supervisor.stop(false);
        // A failure was logged when it happened; who wants it waits.
        drop(self.inner.supervisor.wait());
    }
}

impl Stopper {
    /// Asks the daemon to stop, and does not wait. The first call decides on `forever`.
    pub fn stop(&self, forever: bool) {
        self.0.stop(forever);
    }
}

impl Inner {
    pub(crate) fn status(&self) -> Status {
        let (items_caught_up, items_trouble) = self.board.items();
        Status {
            version: crate::VERSION,
            instance: self.identity.instance.clone(),
            config_hash: self.config_hash.clone(),
            partitions: self.found.partitions,
            started: self.started,
            items_caught_up,
            trials: self.board.trials(),
            items_trouble,
            put_aside: self.put_aside.clone(),
            texts: self.texts.as_ref().map(|texts| texts.status(&self.fast)),
            model: match &self.trained {
                Some(model) => Some(self.status_of(model)),
                None => champion::status(self),
            },
            workers: self.board.workers(),
            stopping: (self.supervisor.phase() > Phase::Running).then(|| Stopped {
                failure: self.supervisor.why(),
            }),
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let others = self.fleet.others_have_all(
            &self.identity.instance,
            self.found.partitions,
            fleet::now(),
        );
        let scores = self.config.instance.workers > 0;
        let readiness = self.status().readiness(others || !scores);
        self.metrics.ready.set(i64::from(readiness.ready));
        readiness
    }
}

fn open_stores(
    config: &Config,
    found: &Found,
    metrics: &Metrics,
) -> Result<(Arc<dyn Stores>, Option<PutAside>), StartError> {
    let backend = match config.state.backend {
        Backend::Sled => headwater_state::Backend::Sled,
        Backend::Fjall => headwater_state::Backend::Fjall,
    };
    let Opened {
        stores,
        put_aside,
        removed,
    } = headwater_state::open(&config.state.path, backend, config.state.memory.get())?;
    for (path, outcome) in removed {
        let path = path.display();
        match outcome {
            Ok(()) => {
                tracing::info!(%path, "store that was put aside deleted: newer ones are kept");
            }
            Err(error) => tracing::warn!(%path, %error, "store that was put aside not deleted"),
        }
    }
    let put_aside = put_aside.map(|(path, reason)| PutAside { path, reason });
    if let Some(put_aside) = &put_aside {
        metrics.put_aside.inc();
        tracing::warn!(
            path = %put_aside.path.display(),
            reason = put_aside.reason,
            "store did not open and was put aside; restoring it from the changelog"
        );
    }
    let mut age_ms_max = config.state.copy_age_max.millis();
    if let Some(retention_ms) = found.changelog_delete_retention_ms {
        age_ms_max = age_ms_max.min(i64::try_from(retention_ms / 2).unwrap_or(i64::MAX));
    }
    let stores = AgedStores::new(stores, age_ms_max, config.state.fsync, metrics.clone());
    Ok((Arc::new(stores), put_aside))
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|source| StartError::Admin { address, source })
}

/// The address that others reach. "All interfaces" is none: there, the interface by which we reach the brokers.
fn reachable(config: &Config, mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() && config.log.kind == LogKind::Kafka {
        let broker = config
            .kafka
            .brokers
            .split(',')
            .next()
            .unwrap_or_default()
            .trim();
        // Connecting a UDP socket sends nothing: it asks the system for a route.
        let ours = |any: IpAddr| {
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect(broker).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        if let Some(ip) = ours(address.ip()) {
            address.set_ip(ip);
        }
    }
    address.to_string()
}

fn spawn(
    inner: &Arc<Inner>,
    (asked, samples): (Vec<Receiver<Question>>, Option<Receiver<Sample>>),
    listener: Option<TcpListener>,
    (source, follower): (Option<Arc<dyn Log>>, Option<crate::champion::Follower>),
) -> std::io::Result<()> {
    let supervisor = &inner.supervisor;
    if let Some(listener) = listener {
        let inner = Arc::clone(inner);
        supervisor.spawn(TaskKind::Admin, "headwater-admin", move |stopping| {
            admin::serve(&inner, &listener, stopping)
        })?;
    }
    if inner.config.instance.workers > 0 {
        let following = items::Following {
            config: inner.config.clone(),
            partitions: inner.found.partitions,
            log: Arc::clone(&inner.log),
            items: Arc::clone(&inner.items),
            metrics: inner.fast.clone(),
            board: Arc::clone(&inner.board),
        };
        supervisor.spawn(TaskKind::Items, "headwater-items", move |stopping| {
            following.run(stopping)
        })?;
    } else {
        // Nobody here asks what an item is.
        inner.board.tell_items(true, None);
    }
    let speaking = Arc::clone(inner);
    supervisor.spawn(TaskKind::Fleet, "headwater-fleet", move |stopping| {
        fleet_task::run(&speaking, stopping)
    })?;
    if let Some(log) = source {
        let repartitioning = repartition::Repartitioning {
            instance: inner.identity.instance.clone(),
            config: inner.config.clone(),
            found: inner.found,
            log,
            metrics: inner.fast.clone(),
            board: Arc::clone(&inner.board),
        };
        supervisor.spawn(TaskKind::Worker, "headwater-repartition", move |stopping| {
            repartitioning.run(stopping)
        })?;
    }
    let fast = repartition::of_fast_loop(&inner.config);
    texts::spawn(inner, &fast)?;
    trained::spawn(inner)?;
    champion::spawn(inner, follower)?;
    train::spawn(inner)?;
    skew::spawn(inner, &fast, samples)?;
    for (number, questions) in asked.into_iter().enumerate() {
        let working = worker::Working {
            number,
            instance: inner.identity.instance.clone(),
            returns: inner.identity.returns,
            config: fast.clone(),
            found: inner.found,
            log: Arc::clone(&inner.log),
            stores: Arc::clone(&inner.stores),
            inner: Arc::clone(inner),
            metrics: inner.fast.clone(),
            board: Arc::clone(&inner.board),
            positions: Arc::clone(&inner.positions),
            questions,
        };
        supervisor.spawn(
            TaskKind::Worker,
            &format!("headwater-worker-{number}"),
            move |stopping| working.run(stopping),
        )?;
    }
    Ok(())
}
