//! In which order a volume's metadata reaches its disk.
//!
//! Three kinds of writes: the superblock (always the newest contents, one write at a time, preceded by a flush and itself
//! stable), bitmap pages (plain writes, made stable by the flush that precedes the next superblock or record), and activity
//! records (one at a time, only after the pages of the extents they evict; preceded by a flush and themselves stable).
//!
//! "Only after it is durable" is a [`Then`]: what to do when the superblock as it is *now*, or every page that is dirty *now*,
//! has been written.
//!
//! Invariants: no two writes of the same page, superblock or log block are in flight at once; a record is begun only when
//! every page it depends on has been written.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::action::{Action, Area, DiskOperation};
use super::attach::Closing;
use super::volume::{Disk, Pending, WRITE_BACK_INTERVAL};
use super::{Resource, mutant};
use crate::activity_log::Plan;
use crate::control::refusal::StateRefusal;
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::activity_record::{ActivityRecord, RecordKind};
use crate::metadata::flags::DeviceFlags;
use crate::model::ids::CommandId;
use crate::model::state::Role;
use crate::model::units::{BlockIndex, EXTENT_BLOCKS};

/// Neighbouring pages written by one operation: 256 KiB, a size every disk takes at once.
const PAGES_PER_WRITE: usize = 64;
/// Page writes in flight at once.
const PAGE_WRITES_MAX: usize = 8;

/// What follows when something is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Answer the operator.
    Answer(CommandId),
    /// All bits are out: answer the operator when the superblock is.
    Invalidated(CommandId),
    /// The superblock says that the disk is in use: the attach is done.
    Attached,
    /// Promotion is durable: applications may write.
    Promoted,
    /// A forced generation is durable: tell the peer, then take the role.
    Forced,
    /// Bits are out: write the superblock of a Secondary.
    DemotedPages,
    /// The role Secondary is durable.
    Demoted,
    /// Bitmap pages of the source are out: begin as source towards this peer.
    SourcePages(usize),
    /// The resync's id is durable at the source: tell the target.
    SourceReady(usize),
    /// The target's cleared bits are out: write the common generation.
    TargetPagesFinal(usize),
    /// Bitmap pages of the target are out: take the resync's generation.
    TargetPages(usize),
    /// The target's superblock names the resync: foreign writes may begin.
    TargetReady(usize),
    /// The target's data, bitmap and generation are final: tell the peer.
    TargetFinished(usize),
    /// Pages are out: write the final superblock of a clean close.
    ClosePages,
    /// The clean superblock is out: let go of the disk.
    Closed,
    /// The new generation is durable: tell the peer of it.
    TellPeers,
    /// Every bit that the activity log vouched for is out: the superblock may say that no Primary writes here any more.
    RoleOver(u64),
}

/// Pages that must have been written: page → smallest submission that counts.
type PagesNeeded = BTreeMap<usize, u64>;

/// An activity record on its way.
#[derive(Debug)]
struct RecordInFlight {
    record: Bytes,
    offset: u64,
    needed: PagesNeeded,
    writing: bool,
}

/// The order of metadata writes of one disk.
#[derive(Debug, Default)]
pub(super) struct MetadataWriter {
    /// Version of the superblock in memory that must reach the disk.
    wanted: u64,
    writing: Option<u64>,
    durable: u64,
    superblock_waiters: Vec<(u64, Then)>,
    pages_wanted: BTreeSet<usize>,
    /// Pages in flight and their submission numbers.
    pages_writing: BTreeMap<usize, u64>,
    page_writes: usize,
    submissions: u64,
    page_waiters: Vec<(PagesNeeded, Then)>,
    record: Option<RecordInFlight>,
    role_over: RoleOver,
    role_overs: u64,
}

/// Whether PRIMARY_IND may be cleared: only after the bits that the activity log stood for are on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RoleOver {
    /// Nobody has asked since a Primary wrote here.
    #[default]
    Unasked,
    /// The bits are on their way.
    Waiting,
    Done,
}

impl MetadataWriter {
    /// The superblock in memory has changed. Returns the version that will be durable when it has been written.
    pub(super) fn superblock_changed(&mut self) -> u64 {
        self.wanted += 1;
        self.wanted
    }

    /// `then` follows when the superblock as it is now is durable.
    pub(super) fn after_superblock(&mut self, then: Then) {
        self.superblock_waiters.push((self.wanted, then));
    }

    /// Whether the superblock in memory is the one on the disk.
    pub(super) fn superblock_is_durable(&self) -> bool {
        self.durable == self.wanted
    }

    /// A resync with this peer is given up: what it waited for must not begin the next one, whose bitmaps are still to be
    /// merged and whose id is another one.
    pub(super) fn forget_resync(&mut self, peer: usize) {
        let stale =
            [Then::SourcePages(peer), Then::SourceReady(peer), Then::TargetPages(peer), Then::TargetReady(peer)];
        self.page_waiters.retain(|(_, then)| !stale.contains(then));
        self.superblock_waiters.retain(|(_, then)| !stale.contains(then));
    }

