//! Committing a new state, and what follows from it whoever asked.
//!
//! Every change of role, disk and connection goes through here: logged once, its flags in the superblock, a new generation
//! where good data was lost, and the peer told of what concerns it.

use super::Resource;
use super::action::LogLevel;
use super::metadata_writer::Then;
use super::state::{Origin, Rules, View, transition};
use super::verify::is_verify;
use crate::control::refusal::StateRefusal;
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::wire::framing::Stream;
use crate::wire::packet::Packet;

/// What the superblock's flags depend on.
pub(super) struct FlagFacts {
    /// Writes are or may be under way on our disk on behalf of a Primary whose only disk it is.
    pub(super) primary_here: bool,
    /// Node id, connected, outdated.
    pub(super) peers: Vec<(usize, bool, bool)>,
}

impl Resource {
    /// The state of a volume towards a peer.
    pub(super) fn view(&self, volume: usize, peer: usize) -> View {
        let towards = &self.peers[peer];
        let at = &towards.volumes[volume];
        let conn = if towards.conn < ConnectionState::WfReportParams { towards.conn } else { at.conn };
        View {
            role: self.role,
            peer: towards.role,
            conn,
            disk: self.volumes[volume].disk_state,
            pdsk: at.pdsk,
            user_isp: at.user_isp,
            peer_isp: at.peer_isp,
            susp: self.suspended,
            susp_nod: self.suspended_no_data,
            susp_fen: self.door.is_frozen(),
        }
    }

    pub(super) fn rules(&self, volume: usize) -> Rules {
        Rules {
            // What orders conflicting writes of two Primaries is not built yet, so there is one, whatever was agreed on.
            allow_two_primaries: false,
            openers: self.volumes[volume].openers,
            suspend_without_data: self.settings.suspend_without_data,
            fencing: self.fencing_rule(volume),
            other_volume_peer_primary: false,
        }
    }

    /// Changes a volume's state towards a peer, if the rules let it.
    pub(super) fn change(&mut self, volume: usize, peer: usize, new: View, origin: Origin) -> Result<(), StateRefusal> {
        let old = self.view(volume, peer);
        let new = transition(old, new, self.rules(volume), origin)?;
        if new != old {
            self.commit(volume, peer, old, new);
        }
        Ok(())
    }

    /// A fact: it has happened.
    pub(super) fn change_fact(&mut self, volume: usize, peer: usize, new: View) {
        if let Err(refusal) = self.change(volume, peer, new, Origin::Fact) {
            self.log(LogLevel::Debug, format!("ignored a state that cannot be: {refusal}"));
        }
    }

    fn commit(&mut self, volume: usize, peer: usize, old: View, new: View) {
        self.log_change(volume, peer, old, new);
        // Roles are the whole resource's: the other volumes change with this one.
        let shared = old.role != new.role || old.peer != new.peer;
        let others: Vec<(usize, View)> = (0..self.volumes.len())
            .filter(|other| shared && *other != volume)
            .map(|other| (other, self.view(other, peer)))
            .collect();
        self.role = new.role;
        self.suspended_no_data = new.susp_nod;
        if new.susp_fen && !old.susp_fen {
            self.freeze_for_fencing(peer);
        }
        let towards = &mut self.peers[peer];
        towards.role = new.peer;
        if new.conn >= ConnectionState::WfReportParams {
            towards.volumes[volume].conn = new.conn;
        } else {
            towards.conn = new.conn;
        }
        let at = &mut towards.volumes[volume];
        at.pdsk = new.pdsk;
        at.user_isp = new.user_isp;
        at.peer_isp = new.peer_isp;
        self.volumes[volume].disk_state = new.disk;
        self.after_change(volume, peer, old, new);
        for (other, before) in others {
            let after = self.view(other, peer);
            if after != before {
                self.after_change(other, peer, before, after);
            }
        }
    }

