//! A host: its process, its disks, its clock; and the engine's part of the disks.

use bytes::Bytes;
use shimai::metadata::activity_record::initialised_block;
use shimai::metadata::layout::{Format, Layout};
use shimai::metadata::superblock::{DeviceFlags, Superblock};
use shimai::model::generation_id::GenerationId;
use shimai::model::ids::{NodeId, Ticket};
use shimai::model::time::Instant;
use shimai::replica::Resource;
use shimai::replica::action::{Area, DiskOperation};
use shimai::replica::event::Event;

use crate::disk::{Disk, Span};
use crate::profile::{Profile, name};
use crate::rng::{Rng, mix};
use crate::world::{Happening, Place, World};

/// A running process.
pub(crate) struct Process {
    pub(crate) resource: Resource,
    pub(crate) timer: Option<Place>,
    /// Volumes whose device the engine holds open.
    pub(crate) holds: Vec<bool>,
    /// A connection has been asked for and has begun.
    pub(crate) connecting: bool,
    /// The machine has given up connecting by itself.
    pub(crate) refused: bool,
}

/// A host.
pub(crate) struct Node {
    pub(crate) process: Option<Process>,
    pub(crate) life: u32,
    /// One for the data of each volume; then one for the metadata of each, if that is external.
    pub(crate) disks: Vec<Disk>,
    pub(crate) stalled_until: u64,
    /// Failing operations that are still to come, in this many of 1000 cases.
    pub(crate) errors_left: u32,
    clock_offset: u64,
    clock_rate: u64,
}

impl World {
    pub(crate) fn begin_disk(&mut self, node: usize, volume: usize, ticket: Ticket, operation: DiskOperation) {
        self.hash = mix(self.hash ^ ticket.0);
        if area_of(&operation) == Area::Data {
            self.before_data_operation(node, volume, &operation);
        }
        let device = match area_of(&operation) {
            Area::Data => volume,
            Area::Metadata => self.profile.metadata_device(volume),
        };
        let manner = self.profile.manner(node, device);
        let rng = &mut self.rng.disk;
        let mut delay = rng.within(manner.latency_min, manner.latency_max);
        if rng.chance(manner.tail) {
            delay *= rng.within(5, 100);
        }
        let host = &mut self.nodes[node];
        let fails = host.errors_left > 0 && rng.chance(300);
        host.errors_left -= u32::from(fails);
        let end = (self.now + delay).max(host.stalled_until + rng.below(delay));
        if self.verbose {
            let text = describe(&operation);
            self.note(|| format!("{}: disk {device} #{} {text}", name(node), ticket.0));
        }
        if !self.nodes[node].process.as_ref().is_some_and(|process| process.holds[volume]) {
            self.fail(
                "R2",
                format!("{} uses the disk of volume {volume} without holding it: {operation:?}", name(node)),
            );
            return;
        }
        let life = self.nodes[node].life;
        // What metadata on a device of its own says of the data is flushed before.
        let others = if device == volume { 0 } else { self.nodes[node].disks[volume].ended() };
        match self.nodes[node].disks[device].begin(life, ticket, operation, fails, others, &mut self.rng.disk) {
            Ok(number) => {
                self.at(end, Happening::DiskEnds { node, device, number });
            }
            Err(text) => self.fail("D7", format!("{}, device {device}: {text}", name(node))),
        }
    }

    pub(crate) fn on_disk_end(&mut self, node: usize, device: usize, number: u64) {
        let Some(ended) = self.nodes[node].disks[device].end(number, &mut self.rng.disk) else { return };
        if device >= self.volumes() {
            let data = device - self.volumes();
            self.nodes[node].disks[data].stabilise(ended.proves);
        }
        let may_arrive = self.profile.is_asynchronous() && device < self.volumes();
        if let Some(span) = ended.changed.filter(|_| may_arrive) {
            let views = [0, 1].map(|on| &self.nodes[on].disks[device].view);
            self.oracle.arrive(device, node, span, views);
        }
        if ended.incarnation == self.nodes[node].life && self.is_up(node) {
            if self.verbose {
                let well = ended.result.is_ok();
                self.note(|| format!("{}: disk {device} #{} ended, well: {well}", name(node), ended.ticket.0));
            }
            self.deliver(node, Event::Disk { ticket: ended.ticket, result: ended.result });
        }
    }

