//! Users as daemons show them over HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::inspect::UserView;

/// Longest wait for a user's owner to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Questions at once: a worker that has nothing to do looks at them every few milliseconds, and answers all that wait.
const AT_ONCE: usize = 32;

/// Asks the daemons for each of the users, and gives what they know of them to `take`.
pub(crate) fn each(
    daemons: &[String],
    users: &[String],
    take: impl Fn(&str, Option<UserView>) + Sync,
) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(users.len()) {
            scope.spawn(|| {
                let mut lines: Vec<Line> =
                    daemons.iter().map(|address| Line::to(address)).collect();
                while let Some(user) = users.get(next.fetch_add(1, Ordering::Relaxed)) {
                    take(user, ask(&mut lines, user));
                }
            });
        }
    });
}

/// Asks one daemon after the other until the user's owner answers.
fn ask(daemons: &mut [Line], user: &str) -> Option<UserView> {
    let deadline = Instant::now() + PATIENCE;
    let path = format!("/users/{user}?entries=1000000");
    let mut said = Vec::new();
    while Instant::now() < deadline {
        said.clear();
        for line in &mut *daemons {
            match line.get(&path) {
                Ok((200, body)) => return Some(serde_json::from_slice(&body).unwrap()),
                Ok((404, _)) => return None,
                // Not the owner, or on its way there.
                Ok((status, body)) => said.push(format!(
                    "{}: {status} {}",
                    line.address,
                    String::from_utf8_lossy(&body)
                )),
                Err(error) => said.push(format!("{}: {error}", line.address)),
            }
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    panic!("no daemon tells of user {user}: {said:?}");
}

/// A connection that stays open.
struct Line {
    address: String,
    open: Option<BufReader<TcpStream>>,
}

impl Line {
    fn to(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            open: None,
        }
    }

    fn get(&mut self, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let answer = self.try_get(path);
        if answer.is_err() {
            self.open = None;
        }
        answer
    }

    fn try_get(&mut self, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let broken = |what| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        let stream = match &mut self.open {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                self.open.insert(BufReader::new(stream))
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| broken("no status"))?;
        let mut length = 0;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(|_| broken("no length"))?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        Ok((status, body))
    }
}
