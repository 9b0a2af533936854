//! Exact bytes and texts: images written by the real drbdmeta, captures of the kernel's wire, configurations.

mod config;
mod metadata;
mod options;
mod wire;
