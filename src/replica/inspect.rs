//! What checkers look at: the simulator's laws, and the engine's catalogue.

use super::Resource;
use super::link::Connection;
use crate::bitmap::Bitmap;
use crate::model::generation_id::GenerationSet;
use crate::model::state::{ConnectionState, DiskState, Role};

/// Facts about one volume.
#[derive(Clone, Copy, Debug)]
pub struct VolumeFacts<'a> {
    /// What our disk is worth.
    pub disk: DiskState,
    /// Our role.
    pub role: Role,
    /// The connection state towards the first peer; StandAlone without one.
    pub connection: ConnectionState,
    /// What the first peer's disk is worth.
    pub peer_disk: DiskState,
    /// The first peer's role.
    pub peer_role: Role,
    /// The generations in memory; `None` without a disk.
    pub generations: Option<&'a GenerationSet>,
    /// Size of the replicated device.
    pub device_sectors: u64,
    /// The bitmap in memory; `None` without a disk.
    pub bitmap: Option<&'a Bitmap>,
    /// The bitmap slot of the first peer.
    pub slot: usize,
    /// Pieces of application writes that are under way.
    pub writes_running: usize,
    /// Pieces whose epoch is not confirmed.
    pub writes_kept: usize,
    /// Writes of the peer that are under way.
    pub peer_writes: usize,
    /// Pins in the activity log.
    pub pinned: usize,
    /// Disk operations in flight.
    pub disk_operations: usize,
}

impl Resource {
    /// The own role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether a connection of a peer is of use: it is looked for, or connected; not StandAlone.
    #[must_use]
    pub fn expects(&self, peer: usize) -> bool {
        !matches!(self.peers[peer].connection, Connection::Off)
    }

    /// The resource's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Size of a volume's replicated device in sectors; 0 while unknown.
    #[must_use]
    pub fn device_sectors(&self, volume: usize) -> u64 {
        self.volumes[volume].device_sectors
    }

    /// The generations of a volume's disk and the index of a peer's entry; `None` without a disk.
    #[must_use]
    pub fn superblock(&self, volume: usize) -> Option<&crate::metadata::superblock::Superblock> {
        self.volumes[volume].disk.as_ref().map(|disk| &disk.superblock)
    }

    /// Facts about a volume.
    #[must_use]
    pub fn volume_facts(&self, volume: usize) -> VolumeFacts<'_> {
        let state = &self.volumes[volume];
        let disk = state.disk.as_ref();
        let view = (!self.peers.is_empty()).then(|| self.view(volume, 0));
        let node = self.peers.first().map_or(0, |peer| peer.settings.node_id.index());
        VolumeFacts {
            disk: state.disk_state,
            role: self.role,
            connection: view.map_or(ConnectionState::StandAlone, |view| view.conn),
            peer_disk: view.map_or(DiskState::Unknown, |view| view.pdsk),
            peer_role: view.map_or(Role::Unknown, |view| view.peer),
            generations: disk.map(|disk| &disk.superblock.generations),
            device_sectors: state.device_sectors,
            bitmap: disk.map(|disk| &disk.bitmap),
            slot: disk.map_or(0, |disk| disk.slot(node)),
            writes_running: state.writes_running,
            writes_kept: self.writes.iter().filter(|(_, write)| write.volume == volume).count(),
            peer_writes: self.peer_writes.iter().filter(|(key, _)| self.peer_write_volume(*key) == volume).count(),
            pinned: disk.map_or(0, |disk| disk.log.pinned_count()),
            disk_operations: state.in_flight,
        }
    }
}
