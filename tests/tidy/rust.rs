//! What of a Rust source is code: comments, and what stands in quotes, are left out.

/// The source with every comment and the inside of every text and letter replaced by blanks; places and lines stay as they are.
pub(crate) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|byte| *byte == b'\n')
        } else if rest.starts_with(b"/*") {
            Some(block_comment(rest))
        } else if let Some(hashes) = raw_text(rest, at.checked_sub(1).map(|before| bytes[before])) {
            Some(hashes)
        } else if rest[0] == b'"' {
            Some(text(rest))
        } else if rest[0] == b'\'' {
            letter(rest).or(Some(0))
        } else {
            Some(0)
        };
        // What is no comment and no text is code, one byte at a time.
        let length = length.unwrap_or(rest.len());
        if length == 0 {
            out.push(rest[0]);
            at += 1;
            continue;
        }
        let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
        out.extend(rest[..length].iter().map(blank));
        at += length;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`.
fn raw_text(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let letters = if rest.starts_with(b"br") { 2 } else { 1 };
    if rest.get(letters - 1) != Some(&b'r') {
        return None;
    }
    let hashes = rest[letters..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let begin = letters + hashes;
    if rest.get(begin) != Some(&b'"') {
        return None;
    }
    let end = [b"\"", &b"#".repeat(hashes)[..]].concat();
    let inside = &rest[begin + 1..];
    let at = inside
        .windows(end.len())
        .position(|window| window == end)
        .unwrap_or(inside.len());
    Some((begin + 1 + at + end.len()).min(rest.len()))
}

fn text(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `'x'` or `'\n'`; none for a lifetime.
fn letter(rest: &[u8]) -> Option<usize> {
    let end = |from: usize| {
        let within = rest.get(from..rest.len().min(from + 12))?;
        Some(from + within.iter().position(|byte| *byte == b'\'')? + 1)
    };
    match rest.get(1)? {
        b'\\' => end(3),
        _ => {
            let length = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .map_or_else(|error| error.valid_up_to(), str::len);
            let first = std::str::from_utf8(&rest[1..=length])
                .ok()?
                .chars()
                .next()?;
            let after = 1 + first.len_utf8();
            (rest.get(after) == Some(&b'\'')).then_some(after + 1)
        }
    }
}

/// Goal: only code is looked at, and its lines are where they were. Method: every sort of text and comment with a word in it that must
/// not be found, and what looks like one.
#[test]
fn texts_and_comments_are_no_code() {
    let source = concat!(
        "a(\"bad \\\" bad\"); // bad\n",
        "b(r#\"bad \" bad\"#); /* bad /* bad */ bad */\n",
        "c('\"', '\\'', 'b', b\"bad\", br\"bad\", '\u{2026}');\n",
        "fn d<'bed>(x: &'bed str) {}\n",
        "/// bad\n",
        "letter\"bad\";\n",
    );
    let code = code(source);
    assert!(!code.contains("bad"), "{code}");
    assert_eq!(code.lines().count(), source.lines().count());
    for word in ["a(", "b(", "c(", "fn d<'bed>(x: &'bed str) {}", "letter"] {
        assert!(code.contains(word), "{word}: {code}");
    }
}
