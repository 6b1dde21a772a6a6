//! Packed little-endian bytes: how everything that outlives the process is written. Reading checks every length.

use crate::error::Damage;

/// Appends to a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }
    /// A string of at most 64 KiB with its length before it. Longer ones are cut off at decoding.
    fn put_str(&mut self, value: &str) {
        let length = u16::try_from(value.len()).expect("invariant: ids are at most 256 bytes");
        self.put_u16(length);
        self.put(value.as_bytes());
    }
}

impl Put for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reads from a slice; what does not fit is [`Damage`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    #[inline]
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }
    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Damage> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    #[inline]
    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    #[inline]
    pub(crate) fn str(&mut self) -> Result<&'a str, Damage> {
        let length = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(length))?).map_err(|_| Damage::Text)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error unless everything was read.
    pub(crate) fn end(&self) -> Result<(), Damage> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Damage::Long)
        }
    }
}

/// Puts version and checksum before a stored value: `[version u8][crc32 of the rest u32][rest]`.
pub(crate) fn seal(version: u8, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![version, 0, 0, 0, 0];
    write(&mut bytes);
    let crc = crc32fast::hash(&bytes[5..]);
    bytes[1..5].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the version before a value: every one up to the newest is read, and where they differ the reader tells them apart.
pub(crate) fn versioned(newest: u8, bytes: &[u8]) -> Result<Take<'_>, Damage> {
    let mut take = Take(bytes);
    match take.u8()? {
        found if (1..=newest).contains(&found) => Ok(take),
        found => Err(Damage::Version {
            found,
            known: newest,
        }),
    }
}

/// Checks version and checksum and gives what was written.
pub(crate) fn open(newest: u8, bytes: &[u8]) -> Result<Take<'_>, Damage> {
    let mut take = versioned(newest, bytes)?;
    if take.u32()? != crc32fast::hash(take.0) {
        return Err(Damage::Checksum);
    }
    Ok(take)
}
