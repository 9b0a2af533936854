//! The life of an application's request, from the door to the disk and the peer.
//!
//! ```text
//! Request ─ may it begin? ─▶ split into pieces ─▶ interval free? ─▶ extent hot? ─▶ submit ─┬─▶ local disk
//!     └ no: `blocked`                                                                      ├─▶ Data to the peer, or
//!                                                                                          └─▶ bits set (and Out-of-sync)
//! ```
//!
//! A piece is at most what the peer takes at once. What is not sent to the peer is marked out of sync *before* it is written
//! anywhere, so that no moment exists in which a block differs and nobody knows.
//!
//! Not here: what happens when the parts come back (`completion`).

use bytes::Bytes;

use super::Resource;
use super::action::{Action, Area, DiskOperation, RequestError};
use super::conflicts::{Held, Kind};
use super::event::{Request, RequestKind};
use super::mutant;
use super::settings::PEERS_MAX;
use super::volume::{Owner, Pending};
use crate::model::ids::RequestId;
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::model::units::{SECTOR_BYTES, Sector, SectorRange};

/// Data of one piece while no peer says otherwise: what protocol 100 takes.
const PIECE_BYTES: u64 = 1 << 20;
/// Zeroes of one piece: 17 extents, so that the smallest activity log (67 slots) takes it.
const ZERO_PIECE_BYTES: u64 = 64 << 20;
/// Zeroes of one piece towards a peer without the large discards: 4 MiB.
pub(super) const ZERO_PIECE_BYTES_OLD: u64 = 4 << 20;

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) id: RequestId,
    pub(super) pieces: usize,
    pub(super) error: Option<RequestError>,
}

/// What a write writes.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Data(Bytes),
    Zeroes { unmap: bool },
}

impl Content {
    /// What it takes of our memory.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Data(payload) => payload.len() as u64,
            Self::Zeroes { .. } => 0,
        }
    }
}

/// The local part of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// Not begun.
    Waiting,
    /// There is no disk.
    Absent,
    Running,
    Done,
    Failed,
}

/// A peer's part of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Net {
    /// Not sent: its bits are set.
    NotSent,
    Sent,
    /// Handed to the socket (A), or received by the peer (B).
    Accepted,
    /// On the peer's disk.
    Written,
    /// The peer's disk failed: its bits are set.
    Refused,
    /// The connection went away: its bits are set.
    Lost,
}

/// One piece of a write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) parent: usize,
    pub(super) volume: usize,
    pub(super) range: SectorRange,
    pub(super) content: Content,
    pub(super) fua: bool,
    pub(super) held: Option<Held>,
    pub(super) local: Local,
    pub(super) net: [Net; PEERS_MAX],
    /// The epoch it was sent in, until that is confirmed.
    pub(super) epoch: [Option<u64>; PEERS_MAX],
    /// The incarnation of the disk in whose activity log it is pinned.
    pub(super) pin: Option<u64>,
    /// Waits for its extents to become hot.
    pub(super) waiting_for_log: bool,
    /// Answered (as far as this piece goes).
    pub(super) completed: bool,
    /// Waits in `frozen`.
    pub(super) frozen: bool,
    /// It waits there because no copy that counts could take it.
    pub(super) starved: bool,
    /// The peer that has it, in a resync that counts it as in sync once it is written here too.
    pub(super) in_sync_with: Option<usize>,
}

impl Write {
    fn new(parent: usize, volume: usize, range: SectorRange, content: Content, fua: bool) -> Self {
        Self {
            parent,
            volume,
            range,
            content,
            fua,
            held: None,
            local: Local::Waiting,
            net: [Net::NotSent; PEERS_MAX],
            epoch: [None; PEERS_MAX],
            pin: None,
            waiting_for_log: false,
            completed: false,
            frozen: false,
            starved: false,
            in_sync_with: None,
        }
    }
}

impl Resource {
    pub(super) fn on_request(&mut self, request: Request) {
        if self.going_down {
            return self.reply(request.id, Err(RequestError::GoingDown));
        }
        if self.role != Role::Primary {
            return self.reply(request.id, Err(RequestError::NotPrimary));
        }
        let volume = request.volume;
        if !self.volumes[volume].blocked.is_empty() || self.is_blocked(volume) {
            self.volumes[volume].blocked.push_back(request);
            return;
        }
        self.begin_request(request);
    }

    /// Whether no request may begin now.
    pub(super) fn is_blocked(&self, volume: usize) -> bool {
        self.suspended
            || self.suspended_no_data
            || self.door.is_frozen()
            || self.promotion_is_pending(volume)
            || self.is_undecided(volume)
    }

