//! How long texts are in JSON: records are cut before they are written.

/// Bytes of a text in JSON, without its quotes: up to six for one.
pub(crate) fn json_length(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(length).sum()
}
