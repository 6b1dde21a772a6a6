//! Two daemons of one group as processes: started, killed, rivalled, and watched for who works on which partition.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_tests::program::{Daemon, Place, until};
use serde_json::Value;

use crate::{onlooker, progress};

/// Partitions of each topic.
pub(crate) const PARTITIONS: usize = 8;
/// Longest wait for the fleet to come to itself: after a broker's death its daemons pause up to 5 s between attempts.
const PATIENCE: Duration = Duration::from_secs(120);
/// For how long after a broker's death librdkafka may crash a daemon: where a partition has no leader for a moment, the answer to a fetch
/// makes it read memory that was never written (confluentinc/librdkafka#5280). To us that is one more death at any moment.
const CLIENT_CRASHES: Duration = Duration::from_secs(60);
const SIGSEGV: i32 = 11;
/// Lines of a daemon's log that a failure shows.
const TAIL: usize = 60;

struct Instance {
    name: &'static str,
    backend: &'static str,
    place: Place,
    daemon: Option<Daemon>,
    /// What was said in earlier lives.
    said: String,
}

pub(crate) struct Fleet {
    brokers: String,
    instances: [Instance; 2],
    /// Who was last seen to work on each partition.
    owners: [Option<usize>; PARTITIONS],
    /// How often each has gone from one instance to the other.
    pub(crate) moves: [u32; PARTITIONS],
    broker_died: Option<Instant>,
    /// How often librdkafka has crashed a daemon.
    pub(crate) crashes: u32,
}

/// Short sessions and transactions, so that what a dead daemon holds is free soon; small recents, so that most of what is counted is
/// history; write-backs of a second, so that a killed daemon's copy is behind.
fn place(brokers: &str, name: &str, backend: &str) -> Place {
    let more = format!(
        "instance.id = \"{name}\"\n\
         instance.prefix = \"kills.\"\n\
         kafka.session_timeout = \"3s\"\n\
         kafka.transaction_timeout = \"2s\"\n\
         kafka.operation_timeout = \"10s\"\n\
         topics.partitions = {PARTITIONS}\n\
         state.backend = \"{backend}\"\n\
         state.recent = {}\n\
         state.write_back = \"1s\"\n\
         scenarios.names = [\"feed\", \"search\"]\n\
         scoring.on_behavior = \"item\"\n\
         labels.shown_within = \"10s\"\n\
         labels.late = \"1d\"\n\
         skew.share = 0.1\n\
         skew.every = \"2s\"\n\
         tasks.click = {{ positive = [\"click\", \"like\", \"purchase\"], trials = [\"impression\"], scenarios = [], window = \"5s\" }}",
        super::workload::RECENT
    );
    Place::on_kafka(brokers, &more)
}

impl Fleet {
    /// Makes the topics; starts nobody yet.
    pub(crate) fn new(brokers: &str) -> Self {
        let instance = |name, backend| Instance {
            name,
            backend,
            place: place(brokers, name, backend),
            daemon: None,
            said: String::new(),
        };
        let instances = [instance("a", "sled"), instance("b", "fjall")];
        let made = instances[0].place.run(&["topics", "create"]);
        assert_eq!(made.code, Some(0), "{made:?}");
        Self {
            brokers: brokers.to_owned(),
            instances,
            owners: [None; PARTITIONS],
            moves: [0; PARTITIONS],
            broker_died: None,
            crashes: 0,
        }
    }

    pub(crate) fn config(&self) -> headwater_config::Config {
        self.instances[0].place.config()
    }

