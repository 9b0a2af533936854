//! Taking a backing device, and giving it back.
//!
//! ```text
//! attach: superblock ─ read ─▶ activity log ─ read ─▶ bitmap ─ read, in pieces ─▶ replay ─▶ pages ─▶ log := empty ─▶ superblock
//! close:  wait for I/O ─▶ pages ─▶ log := empty ─▶ superblock (clean) ─▶ release
//! ```
//!
//! After a crash every extent that the activity log names is marked out of sync. The order of the three writes matters: the
//! bits first, then the log that vouched for them, then the superblock. While attached the superblock says "unclean"; a disk
//! closed here can be attached by a kernel without `apply-al`.
//!
//! Not here: opening and locking the device (the engine did), what the bytes mean (`metadata`).

use bytes::Bytes;

use super::Resource;
use super::action::{Action, Area, DiskOperation, LogLevel};
use super::event::{DeviceFacts, DiskError};
use super::metadata_writer::{MetadataWriter, Then};
use super::mutant;
use super::refusal::Refusal;
use super::volume::{Disk, Pending, WRITE_BACK_INTERVAL};
use crate::activity_log::ActivityLog;
use crate::bitmap::Bitmap;
use crate::control::refusal::{ConfigurationRefusal, StateRefusal};
use crate::generation;
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::activity_record::{Replay, initialised_block, replay, slots_limit};
use crate::metadata::flags::{DeviceFlags, PeerFlags};
use crate::metadata::layout::{Format, Layout, superblock_offset};
use crate::metadata::superblock::{Superblock, UnverifiedSuperblock};
use crate::model::ids::CommandId;
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::model::units::{BLOCK_SECTORS, BlockIndex, EXTENT_BLOCKS, SECTOR_BYTES};

/// Bitmap bytes read by one operation.
const BITMAP_READ_BYTES: u64 = 1 << 20;

/// An attach under way.
#[derive(Debug)]
pub(super) struct Attach {
    command: CommandId,
    facts: DeviceFacts,
    stage: Stage,
}

impl Attach {
    /// Who asked.
    pub(super) fn command(&self) -> CommandId {
        self.command
    }
}

#[derive(Debug)]
enum Stage {
    Superblock,
    Log(Box<Superblock>, Layout),
    Bitmap {
        page: usize,
        replay: Replay,
    },
    Replayed,
    LogEmptied,
    /// Ready; the peer is comparing what it was told before.
    HandshakeEnds,
}

/// A clean close under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Draining,
    Writing,
    Closed,
}

impl Resource {
    pub(super) fn begin_attach(&mut self, command: CommandId, volume: usize, facts: DeviceFacts) {
        if self.volumes[volume].disk_state != DiskState::Diskless || self.volumes[volume].attach.is_some() {
            let refusal = Refusal::configuration(
                ConfigurationRefusal::AlreadyAttached,
                format!("volume {} has a disk already", self.volumes[volume].settings.number),
            );
            self.answer(command, Err(refusal));
            return;
        }
        let Some(offset) = superblock_offset(self.volumes[volume].settings.placement, facts.metadata_bytes) else {
            let sentence = format!("a device of {} bytes has no room for metadata", facts.metadata_bytes);
            self.actions.push(Action::ReleaseDisk { volume });
            self.answer(command, Err(Refusal::configuration(ConfigurationRefusal::MetaDiskTooSmall, sentence)));
            return;
        };
        self.set_disk_state(volume, DiskState::Attaching);
        self.volumes[volume].attach = Some(Attach { command, facts, stage: Stage::Superblock });
        self.read_metadata(volume, offset, METADATA_BLOCK_BYTES as u64);
    }

    fn read_metadata(&mut self, volume: usize, offset: u64, bytes: u64) {
        let ticket = self.ticket(Pending::Attach(volume));
        self.volumes[volume].in_flight += 1;
        let operation = DiskOperation::Read { area: Area::Metadata, offset, bytes };
        self.actions.push(Action::Disk { volume, ticket, operation });
    }

    pub(super) fn on_attach_io(&mut self, volume: usize, result: Result<Bytes, DiskError>) {
        let Some(attach) = self.volumes[volume].attach.take() else { return };
        match result {
            Ok(bytes) => self.attach_step(volume, attach, bytes),
            Err(error) => {
                let refusal = Refusal::configuration(ConfigurationRefusal::MetadataUnreadable, error.to_string());
                self.fail_attach(volume, attach.command, refusal);
            }
        }
    }

