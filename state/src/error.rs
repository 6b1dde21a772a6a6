//! What can go wrong with state, and with the stores that hold it.

use std::path::PathBuf;

/// Why stored bytes are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The bytes end too early.
    #[error("bytes end too early")]
    Short,
    /// There are more bytes than were written.
    #[error("bytes follow the end")]
    Long,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// Another checksum than was written.
    #[error("checksum differs")]
    Checksum,
    /// A version that this build does not know.
    #[error("written in format version {found}, this build reads versions up to {known}")]
    Version {
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// A key of no known kind.
    #[error("key of no known kind")]
    Key,
    /// Values that contradict one another.
    #[error("values contradict one another")]
    Contradiction,
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path}: in use by another process or daemon")]
    Locked {
        /// Its folder.
        path: PathBuf,
    },
    /// The disk refuses (full, read-only, gone).
    #[error("{path}: {doing} failed")]
    Io {
        /// The store's folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The backend says its files are damaged, or panicked over them.
    #[error("{path}: damaged: {reason}")]
    Broken {
        /// The store's folder.
        path: PathBuf,
        /// The backend's words.
        reason: String,
    },
    /// The files are damaged so that a partition cannot be made again among them: the next start puts them aside.
    #[error(
        "{path}: damaged beyond one partition ({reason}): the next start puts it aside and restores all from the changelog"
    )]
    Condemned {
        /// The store's folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What can go wrong with state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored value is not what was written: the copy is not to be trusted, and is made again from the changelog.
    #[error("stored value under key {key} is damaged")]
    Damaged {
        /// The key, readable.
        key: String,
        /// What is wrong.
        #[source]
        damage: Damage,
    },
    /// A changelog record is not what was written. The changelog is the truth, so nobody can mend this.
    #[error("changelog record is damaged (key {key})")]
    Changelog {
        /// The key, readable.
        key: String,
        /// What is wrong.
        #[source]
        damage: Damage,
    },
}
