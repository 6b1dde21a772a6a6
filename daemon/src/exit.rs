//! The exit codes of `headwater`, and which failure has which: what a service manager decides by.
//!
//! Before it, errors of every crate; after it, `main` ends the process.

use headwater_consumers::log::{CommitError, LogError};
use headwater_state::StoreError;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was committed, and the group was left in good order.
    Drained,
    /// The configuration, or what it names, must be changed by a person: starting again does not help.
    Configuration,
    /// What is on disk or in a topic is not ours, is newer than this build, or is in use by another process.
    Format,
    /// A bug of Headwater.
    Bug,
    /// The world may heal: start again.
    TryAgain,
}

impl Exit {
    /// The code: 0, 2, 3, 70 (`EX_SOFTWARE`), 75 (`EX_TEMPFAIL`).
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Drained => 0,
            Self::Configuration => 2,
            Self::Format => 3,
            Self::Bug => 70,
            Self::TryAgain => 75,
        }
    }

    /// Of a failure of the log.
    #[must_use]
    pub const fn of_log(error: &LogError) -> Self {
        match error {
            LogError::Unavailable { .. } | LogError::OutOfRange { .. } | LogError::Io { .. } => {
                Self::TryAgain
            }
            LogError::NoTopic { .. } | LogError::Refused { .. } => Self::Configuration,
            LogError::Fenced { .. } | LogError::Damaged { .. } => Self::Format,
        }
    }

    /// Of a failure of the store.
    #[must_use]
    pub const fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Io { .. } | StoreError::Broken { .. } | StoreError::Condemned { .. } => {
                Self::TryAgain
            }
            StoreError::Locked { .. } => Self::Format,
        }
    }

    /// Of a failure of state.
    #[must_use]
    pub const fn of_state(error: &headwater_state::Error) -> Self {
        use headwater_state::Error;
        match error {
            Error::Store(error) => Self::of_store(error),
            Error::Damaged { .. } => Self::TryAgain,
            Error::Changelog { .. } => Self::Format,
        }
    }

    /// Of a failure of the fast loop.
    #[must_use]
    pub const fn of_consumers(error: &headwater_consumers::Error) -> Self {
        use headwater_consumers::Error;
        match error {
            Error::Log(error)
            | Error::Commit(
                CommitError::Aborted(error)
                | CommitError::Unknown(error)
                | CommitError::Fenced(error),
            ) => Self::of_log(error),
            Error::State { source, .. } | Error::Vectors { source } => Self::of_state(source),
            Error::Topic { .. } | Error::Widened { .. } | Error::Schema(_) | Error::Encode(_) => {
                Self::Configuration
            }
            Error::Disagreement { .. }
            | Error::Recreated { .. }
            | Error::Forgotten { .. }
            | Error::Internal { .. } => Self::Format,
            Error::Deep(_) | Error::Writer => Self::Bug,
        }
    }
}
