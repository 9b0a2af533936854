//! The input as a script: a list of steps, each a number and some bytes.
//!
//! ```text
//!   step:  | which (1) | length (2, little-endian) | bytes |       the last one may be cut short
//! ```
//!
//! A plain form, so that captured conversations can be turned into seeds (`cargo xtask full fuzz` does that).

use bytes::Bytes;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do; each target has its own meanings.
    pub which: u8,
    /// With what.
    pub bytes: Bytes,
}

/// The steps of an input.
pub fn steps(mut input: &[u8]) -> impl Iterator<Item = Step> {
    std::iter::from_fn(move || {
        let (&[which, low, high], rest) = input.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        input = rest;
        Some(Step { which, bytes: Bytes::copy_from_slice(bytes) })
    })
}
