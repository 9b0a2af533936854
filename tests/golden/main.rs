//! Exact bytes and texts: images written by the real drbdmeta, captures of the kernel's wire.

mod metadata;
mod wire;
