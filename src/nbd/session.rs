//! One client's connection: push bytes, handle, perform the outputs, reply.
//!
//! The caller reads from the client, [`Session::push`]es what came and calls [`Session::handle`], which parses all that
//! is there. It asks [`Session::wants`] how to lay out the next receive, and stops reading while
//! [`Session::wants_pause`]; after replying it calls `handle` again, because bytes may have waited. A caller also stops
//! reading while the client does not take what was sent: bad requests are answered at once, without a slot.
//!
//! Where many sessions share memory the caller says with [`Session::allow`] how much of it is this one's for now. A session
//! without any payload in flight takes a command whatever it is allowed, so that everyone gets on.
//!
//! Memory per session, with the default [`Limits`]: a payload being received (32 MiB, for a moment twice when it came
//! in pieces), payloads of commands in flight (128 MiB, and one payload more), 1024 slots of 40 bytes, one option
//! (16 KiB), and whatever chunks the caller pushes beyond what was asked for. A payload keeps the whole chunk it lies in.
//!
//! Not here: the two phases themselves (`negotiation`, `transmission`).

use bytes::{Bytes, BytesMut};

use super::export::{Catalogue, Export};
use super::negotiation::{NameError, Negotiation, Step};
use super::rope::Rope;
use super::transmission::Transmission;
pub use super::transmission::{Command, CommandKind, Reply};
use super::wire::{ClientFlags, DecodeError, Greeting, HandshakeFlags, OptionKind};

/// How much one client may ask of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest read or write, in bytes: 32 MiB, what the protocol lets every client rely on.
    pub payload_bytes_max: u32,
    /// Longest payload that is read and thrown away to keep a client that sent too much: twice the above. Beyond, the
    /// session is closed.
    pub discard_bytes_max: u32,
    /// Commands not replied to: 1024, several times what fio, qemu and nbdcopy keep in flight.
    pub commands_in_flight_max: usize,
    /// Bytes read or written by commands not replied to, above which no further command is taken: 128 MiB.
    pub payload_bytes_in_flight_max: u64,
    /// Longest option that is looked at: 16 KiB, room for the longest name and every known fact many times.
    pub option_bytes_max: u32,
    /// Longest option that is skipped and refused: 1 MiB. Beyond, the session is closed.
    pub option_skip_bytes_max: u32,
    /// Options in one session: 256. Honest clients need fewer than ten.
    pub options_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 32 << 20,
            discard_bytes_max: 64 << 20,
            commands_in_flight_max: 1024,
            payload_bytes_in_flight_max: 128 << 20,
            option_bytes_max: 16 << 10,
            option_skip_bytes_max: 1 << 20,
            options_max: 256,
        }
    }
}

/// What the caller must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes to the client.
    Send(Bytes),
    /// The client is opening this export; commands may follow. Comes before the bytes that confirm it.
    Opened(Export),
    /// Carry this out, then [`Session::reply`].
    Command(Command),
    /// Read no more. Send what is to be sent, replies to commands in flight included when the reason
    /// [`CloseReason::is_orderly`], then close.
    Close(CloseReason),
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// `DISC`.
    #[error("the client disconnected")]
    Disconnected,
    /// `ABORT`.
    #[error("the client gave up negotiating")]
    Aborted,
    /// Flags that were not offered.
    #[error("the client answered the greeting with flags {0}")]
    UnknownClientFlags(ClientFlags),
    /// The framing is lost.
    #[error("the client sent {0}")]
    Malformed(#[from] DecodeError),
    /// More bytes than we are ready to skip.
    #[error("the client sent option {kind} of {bytes} bytes")]
    OptionTooLong {
        /// The option.
        kind: OptionKind,
        /// Its claimed length.
        bytes: u32,
    },
    /// It never opens anything.
    #[error("the client sent more than {limit} options")]
    TooManyOptions {
        /// How many are allowed.
        limit: u32,
    },
    /// It would not understand the reply.
    #[error("the client sent option {0} without offering to read replies to options")]
    NotFixedNewstyle(OptionKind),
    /// `EXPORT_NAME` of something that is no name.
    #[error("the client asked for an export by a bad name: {0}")]
    BadName(#[from] NameError),
    /// `EXPORT_NAME` of an export there is not.
    #[error("the client asked for export \"{0}\", which is not here")]
    UnknownExport(String),
    /// `EXPORT_NAME` of an export that cannot be opened now.
    #[error("export \"{name}\" is refused: {refusal}")]
    Refused {
        /// The export.
        name: String,
        /// Why.
        refusal: String,
    },
    /// A write longer than we are ready to throw away.
    #[error("the client sent a write of {bytes} bytes")]
    PayloadTooLong {
        /// Its claimed length.
        bytes: u32,
    },
}

impl CloseReason {
    /// Whether the client ended the session as the protocol wants it; replies in flight are then still due.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::Disconnected | Self::Aborted)
    }

    /// Whether the client asked for an export in the old way, which knows no refusal but the end of the connection: only
    /// we can tell its user why.
    #[must_use]
    pub const fn is_silent_refusal(&self) -> bool {
        matches!(self, Self::BadName(_) | Self::UnknownExport(_) | Self::Refused { .. })
    }
}

/// What the session could use next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Bytes that lack until something can be decided. While a payload comes or after the end: 0.
    pub header_bytes_missing: usize,
    /// Length of the write payload being received, or 0.
    pub payload_bytes_total: usize,
    /// How much of it is here. [`Session::drain_payload`] moves that part to a buffer of the caller's.
    pub payload_bytes_here: usize,
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    input: Rope,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Negotiating(Negotiation),
    Transmitting(Transmission),
    Closed,
}

