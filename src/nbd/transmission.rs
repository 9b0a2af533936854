//! The phase after an export is open: requests in, commands out, replies back.
//!
//! ```text
//!   Header ──► (validate) ──► Command                        ──► Header
//!      │            ├──► Payload ──► Command                 ──► Header
//!      │            └──► Discard (payload of a refused write) ──► (error) ──► Header
//!      └──► Ended
//! ```
//!
//! A refused request is answered here, after its payload was read, so that the stream stays in step. An admitted one
//! takes a slot; the slot remembers what the reply needs, so the client's cookie may be anything, even one in use.

use bytes::{BufMut, Bytes, BytesMut};
use slab::Slab;

use super::export::Export;
use super::negotiation::Step;
use super::rope::Rope;
use super::session::{CloseReason, Limits, Output};
use super::validate::{Admitted, Refused, validate};
use super::wire::{ChunkFlags, ChunkHeader, ChunkKind, CommandNumber, NbdErrno, RequestHeader, SimpleReply, clip};

/// The slot of a command that gets no reply. Replying to it encodes nothing.
pub const NO_SLOT: u32 = u32::MAX;

/// Bytes of the offset that opens a chunk of read data.
const OFFSET_BYTES: u32 = 8;
/// Bytes before the message of an error chunk.
const ERROR_BYTES: u32 = 6;

/// A validated request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The client's name for it. Not an index: clients may reuse cookies.
    pub cookie: u64,
    /// Our name for it until it is replied to.
    pub slot: u32,
    /// What to do.
    pub kind: CommandKind,
}

/// What to do. Offsets and lengths are in bytes, multiples of 512, inside the export and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Read; answered by [`Reply::Data`].
    Read {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u32,
    },
    /// Write.
    Write {
        /// First byte.
        offset: u64,
        /// The data.
        payload: Bytes,
        /// Reply only when it is stable.
        fua: bool,
    },
    /// Reply when every write replied to before is stable.
    Flush,
    /// The client no longer needs these bytes.
    Trim {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Reply only when it is stable.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Reply only when it is stable.
        fua: bool,
        /// The space may be given back.
        may_unmap: bool,
        /// Answer [`NbdErrno::ENOTSUP`] at once if this is no faster than writing.
        fast: bool,
    },
    /// The client will soon read these bytes.
    Cache {
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Finish what is in flight, then close. Gets no reply, and [`Output::Close`] follows it.
    Disconnect,
}

impl CommandKind {
    /// Bytes of data that the command or its reply carries.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Self::Read { bytes, .. } => u64::from(*bytes),
            Self::Write { payload, .. } => payload.len() as u64,
            Self::Flush | Self::Trim { .. } | Self::WriteZeroes { .. } | Self::Cache { .. } | Self::Disconnect => 0,
        }
    }
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done; for everything but reads.
    Done,
    /// What was read, in pieces that together have the length asked for.
    Data(Vec<Bytes>),
    /// It failed; the words reach clients that speak structured replies.
    Error(NbdErrno, String),
}

/// What a reply needs to know of its command.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    cookie: u64,
    payload_bytes: u64,
    /// Where a read began.
    read_offset: Option<u64>,
}

#[derive(Debug)]
enum Expect {
    Header,
    Payload { cookie: u64, offset: u64, bytes: u32, fua: bool },
    Discard { cookie: u64, left: u64, refused: Refused },
    Ended,
}

/// One client's open export.
#[derive(Debug)]
pub(super) struct Transmission {
    export: Export,
    structured: bool,
    expect: Expect,
    in_flight: Slab<InFlight>,
    payload_bytes_in_flight: u64,
    /// What the caller allows of the limit.
    payload_bytes_allowed: u64,
}

impl Transmission {
    /// Waits for the first request.
    pub(super) fn new(export: Export, structured: bool) -> Self {
        Self {
            export,
            structured,
            expect: Expect::Header,
            in_flight: Slab::new(),
            payload_bytes_in_flight: 0,
            payload_bytes_allowed: u64::MAX,
        }
    }

    pub(super) fn allow(&mut self, payload_bytes: u64) {
        self.payload_bytes_allowed = payload_bytes;
    }

