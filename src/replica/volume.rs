//! A volume: its disk, who works on which of its sectors, what waits.

use std::collections::VecDeque;
use std::time::Duration;

use super::attach::Attach;
use super::conflicts::Conflicts;
use super::event::{DeviceFacts, Request};
use super::metadata_writer::{MetadataWriter, Then};
use super::settings::VolumeSettings;
use crate::activity_log::ActivityLog;
use crate::bitmap::Bitmap;
use crate::metadata::layout::{Format, Layout};
use crate::metadata::superblock::Superblock;
use crate::model::state::DiskState;
use crate::model::time::Instant;

/// How often changed bitmap pages are written while nothing forces them.
pub(super) const WRITE_BACK_INTERVAL: Duration = Duration::from_secs(2);

/// Who holds an interval of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Write(usize),
    PeerWrite(usize),
    ResyncWrite(usize),
    ResyncRead(usize),
    PeerRead(usize),
    /// The first block of a range that we, the target, want to ask for.
    ResyncPending(u64),
    /// A block that a verify compares.
    Comparison(usize),
}

/// What a ticket was for.
#[derive(Debug)]
pub(super) enum Pending {
    Attach(usize),
    Superblock(usize),
    BitmapPages(usize, Vec<usize>),
    ActivityRecord(usize),
    /// Activity log blocks initialised at a clean detach.
    CleanClose(usize),
    LocalWrite(usize),
    LocalFlush(usize, usize),
    LocalRead(usize),
    PeerWrite(usize),
    /// The flush at the end of one of the peer's epochs: volume, peer.
    EpochFlush(usize, usize),
    PeerRead(usize),
    SourceRead(usize),
    TargetWrite(usize),
    /// Volume, the resync's number, first sector.
    TargetChecksum(usize, u64, u64),
    /// Flush before resync writes are acknowledged: volume, peer, the resync's number.
    TargetFlush(usize, usize, u64),
    /// A block of a verify.
    Comparison(usize),
}

/// An attached (or failing) backing device.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) facts: DeviceFacts,
    pub(super) layout: Layout,
    pub(super) superblock: Superblock,
    pub(super) bitmap: Bitmap,
    pub(super) log: ActivityLog,
    pub(super) writer: MetadataWriter,
    /// Was Primary when it died, and has not been reconciled since.
    pub(super) crashed_primary: bool,
    /// A clean close is under way.
    pub(super) closing: Option<super::attach::Closing>,
    /// Grows with every attach: a pin in the activity log belongs to one incarnation of the disk.
    pub(super) incarnation: u64,
}

impl Disk {
    /// Where a peer's entry is in the set of generations, in the table of peers, and (through it) which bitmap slot is its.
    pub(super) fn peer_index(&self, node_id: usize) -> usize {
        match self.superblock.format {
            Format::V08 => 0,
            Format::V09 => node_id,
        }
    }

    /// The bitmap slot of a peer.
    pub(super) fn slot(&self, node_id: usize) -> usize {
        match self.superblock.format {
            Format::V08 => 0,
            Format::V09 => self.superblock.peers[node_id].bitmap_index.unwrap_or(0) as usize,
        }
    }
}

/// Counters for status; sectors and operations since the volume came up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) sectors_read: u64,
    pub(super) sectors_written: u64,
    pub(super) activity_writes: u64,
    pub(super) bitmap_writes: u64,
}

/// A volume of the resource.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) settings: VolumeSettings,
    pub(super) disk_state: DiskState,
    /// Size of the replicated device; 0 while unknown.
    pub(super) device_sectors: u64,
    pub(super) disk: Option<Disk>,
    pub(super) attach: Option<Attach>,
    /// What the metadata said at attach, while the handshake decides (Negotiating).
    pub(super) remembered: DiskState,
    pub(super) conflicts: Conflicts<Owner>,
    /// Requests that may not begin now, oldest first.
    pub(super) blocked: VecDeque<Request>,
    /// Writes that began before a handshake or a resync forbade it, and have not been submitted.
    pub(super) postponed: Vec<usize>,
    /// Writes whose reply waits for a new generation (or the door), oldest first.
    pub(super) frozen: Vec<super::completion::Frozen>,
    /// The generation that must be durable before a reply leaves: a version of the superblock.
    pub(super) reply_gate: Option<u64>,
    /// The superblock that says Primary: no request begins before it is durable.
    pub(super) promotion_gate: Option<u64>,
    /// The peer's writes wait until this version of the superblock is durable (Inconsistent before the first foreign write).
    pub(super) peer_write_gate: Option<u64>,
    pub(super) gated_peer_writes: Vec<usize>,
    pub(super) openers: u32,
    /// Disk operations in flight.
    pub(super) in_flight: usize,
    /// Pieces of application writes between submission and completion.
    pub(super) writes_running: usize,
    pub(super) flushes: slab::Slab<super::flush::Flush>,
    pub(super) write_back_at: Option<Instant>,
    /// The generation that a diskless Primary shows to its applications.
    pub(super) exposed: crate::model::generation_id::GenerationId,
    pub(super) counters: Counters,
    /// While we had no disk, writes went to the peer alone: what our disk holds is old until a handshake says otherwise.
    pub(super) left_behind: bool,
    pub(super) incarnations: u64,
}

impl Volume {
    pub(super) fn new(settings: VolumeSettings) -> Self {
        Self {
            settings,
            disk_state: DiskState::Diskless,
            device_sectors: 0,
            disk: None,
            attach: None,
            remembered: DiskState::Diskless,
            conflicts: Conflicts::new(),
            blocked: VecDeque::new(),
            postponed: Vec::new(),
            frozen: Vec::new(),
            reply_gate: None,
            promotion_gate: None,
            peer_write_gate: None,
            gated_peer_writes: Vec::new(),
            openers: 0,
            in_flight: 0,
            writes_running: 0,
            flushes: slab::Slab::new(),
            write_back_at: None,
            exposed: crate::model::generation_id::GenerationId::NONE,
            counters: Counters::default(),
            left_behind: false,
            incarnations: 0,
        }
    }

    /// The disk, if it may be used: attached and not failed.
    pub(super) fn usable_disk(&mut self) -> Option<&mut Disk> {
        let usable = self.disk_state >= DiskState::Negotiating;
        self.disk.as_mut().filter(|_| usable)
    }

    /// Whether local data may be written and (with its bits' consent) read.
    pub(super) fn has_disk(&self) -> bool {
        self.disk.is_some() && self.disk_state >= DiskState::Negotiating
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.write_back_at
    }

    /// `then` follows when every page that is dirty now has been written.
    pub(super) fn after_pages(&mut self, then: Then) {
        if let Some(disk) = &mut self.disk {
            disk.after_pages(then);
        }
    }

    /// Asks for the superblock to be written and `then` to follow; see [`MetadataWriter`].
    pub(super) fn after_superblock(&mut self, then: Then) {
        if let Some(disk) = &mut self.disk {
            disk.writer.after_superblock(then);
        }
    }
}
