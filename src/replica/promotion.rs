//! Becoming Primary and Secondary.
//!
//! ```text
//! promote: rules ─▶ (peer agrees, volume by volume) ─▶ (forced: new generation durable, told) ─▶ role ─▶ superblock ─▶ writes
//! demote:  nobody has it open ─▶ nothing under way, every epoch confirmed ─▶ role ─▶ pages, superblock ─▶ done
//! ```

use super::Resource;
use super::action::LogLevel;
use super::metadata_writer::Then;
use super::refusal::Refusal;
use super::settings::Fencing;
use super::state::{Origin, View, transition};
use crate::control::refusal::StateRefusal;
use crate::generation;
use crate::model::ids::CommandId;
use crate::model::state::{ConnectionState, DiskState, Role};

/// Whether the handler `fence-peer` has been asked about an absent peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    Unasked,
    Asked,
    Answered,
}

/// What the rules say of a promotion.
enum Judgement {
    Go,
    /// First it must be known what this peer does.
    Fence(usize),
    Refuse(Refusal),
}

/// A promotion under way.
#[derive(Clone, Debug)]
pub(super) struct Promotion {
    id: CommandId,
    force: bool,
    /// Volumes whose data is declared good.
    forced: Vec<bool>,
    /// Volumes whose consistent data is current, since the peer is known not to be in use.
    raised: Vec<bool>,
    fence: Fence,
    /// The peer's disk is declared old, against what the handler says.
    outdates_peer: bool,
    /// A refusal for the peer's being Primary is tried once more after a sign of life.
    retried: bool,
    waiting_for_ping: bool,
    /// The dead Primary's last writes, or a handshake, must come to their end first.
    waiting_for_drain: bool,
    /// Superblocks of forced generations that are not durable yet.
    superblocks_left: usize,
    /// Nobody waits for it any more: it ends where it can still be ended.
    given_up: bool,
}

impl Promotion {
    /// Who asked.
    pub(super) fn id(&self) -> CommandId {
        self.id
    }

    /// Whether it waits for a handler. The peer may come back meanwhile.
    pub(super) fn is_fencing(&self) -> bool {
        self.fence == Fence::Asked
    }

    /// Whether a volume is current from the promotion on, whatever it is now.
    fn makes_current(&self, volume: usize) -> bool {
        self.forced[volume] || self.raised[volume]
    }

    /// What the peer's disk is taken for.
    fn believed(&self, view: View) -> DiskState {
        let is_away = view.conn < ConnectionState::Connected && view.pdsk > DiskState::Outdated;
        if self.outdates_peer && is_away { DiskState::Outdated } else { view.pdsk }
    }

    /// Whoever asked has gone. A promotion that comes true behind his back would be a second opinion about who is Primary.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }
}

impl Resource {
    pub(super) fn begin_promotion(&mut self, id: CommandId, force: bool) {
        if self.role == Role::Primary {
            return self.answer(id, Ok(()));
        }
        if self.commands.promotion.is_some() || self.commands.demotion.is_some() {
            let refusal = Refusal::state(StateRefusal::InTransientState, "another role change is under way; try again");
            return self.answer(id, Err(refusal));
        }
        self.commands.promotion = Some(Promotion {
            id,
            force,
            forced: vec![false; self.volumes.len()],
            raised: vec![false; self.volumes.len()],
            fence: Fence::Unasked,
            outdates_peer: false,
            retried: false,
            waiting_for_ping: false,
            waiting_for_drain: false,
            superblocks_left: 0,
            given_up: false,
        });
        self.judge_promotion();
    }

    /// The rules, for every volume towards every peer.
    fn judge_promotion(&mut self) {
        let Some(mut promotion) = self.commands.promotion.clone() else { return };
        let handshakes = (0..self.peers.len()).any(|peer| self.is_shaking_hands(peer));
        if handshakes || !(0..self.peers.len()).all(|peer| self.is_drained(peer)) {
            // The dead Primary's last writes must be on the disk before ours; and what a handshake compares must not move.
            promotion.waiting_for_drain = true;
            self.commands.promotion = Some(promotion);
            return;
        }
        promotion.waiting_for_drain = false;
        match self.judge_states(&mut promotion) {
            Judgement::Go => {
                self.commands.promotion = Some(promotion);
                self.agree_on_promotion(0);
            }
            Judgement::Fence(peer) => {
                promotion.fence = Fence::Asked;
                self.commands.promotion = Some(promotion);
                self.begin_fence(peer);
            }
            Judgement::Refuse(refusal) if self.may_retry(&refusal, &promotion) => {
                promotion.retried = true;
                promotion.waiting_for_ping = true;
                self.commands.promotion = Some(promotion);
                (0..self.peers.len()).for_each(|peer| self.ping(peer));
            }
            Judgement::Refuse(refusal) => {
                self.commands.promotion = None;
                self.answer(promotion.id, Err(refusal));
            }
        }
    }