    fn attach_step(&mut self, volume: usize, attach: Attach, bytes: Bytes) {
        let Attach { command, facts, stage } = attach;
        match stage {
            Stage::Superblock => self.on_superblock_read(volume, command, facts, &bytes),
            Stage::Log(superblock, layout) => self.on_log_read(volume, command, facts, *superblock, layout, &bytes),
            Stage::Bitmap { page, replay } => self.on_bitmap_read(volume, command, facts, page, replay, &bytes),
            Stage::Replayed | Stage::LogEmptied => self.finish_log_reset(volume, command, facts),
            Stage::HandshakeEnds => unreachable!("nothing is read any more"),
        }
    }

    fn on_superblock_read(&mut self, volume: usize, command: CommandId, facts: DeviceFacts, bytes: &[u8]) {
        let placement = self.volumes[volume].settings.placement;
        let resource = self.settings.name.clone();
        let judged = UnverifiedSuperblock::decode(bytes)
            .and_then(|unverified| unverified.judge(placement, facts.metadata_bytes))
            .and_then(|(superblock, layout)| {
                let peers: Vec<_> = self.settings.peers.iter().map(|peer| peer.node_id).collect();
                superblock.check_granularity()?;
                superblock.check_node(self.settings.node_id, &peers)?;
                Ok((superblock, layout))
            });
        match judged {
            Ok((superblock, layout)) => {
                let bytes = u64::from(layout.striping.ring_blocks()) * METADATA_BLOCK_BYTES as u64;
                let offset = layout.activity_log;
                let stage = Stage::Log(Box::new(superblock), layout);
                self.volumes[volume].attach = Some(Attach { command, facts, stage });
                self.read_metadata(volume, offset, bytes);
            }
            Err(error) => {
                let refusal = Refusal::configuration(ConfigurationRefusal::NoMetadata, error.to_string());
                // New metadata over what is there would be the end of it.
                let refusal = if error.is_absence() { refusal.next(format!("create-md {resource}")) } else { refusal };
                self.fail_attach(volume, command, refusal);
            }
        }
    }

    fn on_log_read(
        &mut self,
        volume: usize,
        command: CommandId,
        facts: DeviceFacts,
        mut superblock: Superblock,
        layout: Layout,
        bytes: &[u8],
    ) {
        let sectors = match self.agreed_sectors(volume, &facts, &superblock, &layout) {
            Ok(sectors) => sectors,
            Err(refusal) => return self.fail_attach(volume, command, refusal),
        };
        self.assign_node_ids(&mut superblock);
        superblock.effective_size_sectors = sectors;
        let ring: Vec<&[u8]> = (0..layout.striping.ring_blocks())
            .map(|number| {
                let at = (layout.activity_log_block_offset(number) - layout.activity_log) as usize;
                &bytes[at..at + METADATA_BLOCK_BYTES]
            })
            .collect();
        let replay = replay(ring);
        let ring_blocks = layout.striping.ring_blocks();
        let slots = u32::from(self.volumes[volume].settings.al_extents).min(slots_limit(ring_blocks)).max(67);
        superblock.al_nr_extents = slots;
        let state = &mut self.volumes[volume];
        state.incarnations += 1;
        let blocks = sectors.div_ceil(BLOCK_SECTORS);
        let crashed = superblock.flags.contains(DeviceFlags::CRASHED_PRIMARY)
            || (superblock.format == Format::V08 && superblock.flags.contains(DeviceFlags::PRIMARY_IND));
        state.disk = Some(Disk {
            facts,
            bitmap: Bitmap::new(blocks, layout.max_peers as usize),
            log: ActivityLog::new(slots as u16, 0),
            writer: MetadataWriter::default(),
            crashed_primary: crashed && !mutant(10),
            closing: None,
            incarnation: state.incarnations,
            layout,
            superblock,
        });
        self.read_bitmap(volume, command, facts, 0, replay);
    }

    fn read_bitmap(&mut self, volume: usize, command: CommandId, facts: DeviceFacts, page: usize, replay: Replay) {
        let disk = self.volumes[volume].disk.as_ref().expect("made before its bitmap is read");
        let pages = disk.bitmap.page_count();
        if page == pages {
            return self.apply_replay(volume, command, facts, replay);
        }
        let count = (pages - page).min((BITMAP_READ_BYTES / METADATA_BLOCK_BYTES as u64) as usize);
        let offset = disk.layout.bitmap_page_offset(page);
        self.volumes[volume].attach = Some(Attach { command, facts, stage: Stage::Bitmap { page, replay } });
        self.read_metadata(volume, offset, (count * METADATA_BLOCK_BYTES) as u64);
    }

