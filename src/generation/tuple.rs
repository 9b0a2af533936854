//! What one side tells the other about its data, and what both know about the connection.

use std::fmt;

use crate::model::generation_id::GenerationId;
use crate::model::state::{DiskState, Role};

/// The identifiers of one side as they go over the wire: one peer's view of v08 and v09 metadata alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// The generation of the data.
    pub current: GenerationId,
    /// The generation the other side had when this side's bitmap began to count; none while nothing diverged.
    pub bitmap: GenerationId,
    /// Generations this side once had, youngest first.
    pub history: [GenerationId; 2],
    /// Set bits in this side's bitmap for the other.
    pub changed_blocks: u64,
    /// This side was Primary when it died and has not reconciled since.
    pub crashed_primary: bool,
    /// The operator gives up this side's changes.
    pub discard_my_data: bool,
    /// This side's disk is being attached and will be Inconsistent.
    pub inconsistent: bool,
    /// This side declared both fresh disks equal ("skip initial sync").
    pub skip_initial_sync: bool,
}

impl Tuple {
    /// The disk state that counts in a handshake: while a disk is being attached, what it is going to be.
    #[must_use]
    pub fn settled(&self, disk: DiskState) -> DiskState {
        match (disk, self.inconsistent) {
            (DiskState::Negotiating, true) => DiskState::Inconsistent,
            (DiskState::Negotiating, false) => DiskState::Consistent,
            (disk, _) => disk,
        }
    }
}

/// As DRBD writes it in the log: current, bitmap, history; then the bits and what was announced.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.history;
        write!(f, "{}:{}:{first}:{second} bits:{}", self.current, self.bitmap, self.changed_blocks)?;
        for (on, word) in [
            (self.discard_my_data, "discard-my-data"),
            (self.crashed_primary, "crashed-primary"),
            (self.inconsistent, "inconsistent"),
            (self.skip_initial_sync, "skip-initial-sync"),
        ] {
            if on {
                write!(f, " {word}")?;
            }
        }
        Ok(())
    }
}

/// What both sides know besides their tuples. The peer's context is this one mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The agreed protocol version.
    pub version: u32,
    /// Whether the feature WSAME was agreed: its presence tells that the peer knows rule 41.
    pub wsame: bool,
    /// Our role now.
    pub role: Role,
    /// The peer's role now.
    pub peer_role: Role,
    /// Whether this side resolves conflicts. Exactly one side does; it breaks ties.
    pub resolve: bool,
}

impl Context {
    /// How the peer sees it.
    #[must_use]
    pub fn mirrored(self) -> Self {
        Self { role: self.peer_role, peer_role: self.role, resolve: !self.resolve, ..self }
    }

    /// How many sides are Primary now.
    #[must_use]
    pub fn primaries(self) -> usize {
        [self.role, self.peer_role].iter().filter(|&&role| role == Role::Primary).count()
    }
}
