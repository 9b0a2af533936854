//! Everything random comes from a seed: SHA-256 over the seed and a counter. Good enough for challenges that a peer must not
//! predict, and the same history for the same seed.

use sha2::{Digest as _, Sha256};

/// A deterministic stream of random numbers.
#[derive(Clone, Debug)]
pub(super) struct Random {
    seed: [u8; 32],
    counter: u64,
}

impl Random {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    fn block(&mut self) -> [u8; 32] {
        self.counter += 1;
        Sha256::new().chain_update(self.seed).chain_update(self.counter.to_le_bytes()).finalize().into()
    }

    pub(super) fn next_u64(&mut self) -> u64 {
        let block = self.block();
        u64::from_le_bytes(block[..8].try_into().expect("a block has 32 bytes"))
    }

    pub(super) fn challenge(&mut self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.block());
        bytes[32..].copy_from_slice(&self.block());
        bytes
    }
}
