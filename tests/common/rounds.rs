//! How often a test that repeats itself does so.

/// `usual` times the factor in ORLOP_ROUNDS, which `tests/full` sets; `usual` without it.
pub fn rounds(usual: u32) -> u32 {
    let factor = std::env::var("ORLOP_ROUNDS").map_or(1, |factor| factor.parse().expect("ORLOP_ROUNDS is a factor"));
    usual.checked_mul(factor).expect("fewer than 2^32 rounds")
}
