//! The fixed headers of the NBD protocol. All integers are big-endian.
//!
//! A header is a struct with `encode` and `decode` and its size beside it. Decoding checks length and magic and accepts
//! every other value: what it means is for others to judge.
//!
//! Not here: the numbers and their names (`numbers`, to be had from here), what any of it means (`negotiation`,
//! `transmission`, `validate`).

use bytes::{Buf, BufMut};

pub use super::numbers::{
    ChunkFlags, ChunkKind, ClientFlags, CommandFlags, CommandNumber, HandshakeFlags, InfoKind, NbdErrno, OptionKind,
    OptionReplyKind, TransmissionFlags,
};

/// Opens the server's greeting: `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Follows it in the newstyle handshake, and opens every option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The longest string (name, description, error message) the protocol allows, in bytes.
pub const STRING_BYTES_MAX: usize = 4096;
/// Zeroes that end the answer to `EXPORT_NAME` unless the client asked to be spared them.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the header has.
    #[error("a header of {expected} bytes was cut short at {actual}")]
    Short {
        /// Size of the header.
        expected: usize,
        /// Bytes that were there.
        actual: usize,
    },
    /// The bytes do not begin with the magic.
    #[error("magic {actual:#x} where {expected:#x} belongs")]
    Magic {
        /// The magic of this header.
        expected: u64,
        /// What stood there.
        actual: u64,
    },
}

fn check_length(buffer: &impl Buf, expected: usize) -> Result<(), DecodeError> {
    match buffer.remaining() {
        actual if actual < expected => Err(DecodeError::Short { expected, actual }),
        _ => Ok(()),
    }
}

fn check_magic(expected: u64, actual: u64) -> Result<(), DecodeError> {
    if actual == expected { Ok(()) } else { Err(DecodeError::Magic { expected, actual }) }
}

/// The first thing on the wire, from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What the server offers.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Bytes on the wire.
    pub const BYTES: usize = 18;

    /// Appends the greeting.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(GREETING_MAGIC);
        out.put_u64(OPTION_MAGIC);
        out.put_u16(self.flags.0);
    }

    /// Reads a newstyle greeting.
    ///
    /// # Errors
    /// When the bytes are too few or do not begin a newstyle session.
    pub fn decode(buffer: &mut impl Buf) -> Result<Self, DecodeError> {
        check_length(buffer, Self::BYTES)?;
        check_magic(GREETING_MAGIC, buffer.get_u64())?;
        check_magic(OPTION_MAGIC, buffer.get_u64())?;
        Ok(Self { flags: HandshakeFlags(buffer.get_u16()) })
    }
}

/// Opens an option; `bytes` of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// What is asked.
    pub kind: OptionKind,
    /// Length of the data.
    pub bytes: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// Appends the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(OPTION_MAGIC);
        out.put_u32(self.kind.0);
        out.put_u32(self.bytes);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When the bytes are too few or the magic is wrong.
    pub fn decode(buffer: &mut impl Buf) -> Result<Self, DecodeError> {
        check_length(buffer, Self::BYTES)?;
        check_magic(OPTION_MAGIC, buffer.get_u64())?;
        Ok(Self { kind: OptionKind(buffer.get_u32()), bytes: buffer.get_u32() })
    }
}

/// Opens a reply to an option; `bytes` of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option answered.
    pub option: OptionKind,
    /// The answer.
    pub reply: OptionReplyKind,
    /// Length of the data.
    pub bytes: u32,
}

impl OptionReplyHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// Appends the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(OPTION_REPLY_MAGIC);
        out.put_u32(self.option.0);
        out.put_u32(self.reply.0);
        out.put_u32(self.bytes);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When the bytes are too few or the magic is wrong.
    pub fn decode(buffer: &mut impl Buf) -> Result<Self, DecodeError> {
        check_length(buffer, Self::BYTES)?;
        check_magic(OPTION_REPLY_MAGIC, buffer.get_u64())?;
        let option = OptionKind(buffer.get_u32());
        Ok(Self { option, reply: OptionReplyKind(buffer.get_u32()), bytes: buffer.get_u32() })
    }
}

/// A request; the payload of a `WRITE` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Modifiers.
    pub flags: CommandFlags,
    /// What to do.
    pub command: CommandNumber,
    /// The client's name for this request, returned in the reply.
    pub cookie: u64,
    /// First byte concerned.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u32,
}

