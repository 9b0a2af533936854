//! What the peer's state means for ours: after each P_STATE, and in the handshake, which way to sync.
//!
//! Both nodes run the same rules on the same exchanged facts with self and peer exchanged, so they come to opposite results.
//! The rule that decided is logged and kept for `why`.

use super::Resource;
use super::action::LogLevel;
use super::handler::Handler;
use super::state::{Origin, View};
use crate::control::refusal::StateRefusal;
use crate::generation::{
    self, AfterSplitBrain0, AfterSplitBrain1, AfterSplitBrain2, Context, Outcome, Policies, RefuseReason, RoleConflict,
};
use crate::model::ids::CommandId;
use crate::model::state::{ConnectionState, DiskState, Role, StateWord};
use crate::wire::framing::Features;
use crate::wire::packet::AfterSplitBrain;

/// A P_STATE that has been understood.
#[derive(Clone, Copy, Debug)]
struct Theirs {
    role: Role,
    conn: ConnectionState,
    /// As sent: may be Negotiating.
    disk: DiskState,
    /// What the disk is worth.
    real_disk: DiskState,
    paused: bool,
}

fn understand(word: StateWord, inconsistent: bool) -> Option<Theirs> {
    let disk = DiskState::from_number(word.disk())?;
    let real_disk = match disk {
        DiskState::Negotiating if inconsistent => DiskState::Inconsistent,
        DiskState::Negotiating => DiskState::Consistent,
        disk => disk,
    };
    Some(Theirs {
        role: Role::from_number(word.role())?,
        conn: ConnectionState::from_number(word.conn())?,
        disk,
        real_disk,
        paused: word.user_isp() == 1 || word.aftr_isp() == 1,
    })
}

/// Why a comparison does not end in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoWay {
    Refused(RefuseReason),
    /// This Primary is to lose, and can be demoted.
    DemoteFirst,
}

/// What a comparison that finds no difference says of a disk.
fn settle_disk(disk: &mut DiskState) {
    if matches!(disk, DiskState::Consistent | DiskState::Outdated) {
        *disk = DiskState::UpToDate;
    }
}

fn none_primary(word: AfterSplitBrain) -> AfterSplitBrain0 {
    use AfterSplitBrain as Word;
    match word {
        Word::DiscardYoungerPrimary => AfterSplitBrain0::DiscardYoungerPrimary,
        Word::DiscardOlderPrimary => AfterSplitBrain0::DiscardOlderPrimary,
        Word::DiscardZeroChanges => AfterSplitBrain0::DiscardZeroChanges,
        Word::DiscardLeastChanges => AfterSplitBrain0::DiscardLeastChanges,
        Word::DiscardLocal => AfterSplitBrain0::DiscardLocal,
        Word::DiscardRemote => AfterSplitBrain0::DiscardRemote,
        _ => AfterSplitBrain0::Disconnect,
    }
}

fn one_primary(word: AfterSplitBrain) -> AfterSplitBrain1 {
    use AfterSplitBrain as Word;
    match word {
        Word::Consensus => AfterSplitBrain1::Consensus,
        Word::DiscardSecondary => AfterSplitBrain1::DiscardSecondary,
        Word::CallPriLost => AfterSplitBrain1::CallPriLost,
        Word::ViolentlyAs0p => AfterSplitBrain1::Violently,
        _ => AfterSplitBrain1::Disconnect,
    }
}

fn two_primaries(word: AfterSplitBrain) -> AfterSplitBrain2 {
    match word {
        AfterSplitBrain::CallPriLost => AfterSplitBrain2::CallPriLost,
        AfterSplitBrain::ViolentlyAs0p => AfterSplitBrain2::Violently,
        _ => AfterSplitBrain2::Disconnect,
    }
}

