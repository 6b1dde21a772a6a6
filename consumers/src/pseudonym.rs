//! Pseudonyms of users in the feature log: HMAC of the id under a salt that lies in the user's state alone. When that state is
//! erased, the rows that are left link to nobody.

use sha2::{Digest, Sha256};

/// HMAC-SHA-256 (RFC 2104) of `user` under `salt`, its first 16 bytes in hexadecimal.
pub fn pseudonym(user: &str, salt: [u8; 16]) -> String {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block
            .iter_mut()
            .zip(salt)
            .for_each(|(block, salt)| *block ^= salt);
        block
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(user.as_bytes())
        .finalize();
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize();
    outer[..16]
        .iter()
        .fold(String::with_capacity(32), |mut text, byte| {
            use std::fmt::Write;
            write!(text, "{byte:02x}").expect("invariant: writing to a String does not fail");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: it is HMAC-SHA-256. Method: numbers made with Python's `hmac` module.
    #[test]
    fn agrees_with_another_implementation() {
        assert_eq!(
            pseudonym("user-1", *b"0123456789abcdef"),
            "9671a70114c638eedd26dab7f09610ba"
        );
        assert_eq!(pseudonym("", [0; 16]), "b613679a0814d9ec772f95d778c35fc5");
    }
}
