//! One NBD client: its socket, its session, and what it waits for.
//!
//! ```text
//!   Negotiating ──export opened──► Open { volume } ──last word said──► closing: replies in flight, then the socket's end
//! ```
//!
//! Invariants: a client that does not read its replies is not read from; while a client closes nothing of it is parsed;
//! a client lives until every command of it has been answered, even if nobody listens any more.

use bytes::Bytes;

use super::framing::Framing;
use super::inbox::Inbox;
use super::stream::Stream;
use super::tag::Tag;
use crate::io::buffer::BufferPool;
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Completion, Ring};
use crate::model::ids::RequestId;
use crate::model::time::Instant;
use crate::nbd::export::Catalogue;
use crate::nbd::session::{CloseReason, Command, CommandKind, Limits, Output, Reply, Session};
use crate::nbd::wire::RequestHeader;
use crate::replica::action::Closing;

/// Bytes of replies that a client has not taken, above which its requests wait: several times what a socket holds.
const REPLY_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct NbdClient {
    id: u64,
    pub(super) stream: Stream,
    session: Session,
    /// The open volume.
    pub(super) volume: Option<usize>,
    /// When it must have opened something.
    negotiate_by: Instant,
    /// Bytes may wait in the session that it could not take.
    is_stalled: bool,
    /// Nothing more is taken from it.
    is_closing: bool,
}

impl NbdClient {
    /// A client that has just connected; the server speaks first.
    pub(super) fn new(id: u64, socket: Descriptor, pool: &BufferPool, negotiate_by: Instant) -> Self {
        let mut client = Self {
            id,
            stream: Stream::new(socket, Inbox::new(pool, Framing::Opaque)),
            session: Session::new(Limits::default()),
            volume: None,
            negotiate_by,
            is_stalled: false,
            is_closing: false,
        };
        let mut outputs = Vec::new();
        client.session.greeting(&mut outputs);
        for output in outputs {
            if let Output::Send(bytes) = output {
                client.stream.outbox.push(bytes);
            }
        }
        client
    }

    /// Bytes of payload that it holds: of its commands, and of replies that it has not taken.
    pub(super) fn payload_bytes_held(&self) -> u64 {
        self.session.payload_bytes_held() + self.stream.outbox.waiting_bytes() as u64
    }

    /// Bounds the payload of its commands.
    pub(super) fn allow(&mut self, payload_bytes: u64) {
        self.session.allow(payload_bytes);
    }

    /// Takes what a receive brought, for `step`.
    pub(super) fn on_received(&mut self, completion: Completion) -> Result<(), String> {
        let mut pieces = Vec::new();
        let result = self.stream.on_received(completion, &mut pieces);
        if !self.is_closing {
            for piece in pieces {
                self.session.push(piece);
            }
            self.is_stalled = true;
        }
        result
    }

    /// Parses what is there, if it may.
    pub(super) fn step(&mut self, catalogue: &dyn Catalogue, outputs: &mut Vec<Output>) {
        if !self.may_take() || !self.is_stalled {
            return;
        }
        self.session.handle(catalogue, outputs);
        self.is_stalled = self.session.wants_pause();
        // A new request begins with the next byte: from here on its payload can be foreseen.
        if self.stream.inbox.framing() == Framing::Opaque
            && self.session.export().is_some()
            && self.session.wants().header_bytes_missing == RequestHeader::BYTES
        {
            self.stream.inbox.track(Framing::Nbd);
        }
    }

    /// Whether `step` would do something.
    pub(super) fn is_ready(&self) -> bool {
        self.is_stalled && self.may_take() && !self.session.wants_pause()
    }

    /// Answers a command.
    pub(super) fn reply(&mut self, slot: u32, reply: Reply) {
        let pieces = self.session.reply(slot, reply, self.stream.outbox.tail());
        for piece in pieces {
            self.stream.outbox.push(piece);
        }
    }

    /// Sends bytes of the session's own.
    pub(super) fn send(&mut self, bytes: Bytes) {
        self.stream.outbox.push(bytes);
    }

    /// Takes nothing more; replies in flight are still sent if the client may still be reading.
    pub(super) fn close(&mut self, reason: &CloseReason) {
        match reason.is_silent_refusal() {
            true => tracing::info!(client = self.id, %reason, "a client is closed"),
            false => tracing::debug!(client = self.id, %reason, "a client is closed"),
        }
        self.is_closing = true;
    }

    /// Whether it has opened nothing yet.
    pub(super) fn is_negotiating(&self) -> bool {
        self.volume.is_none() && !self.is_closing
    }

    /// Lets the client go at once.
    pub(super) fn give_up(&mut self, reason: &str, now: Instant, ring: &mut Ring) {
        self.close_for(reason);
        self.stream.end(now, Closing::AtOnce, ring);
    }

    /// Lets the client go because the volume does.
    pub(super) fn close_for(&mut self, reason: &str) {
        if !self.is_closing {
            tracing::info!(client = self.id, reason, "a client is closed");
        }
        self.is_closing = true;
    }

    /// The socket is broken.
    pub(super) fn on_broken(&mut self, reason: &str, now: Instant, ring: &mut Ring) {
        if !self.is_closing {
            tracing::debug!(client = self.id, reason, "a client is gone");
        }
        self.is_closing = true;
        self.stream.end(now, Closing::AtOnce, ring);
    }

    /// Begins what can begin.
    pub(super) fn pump(&mut self, now: Instant, ring: &mut Ring) {
        if self.is_negotiating() && self.negotiate_by <= now {
            self.close_for("it opened no export in time");
        }
        if self.is_closing && self.session.in_flight() == 0 && self.stream.is_open() {
            self.stream.end(now, Closing::Drained, ring);
        }
        let tags = (Tag::NbdReceive(self.id), Tag::NbdSend(self.id));
        if let Err(reason) = self.stream.pump(now, self.may_take() && !self.session.wants_pause(), tags, ring) {
            self.on_broken(&reason, now, ring);
        }
    }

    /// Whether it may be forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.stream.is_over() && self.session.in_flight() == 0
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let negotiation = self.is_negotiating().then_some(self.negotiate_by);
        negotiation.into_iter().chain(self.stream.deadline()).min()
    }

    fn may_take(&self) -> bool {
        !self.is_closing && self.stream.outbox.waiting_bytes() < REPLY_BYTES_MAX
    }
}

/// The name of a command towards the machine: client, slot, and whether data is the answer.
pub(super) fn request_id(client: u64, command: &Command) -> RequestId {
    let is_read = matches!(command.kind, CommandKind::Read { .. });
    RequestId(client << 32 | u64::from(command.slot) << 1 | u64::from(is_read))
}

/// The parts of such a name.
pub(super) fn parts(id: RequestId) -> (u64, u32, bool) {
    let slot = u32::try_from(id.0 >> 1 & u64::from(u32::MAX >> 1)).expect("31 bits");
    (id.0 >> 32, slot, id.0 & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_client_slot_and_kind() {
        let read = Command { cookie: 9, slot: 1023, kind: CommandKind::Read { offset: 0, bytes: 512 } };
        assert_eq!(parts(request_id(u64::from(u32::MAX), &read)), (u64::from(u32::MAX), 1023, true));
        let flush = Command { cookie: 9, slot: 0, kind: CommandKind::Flush };
        assert_eq!(parts(request_id(1, &flush)), (1, 0, false));
    }
}
