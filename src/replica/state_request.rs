//! Changes that both nodes must agree to: asking the peer, and being asked.
//!
//! The asker sends which bits of *its* state shall change; the asked one reads them from its own side (role ↔ peer, disk ↔
//! peer disk), checks its rules, applies, answers. When both ask at once, the node with the conflict flag refuses.

use super::action::LogLevel;
use super::metadata_writer::Then;
use super::refusal::Refusal;
use super::settings::Fencing;
use super::state::{Origin, View};
use super::verify::Part;
use super::{Resource, mutant};
use crate::control::refusal::StateRefusal;
use crate::model::ids::CommandId;
use crate::model::state::{ConnectionState, DiskState, Role, StateWord};
use crate::wire::framing::Stream;
use crate::wire::packet::{Packet, StateChange};

const ROLE_MASK: u8 = 3;
const CONN_MASK: u8 = 31;
const DISK_MASK: u8 = 15;

/// What becomes of the disks when a connection is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// They stay what they are.
    Plain,
    /// The peer's is old from then on: we are Primary and go on alone.
    OutdatesPeer,
    /// Ours is old from then on: the peer is Primary and goes on alone.
    OutdatesUs,
}

/// What we do when the peer agrees.
#[derive(Clone, Debug)]
pub(super) enum Agreement {
    Promote(CommandId),
    Detach(CommandId),
    Disconnect(CommandId, Leaving),
    Invalidate(CommandId),
    InvalidateRemote(CommandId),
    Verify(CommandId, Part),
}

impl Agreement {
    fn command(&self) -> CommandId {
        match self {
            Self::Promote(id)
            | Self::Detach(id)
            | Self::Disconnect(id, _)
            | Self::Invalidate(id)
            | Self::InvalidateRemote(id)
            | Self::Verify(id, _) => *id,
        }
    }
}

/// A question the peer has not answered.
#[derive(Clone, Debug)]
pub(super) struct PeerRequest {
    volume: usize,
    agreement: Agreement,
}

/// The bits of a state change request.
fn change(mask: StateWord, value: StateWord) -> StateChange {
    StateChange { mask, value }
}

impl Resource {
    /// Asks the peer. One question at a time.
    fn ask_peer(&mut self, volume: usize, peer: usize, change: StateChange, agreement: Agreement) {
        if self.peers[peer].request.is_some() || self.peers[peer].request_overtaken {
            let refusal =
                Refusal::state(StateRefusal::InTransientState, "another change is being agreed on; try again");
            return self.on_refused(agreement, refusal);
        }
        let whole = matches!(agreement, Agreement::Disconnect(..)) && self.version(peer) >= 100;
        self.peers[peer].request = Some(PeerRequest { volume, agreement });
        if whole {
            self.send_connection(peer, Stream::Data, &Packet::ConnectionStateChangeRequest(change));
        } else {
            self.send(peer, Stream::Data, volume, &Packet::StateChangeRequest(change));
        }
    }

    pub(super) fn ask_to_promote(&mut self, volume: usize, peer: usize, forced: bool, id: CommandId) {
        let mut mask = StateWord::default().with_role(ROLE_MASK);
        let mut value = StateWord::default().with_role(Role::Primary.number());
        if forced {
            mask = mask.with_disk(DISK_MASK);
            value = value.with_disk(DiskState::UpToDate.number());
        }
        self.ask_peer(volume, peer, change(mask, value), Agreement::Promote(id));
    }

    pub(super) fn ask_to_detach(&mut self, volume: usize, peer: usize, id: CommandId) {
        let mask = StateWord::default().with_disk(DISK_MASK);
        let value = StateWord::default().with_disk(DiskState::Failed.number());
        self.ask_peer(volume, peer, change(mask, value), Agreement::Detach(id));
    }

