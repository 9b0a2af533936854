//! Why a volume has no disk: what its last attach died of, who detached it, or the error after which it was given up.
//!
//! For people alone. The machine decides what becomes of a disk and does not remember it; an operator who finds the volume
//! Diskless hours later wants to know whether to look for a full file system or a colleague.

use std::collections::BTreeMap;

use crate::model::ids::CommandId;
use crate::replica::refusal::Refusal;

/// What is told of a disk that an operator let go.
const DETACHED: &str = "an operator detached it";

/// What is known of each volume's last disk.
#[derive(Debug)]
pub(super) struct DiskReasons {
    volumes: Vec<Option<String>>,
    /// Commands under way, with the volume and what it means if they succeed.
    commands: BTreeMap<CommandId, (usize, Aim)>,
}

/// What a command is to do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    Attach,
    Detach,
}

impl DiskReasons {
    pub(super) fn new(volumes: usize) -> Self {
        Self { volumes: vec![None; volumes], commands: BTreeMap::new() }
    }

    /// Somebody asks for it; the outcome follows.
    pub(super) fn begin(&mut self, id: CommandId, volume: usize, aim: Aim) {
        self.commands.insert(id, (volume, aim));
    }

    /// How a command ended, if it was one about a disk.
    pub(super) fn complete(&mut self, id: CommandId, result: &Result<(), Refusal>) {
        match (self.commands.remove(&id), result) {
            (Some((volume, Aim::Attach)), Ok(())) => self.set(volume, None),
            (Some((volume, Aim::Attach)), Err(refusal)) => self.set(volume, Some(refusal.sentence.clone())),
            (Some((volume, Aim::Detach)), Ok(())) => self.set(volume, Some(DETACHED.to_owned())),
            (Some((_, Aim::Detach)), Err(_)) | (None, _) => {}
        }
    }

    /// Nobody waits for the outcome, and of an attach there will be none.
    pub(super) fn give_up(&mut self, id: CommandId) {
        self.commands.remove(&id);
    }

    /// The disk has failed at something. What came after is a consequence.
    pub(super) fn failed(&mut self, volume: usize, error: &str) {
        if self.volumes.get(volume).is_some_and(Option::is_none) {
            self.set(volume, Some(error.to_owned()));
        }
    }

    /// Why the volume has no disk, if it has none.
    pub(super) fn of(&self, volume: usize) -> Option<&str> {
        self.volumes.get(volume).and_then(Option::as_deref)
    }

    fn set(&mut self, volume: usize, reason: Option<String>) {
        if let Some(place) = self.volumes.get_mut(volume) {
            *place = reason;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::refusal::StateRefusal;

    #[test]
    fn the_last_thing_that_took_the_disk_away_is_remembered() {
        let mut reasons = DiskReasons::new(1);
        let command = |reasons: &mut DiskReasons, id: u64, aim, result: Result<(), Refusal>| {
            reasons.begin(CommandId(id), 0, aim);
            reasons.complete(CommandId(id), &result);
        };
        let refused = || Err(Refusal::from(StateRefusal::NoUpToDateDisk));
        assert_eq!(reasons.of(0), None);
        command(&mut reasons, 1, Aim::Attach, refused());
        assert_eq!(reasons.of(0), Some("Need access to UpToDate data"));
        command(&mut reasons, 2, Aim::Attach, Ok(()));
        assert_eq!(reasons.of(0), None);
        reasons.failed(0, "No space left on device");
        reasons.failed(0, "there is no disk");
        assert_eq!(reasons.of(0), Some("No space left on device"), "the first error is the cause");
        command(&mut reasons, 3, Aim::Attach, Ok(()));
        command(&mut reasons, 4, Aim::Detach, refused());
        assert_eq!(reasons.of(0), None);
        command(&mut reasons, 5, Aim::Detach, Ok(()));
        assert_eq!(reasons.of(0), Some(DETACHED));
    }
}
