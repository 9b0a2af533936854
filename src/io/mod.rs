//! Buffers and descriptors: everything that asks the kernel for something, and all the unsafe code there is.
//!
//! The data path is one [`ring::Ring`] per thread, which owns every buffer and descriptor of an operation until the
//! kernel has given it back; aligned memory comes from a [`buffer::BufferPool`]. Offline and bulk work runs on
//! tokio-uring in [`bulk`], which owns no sockets. What moves between threads goes through a [`wake::Mailbox`].
//!
//! Invariants: memory given to the kernel is neither freed nor touched before its completion; no error of the kernel
//! panics; durability is always an explicit fsync, never a flag on a write (some file systems ignore the flag).
//!
//! Not here: any meaning. No packets, requests, extents or metadata; the one noun taken from `model` is
//! `model::time::Instant`, because [`clock`] is the only place that may produce it.

pub mod block_file;
pub mod buffer;
pub mod bulk;
pub mod clock;
pub mod descriptor;
mod exclusive;
pub mod files;
mod geometry;
pub mod interfaces;
pub mod mapped;
pub mod process;
pub mod random;
pub mod ring;
pub mod tcp;
pub mod terminal;
pub mod unix;
pub mod wake;
