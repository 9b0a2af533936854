//! One connected socket: what has come, what is to leave, and its end.
//!
//! ```text
//!   Open ──end──► Draining ──all sent and a while over, or patience──► Ended ──nothing in flight──► may be dropped
//!     └─────────────────────────end at once──────────────────────────▲
//! ```
//!
//! Invariants: at most one receive and one send are in flight; nothing is received after `end`; the descriptor is closed
//! only when neither is in flight.

use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::tag::Tag;
use crate::io::buffer::CHUNK_BYTES;
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Completion, Operation, Outcome, Pieces, Ring, receive_now};
use crate::io::tcp;
use crate::model::time::Instant;
use crate::replica::action::Closing;

/// How long the other end may take to read what it is sent before a graceful end.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// How long a lingering connection stays open, so that the other end can act on what it has read.
const LINGER: Duration = Duration::from_secs(1);

/// How long nobody is accepted after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Said when the other end has closed.
const CLOSED: &str = "the other end closed the connection";

/// What a small frame counts when one after the other is taken at once: some hundred of them are a pass, too.
const MORE_BYTES_MIN: usize = 2 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    Draining { earliest: Instant, latest: Instant },
    Ended,
}

#[derive(Debug)]
pub(super) struct Stream {
    descriptor: Descriptor,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    life: Life,
    is_receiving: bool,
    is_sending: bool,
}

impl Stream {
    pub(super) fn new(descriptor: Descriptor, inbox: Inbox) -> Self {
        let (outbox, life) = (Outbox::default(), Life::Open);
        Self { descriptor, inbox, outbox, life, is_receiving: false, is_sending: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.life == Life::Open
    }

    /// Whether it may be dropped.
    pub(super) fn is_over(&self) -> bool {
        self.life == Life::Ended && !self.is_receiving && !self.is_sending
    }

    /// When `pump` must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.life {
            Life::Draining { earliest, latest } => Some(if self.outbox.is_empty() { earliest } else { latest }),
            Life::Open | Life::Ended => None,
        }
    }

    /// Ends the connection. Nothing is received from now on.
    pub(super) fn end(&mut self, now: Instant, how: Closing, ring: &mut Ring) {
        let is_over = match how {
            Closing::AtOnce => true,
            Closing::Drained => self.outbox.is_empty(),
            Closing::Lingering => false,
        };
        match self.life {
            Life::Open if !is_over => {
                let earliest = if how == Closing::Lingering { now + LINGER } else { now };
                self.life = Life::Draining { earliest, latest: now + DRAIN_PATIENCE };
            }
            Life::Open | Life::Draining { .. } => self.shut_down(ring),
            Life::Ended => {}
        }
    }

    /// Begins what can begin. Cheap when there is nothing to do. While the ring is full nothing begins; the completion that
    /// makes room is followed by another pass.
    ///
    /// # Errors
    /// The ring refuses the operation: the connection is of no use.
    pub(super) fn pump(
        &mut self,
        now: Instant,
        may_receive: bool,
        tags: (Tag, Tag),
        ring: &mut Ring,
    ) -> Result<(), String> {
        if let Life::Draining { earliest, latest } = self.life
            && (self.outbox.is_empty() && earliest <= now || latest <= now)
        {
            self.shut_down(ring);
        }
        if self.life == Life::Ended {
            return Ok(());
        }
        if !self.is_sending
            && !ring.is_full()
            && let Some(batch) = self.outbox.take_batch()
        {
            let operation = Operation::SendMsg { socket: self.descriptor.clone(), pieces: pieces(batch) };
            ring.push_tagged(operation, tags.1.encode()).map_err(|refused| refused.to_string())?;
            self.is_sending = true;
        }
        if !self.is_receiving && may_receive && self.life == Life::Open && !ring.is_full() {
            let operation = self.inbox.receive(self.descriptor.clone());
            ring.push_tagged(operation, tags.0.encode()).map_err(|refused| refused.to_string())?;
            self.is_receiving = true;
        }
        Ok(())
    }

    /// A receive ended: the bytes it brought, or why there will be no more. Nothing after `end`.
    pub(super) fn on_received(&mut self, completion: Completion, out: &mut Vec<Bytes>) -> Result<(), String> {
        self.is_receiving = false;
        let result = match completion.result {
            Ok(Outcome::Transferred(0)) => Err(CLOSED.to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        self.inbox.on_received(completion.operation, out);
        if !self.is_open() {
            out.clear();
            return Ok(());
        }
        result.and_then(|()| self.receive_more(out))
    }

    /// Takes the frames that have come meanwhile, while each receive brings all it asked for. A receive of a single frame
    /// costs less here than in a pass of the loop of its own.
    fn receive_more(&mut self, out: &mut Vec<Bytes>) -> Result<(), String> {
        let mut left = CHUNK_BYTES;
        while left > 0 && self.inbox.was_filled() {
            let mut operation = self.inbox.receive(self.descriptor.clone());
            let result = receive_now(&mut operation).transpose();
            self.inbox.on_received(operation, out);
            let count = result.map_err(|error| error.to_string())?.unwrap_or(0);
            left = left.saturating_sub(count.max(MORE_BYTES_MIN));
        }
        Ok(())
    }

    /// A send ended: how many bytes have left in all.
    pub(super) fn on_sent(&mut self, completion: &Completion) -> Result<u64, String> {
        self.is_sending = false;
        let total = self.outbox.on_sent();
        match &completion.result {
            Ok(_) => Ok(total),
            Err(error) => Err(error.to_string()),
        }
    }

    fn shut_down(&mut self, ring: &mut Ring) {
        self.life = Life::Ended;
        self.outbox.clear();
        // Wakes what is in flight. It waits for nobody, so where the ring has no room for it it is done here.
        let operation = Operation::Shutdown { socket: self.descriptor.clone(), how: Shutdown::Both };
        if ring.push_tagged(operation, Tag::Ignored.encode()).is_err()
            && let Err(error) = tcp::shut_down(&self.descriptor)
        {
            tracing::warn!(%error, "a socket could not be shut down");
        }
    }
}

/// Waits for one connection on a listener, or (after an error that would come again at once, as for want of descriptors)
/// for a while; either ends in a completion with the tag. False: the ring is full, and it is to be tried again.
#[must_use]
pub(super) fn accept(listener: &Descriptor, is_late: bool, tag: Tag, ring: &mut Ring) -> bool {
    let operation = match is_late {
        false => Operation::Accept { listener: listener.clone() },
        true => Operation::Timeout { after: ACCEPT_PAUSE },
    };
    ring.push_tagged(operation, tag.encode()).is_ok()
}

fn pieces(mut batch: Vec<Bytes>) -> Pieces {
    match batch.pop() {
        Some(only) if batch.is_empty() => Pieces::One(only),
        Some(last) => {
            batch.push(last);
            Pieces::Many(batch)
        }
        None => Pieces::Many(batch),
    }
}
