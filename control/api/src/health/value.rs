//! Values that are written as numbers or as text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time in seconds, to the millisecond; written as a number, with decimals if need be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seconds {
    millis: u32,
}

impl Seconds {
    /// No time at all.
    pub const ZERO: Self = Self::from_millis(0);

    /// So many milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Self { millis }
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u32 {
        self.millis
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.millis as u64)
    }

    /// Rounded to the millisecond; a negative number and one beyond 49 days is refused.
    fn from_f64(seconds: f64) -> Option<Self> {
        let millis = (seconds * 1000.0).round();
        (0.0..=f64::from(u32::MAX)).contains(&millis).then_some(Self { millis: millis as u32 })
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", f64::from(self.millis) / 1000.0)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.millis % 1000 {
            0 => serializer.serialize_u32(self.millis / 1000),
            _ => serializer.serialize_f64(f64::from(self.millis) / 1000.0),
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds from 0 up")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Seconds, E> {
                self.visit_f64(seconds as f64)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Seconds, E> {
                self.visit_f64(seconds as f64)
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Seconds, E> {
                Seconds::from_f64(seconds).ok_or_else(|| E::invalid_value(de::Unexpected::Float(seconds), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "description": "Seconds, with decimals if need be." })
    }
}

/// Status codes of HTTP, written `200` or `200-299`; one alone may be a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusRange {
    /// First code.
    pub first: u16,
    /// Last code, not below the first.
    pub last: u16,
}

impl StatusRange {
    /// Whether a code is one of these.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => self.first.fmt(f),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first @ 100..), Ok(last @ ..=999)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("'{text}' is no status of HTTP: write one such as 200, or the first and last: 200-299")),
        }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status of HTTP such as 200, or the first and last: \"200-299\"")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<StatusRange, E> {
                status.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, status: i64) -> Result<StatusRange, E> {
                status.to_string().parse().map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusRange, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A status of HTTP, e.g. 200, or the first and last of some, e.g. \"200-299\".",
            "anyOf": [
                { "type": "integer", "minimum": 100, "maximum": 999 },
                { "type": "string", "pattern": "^[1-9][0-9]{2}(-[1-9][0-9]{2})?$" },
            ],
        })
    }
}

/// Bytes to send, written as text (`PING\r\n`), or as hexadecimal digits behind `hex:` (`hex:0001 ff`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Payload(pub Vec<u8>);

/// Bytes to expect, written as [`Payload`] is; an `x` in place of a hexadecimal digit stands for any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// The bytes; 0 where they may be any.
    bytes: Vec<u8>,
    /// The bits that count.
    mask: Vec<u8>,
}

const HEX: &str = "hex:";

/// The digits' bytes, and the bits of each that are given.
fn hexadecimal(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let digit = |c: char| match c {
        'x' | 'X' => Some((0, 0)),
        _ => Some((c.to_digit(16)? as u8, 0xf)),
    };
    let digits: Vec<(u8, u8)> = text.chars().filter(|c| !c.is_ascii_whitespace()).map(digit).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| (high.0 << 4 | low.0, high.1 << 4 | low.1)).unzip())
}

impl Pattern {
    /// Exactly these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), mask: vec![0xff; bytes.len()] }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether anything matches it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether `data` begins with it.
    pub fn matches(&self, data: &[u8]) -> bool {
        data.len() >= self.len() && self.agrees(data)
    }

    /// Whether `data` begins with it, or it with `data`.
    pub fn agrees(&self, data: &[u8]) -> bool {
        let expected = self.bytes.iter().zip(&self.mask);
        data.iter().zip(expected).all(|(byte, (expected, mask))| byte & mask == *expected)
    }
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix(HEX) else { return Ok(Self(text.as_bytes().to_vec())) };
        match hexadecimal(digits) {
            Some((bytes, mask)) if mask.iter().all(|mask| *mask == 0xff) => Ok(Self(bytes)),
            _ => Err(format!("'{text}' has no even number of hexadecimal digits behind hex:, e.g. hex:0d0a")),
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix(HEX) else { return Ok(Self::of(text.as_bytes())) };
        let (bytes, mask) = hexadecimal(digits).ok_or_else(|| {
            format!("'{text}' has no even number of hexadecimal digits, or x for any, behind hex:, e.g. hex:0dxx")
        })?;
        Ok(Self { bytes, mask })
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Pattern::of(&self.0).fmt(f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = str::from_utf8(&self.bytes).ok().filter(|text| !text.starts_with(HEX) && !text.contains('\0'));
        if let Some(text) = text
            && self.mask.iter().all(|mask| *mask == 0xff)
        {
            return f.write_str(text);
        }
        f.write_str(HEX)?;
        for (byte, mask) in self.bytes.iter().zip(&self.mask) {
            for shift in [4, 0] {
                match mask >> shift & 0xf {
                    0 => f.write_str("x")?,
                    _ => write!(f, "{:x}", byte >> shift & 0xf)?,
                }
            }
        }
        Ok(())
    }
}

/// A digest of a body, written as `md5:` or `sha256:` and hexadecimal digits. MD5 is what keepalived's genhash prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// By MD5.
    Md5([u8; 16]),
    /// By SHA-256.
    Sha256([u8; 32]),
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Digest::Md5(bytes) => ("md5", &bytes[..]),
            Digest::Sha256(bytes) => ("sha256", &bytes[..]),
        };
        write!(f, "{name}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, digits) = text.split_once(':')?;
            let (bytes, mask) = hexadecimal(digits)?;
            if mask.iter().any(|mask| *mask != 0xff) {
                return None;
            }
            match name {
                "md5" => bytes.try_into().ok().map(Digest::Md5),
                "sha256" => bytes.try_into().ok().map(Digest::Sha256),
                _ => None,
            }
        };
        parse().ok_or_else(|| {
            format!("'{text}' is no digest: write md5: and 32 hexadecimal digits, or sha256: and 64 of them")
        })
    }
}

/// Types that are read and written as text.
macro_rules! as_text {
    ($type:ident, $pattern:literal, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

as_text!(
    Payload,
    r"^(?!hex:)|^hex:\s*([0-9a-fA-F]\s*[0-9a-fA-F]\s*)*$",
    "Text, e.g. PING\\r\\n, or hexadecimal digits behind hex:, e.g. hex:0d0a."
);
as_text!(
    Pattern,
    r"^(?!hex:)|^hex:\s*([0-9a-fA-FxX]\s*[0-9a-fA-FxX]\s*)*$",
    "Text, e.g. +PONG, or hexadecimal digits behind hex:, with x for any, e.g. hex:81xx."
);
as_text!(
    Digest,
    r"^(md5:[0-9a-fA-F]{32}|sha256:[0-9a-fA-F]{64})$",
    "md5: and 32 hexadecimal digits, or sha256: and 64."
);
