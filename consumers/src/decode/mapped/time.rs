//! Times as strangers write them, to Unix milliseconds.
//!
//! Before it stands the text of a JSON text or number; after it, the time is held against the plausible years. Nothing is computed in
//! floating point: 1763892000.123 seconds are 1763892000123 ms, not one less. The calendar is written out here, since it is
//! thirty lines for the one form that is taken; a library's leniency would be a promise to keep.

use headwater_config::TimeFormat;

/// What a time must be, for people.
pub(super) const fn wanted(format: TimeFormat) -> &'static str {
    match format {
        TimeFormat::Iso8601 => "text of RFC 3339 such as \"2026-11-23T10:00:00.5Z\"",
        TimeFormat::Seconds => "a number of seconds",
        TimeFormat::Milliseconds => "a whole number of milliseconds",
        TimeFormat::Microseconds => "a whole number of microseconds",
    }
}

/// Reads a time; fractions of a millisecond are cut off downwards.
pub(super) fn read(text: &str, format: TimeFormat) -> Result<i64, String> {
    let time = match format {
        TimeFormat::Iso8601 => rfc3339(text),
        TimeFormat::Seconds => seconds(text),
        TimeFormat::Milliseconds => whole(text),
        TimeFormat::Microseconds => whole(text).map(|time| time.div_euclid(1000)),
    };
    time.ok_or_else(|| format!("time `{}` is not {}", super::cut(text), wanted(format)))
}

/// Which other unit a number that is not plausible may be in.
pub(super) fn hint(text: &str, format: TimeFormat) -> &'static str {
    let Some(number) = whole(text.split('.').next().unwrap_or_default()) else {
        return "";
    };
    let from = headwater_state::Timestamp::PLAUSIBLE_FROM.0;
    let to = headwater_state::Timestamp::PLAUSIBLE_TO.0;
    if format == TimeFormat::Iso8601 {
        ""
    } else if (from / 1000..to / 1000).contains(&number) {
        "; it looks like seconds"
    } else if (from..to).contains(&number) {
        "; it looks like milliseconds"
    } else if (from * 1000..to * 1000).contains(&number) {
        "; it looks like microseconds"
    } else {
        ""
    }
}

/// A whole number; too large ones are held at the ends, which are not plausible.
fn whole(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if !super::digits(digits) {
        return None;
    }
    Some(
        text.parse()
            .unwrap_or(if negative { i64::MIN } else { i64::MAX }),
    )
}

fn seconds(text: &str) -> Option<i64> {
    let (before, after) = match text.split_once('.') {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    };
    let ms = whole(before)?.saturating_mul(1000);
    let Some(fraction) = after else {
        return Some(ms);
    };
    let (part, cut_off) = milliseconds(fraction)?;
    Some(if text.starts_with('-') {
        ms.saturating_sub(part + i64::from(cut_off))
    } else {
        ms.saturating_add(part)
    })
}

/// The milliseconds of a fraction's digits, and whether anything was cut off.
fn milliseconds(fraction: &str) -> Option<(i64, bool)> {
    if !super::digits(fraction) {
        return None;
    }
    let digit = |place: usize| {
        fraction
            .as_bytes()
            .get(place)
            .map_or(0, |digit| i64::from(digit - b'0'))
    };
    let rest = fraction.bytes().skip(3).any(|digit| digit != b'0');
    Some((digit(0) * 100 + digit(1) * 10 + digit(2), rest))
}

/// `2026-11-23T10:00:00.5+01:00`: RFC 3339, whose offset is not optional. A leap second is the second after it.
fn rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range).filter(|part| super::digits(part))?;
        digits.parse::<i64>().ok()
    };
    let bytes = text.as_bytes();
    let is =
        |place: usize, letters: &[u8]| bytes.get(place).is_some_and(|byte| letters.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = match text.get(19..)?.strip_prefix('.') {
        Some(rest) => {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, zone) = rest.split_at(length);
            (milliseconds(fraction)?.0, zone)
        }
        None => (0, text.get(19..)?),
    };
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2]
            if [h1, h2, m1, m2].into_iter().all(u8::is_ascii_digit) =>
        {
            let two = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
            let (hours, minutes) = (two(h1, h2), two(m1, m2));
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset;
    Some((minutes * 60 + second) * 1000 + fraction)
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Days before a year of the Gregorian calendar, counted from the year 1.
    let before = |year: i64| {
        let last = year - 1;
        last * 365 + last.div_euclid(4) - last.div_euclid(100) + last.div_euclid(400)
    };
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    before(year) - before(1970) + months + day - 1
}
