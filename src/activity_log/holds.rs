//! Extents that resynchronisation keeps application writes out of.

use crate::model::units::ExtentIndex;

/// The held ranges, both ends included. A range is listed as often as it is held: two resyncs may hold the same one.
/// Few at a time (each resync works on a handful of 16 MiB ranges), so a plain list.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds {
    ranges: Vec<(ExtentIndex, ExtentIndex)>,
}

impl Holds {
    pub(super) fn add(&mut self, first: ExtentIndex, last: ExtentIndex) {
        self.ranges.push((first, last));
    }

    /// Drops one hold of exactly this range; whether there was one.
    pub(super) fn remove(&mut self, first: ExtentIndex, last: ExtentIndex) -> bool {
        let position = self.ranges.iter().position(|&range| range == (first, last));
        position.map(|position| self.ranges.swap_remove(position)).is_some()
    }

    pub(super) fn touch(&self, first: ExtentIndex, last: ExtentIndex) -> bool {
        self.ranges.iter().any(|&(held_first, held_last)| held_first <= last && first <= held_last)
    }
}
