//! Which extents may differ between disk and peer after a crash.
//!
//! Before the first write into a cold extent, a record naming it reaches stable storage; after a crash only the extents
//! named by the surviving records are resynchronised. A larger set: rarer records, longer resync.
//!
//! ```text
//! begin ──► Hot: every extent is in a committed slot and none is held; they are pinned until complete
//!      └──► Queued ── next_record ──► caller makes evicted extents' bitmap pages durable, writes the record
//!                         ▲                                  │
//!                         └── record_failed ◄────────────────┴──► record_written: admitted (pinned)
//! ```
//!
//! Ask [`ActivityLog::next_record`] after each `Queued`, `complete`, `release`, `record_written` and `cancel`.
//!
//! Requests are admitted in order, except that one that is wholly hot does not wait behind one that needs a record, and
//! none waits behind one that is held back by resync. So that hot requests cannot keep every slot pinned against a
//! waiting one, they may pass it [`BYPASS_MAX`] times once it found no slot to evict.
//!
//! Invariants: a write is begun only in a hot extent (while recording); an extent leaves the set only when no request is
//! in it; an extent has one slot; at most one record is being written.
//!
//! Not here: the record's bytes (`metadata::activity_record`), when to write (the caller performs the action).

mod holds;
mod idle;
mod plan;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::holds::Holds;
use self::idle::IdleSlots;
pub use self::plan::{CONTEXT_MAX, Plan, UPDATES_MAX};
use crate::model::units::ExtentIndex;

/// The fewest slots a log may have, DRBD's lower limit. More than one record's worth of changes, so that any one request
/// fits when nothing else is in flight.
pub const SLOTS_MIN: u16 = 67;
/// The most slots: slot numbers from 65534 on mean "unused" on disk.
pub const SLOTS_MAX: u16 = 65534;
/// How many hot requests may pass one that found no slot to evict. Large enough that a full queue of the fastest client
/// drains meanwhile, small enough that the wait stays within some tens of milliseconds.
pub const BYPASS_MAX: u32 = 256;

/// The answer to [`ActivityLog::begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Every extent is pinned; the write may go to disk and peers now.
    Hot,
    /// The token waits, for a record or for resync; it will be named in a later `admitted`.
    Queued,
}

/// Whether extents need records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The rule.
    #[default]
    Recording,
    /// No record is needed: all bits are set anyway, or the operator chose a full resync after a crash. Extents are
    /// still pinned, because resync must know where writes are in flight.
    Disabled,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that were written.
    pub records: u64,
    /// Slot changes in them.
    pub updates: u64,
    /// Requests that were hot at once.
    pub hits: u64,
    /// Requests that had to wait.
    pub misses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    token: u64,
    first: ExtentIndex,
    last: ExtentIndex,
}

/// A waiting request that needs slots while all are pinned, and how many hot requests passed it since.
#[derive(Clone, Copy, Debug)]
struct Starving {
    token: u64,
    passed: u32,
}

/// The activity log of one volume.
#[derive(Clone, Debug)]
pub struct ActivityLog {
    mode: Mode,
    /// What each slot holds, as the last durable record has it.
    slots: Vec<Option<ExtentIndex>>,
    /// Where each usable extent is; an extent that a planned record evicts is no longer here.
    slot_of: BTreeMap<ExtentIndex, u16>,
    /// Requests in flight per extent.
    pins: BTreeMap<ExtentIndex, u32>,
    /// Pinned extents without a slot: begun while records were off. Records must name them once they are on again.
    strays: BTreeSet<ExtentIndex>,
    /// Committed slots whose extent nobody pins.
    idle: IdleSlots,
    /// Empty slots, the next to use last.
    free: Vec<u16>,
    waiting: VecDeque<Waiting>,
    holds: Holds,
    /// The record being written.
    plan: Option<Plan>,
    /// The number of the next record.
    number: u32,
    /// The first slot of the next record's context.
    context_start: u16,
    /// The waiting request that last found no slot to evict.
    starving: Option<Starving>,
    counters: Counters,
}