impl Resource {
    /// P_STATE has come.
    pub(super) fn on_state(&mut self, volume: usize, peer: usize, word: StateWord) {
        let tuple = self.peer_tuple(volume, peer);
        let Some(mut theirs) = understand(word, tuple.is_some_and(|tuple| tuple.inconsistent)) else {
            let reason = format!("a state word that no state has: {:#010x}", word.0);
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        };
        let attaches =
            theirs.disk == DiskState::Negotiating && self.view(volume, peer).conn == ConnectionState::Connected;
        self.peers[peer].volumes[volume].deferred_state = (attaches && self.is_being_forced(volume)).then_some(word);
        if self.peers[peer].volumes[volume].deferred_state.is_some() {
            return;
        }
        self.forget_leaving_disk(volume, peer, &mut theirs);
        self.overlook_old_word(volume, peer, word, &mut theirs);
        self.consider_end_of_verify(volume, peer, word);
        if self.is_old_to_us(volume, peer) {
            theirs.real_disk = theirs.real_disk.min(DiskState::Outdated);
        }
        let old = self.view(volume, peer);
        self.consider_end_of_resync(volume, peer, word, old, &mut theirs);
        let old = self.view(volume, peer);
        let mut new = old;
        if new.conn == ConnectionState::WfReportParams {
            new.conn = ConnectionState::Connected;
        }
        if self.must_decide(volume, peer, old, theirs) {
            if old.conn == ConnectionState::Connected && theirs.conn <= ConnectionState::Connected {
                // The peer decides on what we tell it now: on what we compare, not on what a repair makes of it.
                self.send_uuids(volume, peer);
            }
            match self.decide(volume, peer, theirs) {
                Ok(conn) => {
                    new.conn = conn;
                    if conn == ConnectionState::Connected {
                        // Compared, and no sync is needed: both are current, whatever they knew of themselves.
                        [&mut new.disk, &mut theirs.real_disk].into_iter().for_each(settle_disk);
                    }
                }
                Err(NoWay::Refused(reason)) => return self.refuse_handshake(volume, peer, theirs, reason),
                Err(NoWay::DemoteFirst) => return self.demote_and_meet_again(peer),
            }
            self.note_equal_generations(volume, peer);
        }
        self.take_state(volume, peer, old, new, theirs);
    }

    /// A word that was on its way when we agreed that the peer gives its disk back does not bring the disk back.
    fn forget_leaving_disk(&mut self, volume: usize, peer: usize, theirs: &mut Theirs) {
        let agreed = &mut self.peers[peer].volumes[volume].detach_agreed;
        if *agreed && theirs.disk > DiskState::Negotiating {
            (theirs.disk, theirs.real_disk) = (DiskState::Failed, DiskState::Failed);
        } else {
            *agreed = false;
        }
    }

    /// A word that was on its way when we declared both disks equal still sees ours as it was, and says nothing of its own.
    fn overlook_old_word(&mut self, volume: usize, peer: usize, word: StateWord, theirs: &mut Theirs) {
        let declared = &mut self.peers[peer].volumes[volume].declared_equal;
        let is_old = word.pdsk() < DiskState::UpToDate.number();
        if *declared && is_old && theirs.disk == DiskState::Inconsistent {
            (theirs.disk, theirs.real_disk) = (DiskState::UpToDate, DiskState::UpToDate);
        } else {
            *declared = false;
        }
    }

