//! Quantities that carry their unit: lengths of time, sizes, shares.
//!
//! Before it, a configuration says `"10s"` or `"64KiB"`; after it, the sections hold a [`Span`] or [`Bytes`]. What is
//! printed can be read again and is the same quantity.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A length of time, to the microsecond: `"250ms"`, `"10s"`, `"15m"`, `"12h"`, `"30d"`; at most a hundred
/// years when it is read from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    micros: u64,
}

/// Units of time with their microseconds, the largest first.
const TIME_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The longest span: a hundred years of 365 days. Sums with event times then stay far from overflow.
const SPAN_MAX: Span = Span {
    micros: 36_500 * 86_400_000_000,
};

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self { micros: 0 };

    /// A span of `micros` microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// A span of `millis` milliseconds; at most what 64 bits hold.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self {
            micros: millis.saturating_mul(1_000),
        }
    }

    /// A span of `seconds` seconds; at most what 64 bits hold.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self {
            micros: seconds.saturating_mul(1_000_000),
        }
    }

    /// In microseconds.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.micros
    }

    /// In milliseconds, rounded down: the unit of event time, signed like it.
    #[must_use]
    pub const fn millis(self) -> i64 {
        (self.micros / 1_000) as i64
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_micros(self.micros)
    }

    /// Whether it is no time at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.micros == 0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_span = || {
            format!(
                "\"{text}\" is not a length of time: a whole number and its unit (us, ms, s, m, h, d), such as \"90s\" or \"14d\""
            )
        };
        let (digits, unit) = split_number(text).ok_or_else(no_span)?;
        if unit.is_empty() {
            return Err(format!(
                "\"{text}\" has no unit: \"{text}ms\", \"{text}s\", \"{text}m\", \"{text}h\" or \"{text}d\"?"
            ));
        }
        let (_, factor) = TIME_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(no_span)?;
        let micros = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*factor))
            .filter(|micros| *micros <= SPAN_MAX.micros)
            .ok_or_else(|| format!("\"{text}\" is longer than a hundred years"))?;
        Ok(Self { micros })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return formatter.write_str("0s");
        }
        let (unit, factor) = TIME_UNITS
            .iter()
            .find(|(_, factor)| self.micros.is_multiple_of(*factor))
            .expect("invariant: one microsecond divides every span");
        write!(formatter, "{}{unit}", self.micros / factor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::parse(
            deserializer,
            "a length of time with its unit in quotes, such as \"90s\" or \"14d\"",
            str::parse,
        )
    }
}

/// A number of bytes: `"512B"`, `"64KiB"`, `"16MiB"`, `"1GiB"`, `"2TiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// Units of size with their bytes, the largest first.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Bytes {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In bytes, as a length in memory; at most what this machine can address.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        if self.0 > usize::MAX as u64 {
            usize::MAX
        } else {
            self.0 as usize
        }
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_size = || {
            format!(
                "\"{text}\" is not a size: a whole number and its unit (B, KiB, MiB, GiB, TiB), such as \"64KiB\" or \"1GiB\""
            )
        };
        let (digits, unit) = split_number(text).ok_or_else(no_size)?;
        if unit.is_empty() {
            return Err(format!(
                "\"{text}\" has no unit: \"{text}B\", \"{text}KiB\", \"{text}MiB\" or \"{text}GiB\"?"
            ));
        }
        let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
            // "MB" is a million to some and a mebibyte to others: it is refused rather than guessed.
            let meant = SIZE_UNITS.iter().find(|(name, _)| {
                let plain = unit.to_ascii_lowercase();
                let name = name.to_ascii_lowercase();
                plain == name || plain == name.replace('i', "") || plain == name.replace("ib", "")
            });
            return Err(meant.map_or_else(no_size, |(name, _)| {
                format!("\"{text}\" is not a size: \"{digits}{name}\"?")
            }));
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*factor))
            .map(Self)
            .ok_or_else(|| format!("\"{text}\" is more than 64 bits of bytes"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(formatter, "{}{unit}", self.0 / factor)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::parse(
            deserializer,
            "a size with its unit in quotes, such as \"64KiB\" or \"1GiB\"",
            str::parse,
        )
    }
}

