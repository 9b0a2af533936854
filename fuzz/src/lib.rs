//! What several fuzz targets share: cutting the input into steps, and a host for a live resource.
//!
//! A target's file in `fuzz_targets` says what it feeds and what must hold; that nothing panics must hold everywhere.

pub mod host;
pub mod script;
pub mod shelf;
