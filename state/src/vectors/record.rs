//! Records of the topic of vectors: what lies under which key, and how.

use half::f16;

use crate::behavior::{TextHash, Timestamp};
use crate::error::Damage;
use crate::format::{Put, Take};

use super::EncoderId;

/// The encoder whose vectors are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentEncoder {
    /// Which.
    pub id: EncoderId,
    /// Numbers of a vector.
    pub width: u16,
}

/// What a record of the topic of vectors is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorKey {
    /// Which encoder is the current one.
    Current,
    /// An encoder that is not the current one is in use: a model that was trained on its vectors scores.
    Used(EncoderId),
    /// A text's vector.
    Vector(EncoderId, TextHash),
}

/// Kinds of keys, in the topic and in the store.
pub(super) const CURRENT: u8 = b'e';
const USED: u8 = b'u';
pub(super) const VECTOR: u8 = b'v';
/// Of the store alone: how far a partition of the topic was read.
pub(super) const POSITION: u8 = b'p';

/// The version of values.
pub(crate) const FORMAT: u8 = 1;

impl VectorKey {
    /// As the key of a record.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Current => vec![CURRENT],
            Self::Used(encoder) => [&[USED][..], &encoder.0].concat(),
            Self::Vector(encoder, text) => [&[VECTOR][..], &encoder.0, text].concat(),
        }
    }

    /// From the key of a record.
    ///
    /// # Errors
    /// For bytes that are no such key.
    pub fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let half = |bytes: &[u8]| bytes.try_into().map_err(|_| Damage::Key);
        match bytes.split_first() {
            Some((&CURRENT, [])) => Ok(Self::Current),
            Some((&USED, encoder)) => Ok(Self::Used(EncoderId(half(encoder)?))),
            Some((&VECTOR, rest)) if rest.len() == 32 => {
                let (encoder, text) = rest.split_at(16);
                Ok(Self::Vector(EncoderId(half(encoder)?), half(text)?))
            }
            _ => Err(Damage::Key),
        }
    }
}

impl CurrentEncoder {
    /// As the value of a record.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.put(&self.id.0);
        bytes.put_u16(self.width);
        sealed(bytes)
    }

    /// From the value of a record.
    ///
    /// # Errors
    /// For bytes that are none.
    pub fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let mut take = versioned(unsealed(bytes)?)?;
        let id = take.bytes(16)?.try_into().map_err(|_| Damage::Short)?;
        let width = take.u16()?;
        take.end()?;
        Ok(Self {
            id: EncoderId(id),
            width,
        })
    }
}

/// Puts a checksum behind bytes.
pub(crate) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&bytes);
    bytes.put_u32(sum);
    bytes
}

/// The bytes before their checksum.
pub(crate) fn unsealed(bytes: &[u8]) -> Result<&[u8], Damage> {
    let (content, sum) = bytes.split_last_chunk::<4>().ok_or(Damage::Short)?;
    if crc32fast::hash(content).to_le_bytes() == *sum {
        Ok(content)
    } else {
        Err(Damage::Checksum)
    }
}

pub(crate) fn versioned(bytes: &[u8]) -> Result<Take<'_>, Damage> {
    let mut take = Take(bytes);
    match take.u8()? {
        FORMAT => Ok(take),
        found => Err(Damage::Version {
            found,
            known: FORMAT,
        }),
    }
}

/// A vector as the value of a record: 16-bit floats, and a checksum. Numbers beyond their range become the nearest within it.
#[must_use]
pub fn vector_bytes(vector: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * vector.len() + 5);
    bytes.push(FORMAT);
    put_halves(vector, &mut bytes);
    sealed(bytes)
}

/// Appends numbers as 16-bit floats.
pub(crate) fn put_halves(vector: &[f32], to: &mut Vec<u8>) {
    let limit = f16::MAX.to_f32();
    for value in vector {
        to.put(&f16::from_f32(value.clamp(-limit, limit)).to_le_bytes());
    }
}

/// The vector of a record's value.
///
/// # Errors
/// For bytes that are none, or numbers that are not finite.
pub fn read_vector(bytes: &[u8]) -> Result<Vec<f32>, Damage> {
    read_halves(versioned(unsealed(bytes)?)?.0)
}

/// The numbers of [`put_halves`].
pub(crate) fn read_halves(bytes: &[u8]) -> Result<Vec<f32>, Damage> {
    let (halves, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Damage::Long);
    }
    let vector: Vec<f32> = halves
        .iter()
        .map(|half| f16::from_le_bytes(*half).to_f32())
        .collect();
    if vector.iter().all(|value| value.is_finite()) {
        Ok(vector)
    } else {
        Err(Damage::Contradiction)
    }
}

/// The value of a record that says that an encoder is in use: when, the log says.
#[must_use]
pub fn use_bytes() -> Vec<u8> {
    sealed(vec![FORMAT])
}

pub(super) fn read_use(bytes: &[u8]) -> Result<(), Damage> {
    versioned(unsealed(bytes)?)?.end()
}

/// A record of the topic, as it is taken in.
#[derive(Clone, Copy, Debug)]
pub struct VectorRecord<'a> {
    /// Its partition and the offset after it.
    pub next: (i32, i64),
    /// When the log took it.
    pub taken: Timestamp,
    /// Its key.
    pub key: &'a [u8],
    /// Its value; null deletes.
    pub value: Option<&'a [u8]>,
}

impl VectorRecord<'_> {
    /// Whether it is one of ours.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Damage> {
        let Some(value) = self.value else {
            return VectorKey::read(self.key).map(|_| ());
        };
        match VectorKey::read(self.key)? {
            VectorKey::Current => CurrentEncoder::read(value).map(|_| ()),
            VectorKey::Used(_) => read_use(value),
            VectorKey::Vector(..) => read_vector(value).map(|_| ()),
        }
    }
}
