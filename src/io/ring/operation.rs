//! What a ring can be asked for, and what it answers.
//!
//! An operation is a value that owns everything the kernel will look at: buffers, bytes, descriptors. It goes into the
//! ring whole and comes back whole with its [`Completion`], whatever happened.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;

use crate::io::buffer::{AlignedBuffer, Chunk};
use crate::io::descriptor::Descriptor;

/// Names an operation in the ring, never used twice within one ring's life (the generation counts reuses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Bytes to be written or sent, in order.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// One run of bytes.
    One(Bytes),
    /// Several.
    Many(Vec<Bytes>),
}

impl Pieces {
    /// The runs, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Self::One(bytes) => std::slice::from_ref(bytes),
            Self::Many(pieces) => pieces,
        }
    }

    /// How many bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().iter().all(Bytes::is_empty)
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self::One(bytes)
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self::Many(pieces)
    }
}

/// A stretch of a scattered receive: the next `len` bytes of the stream go to the tail of chunk number `chunk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index into the operation's chunks.
    pub chunk: usize,
    /// How many bytes, more than 0.
    pub len: usize,
}

/// What to do to a range of a file's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Give the space back; the range reads as zeroes.
    PunchHole,
    /// Make the range read as zeroes and keep space for it.
    ZeroRange,
    /// Reserve space, contents unchanged.
    Allocate,
}

impl FallocateMode {
    pub(super) const fn flags(self) -> i32 {
        match self {
            Self::PunchHole => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Self::ZeroRange => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            Self::Allocate => 0,
        }
    }
}

/// Something to be done. See each variant for what its completion means.
#[derive(Debug)]
pub enum Operation {
    /// Fills the whole buffer from `offset`, or fails with [`RingError::ShortTransfer`] at the end of the file.
    ReadAt {
        /// From where.
        file: Descriptor,
        /// First byte.
        offset: u64,
        /// Its length is how much.
        buffer: AlignedBuffer,
    },
    /// Writes all bytes from `offset`. A descriptor opened with O_DIRECT needs every piece aligned.
    WriteAt {
        /// To where.
        file: Descriptor,
        /// First byte.
        offset: u64,
        /// What.
        pieces: Pieces,
        /// Whether the write is followed by a data sync, and completes after it (FUA).
        durable: bool,
    },
    /// Makes all completed writes durable.
    Fsync {
        /// Of what.
        file: Descriptor,
        /// Only the data and what is needed to read it, not times.
        data_only: bool,
    },
    /// Begins to write what the page cache holds of a file to its disk, and waits for none of it. Makes nothing durable.
    WriteBack {
        /// Of what.
        file: Descriptor,
    },
    /// Changes the space of a range, exactly as asked or an error.
    Fallocate {
        /// Of what: a regular file, or a block device for the modes that zero.
        file: Descriptor,
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// What to do.
        mode: FallocateMode,
    },
    /// Makes the range read as zeroes by the best means the file has: punching (if allowed), zeroing, else writing. What of a
    /// device's block the range covers in part is written.
    WriteZeroes {
        /// Of what.
        file: Descriptor,
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Whether the space may be given back.
        may_unmap: bool,
    },
    /// Tells the store that the range is not needed. What it reads as afterwards is undefined on a block device,
    /// zeroes in a file.
    Discard {
        /// Of what.
        file: Descriptor,
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Receives at least one byte (0: the peer has closed) to the chunk's tail, whose `filled` advances.
    Recv {
        /// A stream socket in blocking mode (the ring waits, not the thread).
        socket: Descriptor,
        /// Where to.
        chunk: Chunk,
        /// At most so many bytes.
        len: usize,
    },
    /// As `Recv`, scattered over several chunks; each one's `filled` advances by its share.
    RecvMsg {
        /// A stream socket.
        socket: Descriptor,
        /// Where to.
        chunks: Vec<Chunk>,
        /// In which order.
        layout: Vec<Span>,
    },
    /// Sends all bytes. Never have two of these in flight on one socket: their bytes could interleave.
    SendMsg {
        /// A stream socket.
        socket: Descriptor,
        /// What.
        pieces: Pieces,
    },
    /// Waits for one connection; push it again for the next.
    Accept {
        /// A listening socket.
        listener: Descriptor,
    },
    /// Connects a socket, or fails with [`RingError::TimedOut`].
    Connect {
        /// A fresh stream socket.
        socket: Descriptor,
        /// To whom.
        address: SocketAddr,
        /// How long to try, if not as long as the kernel does.
        timeout: Option<Duration>,
    },
    /// Waits once until one of the `poll(2)` events holds.
    PollAdd {
        /// For what.
        descriptor: Descriptor,
        /// `POLLIN` and so on.
        events: u32,
    },
    /// Waits.
    Timeout {
        /// How long.
        after: Duration,
    },
    /// Asks for an operation to end early. That operation completes as [`RingError::Cancelled`], or as if nothing had
    /// been asked if it was too late; disk transfers usually are. Its own result says only whether the kernel found it
    /// (ENOENT: it had ended, or was still queued here, which cancels it all the same).
    Cancel {
        /// Which.
        key: OpKey,
    },
    /// Ends one or both directions of a socket; what waits on it completes.
    Shutdown {
        /// Which socket.
        socket: Descriptor,
        /// Which direction.
        how: Shutdown,
    },
    /// Closes a descriptor without the thread waiting for it. `None` once it has been handed to the kernel.
    Close {
        /// Which.
        descriptor: Option<OwnedFd>,
    },
}

impl Operation {
    /// What kind of operation it is, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ReadAt { .. } => "read",
            Self::WriteAt { durable: false, .. } => "write",
            Self::WriteAt { durable: true, .. } => "durable write",
            Self::Fsync { .. } => "sync",
            Self::WriteBack { .. } => "write back",
            Self::Fallocate { .. } => "fallocate",
            Self::WriteZeroes { .. } => "write zeroes",
            Self::Discard { .. } => "discard",
            Self::Recv { .. } | Self::RecvMsg { .. } => "receive",
            Self::SendMsg { .. } => "send",
            Self::Accept { .. } => "accept",
            Self::Connect { .. } => "connect",
            Self::PollAdd { .. } => "poll",
            Self::Timeout { .. } => "timeout",
            Self::Cancel { .. } => "cancel",
            Self::Shutdown { .. } => "shutdown",
            Self::Close { .. } => "close",
        }
    }
}

