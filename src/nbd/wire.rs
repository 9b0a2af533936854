//! The numbers and fixed headers of the NBD protocol. All integers are big-endian.
//!
//! Numbers are newtypes over what stands on the wire, so that an unknown value is still a value and can be printed;
//! one table per kind gives both the constants and their names. Headers are structs with `encode` and `decode`.
//!
//! Not here: what any of it means (`negotiation`, `transmission`, `validate`).

use std::fmt;
use std::ops::BitOr;

use bytes::{Buf, BufMut};

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

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($item:ident = $value:expr, $doc:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $(#[doc = $doc] pub const $item: Self = Self($value);)*

            /// The protocol's name of this number, if it has one that we know.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$item => Some(stringify!($item)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "unknown {:#x}", self.0),
                }
            }
        }
    };
}

macro_rules! bits {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($item:ident = $bit:expr, $doc:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            /// No bit at all.
            pub const NONE: Self = Self(0);
            $(#[doc = $doc] pub const $item: Self = Self(1 << $bit);)*

            /// Whether every bit of `other` is set here.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The bits set here that are not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// These bits if `condition` holds, else none.
            #[must_use]
            pub const fn when(self, condition: bool) -> Self {
                if condition { self } else { Self(0) }
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut left = *self;
                let mut separator = "";
                $(if left.contains(Self::$item) {
                    write!(f, "{separator}{}", stringify!($item))?;
                    left = left.without(Self::$item);
                    separator = "|";
                })*
                match (left.0, separator) {
                    (0, "") => f.write_str("none"),
                    (0, _) => Ok(()),
                    (rest, _) => write!(f, "{separator}{rest:#x}"),
                }
            }
        }
    };
}

bits! {
    /// What the server offers in its greeting.
    HandshakeFlags(u16) {
        FIXED_NEWSTYLE = 0, "Options other than `EXPORT_NAME` are understood and answered.";
        NO_ZEROES = 1, "The padding after the answer to `EXPORT_NAME` can be left out.";
    }
}

bits! {
    /// What the client answers to the greeting.
    ClientFlags(u32) {
        FIXED_NEWSTYLE = 0, "The client reads replies to options.";
        NO_ZEROES = 1, "The client wants no padding after the answer to `EXPORT_NAME`.";
    }
}

bits! {
    /// What an export can do, told to the client when it opens the export.
    TransmissionFlags(u16) {
        HAS_FLAGS = 0, "Always set.";
        READ_ONLY = 1, "Writes are refused.";
        SEND_FLUSH = 2, "`FLUSH` is understood.";
        SEND_FUA = 3, "The flag `FUA` is understood.";
        ROTATIONAL = 4, "The medium turns: nearby is cheaper.";
        SEND_TRIM = 5, "`TRIM` is understood.";
        SEND_WRITE_ZEROES = 6, "`WRITE_ZEROES` and its flag `NO_HOLE` are understood.";
        SEND_DF = 7, "The flag `DF` is understood (structured replies only).";
        CAN_MULTI_CONN = 8, "A flush on one connection covers the writes of all.";
        SEND_RESIZE = 9, "`RESIZE` is understood.";
        SEND_CACHE = 10, "`CACHE` is understood.";
        SEND_FAST_ZERO = 11, "The flag `FAST_ZERO` is understood.";
    }
}

bits! {
    /// Modifiers of a command.
    CommandFlags(u16) {
        FUA = 0, "Reply only when the data is on stable storage.";
        NO_HOLE = 1, "Zeroes must stay allocated.";
        DF = 2, "Answer a read with one chunk.";
        REQ_ONE = 3, "Answer a block status with one extent.";
        FAST_ZERO = 4, "Fail rather than write zeroes slowly.";
        PAYLOAD_LEN = 5, "The length counts a payload (64-bit headers only).";
    }
}

bits! {
    /// Modifiers of a chunk of a structured reply.
    ChunkFlags(u16) {
        DONE = 0, "The last chunk of the reply.";
    }
}