    fn may_retry(&self, refusal: &Refusal, promotion: &Promotion) -> bool {
        let two = refusal.code == super::refusal::Code::State(StateRefusal::TwoPrimaries);
        two && !promotion.retried && self.peers.iter().any(|peer| peer.link().is_some())
    }

    fn judge_states(&mut self, promotion: &mut Promotion) -> Judgement {
        for volume in 0..self.volumes.len() {
            if self.peers.is_empty() && self.volumes[volume].disk_state < DiskState::UpToDate {
                return Judgement::Refuse(self.explain_promotion(volume, 0, StateRefusal::NoUpToDateDisk));
            }
            for peer in 0..self.peers.len() {
                while let Some(code) = self.state_against(promotion, volume, peer) {
                    let old = self.view(volume, peer);
                    let is_fenced = old.pdsk <= DiskState::Outdated;
                    match code {
                        StateRefusal::NoUpToDateDisk if promotion.force && may_be_forced(old.disk) => {
                            promotion.forced[volume] = true;
                        }
                        StateRefusal::NoUpToDateDisk if self.may_be_raised(old) && is_fenced => {
                            promotion.raised[volume] = true;
                        }
                        StateRefusal::NoUpToDateDisk
                            if self.may_be_raised(old) && promotion.fence == Fence::Unasked =>
                        {
                            return Judgement::Fence(peer);
                        }
                        StateRefusal::PrimaryNop if promotion.fence == Fence::Unasked => return Judgement::Fence(peer),
                        StateRefusal::PrimaryNop if promotion.force && !promotion.outdates_peer => {
                            self.log(LogLevel::Warn, "Forced into split brain situation!");
                            promotion.outdates_peer = true;
                        }
                        code => return Judgement::Refuse(self.explain_promotion(volume, peer, code)),
                    }
                }
            }
        }
        Judgement::Go
    }

    /// What the rules have against the role, with all that the promotion has been granted.
    fn state_against(&self, promotion: &Promotion, volume: usize, peer: usize) -> Option<StateRefusal> {
        let old = self.view(volume, peer);
        let is_current = promotion.makes_current(volume);
        let disk = if is_current { DiskState::UpToDate } else { old.disk };
        let wanted = View { role: Role::Primary, disk, pdsk: promotion.believed(old), ..old };
        let code = transition(old, wanted, self.rules(volume), Origin::Wish).err()?;
        // Of data that is declared good, only what the peer does is still a question.
        (!is_current || code == StateRefusal::PrimaryNop).then_some(code)
    }

    /// Whether a disk becomes current as soon as it is known that an absent peer is not in use.
    fn may_be_raised(&self, view: View) -> bool {
        let has_policy = self.peers.iter().any(|peer| peer.settings.fencing != Fencing::DontCare);
        has_policy && view.disk == DiskState::Consistent && view.conn < ConnectionState::Connected
    }

    fn explain_promotion(&self, volume: usize, peer: usize, code: StateRefusal) -> Refusal {
        let resource = &self.settings.name;
        let number = self.volumes[volume].settings.number;
        let disk = self.volumes[volume].disk_state;
        let Some(towards) = self.peers.get(peer) else {
            return Refusal::state(code, format!("{}; volume {number} is {disk}", code.text()));
        };
        let name = &towards.settings.name;
        match code {
            StateRefusal::TwoPrimaries => Refusal::state(code, format!("{}: {name} is Primary", code.text()))
                .next(format!("secondary {resource}    (on {name})")),
            StateRefusal::NoUpToDateDisk => {
                let view = self.view(volume, peer);
                let is_connected = view.conn >= ConnectionState::Connected;
                let sentence = format!("{}: volume {number} is {disk} here and {} on {name}", code.text(), view.pdsk);
                let next = if disk == DiskState::Diskless && view.pdsk <= DiskState::Failed && is_connected {
                    format!("attach {resource}/{number}    (on the node whose disk was in use last)")
                } else if disk == DiskState::Diskless {
                    format!("attach {resource}/{number}")
                } else if is_connected && view.pdsk <= DiskState::Failed {
                    // Forced here, what was acknowledged and is only on the peer's disk would be given up.
                    let sentence = format!("{sentence}, where the disk that is not attached may hold newer data");
                    let next = format!(
                        "attach {resource}/{number}    (on {name}; that disk is lost for good: shimai primary --force \
                         {resource})"
                    );
                    return Refusal::state(code, sentence).next(next);
                } else if is_connected {
                    format!("primary --force {resource}")
                } else if view.conn == ConnectionState::StandAlone {
                    format!("connect {resource}    (there is no other copy: shimai primary --force {resource})")
                } else {
                    format!(
                        "up {resource}    (on {name}; this node looks for it already; there is no other copy: shimai \
                         primary --force {resource})"
                    )
                };
                Refusal::state(code, sentence).next(next)
            }
            StateRefusal::PrimaryNop => {
                let found = towards.fence_words.as_deref().unwrap_or("nothing is known of it");
                Refusal::state(code, format!("{}: {found}", code.text()))
                    .next(format!("up {resource}    (on {name}; it is not in use: shimai primary --force {resource})"))
            }
            code => Refusal::state(code, code.text()).next(format!("why {resource}")),
        }
    }

