//! Two real daemons on one machine, each in a network namespace of its own, and what the tests ask of them.
//!
//! A [`Cluster`] writes the configuration and the backing files, makes the namespaces and the wire between them, and
//! takes all of it away again. A [`Node`] is one side: its daemon, its `shimai`, its disks. Waiting is for a condition
//! with a deadline, never for time to pass. Disks are compared as files, outside the product.
//!
//! Nothing here is skipped: a test that cannot run says in one sentence what is missing.

pub(crate) mod clients;
pub(crate) mod cluster;
pub(crate) mod configuration;
pub(crate) mod disks;
pub(crate) mod filesystem;
pub(crate) mod load;
pub(crate) mod nbd;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod tools;
pub(crate) mod wait;

pub(crate) use cluster::Cluster;
pub(crate) use configuration::{Format, Options, Style};
pub(crate) use node::Node;
pub(crate) use wait::{LONG, SHORT};

/// How often a random story is told: a few times by default, more where `SHIMAI_E2E_ROUNDS` asks for it.
pub(crate) fn rounds(default: u32) -> u32 {
    std::env::var("SHIMAI_E2E_ROUNDS").ok().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("SHIMAI_E2E_ROUNDS={text:?} is not a number of rounds"))
    })
}

/// Seconds of load: few by default, `full` where `SHIMAI_E2E_ROUNDS` is set.
pub(crate) fn seconds(default: u32, full: u32) -> u32 {
    if std::env::var_os("SHIMAI_E2E_ROUNDS").is_some() { full } else { default }
}
