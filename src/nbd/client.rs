//! A small client: opens an export with `GO`, asks for structured replies, lives without them.
//!
//! [`Client::connect_bytes`] gives the machine and all it has to say first: every server with fixed newstyle accepts
//! flags and options sent ahead. Then bytes are pushed as they arrive and [`Client::handle`] turns them into events.
//! Requests are encoded one by one; the caller chooses cookies that are not in use and sends what was encoded.
//!
//! ```text
//!   Greeting ──► StructuredReply ──► Go ──► Reply ──► (SimpleData | ChunkData) ──► Reply …
//! ```
//!
//! Not here: TLS, metadata contexts, the old way to open (`EXPORT_NAME`). The server is trusted no more than a client
//! is by the server: what it sends is bounded by what was asked of it.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::rope::Rope;
use super::wire::{
    CHUNK_MAGIC, ChunkFlags, ChunkHeader, ChunkKind, ClientFlags, CommandFlags, CommandNumber, DecodeError, Greeting,
    HandshakeFlags, InfoKind, OptionHeader, OptionKind, OptionReplyHeader, OptionReplyKind, RequestHeader,
    SIMPLE_REPLY_MAGIC, STRING_BYTES_MAX, SimpleReply,
};

/// Longest reply to an option, and longest chunk that carries no read data, in bytes: twice the longest string.
const REPLY_BYTES_MAX: u32 = 2 * STRING_BYTES_MAX as u32;
/// Bytes of the offset that opens a chunk of data.
const OFFSET_BYTES: u32 = 8;
/// Bytes of the shorter of the two reply headers, and of the magic that tells them apart.
const MAGIC_BYTES: usize = 4;

/// What the server made known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The export is open; requests may be sent.
    Ready {
        /// Size of the export.
        bytes: u64,
        /// Its transmission flags.
        flags: u16,
    },
    /// A request was answered.
    Reply {
        /// The request.
        cookie: u64,
        /// Read data (empty for other commands), or an error number and words, if the server gave any.
        result: Result<Bytes, (u32, String)>,
    },
}

/// Why the connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The framing is lost.
    #[error("the server sent {0}")]
    Malformed(#[from] DecodeError),
    /// It cannot do what we need.
    #[error("the server does not speak fixed newstyle")]
    NotFixedNewstyle,
    /// It answers something else.
    #[error("the server answered option {actual} where {expected} was asked")]
    WrongOption {
        /// What was asked.
        expected: OptionKind,
        /// What was answered.
        actual: OptionKind,
    },
    /// The export cannot be opened.
    #[error("the server refused the export with {reply}: {message}")]
    Refused {
        /// The answer.
        reply: OptionReplyKind,
        /// And its words.
        message: String,
    },
    /// It granted the export without saying how large it is.
    #[error("the server did not describe the export")]
    NoInfo,
    /// A reply or chunk longer than can be right, or shorter than its kind.
    #[error("the server sent a reply of {0} bytes")]
    BadLength(u32),
    /// No request of that name is in flight.
    #[error("the server answered cookie {0:#x}, which is not in flight")]
    UnknownCookie(u64),
    /// Data for a place that was not read, or for nothing read at all.
    #[error("the server answered cookie {0:#x} with data it did not ask for")]
    UnwantedData(u64),
    /// A read ended with parts missing.
    #[error("the server answered cookie {0:#x} with less than was read")]
    MissingData(u64),
    /// A chunk we cannot make sense of.
    #[error("the server sent a chunk {0}")]
    UnknownChunk(ChunkKind),
}

/// One request in flight.
#[derive(Debug, Default)]
struct Pending {
    /// What is being read; `bytes` is 0 for other commands.
    offset: u64,
    bytes: u32,
    /// Pieces that came, in order of offset.
    pieces: BTreeMap<u64, Bytes>,
    /// Sum of their lengths; overlapping pieces cannot make a read hold more than its length.
    received: u64,
    error: Option<(u32, String)>,
}

#[derive(Debug)]
enum Expect {
    Greeting,
    StructuredReply,
    Go { info: Option<(u64, u16)> },
    Reply,
    SimpleData { cookie: u64, bytes: u32 },
    Chunk(ChunkHeader),
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    input: Rope,
    expect: Expect,
    pending: BTreeMap<u64, Pending>,
}