    /// Asks the peer about each volume in turn; when all agree, goes on.
    fn agree_on_promotion(&mut self, from: usize) {
        let Some(promotion) = self.commands.promotion.clone() else { return };
        for volume in from..self.volumes.len() {
            let asked = (0..self.peers.len()).find(|peer| self.view(volume, *peer).conn >= ConnectionState::Connected);
            if let Some(peer) = asked {
                return self.ask_to_promote(volume, peer, promotion.forced[volume], promotion.id);
            }
        }
        self.promote();
    }

    pub(super) fn promotion_agreed(&mut self, volume: usize, id: CommandId) {
        if self.commands.promotion.as_ref().is_some_and(|promotion| promotion.id == id) {
            return self.agree_on_promotion(volume + 1);
        }
        // It was given up meanwhile: the peer has taken us for a Primary.
        self.tell_role();
    }

    /// The peer may have agreed to a role that we do not take.
    fn tell_role(&mut self) {
        for volume in 0..self.volumes.len() {
            for peer in 0..self.peers.len() {
                if self.view(volume, peer).conn >= ConnectionState::Connected {
                    self.send_state(volume, peer);
                }
            }
        }
    }

    /// Ends a promotion that nobody waits for, unless data has been declared good or the role been taken already.
    fn end_abandoned_promotion(&mut self) {
        let is_early = |promotion: &Promotion| promotion.given_up && promotion.superblocks_left == 0;
        if self.role == Role::Primary || !self.commands.promotion.as_ref().is_some_and(is_early) {
            return;
        }
        self.log(LogLevel::Info, "the promotion is given up: nobody waits for it any more");
        self.fail_promotion(Refusal::state(StateRefusal::InTransientState, "the promotion was given up"));
    }

    /// A promotion has not come true: peers that have agreed to it hear that.
    pub(super) fn fail_promotion(&mut self, refusal: Refusal) {
        if let Some(promotion) = self.commands.promotion.take() {
            self.tell_role();
            self.answer(promotion.id, Err(refusal));
        }
    }

    /// The connection ended while the peer was asked: judge again.
    pub(super) fn restart_promotion(&mut self) {
        self.commands.rejudge_promotion = true;
    }

    /// A sign of life, or its absence: a refused promotion is tried once more.
    pub(super) fn retry_promotion(&mut self) {
        if self.commands.promotion.as_ref().is_some_and(|promotion| promotion.waiting_for_ping) {
            self.commands.rejudge_promotion = true;
        }
    }

    /// Called at the end of each event.
    pub(super) fn settle_promotion(&mut self) {
        self.end_abandoned_promotion();
        let waits = self.commands.promotion.as_ref();
        let fenced = waits.is_some_and(Promotion::is_fencing) && self.peers.iter().all(|peer| peer.fence.is_none());
        let drain = waits.is_some_and(|promotion| promotion.waiting_for_drain);
        let ping = waits.is_some_and(|promotion| promotion.waiting_for_ping)
            && self.peers.iter().all(|peer| peer.link().is_none());
        if self.role == Role::Primary && (0..self.volumes.len()).all(|volume| !self.role_is_pending(volume)) {
            return self.promotion_is_done();
        }
        if std::mem::take(&mut self.commands.rejudge_promotion) || drain || ping || fenced {
            if let Some(promotion) = self.commands.promotion.as_mut() {
                promotion.waiting_for_ping = false;
                if fenced {
                    promotion.fence = Fence::Answered;
                }
            }
            self.judge_promotion();
        }
    }

