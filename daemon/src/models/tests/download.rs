//! One file from a server.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::super::download::{Download, bare};
use super::super::error::ModelsError;
use super::super::sum;
use super::{Answer, Said, Server};
use crate::exit::Exit;

fn file() -> Vec<u8> {
    (0..50_000_u32).map(|at| ((at * at) >> 7) as u8).collect()
}

/// A download of the file into a folder of its own.
struct Try {
    folder: tempfile::TempDir,
    said: Said,
}

impl Try {
    /// With so much of the file there already.
    fn new(there: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let try_ = Self {
            folder,
            said: Said::default(),
        };
        if !there.is_empty() {
            fs::write(try_.part(), there).unwrap();
        }
        try_
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join("part")
    }

    fn run(&self, server: &Server, bytes: Option<u64>) -> Result<String, ModelsError> {
        self.run_for(server, bytes, &file())
    }

    fn run_for(
        &self,
        server: &Server,
        bytes: Option<u64>,
        wanted: &[u8],
    ) -> Result<String, ModelsError> {
        let path = self.folder.path().join("wanted");
        fs::write(&path, wanted).unwrap();
        let download = Download {
            url: &server.url("file?token=hidden"),
            bytes,
            sha256: Some(&sum::of_file(&path).unwrap()),
            pause: Duration::from_millis(1),
        };
        download.run(&self.part(), false, &|line| self.said.add(line))
    }

    /// It is all there.
    fn is_whole(&self) {
        assert_eq!(
            fs::read(self.part()).unwrap(),
            file(),
            "{}",
            self.said.all()
        );
    }
}

const BYTES: Option<u64> = Some(50_000);

/// Goal: what is cut off is gone on with, and nothing is asked for twice. Method: a thousand bytes are there; the server cuts off twice; from which bytes it was
/// asked.
#[test]
fn a_cut_download_is_resumed() {
    for bytes in [BYTES, None] {
        let server = Server::new(file(), &[Answer::Cut(500), Answer::Cut(20_000)]);
        let try_ = Try::new(&file()[..1000]);
        try_.run(&server, bytes).unwrap();
        try_.is_whole();
        assert_eq!(server.asked(), [1000, 1500, 21_500]);
        assert!(try_.said.all().contains("cut off at byte 1500"));
        // And what is whole is not asked for at all, where its length is known.
        if bytes.is_some() {
            try_.run(&server, bytes).unwrap();
            assert_eq!(server.asked().len(), 3);
        }
    }
}

/// Goal: a server that knows no ranges is used all the same. Method: it sends all of it, whatever it is asked for.
#[test]
fn a_server_without_ranges_sends_all() {
    let server = Server::new(file(), &[Answer::WithoutRanges]);
    let try_ = Try::new(&file()[..1000]);
    try_.run(&server, BYTES).unwrap();
    try_.is_whole();
    assert_eq!(server.asked(), [1000]);
}

/// Goal: bytes that are not the file are never taken. Method: what is there already is of something else, too long, or the server sends another part, or more
/// than it should: thrown away, said, and begun anew.
#[test]
fn what_does_not_match_is_thrown_away() {
    let long = [file(), vec![0; 10]].concat();
    for (there, answers, asked, words) in [
        (vec![7; 1000], vec![], vec![1000, 0], "do not make the file"),
        (long, vec![], vec![0], "more of it than there should be"),
        (
            file()[..1000].to_vec(),
            vec![Answer::OtherRange],
            vec![1000, 0],
            "another part than was asked for",
        ),
        (
            vec![],
            vec![Answer::TooMuch],
            vec![0, 0],
            "more than there should be",
        ),
    ] {
        let server = Server::new(file(), &answers);
        let try_ = Try::new(&there);
        try_.run(&server, BYTES).unwrap();
        try_.is_whole();
        assert_eq!(server.asked(), asked, "{words}");
        let said = try_.said.all();
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("hidden"), "{said}");
    }
    // Where the length is not known, the server says that there is nothing behind.
    let server = Server::new(file(), &[]);
    let try_ = Try::new(&[file(), vec![0; 10]].concat());
    try_.run(&server, None).unwrap();
    try_.is_whole();
    assert_eq!(server.asked(), [50_010, 0]);
}

/// Goal: a file with another sum is refused, and not gone on with. Method: a server that has other bytes than are wanted, of the same length and of another.
#[test]
fn another_file_is_refused() {
    let mut other = file();
    other[40_000] ^= 1;
    let server = Server::new(file(), &[]);
    let try_ = Try::new(&[]);
    let error = try_.run_for(&server, BYTES, &other).unwrap_err();
    assert_eq!(error.exit(), Exit::Configuration);
    let error = error.to_string();
    assert!(
        error.contains("has the sha256") && error.contains("thrown away"),
        "{error}"
    );
    assert!(!try_.part().exists());
    assert_eq!(server.asked(), [0], "once is enough");

    let error = try_.run(&server, Some(50_001)).unwrap_err().to_string();
    assert!(
        error.contains("has 50000 bytes there, not 50001"),
        "{error}"
    );
}

/// Goal: a server that cannot now is asked again, but not for ever, and what came stays; one that has nothing is not asked again. Method: two failures and a
/// success; nothing but cut-offs; not found; nobody listens.
#[test]
fn a_server_that_fails_is_asked_again_for_a_while() {
    let server = Server::new(file(), &[Answer::Status(503), Answer::Status(429)]);
    let try_ = Try::new(&file()[..1000]);
    try_.run(&server, BYTES).unwrap();
    try_.is_whole();
    assert_eq!(server.asked(), [1000; 3]);

    let server = Server::new(file(), &vec![Answer::Cut(0); 20]);
    let try_ = Try::new(&file()[..1000]);
    let error = try_.run(&server, BYTES).unwrap_err();
    assert_eq!(error.exit(), Exit::TryAgain);
    assert_eq!(server.asked(), [1000; 5]);
    assert_eq!(fs::read(try_.part()).unwrap(), &file()[..1000]);
    let error = error.to_string();
    assert!(error.contains("cut off at byte 1000"), "{error}");
    assert!(!error.contains("hidden"), "{error}");

    let server = Server::new(file(), &[Answer::Status(404)]);
    let error = try_.run(&server, BYTES).unwrap_err();
    assert_eq!(error.exit(), Exit::Configuration);
    assert!(error.to_string().ends_with("/file: the server answers 404"));
    assert_eq!(server.asked(), [1000]);

    let gone = Server {
        address: server.address.clone(),
        asked: server.asked.clone(),
    };
    drop(server);
    let error = try_.run(&gone, BYTES).unwrap_err();
    assert_eq!(error.exit(), Exit::TryAgain, "{error}");
}

/// Goal: what may be secret in an address is shown nowhere. Method: user and password, a query.
#[test]
fn addresses_are_shown_without_secrets() {
    for (url, shown) in [
        ("https://u:p@h:8/a/b.gguf?X-Sig=1#z", "https://h:8/a/b.gguf"),
        ("http://h/a@b", "http://h/a@b"),
        ("/some/folder", "/some/folder"),
    ] {
        assert_eq!(bare(url), shown);
    }
}
