//! Fetching against a server of our own: what is cut off, wrong, spoilt or there already.

mod download;
mod fetch;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use parking_lot::Mutex as Shared;

/// How a request is answered.
#[derive(Clone, Debug)]
enum Answer {
    /// As it should be, by range where one is asked for.
    Right,
    /// All of it, whatever is asked for.
    WithoutRanges,
    /// By range, and cut off behind so many bytes.
    Cut(usize),
    /// By range, but another one.
    OtherRange,
    /// With this status and nothing else.
    Status(u16),
    /// More than it says it is, without a length.
    TooMuch,
}

/// A server on this machine that gives one file, and remembers from which byte it was asked.
struct Server {
    address: String,
    asked: Arc<Shared<Vec<usize>>>,
}

impl Server {
    /// The first requests are answered like this; all others rightly.
    fn new(file: Vec<u8>, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Shared<Vec<usize>>> = Arc::default();
        let heard = Arc::clone(&asked);
        let answers = answers.to_vec();
        let mut answers = answers.into_iter();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(from) = asked_from(&mut stream) else {
                    return;
                };
                heard.lock().push(from);
                answer(
                    &mut stream,
                    &file,
                    from,
                    &answers.next().unwrap_or(Answer::Right),
                );
            }
        });
        Self { address, asked }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// From which bytes it was asked so far.
    fn asked(&self) -> Vec<usize> {
        self.asked.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A connection without a request ends it.
        drop(TcpStream::connect(&self.address));
    }
}

/// Reads a request; from which byte it wants the file.
fn asked_from(stream: &mut TcpStream) -> Option<usize> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="));
    Some(range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap()))
}

fn answer(stream: &mut TcpStream, file: &[u8], from: usize, answer: &Answer) {
    let whole = file.len();
    let partial = |from: usize| {
        format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{whole}\r\nContent-Length: {}",
            whole - 1,
            whole - from
        )
    };
    let (head, body) = match answer {
        Answer::Right | Answer::Cut(_) if from >= whole => (
            "416 Range Not Satisfiable\r\nContent-Length: 0".to_owned(),
            vec![],
        ),
        Answer::Right if from > 0 => (partial(from), file[from..].to_vec()),
        Answer::Cut(bytes) => {
            let end = whole.min(from + bytes);
            (partial(from), file[from..end].to_vec())
        }
        Answer::OtherRange => (partial(from / 2), file[from / 2..].to_vec()),
        Answer::Right | Answer::WithoutRanges => {
            (format!("200 OK\r\nContent-Length: {whole}"), file.to_vec())
        }
        Answer::Status(status) => (format!("{status} No\r\nContent-Length: 0"), vec![]),
        Answer::TooMuch => ("200 OK".to_owned(), [file, b"more"].concat()),
    };
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
    // A client that has heard enough goes away.
    drop(stream.write_all(&[head.as_bytes(), &body].concat()));
}

/// Lines that were said.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Said {
    fn add(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn all(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}