    /// The target says that it is done, or a late word of a sync that is over. While its acknowledgements are waited for it
    /// counts as it did.
    fn consider_end_of_resync(&mut self, volume: usize, peer: usize, word: StateWord, old: View, theirs: &mut Theirs) {
        use ConnectionState as C;
        let is_source = matches!(old.conn, C::SyncSource | C::PausedSyncS);
        let thinks_done = old.pdsk == DiskState::Inconsistent
            && theirs.real_disk == DiskState::UpToDate
            && old.conn > C::Connected
            && old.disk == DiskState::UpToDate;
        if thinks_done && theirs.conn > C::Connected && theirs.conn < C::SyncSource {
            theirs.real_disk = DiskState::Inconsistent;
        } else if is_source
            && theirs.conn == C::Connected
            && (thinks_done || theirs.real_disk == DiskState::Inconsistent)
        {
            if !self.source_is_finished(volume, peer, word, thinks_done) {
                (theirs.disk, theirs.real_disk) = (DiskState::Inconsistent, DiskState::Inconsistent);
            }
            return;
        }
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            // It speaks of something else by now.
            resync.last_word = None;
        }
        if old.pdsk == DiskState::UpToDate
            && theirs.real_disk == DiskState::Inconsistent
            && old.conn == C::Connected
            && theirs.conn > C::SyncSource
        {
            theirs.real_disk = DiskState::UpToDate;
        }
    }

    /// The last words of targets whose resync was given up before it could end.
    pub(super) fn settle_late_words(&mut self) {
        while let Some((volume, peer, word)) = self.late_words.pop_front() {
            let is_heard = self.view(volume, peer).conn >= ConnectionState::Connected;
            if is_heard && self.peers[peer].link().is_some() {
                self.on_state(volume, peer, word);
            }
        }
    }

    fn must_decide(&mut self, volume: usize, peer: usize, old: View, theirs: Theirs) -> bool {
        use ConnectionState as C;
        let known = self.peers[peer].volumes[volume].uuids.is_some() && self.volumes[volume].has_disk();
        if !known || theirs.disk < DiskState::Negotiating {
            return false;
        }
        let negotiating = theirs.disk == DiskState::Negotiating || old.disk == DiskState::Negotiating;
        let forced = std::mem::take(&mut self.peers[peer].volumes[volume].consider_resync);
        // The same, but an older word of the peer has taken back what we had agreed to: this one is the next.
        let declared_good = old.disk == DiskState::Inconsistent
            && old.pdsk == DiskState::Inconsistent
            && theirs.disk == DiskState::UpToDate;
        let starting = (C::StartingSyncS..=C::WfBitMapT).contains(&theirs.conn);
        // A disk that nobody has compared, as when both attach at once and each heard of the other's too late.
        let appears = old.pdsk < DiskState::Negotiating && theirs.disk > DiskState::Negotiating;
        old.conn < C::Connected
            || (old.conn == C::Connected && (negotiating || forced || declared_good || starting || appears))
    }

    /// The rules; what they say is made ready (repairs, all bits set) and the connection state returned.
    fn decide(&mut self, volume: usize, peer: usize, theirs: Theirs) -> Result<ConnectionState, NoWay> {
        let mut own = self.own_tuple(volume, peer).expect("asked only with a disk");
        // Both must judge by the same numbers: applications may have written since ours was told.
        own.changed_blocks = self.peers[peer].volumes[volume].told_blocks.unwrap_or(own.changed_blocks);
        let mut other = self.peer_tuple(volume, peer).expect("asked only with the peer's tuple");
        let link = self.peers[peer].link().expect("a packet came from it");
        let context = Context {
            version: link.version,
            wsame: link.features.contains(Features::WSAME),
            role: self.role,
            peer_role: theirs.role,
            resolve: link.resolve,
        };
        let verdict = generation::compare(&own, &other, &context);
        let dry_run = link.peer_protocol.as_ref().is_some_and(|protocol| protocol.dry_run);
        let own_disk = self.volumes[volume].disk_state;
        let decision =
            generation::decide(verdict, (&own, own_disk), (&other, theirs.disk), &context, &self.policies(peer));
        let number = self.volumes[volume].settings.number;
        self.log(LogLevel::Info, format!("volume {number}: self {own}"));
        self.log(LogLevel::Info, format!("volume {number}: peer {other}"));
        self.log(LogLevel::Info, format!("volume {number}: {verdict}: {}", decision.sentence()));
        if decision.split_brain {
            self.run_handler(Handler::InitialSplitBrain, Some(volume), Some(peer));
        }
        if let Outcome::Refuse(reason) = decision.outcome {
            let handler = match reason {
                RefuseReason::SplitBrain => Some(Handler::SplitBrain),
                RefuseReason::PrimaryWouldBecomeTarget => {
                    let calls = self.peers[peer].settings.role_conflict == RoleConflict::CallPriLost;
                    calls.then_some(Handler::PriLost)
                }
                _ => None,
            };
            if let Some(handler) = handler {
                self.run_handler(handler, Some(volume), Some(peer));
            }
            return Err(NoWay::Refused(reason));
        }
        if dry_run {
            self.log(LogLevel::Info, format!("volume {number}: dry run: nothing of this is done"));
            return Err(NoWay::Refused(RefuseReason::DryRun));
        }
        if decision.demote_first {
            if self.volumes.iter().all(|volume| volume.openers == 0) {
                return Err(NoWay::DemoteFirst);
            }
            self.run_handler(Handler::PriLostAfterSb, Some(volume), Some(peer));
            self.run_handler(Handler::SplitBrain, Some(volume), Some(peer));
            return Err(NoWay::Refused(RefuseReason::SplitBrain));
        }
        if let Some(repair) = verdict.repair {
            self.repair(volume, peer, repair, &mut other);
        }
        Ok(self.begin_outcome(volume, peer, decision.outcome))
    }

    /// A policy lets this Primary lose, and nobody uses its volumes. What a handshake compares does not move while it runs, so
    /// it ends; the next one finds a Secondary.
    fn demote_and_meet_again(&mut self, peer: usize) {
        self.lose_connection(peer, ConnectionState::NetworkFailure, "demoted first, since a policy gives its data up");
        if self.role == Role::Primary && self.commands.demotion.is_none() && self.commands.promotion.is_none() {
            self.commands.demotion = Some(CommandId::OF_THE_MACHINE);
        }
    }

    /// While the peer may hold our very generation and our bitmap counts from another, going on alone needs a new one.
    fn note_equal_generations(&mut self, volume: usize, peer: usize) {
        let (own, theirs) = (self.own_tuple(volume, peer), self.peer_tuple(volume, peer));
        let equal = own.zip(theirs).is_some_and(|(own, theirs)| own.current.same_as(theirs.current));
        self.peers[peer].volumes[volume].target_may_be_done = equal;
    }

    /// What the operator configured for a split brain. The words were compared with the peer's at the handshake.
    fn policies(&self, peer: usize) -> Policies {
        let [none, one, two] = self.peers[peer].settings.after_split_brain;
        Policies {
            none: none_primary(none),
            one: one_primary(one),
            two: two_primaries(two),
            always: self.peers[peer].settings.always_ask,
            role_conflict: self.peers[peer].settings.role_conflict,
        }
    }

    fn repair(&mut self, volume: usize, peer: usize, repair: generation::Repair, other: &mut generation::Tuple) {
        let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            repair.apply(&mut disk.superblock.generations, index, rules, other);
        }
        if let Some(uuids) = self.peers[peer].volumes[volume].uuids.as_mut() {
            uuids.bitmap = other.bitmap;
            uuids.history = other.history;
        }
        self.superblock_changed(volume);
    }

    fn begin_outcome(&mut self, volume: usize, peer: usize, outcome: Outcome) -> ConnectionState {
        let (conn, full) = match outcome {
            Outcome::Source { full } => (ConnectionState::WfBitMapS, full),
            Outcome::Target { full } => (ConnectionState::WfBitMapT, full),
            Outcome::NoSync | Outcome::Refuse(_) => (ConnectionState::Connected, false),
        };
        let node = self.peers[peer].settings.node_id.index();
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            let slot = disk.slot(node);
            if full {
                disk.bitmap.set_all(slot);
            }
            let bits = disk.bitmap.count(slot);
            if conn == ConnectionState::Connected && bits > 0 {
                let number = self.volumes[volume].settings.number;
                self.log(LogLevel::Warn, format!("volume {number}: No resync, but {bits} bits in bitmap!"));
            }
        }
        conn
    }

    fn refuse_handshake(&mut self, volume: usize, peer: usize, theirs: Theirs, reason: RefuseReason) {
        let sentence = reason.to_string();
        if self.volumes[volume].disk_state == DiskState::Negotiating
            && self.view(volume, peer).conn == ConnectionState::Connected
        {
            self.log(LogLevel::Error, format!("attach refused by the handshake: {sentence}"));
            self.begin_close(volume);
            return;
        }
        if theirs.disk == DiskState::Negotiating && self.view(volume, peer).conn >= ConnectionState::Connected {
            self.log(LogLevel::Error, format!("the peer's attach was refused: {sentence}"));
            // It must come to the same answer to give its disk up.
            self.send_uuids(volume, peer);
            self.send_state(volume, peer);
            return;
        }
        let retries = self.peers[peer].settings.role_conflict == RoleConflict::RetryConnect;
        if reason == RefuseReason::PrimaryWouldBecomeTarget && retries {
            return self.lose_connection(peer, ConnectionState::NetworkFailure, &sentence);
        }
        self.stand_alone(peer, &sentence);
    }

    /// Takes over what the peer says of itself, together with our decision.
    fn take_state(&mut self, volume: usize, peer: usize, old: View, mut new: View, theirs: Theirs) {
        use ConnectionState as C;
        new.peer = theirs.role;
        new.pdsk = theirs.real_disk;
        new.peer_isp = theirs.paused;
        if theirs.conn == C::Ahead {
            new.conn = C::Behind;
        }
        let is_compared = theirs.disk >= DiskState::Negotiating;
        if new.disk == DiskState::Negotiating && !is_compared && self.is_passed_by(volume) {
            let sentence =
                "the disk that is being attached is old, and the one that it was to be compared with is gone";
            self.log(LogLevel::Error, sentence);
            self.fail_disk(volume);
            new.disk = self.view(volume, peer).disk;
        }
        // A word that the peer said before it heard of our disk decides nothing about it.
        let comparable = is_compared && old.conn >= C::Connected;
        let waits = comparable && self.peers[peer].volumes[volume].uuids.is_none();
        if new.disk == DiskState::Negotiating && matches!(new.conn, C::Connected | C::WfBitMapS) && !waits {
            new.disk = self.volumes[volume].remembered;
        }
        if new.pdsk == DiskState::Unknown {
            new.pdsk = DiskState::Diskless;
        }
        let origin = if old.conn < C::Connected && new.conn >= C::Connected { Origin::Wish } else { Origin::Fact };
        if new.conn >= C::Connected && old.disk == DiskState::Negotiating && is_compared {
            // The handshake has compared: a resync brings what our disk missed.
            self.volumes[volume].left_behind = false;
        }
        if self.role == Role::Primary && theirs.role == Role::Primary && !self.rules(volume).allow_two_primaries {
            // It did not ask, or did not wait for the answer.
            let sentence = format!("{}: the peer is Primary too", StateRefusal::TwoPrimaries);
            return self.stand_alone(peer, &sentence);
        }
        let openers = std::mem::take(&mut self.volumes[volume].openers);
        let changed = self.change(volume, peer, new, origin);
        self.volumes[volume].openers = openers;
        if let Err(refusal) = changed {
            return self.stand_alone(peer, &format!("{refusal}: the two nodes' states do not go together"));
        }
        if old.conn < C::Connected {
            self.peers[peer].reason = None;
            self.clear_discard_if_all_connected(peer);
            self.exchange_generations(volume, peer);
        }
        let decided = self.view(volume, peer).conn;
        let peer_undecided = theirs.conn <= C::Connected && theirs.disk != DiskState::Negotiating;
        let we_want_sync = decided > C::Connected && peer_undecided;
        // It waits for our generations, also if our own disk was being attached at the same time.
        let peer_attaches = theirs.disk == DiskState::Negotiating;
        if old.conn == C::Connected && (we_want_sync || peer_attaches) {
            self.send_state(volume, peer);
        }
        if old.disk == DiskState::Negotiating && self.view(volume, peer).disk == DiskState::Outdated {
            // A peer without a disk compares nothing: it takes what is being attached for current, unless it hears better.
            self.send_state(volume, peer);
        }
        self.begin_exchange(volume, peer, old.conn);
    }

    fn clear_discard_if_all_connected(&mut self, peer: usize) {
        let all = (0..self.volumes.len()).all(|volume| self.view(volume, peer).conn >= ConnectionState::Connected);
        if all {
            self.peers[peer].discard_my_data = false;
        }
    }

    /// In step with the peer from here on: a diskless node shows the peer's generation.
    fn exchange_generations(&mut self, volume: usize, peer: usize) {
        if !self.volumes[volume].has_disk()
            && let Some(tuple) = self.peer_tuple(volume, peer)
        {
            self.volumes[volume].exposed = tuple.current;
        }
    }
}
