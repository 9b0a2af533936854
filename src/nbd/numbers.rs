//! The numbers of the NBD protocol and their names.
//!
//! Numbers are newtypes over what stands on the wire, so that an unknown value is still a value and can be printed; one
//! table per kind gives the constants, their meaning and `Display`. Two shapes: `numbers!` counts, `bits!` are flags.

use std::fmt;
use std::ops::BitOr;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_and_bits_stay_printable() {
        assert_eq!(OptionKind(99).to_string(), "unknown 0x63");
        assert_eq!(NbdErrno::ENOSPC.to_string(), "ENOSPC");
        assert_eq!(CommandFlags(0).to_string(), "none");
        assert_eq!(CommandFlags(0x8001).to_string(), "FUA|0x8000");
        assert_eq!(CommandFlags(0x8000).to_string(), "0x8000");
    }
}
