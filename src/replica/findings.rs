//! What an online verify has found: which blocks are judged, and which runs of them differ.
//!
//! Verdicts come in any order. They are put in the order of the blocks, so that a run of differing blocks is one line in the
//! log and the place from which a later verify goes on has nothing unjudged before it.

use std::collections::BTreeMap;
use std::ops::Range;

/// Blocks judged ahead of one that is not. Twice what is in flight at the most with the largest `max-buffers`.
pub(super) const AHEAD_MAX: u64 = 128 << 10;

/// What was found so far.
#[derive(Debug)]
pub(super) struct Findings {
    /// All blocks before it are judged.
    next: u64,
    /// Blocks judged behind it, and whether they differ.
    ahead: BTreeMap<u64, bool>,
    /// The differing blocks at the end of what is judged.
    run: Option<Range<u64>>,
    judged: u64,
    differing: u64,
}

impl Findings {
    /// The first block to be judged.
    pub(super) fn new(first: u64) -> Self {
        Self { next: first, ahead: BTreeMap::new(), run: None, judged: 0, differing: 0 }
    }

    /// All blocks before it are judged.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// How many blocks are judged.
    pub(super) fn judged(&self) -> u64 {
        self.judged
    }

    /// How many blocks differ.
    pub(super) fn differing(&self) -> u64 {
        self.differing
    }

    /// A verdict. Returns the run of differing blocks that is known to be whole now, if there is one. A second verdict on a
    /// block counts for nothing.
    pub(super) fn note(&mut self, block: u64, differs: bool) -> Vec<Range<u64>> {
        let mut whole = Vec::new();
        if block < self.next || self.ahead.contains_key(&block) {
            return whole;
        }
        self.judged += 1;
        self.differing += u64::from(differs);
        self.ahead.insert(block, differs);
        if self.ahead.len() as u64 > AHEAD_MAX
            && let Some((first, _)) = self.ahead.first_key_value()
        {
            // A peer that leaves blocks out.
            self.next = *first;
        }
        while let Some(differs) = self.ahead.remove(&self.next) {
            whole.extend(self.pass(self.next, differs));
            self.next += 1;
        }
        whole
    }

    /// No more verdicts will come: what is known is reported as it is.
    pub(super) fn close(&mut self) -> Vec<Range<u64>> {
        let ahead = std::mem::take(&mut self.ahead);
        let mut whole: Vec<_> = ahead.into_iter().filter_map(|(block, differs)| self.pass(block, differs)).collect();
        whole.extend(self.run.take());
        whole
    }

    fn pass(&mut self, block: u64, differs: bool) -> Option<Range<u64>> {
        match (&mut self.run, differs) {
            (Some(run), true) if run.end == block => {
                run.end += 1;
                None
            }
            (_, true) => self.run.replace(block..block + 1),
            (_, false) => self.run.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_in_whatever_order_they_come() {
        for order in [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 5, 1, 4]] {
            let mut findings = Findings::new(100);
            let differs = |block| matches!(block, 1 | 2 | 3 | 6);
            let mut runs: Vec<_> =
                order.into_iter().flat_map(|block| findings.note(100 + block, differs(block))).collect();
            assert_eq!(findings.next(), 107);
            assert_eq!(runs, vec![Range { start: 101, end: 104 }], "{order:?}");
            runs.extend(findings.close());
            assert_eq!(runs, [101..104, 106..107], "{order:?}");
            assert_eq!((findings.judged(), findings.differing()), (7, 4));
        }
    }

    #[test]
    fn what_is_cut_short_goes_on_behind_the_last_that_has_none_unjudged_before_it() {
        let mut findings = Findings::new(0);
        for (block, differs) in [(0, true), (1, true), (3, true), (3, false), (0, false), (5, true)] {
            assert_eq!(findings.note(block, differs), []);
        }
        assert_eq!(findings.next(), 2);
        assert_eq!(findings.close(), [0..2, 3..4, 5..6]);
        assert_eq!((findings.judged(), findings.differing()), (4, 4));
    }

    #[test]
    fn a_block_that_nobody_judges_does_not_make_memory_grow() {
        let mut findings = Findings::new(0);
        for block in 1..AHEAD_MAX + 10 {
            findings.note(block, false);
        }
        assert_eq!(findings.next(), AHEAD_MAX + 10);
        assert_eq!(findings.ahead.len(), 0);
    }
}
