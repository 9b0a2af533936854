//! Writes that overlap in flight: each node might complete them in an order of its own, and must not.

use crate::harness::configuration::RESOURCE;
use crate::harness::tools::{nbd_script, run};
use crate::harness::{Cluster, Format, Options, rounds};

fn storm(protocol: char, default_rounds: u32) {
    let cluster = Cluster::with_primary(Options { protocol, formats: Format::MIXED, ..Options::default() });
    for seed in 0..rounds(default_rounds) {
        let mut script = nbd_script("overlapping_writes.py");
        let writes = run(script.arg(cluster.a.nbd_socket()).args([RESOURCE, "2", &seed.to_string()]));
        assert!(writes.trim().parse::<u64>().is_ok_and(|writes| writes > 100), "{writes}");
        cluster.assert_in_sync_and_identical();
    }
}

#[test]
fn overlapping_writes_end_equal_on_both_nodes_in_protocol_c() {
    storm('C', 3);
}

#[test]
fn overlapping_writes_end_equal_on_both_nodes_in_protocol_a() {
    storm('A', 1);
}
