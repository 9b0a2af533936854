//! A resource's volumes as NBD exports: `resource` (its first volume) and `resource/volume`.

use crate::control::status::ResourceStatus;
use crate::model::state::Role;
use crate::model::time::Instant;
use crate::model::units::SECTOR_BYTES;
use crate::nbd::export::{Catalogue, Export};
use crate::replica::Resource;
use crate::replica::settings::Settings;

use super::local_disk::LocalDisks;

/// What a negotiating client sees; made anew for each time it asks.
pub(super) struct Exports<'a> {
    pub(super) settings: &'a Settings,
    pub(super) resource: &'a Resource,
    pub(super) disks: &'a LocalDisks,
    pub(super) now: Instant,
}

impl Catalogue for Exports<'_> {
    fn exports(&self) -> Vec<Export> {
        names(self.settings).into_iter().map(|(name, volume)| self.export(name, volume)).collect()
    }

    fn find(&self, name: &str) -> Option<Export> {
        let volume = volume_named(self.settings, name)?;
        let name = if name.is_empty() { &self.settings.name } else { name };
        Some(self.export(name.to_owned(), volume))
    }
}

impl Exports<'_> {
    fn export(&self, name: String, volume: usize) -> Export {
        let bytes = self.resource.device_sectors(volume) * SECTOR_BYTES;
        let number = self.settings.volumes.get(volume).map_or(0, |volume| volume.number.0);
        Export {
            description: format!("volume {number} of {}", self.settings.name),
            name,
            bytes,
            read_only: false,
            rotational: self.disks.is_rotational(volume),
            // A trimmed range reads as zeroes on both replicas. Where they would have to be written nothing is won by it.
            may_trim: self.disks.zeroes_fast(volume),
            may_write_zeroes: true,
            multi_conn: true,
            refusal: self.refusal(bytes),
        }
    }

    fn refusal(&self, bytes: u64) -> Option<String> {
        let name = &self.settings.name;
        if self.resource.role() != Role::Primary {
            return Some(not_primary(&self.resource.status(self.now)));
        }
        (bytes == 0).then(|| format!("{name} has no disk here, and its size is not known"))
    }
}

/// Why a client must go elsewhere, and where to, if that is known.
fn not_primary(status: &ResourceStatus) -> String {
    let primary = status.peers.iter().find(|peer| peer.role == Role::Primary);
    let here = format!("{} is {} here", status.name, status.role);
    match primary {
        Some(peer) => format!("{here}; {} is Primary", peer.name),
        None => here,
    }
}

/// All names, each with the index of its volume.
pub(super) fn names(settings: &Settings) -> Vec<(String, usize)> {
    let whole = (!settings.volumes.is_empty()).then(|| (settings.name.clone(), 0));
    let each = settings.volumes.iter().enumerate();
    whole
        .into_iter()
        .chain(each.map(|(index, volume)| (format!("{}/{}", settings.name, volume.number), index)))
        .collect()
}

/// The volume that a client means; the empty name is the first volume's.
pub(super) fn volume_named(settings: &Settings, name: &str) -> Option<usize> {
    if name.is_empty() {
        return (!settings.volumes.is_empty()).then_some(0);
    }
    names(settings).into_iter().find(|(known, _)| known == name).map(|(_, volume)| volume)
}
