//! From an operation to queue entries.
//!
//! Every pointer put into an entry here points into memory that the flight owns (a buffer, `Bytes`, [`Pinned`]) or that
//! lives for ever, at an address that does not change when the flight is moved. The flight is dropped, and its buffers
//! handed back, only after the entries' completions: that is what makes `Ring::queue`'s unsafe push sound.

use std::net::Shutdown;
use std::os::fd::IntoRawFd;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags, TimeoutFlags};

use super::files::{FileTable, Target};
use super::flight::{Entries, Flight, ZeroMeans};
use super::operation::{FallocateMode, OpKey, Operation, Pieces, Span};
use super::pinned::{FreeList, Pinned, VECTORS_MAX};
use crate::io::buffer::{BufferPool, Chunk};
use crate::io::descriptor::{Descriptor, DescriptorKind};

/// The most bytes in one entry: below the kernel's own limit for a transfer, and aligned.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// How many chunks one receive may scatter over: payload, headers and some to spare.
pub(super) const CHUNKS_MAX: usize = 16;

/// `BLOCK_URING_CMD_DISCARD` of linux/blkdev.h.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

/// How many zeroes are written at once where a file has no better way.
const ZEROES_BYTES: usize = 1 << 20;

impl OpKey {
    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

impl Flight {
    pub(super) fn main_entries(&mut self, files: &FileTable, free: &mut FreeList) -> Entries {
        if let Operation::WriteAt { .. } = self.operation {
            return self.write_entries(files, free);
        }
        if let Operation::WriteZeroes { .. } = self.operation {
            return Entries::one(self.zero_entry(files));
        }
        let done = self.done;
        let pinned = &mut self.pinned;
        let entry = match &mut self.operation {
            Operation::WriteAt { .. } | Operation::WriteZeroes { .. } => unreachable!("handled above"),
            Operation::ReadAt { file, offset, buffer } => {
                let len = (buffer.len() - done).min(TRANSFER_BYTES_MAX);
                // SAFETY: `done` bytes of the buffer have been read, so the address is within it.
                let start = unsafe { buffer.start().add(done) };
                on(files.target(file), |fd| {
                    opcode::Read::new(fd, start, size(len)).offset(*offset + done as u64).build()
                })
            }
            Operation::Fsync { file, data_only } => sync(files.target(file), *data_only),
            Operation::WriteBack { file } => on(files.target(file), |fd| {
                opcode::SyncFileRange::new(fd, 0).flags(libc::SYNC_FILE_RANGE_WRITE).build()
            }),
            Operation::Fallocate { file, offset, len, mode } => fallocate(files.target(file), *offset, *len, *mode),
            Operation::Discard { file, offset, len } => discard(files, file, *offset, *len),
            Operation::Recv { socket, chunk, len } => {
                let (start, len) = (chunk.tail(), chunk.remaining().min(*len).min(TRANSFER_BYTES_MAX));
                on(files.target(socket), |fd| opcode::Recv::new(fd, start, size(len)).build())
            }
            Operation::RecvMsg { socket, chunks, layout } => {
                let pinned = pinned.get_or_insert_with(|| free.take());
                pinned.set_vectors(scatter(chunks, layout));
                let header = pinned.header();
                on(files.target(socket), |fd| opcode::RecvMsg::new(fd, header).build())
            }
            Operation::SendMsg { socket, pieces } => {
                let target = files.target(socket);
                match pieces {
                    Pieces::One(bytes) => send(target, bytes, done),
                    Pieces::Many(pieces) => send_many(target, pieces, done, pinned.get_or_insert_with(|| free.take())),
                }
            }
            Operation::Accept { listener } => on(files.target(listener), |fd| {
                let none = std::ptr::null_mut();
                opcode::Accept::new(fd, none, none.cast()).flags(libc::SOCK_CLOEXEC).build()
            }),
            Operation::Connect { socket, address, timeout } => {
                let pinned = pinned.get_or_insert_with(|| free.take());
                let (start, len) = pinned.set_address(*address);
                let connect = on(files.target(socket), |fd| opcode::Connect::new(fd, start, len).build());
                let Some(timeout) = timeout else { return Entries::one(connect) };
                let limit = opcode::LinkTimeout::new(pinned.set_time(*timeout)).build();
                return Entries::pair(connect, limit);
            }
            Operation::PollAdd { descriptor, events } => {
                on(files.target(descriptor), |fd| opcode::PollAdd::new(fd, *events).build())
            }
            Operation::Timeout { after } => timeout(pinned.get_or_insert_with(|| free.take()), *after),
            Operation::Cancel { key } => opcode::AsyncCancel::new(key.user_data()).build(),
            Operation::Shutdown { socket, how } => {
                let how = match how {
                    Shutdown::Read => libc::SHUT_RD,
                    Shutdown::Write => libc::SHUT_WR,
                    Shutdown::Both => libc::SHUT_RDWR,
                };
                on(files.target(socket), |fd| opcode::Shutdown::new(fd, how).build())
            }
            Operation::Close { descriptor } => {
                // -1 (nothing left to close) ends in EBADF, as it should.
                let number = descriptor.take().map_or(-1, IntoRawFd::into_raw_fd);
                opcode::Close::new(Fd(number)).build()
            }
        };
        Entries::one(entry)
    }