impl RequestHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 28;

    /// Appends the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(self.flags.0);
        out.put_u16(self.command.0);
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        out.put_u32(self.bytes);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When the bytes are too few or the magic is wrong.
    pub fn decode(buffer: &mut impl Buf) -> Result<Self, DecodeError> {
        check_length(buffer, Self::BYTES)?;
        check_magic(REQUEST_MAGIC.into(), buffer.get_u32().into())?;
        let flags = CommandFlags(buffer.get_u16());
        let command = CommandNumber(buffer.get_u16());
        let cookie = buffer.get_u64();
        let offset = buffer.get_u64();
        Ok(Self { flags, command, cookie, offset, bytes: buffer.get_u32() })
    }

    /// Whether `bytes` of payload follow this header on the wire.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.command == CommandNumber::WRITE
    }
}

/// A simple reply; the data of a successful `READ` follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0 for success.
    pub errno: u32,
    /// The request answered.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// Appends the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(SIMPLE_REPLY_MAGIC);
        out.put_u32(self.errno);
        out.put_u64(self.cookie);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When the bytes are too few or the magic is wrong.
    pub fn decode(buffer: &mut impl Buf) -> Result<Self, DecodeError> {
        check_length(buffer, Self::BYTES)?;
        check_magic(SIMPLE_REPLY_MAGIC.into(), buffer.get_u32().into())?;
        Ok(Self { errno: buffer.get_u32(), cookie: buffer.get_u64() })
    }
}

/// Opens a chunk of a structured reply; `bytes` of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Modifiers.
    pub flags: ChunkFlags,
    /// What the chunk carries.
    pub kind: ChunkKind,
    /// The request answered.
    pub cookie: u64,
    /// Length of the data.
    pub bytes: u32,
}

impl ChunkHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// Appends the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(CHUNK_MAGIC);
        out.put_u16(self.flags.0);
        out.put_u16(self.kind.0);
        out.put_u64(self.cookie);
        out.put_u32(self.bytes);
    }

    /// Reads the header.
    ///
    /// # Errors
    /// When the bytes are too few or the magic is wrong.
    pub fn decode(buffer: &mut impl Buf) -> Result<Self, DecodeError> {
        check_length(buffer, Self::BYTES)?;
        check_magic(CHUNK_MAGIC.into(), buffer.get_u32().into())?;
        let flags = ChunkFlags(buffer.get_u16());
        let kind = ChunkKind(buffer.get_u16());
        Ok(Self { flags, kind, cookie: buffer.get_u64(), bytes: buffer.get_u32() })
    }
}

/// The longest beginning of `text` that the protocol allows as a string.
#[must_use]
pub fn clip(text: &str) -> &str {
    let mut end = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_their_sizes_and_come_back() {
        fn check<T: PartialEq + std::fmt::Debug>(
            header: T,
            encode: impl Fn(&T, &mut Vec<u8>),
            decode: impl Fn(&mut &[u8]) -> Result<T, DecodeError>,
            size: usize,
        ) {
            let mut bytes = Vec::new();
            encode(&header, &mut bytes);
            assert_eq!(bytes.len(), size);
            assert_eq!(decode(&mut &bytes[..]), Ok(header));
            assert!(matches!(decode(&mut &bytes[..size - 1]), Err(DecodeError::Short { .. })));
            bytes[0] ^= 1;
            assert!(matches!(decode(&mut &bytes[..]), Err(DecodeError::Magic { .. })));
        }
        let greeting = Greeting { flags: HandshakeFlags(3) };
        check(greeting, |h, out| h.encode(out), |b| Greeting::decode(b), Greeting::BYTES);
        let option = OptionHeader { kind: OptionKind::GO, bytes: 7 };
        check(option, |h, out| h.encode(out), |b| OptionHeader::decode(b), OptionHeader::BYTES);
        let reply = OptionReplyHeader { option: OptionKind::GO, reply: OptionReplyKind::ERR_POLICY, bytes: 9 };
        check(reply, |h, out| h.encode(out), |b| OptionReplyHeader::decode(b), OptionReplyHeader::BYTES);
        let (flags, command) = (CommandFlags::FUA, CommandNumber::WRITE);
        let request = RequestHeader { flags, command, cookie: 1 << 63, offset: 1 << 40, bytes: 512 };
        check(request, |h, out| h.encode(out), |b| RequestHeader::decode(b), RequestHeader::BYTES);
        let simple = SimpleReply { errno: 5, cookie: 6 };
        check(simple, |h, out| h.encode(out), |b| SimpleReply::decode(b), SimpleReply::BYTES);
        let chunk = ChunkHeader { flags: ChunkFlags::DONE, kind: ChunkKind::ERROR, cookie: 2, bytes: 6 };
        check(chunk, |h, out| h.encode(out), |b| ChunkHeader::decode(b), ChunkHeader::BYTES);
    }

    #[test]
    fn a_long_text_is_clipped_between_characters() {
        let text = format!("x{}", "\u{e9}".repeat(3000));
        assert_eq!(clip(&text).len(), 4095);
        assert_eq!(clip("short"), "short");
    }
}
