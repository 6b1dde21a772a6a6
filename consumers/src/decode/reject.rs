//! Why a record could not be read: a code for metrics and headers, and words for people. Before it stands whoever reads a record; after
//! it, the record is a dead letter.

/// Bytes of what is said of a rejected record at most: it goes into a header, and may quote the record.
const DETAIL_BYTES_MAX: usize = 512;

/// Why a record is a dead letter. The code is a metric label and a header; what is said names the key and the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Reject {
    /// One of [`Reject::CODES`].
    pub code: &'static str,
    /// What exactly is wrong.
    pub detail: String,
}

impl Reject {
    /// Every code there is.
    pub const CODES: [&'static str; 11] = [
        "unreadable",
        "null_value",
        "too_large",
        "missing_field",
        "wrong_type",
        "bad_id",
        "bad_time",
        "ahead_of_time",
        "unknown_kind",
        "bad_value",
        "key_differs",
    ];

    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(Self::CODES.contains(&code));
        let mut detail = detail.into();
        if detail.len() > DETAIL_BYTES_MAX {
            // What is wrong stands at the beginning, and where at the end: serde quotes a text whole in between.
            let end = detail.ceil_char_boundary(detail.len() - DETAIL_BYTES_MAX / 4);
            let begin = detail.floor_char_boundary(DETAIL_BYTES_MAX / 2);
            detail.replace_range(begin..end, " \u{2026} ");
        }
        Self { code, detail }
    }

    /// A record above the size that is read.
    pub(crate) fn too_large(bytes: usize, max: usize) -> Self {
        Self::new(
            "too_large",
            format!("{bytes} bytes, step.record_max is {max}"),
        )
    }

    /// An event that is too long for the record that it becomes.
    pub(crate) fn too_large_to_write(bytes: usize, max: usize) -> Self {
        Self::new(
            "too_large",
            format!("{bytes} bytes as a record of topics.repartition, which has at most {max}"),
        )
    }

    /// A tombstone where a value is needed.
    pub(crate) fn null_value() -> Self {
        Self::new("null_value", "the value is null")
    }

    pub(super) fn of_json(error: &serde_json::Error) -> Self {
        let code = match error.classify() {
            serde_json::error::Category::Data if error.to_string().starts_with("missing field") => {
                "missing_field"
            }
            serde_json::error::Category::Data => "wrong_type",
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => "unreadable",
        };
        Self::new(code, error.to_string())
    }
}
