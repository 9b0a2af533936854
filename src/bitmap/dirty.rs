//! Which pages of the bitmap's area on disk are older than the bits in memory.

/// A set of page numbers that is emptied from where it was last emptied.
#[derive(Clone, Debug)]
pub(super) struct DirtyPages {
    marks: Vec<u64>,
    count: usize,
    /// Where the next [`Self::take`] begins; a page just marked behind it waits for the next round.
    cursor: usize,
}

impl DirtyPages {
    pub(super) fn new(pages: usize) -> Self {
        Self { marks: vec![0; pages.div_ceil(64)], count: 0, cursor: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn is_marked(&self, page: usize) -> bool {
        self.marks.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub(super) fn mark(&mut self, page: usize) {
        let (word, bit) = (&mut self.marks[page / 64], 1 << (page % 64));
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }

    pub(super) fn unmark(&mut self, page: usize) -> bool {
        let was_marked = self.is_marked(page);
        if was_marked {
            self.marks[page / 64] &= !(1 << (page % 64));
            self.count -= 1;
        }
        was_marked
    }

    /// Follows a change of the number of pages; marks of pages cut off are forgotten.
    pub(super) fn resize(&mut self, pages: usize) {
        self.marks.resize(pages.div_ceil(64), 0);
        if let (Some(last), bits @ 1..) = (self.marks.last_mut(), pages % 64) {
            *last &= (1 << bits) - 1;
        }
        self.count = self.marks.iter().map(|word| word.count_ones() as usize).sum();
        self.cursor = 0;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.next_from(0), |&page| self.next_from(page + 1))
    }

    pub(super) fn take(&mut self, max: usize) -> Vec<usize> {
        let mut taken = Vec::with_capacity(max.min(self.count));
        while taken.len() < max {
            let Some(page) = self.next_from(self.cursor).or_else(|| self.next_from(0)) else { break };
            self.unmark(page);
            self.cursor = page + 1;
            taken.push(page);
        }
        taken
    }

    fn next_from(&self, page: usize) -> Option<usize> {
        let mut index = page / 64;
        let mut word = self.marks.get(index)? & u64::MAX << (page % 64);
        while word == 0 {
            index += 1;
            word = *self.marks.get(index)?;
        }
        Some(index * 64 + word.trailing_zeros() as usize)
    }

    pub(super) fn check(&self, pages: usize) {
        assert_eq!(self.marks.len(), pages.div_ceil(64), "a mark for each page");
        assert_eq!(self.count, self.iter().count(), "the count equals the marks");
        assert!(self.iter().all(|page| page < pages), "no mark past the last page");
    }
}
