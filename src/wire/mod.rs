//! The replication link of DRBD 8.4, protocol 86 to 101, as pure formats.
//!
//! A connection is two byte streams, *data* and *meta*. [`framing`] cuts a stream into packets and puts packets into
//! bytes; [`packet`] says what a packet is; [`command`] is the one table of numbers, names and sizes. Payloads are
//! [`bytes::Bytes`] and are never copied when they arrived in one piece; heads are values. [`bitmap_rle`] is the run
//! length code of bitmaps and [`bitmap_transfer`] a whole bitmap as a sequence of packets. [`auth`] computes what the
//! challenge-response and the data digests need.
//!
//! Invariants: no byte sequence makes a decoder panic; a length is judged before anything is allocated for it; what a
//! decoder accepts, the encoder writes back alike, except for pads, which are written as zeros.
//!
//! Not here: sockets, timeouts, and what a packet means in a given state (`replica`).

pub mod auth;
pub mod bitmap_rle;
pub mod bitmap_transfer;
pub mod command;
mod data;
mod error;
mod fields;
pub mod framing;
mod handshake;
pub mod packet;
mod reader;
mod volume_facts;

pub use error::WireError;
