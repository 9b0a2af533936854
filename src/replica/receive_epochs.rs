//! The receiver's side of write order: what may be written now, and when an epoch is acknowledged.
//!
//! The peer's writes between two barriers are an epoch; they may be done in any order, but nothing of a later epoch may
//! reach the disk before the earlier one has been flushed. An epoch is acknowledged with the exact number of its writes,
//! failed ones included; one without writes is not acknowledged.
//!
//! ```text
//! writes of the front epoch run ─ barrier seen and all done ─▶ flush ─▶ BarrierAck ─▶ the next epoch's writes run
//! ```
//!
//! Invariants: only the front epoch has running writes; at most one flush at a time; acknowledgements in order.

use std::collections::VecDeque;

use crate::wire::packet::BarrierId;

#[derive(Debug, Default)]
struct Epoch {
    /// Writes received, in all.
    writes: u32,
    /// Writes that have ended.
    done: u32,
    barrier: Option<BarrierId>,
    flushing: bool,
    /// Writes that wait for earlier epochs.
    waiting: Vec<usize>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin this write.
    Start(usize),
    /// Flush every disk of the resource, then call [`ReceiveEpochs::flushed`].
    Flush,
    /// Send this acknowledgement.
    Acknowledge(BarrierId, u32),
}

/// Epochs received and not yet acknowledged, oldest first; the last one is open.
#[derive(Debug)]
pub(super) struct ReceiveEpochs {
    epochs: VecDeque<Epoch>,
    /// Number of the front epoch; epochs are numbered from 0 in order of arrival.
    front: u64,
}

impl ReceiveEpochs {
    pub(super) fn new() -> Self {
        Self { epochs: VecDeque::from([Epoch::default()]), front: 0 }
    }

    /// A write has arrived. Returns the epoch it belongs to and whether it may begin now.
    pub(super) fn add(&mut self, write: usize) -> (u64, bool) {
        let now = self.epochs.len() == 1;
        let number = self.front + self.epochs.len() as u64 - 1;
        let epoch = self.epochs.back_mut().expect("one epoch is always open");
        epoch.writes += 1;
        if !now {
            epoch.waiting.push(write);
        }
        (number, now)
    }

    /// A barrier has arrived: the open epoch is complete.
    pub(super) fn barrier(&mut self, barrier: BarrierId, steps: &mut Vec<Step>) {
        self.epochs.back_mut().expect("one epoch is always open").barrier = Some(barrier);
        self.epochs.push_back(Epoch::default());
        self.advance(steps);
    }

    /// A write of epoch `number` has ended, well or badly.
    pub(super) fn ended(&mut self, number: u64, steps: &mut Vec<Step>) {
        let epoch = &mut self.epochs[(number - self.front) as usize];
        epoch.done += 1;
        assert!(epoch.done <= epoch.writes, "a write ends once");
        self.advance(steps);
    }

    /// The flush that was asked for has ended well.
    pub(super) fn flushed(&mut self, steps: &mut Vec<Step>) {
        let epoch = self.epochs.pop_front().expect("the flushed epoch is there");
        assert!(epoch.flushing && epoch.done == epoch.writes, "only a complete epoch is flushed");
        self.front += 1;
        let barrier = epoch.barrier.expect("only a closed epoch is flushed");
        steps.push(Step::Acknowledge(barrier, epoch.writes));
        self.begin_front(steps);
        self.advance(steps);
    }

    /// The stream has ended: what waits may run as its turn comes; the open epoch needs no acknowledgement.
    pub(super) fn end_of_stream(&mut self, steps: &mut Vec<Step>) {
        if self.epochs.back().is_some_and(|epoch| epoch.writes > 0) {
            // Nobody reads the acknowledgement; the number only closes the epoch.
            self.barrier(BarrierId([0; 4]), steps);
        }
    }

    /// Epochs that are not acknowledged and have writes; for status.
    pub(super) fn open_epochs(&self) -> usize {
        self.epochs.iter().filter(|epoch| epoch.writes > 0).count()
    }

    /// Nothing is received and not acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        self.open_epochs() == 0
    }

    fn begin_front(&mut self, steps: &mut Vec<Step>) {
        if let Some(front) = self.epochs.front_mut() {
            steps.extend(front.waiting.drain(..).map(Step::Start));
        }
    }

    fn advance(&mut self, steps: &mut Vec<Step>) {
        while let Some(front) = self.epochs.front_mut() {
            if front.flushing || front.barrier.is_none() || front.done < front.writes {
                return;
            }
            if front.writes > 0 {
                front.flushing = true;
                steps.push(Step::Flush);
                return;
            }
            self.epochs.pop_front();
            self.front += 1;
            self.begin_front(steps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: BarrierId = BarrierId([1, 0, 0, 0]);
    const SECOND: BarrierId = BarrierId([2, 0, 0, 0]);

    #[test]
    fn a_later_epoch_waits_for_the_flush_of_the_earlier() {
        let mut epochs = ReceiveEpochs::new();
        let mut steps = Vec::new();
        let (first, now) = epochs.add(10);
        assert!(now);
        epochs.barrier(FIRST, &mut steps);
        let (second, now) = epochs.add(11);
        assert!(!now);
        epochs.ended(first, &mut steps);
        assert_eq!(steps, [Step::Flush]);
        steps.clear();
        epochs.flushed(&mut steps);
        assert_eq!(steps, [Step::Acknowledge(FIRST, 1), Step::Start(11)]);
        steps.clear();
        epochs.barrier(SECOND, &mut steps);
        epochs.ended(second, &mut steps);
        epochs.flushed(&mut steps);
        assert_eq!(steps, [Step::Flush, Step::Acknowledge(SECOND, 1)]);
        assert!(epochs.is_idle());
    }

    #[test]
    fn an_epoch_without_writes_is_not_acknowledged() {
        let mut epochs = ReceiveEpochs::new();
        let mut steps = Vec::new();
        epochs.barrier(FIRST, &mut steps);
        assert!(steps.is_empty() && epochs.is_idle());
    }
}
