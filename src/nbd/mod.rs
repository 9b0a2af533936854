//! The NBD protocol as pure machines: bytes in, commands and bytes out.
//!
//! A [`Session`] is one client's connection seen from the server. Bytes are pushed as they arrive, [`Session::handle`]
//! turns them into [`Output`]s, and [`Session::reply`] encodes the answer to a command once the replica has one. The
//! name of a thing here is the protocol's own (`doc/proto.md` of the NBD project): option, command, cookie, chunk.
//!
//! ```text
//!   chunks ─► rope ─► negotiation ─► Opened ─► transmission ─► validate ─► Command ─► (the replica)
//!                         │                        │   ▲                                   │
//!                         └──── Send, Close ◄──────┘   └────────── reply(slot, Reply) ◄────┘
//! ```
//!
//! Invariants: no bytes make this folder panic; what is kept per session is bounded by [`Limits`]; a command that
//! reaches the caller is inside the export, whole sectors and allowed by the export's flags; every such command holds
//! one slot until it is replied to, so equal cookies are never confused.
//!
//! Not here: sockets, time (a client that is slow to negotiate is the caller's to drop), TLS, metadata contexts,
//! 64-bit headers.

pub mod client;
pub mod export;
pub mod negotiation;
mod numbers;
mod rope;
pub mod session;
#[cfg(test)]
mod stories;
pub mod transmission;
pub mod uri;
pub mod validate;
pub mod wire;

pub use client::{Client, ClientError, ClientEvent};
pub use export::{Catalogue, Export};
pub use session::{CloseReason, Command, CommandKind, Limits, Output, Reply, Session, Wants};
pub use wire::NbdErrno;
