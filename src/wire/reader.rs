//! Cuts one received stream into packets.
//!
//! Received chunks are kept as they are, in a rope. A payload that lies within one chunk is a slice of it; only one that
//! spans chunks is put together by a copy. A receiver that asks [`PacketReader::wants`] before each receive can
//! place a payload in a buffer of its own, and then nothing is ever copied.
//!
//! ```text
//!   chunk | header | head | payload .... |  chunk | .... payload | header | head ...
//!                           `-- sliced if it ends in the same chunk, else copied once
//! ```
//!
//! Invariants: a header is judged (magic, stream, length) before its body is waited for, so what is buffered beyond one
//! chunk never exceeds the longest legal packet; after an error the reader yields that error for ever.
//!
//! The header changes in mid-stream. The reader therefore *holds back* after the packets that precede the change, until
//! [`PacketReader::agree`]: bytes that the peer sent early wait in the rope.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::model::ids::VolumeNumber;

use super::command::{Body, Command, CommandNumber, SKIPPED_BYTES_MAX, Streams};
use super::error::WireError;
use super::framing::{Features, Header, PROTOCOL_BEFORE_AGREEMENT, Stream, header_bytes, is_any_magic};
use super::packet::{Dialect, Packet};

/// What the packet being received still needs. Meaningful after [`PacketReader::next`] returned `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Bytes missing until the header is complete or, once it is known, until the part before the payload is. Zero while
    /// payload is being received, and while the reader holds back.
    pub head: usize,
    /// Bytes of payload the packet has; 0 as long as the header is not known.
    pub payload: usize,
    /// How many of those have arrived.
    pub payload_arrived: usize,
}

/// A header that has been judged.
#[derive(Clone, Copy, Debug)]
struct Announced {
    volume: VolumeNumber,
    /// `None`: to be skipped.
    command: Option<Command>,
    number: u16,
    head_bytes: usize,
    payload_bytes: usize,
}

/// What the reader knows of the peer's dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been read: the first packet may say which stream this is.
    First,
    /// The stream is known, features are to come.
    BeforeFeatures,
    /// The next packet has another header; which one is not known yet.
    HeldBack,
    /// Version and features are known.
    Agreed,
}

/// Reads one stream of a connection.
#[derive(Debug)]
pub struct PacketReader {
    stream: Stream,
    phase: Phase,
    dialect: Dialect,
    rope: VecDeque<Bytes>,
    buffered: usize,
    announced: Option<Announced>,
    failed: Option<WireError>,
}

