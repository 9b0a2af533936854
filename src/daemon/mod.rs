//! `shimaid`: one process a node. It reads the configuration, runs each resource on a thread of its own and does what the
//! admin socket asks for.
//!
//! ```text
//!   control.sock ──► server ──► verbs ──► running ──► engine (one thread a resource)
//!                               settings: configuration ──► what a resource runs with
//! ```
//!
//! A daemon that has just started runs no resource: `up` starts one, `--up` starts all. It holds nothing that the disks
//! do not hold, so it may be stopped, killed and started again in any state.
//!
//! Invariants: one daemon in a run directory (a lock file); the data path never waits for anything here; every answer
//! comes before the asker's deadline or says for what it waits; a disk that does not answer holds up its own resource only.
//!
//! Not here: decisions about data (`replica`), sockets of peers and NBD clients (`engine`), what is typed (`cli`).

mod adjust;
mod arguments;
mod events;
mod files;
mod identifiers;
mod life;
mod node;
mod operate;
mod problem;
mod query;
mod running;
mod server;
pub mod settings;
mod start;
#[cfg(test)]
mod tests;
mod verbs;

pub use arguments::Arguments;
pub use start::run;
