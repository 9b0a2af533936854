//! Bytes that wait to be sent on one socket, in order.
//!
//! Short things (reply headers) are gathered in one buffer; long ones stay where they are. Everything that is ready when
//! the loop goes to sleep leaves in one send.
//!
//! Invariant: one batch is being sent at a time; bytes count as sent when the transport has taken all of the batch.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Most bytes in one send. A larger one would tell later how far the peer has come, which is how a peer that takes
/// nothing any more is noticed.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Most pieces in one send; what one system call takes.
const BATCH_PIECES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Short things behind everything in `queue`.
    tail: BytesMut,
    queue: VecDeque<Bytes>,
    /// Bytes in `queue`.
    queued_bytes: usize,
    /// Bytes of the batch being sent.
    batch_bytes: usize,
    sent_total: u64,
}

impl Outbox {
    /// Where to append something short.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends something by reference.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.seal();
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Bytes that the transport has not taken.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.tail.len() + self.queued_bytes + self.batch_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting_bytes() == 0
    }

    /// The next bytes to send, if there are any and none are being sent.
    pub(super) fn take_batch(&mut self) -> Option<Vec<Bytes>> {
        if self.batch_bytes > 0 {
            return None;
        }
        self.seal();
        let mut batch = Vec::with_capacity(self.queue.len().min(BATCH_PIECES_MAX));
        while let Some(piece) = self.queue.front_mut()
            && batch.len() < BATCH_PIECES_MAX
            && self.batch_bytes < BATCH_BYTES_MAX
        {
            let part = piece.split_to(piece.len().min(BATCH_BYTES_MAX - self.batch_bytes));
            if piece.is_empty() {
                self.queue.pop_front();
            }
            self.batch_bytes += part.len();
            self.queued_bytes -= part.len();
            batch.push(part);
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// The batch has left; how many bytes have left in all.
    pub(super) fn on_sent(&mut self) -> u64 {
        self.sent_total += self.batch_bytes as u64;
        self.batch_bytes = 0;
        self.sent_total
    }

    /// Forgets what waits (nobody will take it).
    pub(super) fn clear(&mut self) {
        *self = Self { batch_bytes: self.batch_bytes, sent_total: self.sent_total, ..Self::default() };
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queued_bytes += self.tail.len();
            self.queue.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_between_short_and_long() {
        let mut outbox = Outbox::default();
        outbox.tail().extend_from_slice(b"ab");
        outbox.tail().extend_from_slice(b"c");
        outbox.push(Bytes::from_static(b"DEF"));
        outbox.tail().extend_from_slice(b"g");
        assert_eq!(outbox.waiting_bytes(), 7);
        assert_eq!(outbox.take_batch().unwrap().concat(), b"abcDEFg");
        outbox.push(Bytes::from_static(b"next"));
        assert_eq!(outbox.take_batch(), None, "one batch at a time");
        assert_eq!(outbox.on_sent(), 7);
        assert_eq!(outbox.take_batch().unwrap().concat(), b"next");
        assert_eq!((outbox.on_sent(), outbox.is_empty(), outbox.take_batch()), (11, true, None));
    }

    #[test]
    fn a_batch_is_bounded_and_splits_what_is_long() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from(vec![1; BATCH_BYTES_MAX + 10]));
        outbox.push(Bytes::from_static(b"end"));
        assert_eq!(outbox.take_batch().unwrap().iter().map(Bytes::len).sum::<usize>(), BATCH_BYTES_MAX);
        outbox.on_sent();
        assert_eq!(outbox.take_batch().unwrap().iter().map(Bytes::len).collect::<Vec<_>>(), [10, 3]);
    }
}