    fn on_bitmap_read(
        &mut self,
        volume: usize,
        command: CommandId,
        facts: DeviceFacts,
        mut page: usize,
        replay: Replay,
        bytes: &[u8],
    ) {
        let disk = self.volumes[volume].disk.as_mut().expect("made before its bitmap is read");
        for piece in bytes.chunks_exact(METADATA_BLOCK_BYTES) {
            disk.bitmap.load_page(page, piece);
            page += 1;
        }
        self.read_bitmap(volume, command, facts, page, replay);
    }

    /// Marks what a crash may have left different, then makes it durable in order.
    fn apply_replay(&mut self, volume: usize, command: CommandId, facts: DeviceFacts, replay: Replay) {
        let disk = self.volumes[volume].disk.as_mut().expect("made before its log is applied");
        let was_primary = disk.superblock.flags.contains(DeviceFlags::PRIMARY_IND);
        let mut sentence = None;
        match &replay {
            Replay::Hot { extents, .. } if was_primary && !mutant(11) => {
                for extent in extents {
                    let first = u64::from(extent.0) * EXTENT_BLOCKS;
                    let end = (first + EXTENT_BLOCKS).min(disk.bitmap.blocks());
                    if first < end {
                        disk.bitmap.set_everywhere(BlockIndex(first), BlockIndex(end), None);
                    }
                }
                let megabytes = extents.len() * 4;
                sentence = Some(format!("marked {megabytes} MB as out of sync from the activity log"));
            }
            Replay::Unusable { .. } if was_primary => {
                (0..disk.bitmap.slots()).for_each(|slot| disk.bitmap.set_all(slot));
                sentence = Some("the activity log is unusable: everything is marked out of sync".into());
            }
            Replay::Empty | Replay::Hot { .. } | Replay::Unusable { .. } => {}
        }
        let disabled = disk.superblock.flags.contains(DeviceFlags::AL_DISABLED);
        let mut set_all = disk.crashed_primary && disabled;
        for index in 0..32 {
            set_all |= disk.superblock.peer_flag(index, PeerFlags::FULL_SYNC);
            disk.superblock.set_peer_flag(index, PeerFlags::FULL_SYNC, false);
        }
        if set_all {
            (0..disk.bitmap.slots()).for_each(|slot| disk.bitmap.set_all(slot));
        }
        disk.after_pages(Then::ClosePages);
        let stage = if matches!(replay, Replay::Empty) { Stage::LogEmptied } else { Stage::Replayed };
        self.volumes[volume].attach = Some(Attach { command, facts, stage });
        if let Some(sentence) = sentence {
            self.log(LogLevel::Info, format!("volume {}: {sentence}", self.volumes[volume].settings.number));
        }
    }

    /// Bitmap pages are out: empty the log (if it needs it), for an attach or for a clean close.
    pub(super) fn close_with_superblock(&mut self, volume: usize) {
        if let Some(attach) = self.volumes[volume].attach.take() {
            if matches!(attach.stage, Stage::LogEmptied) {
                return self.finish_log_reset(volume, attach.command, attach.facts);
            }
            self.volumes[volume].attach = Some(attach);
            return self.empty_log(volume, false);
        }
        if !self.writes_late_bits(volume) {
            self.empty_log(volume, true);
        }
    }

    fn empty_log(&mut self, volume: usize, closing: bool) {
        let pending = if closing { Pending::CleanClose(volume) } else { Pending::Attach(volume) };
        let ticket = self.ticket(pending);
        let state = &mut self.volumes[volume];
        state.in_flight += 1;
        let disk = state.disk.as_ref().expect("only a disk that is there is emptied");
        let payload = initialised_block().repeat(disk.layout.striping.ring_blocks() as usize).into();
        let offset = disk.layout.activity_log;
        let operation = DiskOperation::Write { area: Area::Metadata, offset, payload, preflush: true, fua: true };
        self.actions.push(Action::Disk { volume, ticket, operation });
    }

    /// The log is empty: say that the disk is in use, then decide what it is worth.
    fn finish_log_reset(&mut self, volume: usize, command: CommandId, facts: DeviceFacts) {
        self.volumes[volume].attach = Some(Attach { command, facts, stage: Stage::LogEmptied });
        let disk = self.volumes[volume].disk.as_mut().expect("the disk whose log was emptied");
        disk.superblock.set_clean(false);
        disk.writer.superblock_changed();
        disk.writer.after_superblock(Then::Attached);
    }