/// What an operation that succeeded has brought.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing but its success.
    Done,
    /// How many bytes were moved.
    Transferred(usize),
    /// A connection.
    Accepted(OwnedFd),
    /// The events that hold.
    Ready(u32),
    /// The time is over.
    Expired,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Which one, as `push` said.
    pub key: OpKey,
    /// What the caller gave to `push_tagged`, or 0.
    pub tag: u64,
    /// How it went.
    pub result: Result<Outcome, RingError>,
    /// The operation with all its buffers.
    pub operation: Operation,
}

/// What can go wrong in a ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel refused to make a ring.
    #[error("io_uring cannot be set up: {0}")]
    Setup(#[source] io::Error),
    /// The kernel refused to look at the ring.
    #[error("io_uring cannot be entered: {0}")]
    Enter(#[source] io::Error),
    /// An operation failed.
    #[error("{operation}: {source}")]
    System {
        /// Which kind.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file ended, or took less than it was given and then nothing.
    #[error("{operation} ended after {done} of {wanted} bytes")]
    ShortTransfer {
        /// Which kind.
        operation: &'static str,
        /// How many bytes were moved.
        done: u64,
        /// How many should have been.
        wanted: u64,
    },
    /// It was cancelled. How much of it happened is unknown.
    #[error("{operation} was cancelled")]
    Cancelled {
        /// Which kind.
        operation: &'static str,
    },
    /// Its own time limit ended it.
    #[error("{operation} timed out")]
    TimedOut {
        /// Which kind.
        operation: &'static str,
    },
    /// The ring holds as many operations as it may.
    #[error("{limit} operations are in flight, which is the limit")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The operation makes no sense.
    #[error("{operation}: {why}")]
    Invalid {
        /// Which kind.
        operation: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl RingError {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Setup(source) | Self::Enter(source) | Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// An operation that was not taken, with the reason.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub reason: RingError,
    /// The operation with all its buffers.
    pub operation: Box<Operation>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for Refused {}
