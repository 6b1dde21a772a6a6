//! A file from an HTTP server: resumed where it was cut off, and held against its sha256 before anybody takes it.
//!
//! Before it, an address; after it, a file that is whole. Bytes go into a file of their own, which an interrupted run leaves behind and the next one goes on
//! with.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::error::{ModelsError, io, may_pass};
use super::sum;
use crate::progress::Progress;

/// Attempts in a row that bring nothing, before it is given up.
const ATTEMPTS_MAX: u32 = 5;
/// A server that sends nothing for so long is asked again.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is asked for.
pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    /// Its bytes, where that is known.
    pub(super) bytes: Option<u64>,
    /// In hexadecimal, where that is known.
    pub(super) sha256: Option<&'a str>,
    /// The first pause after an attempt that brought nothing; then twice as long, and so on.
    pub(super) pause: Duration,
}

/// How an attempt ended.
enum Attempt {
    /// All of it is there.
    Whole,
    /// It was cut off, or the server could not now.
    Cut(String),
    /// What is there is of no use: begin anew.
    Anew(&'static str),
}

impl Download<'_> {
    /// Brings it to `part`, going on with what is there; gives its sha256. What does not match is thrown away.
    pub(super) fn run(
        &self,
        part: &Path,
        progress: bool,
        say: &dyn Fn(&str),
    ) -> Result<String, ModelsError> {
        let agent = agent();
        let mut resumed = length(part)?;
        if resumed > 0 && self.bytes.is_none_or(|whole| resumed < whole) {
            say(&format!(
                "going on behind {}",
                indicatif::BinaryBytes(resumed)
            ));
        }
        loop {
            self.bring(&agent, part, progress, say)?;
            let found = sum::of_file(part)?;
            let Some(expected) = self.sha256.filter(|expected| **expected != found) else {
                return Ok(found);
            };
            fs::remove_file(part).map_err(io(part, "removing it"))?;
            let url = bare(self.url);
            if resumed == 0 {
                return Err(ModelsError::Sum {
                    what: url,
                    found,
                    expected: expected.to_owned(),
                    hint: "; it was thrown away".to_owned(),
                });
            }
            // What an earlier run had left was of something else.
            say(&format!(
                "{url}: what was there and what came do not make the file: thrown away, and begun anew"
            ));
            resumed = 0;
        }
    }

    /// Attempts until all of it is there.
    fn bring(
        &self,
        agent: &Agent,
        part: &Path,
        progress: bool,
        say: &dyn Fn(&str),
    ) -> Result<(), ModelsError> {
        let mut most = length(part)?;
        let mut idle = 0;
        let bar = Progress::new(self.bytes, progress);
        loop {
            let had = length(part)?;
            let outcome = if self.bytes.is_some_and(|whole| had > whole) {
                Attempt::Anew("there is more of it than there should be")
            } else if self.bytes == Some(had) {
                Attempt::Whole
            } else {
                self.attempt(agent, part, had, &bar)?
            };
            let problem = match outcome {
                Attempt::Whole => {
                    bar.finish();
                    return Ok(());
                }
                Attempt::Cut(problem) => problem,
                Attempt::Anew(problem) => {
                    fs::remove_file(part).map_err(io(part, "removing it"))?;
                    problem.to_owned()
                }
            };
            let url = bare(self.url);
            let has = length(part)?;
            idle = if has > most { 0 } else { idle + 1 };
            most = most.max(has);
            if idle >= ATTEMPTS_MAX {
                bar.finish();
                return Err(ModelsError::Network { url, problem });
            }
            say(&format!("{url}: {problem}; trying again"));
            if idle > 0 {
                std::thread::sleep(self.pause * (1 << (idle - 1)));
            }
        }
    }

    /// One request for what is missing.
    fn attempt(
        &self,
        agent: &Agent,
        part: &Path,
        had: u64,
        bar: &Progress,
    ) -> Result<Attempt, ModelsError> {
        let mut request = agent.get(self.url);
        if had > 0 {
            request = request.header("Range", format!("bytes={had}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            // No address of this kind will ever be reached.
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
                return Err(ModelsError::From {
                    from: bare(self.url),
                    problem: format!("is no address that can be asked: {error}"),
                });
            }
            Err(error) => return Ok(Attempt::Cut(error.to_string())),
        };
        let status = response.status().as_u16();
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let (from, whole) = match status {
            // A server that knows nothing of ranges sends all of it.
            200 => (
                0,
                header("content-length").and_then(|text| text.parse().ok()),
            ),
            206 => match header("content-range").as_deref().and_then(range) {
                Some((from, whole)) if from == had => (had, whole),
                Some(_) | None => {
                    return Ok(Attempt::Anew(
                        "the server sent another part than was asked for",
                    ));
                }
            },
            416 if had > 0 => {
                return Ok(Attempt::Anew(
                    "the server has nothing behind what is there already",
                ));
            }
            status if may_pass(status) => {
                return Ok(Attempt::Cut(format!("the server answers {status}")));
            }
            status => {
                return Err(ModelsError::Status {
                    url: bare(self.url),
                    status,
                });
            }
        };
        if let (Some(whole), Some(expected)) = (whole, self.bytes)
            && whole != expected
        {
            return Err(ModelsError::From {
                from: bare(self.url),
                problem: format!("has {whole} bytes there, not {expected}"),
            });
        }
        let whole = whole.or(self.bytes);
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(part)
            .map_err(io(part, "opening it"))?;
        if from == 0 {
            file.set_len(0).map_err(io(part, "shortening it"))?;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        let mut has = from;
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Attempt::Cut(format!("cut off at byte {has}: {error}"))),
            };
            file.write_all(&buffer[..read])
                .map_err(io(part, "writing it"))?;
            has += read as u64;
            bar.at_bytes("fetching", has, from);
            if self.bytes.is_some_and(|whole| has > whole) {
                return Ok(Attempt::Anew("the server sends more than there should be"));
            }
        }
        Ok(match whole {
            Some(whole) if has < whole => Attempt::Cut(format!("cut off at byte {has} of {whole}")),
            Some(_) | None => Attempt::Whole,
        })
    }
}

/// A client that trusts whom the machine trusts, and goes through the proxy that the environment names.
fn agent() -> Agent {
    let trusted = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    Agent::config_builder()
        .tls_config(trusted)
        .http_status_as_error(false)
        .timeout_connect(Some(SILENCE_MAX))
        .timeout_recv_response(Some(2 * SILENCE_MAX))
        .timeout_per_read(Some(SILENCE_MAX))
        .user_agent(format!("headwater/{}", crate::VERSION))
        .accept_encoding("identity")
        .build()
        .into()
}

/// Bytes of what is there already.
fn length(part: &Path) -> Result<u64, ModelsError> {
    match fs::metadata(part) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(io(part, "looking at it")(error)),
    }
}

/// Where a part begins, and the length of the whole: `bytes 5-9/10`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (part, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = part.split_once('-')?.0.parse().ok()?;
    Some((from, whole.parse().ok()))
}

/// An address without what may be secret in it: user, password, query.
pub(super) fn bare(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}
