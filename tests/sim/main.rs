//! The deterministic simulator: two real machines in a seeded world of disks, a network, applications and operators.
//!
//! ```text
//! runner ─ seeds, reports, shrinking       mutants ─ planted bugs must be found      stories ─ scripted worlds
//! world, host, links ─ the queue and the engine's part: client, operator, faults act; disk, network, contents are what they act on; tap changes packets
//! oracle ─ what was promised     laws, states ─ what must hold     fork ─ what a disk would say after a power loss
//! ```
//!
//! Not here: processes, sockets and files (`tests/e2e`).

mod client;
mod contents;
mod disk;
mod faults;
mod fork;
mod host;
mod laws;
mod links;
mod machine;
#[cfg(feature = "mutants")]
mod mutants;
mod network;
mod open;
mod operator;
mod oracle;
mod profile;
mod rng;
mod runner;
mod states;
mod stories;
mod tap;
mod world;