impl PacketReader {
    /// A reader at the beginning of a stream.
    ///
    /// The node that connected knows which stream it is. The node that accepted learns it from the first packet, which
    /// overrides `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            phase: Phase::First,
            dialect: Dialect { version: PROTOCOL_BEFORE_AGREEMENT, features: Features::NONE, digest_bytes: 0 },
            rope: VecDeque::new(),
            buffered: 0,
            announced: None,
            failed: None,
        }
    }

    /// Which stream this is, as far as known.
    #[must_use]
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// From the next packet on, `version` and `features` are in force. On a stream that we accepted, to be called after
    /// its first packet has been read.
    pub fn agree(&mut self, version: u32, features: Features) {
        self.dialect.version = version;
        self.dialect.features = features;
        self.phase = Phase::Agreed;
    }

    /// From the next packet on, the peer's data packets carry a digest of that size (0: none).
    pub fn set_digest_bytes(&mut self, bytes: usize) {
        self.dialect.digest_bytes = bytes;
    }

    /// Appends what was received.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.buffered += chunk.len();
            self.rope.push_back(chunk);
        }
    }

    /// Bytes received that belong to no packet yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// The next packet that is complete, or `None` until more is pushed (or, when held back, until `agree`).
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at the first None")]
    pub fn next(&mut self) -> Result<Option<(VolumeNumber, Packet)>, WireError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.advance().inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// What to receive next. Ask after `next` returned `None`.
    #[must_use]
    pub fn wants(&self) -> Wants {
        match self.announced {
            None if self.phase == Phase::HeldBack => Wants::default(),
            None => {
                let head = header_bytes(self.dialect.version).saturating_sub(self.buffered);
                Wants { head, payload: 0, payload_arrived: 0 }
            }
            Some(Announced { head_bytes, payload_bytes, .. }) => Wants {
                head: head_bytes.saturating_sub(self.buffered),
                payload: payload_bytes,
                payload_arrived: self.buffered.saturating_sub(head_bytes).min(payload_bytes),
            },
        }
    }

    fn advance(&mut self) -> Result<Option<(VolumeNumber, Packet)>, WireError> {
        let announced = match self.announced {
            Some(announced) => announced,
            None => match self.read_header()? {
                Some(announced) => announced,
                None => return Ok(None),
            },
        };
        if self.buffered < announced.head_bytes + announced.payload_bytes {
            self.announced = Some(announced);
            return Ok(None);
        }
        self.announced = None;
        let packet = match announced.command {
            Some(command) => {
                let head = self.take(announced.head_bytes);
                let payload = self.take(announced.payload_bytes);
                self.note_phase(command);
                Packet::decode(command, self.dialect, head, payload)?
            }
            None => {
                self.skip(announced.payload_bytes);
                Packet::Ignored(announced.number)
            }
        };
        Ok(Some((announced.volume, packet)))
    }

    fn read_header(&mut self) -> Result<Option<Announced>, WireError> {
        let size = header_bytes(self.dialect.version);
        if self.phase == Phase::HeldBack || self.buffered < size {
            return Ok(None);
        }
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..size];
        self.peek(bytes);
        if self.phase == Phase::First && self.stream == Stream::Meta && !is_first_packet(bytes) {
            // We connected this stream: the peer's first packet on it has the header of the version to be agreed.
            self.hold_back_if_plausible(bytes)?;
            return Ok(None);
        }
        let header = Header::decode(bytes, self.dialect.version)?;
        let announced = self.judge(header)?;
        self.skip(size);
        Ok(Some(announced))
    }

    fn hold_back_if_plausible(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if !is_any_magic(magic) {
            let magic = u32::from_be_bytes(magic);
            return Err(WireError::WrongMagic { magic, version: self.dialect.version });
        }
        self.phase = Phase::HeldBack;
        Ok(())
    }

    /// What may come now, how long it may be, and how it divides into head and payload.
    fn judge(&self, header: Header) -> Result<Announced, WireError> {
        let Header { volume, command: number, length } = header;
        let Some(command) = Command::from_number(number.0) else {
            return self.judge_unknown(header);
        };
        if !self.may_come(command) {
            return Err(WireError::Unexpected { stream: self.stream, command: number });
        }
        let Dialect { version, features, digest_bytes } = self.dialect;
        let rule = command.length_rule(version, features, digest_bytes as u32);
        if !(rule.min..=rule.max).contains(&length) {
            return Err(self.length_error(command, length, rule.min, rule.max));
        }
        let head_bytes = match command.body() {
            Body::Blocks => rule.min as usize,
            Body::BitmapPiece(_) => 0,
            _ => length as usize,
        };
        let payload_bytes = length as usize - head_bytes;
        Ok(Announced { volume, command: Some(command), number: number.0, head_bytes, payload_bytes })
    }

    /// Commands above 0x100 may be skipped by their length; anything else that we do not know ends the connection.
    fn judge_unknown(&self, header: Header) -> Result<Announced, WireError> {
        let Header { volume, command: number, length } = header;
        if number.0 <= Command::MAY_IGNORE || self.phase != Phase::Agreed {
            return Err(WireError::Unexpected { stream: self.stream, command: number });
        }
        if length > SKIPPED_BYTES_MAX {
            return Err(WireError::TooLong { command: number, max: SKIPPED_BYTES_MAX, received: length });
        }
        Ok(Announced { volume, command: None, number: number.0, head_bytes: 0, payload_bytes: length as usize })
    }

    fn may_come(&self, command: Command) -> bool {
        match command {
            Command::InitialMeta | Command::InitialData => self.phase == Phase::First,
            Command::ConnectionFeatures => self.phase != Phase::Agreed && self.stream == Stream::Data,
            _ => self.phase == Phase::Agreed && command.streams().contains(self.stream),
        }
    }

    fn length_error(&self, command: Command, length: u32, min: u32, max: u32) -> WireError {
        if command == Command::ConnectionFeatures {
            WireError::FeaturesLength { received: length }
        } else if command.streams() == Streams::Meta || self.stream == Stream::Meta {
            WireError::WrongMetaSize { command, length }
        } else if length < min {
            WireError::TooShort { command, expected: min, received: length }
        } else if min == max {
            WireError::NoPayloadExpected { command, length }
        } else {
            WireError::TooLong { command: CommandNumber(command.number()), max, received: length }
        }
    }

    fn note_phase(&mut self, command: Command) {
        match command {
            Command::InitialMeta => {
                self.stream = Stream::Meta;
                self.phase = Phase::HeldBack;
            }
            Command::InitialData => {
                self.stream = Stream::Data;
                self.phase = Phase::BeforeFeatures;
            }
            Command::ConnectionFeatures => self.phase = Phase::HeldBack,
            _ => {}
        }
    }

    /// Copies the first bytes of the rope, which must have that many.
    fn peek(&self, into: &mut [u8]) {
        if let Some(bytes) = self.rope.front().and_then(|first| first.get(..into.len())) {
            return into.copy_from_slice(bytes);
        }
        let bytes = self.rope.iter().flat_map(|chunk| chunk.iter());
        for (to, from) in into.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// Removes the first `count` bytes, which must be there.
    fn take(&mut self, count: usize) -> Bytes {
        debug_assert!(count <= self.buffered, "the caller has waited for the bytes");
        match self.rope.front_mut() {
            _ if count == 0 => Bytes::new(),
            Some(first) if first.len() > count => {
                self.buffered -= count;
                first.split_to(count)
            }
            Some(first) if first.len() == count => {
                self.buffered -= count;
                self.rope.pop_front().unwrap_or_default()
            }
            _ => self.take_spanning(count),
        }
    }

    fn take_spanning(&mut self, count: usize) -> Bytes {
        let mut whole = BytesMut::with_capacity(count);
        while whole.len() < count {
            let Some(first) = self.rope.front() else { break };
            let piece = first.len().min(count - whole.len());
            whole.extend_from_slice(&first[..piece]);
            self.skip(piece);
        }
        whole.freeze()
    }

    /// Drops the first `count` bytes, which must be there.
    fn skip(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            let Some(first) = self.rope.front_mut() else { break };
            if first.len() > left {
                first.advance(left);
                left = 0;
            } else {
                left -= first.len();
                self.rope.pop_front();
            }
        }
        self.buffered -= count - left;
    }
}

/// Whether these bytes begin a packet that names the stream.
fn is_first_packet(header: &[u8]) -> bool {
    Header::decode(header, PROTOCOL_BEFORE_AGREEMENT)
        .is_ok_and(|header| [Command::InitialMeta.number(), Command::InitialData.number()].contains(&header.command.0))
}

#[cfg(test)]
mod tests;