    /// Everything that waits; the disk is gone, so it waits for nothing.
    pub(super) fn take_waiters(&mut self) -> Vec<Then> {
        let pages = std::mem::take(&mut self.page_waiters).into_iter().map(|(_, then)| then);
        pages.chain(std::mem::take(&mut self.superblock_waiters).into_iter().map(|(_, then)| then)).collect()
    }

    pub(super) fn is_durable(&self, version: u64) -> bool {
        self.durable >= version
    }
}

impl Disk {
    /// `then` follows when every page that is dirty now has been written.
    pub(super) fn after_pages(&mut self, then: Then) {
        let dirty: Vec<usize> = self.bitmap.dirty_pages().collect();
        let needed = self.need_pages(dirty.into_iter(), true);
        self.writer.page_waiters.push((needed, then));
    }

    /// What PRIMARY_IND says: the truth, except that it stays until the bits are on the disk, because the activity log
    /// counts only with it.
    fn keeps_primary_mark(&mut self, primary_here: bool) -> bool {
        let marked = self.superblock.flags.contains(DeviceFlags::PRIMARY_IND);
        match (primary_here, self.writer.role_over) {
            (true, _) => self.writer.role_over = RoleOver::Unasked,
            (false, RoleOver::Unasked) if marked => {
                self.writer.role_over = RoleOver::Waiting;
                self.writer.role_overs += 1;
                self.after_pages(Then::RoleOver(self.writer.role_overs));
            }
            (false, _) => {}
        }
        primary_here || (marked && self.writer.role_over == RoleOver::Waiting)
    }

    fn need_pages(&mut self, dirty: impl Iterator<Item = usize>, all_in_flight: bool) -> PagesNeeded {
        let writer = &mut self.writer;
        let mut needed: PagesNeeded = PagesNeeded::new();
        if all_in_flight {
            needed.extend(writer.pages_writing.iter().map(|(page, number)| (*page, *number)));
        }
        for page in dirty {
            writer.pages_wanted.insert(page);
            needed.insert(page, writer.submissions + 1);
        }
        needed
    }

    /// The pages of extents that leave the log: dirty ones must be written, those in flight must arrive.
    fn need_evicted(&mut self, plan: &Plan) -> PagesNeeded {
        let mut needed = PagesNeeded::new();
        for extent in &plan.evicted {
            let first = BlockIndex(u64::from(extent.0) * EXTENT_BLOCKS);
            let end = BlockIndex((first.0 + EXTENT_BLOCKS).min(self.bitmap.blocks()));
            for page in self.bitmap.pages_of(first, end) {
                if self.bitmap.is_dirty(page) {
                    needed.extend(self.need_pages(std::iter::once(page), false));
                } else if let Some(number) = self.writer.pages_writing.get(&page) {
                    needed.insert(page, *number);
                }
            }
        }
        needed
    }
}

fn encode_record(plan: &Plan) -> Bytes {
    let record = ActivityRecord {
        number: plan.number,
        kind: RecordKind::Update,
        updates: plan.updates.iter().map(|(slot, extent)| (*slot, Some(*extent))).collect(),
        slots: plan.slots,
        context_start: plan.context_start,
        context: plan.context.clone(),
    };
    Bytes::copy_from_slice(&record.encode())
}

impl Resource {
    /// Begins every metadata write that may begin.
    pub(super) fn settle_disk(&mut self, volume: usize) {
        self.begin_superblock(volume);
        self.begin_record(volume);
        self.begin_pages(volume);
        self.finish_page_waiters(volume);
        self.finish_superblock_waiters(volume);
    }

    fn metadata_write(&mut self, volume: usize, offset: u64, payload: Bytes, stable: bool, pending: Pending) {
        let ticket = self.ticket(pending);
        self.volumes[volume].in_flight += 1;
        let operation = DiskOperation::Write { area: Area::Metadata, offset, payload, preflush: stable, fua: stable };
        self.actions.push(Action::Disk { volume, ticket, operation });
    }

    fn begin_superblock(&mut self, volume: usize) {
        let flushes = self.volumes[volume].settings.md_flushes;
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        if disk.writer.writing.is_some() || disk.writer.wanted == disk.writer.durable {
            return;
        }
        disk.writer.writing = Some(disk.writer.wanted);
        let bytes = Bytes::copy_from_slice(&disk.superblock.encode());
        let offset = disk.layout.superblock;
        self.metadata_write(volume, offset, bytes, flushes, Pending::Superblock(volume));
    }

    pub(super) fn on_superblock_written(&mut self, volume: usize) {
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        let version = disk.writer.writing.take().expect("one superblock write is in flight");
        disk.writer.durable = version;
        self.open_gates(volume);
    }