impl ActivityLog {
    /// An empty log; `next_number` may be anything when the ring on disk is freshly initialised, since the place in the
    /// ring follows from the number alone.
    #[must_use]
    pub fn new(slots: u16, next_number: u32) -> Self {
        assert!((SLOTS_MIN..=SLOTS_MAX).contains(&slots), "slots were clamped by whoever read the configuration");
        Self {
            mode: Mode::Recording,
            slots: vec![None; slots.into()],
            slot_of: BTreeMap::new(),
            pins: BTreeMap::new(),
            strays: BTreeSet::new(),
            idle: IdleSlots::new(slots),
            free: (0..slots).rev().collect(),
            waiting: VecDeque::new(),
            holds: Holds::default(),
            plan: None,
            number: next_number,
            context_start: 0,
            starving: None,
            counters: Counters::default(),
        }
    }

    /// A write that touches the extents `first..=last` (at most [`UPDATES_MAX`]) wants to begin.
    pub fn begin(&mut self, token: u64, first: ExtentIndex, last: ExtentIndex) -> Begin {
        assert!(first <= last && (last.0 - first.0) < UPDATES_MAX as u32, "one record can name a request's extents");
        if self.may_pass() && self.is_admissible(first, last) {
            self.counters.hits += 1;
            self.count_pass();
            self.pin(first, last);
            return Begin::Hot;
        }
        self.counters.misses += 1;
        self.waiting.push_back(Waiting { token, first, last });
        Begin::Queued
    }

    /// A begun write has ended: durable here and settled with every peer.
    pub fn complete(&mut self, first: ExtentIndex, last: ExtentIndex) {
        for extent in extents(first, last) {
            let pins = self.pins.get_mut(&extent).expect("only a begun request completes");
            *pins -= 1;
            if *pins == 0 {
                self.pins.remove(&extent);
                self.strays.remove(&extent);
                if let Some(&slot) = self.slot_of.get(&extent) {
                    self.idle.push(slot);
                }
            }
        }
    }

    /// Gives up a waiting request; false if none waits under this token.
    pub fn cancel(&mut self, token: u64) -> bool {
        let position = self.waiting.iter().position(|waiting| waiting.token == token);
        self.starving.take_if(|starving| starving.token == token);
        position.and_then(|position| self.waiting.remove(position)).is_some()
    }

    /// Switches records off or on. Requests that wait stay queued (records go on for them); to let them on at once, call
    /// [`Self::admit_waiting`].
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Pins every waiting request that may begin and appends its token to `admitted`, in order.
    pub fn admit_waiting(&mut self, admitted: &mut Vec<u64>) {
        for waiting in std::mem::take(&mut self.waiting) {
            let is_starving = self.starving.is_some_and(|starving| starving.token == waiting.token);
            if !(is_starving || self.may_pass()) || !self.is_admissible(waiting.first, waiting.last) {
                self.waiting.push_back(waiting);
                continue;
            }
            if is_starving {
                self.starving = None;
            }
            self.count_pass();
            self.pin(waiting.first, waiting.last);
            admitted.push(waiting.token);
        }
    }

    /// Resync wants the extents `first..=last` for itself: from now on no write begins there. Returns whether none is in
    /// flight there; if not, ask [`Self::is_held_free`] later. Holds nest: each needs its own [`Self::release`].
    pub fn hold(&mut self, first: ExtentIndex, last: ExtentIndex) -> bool {
        self.holds.add(first, last);
        self.is_held_free(first, last)
    }

    /// Whether no write is in flight in `first..=last`.
    #[must_use]
    pub fn is_held_free(&self, first: ExtentIndex, last: ExtentIndex) -> bool {
        self.pins.range(first..=last).next().is_none()
    }