    pub(crate) fn release_disk(&mut self, node: usize, volume: usize) {
        self.note(|| format!("{}: releases disk {volume}", name(node)));
        if !self.nodes[node].is_idle(&self.profile, volume) {
            self.fail("R2", format!("{} releases disk {volume} with operations in flight", name(node)));
        }
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.holds[volume] = false;
        }
    }
}

impl Node {
    pub(crate) fn new(profile: &Profile, layouts: &[Layout], node: usize) -> Self {
        let bytes = |volume| profile.data_bytes(node, volume);
        let mut disks: Vec<Disk> = (0..layouts.len()).map(|volume| Disk::new(bytes(volume))).collect();
        for volume in 0..layouts.len() {
            if profile.external.is_some() {
                disks.push(Disk::new(profile.metadata_bytes(volume)));
            }
            prepare(&mut disks[profile.metadata_device(volume)], profile, &profile.own_layout(node, volume), node);
        }
        Self {
            process: None,
            life: 0,
            disks,
            stalled_until: 0,
            errors_left: 0,
            clock_offset: 1_000_000_000 * (node as u64 + 1),
            clock_rate: profile.clock_rate[node],
        }
    }

    /// The device that holds a volume's metadata.
    pub(crate) fn metadata(&self, profile: &Profile, volume: usize) -> &Disk {
        &self.disks[profile.metadata_device(volume)]
    }

    /// A volume's devices lose power. Returns what may have changed of the data.
    pub(crate) fn lose_power(&mut self, profile: &Profile, volume: usize, rng: &mut Rng) -> Vec<Span> {
        let metadata = profile.metadata_device(volume);
        if metadata != volume {
            let proves = self.disks[metadata].lose_power(rng).proves;
            self.disks[volume].stabilise(proves);
        }
        self.disks[volume].lose_power(rng).spans
    }

    /// Nothing is under way on a volume's devices.
    pub(crate) fn is_idle(&self, profile: &Profile, volume: usize) -> bool {
        self.disks[volume].is_idle() && self.metadata(profile, volume).is_idle()
    }

    pub(crate) fn clock(&self, now: u64) -> Instant {
        Instant::from_nanos(self.clock_offset + now * self.clock_rate / 1000)
    }

    /// When this node's clock will have reached that instant.
    pub(crate) fn world_time(&self, instant: Instant) -> u64 {
        (instant.as_nanos().saturating_sub(self.clock_offset).min(u64::MAX / 4000) * 1000).div_ceil(self.clock_rate)
    }
}

/// Writes metadata as `create-md` leaves it, or as a pair that was in sync would.
fn prepare(disk: &mut Disk, profile: &Profile, layout: &Layout, node: usize) {
    let mut superblock = Superblock::fresh(layout);
    if profile.born_in_sync && profile.odd_disk.is_none_or(|(odd, _)| odd != node) {
        superblock.generations.current = GenerationId(mix(profile.seed) & !1 | 16);
        superblock.flags = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE | DeviceFlags::AL_CLEAN;
        superblock.effective_size_sectors = layout.usable_sectors;
        if layout.format == Format::V09 {
            superblock.node_id = NodeId::new(node as u8);
            superblock.peers[1 - node].bitmap_index = Some(0);
        }
    }
    disk.untorn = (layout.format == Format::V09).then_some(layout.superblock / 512);
    disk.prepare(layout.superblock, &Bytes::copy_from_slice(&superblock.encode()));
    for number in 0..layout.striping.ring_blocks() {
        disk.prepare(layout.activity_log_block_offset(number), &Bytes::copy_from_slice(&initialised_block()));
    }
}

fn area_of(operation: &DiskOperation) -> Area {
    match operation {
        DiskOperation::Read { area, .. }
        | DiskOperation::Write { area, .. }
        | DiskOperation::Zero { area, .. }
        | DiskOperation::Flush { area } => *area,
    }
}

fn describe(operation: &DiskOperation) -> String {
    match operation {
        DiskOperation::Read { offset, bytes, .. } => format!("read {} +{}", offset / 512, bytes / 512),
        DiskOperation::Write { offset, payload, preflush, fua, .. } => {
            let flags = [(*preflush, " preflush"), (*fua, " fua")].map(|(on, text)| if on { text } else { "" });
            format!("write {} +{}{}{}", offset / 512, payload.len() / 512, flags[0], flags[1])
        }
        DiskOperation::Zero { offset, bytes, .. } => format!("zero {} +{}", offset / 512, bytes / 512),
        DiskOperation::Flush { .. } => "flush".into(),
    }
}