impl Client {
    /// A client of the named export (the empty name: the default one) and the bytes to send at once.
    ///
    /// # Panics
    /// When the name is longer than the protocol allows; check what a person typed.
    #[must_use]
    pub fn connect_bytes(export: &str) -> (Self, Bytes) {
        assert!(export.len() <= STRING_BYTES_MAX, "a name has {STRING_BYTES_MAX} bytes at most");
        let mut out = BytesMut::new();
        out.put_u32(ClientFlags::FIXED_NEWSTYLE.0);
        OptionHeader { kind: OptionKind::STRUCTURED_REPLY, bytes: 0 }.encode(&mut out);
        let wanted = [InfoKind::BLOCK_SIZE];
        let name_bytes = export.len() as u32;
        let bytes = 4 + name_bytes + 2 + 2 * wanted.len() as u32;
        OptionHeader { kind: OptionKind::GO, bytes }.encode(&mut out);
        out.put_u32(name_bytes);
        out.put_slice(export.as_bytes());
        out.put_u16(wanted.len() as u16);
        for info in wanted {
            out.put_u16(info.0);
        }
        let client = Self { input: Rope::default(), expect: Expect::Greeting, pending: BTreeMap::new() };
        (client, out.freeze())
    }

    /// Takes received bytes.
    pub fn push(&mut self, chunk: Bytes) {
        self.input.push(chunk);
    }

    /// Parses all that is there.
    ///
    /// # Errors
    /// When the connection is of no more use; events found before stand in `events`.
    pub fn handle(&mut self, events: &mut Vec<ClientEvent>) -> Result<(), ClientError> {
        while self.step(events)? {}
        Ok(())
    }

    /// How many requests await a reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Encodes a read.
    pub fn read(&mut self, cookie: u64, offset: u64, bytes: u32, out: &mut BytesMut) {
        self.request(CommandNumber::READ, CommandFlags::NONE, cookie, offset, bytes, out);
    }

    /// Encodes the header of a write; the caller sends the payload behind it.
    pub fn write_header(&mut self, cookie: u64, offset: u64, bytes: u32, fua: bool, out: &mut BytesMut) {
        self.request(CommandNumber::WRITE, CommandFlags::FUA.when(fua), cookie, offset, bytes, out);
    }

    /// Encodes a write with its payload.
    pub fn write(&mut self, cookie: u64, offset: u64, payload: &[u8], fua: bool, out: &mut BytesMut) {
        let bytes = u32::try_from(payload.len()).expect("a payload is far below 4 GiB");
        self.write_header(cookie, offset, bytes, fua, out);
        out.put_slice(payload);
    }

    /// Encodes a flush.
    pub fn flush(&mut self, cookie: u64, out: &mut BytesMut) {
        self.request(CommandNumber::FLUSH, CommandFlags::NONE, cookie, 0, 0, out);
    }

    /// Encodes a trim.
    pub fn trim(&mut self, cookie: u64, offset: u64, bytes: u32, fua: bool, out: &mut BytesMut) {
        self.request(CommandNumber::TRIM, CommandFlags::FUA.when(fua), cookie, offset, bytes, out);
    }

    /// Encodes a write of zeroes, which may give the space back if `may_unmap`.
    pub fn zeroes(&mut self, cookie: u64, offset: u64, bytes: u32, may_unmap: bool, fua: bool, out: &mut BytesMut) {
        let flags = CommandFlags::FUA.when(fua) | CommandFlags::NO_HOLE.when(!may_unmap);
        self.request(CommandNumber::WRITE_ZEROES, flags, cookie, offset, bytes, out);
    }

    /// Encodes the wish to end; the server finishes what is in flight and closes.
    pub fn disconnect(&mut self, out: &mut BytesMut) {
        let (flags, command) = (CommandFlags::NONE, CommandNumber::DISC);
        RequestHeader { flags, command, cookie: 0, offset: 0, bytes: 0 }.encode(out);
    }

    fn request(
        &mut self,
        command: CommandNumber,
        flags: CommandFlags,
        cookie: u64,
        offset: u64,
        bytes: u32,
        out: &mut BytesMut,
    ) {
        let read_bytes = if command == CommandNumber::READ { bytes } else { 0 };
        let pending = Pending { offset, bytes: read_bytes, ..Pending::default() };
        let before = self.pending.insert(cookie, pending);
        assert!(before.is_none(), "the caller chooses cookies that are not in use");
        RequestHeader { flags, command, cookie, offset, bytes }.encode(out);
    }