    /// Everybody agrees. Data that is declared good gets its new generation first.
    fn promote(&mut self) {
        let Some(mut promotion) = self.commands.promotion.clone() else { return };
        if let Some(volume) =
            (0..self.volumes.len()).find(|volume| !promotion.makes_current(*volume) && !self.reaches_data(*volume))
        {
            // The disk went while the peer was asked.
            let disk = self.volumes[volume].disk_state;
            let number = self.volumes[volume].settings.number;
            let sentence = format!("{}: volume {number} is {disk} now", StateRefusal::NoUpToDateDisk.text());
            return self.fail_promotion(Refusal::state(StateRefusal::NoUpToDateDisk, sentence));
        }
        let forced: Vec<usize> = (0..self.volumes.len()).filter(|volume| promotion.forced[*volume]).collect();
        if forced.is_empty() {
            return self.take_role();
        }
        promotion.superblocks_left = forced.len();
        self.commands.promotion = Some(promotion);
        for volume in forced {
            for peer in 0..self.peers.len() {
                self.begin_generation(volume, peer);
            }
            self.volumes[volume].after_superblock(Then::Forced);
        }
    }

    /// Whether somebody reachable has current data.
    pub(super) fn reaches_data(&self, volume: usize) -> bool {
        let remote = (0..self.peers.len()).map(|peer| self.view(volume, peer));
        self.volumes[volume].disk_state == DiskState::UpToDate
            || remote.into_iter().any(|it| it.conn >= ConnectionState::Connected && it.pdsk == DiskState::UpToDate)
    }

    /// A forced generation is durable: the peer must know it before it learns of the role.
    pub(super) fn forced_generation_is_durable(&mut self, volume: usize) {
        self.tell_generation(volume);
        let Some(promotion) = self.commands.promotion.as_mut() else { return };
        promotion.superblocks_left -= 1;
        if promotion.superblocks_left == 0 {
            self.take_role();
        }
    }

    /// Whether this volume's data is about to be declared good.
    pub(super) fn is_being_forced(&self, volume: usize) -> bool {
        let promotion = self.commands.promotion.as_ref();
        self.role != Role::Primary && promotion.is_some_and(|it| it.superblocks_left > 0 && it.forced[volume])
    }

    /// A forced promotion is over, well or not: peers that came with a disk meanwhile are answered.
    fn answer_deferred(&mut self) {
        for volume in 0..self.volumes.len() {
            for peer in 0..self.peers.len() {
                if let Some(word) = self.peers[peer].volumes[volume].deferred_state.take() {
                    self.on_state(volume, peer, word);
                }
            }
        }
    }

    fn take_role(&mut self) {
        let Some(promotion) = self.commands.promotion.clone() else { return };
        for volume in 0..self.volumes.len() {
            for peer in 0..self.peers.len() {
                let view = self.view(volume, peer);
                let forced = promotion.forced[volume] && view.disk >= DiskState::Inconsistent;
                // A lone node's consistent data becomes current by being promoted.
                let raised = promotion.raised[volume] && view.disk == DiskState::Consistent;
                let disk = if forced || raised { DiskState::UpToDate } else { view.disk };
                let pdsk = promotion.believed(view);
                self.change_fact(volume, peer, View { role: Role::Primary, disk, pdsk, ..view });
            }
        }
        self.role = Role::Primary;
        self.tell_role_of_further_volumes();
        self.peers.iter_mut().for_each(|peer| peer.discard_my_data = false);
        self.commands.promotion = Some(promotion);
        for volume in (0..self.volumes.len()).filter(|volume| self.volumes[*volume].has_disk()).collect::<Vec<_>>() {
            self.take_role_on_disk(volume);
        }
        self.answer_deferred();
        if self.door.is_frozen() {
            // The peer went while all was being made ready.
            (0..self.peers.len()).for_each(|peer| self.fence_lost_peer(peer));
        }
    }

