//! Why a volume has no disk: what its last attach died of, who detached it, or the error after which it was given up.
//!
//! What is remembered is about the disk that was there last: an attach that ends well forgets it, also one whose asker has
//! gone, and a new error replaces the one that a disk has survived.
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
    /// To attach; the stores are being opened.
    Open,
    /// To attach; the machine has the stores.
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
            (Some((volume, Aim::Open | Aim::Attach)), Ok(())) => self.set(volume, None),
            (Some((volume, Aim::Open | Aim::Attach)), Err(refusal)) => self.set(volume, Some(refusal.sentence.clone())),
            (Some((volume, Aim::Detach)), Ok(())) => self.set(volume, Some(DETACHED.to_owned())),
            (Some((_, Aim::Detach)), Err(_)) | (None, _) => {}
        }
    }

    /// The stores are open; from here on the attach goes to its end, whoever waits for it.
    pub(super) fn opened(&mut self, id: CommandId) {
        if let Some((_, aim @ Aim::Open)) = self.commands.get_mut(&id) {
            *aim = Aim::Attach;
        }
    }

    /// Nobody waits for the outcome. Only what is still being opened has none.
    pub(super) fn give_up(&mut self, id: CommandId) {
        if matches!(self.commands.get(&id), Some((_, Aim::Open))) {
            self.commands.remove(&id);
        }
    }

    /// The disk has failed at something. While it is there that is news; what comes after it was given up is a consequence.
    pub(super) fn failed(&mut self, volume: usize, is_there: bool, error: &str) {
        if is_there || self.of(volume).is_none() {
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
        command(&mut reasons, 1, Aim::Open, refused());
        assert_eq!(reasons.of(0), Some("Need access to UpToDate data"));
        command(&mut reasons, 2, Aim::Attach, Ok(()));
        assert_eq!(reasons.of(0), None);
        reasons.failed(0, true, "Remote I/O error");
        reasons.failed(0, true, "No space left on device");
        reasons.failed(0, false, "Input/output error");
        assert_eq!(reasons.of(0), Some("No space left on device"), "the last error that it had while it was there");
        command(&mut reasons, 3, Aim::Attach, Ok(()));
        command(&mut reasons, 4, Aim::Detach, refused());
        assert_eq!(reasons.of(0), None);
        command(&mut reasons, 5, Aim::Detach, Ok(()));
        assert_eq!(reasons.of(0), Some(DETACHED));
    }

    #[test]
    fn an_attach_that_nobody_waits_for_is_forgotten_only_while_it_can_still_be_taken_back() {
        let mut reasons = DiskReasons::new(1);
        let refused = || Err(Refusal::from(StateRefusal::NoUpToDateDisk));
        reasons.failed(0, true, "No space left on device");
        reasons.begin(CommandId(1), 0, Aim::Open);
        reasons.give_up(CommandId(1));
        reasons.complete(CommandId(1), &refused());
        assert_eq!(reasons.of(0), Some("No space left on device"), "it has not touched the disk");
        for (id, result, expected) in [(2, refused(), Some("Need access to UpToDate data")), (3, Ok(()), None)] {
            reasons.begin(CommandId(id), 0, Aim::Open);
            reasons.opened(CommandId(id));
            reasons.give_up(CommandId(id));
            reasons.complete(CommandId(id), &result);
            assert_eq!(reasons.of(0), expected);
        }
    }
}