/// A share of a whole, 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, PartialOrd)]
#[serde(try_from = "f64")]
pub struct Ratio(f64);

/// It is never NaN.
impl Eq for Ratio {}

impl Ratio {
    /// As a number from 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        // `contains` is false for NaN.
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("{value} is not a share between 0 and 1"))
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Digits and what follows them; none where it does not begin with a digit.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: the words of `default.toml` are the quantities that they say. Method: each unit once, by hand.
    #[test]
    fn units_mean_what_they_say() {
        for (text, micros) in [
            ("7us", 7),
            ("250ms", 250_000),
            ("10s", 10_000_000),
            ("15m", 900_000_000),
            ("12h", 43_200_000_000),
            ("30d", 2_592_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span::from_micros(micros)), "{text}");
        }
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("16MiB", 16_777_216),
            ("1GiB", 1_073_741_824),
            ("2TiB", 2_199_023_255_552),
        ] {
            assert_eq!(text.parse(), Ok(Bytes::new(bytes)), "{text}");
        }
        assert_eq!(Span::from_millis(1_500).millis(), 1_500);
        assert_eq!(Span::from_secs(2).duration(), Duration::from_secs(2));
    }

    /// Goal: a wrong unit is refused in words that help. Method: golden messages.
    #[test]
    fn wrong_units_are_explained() {
        let span = |text: &str| text.parse::<Span>().unwrap_err();
        let bytes = |text: &str| text.parse::<Bytes>().unwrap_err();
        let usual = "is not a length of time: a whole number and its unit (us, ms, s, m, h, d), such as \"90s\" or \"14d\"";
        assert_eq!(span("soon"), format!("\"soon\" {usual}"));
        assert_eq!(span("1.5s"), format!("\"1.5s\" {usual}"));
        assert_eq!(span("-1s"), format!("\"-1s\" {usual}"));
        assert_eq!(span("10S"), format!("\"10S\" {usual}"));
        assert_eq!(span(""), format!("\"\" {usual}"));
        assert_eq!(
            span("10"),
            "\"10\" has no unit: \"10ms\", \"10s\", \"10m\", \"10h\" or \"10d\"?"
        );
        assert_eq!(span("36501d"), "\"36501d\" is longer than a hundred years");
        assert_eq!(
            span("99999999999999999999d"),
            "\"99999999999999999999d\" is longer than a hundred years"
        );
        assert_eq!(bytes("64KB"), "\"64KB\" is not a size: \"64KiB\"?");
        assert_eq!(bytes("64kib"), "\"64kib\" is not a size: \"64KiB\"?");
        assert_eq!(bytes("1G"), "\"1G\" is not a size: \"1GiB\"?");
        assert_eq!(
            bytes("big"),
            "\"big\" is not a size: a whole number and its unit (B, KiB, MiB, GiB, TiB), such as \"64KiB\" or \"1GiB\""
        );
        assert_eq!(
            bytes("99999999999TiB"),
            "\"99999999999TiB\" is more than 64 bits of bytes"
        );
        assert_eq!(
            Ratio::try_from(1.5),
            Err("1.5 is not a share between 0 and 1".to_owned())
        );
        assert!(Ratio::try_from(f64::NAN).is_err());
        assert_eq!(Ratio::try_from(0.25).map(Ratio::get), Ok(0.25));
    }

    proptest! {
        /// Goal: what is printed is read back as the same quantity. Method: any span and any size.
        #[test]
        fn printed_quantities_are_read_back(micros in 0..=SPAN_MAX.micros, bytes: u64) {
            let span = Span::from_micros(micros);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            let bytes = Bytes::new(bytes);
            prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }
    }
}
