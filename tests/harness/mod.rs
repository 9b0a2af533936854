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
pub(crate) mod drbdmeta;
pub(crate) mod failing;
pub(crate) mod filesystem;
pub(crate) mod load;
pub(crate) mod nbd;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod tools;
pub(crate) mod wait;

pub(crate) use cluster::Cluster;
pub(crate) use configuration::{Format, MetaDisk, Options, Style};
pub(crate) use node::Node;
pub(crate) use wait::{LONG, SHORT};

/// How often a random story is told: a few times by default, more where `SHIMAI_E2E_ROUNDS` asks for it.
pub(crate) fn rounds(default: u32) -> u32 {
    std::env::var("SHIMAI_E2E_ROUNDS").ok().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("SHIMAI_E2E_ROUNDS={text:?} is not a number of rounds"))
    })
}

/// Begins the dice of a random story: always the same number by default, another one each time where
/// `SHIMAI_E2E_ROUNDS` is set, or what `SHIMAI_E2E_SEED` says. It is printed, and so stands in the output of a failure.
pub(crate) fn seed(default: u64) -> u64 {
    let seed = match std::env::var("SHIMAI_E2E_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("SHIMAI_E2E_SEED={text:?} is not a number")),
        Err(_) if is_full() => shimai::io::random::random_u64().expect("the system has random numbers") >> 16,
        Err(_) => default,
    };
    println!("SHIMAI_E2E_SEED={seed}");
    seed
}

/// Whether the long runs are asked for.
pub(crate) fn is_full() -> bool {
    ["SHIMAI_E2E_ROUNDS", "SHIMAI_INTEROP_SECONDS"].iter().any(|name| std::env::var_os(name).is_some())
}

/// Seconds of load: few by default, `full` in the long runs.
pub(crate) fn seconds(default: u32, full: u32) -> u32 {
    if is_full() { full } else { default }
}