    pub(super) fn finish_attach(&mut self, volume: usize) {
        // It may have failed while the superblock was being written.
        let Some(mut attach) = self.volumes[volume].attach.take() else { return };
        if (0..self.peers.len()).any(|peer| self.is_shaking_hands(peer)) {
            attach.stage = Stage::HandshakeEnds;
            self.volumes[volume].attach = Some(attach);
            return;
        }
        let now = self.now;
        let disk = self.volumes[volume].disk.as_ref().expect("attached");
        let flags = disk.superblock.flags;
        let from_metadata = match (flags.contains(DeviceFlags::CONSISTENT), flags.contains(DeviceFlags::WAS_UP_TO_DATE))
        {
            (false, _) => DiskState::Inconsistent,
            (true, false) => DiskState::Outdated,
            // With fencing somebody else is asked whether this copy is current, unless the peer's is known to be old.
            (true, true) if self.needs_fence(volume) => DiskState::Consistent,
            (true, true) => DiskState::UpToDate,
        };
        let state = &mut self.volumes[volume];
        state.remembered = from_metadata;
        state.write_back_at = Some(now + WRITE_BACK_INTERVAL);
        let reachable = (0..self.peers.len()).any(|peer| self.view(volume, peer).pdsk == DiskState::UpToDate);
        if self.role == Role::Primary && !reachable && from_metadata < DiskState::UpToDate {
            // Applications would read, and overwrite, data that is known to be old.
            return self.fail_attach(volume, attach.command, StateRefusal::NoUpToDateDisk.into());
        }
        if let Err(refusal) = self.may_show(volume).and_then(|()| self.settle_size(volume, reachable)) {
            return self.fail_attach(volume, attach.command, refusal);
        }
        for peer in 0..self.peers.len() {
            let index = self.generation_index(volume, peer);
            let disk = self.volumes[volume].disk.as_ref().expect("attached");
            let may_be_done = generation::resync_may_have_ended(&disk.superblock.generations, index);
            self.peers[peer].volumes[volume].target_may_be_done |= may_be_done;
        }
        // The handshake compares what the peer sends in answer to our offer, not what it sent before.
        (0..self.peers.len()).for_each(|peer| self.peers[peer].volumes[volume].uuids = None);
        let connected = (0..self.peers.len()).any(|peer| self.view(volume, peer).conn >= ConnectionState::Connected);
        let new = if connected { DiskState::Negotiating } else { from_metadata };
        self.recall_old_peers(volume);
        self.set_disk_state(volume, new);
        if connected {
            (0..self.peers.len()).for_each(|peer| self.send_attach_offer(volume, peer));
        }
        self.answer(attach.command, Ok(()));
    }

    /// Called at the end of each event: a disk that waited for a handshake comes in.
    pub(super) fn settle_attach(&mut self, volume: usize) {
        if self.volumes[volume].attach.as_ref().is_some_and(|attach| matches!(attach.stage, Stage::HandshakeEnds)) {
            self.finish_attach(volume);
        }
    }

    /// A diskless Primary shows its applications one generation; only that one may be attached.
    pub(super) fn may_show(&self, volume: usize) -> Result<(), Refusal> {
        let connected = (0..self.peers.len()).any(|peer| self.view(volume, peer).pdsk == DiskState::UpToDate);
        if connected || !self.is_passed_by(volume) {
            return Ok(());
        }
        let state = &self.volumes[volume];
        let own = state.disk.as_ref().expect("attached").superblock.generations.current;
        Err(Refusal::configuration(
            ConfigurationRefusal::DataNotCurrent,
            format!("this disk has generation {own}, applications saw {}", state.exposed),
        ))
    }

    /// Whether our applications have seen what the disk, which was away, lacks: it serves nobody before it has been compared
    /// with a disk that has it.
    pub(super) fn is_passed_by(&self, volume: usize) -> bool {
        let state = &self.volumes[volume];
        let own = state.disk.as_ref().expect("attached").superblock.generations.current;
        let other = !state.exposed.is_none() && !state.exposed.same_as(own);
        self.role == Role::Primary && (other || state.left_behind)
    }

