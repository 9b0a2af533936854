//! The only place where machines meet the world: wait, handle, perform.
//!
//! One thread and one ring per resource (`resource`). The thread sleeps in its ring; what completes becomes events of
//! the `replica` machine or bytes of an `nbd` session; what the machine asks for is performed; and everything that has
//! become ready leaves in the next single enter.
//!
//! ```text
//!   clients ──► nbd_server ──┐                    ┌──► local_disk ──► files, devices
//!                            ├─► replica::handle ─┤
//!   peers ────► peer_link ───┘   (one clock read) └──► nbd_server, peer_link ──► sockets
//!                 ▲
//!   daemon ──► handle (a mailbox): commands, status, attach, stop
//! ```
//!
//! Invariants: no decision about data is taken here; a machine sees events in the order in which they were reaped, with
//! a clock read after that; nothing on the data path takes a lock or waits for the control path; what a client or a peer
//! can make us hold in memory is bounded.
//!
//! Not here: what packets, requests and states mean (`replica`, `nbd`), system calls (`io`), configuration files and the
//! admin socket (`daemon`).

mod backing;
mod disk_reasons;
mod exports;
mod framing;
pub mod handle;
mod handlers;
mod inbox;
mod local_disk;
mod nbd_client;
mod nbd_server;
pub mod offline;
mod outbox;
mod peer_link;
mod peer_listener;
mod resource;
pub mod specification;
#[cfg(test)]
mod stories;
mod stream;
mod tag;

pub use crate::replica::settings::PEERS_MAX;
pub use handle::{Answer, EngineError, ResourceHandle};
pub use nbd_server::NBD_CLIENTS_MAX;
pub use specification::{BackingPaths, NbdListen, PeerAddresses, ResourceSpec};
