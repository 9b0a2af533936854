//! All that can happen to a resource.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::handler::Handler;
use super::settings::{PeerSettings, VolumeSettings};
use crate::model::ids::{CommandId, HandlerId, RequestId, SocketId, Ticket};
use crate::model::units::{Sector, SectorRange};

/// One thing that happened. The engine (or the simulator) delivers events in the order in which it learned of them.
#[derive(Clone, Debug)]
pub enum Event {
    /// An application asks for something.
    Request(Request),
    /// An operator asks for something; answered once by `Action::Answer`.
    Command {
        /// Returned in the answer.
        id: CommandId,
        /// What is asked.
        command: Command,
    },
    /// The one who gave the command no longer waits for its answer.
    CommandGivenUp(CommandId),
    /// A disk operation ended.
    Disk {
        /// From the action.
        ticket: Ticket,
        /// What a read returned (empty for everything else), or what went wrong.
        result: Result<Bytes, DiskError>,
    },
    /// `Action::Dial` succeeded.
    Dialled {
        /// Index of the peer.
        peer: usize,
        /// The new socket.
        socket: SocketId,
    },
    /// `Action::Dial` failed.
    DialFailed {
        /// Index of the peer.
        peer: usize,
        /// Why, for people.
        reason: String,
    },
    /// Somebody connected to our address from the peer's.
    Accepted {
        /// Index of the peer.
        peer: usize,
        /// The new socket.
        socket: SocketId,
    },
    /// Bytes arrived, in order.
    Received {
        /// On which socket.
        socket: SocketId,
        /// The bytes.
        bytes: Bytes,
    },
    /// The transport has taken this many bytes of the socket's `Action::Send`s since it was opened.
    Sent {
        /// On which socket.
        socket: SocketId,
        /// Cumulative.
        total: u64,
    },
    /// The socket ended, for whatever reason; not sent for sockets that the machine closed.
    Closed {
        /// Which socket.
        socket: SocketId,
        /// Why, for people.
        reason: String,
    },
    /// An application opened or closed the volume's export; `openers` is how many have it open now.
    Openers {
        /// Index of the volume.
        volume: usize,
        /// How many have it open.
        openers: u32,
    },
    /// A handler has ended.
    HandlerEnded {
        /// From the action.
        id: HandlerId,
        /// Its exit code; `None`: it could not be started, or was killed.
        exit: Option<u8>,
    },
    /// `next_deadline` has passed.
    Timer,
}

/// What an application asks of a volume. Ranges are whole sectors inside the device; `engine` has checked that.
#[derive(Clone, Debug)]
pub struct Request {
    /// Returned in the reply.
    pub id: RequestId,
    /// Index of the volume.
    pub volume: usize,
    /// What is asked.
    pub kind: RequestKind,
}

/// The kinds of requests.
#[derive(Clone, Debug)]
pub enum RequestKind {
    /// Give me these sectors.
    Read(SectorRange),
    /// Write these bytes.
    Write {
        /// Where.
        start: Sector,
        /// What; a multiple of 512 bytes.
        payload: Bytes,
        /// Stable before the reply.
        fua: bool,
    },
    /// All writes answered before are stable before the reply.
    Flush,
    /// The contents are no longer needed; reads as zeroes on both replicas afterwards.
    Trim {
        /// Where.
        range: SectorRange,
        /// Stable before the reply.
        fua: bool,
    },
    /// Reads as zeroes afterwards.
    WriteZeroes {
        /// Where.
        range: SectorRange,
        /// Space may be given back.
        may_unmap: bool,
        /// Stable before the reply.
        fua: bool,
    },
}

/// What went wrong on a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} of {bytes} bytes at byte {offset} failed: {reason}")]
pub struct DiskError {
    /// `read`, `write`, `flush`, `discard`.
    pub operation: &'static str,
    /// Where.
    pub offset: u64,
    /// How much.
    pub bytes: u64,
    /// The system's words.
    pub reason: String,
}

/// What the engine knows of an opened backing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Size of the device that holds the data.
    pub data_bytes: u64,
    /// Size of the device that holds the metadata (the same for internal metadata).
    pub metadata_bytes: u64,
    /// Largest request the device takes, bytes.
    pub max_io_bytes: u32,
    /// Whether discard is offered and leaves zeroes.
    pub discard_zeroes: bool,
}

/// What an operator asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Take this backing device: the engine has opened and locked it.
    Attach {
        /// Index of the volume.
        volume: usize,
        /// What was found.
        facts: DeviceFacts,
    },
    /// Give the backing device back.
    Detach {
        /// Index of the volume.
        volume: usize,
        /// Without asking the peer and without waiting for the disk.
        force: bool,
    },
    /// Begin to look for the peer.
    Connect {
        /// Our changes may be thrown away after a split brain.
        discard_my_data: bool,
    },
    /// End the connection and stay alone.
    Disconnect {
        /// Without the peer's agreement.
        force: bool,
    },
    /// Become Primary.
    Primary {
        /// Declare the local data good.
        force: bool,
    },
    /// Become Secondary.
    Secondary,
    /// Throw the local data away and take the peer's.
    Invalidate {
        /// Index of the volume.
        volume: usize,
    },
    /// Throw the peer's data away and give it ours.
    InvalidateRemote {
        /// Index of the volume.
        volume: usize,
    },
    /// Compare the disks with the peer's, block by block; answered when it has begun. One that runs here already gets
    /// another end, if no start is given.
    Verify {
        /// Index of the volume.
        volume: usize,
        /// The first sector, rounded down to a block; where the last one stopped if not given.
        start: Option<u64>,
        /// The sector behind the last, rounded up to a block; the end of the volume if not given.
        stop: Option<u64>,
    },
    /// Mark the local data as older than the peer's.
    Outdate {
        /// Index of the volume.
        volume: usize,
    },
    /// Hold the resync.
    PauseSync {
        /// Index of the volume.
        volume: usize,
    },
    /// Let the resync go on.
    ResumeSync {
        /// Index of the volume.
        volume: usize,
    },
    /// Freeze application I/O.
    SuspendIo,
    /// Thaw application I/O.
    ResumeIo,
    /// Begin a new data generation.
    NewCurrentUuid {
        /// Index of the volume.
        volume: usize,
        /// Declare the two disks identical.
        clear_bitmap: bool,
    },
    /// Answer when connected.
    WaitConnect,
    /// Answer when connected and both disks are UpToDate.
    WaitSync {
        /// Index of the volume.
        volume: usize,
    },
    /// Demote, disconnect, detach everything.
    Down,
    /// Use these settings from now on (what can change while running).
    Adjust {
        /// Net options of the peer.
        peers: Vec<PeerSettings>,
        /// Disk options of the volumes.
        volumes: Vec<VolumeSettings>,
        /// What to run where, all of it.
        handlers: BTreeMap<Handler, String>,
    },
}
