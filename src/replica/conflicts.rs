//! Who works on which sectors, and who must wait.
//!
//! Two writes in flight to the same sectors may land in either order, differently on each node; so nothing overlapping is
//! ever in flight. Every write, and every resync read or write, holds an interval from the moment it is known until it can
//! no longer disturb anyone. A newcomer waits for the earlier ones that its kind must wait for; first come, first served.
//!
//! Who waits for whom (rows wait for columns):
//!
//! ```text
//!                local write   peer write   resync write   resync read   resync pending
//! local write         x            x             x              x              x
//! peer write          x            x             x              x
//! resync write        x            x             x
//! resync read         x            x             x
//! resync pending      x                          x
//! ```
//!
//! A read that the peer asks of us counts as a resync read: it waits for what it overlaps and came before it.
//!
//! *Resync pending* is a block that we, the target, have asked for: a write of our own must not slip in and then be
//! overwritten by the older answer. The peer's writes need not wait for it: the answer comes later in the same stream, so
//! it is as new as they are. When the answer comes, the pending interval *turns* into that of the resync write: writes of our
//! own that waited for the answer go on waiting until it is written, and it waits for the peer's writes that came before it.
//!
//! Invariants: `blockers` of an entry is the number of preceding overlapping entries it waits for; it is ready at 0. Of two
//! entries that wait for each other's kind exactly one precedes.

use std::collections::BTreeMap;

use crate::model::units::SectorRange;

/// Why an interval is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    LocalWrite,
    PeerWrite,
    ResyncWrite,
    ResyncRead,
    ResyncPending,
}

impl Kind {
    const fn waits_for(self, other: Self) -> bool {
        use Kind::{LocalWrite, PeerWrite, ResyncPending, ResyncRead, ResyncWrite};
        match self {
            LocalWrite => true,
            PeerWrite => !matches!(other, ResyncPending),
            ResyncWrite | ResyncRead => matches!(other, LocalWrite | PeerWrite | ResyncWrite),
            ResyncPending => matches!(other, LocalWrite | ResyncWrite),
        }
    }
}

/// Names one held interval: its first sector and a number that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    start: u64,
    number: u64,
}

/// What is known of one held interval.
#[derive(Debug)]
struct Entry<T> {
    sectors: u64,
    /// The number from which on it has its kind: its own, or a later one if it has turned.
    since: u64,
    kind: Kind,
    blockers: u32,
    owner: T,
}

impl<T> Entry<T> {
    /// Whether it waits for another one that overlaps it. A write of our own keeps the place it had when a pending interval
    /// turned.
    fn waits(&self, held: Held, other: Held, entry: &Self) -> bool {
        let local = self.kind == Kind::LocalWrite || entry.kind == Kind::LocalWrite;
        let precedes = if local { other.number < held.number } else { entry.since < self.since };
        precedes && self.kind.waits_for(entry.kind)
    }
}

/// The set of held intervals of one volume; `T` names the owner who is told when it may begin.
#[derive(Debug)]
pub(super) struct Conflicts<T> {
    entries: BTreeMap<Held, Entry<T>>,
    next_number: u64,
    /// The longest interval since the set was last empty; bounds the search to the left.
    longest: u64,
}

impl<T: Copy> Conflicts<T> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), next_number: 0, longest: 0 }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Holds `range`. True: begin now. False: `owner` is returned by a later [`Conflicts::release`].
    pub(super) fn hold(&mut self, range: SectorRange, kind: Kind, owner: T) -> (Held, bool) {
        assert!(range.sectors > 0, "an empty interval conflicts with nothing");
        let blockers = self.overlapping(range).filter(|(_, entry)| kind.waits_for(entry.kind)).count() as u32;
        let held = Held { start: range.start.0, number: self.next_number };
        self.next_number += 1;
        self.longest = if self.entries.is_empty() { range.sectors } else { self.longest.max(range.sectors) };
        self.entries.insert(held, Entry { sectors: range.sectors, since: held.number, kind, blockers, owner });
        (held, blockers == 0)
    }

    /// An interval that was [`Kind::ResyncPending`] becomes that of the resync write. True: begin now.
    pub(super) fn turn(&mut self, held: Held, owner: T) -> bool {
        let since = self.next_number;
        self.next_number += 1;
        let turned = self.entries.get_mut(&held).expect("an interval turns while it is held");
        (turned.since, turned.kind, turned.owner) = (since, Kind::ResyncWrite, owner);
        let range = gone_range(held, turned.sectors);
        let turned = &self.entries[&held];
        let blockers =
            self.overlapping(range).filter(|&(other, entry)| turned.waits(held, *other, entry)).count() as u32;
        self.entries.get_mut(&held).expect("it has just been looked at").blockers = blockers;
        blockers == 0
    }

    /// Gives an interval up; owners that waited only for it are appended to `ready`, in order of arrival.
    pub(super) fn release(&mut self, held: Held, ready: &mut Vec<T>) {
        let gone = self.entries.remove(&held).expect("an interval is released once");
        let first = ready.len();
        let mut freed: Vec<(u64, T)> = Vec::new();
        let left = gone_range(held, gone.sectors);
        let from = Held { start: held.start.saturating_sub(self.longest), number: 0 };
        let to = Held { start: left.end().0, number: 0 };
        for (other, entry) in self.entries.range_mut(from..to) {
            if other.start + entry.sectors > held.start && entry.waits(*other, held, &gone) {
                entry.blockers -= 1;
                if entry.blockers == 0 {
                    freed.push((other.number, entry.owner));
                }
            }
        }
        freed.sort_unstable_by_key(|(number, _)| *number);
        ready.extend(freed.into_iter().map(|(_, owner)| owner));
        debug_assert!(ready.len() >= first, "release only adds");
    }

    /// Whether the holder may be at work.
    pub(super) fn is_running(&self, held: Held) -> bool {
        self.entries.get(&held).is_some_and(|entry| entry.blockers == 0)
    }

    fn overlapping(&self, range: SectorRange) -> impl Iterator<Item = (&Held, &Entry<T>)> {
        let from = Held { start: range.start.0.saturating_sub(self.longest), number: 0 };
        let to = Held { start: range.end().0, number: 0 };
        self.entries.range(from..to).filter(move |(held, entry)| held.start + entry.sectors > range.start.0)
    }
}