    /// Takes one step; false when more bytes are needed.
    fn step(&mut self, events: &mut Vec<ClientEvent>) -> Result<bool, ClientError> {
        match self.expect {
            Expect::Greeting => self.on_greeting(),
            Expect::StructuredReply => self.on_structured_reply(),
            Expect::Go { info } => self.on_go(info, events),
            Expect::Reply => self.on_reply(events),
            Expect::SimpleData { cookie, bytes } => {
                let Some(data) = self.input.take(bytes as usize) else { return Ok(false) };
                self.pending.remove(&cookie).ok_or(ClientError::UnknownCookie(cookie))?;
                self.expect = Expect::Reply;
                events.push(ClientEvent::Reply { cookie, result: Ok(data) });
                Ok(true)
            }
            Expect::Chunk(header) => {
                let Some(data) = self.input.take(header.bytes as usize) else { return Ok(false) };
                self.expect = Expect::Reply;
                self.on_chunk(header, data, events)
            }
        }
    }

    fn on_greeting(&mut self) -> Result<bool, ClientError> {
        let Some(bytes) = self.input.take_array::<{ Greeting::BYTES }>() else { return Ok(false) };
        let greeting = Greeting::decode(&mut &bytes[..])?;
        if !greeting.flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(ClientError::NotFixedNewstyle);
        }
        self.expect = Expect::StructuredReply;
        Ok(true)
    }

    /// Granted or not, either will do: replies tell themselves apart.
    fn on_structured_reply(&mut self) -> Result<bool, ClientError> {
        let Some(_) = self.take_option_reply(OptionKind::STRUCTURED_REPLY)? else { return Ok(false) };
        self.expect = Expect::Go { info: None };
        Ok(true)
    }

    fn on_go(&mut self, info: Option<(u64, u16)>, events: &mut Vec<ClientEvent>) -> Result<bool, ClientError> {
        let Some((reply, mut data)) = self.take_option_reply(OptionKind::GO)? else { return Ok(false) };
        match reply {
            OptionReplyKind::ACK => {
                let (bytes, flags) = info.ok_or(ClientError::NoInfo)?;
                events.push(ClientEvent::Ready { bytes, flags });
                self.expect = Expect::Reply;
            }
            OptionReplyKind::INFO if data.len() == 12 && data.get_u16() == InfoKind::EXPORT.0 => {
                self.expect = Expect::Go { info: Some((data.get_u64(), data.get_u16())) };
            }
            reply if reply.is_error() => {
                let message = String::from_utf8_lossy(&data).into_owned();
                return Err(ClientError::Refused { reply, message });
            }
            _ => {}
        }
        Ok(true)
    }

    /// A whole reply to an option. Nothing is consumed before all of it is here.
    fn take_option_reply(&mut self, expected: OptionKind) -> Result<Option<(OptionReplyKind, Bytes)>, ClientError> {
        let Some(bytes) = self.input.peek_array::<{ OptionReplyHeader::BYTES }>() else { return Ok(None) };
        let header = OptionReplyHeader::decode(&mut &bytes[..])?;
        if header.option != expected {
            return Err(ClientError::WrongOption { expected, actual: header.option });
        }
        if header.bytes > REPLY_BYTES_MAX {
            return Err(ClientError::BadLength(header.bytes));
        }
        if self.input.len() < OptionReplyHeader::BYTES + header.bytes as usize {
            return Ok(None);
        }
        self.input.skip(OptionReplyHeader::BYTES as u64);
        Ok(self.input.take(header.bytes as usize).map(|data| (header.reply, data)))
    }

    fn on_reply(&mut self, events: &mut Vec<ClientEvent>) -> Result<bool, ClientError> {
        let Some(magic) = self.input.peek_array::<MAGIC_BYTES>() else { return Ok(false) };
        match u32::from_be_bytes(magic) {
            CHUNK_MAGIC => {
                let Some(bytes) = self.input.take_array::<{ ChunkHeader::BYTES }>() else { return Ok(false) };
                let header = ChunkHeader::decode(&mut &bytes[..])?;
                let pending = self.pending.get(&header.cookie).ok_or(ClientError::UnknownCookie(header.cookie))?;
                if header.bytes > REPLY_BYTES_MAX.max(pending.bytes.saturating_add(OFFSET_BYTES)) {
                    return Err(ClientError::BadLength(header.bytes));
                }
                self.expect = Expect::Chunk(header);
                Ok(true)
            }
            SIMPLE_REPLY_MAGIC => {
                let Some(bytes) = self.input.take_array::<{ SimpleReply::BYTES }>() else { return Ok(false) };
                self.on_simple_reply(SimpleReply::decode(&mut &bytes[..])?, events)
            }
            actual => Err(DecodeError::Magic { expected: SIMPLE_REPLY_MAGIC.into(), actual: actual.into() }.into()),
        }
    }

    fn on_simple_reply(&mut self, reply: SimpleReply, events: &mut Vec<ClientEvent>) -> Result<bool, ClientError> {
        let SimpleReply { errno, cookie } = reply;
        let bytes = self.pending.get(&cookie).ok_or(ClientError::UnknownCookie(cookie))?.bytes;
        if errno == 0 && bytes > 0 {
            self.expect = Expect::SimpleData { cookie, bytes };
            return Ok(true);
        }
        self.pending.remove(&cookie);
        let result = if errno == 0 { Ok(Bytes::new()) } else { Err((errno, String::new())) };
        events.push(ClientEvent::Reply { cookie, result });
        Ok(true)
    }

    fn on_chunk(
        &mut self,
        header: ChunkHeader,
        mut data: Bytes,
        events: &mut Vec<ClientEvent>,
    ) -> Result<bool, ClientError> {
        let ChunkHeader { cookie, kind, .. } = header;
        let short = || ClientError::BadLength(header.bytes);
        let pending = self.pending.get_mut(&cookie).ok_or(ClientError::UnknownCookie(cookie))?;
        match kind {
            ChunkKind::NONE => {}
            ChunkKind::OFFSET_DATA => {
                let offset = data.try_get_u64().map_err(|_| short())?;
                pending.put(cookie, offset, data)?;
            }
            ChunkKind::OFFSET_HOLE => {
                let offset = data.try_get_u64().map_err(|_| short())?;
                let bytes = data.try_get_u32().map_err(|_| short())?;
                pending.check_place(cookie, offset, bytes.into())?;
                pending.put(cookie, offset, BytesMut::zeroed(bytes as usize).freeze())?;
            }
            kind if kind.is_error() => pending.error = Some(parse_error(data).ok_or_else(short)?),
            kind => return Err(ClientError::UnknownChunk(kind)),
        }
        if header.flags.contains(ChunkFlags::DONE) {
            let pending = self.pending.remove(&cookie).ok_or(ClientError::UnknownCookie(cookie))?;
            events.push(ClientEvent::Reply { cookie, result: pending.finish(cookie)? });
        }
        Ok(true)
    }
}