numbers! {
    /// What a client may ask during negotiation.
    OptionKind(u32) {
        EXPORT_NAME = 1, "Open an export; the old way, without any error reply.";
        ABORT = 2, "End the session.";
        LIST = 3, "Name the exports.";
        PEEK_EXPORT = 4, "Withdrawn from the protocol.";
        STARTTLS = 5, "Go on inside TLS.";
        INFO = 6, "Describe an export.";
        GO = 7, "Open an export.";
        STRUCTURED_REPLY = 8, "Use structured replies.";
        LIST_META_CONTEXT = 9, "Name the metadata contexts.";
        SET_META_CONTEXT = 10, "Choose metadata contexts.";
        EXTENDED_HEADERS = 11, "Use 64-bit headers.";
    }
}

numbers! {
    /// How the server answers an option.
    OptionReplyKind(u32) {
        ACK = 1, "Granted, or the end of a list.";
        SERVER = 2, "One export of the list.";
        INFO = 3, "One fact about an export.";
        META_CONTEXT = 4, "One metadata context.";
        ERR_UNSUP = 0x8000_0001, "The option is not known here.";
        ERR_POLICY = 0x8000_0002, "Known and well formed, but not allowed.";
        ERR_INVALID = 0x8000_0003, "Badly formed.";
        ERR_PLATFORM = 0x8000_0004, "Not possible on this machine.";
        ERR_TLS_REQD = 0x8000_0005, "Only inside TLS.";
        ERR_UNKNOWN = 0x8000_0006, "No such export.";
        ERR_SHUTDOWN = 0x8000_0007, "The server is going away.";
        ERR_BLOCK_SIZE_REQD = 0x8000_0008, "Only for clients that honour block sizes.";
        ERR_TOO_BIG = 0x8000_0009, "The option is longer than this server reads.";
    }
}

impl OptionReplyKind {
    /// Whether this reply says no.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

numbers! {
    /// Which fact an `INFO` reply carries.
    InfoKind(u16) {
        EXPORT = 0, "Size and transmission flags.";
        NAME = 1, "The export's name as the server calls it.";
        DESCRIPTION = 2, "A line for people.";
        BLOCK_SIZE = 3, "Minimum, preferred and maximum block size.";
    }
}

numbers! {
    /// What a client may ask once an export is open.
    CommandNumber(u16) {
        READ = 0, "Read bytes.";
        WRITE = 1, "Write bytes; they follow the header.";
        DISC = 2, "Finish what is in flight and close.";
        FLUSH = 3, "Make every completed write stable.";
        TRIM = 4, "The bytes are no longer needed.";
        CACHE = 5, "The bytes will soon be read.";
        WRITE_ZEROES = 6, "Write zeroes.";
        BLOCK_STATUS = 7, "Describe extents.";
        RESIZE = 8, "Change the size.";
    }
}

numbers! {
    /// What a chunk of a structured reply carries.
    ChunkKind(u16) {
        NONE = 0, "Nothing: success.";
        OFFSET_DATA = 1, "An offset and the data read there.";
        OFFSET_HOLE = 2, "An offset and a count of zeroes.";
        BLOCK_STATUS = 5, "Extents of a metadata context.";
        ERROR = 0x8001, "An error number and a message.";
        ERROR_OFFSET = 0x8002, "The same, and where.";
    }
}

impl ChunkKind {
    /// Whether this chunk reports an error, known to us or not.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

numbers! {
    /// The error numbers the protocol knows; no other may be sent.
    NbdErrno(u32) {
        EPERM = 1, "Not permitted.";
        EIO = 5, "Input/output error.";
        ENOMEM = 12, "Out of memory.";
        EINVAL = 22, "Invalid argument.";
        ENOSPC = 28, "No space left.";
        EOVERFLOW = 75, "Too large to answer in one chunk (a read with `DF`).";
        ENOTSUP = 95, "Not supported, or not fast.";
        ESHUTDOWN = 108, "The server is going away.";
    }
}

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
    fn unknown_numbers_and_bits_stay_printable() {
        assert_eq!(OptionKind(99).to_string(), "unknown 0x63");
        assert_eq!(NbdErrno::ENOSPC.to_string(), "ENOSPC");
        assert_eq!(CommandFlags(0).to_string(), "none");
        assert_eq!(CommandFlags(0x8001).to_string(), "FUA|0x8000");
        assert_eq!(CommandFlags(0x8000).to_string(), "0x8000");
    }

    #[test]
    fn a_long_text_is_clipped_between_characters() {
        let text = format!("x{}", "\u{e9}".repeat(3000));
        assert_eq!(clip(&text).len(), 4095);
        assert_eq!(clip("short"), "short");
    }
}
