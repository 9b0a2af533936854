//! The slots that may be reused, least recently used first: a linked list threaded through two tables, so that a slot
//! joins and leaves in constant time with every request.

const END: u16 = u16::MAX;

#[derive(Clone, Debug)]
pub(super) struct IdleSlots {
    /// Per slot its neighbours; entry `slots` is the list's head and tail.
    previous: Vec<u16>,
    next: Vec<u16>,
    listed: Vec<bool>,
    len: usize,
}

impl IdleSlots {
    pub(super) fn new(slots: u16) -> Self {
        assert!(slots < END, "slot numbers end at 65533");
        let size = usize::from(slots) + 1;
        Self { previous: vec![slots; size], next: vec![slots; size], listed: vec![false; size - 1], len: 0 }
    }

    fn anchor(&self) -> u16 {
        self.listed.len() as u16
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, slot: u16) -> bool {
        self.listed[usize::from(slot)]
    }

    /// Appends as the most recently used.
    pub(super) fn push(&mut self, slot: u16) {
        assert!(!self.contains(slot), "a slot becomes idle once");
        let anchor = self.anchor();
        let last = self.previous[usize::from(anchor)];
        self.link(last, slot);
        self.link(slot, anchor);
        self.listed[usize::from(slot)] = true;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: u16) {
        assert!(self.contains(slot), "only an idle slot leaves the list");
        self.link(self.previous[usize::from(slot)], self.next[usize::from(slot)]);
        self.listed[usize::from(slot)] = false;
        self.len -= 1;
    }

    /// Least recently used first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let after = move |slot: u16| Some(self.next[usize::from(slot)]).filter(|&next| next != self.anchor());
        std::iter::successors(after(self.anchor()), move |&slot| after(slot))
    }

    fn link(&mut self, first: u16, second: u16) {
        self.next[usize::from(first)] = second;
        self.previous[usize::from(second)] = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_in_the_order_they_became_idle() {
        let mut idle = IdleSlots::new(5);
        [3, 1, 4, 0].into_iter().for_each(|slot| idle.push(slot));
        idle.remove(1);
        idle.push(1);
        idle.remove(3);
        assert_eq!(idle.iter().collect::<Vec<_>>(), [4, 0, 1]);
        assert_eq!(idle.len(), 3);
        assert!(!idle.contains(3) && idle.contains(1));
    }
}
