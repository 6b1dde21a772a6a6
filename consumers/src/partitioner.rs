//! Which partition a key belongs to: Java's murmur2, as every Java producer computes it (librdkafka's default is another).

/// The partition of a key among `count` partitions, as Java's default partitioner has it.
///
/// # Panics
/// If `count` is not positive.
pub fn partition_of(key: &[u8], count: i32) -> i32 {
    assert!(count > 0, "invariant: a topic has partitions");
    (murmur2(key) & 0x7fff_ffff) as i32 % count
}

/// `MurmurHash2` with Kafka's seed (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("invariant: chunks of four"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * place);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the same partition as a Java producer. Method: the vectors of Apache Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn agrees_with_kafkas_own_vectors() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