    pub(super) fn ask_connection(&mut self, volume: usize, peer: usize, conn: ConnectionState, agreement: Agreement) {
        let mask = StateWord::default().with_conn(CONN_MASK);
        let value = StateWord::default().with_conn(conn.number());
        self.ask_peer(volume, peer, change(mask, value), agreement);
    }

    pub(super) fn ask_to_leave(&mut self, peer: usize, how: Leaving, id: CommandId) {
        let outdated = DiskState::Outdated.number();
        let mask = StateWord::default().with_conn(CONN_MASK);
        let value = StateWord::default().with_conn(ConnectionState::Disconnecting.number());
        let (mask, value) = match how {
            Leaving::Plain => (mask, value),
            Leaving::OutdatesPeer => (mask.with_pdsk(DISK_MASK), value.with_pdsk(outdated)),
            Leaving::OutdatesUs => (mask.with_disk(DISK_MASK), value.with_disk(outdated)),
        };
        self.ask_peer(0, peer, change(mask, value), Agreement::Disconnect(id, how));
    }

    /// The peer's resync has begun: it has agreed to our invalidation, whose answer comes on the other stream.
    pub(super) fn overtake_answer(&mut self, volume: usize, peer: usize) {
        let request = self.peers[peer].request.as_ref();
        if request.is_some_and(|it| it.volume == volume && matches!(it.agreement, Agreement::Invalidate(_))) {
            self.on_change_reply(peer, 1);
            self.peers[peer].request_overtaken = true;
        }
    }

    /// The peer's answer.
    pub(super) fn on_change_reply(&mut self, peer: usize, code: i32) {
        if std::mem::take(&mut self.peers[peer].request_overtaken) {
            return;
        }
        let Some(PeerRequest { volume, agreement }) = self.peers[peer].request.take() else { return };
        if let Agreement::Disconnect(id, Leaving::Plain) = agreement
            && code == StateRefusal::PrimaryNop.number()
        {
            // It is Primary, and goes on alone only if our disk cannot be taken for a current one.
            return self.ask_to_leave(peer, Leaving::OutdatesUs, id);
        }
        if code < 1 {
            let text = StateRefusal::from_number(code).map_or("unknown error", StateRefusal::text);
            let name = &self.peers[peer].settings.name;
            let sentence = format!("State change was refused by peer node {name}: ({code}) {text}");
            let refusal = Refusal::state(StateRefusal::FailedByPeer, sentence);
            return self.on_refused(agreement, refusal);
        }
        match agreement {
            Agreement::Promote(id) => self.promotion_agreed(volume, id),
            Agreement::Detach(id) if self.commands.is_detaching(id) => self.begin_close(volume),
            Agreement::Detach(_) => {}
            Agreement::Disconnect(id, how) => {
                if let Some(link) = self.peers[peer].link_mut() {
                    link.outdated = how == Leaving::OutdatesPeer;
                }
                self.end_link(peer, ConnectionState::Disconnecting);
                self.peers[peer].reason = Some("disconnected by the operator".into());
                if how == Leaving::OutdatesUs {
                    self.outdate_us();
                }
                self.answer(id, Ok(()));
            }
            Agreement::Invalidate(id) => {
                match self.start_full_sync(volume, peer, ConnectionState::StartingSyncT) {
                    // From then on the data counts as given up, whatever happens.
                    Ok(()) => self.after_superblock(volume, Then::Answer(id)),
                    Err(refusal) => self.answer(id, Err(refusal.into())),
                }
            }
            Agreement::InvalidateRemote(id) => {
                let begun = self.start_full_sync(volume, peer, ConnectionState::StartingSyncS);
                self.answer(id, begun.map_err(Refusal::from));
            }
            Agreement::Verify(id, part) => {
                let begun = self.begin_verify(volume, peer, part);
                self.answer(id, begun.map_err(Refusal::from));
            }
        }
    }