    /// Whether nobody may write now because it is being decided (or made durable) whose data counts. Holds also for writes
    /// that began before and waited for their sectors or the log.
    fn is_undecided(&self, volume: usize) -> bool {
        use ConnectionState as C;
        let state = &self.volumes[volume];
        let undecided = matches!(state.disk_state, DiskState::Attaching | DiskState::Negotiating);
        let exchanging = (0..self.peers.len()).any(|peer| {
            let view = self.view(volume, peer);
            // As long as the future target may hold our very generation as good, nothing may be answered that it will lack.
            let equal = self.version(peer) < 96 || self.peers[peer].volumes[volume].target_may_be_done;
            matches!(view.conn, C::WfBitMapT | C::WfSyncUuid | C::StartingSyncS) || (view.conn == C::WfBitMapS && equal)
        });
        let target_is_pending = self.gate_holds_peer_writes(volume);
        target_is_pending || undecided || exchanging
    }

    pub(super) fn settle_blocked(&mut self, volume: usize) {
        if !self.volumes[volume].postponed.is_empty() && !self.is_undecided(volume) {
            for write in std::mem::take(&mut self.volumes[volume].postponed) {
                self.resume_postponed(write);
            }
        }
        while !self.volumes[volume].blocked.is_empty() && !self.is_blocked(volume) {
            let request = self.volumes[volume].blocked.pop_front().expect("just seen");
            self.begin_request(request);
        }
    }

    fn begin_request(&mut self, request: Request) {
        if self.role != Role::Primary {
            return self.reply(request.id, Err(RequestError::NotPrimary));
        }
        let Request { id, volume, kind } = request;
        match kind {
            RequestKind::Read(range) => self.begin_read(id, volume, range),
            RequestKind::Flush => self.begin_flush(id, volume),
            RequestKind::Write { start, payload, fua } => {
                let range = SectorRange::from_bytes(start, payload.len() as u64);
                self.begin_write(id, volume, range, &Content::Data(payload), fua);
            }
            RequestKind::Trim { range, fua } => {
                self.begin_write(id, volume, range, &Content::Zeroes { unmap: true }, fua);
            }
            RequestKind::WriteZeroes { range, may_unmap, fua } => {
                self.begin_write(id, volume, range, &Content::Zeroes { unmap: may_unmap }, fua);
            }
        }
    }

    pub(super) fn reply(&mut self, id: RequestId, result: Result<Vec<Bytes>, RequestError>) {
        self.actions.push(Action::Reply { id, result });
    }

    fn begin_write(&mut self, id: RequestId, volume: usize, range: SectorRange, content: &Content, fua: bool) {
        let most = self.piece_sectors(volume, content);
        if !self.reaches_data(volume) {
            // A write into old data would be neither here nor there.
            return self.reply(id, Err(RequestError::NoData));
        }
        let pieces = range.sectors.div_ceil(most) as usize;
        if pieces == 0 {
            return self.reply(id, Ok(Vec::new()));
        }
        let parent = self.requests.insert(Parent { id, pieces, error: None });
        for number in 0..pieces as u64 {
            let start = range.start.0 + number * most;
            let piece = SectorRange { start: Sector(start), sectors: most.min(range.end().0 - start) };
            self.begin_piece(parent, volume, piece, cut(content, range, piece), fua);
        }
    }

    fn piece_sectors(&self, volume: usize, content: &Content) -> u64 {
        let peers = (0..self.peers.len()).filter(|peer| self.view(volume, *peer).conn >= ConnectionState::Connected);
        let limit = |peer: usize| self.piece_limit(volume, peer, content);
        let most = match content {
            Content::Data(_) => PIECE_BYTES,
            Content::Zeroes { .. } => ZERO_PIECE_BYTES,
        };
        peers.map(limit).fold(most, u64::min) / SECTOR_BYTES
    }

    /// What a peer takes in one packet, bytes.
    fn piece_limit(&self, volume: usize, peer: usize, content: &Content) -> u64 {
        match content {
            Content::Data(_) => u64::from(self.peers[peer].volumes[volume].max_request_bytes),
            Content::Zeroes { unmap } => self.zero_piece_bytes(volume, peer, *unmap),
        }
    }

    fn begin_piece(&mut self, parent: usize, volume: usize, range: SectorRange, content: Content, fua: bool) {
        let write = self.writes.insert(Write::new(parent, volume, range, content, fua));
        let (held, now) = self.volumes[volume].conflicts.hold(range, Kind::LocalWrite, Owner::Write(write));
        self.writes[write].held = Some(held);
        if now {
            self.admit_write(write);
        }
    }

    /// Nobody could take it, now somebody can: the same again, in the same place among the others. What is left of the first
    /// attempt goes when its epoch is confirmed.
    pub(super) fn restart_write(&mut self, old: usize) {
        let state = &mut self.writes[old];
        let mut again = Write::new(state.parent, state.volume, state.range, state.content.clone(), state.fua);
        again.held = state.held.take();
        state.completed = true;
        self.volumes[again.volume].writes_running -= 1;
        let write = self.writes.insert(again);
        self.admit_write(write);
    }

    /// Its sectors are free: make its extents hot, or wait for that.
    pub(super) fn admit_write(&mut self, write: usize) {
        let (volume, range) = (self.writes[write].volume, self.writes[write].range);
        if !self.volumes[volume].has_disk() || self.is_undecided(volume) {
            return self.submit_write(write);
        }
        if self.begin_activity(volume, super::activity::token_of_write(write), range) {
            self.writes[write].pin = self.volumes[volume].disk.as_ref().map(|disk| disk.incarnation);
            self.submit_write(write);
        } else {
            self.writes[write].waiting_for_log = true;
        }
    }