    fn agreed_sectors(
        &self,
        volume: usize,
        facts: &DeviceFacts,
        superblock: &Superblock,
        layout: &Layout,
    ) -> Result<u64, Refusal> {
        let most = layout.usable_sectors.min(facts.data_bytes / SECTOR_BYTES);
        let agreed = superblock.effective_size_sectors;
        let wanted = self.volumes[volume].settings.size_sectors;
        if wanted > most {
            let sentence = format!("`size` asks for {wanted} sectors, the disk has room for {most}");
            return Err(Refusal::configuration(ConfigurationRefusal::DiskTooSmall, sentence));
        }
        let consistent = superblock.flags.contains(DeviceFlags::CONSISTENT);
        if consistent && agreed > most {
            let sentence = format!("the replicated device had {agreed} sectors, the disk has room for {most}");
            return Err(Refusal::configuration(ConfigurationRefusal::DiskTooSmall, sentence));
        }
        let size = if agreed == 0 { most } else { agreed.min(most) };
        let size = if wanted == 0 { size } else { size.min(wanted) };
        Ok(match self.shown_sectors(volume) {
            Some(shown) => {
                fits(shown, most)?;
                if agreed == 0 { size.min(shown) } else { size }
            }
            None => size,
        })
    }

    /// The size of the device that others see, and that does not change because a disk comes.
    fn shown_sectors(&self, volume: usize) -> Option<u64> {
        let current = self.volumes[volume].device_sectors;
        let connected = (0..self.peers.len()).any(|peer| self.view(volume, peer).conn >= ConnectionState::Connected);
        (current > 0 && (connected || self.role == Role::Primary)).then_some(current)
    }

    /// The disk is about to come in: it and the device get one size. Others may have come to see the device, or another
    /// one, while it was being attached.
    fn settle_size(&mut self, volume: usize, data_is_reachable: bool) -> Result<(), Refusal> {
        let shown = self.shown_sectors(volume);
        let is_primary = self.role == Role::Primary;
        let state = &mut self.volumes[volume];
        let disk = state.disk.as_mut().expect("attached");
        let own = disk.superblock.effective_size_sectors;
        let sectors = shown.unwrap_or(own);
        fits(sectors, disk.layout.usable_sectors.min(disk.facts.data_bytes / SECTOR_BYTES))?;
        if sectors < own && state.remembered >= DiskState::Outdated && !data_is_reachable && !is_primary {
            // Only the peer's disk is smaller, and nothing is on it that would count.
            let sentence = format!("this disk holds a device of {own} sectors, the peer has room for {sectors}");
            return Err(Refusal::configuration(ConfigurationRefusal::DiskTooSmall, sentence));
        }
        state.device_sectors = sectors;
        if sectors != own {
            disk.bitmap.resize(sectors.div_ceil(BLOCK_SECTORS), true);
            disk.superblock.effective_size_sectors = sectors;
            self.superblock_changed(volume);
        }
        Ok(())
    }

    /// v09 tables name nodes; a fresh one learns them here. A peer without a slot of the bitmap gets one that nobody has:
    /// [`Superblock::check_node`] has seen that there is one.
    fn assign_node_ids(&self, superblock: &mut Superblock) {
        if superblock.format == Format::V08 {
            return;
        }
        superblock.node_id = Some(self.settings.node_id);
        for peer in &self.settings.peers {
            let free = superblock.free_slot();
            let entry = &mut superblock.peers[peer.node_id.index()];
            entry.flags.insert(PeerFlags::NODE_EXISTS);
            entry.bitmap_index = entry.bitmap_index.or(free);
        }
    }

    fn fail_attach(&mut self, volume: usize, command: CommandId, refusal: Refusal) {
        self.volumes[volume].attach = None;
        self.log(
            LogLevel::Warn,
            format!("volume {}: attach failed: {}", self.volumes[volume].settings.number, refusal.sentence),
        );
        self.set_disk_state(volume, DiskState::Failed);
        self.release_if_drained(volume);
        self.answer(command, Err(refusal));
    }

    /// Gives a good disk back: everything in order, so that anybody can attach it.
    pub(super) fn begin_close(&mut self, volume: usize) {
        // One that is still being attached, or has failed already, goes as it is: its log may name extents that are not in
        // the bitmap yet, and metadata that it lost on the way cannot be waited for.
        let unfinished = self.volumes[volume].attach.take();
        let works = self.volumes[volume].disk_state > DiskState::Failed;
        if let Some(disk) = self.volumes[volume].disk.as_mut().filter(|disk| works && disk.closing.is_none()) {
            disk.closing = Some(Closing::Draining);
        }
        if let Some(attach) = unfinished {
            let refusal = Refusal::state(StateRefusal::InTransientState, "the disk was detached while it was attached");
            self.answer(attach.command, Err(refusal));
        }
        self.set_disk_state(volume, DiskState::Failed);
        self.on_disk_failed(volume);
        self.release_if_drained(volume);
    }