    fn on_refused(&mut self, agreement: Agreement, refusal: Refusal) {
        if let Agreement::Detach(id) = agreement
            && !self.commands.forget_detach(id)
        {
            // The disk has gone by itself meanwhile, and the command is answered.
            return;
        }
        if let Agreement::Promote(id) = agreement {
            // Other volumes may have been agreed on already.
            if self.commands.promotion.as_ref().is_some_and(|promotion| promotion.id() == id) {
                self.fail_promotion(refusal);
            }
            return;
        }
        self.answer(agreement.command(), Err(refusal));
    }

    /// The connection is gone before the peer answered.
    pub(super) fn give_up_peer_request(&mut self, peer: usize) {
        self.peers[peer].request_overtaken = false;
        let Some(PeerRequest { volume, agreement }) = self.peers[peer].request.take() else { return };
        match agreement {
            // Alone again: the rules decide anew, without the peer.
            Agreement::Promote(_) => self.restart_promotion(),
            // It may be the only copy now.
            Agreement::Detach(id) if self.commands.forget_detach(id) => self.detach(id, volume, false),
            Agreement::Detach(_) => {}
            Agreement::Disconnect(id, _) => {
                self.commands.disconnect_now.push(peer);
                self.answer(id, Ok(()));
            }
            Agreement::Invalidate(id) | Agreement::InvalidateRemote(id) | Agreement::Verify(id, _) => {
                let refusal = Refusal::state(StateRefusal::NeedConnection, "the connection was lost meanwhile");
                self.answer(id, Err(refusal));
            }
        }
    }

    /// The peer asks about a volume.
    pub(super) fn on_change_request(&mut self, volume: usize, peer: usize, change: StateChange) {
        if is_leaving(change) {
            let code = self.agree_to_part(peer, change);
            self.send(peer, Stream::Meta, volume, &Packet::StateChangeReply(code));
            return self.after_agreeing_to_part(peer, change, code);
        }
        let code = self.agree(volume, peer, change);
        self.send(peer, Stream::Meta, volume, &Packet::StateChangeReply(code));
        if code >= 1 {
            self.after_agreeing(volume, peer);
        }
    }

    fn agree(&mut self, volume: usize, peer: usize, change: StateChange) -> i32 {
        let busy = self.peers[peer].request.is_some() && self.peers[peer].link().is_some_and(|link| link.resolve);
        if busy {
            return StateRefusal::ConcurrentStateChange.number();
        }
        let old = self.view(volume, peer);
        let Some(new) = mirror(old, change) else { return StateRefusal::NotSupported.number() };
        let wants_verify = old.conn != new.conn && new.conn == ConnectionState::VerifyT;
        let unverified = wants_verify.then(|| self.refusal_of_verify(volume, peer)).flatten();
        if let Some(refusal) = refusal_of_full_sync(old, new.conn).or(unverified) {
            return refusal.number();
        }
        // Our openers are no reason against a change of the peer's.
        let openers = std::mem::take(&mut self.volumes[volume].openers);
        let changed = self.change(volume, peer, new, Origin::Wish);
        self.volumes[volume].openers = openers;
        match changed {
            Ok(()) => {
                self.peers[peer].volumes[volume].detach_agreed |= new.pdsk == DiskState::Failed && old.pdsk > new.pdsk;
                1
            }
            Err(refusal) => {
                self.log(LogLevel::Info, format!("refused a change the peer asked for: {refusal}"));
                refusal.number()
            }
        }
    }

    /// Full syncs and verifies that the peer asked for begin here.
    fn after_agreeing(&mut self, volume: usize, peer: usize) {
        let conn = self.view(volume, peer).conn;
        if matches!(conn, ConnectionState::StartingSyncS | ConnectionState::StartingSyncT) {
            // The rules have just let us into that state, so both disks are there.
            let _ = self.start_full_sync(volume, peer, conn);
        }
        if conn == ConnectionState::VerifyT && self.peers[peer].volumes[volume].verify.is_none() {
            self.become_verify_target(volume, peer);
        }
    }