    pub(super) fn payload_bytes_held(&self) -> u64 {
        self.payload_bytes_in_flight + self.payload_bytes().map_or(0, |bytes| bytes as u64)
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.expect, Expect::Ended)
    }

    /// Reads no more; replies go on.
    pub(super) fn end(&mut self) {
        self.expect = Expect::Ended;
    }

    /// Whether another command must wait for a reply.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        let payload_bytes_max = limits.payload_bytes_in_flight_max.min(self.payload_bytes_allowed);
        self.in_flight.len() >= limits.commands_in_flight_max
            || (self.payload_bytes_in_flight > 0 && self.payload_bytes_in_flight >= payload_bytes_max)
    }

    /// Length of the payload being received.
    pub(super) fn payload_bytes(&self) -> Option<usize> {
        match self.expect {
            Expect::Payload { bytes, .. } => Some(bytes as usize),
            Expect::Header | Expect::Discard { .. } | Expect::Ended => None,
        }
    }

    /// How many bytes the rope must hold for the next step, payloads apart.
    pub(super) fn bytes_wanted(&self) -> usize {
        match self.expect {
            Expect::Header => RequestHeader::BYTES,
            Expect::Discard { left, .. } => usize::try_from(left).unwrap_or(usize::MAX),
            Expect::Payload { .. } | Expect::Ended => 0,
        }
    }

    /// Takes one step with the bytes that are there.
    pub(super) fn step(&mut self, limits: &Limits, input: &mut Rope, out: &mut Vec<Output>) -> Step {
        match &mut self.expect {
            Expect::Header => self.on_header(limits, input, out),
            Expect::Payload { bytes, .. } => match input.take(*bytes as usize) {
                Some(payload) => self.on_payload(payload, out),
                None => Step::Starved,
            },
            Expect::Discard { left, .. } => {
                *left -= input.skip(*left);
                if *left > 0 { Step::Starved } else { self.on_discarded(out) }
            }
            Expect::Ended => Step::Starved,
        }
    }

    fn on_header(&mut self, limits: &Limits, input: &mut Rope, out: &mut Vec<Output>) -> Step {
        if self.is_full(limits) {
            return Step::Starved;
        }
        let Some(bytes) = input.take_array::<{ RequestHeader::BYTES }>() else {
            return Step::Starved;
        };
        let request = match RequestHeader::decode(&mut &bytes[..]) {
            Ok(request) => request,
            Err(error) => return Step::Closed(CloseReason::Malformed(error)),
        };
        if request.command == CommandNumber::DISC {
            let command = Command { cookie: request.cookie, slot: NO_SLOT, kind: CommandKind::Disconnect };
            out.push(Output::Command(command));
            return Step::Closed(CloseReason::Disconnected);
        }
        match validate(&request, &self.export, self.structured, limits) {
            Ok(admitted) => self.on_admitted(request.cookie, admitted, out),
            Err(refused) => self.on_refused(limits, &request, refused, out),
        }
    }

    fn on_admitted(&mut self, cookie: u64, admitted: Admitted, out: &mut Vec<Output>) -> Step {
        match admitted {
            Admitted::Command(kind) => self.begin(cookie, kind, out),
            Admitted::Write { offset, bytes, fua } => self.expect = Expect::Payload { cookie, offset, bytes, fua },
        }
        Step::Progress
    }

    fn on_refused(
        &mut self,
        limits: &Limits,
        request: &RequestHeader,
        refused: Refused,
        out: &mut Vec<Output>,
    ) -> Step {
        let left = if request.has_payload() { request.bytes } else { 0 };
        if left > limits.discard_bytes_max {
            return Step::Closed(CloseReason::PayloadTooLong { bytes: left });
        }
        if left == 0 {
            self.send_error(request.cookie, refused, out);
        } else {
            self.expect = Expect::Discard { cookie: request.cookie, left: left.into(), refused };
        }
        Step::Progress
    }

    fn on_payload(&mut self, payload: Bytes, out: &mut Vec<Output>) -> Step {
        let Expect::Payload { cookie, offset, fua, .. } = std::mem::replace(&mut self.expect, Expect::Header) else {
            unreachable!("a payload arrives where one is expected");
        };
        self.begin(cookie, CommandKind::Write { offset, payload, fua }, out);
        Step::Progress
    }

    fn on_discarded(&mut self, out: &mut Vec<Output>) -> Step {
        let Expect::Discard { cookie, refused, .. } = std::mem::replace(&mut self.expect, Expect::Header) else {
            unreachable!("bytes are discarded where some are to be");
        };
        self.send_error(cookie, refused, out);
        Step::Progress
    }

    fn begin(&mut self, cookie: u64, kind: CommandKind, out: &mut Vec<Output>) {
        let payload_bytes = kind.payload_bytes();
        let read_offset = match kind {
            CommandKind::Read { offset, .. } => Some(offset),
            _ => None,
        };
        self.payload_bytes_in_flight += payload_bytes;
        let slot = self.in_flight.insert(InFlight { cookie, payload_bytes, read_offset });
        let slot = u32::try_from(slot).expect("slots are as few as commands in flight");
        out.push(Output::Command(Command { cookie, slot, kind }));
    }

    /// Encodes a reply; see [`super::session::Session::reply`].
    pub(super) fn reply(&mut self, slot: u32, reply: Reply, header_out: &mut BytesMut) -> Vec<Bytes> {
        if slot == NO_SLOT {
            return Vec::new();
        }
        let command = self.in_flight.try_remove(slot as usize).expect("a reply is for a command in flight");
        self.payload_bytes_in_flight -= command.payload_bytes;
        match (reply, command.read_offset) {
            (Reply::Done, None) => {
                SimpleReply { errno: 0, cookie: command.cookie }.encode(header_out);
                Vec::new()
            }
            (Reply::Data(pieces), Some(offset)) => {
                let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
                assert_eq!(bytes, command.payload_bytes, "a read returns what was asked for");
                self.put_data_header(command.cookie, offset, bytes, header_out);
                pieces
            }
            (Reply::Error(errno, message), _) => {
                put_error(self.structured, command.cookie, errno, &message, header_out);
                Vec::new()
            }
            (Reply::Done, Some(_)) => panic!("a read was replied to without data"),
            (Reply::Data(_), None) => panic!("data was the reply to something other than a read"),
        }
    }

    fn put_data_header(&self, cookie: u64, offset: u64, bytes: u64, out: &mut BytesMut) {
        if !self.structured {
            return SimpleReply { errno: 0, cookie }.encode(out);
        }
        let bytes = u32::try_from(bytes).expect("reads are limited") + OFFSET_BYTES;
        ChunkHeader { flags: ChunkFlags::DONE, kind: ChunkKind::OFFSET_DATA, cookie, bytes }.encode(out);
        out.put_u64(offset);
    }

    fn send_error(&self, cookie: u64, refused: Refused, out: &mut Vec<Output>) {
        let mut answer = BytesMut::new();
        put_error(self.structured, cookie, refused.errno, &refused.message, &mut answer);
        out.push(Output::Send(answer.freeze()));
    }

    /// Asserts every law.
    pub(super) fn check(&self, limits: &Limits) {
        assert!(self.in_flight.len() <= limits.commands_in_flight_max, "commands in flight are limited");
        let sum: u64 = self.in_flight.iter().map(|(_, command)| command.payload_bytes).sum();
        assert_eq!(sum, self.payload_bytes_in_flight, "bytes in flight are those of the commands in flight");
        let most = limits.payload_bytes_in_flight_max + u64::from(limits.payload_bytes_max);
        assert!(sum < most, "bytes in flight are limited");
    }
}

fn put_error(structured: bool, cookie: u64, errno: NbdErrno, message: &str, out: &mut BytesMut) {
    if !structured {
        return SimpleReply { errno: errno.0, cookie }.encode(out);
    }
    let message = clip(message);
    let length = u16::try_from(message.len()).expect("a clipped message is short");
    let bytes = ERROR_BYTES + u32::from(length);
    ChunkHeader { flags: ChunkFlags::DONE, kind: ChunkKind::ERROR, cookie, bytes }.encode(out);
    out.put_u32(errno.0);
    out.put_u16(length);
    out.put_slice(message.as_bytes());
}
