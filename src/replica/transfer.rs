//! The sender's side of write order: epochs of writes that the peer has not confirmed yet.
//!
//! Every write sent to the peer belongs to the epoch that is open when it is sent. A write that is completed to its
//! application closes the open epoch if it belongs to it, so that whoever saw the reply writes into a later one. The peer
//! confirms whole epochs, in order; only then is a write safe there, and only then may its extent cool.
//!
//! Invariants: epochs are confirmed in order and with the exact number of their writes; the last epoch is open.

use std::collections::VecDeque;

use crate::model::time::Instant;
use crate::wire::packet::BarrierId;

#[derive(Debug, Default)]
struct Epoch {
    writes: Vec<usize>,
    /// When its first write was sent.
    begun: Option<Instant>,
}

/// Why a confirmation does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BarrierError {
    #[error("BAD! BarrierAck #{received} received, expected #{expected}!")]
    Number { received: u32, expected: u32 },
    #[error("BAD! BarrierAck #{number} received with n_writes={received}, expected n_writes={expected}!")]
    Count { number: u32, received: u32, expected: u32 },
    #[error("BAD! BarrierAck #{received} received, but no epoch in tl!?")]
    Nothing { received: u32 },
}

/// Epochs sent and not confirmed, oldest first.
#[derive(Debug, Default)]
pub(super) struct TransferLog {
    epochs: VecDeque<Epoch>,
    /// Number of the front epoch.
    front: u64,
}

impl TransferLog {
    /// Adds a write to the open epoch; returns the epoch's number.
    pub(super) fn add(&mut self, write: usize, now: Instant) -> u64 {
        if self.epochs.is_empty() {
            self.epochs.push_back(Epoch::default());
        }
        let epoch = self.epochs.back_mut().expect("just made");
        epoch.begun.get_or_insert(now);
        epoch.writes.push(write);
        self.front + self.epochs.len() as u64 - 1
    }

    /// When the oldest unconfirmed write was sent (to within its epoch).
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.epochs.iter().find_map(|epoch| epoch.begun)
    }

    /// Writes in the open epoch.
    pub(super) fn open_writes(&self) -> usize {
        self.epochs.back().map_or(0, |epoch| epoch.writes.len())
    }

    /// Number of the open epoch.
    pub(super) fn open(&self) -> u64 {
        self.front + (self.epochs.len() as u64).max(1) - 1
    }

    /// Closes the open epoch if it has writes; the barrier to send.
    pub(super) fn close(&mut self) -> Option<BarrierId> {
        if self.open_writes() == 0 {
            return None;
        }
        let number = self.open();
        self.epochs.push_back(Epoch::default());
        Some(BarrierId((number as u32).to_ne_bytes()))
    }

    /// The peer confirms an epoch; its writes.
    pub(super) fn confirm(&mut self, barrier: BarrierId, writes: u32) -> Result<Vec<usize>, BarrierError> {
        let received = u32::from_ne_bytes(barrier.0);
        if self.epochs.len() < 2 {
            return Err(BarrierError::Nothing { received });
        }
        let expected = self.front as u32;
        if received != expected {
            return Err(BarrierError::Number { received, expected });
        }
        let count = self.epochs[0].writes.len() as u32;
        if writes != count {
            return Err(BarrierError::Count { number: received, received: writes, expected: count });
        }
        self.front += 1;
        Ok(self.epochs.pop_front().expect("two are there").writes)
    }

    /// Every epoch before this number is confirmed.
    pub(super) fn confirmed_before(&self) -> u64 {
        self.front
    }

    /// The connection is gone: every write that was not confirmed, oldest first. Nothing is expected any more.
    pub(super) fn abandon(&mut self) -> Vec<usize> {
        // Numbers go on, so that a flush that waits for an abandoned epoch sees it gone.
        self.front += (self.epochs.len() as u64).max(1);
        self.epochs.drain(..).flat_map(|epoch| epoch.writes).collect()
    }

    /// Epochs not confirmed; for status.
    pub(super) fn len(&self) -> usize {
        self.epochs.iter().filter(|epoch| !epoch.writes.is_empty()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1);

    #[test]
    fn epochs_are_confirmed_in_order_with_their_exact_count() {
        let mut log = TransferLog::default();
        assert_eq!(log.close(), None, "an epoch without writes has no barrier");
        let first = log.add(1, NOW);
        assert_eq!(log.add(2, NOW), first);
        let barrier = log.close().unwrap();
        assert!(log.add(3, NOW) > first);
        let second = log.close().unwrap();
        assert!(matches!(log.confirm(second, 1), Err(BarrierError::Number { .. })));
        assert!(matches!(log.confirm(barrier, 3), Err(BarrierError::Count { .. })));
        assert_eq!(log.confirm(barrier, 2), Ok(vec![1, 2]));
        assert_eq!(log.abandon(), [3]);
        assert!(matches!(log.confirm(second, 1), Err(BarrierError::Nothing { .. })));
    }
}