    pub(crate) fn name(&self, who: usize) -> &'static str {
        self.instances[who].name
    }

    /// How often the partition that moved least has moved.
    pub(crate) fn moved_least(&self) -> u32 {
        self.moves.iter().copied().min().unwrap_or_default()
    }

    pub(crate) fn start(&mut self, who: usize) {
        let instance = &mut self.instances[who];
        instance.daemon = Some(instance.place.start(&[]));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, who: usize) {
        let instance = &mut self.instances[who];
        instance.said += &instance.daemon.take().unwrap().kill();
    }

    /// The broker is killed, now.
    pub(crate) fn broker_dies(&mut self) {
        self.broker_died = Some(Instant::now());
    }

    /// SIGTERM to both; each must end with 0.
    pub(crate) fn stop(&mut self) {
        for instance in &mut self.instances {
            if let Some(daemon) = instance.daemon.take() {
                instance.said += &daemon.said();
                daemon.stop();
            }
        }
    }

    /// Waits until so many rows were made again from the log in these lives; in none of all lives may one have differed, nor statistics.
    pub(crate) fn judge_skew(&self, rows: u64) {
        let same = |of: &str| -> u64 {
            let name = format!("headwater_consumers_skew_{of}_total{{outcome=\"same\"}}");
            let daemons = self.instances.iter().filter_map(|one| one.daemon.as_ref());
            daemons.map(|daemon| daemon.metric(&name)).sum()
        };
        until("rows to be made again from the log", || {
            (same("rows") >= rows && same("statistics") > 0).then_some(())
        });
        for instance in &self.instances {
            let last = instance.daemon.as_ref().map(Daemon::said);
            let said = instance
                .said
                .lines()
                .chain(last.iter().flat_map(|last| last.lines()));
            let mut wrong = said.filter(|line| line.contains(" not what the "));
            assert_eq!(wrong.next(), None, "{}", instance.name);
        }
        progress(&format!(
            "{} rows made again from the log, none differs",
            same("rows")
        ));
    }

    /// Deletes the state folders of both, which do not run.
    pub(crate) fn forget(&mut self) {
        for instance in &self.instances {
            assert!(instance.daemon.is_none());
            std::fs::remove_dir_all(instance.place.state()).unwrap();
        }
    }

    /// Where those that run listen.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let daemons = self.instances.iter().filter_map(|one| one.daemon.as_ref());
        daemons.map(|daemon| daemon.address.clone()).collect()
    }

    /// What each says that it works on. Nobody may have ended by themselves.
    pub(crate) fn look(&mut self) -> [Vec<i32>; 2] {
        self.mourn();
        let working = self.instances.each_mut().map(|instance| {
            let Some(daemon) = &mut instance.daemon else {
                return Vec::new();
            };
            let Some((200, status)) = daemon.get("/status") else {
                return Vec::new();
            };
            let status: Value = serde_json::from_str(&status).unwrap();
            let workers = status["workers"].as_array().unwrap();
            let partitions = workers
                .iter()
                .flat_map(|worker| worker["working"].as_array().unwrap());
            partitions
                .map(|number| number.as_i64().unwrap() as i32)
                .collect()
        });
        for partition in 0..PARTITIONS {
            let claims = |who: usize| working[who].contains(&(partition as i32));
            // While it moves both may say that they have it, or none.
            let owner = match (claims(0), claims(1)) {
                (true, false) => 0,
                (false, true) => 1,
                _ => continue,
            };
            if self.owners[partition].is_some_and(|before| before != owner) {
                self.moves[partition] += 1;
            }
            self.owners[partition] = Some(owner);
        }
        working
    }

    /// Whoever has ended by themselves is a failure, unless it was the client's known crash: then they start again.
    fn mourn(&mut self) {
        for who in 0..self.instances.len() {
            let instance = &mut self.instances[who];
            let Some(status) = instance.daemon.as_mut().and_then(Daemon::ended) else {
                continue;
            };
            let died = self.broker_died.map(|died| died.elapsed());
            assert!(
                status.signal() == Some(SIGSEGV) && died.is_some_and(|ago| ago < CLIENT_CRASHES),
                "{} ended by itself, {died:?} after the broker's death: {status}",
                instance.name
            );
            self.crashes += 1;
            progress(&format!(
                "      librdkafka crashed {}: confluentinc/librdkafka#5280",
                instance.name
            ));
            self.kill(who);
            self.start(who);
        }
    }

    /// Looks until what each works on is as it should be.
    pub(crate) fn wait_until(&mut self, what: &str, is: impl Fn(&[Vec<i32>; 2]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let working = self.look();
            if is(&working) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "in vain: {what}; a works on {:?}, b on {:?}\n{}",
                working[0],
                working[1],
                self.explain()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// What daemons and brokers say of themselves: for whoever has to find out why nothing happens.
    fn explain(&mut self) -> String {
        let mut said = String::new();
        for instance in &mut self.instances {
            let status = instance
                .daemon
                .as_mut()
                .and_then(|daemon| daemon.get("/status"));
            said += &format!("{} says {status:?}\n", instance.name);
        }
        let group = self.config().group();
        said + &onlooker::describe_group(&self.brokers, &group)
    }

    /// Waits until all partitions are worked on, each by one.
    pub(crate) fn settle(&mut self, what: &str) {
        self.wait_until(what, |[a, b]| {
            let mut all: Vec<i32> = a.iter().chain(b).copied().collect();
            all.sort_unstable();
            all.into_iter().eq(0..PARTITIONS as i32)
        });
    }

    /// Starts a process beside one that runs, with the same instance id and so the same transactional id. One of the two must end, with 3,
    /// and say who took its place; the other goes on as that instance.
    pub(crate) fn rival(&mut self, who: usize) {
        let instance = &mut self.instances[who];
        let rival_place = place(&self.brokers, instance.name, instance.backend);
        let mut rival = rival_place.start(&[]);
        let mut older = instance.daemon.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let (ended, status) = loop {
            if let Some(status) = older.ended() {
                instance.daemon = Some(rival);
                instance.place = rival_place;
                break (older, status);
            }
            if let Some(status) = rival.ended() {
                instance.daemon = Some(older);
                break (rival, status);
            }
            assert!(
                Instant::now() < deadline,
                "two run as {}: {}\n{}",
                instance.name,
                tail(&older.said()),
                tail(&rival.said())
            );
            std::thread::park_timeout(Duration::from_millis(50));
        };
        let said = ended.said();
        instance.said += &said;
        let words = format!("another process runs as instance `{}`", instance.name);
        assert!(
            status.code() == Some(3) && said.contains(&words),
            "one of two that run as {} ended with {status}, without saying so: {said}",
            instance.name
        );
    }
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// After a failure: what both said lies whole in files, and its end is shown.
impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for instance in &self.instances {
            let mut said = instance.said.clone();
            said += &instance
                .daemon
                .as_ref()
                .map(Daemon::said)
                .unwrap_or_default();
            let file =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.log", instance.name));
            let kept = std::fs::write(&file, &said);
            progress(&format!(
                "\n{} ({} {kept:?}) said at last:\n{}",
                instance.name,
                file.display(),
                tail(&said)
            ));
        }
    }
}