    fn finish_superblock_waiters(&mut self, volume: usize) {
        while let Some(disk) = self.volumes[volume].disk.as_mut() {
            let writer = &mut disk.writer;
            let Some(index) = writer.superblock_waiters.iter().position(|(version, _)| *version <= writer.durable)
            else {
                return;
            };
            let (_, then) = writer.superblock_waiters.remove(index);
            self.continue_with(volume, then);
        }
    }

    fn begin_record(&mut self, volume: usize) {
        let flushes = self.volumes[volume].settings.md_flushes && !mutant(2);
        let Some(disk) = self.volumes[volume].usable_disk() else { return };
        if disk.writer.record.is_none() {
            let Some(plan) = disk.log.next_record() else { return };
            let needed = if mutant(3) { PagesNeeded::new() } else { disk.need_evicted(&plan) };
            let offset = disk.layout.activity_log_block_offset(plan.number);
            disk.writer.record = Some(RecordInFlight { record: encode_record(&plan), offset, needed, writing: false });
        }
        let record = disk.writer.record.as_mut().expect("just made");
        if record.writing || !record.needed.is_empty() {
            return;
        }
        record.writing = true;
        let (offset, payload) = (record.offset, record.record.clone());
        self.volumes[volume].counters.activity_writes += 1;
        self.metadata_write(volume, offset, payload, flushes, Pending::ActivityRecord(volume));
    }

    pub(super) fn on_record_written(&mut self, volume: usize) {
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        disk.writer.record = None;
        let mut admitted = Vec::new();
        disk.log.record_written(&mut admitted);
        if self.volumes[volume].has_disk() {
            // Otherwise the disk has been given up meanwhile, and those who waited went on without it.
            self.run_admitted(volume, &admitted);
        }
    }

    fn begin_pages(&mut self, volume: usize) {
        loop {
            let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
            if disk.writer.page_writes >= PAGE_WRITES_MAX {
                return;
            }
            let free = |page: &&usize| !disk.writer.pages_writing.contains_key(page);
            let Some(first) = disk.writer.pages_wanted.iter().find(free).copied() else { return };
            let run: Vec<usize> = (first..first + PAGES_PER_WRITE)
                .take_while(|page| {
                    disk.writer.pages_wanted.contains(page) && !disk.writer.pages_writing.contains_key(page)
                })
                .collect();
            self.write_pages(volume, run);
        }
    }

    fn write_pages(&mut self, volume: usize, run: Vec<usize>) {
        let disk = self.volumes[volume].disk.as_mut().expect("the caller has seen it");
        disk.writer.submissions += 1;
        let number = disk.writer.submissions;
        let mut bytes = vec![0; run.len() * METADATA_BLOCK_BYTES];
        for (page, out) in run.iter().zip(bytes.chunks_exact_mut(METADATA_BLOCK_BYTES)) {
            disk.writer.pages_wanted.remove(page);
            disk.writer.pages_writing.insert(*page, number);
            disk.bitmap.take_page(*page);
            disk.bitmap.encode_page(*page, out);
        }
        disk.writer.page_writes += 1;
        let offset = disk.layout.bitmap_page_offset(run[0]);
        self.volumes[volume].counters.bitmap_writes += run.len() as u64;
        self.metadata_write(volume, offset, bytes.into(), false, Pending::BitmapPages(volume, run));
    }

    pub(super) fn on_pages_written(&mut self, volume: usize, pages: &[usize]) {
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        let writer = &mut disk.writer;
        writer.page_writes -= 1;
        for page in pages {
            let number = writer.pages_writing.remove(page).expect("the page was in flight");
            let needed = writer.page_waiters.iter_mut().map(|(needed, _)| needed);
            for needed in needed.chain(writer.record.iter_mut().map(|record| &mut record.needed)) {
                if needed.get(page).is_some_and(|least| number >= *least) {
                    needed.remove(page);
                }
            }
        }
    }

    fn finish_page_waiters(&mut self, volume: usize) {
        while let Some(disk) = self.volumes[volume].disk.as_mut() {
            let Some(index) = disk.writer.page_waiters.iter().position(|(needed, _)| needed.is_empty()) else {
                return;
            };
            let (_, then) = disk.writer.page_waiters.remove(index);
            self.continue_with(volume, then);
        }
    }

    /// Writes changed pages from time to time, so that a crash forgets little of a resync's progress.
    pub(super) fn on_write_back_timer(&mut self, volume: usize) {
        let now = self.now;
        let state = &mut self.volumes[volume];
        if state.write_back_at.is_none_or(|at| at > now) {
            return;
        }
        state.write_back_at = Some(now + WRITE_BACK_INTERVAL);
        if let Some(disk) = state.usable_disk() {
            let dirty: Vec<usize> = disk.bitmap.dirty_pages().collect();
            disk.writer.pages_wanted.extend(dirty);
        }
    }

