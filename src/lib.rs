//! shimai (姉妹, "sisters"): two machines with one disk.
//!
//! A replicated volume exported over NBD that speaks DRBD's own wire protocol, metadata and rules. Decisions are
//! pure machines (`replica`, `nbd`, `activity_log`, `bitmap`, `generation`); `engine` is the only place where they
//! meet the world. Imports point down only; `tests/tidy.rs` holds the table. Start reading at `ARCHITECTURE.md`.

pub mod activity_log;
pub mod bitmap;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod generation;
#[allow(unsafe_code, reason = "the one folder that talks to the kernel about buffers and descriptors")]
pub mod io;
pub mod metadata;
pub mod model;
pub mod nbd;
pub mod replica;
pub mod wire;
