//! What happens about a peer that cannot be reached and may be in use.
//!
//! ```text
//! Primary loses it ─▶ (resource-and-stonith: replies and requests freeze) ─▶ fence-peer ─┬─▶ peer Outdated ─▶ new generation ─▶ thaw
//!                                                                                        └─▶ not known: stays as it is
//! promotion alone  ─▶ fence-peer ─▶ peer Outdated ─▶ role            frozen, and the peer comes back ─▶ resync of our bits ─▶ thaw
//! ```
//!
//! Exit codes and policies are DRBD 8.4's. While replies are frozen no generation begins: if the peer fences us meanwhile,
//! its data is newer than ours, and not another. Replies that are frozen when the peer is back leave once it can no longer
//! hold our generation as good without what they answer.
//!
//! Not here: whether a state is allowed (`state`), how a handler is run (`engine`).

use super::Resource;
use super::action::LogLevel;
use super::generations::has_contents;
use super::handler::{Handler, exit_words};
use super::settings::Fencing;
use super::state::{Origin, View};
use crate::metadata::flags::PeerFlags;
use crate::model::state::{ConnectionState, DiskState, Role};

/// What an exit code of `fence-peer` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The peer's disk is worth this at most.
    Peer(DiskState),
    /// The peer is Primary: our own disk is old.
    Own,
    /// Nothing that can be built on.
    Nothing,
}

/// The verdict, and its words for the log; `None`: the handler is broken. `is_good`: one of our disks is UpToDate.
fn judge(exit: Option<u8>, is_good: bool) -> Option<(Verdict, &'static str)> {
    Some(match exit? {
        3 => (Verdict::Peer(DiskState::Inconsistent), "peer is inconsistent or worse"),
        4 => (Verdict::Peer(DiskState::Outdated), "peer was fenced"),
        // We have begun a generation of our own, or will.
        5 if is_good => (Verdict::Peer(DiskState::Outdated), "peer is unreachable, assumed to be dead"),
        5 => (Verdict::Nothing, "peer unreachable, doing nothing since disk != UpToDate"),
        6 => (Verdict::Own, "peer is active"),
        7 => (Verdict::Peer(DiskState::Outdated), "peer was stonithed"),
        _ => return None,
    })
}

impl Resource {
    /// The strictest policy, as far as the rules of a volume's state ask: without a disk it asks nothing.
    pub(super) fn fencing_rule(&self, volume: usize) -> Fencing {
        let policies = self.peers.iter().map(|peer| peer.settings.fencing);
        policies.max().filter(|_| self.volumes[volume].disk_state >= DiskState::Inconsistent).unwrap_or_default()
    }

    /// Whether only a peer or the handler can say that a consistent disk, being attached, is current.
    pub(super) fn needs_fence(&self, volume: usize) -> bool {
        (0..self.peers.len())
            .any(|peer| self.peers[peer].settings.fencing != Fencing::DontCare && !self.was_peer_old(volume, peer))
    }

    /// Whether the metadata says that the peer's disk is old.
    fn was_peer_old(&self, volume: usize, peer: usize) -> bool {
        let index = self.generation_index(volume, peer);
        let disk = self.volumes[volume].disk.as_ref();
        disk.is_some_and(|disk| disk.superblock.peer_flag(index, PeerFlags::OUTDATED))
    }

    /// With fencing, what was found out about an absent peer before this disk was attached still holds.
    pub(super) fn recall_old_peers(&mut self, volume: usize) {
        for peer in 0..self.peers.len() {
            let view = self.view(volume, peer);
            let is_unknown = view.conn < ConnectionState::WfReportParams && view.pdsk == DiskState::Unknown;
            let has_policy = self.peers[peer].settings.fencing != Fencing::DontCare;
            if is_unknown && has_policy && self.was_peer_old(volume, peer) {
                self.change_fact(volume, peer, View { pdsk: DiskState::Outdated, ..view });
            }
        }
    }

    /// Replies stop before anything that was under way on the link is given up.
    pub(super) fn freeze_for_fencing(&mut self, peer: usize) {
        if !self.door.is_frozen() {
            self.door.freeze(true);
            let name = self.peers[peer].settings.name.clone();
            self.log(LogLevel::Warn, format!("I/O is suspended until it is known that {name} is not in use"));
        }
    }

    /// A link has ended: a Primary with a policy asks what the peer does now.
    pub(super) fn fence_lost_peer(&mut self, peer: usize) {
        let is_lost = |volume: usize| self.view(volume, peer).pdsk >= DiskState::Unknown;
        if self.role == Role::Primary && (0..self.volumes.len()).any(is_lost) {
            self.begin_fence(peer);
        }
    }

    /// Runs `fence-peer`, unless its answer is on its way already.
    pub(super) fn begin_fence(&mut self, peer: usize) {
        let policy = self.peers[peer].settings.fencing;
        if self.peers[peer].fence.is_some() || policy == Fencing::DontCare {
            return;
        }
        if self.volumes.iter().all(|volume| volume.disk_state < DiskState::Consistent) {
            self.log(LogLevel::Warn, "Not fencing peer, I'm not even Consistent myself.");
            return self.thaw("there is nothing here that could be continued");
        }
        self.peers[peer].fence = self.run_handler(Handler::FencePeer, None, Some(peer));
        if self.peers[peer].fence.is_none() {
            let name = self.peers[peer].settings.name.clone();
            self.log(LogLevel::Error, format!("{name} cannot be fenced: no handler fence-peer is configured"));
            self.peers[peer].fence_words = Some("no handler fence-peer is configured".into());
        }
    }

