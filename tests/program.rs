//! The program under test: built once, started with a folder of its own and a port that the system chooses, ended with its test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What cargo makes of the package `headwater`, of the profile that this test is of. Cargo does not build the binaries and examples of other
/// packages for a test.
fn built(arguments: &[&str], path: &str) -> PathBuf {
    // target/<profile>/deps/process-<hash>
    let deps = std::env::current_exe().unwrap();
    let folder = deps.parent().unwrap().parent().unwrap();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--workspace"]);
    build.args(arguments);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo tells a test of its package would be another world for build scripts: ring, and all that rests on it, built again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&*name);
        }
    }
    if folder.ends_with("release") {
        build.arg("--release");
    }
    assert!(
        build.status().unwrap().success(),
        "{arguments:?} does not build"
    );
    folder.join(path)
}

/// The program.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built(&["--bin", "headwater"], "headwater"))
}

/// Runs an example to its end.
pub fn example(name: &str, arguments: &[&str]) -> Ran {
    let program = built(&["--example", name], &format!("examples/{name}"));
    Ran::of(&Command::new(program).args(arguments).output().unwrap())
}

/// Asks until it is answered.
///
/// # Panics
/// When it is not, within the deadline.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A configuration in a folder of its own.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// The embedded log, four partitions, small waits; `more` goes over it.
    pub fn new(more: &str) -> Self {
        Self::of(&format!(
            "log.kind = \"embedded\"\ntopics.partitions = 4\nstate.write_back = \"20ms\"\n{more}"
        ))
    }

    /// Apache Kafka at that address; `more` says the rest.
    pub fn on_kafka(brokers: &str, more: &str) -> Self {
        Self::of(&format!("kafka.brokers = \"{brokers}\"\n{more}"))
    }

    fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let text = format!(
            "admin.address = \"127.0.0.1:0\"\ntelemetry.format = \"json\"\nstate.path = \"{}\"\n{text}\n",
            state.display()
        );
        std::fs::write(folder.path().join("hw.toml"), text).unwrap();
        Self { folder }
    }

    /// Its file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("hw.toml")
    }

    /// Its state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The configuration as the program reads it.
    pub fn config(&self) -> headwater_config::Config {
        headwater_config::Config::from_toml(&std::fs::read_to_string(self.file()).unwrap()).unwrap()
    }

    /// The program with this configuration and arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        // What the developer's environment says is not what is tested.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HEADWATER__") {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(self.file()).args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().unwrap();
        Ran::of(&output)
    }

    /// Starts a daemon and waits until it says where it listens.
    pub fn start(&self, arguments: &[&str]) -> Daemon {
        let (mut daemon, started) = self.launch(arguments);
        daemon.address = started
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|_| panic!("it did not start: {}", daemon.said()));
        daemon
    }

    /// Starts a daemon and does not wait; the second part tells where it listens.
    pub fn launch(&self, arguments: &[&str]) -> (Daemon, Receiver<String>) {
        let mut all = vec!["run"];
        all.extend(arguments);
        let mut child = self
            .command(&all)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let started = listen(&mut child, &said);
        let daemon = Daemon {
            child,
            address: String::new(),
            said,
        };
        (daemon, started)
    }
}

/// Collects what a daemon says; gives where it listens once it has said so.
fn listen(child: &mut Child, said: &Arc<Mutex<String>>) -> Receiver<String> {
    let (tell, told) = channel();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Ok(event) = serde_json::from_str::<Value>(&line)
                && event["message"] == "started"
            {
                drop(tell.send(event["address"].as_str().unwrap_or_default().to_owned()));
            }
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
    told
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output.
    pub answer: String,
    /// Its standard error.
    pub beside: String,
}

impl Ran {
    /// Of a finished process.
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            answer: String::from_utf8_lossy(&output.stdout).into_owned(),
            beside: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The answer as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.answer).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Where its HTTP listens.
    pub address: String,
    said: Arc<Mutex<String>>,
}

impl Daemon {
    /// Status and body of a path.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(&self.address, path)
    }

    /// A path's body as JSON, once it is answered with 200.
    pub fn json(&self, path: &str) -> Value {
        until(path, || {
            let (status, body) = self.get(path)?;
            (status == 200).then(|| serde_json::from_str(&body).unwrap())
        })
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        self.json("/readyz");
    }

    /// The sum of a counter or gauge over its labels, or its value where the name has them; 0 while nobody answers.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        text.lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        until("the daemon's end", || self.child.try_wait().unwrap())
    }

    /// Ends it in good order.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.said());
    }

    /// Ends it as a power cut would; gives what it had said.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.wait();
        self.said()
    }

    /// What it said.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One GET; none if nobody answers.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
