//! Asking a running daemon: one GET by HTTP/1.0, which is a line there and a text back. A client library would be the larger part of
//! the binary's dependencies for that.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use headwater::Exit;

use super::Failure;

/// How long a daemon may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// An answer at most.
const BYTES_MAX: u64 = 256 << 20;
/// From daemon to owner, who may have just lost it to another.
const REDIRECTS_MAX: usize = 3;

/// A daemon's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Asks `address` (`host:port`, with or without `http://`) for a path, and whom it names as owner.
pub(crate) fn get(address: &str, path: &str) -> Result<Answer, Failure> {
    let mut address = address
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    let mut path = path.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let (answer, location) = once(&address, &path).map_err(|error| {
            let words = format!(
                "{address}: {error}; is a daemon running there? (`admin.address`, --address)"
            );
            Failure::new(Exit::TryAgain, words)
        })?;
        let Some(location) = location.filter(|_| answer.status == 307) else {
            return Ok(answer);
        };
        let target = location.trim_start_matches("http://");
        let (host, rest) = target.split_once('/').unwrap_or((target, ""));
        host.clone_into(&mut address);
        path = format!("/{rest}");
    }
    Err(Failure::new(
        Exit::TryAgain,
        "the daemons name one another as owner; try again",
    ))
}

fn once(address: &str, path: &str) -> std::io::Result<(Answer, Option<String>)> {
    let mut last = std::io::Error::other("the name has no address");
    let mut stream = None;
    for socket in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, Duration::from_secs(5)) {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(error) => last = error,
        }
    }
    let Some(mut stream) = stream else {
        return Err(last);
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n"
    )?;
    let mut text = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut text)?;
    parse(&String::from_utf8_lossy(&text))
        .ok_or_else(|| std::io::Error::other("not an answer of HTTP"))
}

fn parse(text: &str) -> Option<(Answer, Option<String>)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let location = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location")
            .then(|| value.trim().to_owned())
    });
    let body = body.to_owned();
    Some((Answer { status, body }, location))
}

/// A path's part as it must be written: everything but letters, digits and `-._~` by its bytes.
pub(crate) fn escape(part: &str) -> String {
    part.bytes().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("invariant: writing to a String does not fail");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: status, body and owner are found in an answer. Method: a redirect as hyper writes it; no answer at all.
    #[test]
    fn answers_are_read() {
        let text = "HTTP/1.0 307 Temporary Redirect\r\nlocation: http://h:1/users/a%20b\r\ncontent-length: 2\r\n\r\n{}";
        let (answer, location) = parse(text).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (307, "{}"));
        assert_eq!(location.as_deref(), Some("http://h:1/users/a%20b"));
        assert!(parse("hello").is_none());
    }

    /// Goal: ids of any bytes are one part of a path. Method: those that would not be.
    #[test]
    fn ids_are_one_part_of_a_path() {
        assert_eq!(escape("a/b ?ü~"), "a%2Fb%20%3F%C3%BC~");
    }
}