    fn take_role_on_disk(&mut self, volume: usize) {
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            generation::become_primary(&mut disk.superblock.generations);
        }
        for peer in 0..self.peers.len() {
            let view = self.view(volume, peer);
            if view.conn < ConnectionState::Connected || view.pdsk <= DiskState::Failed {
                self.begin_generation_after_sync(volume, peer);
                self.begin_generation_if_none(volume, peer);
            }
        }
        let version = self.superblock_changed(volume);
        self.volumes[volume].promotion_gate = version;
        self.volumes[volume].after_superblock(Then::Promoted);
    }

    /// Whether the role is not durable yet: no request may begin.
    pub(super) fn promotion_is_pending(&self, volume: usize) -> bool {
        self.role_is_pending(volume) || self.commands.demotion.is_some()
    }

    fn role_is_pending(&self, volume: usize) -> bool {
        let state = &self.volumes[volume];
        let durable = |version| state.disk.as_ref().is_none_or(|disk| disk.writer.is_durable(version));
        state.has_disk() && state.promotion_gate.is_some_and(|version| !durable(version))
    }

    pub(super) fn promoted_on_disk(&mut self, volume: usize) {
        self.volumes[volume].promotion_gate = None;
        self.settle_blocked(volume);
    }

    /// A disk is gone while its forced generation was being written: there is nothing left to declare good.
    pub(super) fn promotion_lost_disk(&mut self, volume: usize) {
        self.volumes[volume].promotion_gate = None;
        let waits = self.commands.promotion.as_ref();
        if self.role == Role::Primary || !waits.is_some_and(|promotion| promotion.forced[volume]) {
            return;
        }
        if let Some(promotion) = self.commands.promotion.take() {
            let refusal = Refusal::state(StateRefusal::NoUpToDateDisk, "the disk failed during the promotion");
            self.answer(promotion.id, Err(refusal));
            self.answer_deferred();
        }
    }

    fn promotion_is_done(&mut self) {
        if let Some(promotion) = self.commands.promotion.take() {
            self.log(LogLevel::Info, "this node is Primary");
            self.answer(promotion.id, Ok(()));
        }
    }

    pub(super) fn begin_demotion(&mut self, id: CommandId) {
        if self.role == Role::Secondary && self.commands.promotion.is_none() {
            return self.answer(id, Ok(()));
        }
        if self.commands.promotion.is_some() || self.commands.demotion.is_some() {
            let refusal = Refusal::state(StateRefusal::InTransientState, "another role change is under way; try again");
            return self.answer(id, Err(refusal));
        }
        if let Some(refusal) = self.refuse_while_open() {
            return self.answer(id, Err(refusal));
        }
        self.commands.demotion = Some(id);
    }

    /// Called at the end of each event: demote when nothing is under way.
    pub(super) fn settle_demotion(&mut self) {
        let Some(id) = self.commands.demotion else { return };
        // What a handshake compares, the role too, must not move.
        let busy = (0..self.peers.len()).any(|peer| self.is_shaking_hands(peer))
            || (0..self.volumes.len()).any(|volume| !self.is_quiet(volume))
            || self.peers.iter().any(|peer| peer.log.len() > 0)
            || !self.writes.is_empty();
        if busy {
            (0..self.peers.len()).for_each(|peer| self.close_epoch(peer));
            return;
        }
        self.commands.demotion = None;
        if let Some(refusal) = self.refuse_while_open() {
            // Somebody came meanwhile.
            return self.answer(id, Err(refusal));
        }
        self.demote(id);
    }

    fn demote(&mut self, id: CommandId) {
        self.thaw_for_demotion();
        for volume in 0..self.volumes.len() {
            if let Some(disk) = self.volumes[volume].disk.as_mut() {
                generation::become_secondary(&mut disk.superblock.generations);
            }
        }
        for volume in 0..self.volumes.len() {
            for peer in 0..self.peers.len() {
                let view = self.view(volume, peer);
                self.change_fact(volume, peer, View { role: Role::Secondary, susp_nod: false, ..view });
            }
        }
        self.role = Role::Secondary;
        self.tell_role_of_further_volumes();
        self.log(LogLevel::Info, "this node is Secondary");
        let disks: Vec<usize> = (0..self.volumes.len()).filter(|volume| self.volumes[*volume].has_disk()).collect();
        self.commands.demoted = Some((id, disks.len()));
        for volume in &disks {
            // Bits first: the log vouches for them only while PRIMARY_IND is set.
            if let Some(disk) = self.volumes[*volume].disk.as_mut() {
                disk.after_pages(Then::DemotedPages);
            }
        }
        if disks.is_empty() {
            self.demoted_on_disk();
        }
    }

    pub(super) fn demoted_pages(&mut self, volume: usize) {
        self.after_superblock(volume, Then::Demoted);
    }

    pub(super) fn demoted_on_disk(&mut self) {
        let Some((id, left)) = self.commands.demoted.take() else { return };
        if left > 1 {
            self.commands.demoted = Some((id, left - 1));
        } else {
            self.answer(id, Ok(()));
        }
    }
}

fn may_be_forced(disk: DiskState) -> bool {
    (DiskState::Inconsistent..DiskState::UpToDate).contains(&disk)
}