    /// Called whenever an operation has ended on a disk that is going away.
    pub(super) fn release_if_drained(&mut self, volume: usize) {
        let state = &mut self.volumes[volume];
        if state.disk_state != DiskState::Failed || state.in_flight > 0 {
            return;
        }
        match state.disk.as_mut() {
            Some(disk) if disk.closing == Some(Closing::Draining) => {
                disk.closing = Some(Closing::Writing);
                self.mark_unconfirmed(volume);
                self.volumes[volume].after_pages(Then::ClosePages);
                self.settle_disk(volume);
            }
            Some(disk) if disk.closing == Some(Closing::Writing) => {}
            _ => self.release_disk(volume),
        }
    }

    /// The log that vouches for writes which the peer has not confirmed is about to be emptied: their bits take over. Should
    /// the peer's disk fail before it has begun a generation of its own, the disks meet again as equals: then ours is the
    /// one of a Primary that went.
    fn mark_unconfirmed(&mut self, volume: usize) {
        let unconfirmed = self.writes.iter().filter(|(_, write)| write.volume == volume);
        let ranges: Vec<_> = unconfirmed.map(|(_, write)| write.range).collect();
        let leaves_as_primary = self.role == Role::Primary && !ranges.is_empty();
        for range in ranges {
            self.mark_out_of_sync(volume, range);
        }
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.crashed_primary |= leaves_as_primary;
        }
    }

    /// Bits may still be set while a disk is closed: they go out before it does.
    fn writes_late_bits(&mut self, volume: usize) -> bool {
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return false };
        let late = disk.bitmap.dirty_pages().next().is_some();
        if late {
            disk.after_pages(Then::ClosePages);
        }
        late
    }

    /// The clean superblock is out. A newer one may be on its way: a connection that ends takes back an unheard resync.
    pub(super) fn disk_is_closed(&mut self, volume: usize) {
        if self.writes_late_bits(volume) {
            return;
        }
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.closing = Some(Closing::Closed);
        }
        self.release_if_drained(volume);
    }

    pub(super) fn on_log_emptied(&mut self, volume: usize) {
        let primary = self.role == Role::Primary;
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        let superblock = &mut disk.superblock;
        superblock.flags.remove(DeviceFlags::PRIMARY_IND);
        superblock.flags.set(DeviceFlags::CRASHED_PRIMARY, disk.crashed_primary);
        if primary {
            // The Primary goes on through its peer: this copy is old from now on.
            superblock.flags.remove(DeviceFlags::WAS_UP_TO_DATE);
        }
        superblock.generations.current = superblock.generations.current.with_primary_flag(false);
        superblock.set_clean(true);
        // The pages are out.
        (0..32).for_each(|index| superblock.set_peer_flag(index, PeerFlags::FULL_SYNC, false));
        disk.writer.superblock_changed();
        disk.writer.after_superblock(Then::Closed);
    }

    pub(super) fn release_disk(&mut self, volume: usize) {
        let state = &mut self.volumes[volume];
        let mut waiters = Vec::new();
        if let Some(mut disk) = state.disk.take() {
            waiters = disk.writer.take_waiters();
        }
        state.reply_gate = None;
        state.peer_write_gate = None;
        state.write_back_at = None;
        self.actions.push(Action::ReleaseDisk { volume });
        self.set_disk_state(volume, DiskState::Diskless);
        self.on_disk_released(volume);
        for then in waiters {
            self.do_without_disk(then);
        }
    }

    /// An operator's detach that has been agreed to.
    pub(super) fn refuse_without_disk(&self, volume: usize) -> Result<(), Refusal> {
        if self.volumes[volume].disk.is_none() {
            return Err(StateRefusal::IsDiskless.into());
        }
        Ok(())
    }
}

/// Whether a device of that size has room on a disk.
fn fits(sectors: u64, most: u64) -> Result<(), Refusal> {
    if sectors <= most {
        return Ok(());
    }
    let sentence = format!("the replicated device has {sectors} sectors, the disk has room for {most}");
    Err(Refusal::configuration(ConfigurationRefusal::DiskTooSmall, sentence))
}