    fn log_change(&mut self, volume: usize, peer: usize, old: View, new: View) {
        let mut parts = Vec::new();
        if old.role != new.role {
            parts.push(format!("role: {} -> {}", old.role, new.role));
        }
        if old.peer != new.peer {
            parts.push(format!("peer role: {} -> {}", old.peer, new.peer));
        }
        if old.conn != new.conn {
            parts.push(format!("connection: {} -> {}", old.conn, new.conn));
        }
        if old.disk != new.disk {
            parts.push(format!("disk: {} -> {}", old.disk, new.disk));
        }
        if old.pdsk != new.pdsk {
            parts.push(format!("peer disk: {} -> {}", old.pdsk, new.pdsk));
        }
        if parts.is_empty() {
            return;
        }
        let name = self.peers[peer].settings.name.clone();
        let number = self.volumes[volume].settings.number;
        self.log(LogLevel::Info, format!("volume {number}, peer {name}: {}", parts.join(", ")));
    }

    fn after_change(&mut self, volume: usize, peer: usize, old: View, new: View) {
        self.settle_crashed_primary(volume, peer, new);
        let flags_change = (old.role, old.disk, old.pdsk) != (new.role, new.disk, new.pdsk)
            || (old.peer != new.peer && new.pdsk < DiskState::Inconsistent)
            || (old.conn > ConnectionState::WfReportParams) != (new.conn > ConnectionState::WfReportParams);
        if flags_change && new.disk >= DiskState::Inconsistent {
            self.superblock_changed(volume);
        }
        self.generation_after_change(volume, peer, old, new);
        let both_inconsistent = old.disk == DiskState::Inconsistent && old.pdsk == DiskState::Inconsistent;
        if both_inconsistent && new.disk == DiskState::Inconsistent && new.pdsk == DiskState::UpToDate {
            self.peers[peer].volumes[volume].consider_resync = true;
        }
        self.tell_state(volume, peer, old, new);
        if is_verify(old.conn) && old.conn != new.conn {
            self.leave_verify(volume, peer);
        }
        let aborted = old.conn > ConnectionState::Connected && new.conn == ConnectionState::Connected;
        if aborted && (new.disk <= DiskState::Failed || new.pdsk <= DiskState::Failed) {
            self.peers[peer].volumes[volume].gave_up_resync = true;
            self.give_up_resync(volume, peer);
        }
        self.pause_changed(volume, peer, old, new);
        if old.susp_nod && !new.susp_nod {
            self.release_frozen(volume);
        }
        self.thaw_with_data();
        self.tell_degraded_primary(volume, peer, old, new);
    }

    /// Frozen for want of data: when every volume's data can be reached again, applications go on.
    fn thaw_with_data(&mut self) {
        let reachable = |volume: usize| {
            (0..self.peers.len()).any(|peer| {
                let view = self.view(volume, peer);
                let remote = view.conn >= ConnectionState::Connected && view.pdsk == DiskState::UpToDate;
                view.disk == DiskState::UpToDate || remote
            })
        };
        if self.suspended_no_data && (0..self.volumes.len()).all(reachable) {
            self.suspended_no_data = false;
            self.log(LogLevel::Info, "data can be reached again: I/O goes on");
            (0..self.volumes.len()).for_each(|volume| self.release_frozen(volume));
        }
    }

    /// A crashed Primary is reconciled when both disks are current and nothing is left to be synced: a state that passes
    /// while the peer detaches must not make it forget.
    fn settle_crashed_primary(&mut self, volume: usize, peer: usize, new: View) {
        let both = new.disk == DiskState::UpToDate && new.pdsk == DiskState::UpToDate;
        if both
            && self.bits_left(volume, peer) == 0
            && let Some(disk) = &mut self.volumes[volume].disk
        {
            disk.crashed_primary = false;
        }
    }