    /// It has been decided whose data counts. The disk in whose log it was pinned may have gone meanwhile.
    fn resume_postponed(&mut self, write: usize) {
        let Write { volume, pin, .. } = self.writes[write];
        let incarnation = self.volumes[volume].disk.as_ref().map(|disk| disk.incarnation);
        if pin.is_some() && pin == incarnation {
            self.submit_write(write);
        } else {
            self.writes[write].pin = None;
            self.admit_write(write);
        }
    }

    /// Everything it waited for is there: to the disk and to the peers.
    pub(super) fn submit_write(&mut self, write: usize) {
        let Write { volume, range, .. } = self.writes[write];
        self.writes[write].waiting_for_log = false;
        if self.is_undecided(volume) {
            self.volumes[volume].postponed.push(write);
            return;
        }
        self.volumes[volume].writes_running += 1;
        for peer in 0..self.peers.len() {
            self.submit_to_peer(write, volume, peer, range);
        }
        if self.volumes[volume].has_disk() {
            self.submit_to_disk(write, volume, range);
        } else {
            self.writes[write].local = Local::Absent;
            // A peer takes it: what our disk holds is old from now on.
            let sent = self.writes[write].net.iter().any(|net| *net != Net::NotSent);
            self.volumes[volume].left_behind |= sent;
        }
        self.try_complete(write);
    }

    fn submit_to_peer(&mut self, write: usize, volume: usize, peer: usize, range: SectorRange) {
        let view = self.view(volume, peer);
        if view.replicates() && self.piece_limit(volume, peer, &self.writes[write].content) < range.bytes() {
            // It was cut before this peer was there, or before it was known how little it takes.
            let reason = format!("a write of {} that began before is more than this peer takes", range.bytes());
            self.lose_connection(peer, ConnectionState::NetworkFailure, &reason);
        }
        let view = self.view(volume, peer);
        if view.replicates() {
            self.mark_unallocated(volume, peer, range);
            self.send_write(write, volume, peer);
            return;
        }
        let newly = self.mark_out_of_sync(volume, range);
        if view.announces_out_of_sync() && newly > 0 {
            self.send_out_of_sync(volume, peer, range);
        }
    }

    fn submit_to_disk(&mut self, write: usize, volume: usize, range: SectorRange) {
        let fua = self.writes[write].fua;
        let offset = range.start.byte();
        let operation = match &self.writes[write].content {
            Content::Data(payload) => {
                DiskOperation::Write { area: Area::Data, offset, payload: payload.clone(), preflush: false, fua }
            }
            Content::Zeroes { unmap } => {
                DiskOperation::Zero { area: Area::Data, offset, bytes: range.bytes(), unmap: *unmap, fua }
            }
        };
        self.writes[write].local = Local::Running;
        self.volumes[volume].counters.sectors_written += range.sectors;
        self.disk_operation(volume, Pending::LocalWrite(write), operation);
    }

    /// Asks for a disk operation.
    pub(super) fn disk_operation(&mut self, volume: usize, pending: Pending, operation: DiskOperation) {
        let ticket = self.ticket(pending);
        self.volumes[volume].in_flight += 1;
        self.actions.push(Action::Disk { volume, ticket, operation });
    }

    /// Marks a range as different from every peer (and for slots that nobody owns). Returns how many bits are new.
    pub(super) fn mark_out_of_sync(&mut self, volume: usize, range: SectorRange) -> u64 {
        self.spoil_resync_writes(volume, range);
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return 0 };
        let (first, end) = range.blocks_touched();
        let before: u64 = (0..disk.bitmap.slots()).map(|slot| disk.bitmap.count(slot)).sum();
        disk.bitmap.set_everywhere(first, end, None);
        let after: u64 = (0..disk.bitmap.slots()).map(|slot| disk.bitmap.count(slot)).sum();
        after - before
    }

    /// A replicated write is still unknown to slots that no peer owns yet.
    fn mark_unallocated(&mut self, volume: usize, peer: usize, range: SectorRange) {
        let node = self.peers[peer].settings.node_id.index();
        let Some(disk) = self.volumes[volume].disk.as_mut().filter(|disk| disk.bitmap.slots() > 1) else { return };
        let slot = disk.slot(node);
        let (first, end) = range.blocks_touched();
        disk.bitmap.set_everywhere(first, end, Some(slot));
    }

    /// The data of a flush or a write is to be complete on this node: nothing of the planted bug.
    pub(super) fn skips_local_flush() -> bool {
        mutant(18)
    }
}

fn cut(content: &Content, whole: SectorRange, piece: SectorRange) -> Content {
    match content {
        Content::Zeroes { unmap } => Content::Zeroes { unmap: *unmap },
        Content::Data(payload) => {
            let from = (piece.start.0 - whole.start.0) * SECTOR_BYTES;
            Content::Data(payload.slice(from as usize..(from + piece.bytes()) as usize))
        }
    }
}