    /// Resync is done with the extents; those who waited only for that are admitted.
    pub fn release(&mut self, first: ExtentIndex, last: ExtentIndex, admitted: &mut Vec<u64>) {
        if self.holds.remove(first, last) {
            self.admit_waiting(admitted);
        }
    }

    /// Whether a write waits that touches `first..=last`. Resync then hurries, or gives the extents back.
    #[must_use]
    pub fn waiters_on(&self, first: ExtentIndex, last: ExtentIndex) -> bool {
        self.waiting.iter().any(|waiting| waiting.first <= last && first <= waiting.last)
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// The extents that may be written without a record.
    pub fn hot_extents(&self) -> impl Iterator<Item = ExtentIndex> + '_ {
        self.slot_of.keys().copied()
    }

    /// How many extents have a write in flight.
    #[must_use]
    pub fn pinned_count(&self) -> usize {
        self.pins.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether every extent with a write in flight is named by a durable record. After records were switched on again,
    /// the caller must keep treating the volume as all out of sync until this holds.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.strays.is_empty()
    }

    fn is_admissible(&self, first: ExtentIndex, last: ExtentIndex) -> bool {
        let needs_no_record =
            self.mode == Mode::Disabled || extents(first, last).all(|extent| self.slot_of.contains_key(&extent));
        needs_no_record && !self.holds.touch(first, last)
    }

    /// Whether a hot request may begin although some other waits for slots.
    fn may_pass(&self) -> bool {
        self.starving.is_none_or(|starving| starving.passed < BYPASS_MAX)
    }

    fn count_pass(&mut self) {
        if let Some(starving) = &mut self.starving {
            starving.passed += 1;
        }
    }

    fn pin(&mut self, first: ExtentIndex, last: ExtentIndex) {
        for extent in extents(first, last) {
            let pins = self.pins.entry(extent).or_default();
            *pins += 1;
            if *pins > 1 {
                continue;
            }
            match self.slot_of.get(&extent) {
                Some(&slot) => self.idle.remove(slot),
                None => drop(self.strays.insert(extent)),
            }
        }
    }

    /// Asserts the invariants; slow.
    pub fn check(&self) {
        for (&extent, &slot) in &self.slot_of {
            assert_eq!(self.slots[usize::from(slot)], Some(extent), "the index points at the extent's slot");
            let is_pinned = !self.pins.is_empty() && self.pins.contains_key(&extent);
            assert_eq!(self.idle.contains(slot), !is_pinned, "idle means committed and unpinned");
        }
        for &extent in self.pins.keys() {
            assert!(
                self.slot_of.contains_key(&extent) != self.strays.contains(&extent),
                "pinned: in a slot, or a stray"
            );
        }
        assert!(self.strays.iter().all(|extent| self.pins.contains_key(extent)), "a stray is pinned");
        assert!(self.pins.values().all(|&pins| pins > 0), "no empty pins");
        let changing = self.plan.as_ref().map_or(0, |plan| plan.updates.len());
        assert_eq!(self.slot_of.len() + self.free.len() + changing, self.slots.len(), "each slot is in one place");
        assert_eq!(self.idle.len(), self.idle.iter().count(), "the idle list is whole");
        self.check_plan();
    }

    fn check_plan(&self) {
        let Some(plan) = &self.plan else { return };
        assert!((1..=UPDATES_MAX).contains(&plan.updates.len()), "a record names 1 to 64 changes");
        for &(slot, extent) in &plan.updates {
            assert!(!self.slot_of.contains_key(&extent), "an extent on its way is not hot yet");
            assert!(!self.idle.contains(slot) && !self.free.contains(&slot), "a slot being changed is not to be had");
        }
    }
}

fn extents(first: ExtentIndex, last: ExtentIndex) -> impl Iterator<Item = ExtentIndex> {
    (first.0..=last.0).map(ExtentIndex)
}