    fn write_entries(&mut self, files: &FileTable, free: &mut FreeList) -> Entries {
        let Operation::WriteAt { file, offset, pieces, durable } = &self.operation else {
            unreachable!("called for writes only");
        };
        let target = files.target(file);
        let position = *offset + self.done as u64;
        let (entry, asked) = match pieces {
            Pieces::One(bytes) => {
                let rest = rest(bytes, self.done);
                (
                    on(target, |fd| opcode::Write::new(fd, rest.as_ptr(), size(rest.len())).offset(position).build()),
                    rest.len(),
                )
            }
            Pieces::Many(pieces) => {
                let pinned = self.pinned.get_or_insert_with(|| free.take());
                let mut asked = 0;
                let count = pinned.set_vectors(gather(pieces, self.done).inspect(|vector| asked += vector.iov_len));
                let start = pinned.vectors();
                (on(target, |fd| opcode::Writev::new(fd, start, size(count)).offset(position).build()), asked)
            }
        };
        if *durable && self.done + asked == pieces.len() {
            Entries::pair(entry, sync(target, true))
        } else {
            Entries::one(entry)
        }
    }

    fn zero_entry(&self, files: &FileTable) -> Entry {
        let Operation::WriteZeroes { file, offset, .. } = &self.operation else {
            unreachable!("called for zeroes only");
        };
        let target = files.target(file);
        let position = *offset + self.done as u64;
        match self.zero_part() {
            (ZeroMeans::Punch, len) => fallocate(target, position, len, FallocateMode::PunchHole),
            (ZeroMeans::Zero, len) => fallocate(target, position, len, FallocateMode::ZeroRange),
            (ZeroMeans::Write, len) => {
                let zeroes = zeroes();
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(zeroes.len());
                on(target, |fd| opcode::Write::new(fd, zeroes.as_ptr(), size(len)).offset(position).build())
            }
        }
    }

    pub(super) fn sync_entry(&self, files: &FileTable) -> Entry {
        sync(files.target(self.file()), true)
    }

