//! What two nodes do together, each thing with either of them as the one that acts.

mod events;
mod fencing;
mod meeting;
mod migration;
mod resync;
mod soak;
mod split_brain;
mod verify;
mod writes;

use crate::pair::{Lab, Side};

/// One test.
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    /// Who is Primary, source, or asks.
    pub(crate) actor: Side,
    pub(crate) play: fn(&mut Lab, Side),
}

impl Row {
    pub(crate) fn name(&self) -> String {
        format!("{}::{}", self.scenario.replace(' ', "_"), self.actor)
    }
}

macro_rules! both_ways {
    ($($scenario:literal $play:path),+ $(,)?) => {
        &[$(
            Row { scenario: $scenario, actor: Side::Ours, play: $play },
            Row { scenario: $scenario, actor: Side::Kernels, play: $play },
        )+]
    };
}

/// All of them.
pub(crate) const TABLE: &[Row] = both_ways![
    "skip the initial sync" meeting::skip_the_initial_sync,
    "initial sync" meeting::initial_sync,
    "handshake with a secret" meeting::with_a_secret,
    "handshake with another secret" meeting::with_another_secret,
    "roles and partings" meeting::roles_and_partings,
    "a second Primary" meeting::second_primary,
    "failover" meeting::failover,
    "events" events::told_alike,
    "partings with fencing" fencing::partings,
    "frozen until the peer is back" fencing::frozen_and_back,
    "protocol A" writes::protocol_a,
    "protocol B" writes::protocol_b,
    "protocol C" writes::protocol_c,
    "random load" writes::random_load,
    "data-integrity-alg" writes::integrity,
    "discards" writes::discards,
    "zeroes" writes::zeroes,
    "zeroes with data-integrity-alg" writes::zeroes_with_integrity,
    "without a disk" writes::without_a_disk,
    "without the peer's disk" writes::without_the_peers_disk,
    "resync by bitmap after a cut" resync::bitmap,
    "resync by plain bitmap" resync::plain_bitmap,
    "resync by checksums" resync::checksums,
    "invalidate" resync::invalidate,
    "invalidate-remote" resync::invalidate_remote,
    "kill -9 of our daemon" resync::killed_daemon,
    "power loss of the kernel" resync::pulled_plug,
    "split brain, no policy" split_brain::unsolved,
    "split brain, discard-my-data" split_brain::discard_my_data,
    "split brain, discard-least-changes" split_brain::least_changes,
    "split brain, discard-zero-changes" split_brain::zero_changes,
    "split brain, discard-younger-primary" split_brain::younger_primary,
    "split brain, discard-older-primary" split_brain::older_primary,
    "split brain, discard-local and -remote" split_brain::local_and_remote,
    "split brain, consensus" split_brain::consensus,
    "split brain, no consensus" split_brain::no_consensus,
    "split brain, discard-secondary" split_brain::secondary,
    "split brain, call-pri-lost-after-sb" split_brain::demoted,
    "split brain, violently" split_brain::violently,
    "split brain, not violently" split_brain::not_violently,
    "equal disks change hands" migration::equal_disks,
    "an old disk changes hands" migration::old_disk,
    "a crashed Primary's disk changes hands" migration::crashed_disk,
    "everything at random" soak::soak,
    "online verify with planted differences" verify::planted_differences,
    "online verify of a part under load" verify::a_part_under_load,
    "online verify without an algorithm" verify::without_an_algorithm,
];
