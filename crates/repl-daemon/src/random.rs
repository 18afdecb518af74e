//! Randomness for jitter, read in one place. Not for secrets.

/// Any 64 bits.
pub fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64
}

/// A number uniform in 0..1.
pub fn unit() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() as u64;
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
