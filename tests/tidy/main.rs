//! The rules of the tree that no compiler holds, each a test: a rule that no machine checks is none.
//!
//! Before it, the sources and pages as they lie there; after it, nothing. Each rule is a function over text ([`rules`]), and a planted
//! fault shows that it bites. What else is held elsewhere: names of metrics (`daemon`), examples of configuration (`config`), commands
//! in the pages (`daemon`), lints and format (`ops/check`).
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod guarantees;
mod markdown;
mod rules;
mod rust;

use std::path::{Path, PathBuf};

/// A file of the tree: its path from the root, and its text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    fn is_page(&self) -> bool {
        self.extension() == "md"
    }

    fn extension(&self) -> &str {
        self.path
            .rsplit_once('.')
            .map_or("", |(_, extension)| extension)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file of the tree that is text of ours.
fn tree() -> Vec<File> {
    fn walk(folder: &Path, below: &str, files: &mut Vec<File>) {
        let mut entries: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().unwrap();
            // What is built, fetched, or git's own.
            if name == "target" || name.starts_with('.') {
                continue;
            }
            let path = format!("{below}{name}");
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{path}/"), files);
            } else if [".rs", ".md", ".toml"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                files.push(File { path, text });
            }
        }
    }
    let mut files = Vec::new();
    walk(&root(), "", &mut files);
    assert!(files.len() > 200, "the tree was not found: {}", files.len());
    files
}

/// Fails with all faults at once: one round mends them.
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n  {}", faults.join("\n  "));
}

/// Goal: a file can be read at one sitting. Method: lines of each.
#[test]
fn files_are_short() {
    let files = tree();
    let sources = files.iter().filter(|file| file.is_rust());
    none(&sources.filter_map(rules::length).collect::<Vec<_>>());
}

/// Goal: a name says what is inside. Method: the names that say nothing, as files and folders.
#[test]
fn modules_have_names() {
    none(&tree().iter().filter_map(rules::name).collect::<Vec<_>>());
}

/// Goal: every module says what stands before and after it. Method: the head of each file.
#[test]
fn modules_have_heads() {
    let files = tree();
    let sources = files.iter().filter(|file| file.is_rust());
    none(&sources.filter_map(rules::head).collect::<Vec<_>>());
}

/// Goal: the arrows between crates are those of ARCHITECTURE.md, and each heavy library has one home. Method: every Cargo.toml, and
/// every path that a source names.
#[test]
fn crates_and_libraries_keep_their_places() {
    let files = tree();
    let mut faults: Vec<String> = files.iter().flat_map(rules::arrows).collect();
    faults.extend(files.iter().flat_map(rules::homes));
    none(&faults);
}

/// Goal: no test throws its answer away. Method: `matches!` as a statement.
#[test]
fn answers_are_looked_at() {
    let files = tree();
    let sources = files.iter().filter(|file| file.is_rust());
    none(&sources.flat_map(rules::idle_matches).collect::<Vec<_>>());
}

/// Goal: every test says what it is for. Method: the comment above each.
#[test]
fn tests_have_goals() {
    let files = tree();
    let sources = files.iter().filter(|file| file.is_rust());
    none(&sources.flat_map(rules::goals).collect::<Vec<_>>());
}

/// Goal: a guarantee is stated once, has a test that names it as its goal, and nobody names one that is not there. Method: the table of
/// ARCHITECTURE.md against every file.
#[test]
fn guarantees_are_stated_once_and_tested() {
    none(&guarantees::faults(&tree()));
}

/// Goal: pages lead somewhere. Method: the file and the heading of every relative link.
#[test]
fn links_resolve() {
    let files = tree();
    let exists = |path: &str| root().join(path).exists();
    let pages = files.iter().filter(|file| file.is_page());
    none(
        &pages
            .flat_map(|page| markdown::links(page, &files, &exists))
            .collect::<Vec<_>>(),
    );
}

/// Goal: pages name keys that there are. Method: every key in them against default.toml.
#[test]
fn keys_of_the_pages_exist() {
    let files = tree();
    let defaults = files
        .iter()
        .find(|file| file.path == "config/default.toml")
        .unwrap();
    let keys = markdown::keys(&defaults.text);
    let pages = files.iter().filter(|file| file.is_page());
    none(
        &pages
            .flat_map(|page| markdown::unknown_keys(page, &keys))
            .collect::<Vec<_>>(),
    );
}

/// Goal: what a page says is tested is. Method: the names of tests in the pages that name them.
#[test]
fn tests_of_the_pages_exist() {
    let files = tree();
    let naming = ["docs/operating/bad-input.md", "docs/concepts/requests.md"];
    let pages = files.iter().filter(|file| naming.contains(&&*file.path));
    let faults: Vec<_> = pages
        .flat_map(|page| markdown::unknown_tests(page, &files))
        .collect();
    none(&faults);
}
