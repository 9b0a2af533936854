//! Records: who gets a slot next, what is evicted for it, and what becomes of it all when the record is durable.

use std::collections::BTreeSet;

use super::{ActivityLog, Mode, Starving, extents};
use crate::model::units::ExtentIndex;

/// Slot changes in one record.
pub const UPDATES_MAX: usize = 64;
/// Slots whose content one record repeats, so that a ring that wrapped still holds every slot.
pub const CONTEXT_MAX: u16 = 919;

/// One record to be written, with flush before it and to stable storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The record's number; its place in the ring follows from it.
    pub number: u32,
    /// Slots that change, with their new extent.
    pub updates: Vec<(u16, ExtentIndex)>,
    /// How many slots the log has.
    pub slots: u16,
    /// The first slot of the context.
    pub context_start: u16,
    /// What the slots from there on held before this record's updates.
    pub context: Vec<Option<ExtentIndex>>,
    /// Extents that lose their slot. Their bitmap pages, of all slots, must be durable before this record is written:
    /// nothing else remembers what was written there.
    pub evicted: Vec<ExtentIndex>,
}

impl ActivityLog {
    /// The next record to write, if one is due: `None` while one is being written, when nobody waits for one, and when
    /// no slot can be had for the first who waits.
    pub fn next_record(&mut self) -> Option<Plan> {
        if self.plan.is_some() {
            return None;
        }
        let (wanted, kept) = self.pick();
        if wanted.is_empty() {
            return None;
        }
        let context = self.context();
        let (updates, evicted) = self.assign(wanted, &kept);
        let plan = Plan {
            number: self.number,
            updates,
            slots: self.slots.len() as u16,
            context_start: self.context_start,
            context,
            evicted,
        };
        self.plan = Some(plan.clone());
        Some(plan)
    }

    /// Whether a record is being written.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.plan.is_some()
    }

    /// The planned record is durable: its extents are hot. Requests that may begin now are pinned and their tokens
    /// appended to `admitted`, in order.
    pub fn record_written(&mut self, admitted: &mut Vec<u64>) {
        let plan = self.plan.take().expect("a record was being written");
        self.counters.records += 1;
        self.counters.updates += plan.updates.len() as u64;
        for &(slot, extent) in &plan.updates {
            self.slots[usize::from(slot)] = Some(extent);
            self.slot_of.insert(extent, slot);
            self.strays.remove(&extent);
            if !self.pins.contains_key(&extent) {
                self.idle.push(slot);
            }
        }
        self.number = plan.number.wrapping_add(1);
        self.context_start = match plan.context_start + plan.context.len() as u16 {
            end if end >= plan.slots => 0,
            end => end,
        };
        self.admit_waiting(admitted);
    }

    /// The planned record could not be written. Whether it reached the disk is not known, so neither the evicted extents
    /// nor the new ones are hot; its slots are empty, which is safe with either content. The next record takes the same
    /// number and thereby the same place, so that the ring never holds two damaged blocks.
    pub fn record_failed(&mut self) {
        let plan = self.plan.take().expect("a record was being written");
        for &(slot, _) in plan.updates.iter().rev() {
            self.slots[usize::from(slot)] = None;
            self.free.push(slot);
        }
    }

    /// Which extents the next record should name, in order, and all extents (these and hot ones) of the requests it
    /// serves, which therefore must stay.
    fn pick(&mut self) -> (Vec<ExtentIndex>, BTreeSet<ExtentIndex>) {
        let (mut wanted, mut kept) = (Vec::new(), BTreeSet::new());
        if self.mode == Mode::Recording {
            wanted.extend(self.strays.iter().copied().take(UPDATES_MAX.min(self.free.len() + self.idle.len())));
            kept.extend(&wanted);
        }
        let mut evictable = self.idle.len();
        let starving = self.starving.take();
        for waiting in &self.waiting {
            if self.holds.touch(waiting.first, waiting.last) {
                continue;
            }
            let added: Vec<ExtentIndex> =
                extents(waiting.first, waiting.last).filter(|extent| !kept.contains(extent)).collect();
            let cold = added.iter().copied().filter(|extent| !self.slot_of.contains_key(extent));
            let needed = wanted.len() + cold.clone().count();
            let staying = added.iter().filter(|&extent| self.is_idle(*extent)).count();
            if needed > UPDATES_MAX {
                break;
            }
            if needed > self.free.len() + evictable - staying {
                let fresh = Starving { token: waiting.token, passed: 0 };
                self.starving = starving.filter(|starving| starving.token == waiting.token).or(Some(fresh));
                break;
            }
            wanted.extend(cold);
            evictable -= staying;
            kept.extend(added);
        }
        (wanted, kept)
    }

    fn is_idle(&self, extent: ExtentIndex) -> bool {
        self.slot_of.get(&extent).is_some_and(|&slot| self.idle.contains(slot))
    }

    /// Gives each wanted extent a slot: empty ones first, then the least recently used ones whose extent may go.
    fn assign(
        &mut self,
        wanted: Vec<ExtentIndex>,
        kept: &BTreeSet<ExtentIndex>,
    ) -> (Vec<(u16, ExtentIndex)>, Vec<ExtentIndex>) {
        let from_free = wanted.len().min(self.free.len());
        let mut chosen: Vec<u16> = (0..from_free).map(|_| self.free.pop().expect("counted before")).collect();
        let may_go = |slot: &u16| self.slots[usize::from(*slot)].is_some_and(|extent| !kept.contains(&extent));
        let reused: Vec<u16> = self.idle.iter().filter(may_go).take(wanted.len() - from_free).collect();
        let mut evicted = Vec::with_capacity(reused.len());
        for &slot in &reused {
            let extent = self.slots[usize::from(slot)].expect("an idle slot holds an extent");
            self.slot_of.remove(&extent);
            self.idle.remove(slot);
            evicted.push(extent);
        }
        chosen.extend(reused);
        assert_eq!(chosen.len(), wanted.len(), "slots were counted before extents were picked");
        (chosen.into_iter().zip(wanted).collect(), evicted)
    }

    /// The window of slot contents that the next record repeats.
    fn context(&self) -> Vec<Option<ExtentIndex>> {
        self.slots.iter().skip(self.context_start.into()).take(CONTEXT_MAX.into()).copied().collect()
    }
}
