//! Answers for people: columns as wide as they must be, times in UTC, ages in words.

/// Columns with a heading each. Numbers stand to the right where the heading begins with `>`. Cells are tamed ([`tame`]).
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let tamed = |line: &Vec<String>| line.iter().map(|cell| tame(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(tamed).collect();
    let right: Vec<bool> = headings
        .iter()
        .map(|heading| heading.starts_with('>'))
        .collect();
    let headings: Vec<String> = headings
        .iter()
        .map(|heading| heading.trim_start_matches('>').to_owned())
        .collect();
    let lines = || std::iter::once(&headings).chain(&rows);
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            lines()
                .map(|line| line.get(column).map_or(0, |cell| cell.chars().count()))
                .max()
                .unwrap_or(0)
        })
        .collect();
    lines().fold(String::new(), |mut text, line| {
        let mut written = String::new();
        for (column, width) in widths.iter().enumerate() {
            let cell = line.get(column).map_or("", String::as_str);
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if right[column] {
                (gap.as_str(), "")
            } else {
                ("", gap.as_str())
            };
            written.push_str("  ");
            written.push_str(before);
            written.push_str(cell);
            written.push_str(after);
        }
        text.push_str(written.trim_end());
        text.push('\n');
        text
    })
}

/// A length of time in its largest unit: `4m`, `3d`.
pub(crate) fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes as text where they are UTF-8, with what would disturb a terminal escaped.
pub(crate) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// Text with what would disturb a terminal, or the layout, escaped: ids are whatever a platform sends.
pub(crate) fn tame(text: &str) -> String {
    readable(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: columns stand under their headings. Method: cells wider and narrower than they.
    #[test]
    fn columns_stand_under_their_headings() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(&["id", ">count"], &rows),
            "  id    count\n  a         1\n  long     22\n"
        );
    }

    /// Goal: an id never speaks to the terminal. Method: colours, a bell and a new line in a cell.
    #[test]
    fn cells_do_not_speak_to_the_terminal() {
        let rows = [vec!["it\u{1b}[31m\u{7}\nx".to_owned(), "é".to_owned()]];
        let shown = table(&["item", "name"], &rows);
        assert!(shown.ends_with("  it\\x1b[31m\\x07\\nx  é\n"), "{shown}");
    }
}