    pub(super) fn ready_entry(&self, files: &FileTable) -> Entry {
        let events = match self.operation {
            Operation::SendMsg { .. } => libc::POLLOUT,
            _ => libc::POLLIN,
        };
        on(files.target(self.file()), |fd| opcode::PollAdd::new(fd, u32::from(events.cast_unsigned())).build())
    }
}

/// An entry that names its descriptor by number or by slot. (The library wants two types for that; the entry is the same
/// but for a flag.)
fn on(target: Target, build: impl FnOnce(Fd) -> Entry) -> Entry {
    build(Fd(target.fd)).flags(target.flags)
}

fn size(len: usize) -> u32 {
    u32::try_from(len).expect("lengths are cut to TRANSFER_BYTES_MAX")
}

fn sync(target: Target, data_only: bool) -> Entry {
    let flags = if data_only { FsyncFlags::DATASYNC } else { FsyncFlags::empty() };
    on(target, |fd| opcode::Fsync::new(fd).flags(flags).build())
}

fn fallocate(target: Target, offset: u64, len: u64, mode: FallocateMode) -> Entry {
    on(target, |fd| opcode::Fallocate::new(fd, len).offset(offset).mode(mode.flags()).build())
}

fn discard(files: &FileTable, file: &Descriptor, offset: u64, len: u64) -> Entry {
    if file.kind() != DescriptorKind::BlockDevice {
        return fallocate(files.target(file), offset, len, FallocateMode::PunchHole);
    }
    // The kernel takes the start from the entry's address and the length from the field that the command overlays.
    let mut command = [0; 16];
    command[..8].copy_from_slice(&len.to_ne_bytes());
    on(files.target(file), |fd| {
        opcode::UringCmd16::new(fd, BLOCK_URING_CMD_DISCARD).addr(Some(offset)).cmd(command).build()
    })
}

fn timeout(pinned: &mut Pinned, after: Duration) -> Entry {
    opcode::Timeout::new(pinned.set_time(after)).flags(TimeoutFlags::BOOTTIME).build()
}

/// Bytes go out whole: the kernel itself goes on after a short send, and a peer that is gone is an error, not a signal.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

fn send(target: Target, bytes: &Bytes, done: usize) -> Entry {
    let rest = rest(bytes, done);
    on(target, |fd| opcode::Send::new(fd, rest.as_ptr(), size(rest.len())).flags(SEND_FLAGS).build())
}

fn send_many(target: Target, pieces: &[Bytes], done: usize, pinned: &mut Pinned) -> Entry {
    pinned.set_vectors(gather(pieces, done));
    let header = pinned.header();
    on(target, |fd| opcode::SendMsg::new(fd, header).flags(SEND_FLAGS.cast_unsigned()).build())
}

/// What is left of one run of bytes, as much as one entry takes.
fn rest(bytes: &Bytes, done: usize) -> &[u8] {
    let rest = bytes.get(done..).unwrap_or_default();
    &rest[..rest.len().min(TRANSFER_BYTES_MAX)]
}

/// Vectors over what is left of several runs of bytes, as much as one entry takes.
fn gather(pieces: &[Bytes], done: usize) -> impl Iterator<Item = libc::iovec> {
    let mut skip = done;
    let mut room = TRANSFER_BYTES_MAX;
    let rests = pieces.iter().map(move |piece| {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        let rest = &piece[skipped..];
        let rest = &rest[..rest.len().min(room)];
        room -= rest.len();
        libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() }
    });
    rests.filter(|vector| vector.iov_len > 0).take(VECTORS_MAX)
}

/// Vectors over the tails of the chunks, in the order of the layout. The ring has checked that they fit.
pub(super) fn scatter(chunks: &[Chunk], layout: &[Span]) -> impl Iterator<Item = libc::iovec> {
    let mut cursors = [0; CHUNKS_MAX];
    layout.iter().map(move |span| {
        let cursor = &mut cursors[span.chunk];
        // SAFETY: the spans of a chunk together are not longer than what remains of it, so the address is within it.
        let start = unsafe { chunks[span.chunk].tail().add(*cursor) };
        *cursor += span.len;
        libc::iovec { iov_base: start.cast(), iov_len: span.len }
    })
}

/// Aligned zeroes for files that cannot zero a range.
fn zeroes() -> &'static Bytes {
    static ZEROES: OnceLock<Bytes> = OnceLock::new();
    ZEROES.get_or_init(|| BufferPool::with_limit(0).take_zeroed(ZEROES_BYTES).freeze())
}
