//! SHA-256 of files: what decides whether bytes are those that were meant.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::{ModelsError, io};

/// Hashes what is read through it.
pub(super) struct Summing<R> {
    inner: R,
    hash: Sha256,
    /// Bytes that went through.
    pub(super) bytes: u64,
}

impl<R> Summing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// The sum of what went through, in hexadecimal.
    pub(super) fn sum(self) -> String {
        hex(&self.hash.finalize())
    }
}

impl<R: Read> Read for Summing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Of a file, in hexadecimal.
pub(super) fn of_file(path: &Path) -> Result<String, ModelsError> {
    let file = File::open(path).map_err(io(path, "opening it"))?;
    let mut summing = Summing::new(file);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match summing.read(&mut buffer) {
            Ok(0) => return Ok(summing.sum()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(io(path, "reading it")(error)),
        }
    }
}

/// Of a text, in hexadecimal.
pub(super) fn of_text(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        write!(text, "{byte:02x}").expect("invariant: writing to a String does not fail");
        text
    })
}