    /// Every bit is set on both sides by itself; no bitmaps are exchanged.
    fn start_full_sync(&mut self, volume: usize, peer: usize, conn: ConnectionState) -> Result<(), StateRefusal> {
        let view = self.view(volume, peer);
        if let Some(refusal) = refusal_of_full_sync(view, conn) {
            // It went while the peer was asked; the peer has heard of it, or will.
            return Err(refusal);
        }
        // The target's data has been given up, also if the source goes before the first block has come.
        let disk = if conn == ConnectionState::StartingSyncT {
            self.need_full_sync(volume, peer);
            DiskState::Inconsistent
        } else {
            view.disk
        };
        self.change_fact(volume, peer, View { conn, disk, ..view });
        self.set_all_bits(volume, peer);
        let view = self.view(volume, peer);
        if view.conn == ConnectionState::StartingSyncT {
            if !mutant(12) {
                self.hold_peer_writes(volume, peer);
            }
            self.change_fact(volume, peer, View { conn: ConnectionState::WfSyncUuid, ..view });
        } else if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.after_pages(Then::SourcePages(peer));
        }
        Ok(())
    }

    /// The peer asks about the whole connection: to leave.
    pub(super) fn on_connection_change_request(&mut self, peer: usize, change: StateChange) {
        let code = match is_leaving(change) {
            true => self.agree_to_part(peer, change),
            false => StateRefusal::NotSupported.number(),
        };
        self.send_connection(peer, Stream::Meta, &Packet::ConnectionStateChangeReply(code));
        self.after_agreeing_to_part(peer, change, code);
    }

    /// Whether the peer may go, with what is to become of the disks. A Primary's disk does not become old, and one with a
    /// fencing policy lets go only of a peer whose disk does.
    fn agree_to_part(&mut self, peer: usize, change: StateChange) -> i32 {
        let primary = self.role == Role::Primary;
        if primary && outdates(change.mask.pdsk(), change.value.pdsk()) {
            return StateRefusal::NoUpToDateDisk.number();
        }
        let fences = primary && self.peers[peer].settings.fencing != Fencing::DontCare;
        if fences && !outdates(change.mask.disk(), change.value.disk()) {
            return StateRefusal::PrimaryNop.number();
        }
        1
    }

    fn after_agreeing_to_part(&mut self, peer: usize, change: StateChange, code: i32) {
        if code < 1 {
            return;
        }
        if outdates(change.mask.disk(), change.value.disk()) {
            // Its data is gone at once, with a new generation before the next answer, not when its streams end.
            if let Some(link) = self.peers[peer].link_mut() {
                link.outdated = true;
            }
            self.lose_connection(peer, ConnectionState::TearDown, "the peer has left and outdated itself");
        } else if outdates(change.mask.pdsk(), change.value.pdsk()) {
            self.lose_connection(peer, ConnectionState::TearDown, "the peer has left and goes on alone");
            self.outdate_us();
        } else {
            self.note_leaving(peer);
        }
    }

    /// The peer, whom we do not see any more, goes on alone: none of our disks is current.
    fn outdate_us(&mut self) {
        for volume in 0..self.volumes.len() {
            if self.volumes[volume].disk_state > DiskState::Outdated {
                self.set_disk_state(volume, DiskState::Outdated);
            }
        }
    }

    fn note_leaving(&mut self, peer: usize) {
        if let Some(link) = self.peers[peer].link_mut() {
            link.leaving = true;
        }
    }

    /// P_PROTOCOL while connected: applies to what the peer sends from here on.
    pub(super) fn on_protocol_update(&mut self, peer: usize, theirs: crate::wire::packet::Protocol) {
        let digest =
            crate::wire::auth::DigestAlgorithm::from_name(&theirs.integrity_alg).map_or(0, |digest| digest.bytes());
        if let Some(link) = self.peers[peer].link_mut() {
            link.data_reader.set_digest_bytes(digest);
            link.peer_protocol = Some(theirs);
        }
    }
}

