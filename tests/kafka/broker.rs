//! The broker of the run: Apache Kafka by `ops/kafka/kafka` on a free port with a folder of its own, or the one that
//! `KAFKA_BOOTSTRAP` names. A broker that does not come up is a failure, never a skip.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use headwater_config::Topic;
use headwater_consumers::log::kafka::{KafkaLog, KafkaSettings};
use headwater_consumers::log::{
    Log, LogError, Member, Outgoing, PollLimit, Reader, RecordBatch, Start, TopicPartition,
    TopicSpec,
};

/// A broker of ours.
pub(crate) struct Broker {
    port: u16,
    folder: PathBuf,
    /// Ends the broker when this process ends, however it does: it waits for its standard input to be closed.
    _guard: Child,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/kafka/kafka")
}

/// Two neighbouring ports that are free now: the client's and the controller's. Below those that the system gives to connections: while
/// the broker is dead, a client that tries again and again would be given the broker's port as its own in the end, connect to itself,
/// and hold the port.
fn free_port() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = std::process::id() as u16 % 5000;
    (0..5000)
        .map(|number| 20_000 + (first + number) % 5000 * 2)
        .find(|port| free(*port) && free(port + 1))
        .expect("no free ports between 20000 and 30000")
}

impl Broker {
    /// Starts a broker of its own, for a test that ends it.
    pub(crate) fn start() -> Self {
        // One start at a time: two would look for free ports at once.
        static STARTING: Mutex<()> = Mutex::new(());
        let _starting = STARTING.lock();
        let folder = tempfile::Builder::new()
            .prefix("headwater-kafka-")
            .tempdir()
            .unwrap()
            .keep();
        let guard = Command::new("bash")
            .arg("-c")
            .arg("trap '' TERM INT HUP; read -r _; \"$0\" kill --dir \"$1\"; rm -rf \"$1\"")
            .args([script().as_os_str(), folder.as_os_str()])
            // Its own group: what ends ours (a time limit, ctrl-c) must not end it first.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Self {
            port: free_port(),
            folder,
            _guard: guard,
        };
        broker.run("start");
        broker
    }

    /// Runs a command of the script: start, stop, kill.
    pub(crate) fn run(&self, command: &str) {
        let ran = Command::new(script())
            .args([command, "--port", &self.port.to_string(), "--dir"])
            .arg(&self.folder)
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "ops/kafka/kafka {command}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Where the broker of the run takes clients.
pub(crate) fn bootstrap() -> String {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    std::env::var("KAFKA_BOOTSTRAP")
        .unwrap_or_else(|_| BROKER.get_or_init(Broker::start).bootstrap())
}

/// Settings of a log with topics and a group that nobody else has.
pub(crate) fn settings(bootstrap: String, test: &str) -> KafkaSettings {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let prefix = format!(
        "{test}-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    let name = |topic: Topic| (topic, format!("{prefix}.{}", topic.key()));
    KafkaSettings {
        bootstrap,
        group: format!("{prefix}-headwater"),
        topics: Topic::ALL.into_iter().map(name).collect(),
        session_timeout: Duration::from_secs(6),
        transaction_timeout: Duration::from_secs(10),
        operation_timeout: Duration::from_secs(20),
        send_now: false,
        client: BTreeMap::new(),
    }
}

/// A log on the broker of the run, with these topics of so many partitions.
pub(crate) fn log(test: &str, topics: &[Topic], partitions: i32) -> KafkaLog {
    let log = KafkaLog::connect(settings(bootstrap(), test)).unwrap();
    create(&log, topics, partitions);
    log
}

pub(crate) fn create(log: &KafkaLog, topics: &[Topic], partitions: i32) {
    for topic in topics {
        let spec = TopicSpec {
            topic: *topic,
            partitions,
            replication_factor: 1,
            min_insync_replicas: 1,
        };
        log.create(&spec).unwrap();
    }
}

/// Polls of the tests: much, and not long.
pub(crate) const LIMIT: PollLimit = PollLimit {
    records: 10_000,
    bytes: 1 << 24,
    wait: Duration::from_millis(50),
};

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A record of a value alone.
pub(crate) fn value(topic: Topic, partition: i32, value: &[u8]) -> Outgoing<'_> {
    Outgoing {
        to: TopicPartition::new(topic, partition),
        key: Some(b"key"),
        value: Some(value),
        headers: &[],
    }
}

/// Asks until it is answered.
///
/// # Panics
/// When it is not, within the deadline.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
    }
}

/// Polls the member until it is assigned that many partitions, and tells which.
pub(crate) fn assigned(member: &mut dyn Member, count: usize) -> Vec<i32> {
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    until("an assignment", || {
        found.extend(member.poll(LIMIT, &mut batch).unwrap().assigned);
        (found.len() >= count).then_some(())
    });
    found.sort_unstable();
    found
}

/// All stable values of a partition, in order.
pub(crate) fn values(log: &dyn Log, of: TopicPartition) -> Vec<Vec<u8>> {
    let mut reader = log.reader().unwrap();
    reader.assign(of, Start::Beginning).unwrap();
    let mut batch = RecordBatch::default();
    let mut found = Vec::new();
    let next = log.extent(of).unwrap().next;
    until("the end of a partition", || {
        poll(&mut *reader, &mut batch);
        found.extend(
            batch
                .iter()
                .map(|record| record.value.unwrap_or_default().to_vec()),
        );
        batch
            .ends()
            .iter()
            .any(|(_, position)| *position >= next)
            .then_some(())
    });
    found
}

fn poll(reader: &mut dyn Reader, batch: &mut RecordBatch) {
    match reader.poll(LIMIT, batch) {
        Ok(()) => {}
        // A broker that has just restarted.
        Err(LogError::Unavailable { .. }) => batch.clear(),
        Err(error) => panic!("{error}"),
    }
}
