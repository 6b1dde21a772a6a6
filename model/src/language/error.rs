//! What can be wrong with a model that somebody hands us: always with the path, and with the key or tensor.

use std::path::PathBuf;

/// A model that cannot be read or run.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// A file that cannot be read.
    #[error("{path}: cannot be read", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("{path}: cannot be written", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A key of the configuration or of the metadata.
    #[error("{path}: `{key}` {problem}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that is missing, of another shape, cut off, or holds what is no number.
    #[error("{path}: tensor `{tensor}` {problem}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name there.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// Token ids that the model has not, or more positions than it was trained for.
    #[error("{0}")]
    Input(String),
    /// The tensor library failed.
    #[error("{doing}")]
    Compute {
        /// What was under way.
        doing: &'static str,
        /// Why.
        source: candle_core::Error,
    },
}

/// Names what was under way when the tensor library failed.
pub(crate) fn computing(doing: &'static str) -> impl FnOnce(candle_core::Error) -> LanguageError {
    move |source| LanguageError::Compute {
        doing,
        source: bare(source),
    }
}

/// An error of the tensor library without the stack that it tells of where `RUST_BACKTRACE` is set: a page of it behind each cause.
pub(crate) fn bare(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => bare(*inner),
        error => error,
    }
}
