//! Planted bugs, so that the simulator's checks can be checked. Compiled to nothing without the feature `mutants`.

/// Whether bug number `n` is planted (environment variable `MUTANT`, read once).
#[cfg(feature = "mutants")]
#[must_use]
pub fn mutant(n: u32) -> bool {
    static PLANTED: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(0)) == n
}

/// Without the feature no bug is planted.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn mutant(_n: u32) -> bool {
    false
}