/// Whether the change is the end of the connection, for good.
fn is_leaving(change: StateChange) -> bool {
    change.mask.conn() == CONN_MASK && change.value.conn() == ConnectionState::Disconnecting.number()
}

/// Whether a disk becomes Outdated by the change.
fn outdates(mask: u8, value: u8) -> bool {
    mask == DISK_MASK && value == DiskState::Outdated.number()
}

/// Why a full sync cannot begin: a disk that is still being attached is none, and a source that is not good itself would
/// replace data by worse. (The rules would quietly stay Connected, or take the source for good.)
pub(super) fn refusal_of_full_sync(view: View, conn: ConnectionState) -> Option<StateRefusal> {
    let source = match conn {
        ConnectionState::StartingSyncS => view.disk,
        ConnectionState::StartingSyncT => view.pdsk,
        _ => return None,
    };
    match (view.disk < DiskState::Inconsistent, view.pdsk < DiskState::Inconsistent) {
        (true, _) => Some(StateRefusal::NoLocalDisk),
        (false, true) => Some(StateRefusal::NoRemoteDisk),
        (false, false) => (source != DiskState::UpToDate).then_some(StateRefusal::NoUpToDateDisk),
    }
}

/// The state we would have if the peer's wish came true; `None` for values that no state has.
fn mirror(old: View, StateChange { mask, value }: StateChange) -> Option<View> {
    use ConnectionState as C;
    let mut new = old;
    if mask.role() == ROLE_MASK {
        new.peer = Role::from_number(value.role())?;
    }
    if mask.disk() == DISK_MASK {
        new.pdsk = DiskState::from_number(value.disk())?;
    }
    if mask.pdsk() == DISK_MASK {
        new.disk = DiskState::from_number(value.pdsk())?;
    }
    if mask.conn() == CONN_MASK {
        new.conn = match C::from_number(value.conn())? {
            C::StartingSyncS => C::StartingSyncT,
            C::StartingSyncT => C::StartingSyncS,
            C::Disconnecting => C::TearDown,
            C::VerifyS => C::VerifyT,
            C::VerifyT => return None,
            conn => conn,
        };
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionState::{StartingSyncS, StartingSyncT};

    #[test]
    fn a_full_sync_needs_two_disks_and_a_good_source() {
        use DiskState::{Attaching, Diskless, Inconsistent, Outdated, UpToDate};
        let view = |disk, pdsk| View {
            role: Role::Secondary,
            peer: Role::Secondary,
            conn: ConnectionState::Connected,
            disk,
            pdsk,
            user_isp: false,
            peer_isp: false,
            susp: false,
            susp_nod: false,
            susp_fen: false,
        };
        for (conn, disk, pdsk, expected) in [
            (StartingSyncS, UpToDate, Inconsistent, None),
            (StartingSyncS, UpToDate, UpToDate, None),
            (StartingSyncS, Inconsistent, UpToDate, Some(StateRefusal::NoUpToDateDisk)),
            (StartingSyncS, Outdated, UpToDate, Some(StateRefusal::NoUpToDateDisk)),
            (StartingSyncS, Inconsistent, Inconsistent, Some(StateRefusal::NoUpToDateDisk)),
            (StartingSyncT, UpToDate, UpToDate, None),
            (StartingSyncT, UpToDate, Inconsistent, Some(StateRefusal::NoUpToDateDisk)),
            (StartingSyncT, Attaching, UpToDate, Some(StateRefusal::NoLocalDisk)),
            (StartingSyncS, UpToDate, Diskless, Some(StateRefusal::NoRemoteDisk)),
            (ConnectionState::Connected, Diskless, Diskless, None),
        ] {
            assert_eq!(refusal_of_full_sync(view(disk, pdsk), conn), expected, "{conn} {disk} {pdsk}");
        }
    }
}