    /// The superblock in memory has changed; flags follow the state. Returns its version.
    pub(super) fn superblock_changed(&mut self, volume: usize) -> Option<u64> {
        self.stirred = true;
        let begins = self.refresh_flags(volume);
        let secondary = self.role != Role::Primary;
        let state = &mut self.volumes[volume];
        let version = state.disk.as_mut()?.writer.superblock_changed();
        if begins && secondary {
            // A Primary without a disk: the superblock must tell of its writes before the first one is begun.
            state.peer_write_gate = Some(state.peer_write_gate.map_or(version, |gate| gate.max(version)));
        }
        Some(version)
    }

    /// The disk went away before `then` could follow: whoever waits for an answer gets one.
    pub(super) fn do_without_disk(&mut self, then: Then) {
        match then {
            Then::Answer(id) | Then::Invalidated(id) => self.answer(id, Err(StateRefusal::IsDiskless.into())),
            Then::DemotedPages | Then::Demoted => self.demoted_on_disk(),
            // `promotion_lost_disk` has seen to these.
            Then::Promoted | Then::Forced => {}
            Then::Attached | Then::ClosePages | Then::Closed | Then::TellPeers | Then::RoleOver(_) => {}
            Then::SourcePages(_) | Then::SourceReady(_) => {}
            Then::TargetPages(_) | Then::TargetReady(_) | Then::TargetPagesFinal(_) | Then::TargetFinished(_) => {}
        }
    }

    fn continue_with(&mut self, volume: usize, then: Then) {
        self.stirred = true;
        match then {
            Then::Answer(id) => self.answer(id, Ok(())),
            Then::Invalidated(id) => self.after_superblock(volume, Then::Answer(id)),
            Then::Attached => self.finish_attach(volume),
            Then::Promoted => self.promoted_on_disk(volume),
            Then::Forced => self.forced_generation_is_durable(volume),
            Then::DemotedPages => self.demoted_pages(volume),
            Then::Demoted => self.demoted_on_disk(),
            Then::SourcePages(peer) => self.begin_source(volume, peer),
            Then::SourceReady(peer) => self.source_is_ready(volume, peer),
            Then::TargetPagesFinal(peer) => self.target_pages_are_final(volume, peer),
            Then::TargetPages(peer) => self.begin_target(volume, peer),
            Then::TargetReady(peer) => self.target_is_ready(volume, peer),
            Then::TargetFinished(peer) => self.target_is_finished(volume, peer),
            Then::ClosePages => self.close_with_superblock(volume),
            Then::Closed => self.disk_is_closed(volume),
            Then::TellPeers => self.tell_generation(volume),
            Then::RoleOver(number) => self.role_is_over(volume, number),
        }
    }

    /// The superblock's flags, from the state (drbd-metadata: "Flags: when set, when cleared").
    ///
    /// True if from now on writes of a Primary may be under way here.
    fn refresh_flags(&mut self, volume: usize) -> bool {
        let facts = self.flag_facts(volume);
        let state = self.volumes[volume].disk_state;
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return false };
        if matches!(disk.closing, Some(Closing::Writing | Closing::Closed)) {
            // The last words of a clean close stand.
            return false;
        }
        let was_primary = disk.superblock.flags.contains(DeviceFlags::PRIMARY_IND);
        let primary = disk.keeps_primary_mark(facts.primary_here);
        let crashed = disk.crashed_primary;
        let superblock = &mut disk.superblock;
        let v09 = superblock.format == crate::metadata::layout::Format::V09;
        let mut set = |flag, on| superblock.flags.set(flag, on);
        if state >= crate::model::state::DiskState::Inconsistent {
            set(DeviceFlags::CONSISTENT, state > crate::model::state::DiskState::Inconsistent);
            set(DeviceFlags::WAS_UP_TO_DATE, state > crate::model::state::DiskState::Outdated);
        }
        set(DeviceFlags::PRIMARY_IND, primary);
        set(DeviceFlags::CRASHED_PRIMARY, crashed || (v09 && primary));
        for (node, connected, outdated) in facts.peers {
            let index = disk.peer_index(node);
            let superblock = &mut disk.superblock;
            superblock.set_peer_flag(index, crate::metadata::flags::PeerFlags::CONNECTED, connected);
            superblock.set_peer_flag(index, crate::metadata::flags::PeerFlags::OUTDATED, outdated);
        }
        primary && !was_primary
    }

    fn role_is_over(&mut self, volume: usize, number: u64) {
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        if disk.writer.role_over == RoleOver::Waiting && disk.writer.role_overs == number {
            disk.writer.role_over = RoleOver::Done;
            self.superblock_changed(volume);
        }
    }
}
