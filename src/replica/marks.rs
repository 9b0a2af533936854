//! How far something had come, and when: the marks from which rates are computed.
//!
//! As DRBD has them: eight marks, at least three seconds apart.

use std::time::Duration;

use crate::model::time::Instant;

/// How many are kept.
const MARKS: usize = 8;
/// The least time between two.
const APART: Duration = Duration::from_secs(3);

/// When, and how many blocks were left then.
#[derive(Debug)]
pub(super) struct Marks {
    marks: [(Instant, u64); MARKS],
    newest: usize,
}

impl Marks {
    /// Nothing is done yet.
    pub(super) fn new(now: Instant, left: u64) -> Self {
        Self { marks: [(now, left); MARKS], newest: 0 }
    }

    /// Something has been done.
    pub(super) fn note(&mut self, now: Instant, left: u64) {
        if now.since(self.marks[self.newest].0) >= APART {
            self.newest = (self.newest + 1) % MARKS;
            self.marks[self.newest] = (now, left);
        }
    }

    /// The mark before the last: three to six seconds old once it runs that long.
    pub(super) fn recent(&self) -> (Instant, u64) {
        self.marks[(self.newest + MARKS - 1) % MARKS]
    }

    /// The oldest mark.
    pub(super) fn oldest(&self) -> (Instant, u64) {
        self.marks[(self.newest + 1) % MARKS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_three_seconds_apart_and_the_eldest_is_overwritten() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let mut marks = Marks::new(at(0), 100);
        (1..=6).for_each(|second| marks.note(at(second), 100 - second));
        assert_eq!((marks.recent(), marks.oldest()), ((at(3), 97), (at(0), 100)));
        (7..=30).for_each(|second| marks.note(at(second), 100 - second));
        assert_eq!((marks.recent(), marks.oldest()), ((at(27), 73), (at(9), 91)));
    }
}