    /// `fence-peer` has ended, and the peer has not been back since it was asked for.
    pub(super) fn on_fence_ended(&mut self, peer: usize, exit: Option<u8>) {
        self.peers[peer].fence = None;
        self.stirred = true;
        let is_good = self.volumes.iter().any(|volume| volume.disk_state == DiskState::UpToDate);
        let ended = exit_words(exit);
        self.peers[peer].fence_words = Some(format!("the handler fence-peer {ended}"));
        let Some((verdict, words)) = judge(exit, is_good) else {
            return self.log(LogLevel::Error, format!("fence-peer helper broken: it {ended}"));
        };
        self.log(LogLevel::Info, format!("fence-peer helper {ended} ({words})"));
        if exit == Some(7) && self.peers[peer].settings.fencing != Fencing::ResourceAndStonith {
            self.log(LogLevel::Error, "fence-peer returned 7, and fencing is not resource-and-stonith");
        }
        for volume in 0..self.volumes.len() {
            let view = self.view(volume, peer);
            let new = match verdict {
                Verdict::Peer(pdsk) => View { pdsk: view.pdsk.min(pdsk), ..view },
                Verdict::Own => View { disk: view.disk.min(DiskState::Outdated), ..view },
                Verdict::Nothing => view,
            };
            if let Err(refusal) = self.change(volume, peer, new, Origin::Wish) {
                let number = self.volumes[volume].settings.number;
                self.log(
                    LogLevel::Warn,
                    format!("volume {number}: what fence-peer says cannot be followed: {refusal}"),
                );
            }
        }
    }

    /// Called after each event: lets go when it is known what the peer does.
    pub(super) fn settle_fencing(&mut self) {
        if !self.door.is_frozen() {
            return;
        }
        let pairs = || (0..self.peers.len()).flat_map(|peer| (0..self.volumes.len()).map(move |volume| (volume, peer)));
        if pairs().all(|(volume, peer)| self.view(volume, peer).pdsk <= DiskState::Outdated && self.is_away(peer)) {
            return self.thaw("the peer is not in use");
        }
        if pairs().all(|(volume, peer)| self.is_followed_again(volume, peer)) {
            self.thaw("the peer is back");
        }
    }

    fn is_away(&self, peer: usize) -> bool {
        self.peers[peer].link().is_none()
    }

    /// Whether the peer is back, and what it lacks is either nothing or known to its own superblock.
    fn is_followed_again(&self, volume: usize, peer: usize) -> bool {
        let (view, at) = (self.view(volume, peer), &self.peers[peer].volumes[volume]);
        let is_settled = view.conn == ConnectionState::Connected || !at.target_may_be_done;
        view.conn >= ConnectionState::Connected && (is_settled || !at.generation_due)
    }

    /// Replies leave again. What we go on with alone gets its generation first; they wait until it is durable.
    pub(super) fn thaw(&mut self, why: &str) {
        if !self.door.is_frozen() {
            return;
        }
        self.door.freeze(false);
        self.log(LogLevel::Info, format!("I/O is no longer suspended by fencing: {why}"));
        for peer in 0..self.peers.len() {
            for volume in 0..self.volumes.len() {
                let is_due = std::mem::take(&mut self.peers[peer].volumes[volume].generation_due);
                let view = self.view(volume, peer);
                let is_followed = view.conn >= ConnectionState::Connected && has_contents(view.pdsk);
                if is_due && !is_followed && view.disk == DiskState::UpToDate {
                    self.go_on_alone(volume, peer);
                }
            }
        }
        (0..self.volumes.len()).for_each(|volume| self.release_frozen(volume));
        self.stirred = true;
    }

    /// A Primary steps down while frozen. What it has not written needs no generation.
    pub(super) fn thaw_for_demotion(&mut self) {
        for peer in 0..self.peers.len() {
            for volume in 0..self.volumes.len() {
                let has_written = self.bits_left(volume, peer) > 0;
                self.peers[peer].volumes[volume].generation_due &= has_written;
            }
        }
        self.thaw("this node steps down");
    }

    /// A resync has ended on its source: a peer that was fenced needs it no longer, if all is good on both nodes.
    pub(super) fn tell_unfenced(&mut self, peer: usize) {
        let is_good = |volume: usize| {
            let view = self.view(volume, peer);
            view.disk == DiskState::UpToDate && view.pdsk == DiskState::UpToDate
        };
        if self.peers[peer].settings.fencing != Fencing::DontCare && (0..self.volumes.len()).all(is_good) {
            self.run_handler(Handler::UnfencePeer, None, Some(peer));
        }
    }

    /// A Primary whose last good copy has just gone.
    pub(super) fn tell_degraded_primary(&mut self, volume: usize, peer: usize, old: View, new: View) {
        let has_none = |view: View| {
            view.role == Role::Primary && view.disk < DiskState::UpToDate && view.pdsk < DiskState::UpToDate
        };
        if has_none(new) && !has_none(old) {
            self.run_handler(Handler::PriOnInconDegr, Some(volume), Some(peer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_mean_what_they_mean_to_drbd() {
        use DiskState::{Inconsistent, Outdated};
        for (exit, is_good, expected) in [
            (Some(3), false, Some(Verdict::Peer(Inconsistent))),
            (Some(4), false, Some(Verdict::Peer(Outdated))),
            (Some(5), true, Some(Verdict::Peer(Outdated))),
            (Some(5), false, Some(Verdict::Nothing)),
            (Some(6), true, Some(Verdict::Own)),
            (Some(7), false, Some(Verdict::Peer(Outdated))),
            (Some(0), true, None),
            (Some(20), true, None),
            (None, true, None),
        ] {
            assert_eq!(judge(exit, is_good).map(|(verdict, _)| verdict), expected, "{exit:?} {is_good}");
        }
    }
}
