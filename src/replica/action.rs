//! All that a resource may ask of the world. Order is the order of beginning.

use bytes::Bytes;

use super::handler::Handler;
use super::refusal::Refusal;
use crate::model::ids::{CommandId, HandlerId, RequestId, SocketId, Ticket};

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Do this on a volume's disk and report with `Event::Disk`.
    Disk {
        /// Index of the volume.
        volume: usize,
        /// Returned in the event.
        ticket: Ticket,
        /// What to do.
        operation: DiskOperation,
    },
    /// No operation is in flight on the volume's disk: close it and drop its lock.
    ReleaseDisk {
        /// Index of the volume.
        volume: usize,
    },
    /// Connect from our address to the peer's; ends in `Dialled` or `DialFailed`.
    Dial {
        /// Index of the peer.
        peer: usize,
    },
    /// Queue bytes on a socket.
    Send {
        /// Which socket.
        socket: SocketId,
        /// Header and fixed part.
        head: Bytes,
        /// What follows, by reference.
        payload: Option<Bytes>,
    },
    /// Stop (or go on) taking bytes from a socket.
    Throttle {
        /// Which socket.
        socket: SocketId,
        /// Whether to stop.
        stop: bool,
    },
    /// Close a socket.
    Close {
        /// Which socket.
        socket: SocketId,
        /// When.
        how: Closing,
    },
    /// Answer an application.
    Reply {
        /// From the request.
        id: RequestId,
        /// The data of a read in order (empty for everything else), or what went wrong.
        result: Result<Vec<Bytes>, RequestError>,
    },
    /// Answer an operator.
    Answer {
        /// From the command.
        id: CommandId,
        /// Done, or why not.
        result: Result<(), Refusal>,
    },
    /// Run a handler that is configured; ends in `HandlerEnded`. Nothing may wait for it but what the machine lets wait.
    RunHandler {
        /// Returned in the event.
        id: HandlerId,
        /// Which.
        handler: Handler,
        /// Index of the volume it is about; `None`: the whole resource.
        volume: Option<usize>,
        /// Index of the peer it is about, if it is about one.
        peer: Option<usize>,
    },
    /// Tell people, once: a state change or an incident.
    Log {
        /// How loud.
        level: LogLevel,
        /// One sentence.
        sentence: String,
    },
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// State changes.
    Info,
    /// Something an operator should look at.
    Warn,
    /// Data or service is at risk.
    Error,
}

/// Which of a volume's devices. With internal metadata both are the same file; offsets are absolute on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// The device with the data.
    Data,
    /// The device with the metadata.
    Metadata,
}

/// One operation on a disk. Operations in flight at the same time may take effect in any order; the machine never has two
/// in flight that overlap.
#[derive(Clone, Debug)]
pub enum DiskOperation {
    /// Read `bytes` bytes from byte `offset`.
    Read {
        /// Which device.
        area: Area,
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// Write.
    Write {
        /// Which device.
        area: Area,
        /// First byte.
        offset: u64,
        /// What.
        payload: Bytes,
        /// Everything completed before, on both devices of the volume, is stable before this write begins.
        preflush: bool,
        /// This write is stable before the operation ends.
        fua: bool,
    },
    /// Make the range read as zeroes; `unmap`: give the space back where possible.
    Zero {
        /// Which device.
        area: Area,
        /// First byte.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Space may be given back.
        unmap: bool,
        /// Stable before the operation ends.
        fua: bool,
    },
    /// Everything completed before is stable before the operation ends.
    Flush {
        /// Which device.
        area: Area,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// We are not Primary.
    #[error("this node is Secondary")]
    NotPrimary,
    /// No copy of the data can be reached.
    #[error("no UpToDate data can be reached")]
    NoData,
    /// Every copy that was tried failed.
    #[error("the disk failed")]
    Disk,
    /// The resource is going down.
    #[error("the resource is shutting down")]
    GoingDown,
}

/// When a socket is closed whose owner wants to hear nothing of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// At once; what is queued is lost.
    AtOnce,
    /// After what is queued has left.
    Drained,
    /// After that, and not within the next second: the other end has time to act on what it was told.
    Lingering,
}
