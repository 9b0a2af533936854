//! Exact bytes and texts: images written by the real drbdmeta, captures of the kernel's wire, configurations.

mod commands;
mod config;
mod metadata;
mod options;
mod tools;
mod wire;