impl Session {
    /// A session that has not said anything yet; [`Session::greeting`] comes first.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, input: Rope::default(), phase: Phase::Negotiating(Negotiation::new()) }
    }

    /// The server speaks first.
    pub fn greeting(&mut self, out: &mut Vec<Output>) {
        let mut bytes = BytesMut::with_capacity(Greeting::BYTES);
        Greeting { flags: HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES }.encode(&mut bytes);
        out.push(Output::Send(bytes.freeze()));
    }

    /// Takes received bytes. A write payload that lies inside one chunk is handed out without copying.
    pub fn push(&mut self, chunk: Bytes) {
        if !self.is_closed() {
            self.input.push(chunk);
        }
    }

    /// Parses all that is there, up to the limit of commands in flight.
    pub fn handle(&mut self, catalogue: &dyn Catalogue, out: &mut Vec<Output>) {
        loop {
            let step = match &mut self.phase {
                Phase::Negotiating(negotiation) => negotiation.step(&self.limits, &mut self.input, catalogue, out),
                Phase::Transmitting(transmission) => transmission.step(&self.limits, &mut self.input, out),
                Phase::Closed => Step::Starved,
            };
            match step {
                Step::Progress => {}
                Step::Starved => return,
                Step::Opened { export, structured } => {
                    self.phase = Phase::Transmitting(Transmission::new(export, structured));
                }
                Step::Closed(reason) => return self.close(reason, out),
            }
        }
    }

    /// Encodes the reply to the command in `slot` and frees the slot. What must be sent is `header_out`, then the
    /// returned pieces in order, nothing in between; the pieces are the read data, not copied.
    ///
    /// # Panics
    /// When the slot holds no command or the reply does not fit it: `Data` of another length than was read, `Data` for
    /// anything but a read, `Done` for a read. Those are faults of ours, not of the client.
    pub fn reply(&mut self, slot: u32, reply: Reply, header_out: &mut BytesMut) -> Vec<Bytes> {
        match &mut self.phase {
            Phase::Transmitting(transmission) => transmission.reply(slot, reply, header_out),
            Phase::Negotiating(_) | Phase::Closed => panic!("a command was replied to before there was one"),
        }
    }

    /// Bounds the payload of commands in flight from now on, below the limit that the session has anyway.
    pub fn allow(&mut self, payload_bytes: u64) {
        if let Phase::Transmitting(transmission) = &mut self.phase {
            transmission.allow(payload_bytes);
        }
    }

    /// Bytes of payload that commands hold: those in flight, and one being received.
    #[must_use]
    pub fn payload_bytes_held(&self) -> u64 {
        match &self.phase {
            Phase::Transmitting(transmission) => transmission.payload_bytes_held(),
            Phase::Negotiating(_) | Phase::Closed => 0,
        }
    }

    /// Whether no further command will be taken until some are replied to: stop reading.
    #[must_use]
    pub fn wants_pause(&self) -> bool {
        matches!(&self.phase, Phase::Transmitting(transmission) if transmission.is_full(&self.limits))
    }

    /// What the next receive should be laid out for; call it after [`Session::handle`].
    #[must_use]
    pub fn wants(&self) -> Wants {
        let bytes_wanted = match &self.phase {
            Phase::Negotiating(negotiation) => negotiation.bytes_wanted(),
            Phase::Transmitting(transmission) => match transmission.payload_bytes() {
                Some(total) => {
                    let here = self.input.len().min(total);
                    return Wants { header_bytes_missing: 0, payload_bytes_total: total, payload_bytes_here: here };
                }
                None => transmission.bytes_wanted(),
            },
            Phase::Closed => 0,
        };
        Wants { header_bytes_missing: bytes_wanted.saturating_sub(self.input.len()), ..Wants::default() }
    }

    /// Moves the part of a payload that is here to the front of `buffer` and says how long it is. The caller receives
    /// the rest behind it and pushes buffer and all as one chunk: then only this first part was copied. What the caller
    /// moved out it must push again before anything else.
    pub fn drain_payload(&mut self, buffer: &mut [u8]) -> usize {
        let here = self.wants().payload_bytes_here.min(buffer.len());
        self.input.drain_into(&mut buffer[..here])
    }

    /// How many commands await a reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Transmitting(transmission) => transmission.in_flight(),
            Phase::Negotiating(_) | Phase::Closed => 0,
        }
    }

    /// The open export, as it was when it was opened.
    #[must_use]
    pub fn export(&self) -> Option<&Export> {
        match &self.phase {
            Phase::Transmitting(transmission) => Some(transmission.export()),
            Phase::Negotiating(_) | Phase::Closed => None,
        }
    }

    /// Whether nothing more will be read from this client.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.phase {
            Phase::Negotiating(_) => false,
            Phase::Transmitting(transmission) => transmission.is_ended(),
            Phase::Closed => true,
        }
    }

    /// Asserts every law; for tests and simulations.
    pub fn check(&self) {
        if let Phase::Transmitting(transmission) = &self.phase {
            transmission.check(&self.limits);
        }
        assert!(!self.is_closed() || self.input.len() == 0, "nothing is kept that will not be read");
    }

    /// An open export stays known: replies to commands in flight are still encoded.
    fn close(&mut self, reason: CloseReason, out: &mut Vec<Output>) {
        self.input.clear();
        match &mut self.phase {
            Phase::Transmitting(transmission) => transmission.end(),
            phase @ (Phase::Negotiating(_) | Phase::Closed) => *phase = Phase::Closed,
        }
        out.push(Output::Close(reason));
    }
}
