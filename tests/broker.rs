//! Apache Kafka by `ops/kafka/kafka`, on a free port with a folder of its own. A broker that does not come up is a failure, never a skip.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock};

/// A broker of ours.
#[derive(Debug)]
pub struct Broker {
    port: u16,
    folder: PathBuf,
    options: &'static [&'static str],
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
    // None is given twice: a broker that is dead for a while has its port still, though nobody listens there.
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = std::process::id() as u16 % 5000;
    loop {
        let number = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(number < 5000, "no free ports between 20000 and 30000");
        let port = 20_000 + (first + number) % 5000 * 2;
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

impl Broker {
    /// Starts a broker of its own, for a test that ends it.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker of its own whose heap holds records of 100 MB.
    pub fn start_roomy() -> Self {
        Self::start_with(&["--bench"])
    }

    fn start_with(options: &'static [&'static str]) -> Self {
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
            options,
            _guard: guard,
        };
        broker.run("start");
        broker
    }

    /// Runs a command of the script: start, stop, kill.
    pub fn run(&self, command: &str) {
        let ran = Command::new(script())
            .args([command, "--port", &self.port.to_string(), "--dir"])
            .arg(&self.folder)
            .args(self.options)
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "ops/kafka/kafka {command}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }

    /// Changes a byte of these bytes wherever they lie in its segments, while it is stopped; gives in how many files that was.
    pub fn spoil(&self, bytes: &[u8]) -> usize {
        let mut spoilt = 0;
        for partition in std::fs::read_dir(self.folder.join("data")).unwrap() {
            let Ok(files) = std::fs::read_dir(partition.unwrap().path()) else {
                continue;
            };
            for file in files.map(|file| file.unwrap().path()) {
                if file.extension().is_none_or(|extension| extension != "log") {
                    continue;
                }
                let mut held = std::fs::read(&file).unwrap();
                let found = held.windows(bytes.len()).position(|window| window == bytes);
                if let Some(at) = found {
                    held[at] ^= 1;
                    std::fs::write(&file, held).unwrap();
                    spoilt += 1;
                }
            }
        }
        spoilt
    }

    /// Where it takes clients.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Where the broker of the run takes clients: one that is started for it, or the one that `KAFKA_BOOTSTRAP` names.
pub fn bootstrap() -> String {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    std::env::var("KAFKA_BOOTSTRAP")
        .unwrap_or_else(|_| BROKER.get_or_init(Broker::start).bootstrap())
}
