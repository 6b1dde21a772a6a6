//! What a row is known by.

use sha2::{Digest as _, Sha256};

/// Bytes of an id that a key holds as they are.
const VERBATIM: usize = 15;
/// In the last byte of a key: it is a hash. Otherwise that byte is the id's length.
const HASHED: u8 = 0x80;

/// An id as rows bear it: 128 bits that no two ids share.
///
/// Up to 15 bytes are held as they are, with their length. A longer id is the first 127 bits of its SHA-256, which (unlike faster hashes) nobody can make two ids
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(u128);

impl RowKey {
    /// The key of an id. Ids of several kinds in one table need their kind in front.
    pub fn of(id: &[u8]) -> Self {
        let mut bytes = [0; 16];
        if id.len() <= VERBATIM {
            bytes[..id.len()].copy_from_slice(id);
            bytes[VERBATIM] = id.len() as u8;
        } else {
            bytes.copy_from_slice(&Sha256::digest(id)[..16]);
            bytes[VERBATIM] |= HASHED;
        }
        Self(u128::from_le_bytes(bytes))
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// 64 bits from which places follow. Keys may agree in them; whoever looks up compares keys.
    pub(super) fn address(self, seed: u64) -> u64 {
        let [low, high] = [self.0 as u64, (self.0 >> 64) as u64];
        mix(low ^ mix(high ^ seed))
    }

    /// Another key with the same address.
    #[cfg(test)]
    pub(super) fn twin(self, seed: u64, other: u64) -> Self {
        let [low, high] = [self.0 as u64, (self.0 >> 64) as u64];
        let twin = high ^ other;
        let low = low ^ mix(high ^ seed) ^ mix(twin ^ seed);
        Self(u128::from(twin) << 64 | u128::from(low))
    }
}

/// One to one on 64 bits, every bit of the answer from every bit: the finalizer of `SplitMix64` (Steele, Lea & Flood 2014), after its increment, so that 0 is not
/// kept.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
