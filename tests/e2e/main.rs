//! The real daemons, as pairs on one machine: real disks, a real wire, real clients, real crashes.
//!
//! Run as root: `cargo test --release --test e2e`. `SHIMAI_E2E_ROUNDS=20` tells the random stories twenty times.

mod administration;
mod bad_input;
mod bring_up;
mod crashes;
mod database;
mod demo;
mod drbdmeta;
mod endurance;
mod failing_disks;
mod fencing;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod huge;
mod lifecycle;
mod names;
mod nbd_clients;
mod overlapping;
mod partitions;
mod replacement;
mod split_brain;
mod stores;
mod why;