impl Pending {
    fn check_place(&self, cookie: u64, offset: u64, bytes: u64) -> Result<(), ClientError> {
        let left = u64::from(self.bytes).checked_sub(self.received);
        let place = offset.checked_sub(self.offset).and_then(|before| before.checked_add(bytes));
        let inside = place.is_some_and(|end| end <= u64::from(self.bytes));
        let fits = left.is_some_and(|left| bytes <= left);
        if inside && fits && bytes > 0 { Ok(()) } else { Err(ClientError::UnwantedData(cookie)) }
    }

    fn put(&mut self, cookie: u64, offset: u64, piece: Bytes) -> Result<(), ClientError> {
        self.check_place(cookie, offset, piece.len() as u64)?;
        self.received += piece.len() as u64;
        match self.pieces.insert(offset, piece) {
            None => Ok(()),
            Some(_) => Err(ClientError::UnwantedData(cookie)),
        }
    }

    /// The pieces must cover the read exactly once.
    fn finish(self, cookie: u64) -> Result<Result<Bytes, (u32, String)>, ClientError> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        let mut covered = 0;
        for (offset, piece) in &self.pieces {
            if offset.checked_sub(self.offset) != Some(covered) {
                return Err(ClientError::MissingData(cookie));
            }
            covered += piece.len() as u64;
        }
        if covered != u64::from(self.bytes) {
            return Err(ClientError::MissingData(cookie));
        }
        let mut pieces: Vec<Bytes> = self.pieces.into_values().collect();
        Ok(Ok(match pieces.len() {
            0 | 1 => pieces.pop().unwrap_or_default(),
            _ => pieces.concat().into(),
        }))
    }
}

/// Error number and message; an offset may follow and does not matter here.
fn parse_error(mut data: Bytes) -> Option<(u32, String)> {
    let errno = data.try_get_u32().ok()?;
    let length = usize::from(data.try_get_u16().ok()?);
    let message = data.get(..length)?;
    Some((errno, String::from_utf8_lossy(message).into_owned()))
}