fn gone_range(held: Held, sectors: u64) -> SectorRange {
    SectorRange { start: crate::model::units::Sector(held.start), sectors }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::units::Sector;

    fn range(start: u64, sectors: u64) -> SectorRange {
        SectorRange { start: Sector(start), sectors }
    }

    #[test]
    fn an_overlapping_write_waits_and_begins_when_the_first_ends() {
        let mut set = Conflicts::new();
        let (first, now) = set.hold(range(0, 8), Kind::LocalWrite, 1);
        assert!(now);
        let (_, now) = set.hold(range(7, 8), Kind::LocalWrite, 2);
        assert!(!now);
        let (_, now) = set.hold(range(15, 1), Kind::LocalWrite, 3);
        assert!(now, "touching is not overlapping");
        let mut ready = Vec::new();
        set.release(first, &mut ready);
        assert_eq!(ready, [2]);
    }

    #[test]
    fn a_peer_write_does_not_wait_for_a_block_we_asked_for() {
        let mut set = Conflicts::new();
        let _ = set.hold(range(0, 8), Kind::ResyncPending, 1);
        assert!(set.hold(range(0, 8), Kind::PeerWrite, 2).1);
        assert!(!set.hold(range(0, 8), Kind::LocalWrite, 3).1);
    }

    #[test]
    fn what_waited_for_an_answer_waits_until_it_is_written() {
        let mut set = Conflicts::new();
        let (asked, _) = set.hold(range(0, 8), Kind::ResyncPending, 1);
        let (peer, _) = set.hold(range(0, 8), Kind::PeerWrite, 2);
        let (own, now) = set.hold(range(0, 8), Kind::LocalWrite, 3);
        assert!(!now);
        assert!(!set.turn(asked, 4), "the peer's write came before the answer");
        let (late, now) = set.hold(range(4, 8), Kind::PeerWrite, 5);
        assert!(!now);
        for (ended, next) in [(peer, vec![4]), (asked, vec![3]), (own, vec![5]), (late, vec![])] {
            let mut ready = Vec::new();
            set.release(ended, &mut ready);
            assert_eq!(ready, next);
        }
        assert_eq!(set.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn nothing_overlapping_runs_at_once_and_everything_runs(
            steps in proptest::collection::vec((0u64..64, 1u64..16, any::<bool>()), 1..80)
        ) {
            let mut set = Conflicts::new();
            let mut running: Vec<(usize, Held, SectorRange)> = Vec::new();
            let mut all: Vec<(Held, SectorRange)> = Vec::new();
            let mut started = 0;
            for (start, sectors, finish) in steps {
                let wanted = range(start, sectors);
                let owner = all.len();
                let (held, now) = set.hold(wanted, Kind::LocalWrite, owner);
                all.push((held, wanted));
                let mut ready = if now { vec![owner] } else { Vec::new() };
                if finish && !running.is_empty() {
                    let (_, held, _) = running.remove(0);
                    set.release(held, &mut ready);
                }
                for owner in ready {
                    for (_, _, other) in &running {
                        prop_assert!(!other.overlaps(all[owner].1));
                    }
                    running.push((owner, all[owner].0, all[owner].1));
                    started += 1;
                }
            }
            while !running.is_empty() {
                let (_, held, _) = running.remove(0);
                let mut ready = Vec::new();
                set.release(held, &mut ready);
                for owner in ready {
                    running.push((owner, all[owner].0, all[owner].1));
                    started += 1;
                }
            }
            prop_assert_eq!(started, all.len());
            prop_assert_eq!(set.len(), 0);
        }
    }
}
