//! The command line: what an administrator types, and what comes back.
//!
//! A command is parsed (`arguments`), becomes one request to the daemon (`client`), and its answer is printed
//! (`administer`); what takes long shows where it stands (`progress`). Work on the metadata of a disk that is not in use
//! (`metadata`) and on the configuration (`configuration`) is done here, without the daemon. `demo` and `bench` are NBD
//! clients like any other (`nbd`). Under the names `drbdadm` and `drbdsetup` the program answers as these do (`tools`).
//!
//! Not here: what a command does to a running resource (`daemon`, `replica`), what messages look like (`control`).

pub mod administer;
pub mod arguments;
mod bench;
pub mod client;
mod configuration;
mod demo;
mod dispatch;
mod histogram;
mod metadata;
mod minor;
mod nbd;
mod poll;
pub mod progress;
mod tools;

pub use dispatch::{parsed, run};
pub use tools::Tool;