    /// The peer is told of changes that it cannot see.
    fn tell_state(&mut self, volume: usize, peer: usize, old: View, new: View) {
        if new.conn < ConnectionState::Connected {
            return;
        }
        let disk_went = old.disk != new.disk
            && (matches!(new.disk, DiskState::Failed | DiskState::Diskless)
                || (old.disk == DiskState::UpToDate && new.disk == DiskState::Inconsistent));
        let handshake_decided = old.conn < ConnectionState::Connected;
        let pause = old.user_isp != new.user_isp;
        let verified = old.conn == ConnectionState::VerifyS && old.conn != new.conn && self.may_stop_early(peer);
        if disk_went || handshake_decided || pause || verified || old.role != new.role {
            self.send_state(volume, peer);
        }
    }

    /// The role is the resource's, its packet the volume's: once the first volume has changed it, the others see no
    /// difference, and their peer must hear of it nevertheless.
    pub(super) fn tell_role_of_further_volumes(&mut self) {
        for volume in 1..self.volumes.len() {
            for peer in 0..self.peers.len() {
                if self.view(volume, peer).conn >= ConnectionState::Connected {
                    self.send_state(volume, peer);
                }
            }
        }
    }

    /// Sends P_STATE as things are.
    pub(super) fn send_state(&mut self, volume: usize, peer: usize) {
        let word = self.view(volume, peer).word();
        self.send(peer, Stream::Data, volume, &Packet::State(word));
    }

    /// A fact about our disk, towards every peer (and without any).
    pub(super) fn set_disk_state(&mut self, volume: usize, disk: DiskState) {
        if self.peers.is_empty() {
            self.volumes[volume].disk_state = disk;
            return;
        }
        for peer in 0..self.peers.len() {
            let view = View { disk, ..self.view(volume, peer) };
            self.change_fact(volume, peer, view);
        }
    }

    /// A fact about a connection below Connected, for all volumes.
    pub(super) fn set_connection(&mut self, peer: usize, conn: ConnectionState) {
        self.set_connection_with(peer, conn, None);
    }

    /// The same, with what is known of the peer's disks from then on.
    pub(super) fn set_connection_with(&mut self, peer: usize, conn: ConnectionState, pdsk: Option<DiskState>) {
        let old: Vec<View> = (0..self.volumes.len()).map(|volume| self.view(volume, peer)).collect();
        self.peers[peer].conn = conn.min(ConnectionState::WfReportParams);
        for (volume, old) in old.into_iter().enumerate() {
            let pdsk = pdsk.filter(|pdsk| old.pdsk > *pdsk).unwrap_or(old.pdsk);
            let new = transition(old, View { conn, pdsk, ..old }, self.rules(volume), Origin::Fact);
            match new {
                Ok(new) if new != old => self.commit(volume, peer, old, new),
                Ok(_) => {}
                Err(refusal) => self.log(LogLevel::Debug, format!("ignored a state that cannot be: {refusal}")),
            }
        }
        self.peers[peer].conn = conn.min(ConnectionState::WfReportParams);
        if conn < ConnectionState::WfReportParams {
            self.peers[peer].role = Role::Unknown;
        }
    }

    /// What the superblock's flags are computed from.
    pub(super) fn flag_facts(&self, volume: usize) -> FlagFacts {
        let views = (0..self.peers.len()).map(|peer| self.view(volume, peer));
        let diskless_primary =
            views.clone().any(|view| view.pdsk < DiskState::Inconsistent && view.peer == Role::Primary);
        let peers = views
            .enumerate()
            .map(|(peer, view)| {
                let outdated = (DiskState::Inconsistent..=DiskState::Outdated).contains(&view.pdsk);
                let connected = view.conn > ConnectionState::WfReportParams;
                (self.peers[peer].settings.node_id.index(), connected, outdated)
            })
            .collect();
        FlagFacts { primary_here: self.role == Role::Primary || diskless_primary, peers }
    }

    /// A request for the superblock to be written, with something to follow. Without a disk nothing is written, and whoever
    /// waits for an answer gets that one.
    pub(super) fn after_superblock(&mut self, volume: usize, then: Then) {
        self.superblock_changed(volume);
        match self.volumes[volume].disk.is_some() {
            true => self.volumes[volume].after_superblock(then),
            false => self.do_without_disk(then),
        }
    }
}
