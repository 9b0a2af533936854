//! Names of data generations: 64 bits, of which bit 0 is a flag ("generated, or held, by a Primary").

use std::fmt;

/// One UUID of DRBD's metadata and wire protocol. Equality of the type is equality of all 64 bits; rules compare with
/// [`GenerationId::same_as`], which masks the flag.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationId(pub u64);

impl GenerationId {
    /// An empty slot.
    pub const NONE: Self = Self(0);
    /// Fresh metadata: data unrelated to anything.
    pub const JUST_CREATED: Self = Self(4);
    /// What a sync source adds to its bitmap UUID to name the resync.
    pub const SYNC_OFFSET: u64 = 0x0001_0000_0000_0000;

    /// The value without the Primary flag; what comparisons look at.
    #[must_use]
    pub const fn masked(self) -> u64 {
        self.0 & !1
    }

    /// Whether both name the same generation, whatever their Primary flags.
    #[must_use]
    pub const fn same_as(self, other: Self) -> bool {
        self.masked() == other.masked()
    }

    /// Whether the slot is empty (the flag does not count).
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.masked() == 0
    }

    /// Whether this is fresh metadata's value.
    #[must_use]
    pub const fn is_just_created(self) -> bool {
        self.masked() == Self::JUST_CREATED.0
    }

    /// Bit 0.
    #[must_use]
    pub const fn primary_flag(self) -> bool {
        self.0 & 1 == 1
    }

    /// The same generation with bit 0 as given.
    #[must_use]
    pub const fn with_primary_flag(self, primary: bool) -> Self {
        Self(self.masked() | primary as u64)
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// The generation identifiers of one disk: what v08 and v09 metadata keep, in v09's shape.
///
/// v08 knows one peer and two history entries: it uses `bitmap[0]` and `history[0..2]`; the rest stays empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationSet {
    /// The generation of the data on this disk; bit 0 is the Primary flag.
    pub current: GenerationId,
    /// Per peer (v09: by node id; v08: only entry 0), the generation it had when our bitmap for it began to count.
    pub bitmap: [GenerationId; 32],
    /// Generations this disk once had, youngest first.
    pub history: [GenerationId; 32],
}
