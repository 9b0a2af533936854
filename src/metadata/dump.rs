//! The text form of metadata: what `drbdmeta dump-md` prints and `restore-md` reads, and the line of `get-gi`.
//!
//! [`parse()`] takes text of any version of the tool; [`write()`] prints what tools from 9.22 on read. Tools before 9.33
//! print the flags of v08 as zero; here they are always true. The place of the metadata is not part of the text:
//! a [`Dump`] becomes a superblock only for a [`Layout`].
//!
//! Bitmaps are kept as runs of equal words, so that a dump never takes more memory than its text.
//!
//! Not here: asking people, and writing the result to a device. The activity log is not part of a dump.

mod identifiers;
mod parse;
mod write;

pub use identifiers::{GenerationLineError, get_gi, set_gi, show_gi};
pub use parse::{DumpError, DumpProblem, parse};
pub use write::write;

use super::layout::Layout;
use super::superblock::Superblock;

/// A run of equal 64-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordRun {
    /// How many.
    pub count: u64,
    /// The word.
    pub word: u64,
}

/// The words of one slot of the bitmap, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotWords {
    /// As they stand in the text.
    pub runs: Vec<WordRun>,
}

impl SlotWords {
    /// How many words the text has for this slot.
    #[must_use]
    pub fn word_count(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
    }

    /// The first `length` words; those that the text lacks are zero.
    #[must_use]
    pub fn expand(&self, length: usize) -> Vec<u64> {
        let mut words = Vec::with_capacity(length);
        for run in &self.runs {
            let room = length - words.len();
            let count = usize::try_from(run.count).unwrap_or(room).min(room);
            words.extend(std::iter::repeat_n(run.word, count));
        }
        words.resize(length, 0);
        words
    }
}

/// Parsed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// All fields of the text; what depends on the place (area size, offsets) is zero.
    pub superblock: Superblock,
    /// The bitmap, one entry a slot.
    pub slots: Vec<SlotWords>,
}

impl Dump {
    /// The superblock for a place. `layout` must have been computed for this dump's format, slots and striping. An
    /// agreed size above what fits is cut, as the tool does.
    #[must_use]
    pub fn superblock_for(&self, layout: &Layout) -> Superblock {
        let mut superblock = self.superblock.clone();
        superblock.move_to(layout);
        superblock.effective_size_sectors = superblock.effective_size_sectors.min(layout.usable_sectors);
        superblock
    }

    /// The whole bitmap for a place: every slot in full length, zero where the text ends.
    #[must_use]
    pub fn bitmap_for(&self, layout: &Layout) -> Vec<Vec<u64>> {
        let sectors = self.superblock.effective_size_sectors.min(layout.usable_sectors);
        let length = layout.slot_words(layout.bitmap_words_bytes_for(sectors));
        self.slots.iter().map(|slot| slot.expand(length)).collect()
    }
}
