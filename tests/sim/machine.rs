//! The one place that knows how to look into a resource.

use shimai::model::generation_id::GenerationId;
use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::model::units::BlockIndex;
use shimai::replica::Resource;

/// What laws need to know of a volume, copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) disk: DiskState,
    pub(crate) role: Role,
    pub(crate) peer_role: Role,
    pub(crate) connection: ConnectionState,
    pub(crate) peer_disk: DiskState,
    pub(crate) current: Option<GenerationId>,
    pub(crate) device_sectors: u64,
    /// Writes and disk operations that are under way or not confirmed.
    pub(crate) requests: usize,
    pub(crate) pinned: usize,
    /// Dirty blocks.
    pub(crate) dirty: Option<u64>,
}

impl Facts {
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// Connected, nothing to do, both disks good.
    pub(crate) fn is_in_sync(&self) -> bool {
        let good = self.disk == DiskState::UpToDate && self.peer_disk == DiskState::UpToDate;
        good && self.connection == ConnectionState::Connected
    }

    /// No other disk gets what is written to this one.
    pub(crate) fn is_lonely(&self) -> bool {
        !self.is_connected() || self.peer_disk < DiskState::Inconsistent
    }

    /// Somebody writes and only this side's disk gets it: a new generation may begin here.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_lonely() && (self.role == Role::Primary || self.peer_role == Role::Primary)
    }

    /// This side takes (or is about to take) the peer's data.
    pub(crate) fn is_target(&self) -> bool {
        use ConnectionState as C;
        matches!(self.connection, C::WfBitMapT | C::WfSyncUuid | C::SyncTarget | C::PausedSyncT)
    }

    pub(crate) fn short(&self) -> String {
        format!("{}/{} {} {}", self.disk, self.peer_disk, self.connection, self.role)
    }
}

pub(crate) fn facts(resource: &Resource, volume: usize) -> Facts {
    let facts = resource.volume_facts(volume);
    Facts {
        disk: facts.disk,
        role: facts.role,
        peer_role: facts.peer_role,
        connection: facts.connection,
        peer_disk: facts.peer_disk,
        current: facts.generations.map(|ids| ids.current),
        device_sectors: facts.device_sectors,
        requests: facts.writes_running + facts.writes_kept + facts.peer_writes + facts.disk_operations,
        pinned: facts.pinned,
        dirty: facts.bitmap.map(|bitmap| bitmap.count(facts.slot)),
    }
}

/// Whether the block is dirty in the machine's bitmap.
pub(crate) fn is_dirty(resource: &Resource, volume: usize, block: u64) -> bool {
    let facts = resource.volume_facts(volume);
    facts.bitmap.is_some_and(|bitmap| bitmap.is_set(facts.slot, BlockIndex(block)))
}

/// The bitmap as words; empty without a disk.
pub(crate) fn words(resource: &Resource, volume: usize) -> &[u64] {
    let facts = resource.volume_facts(volume);
    facts.bitmap.map_or(&[], |bitmap| bitmap.slot(facts.slot))
}
