//! One operation on its way: which entries it puts into the queue, and what their completions mean.
//!
//! ```text
//!            ┌───────────── Again: short, interrupted, next means ────────────┐
//!            v                                                                │
//! push ─> prepare ─> 1 or 2 entries in flight ─> on_result ... last one ─> judge ─> Finished
//!                                                                             └───> Help: an ioctl on the helper thread
//! ```
//!
//! A durable write is a write with a linked data sync; a connect with a time limit has a linked timeout. The second
//! entry of such a pair is the `linked` one. A flight is judged only when the kernel owes nothing any more, so its
//! buffers are at rest whenever this file's decisions look at them.
//!
//! Invariants: a linked sync counts only if it ended after its write did; whatever the kernel did with the link (a short
//! write breaks it), the write is reported durable only after a sync that followed all of its bytes.

use std::io;

use io_uring::squeue::{Entry, Flags};

use super::files::FileTable;
use super::helper::Job;
use super::operation::{Operation, Outcome, RingError};
use super::pinned::{FreeList, Pinned};
use crate::io::descriptor::Descriptor;

/// The bit of an entry's user data that marks the linked one.
pub(super) const LINKED: u64 = 1 << 31;

/// What the next entries are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The operation proper.
    Main,
    /// Only the sync of a durable write whose link was broken.
    Sync,
    /// Wait until the socket is ready: it was in non-blocking mode and said EAGAIN.
    Ready,
}

/// How `WriteZeroes` goes about whole units of space; each falls back to the next that is left. Ragged ends are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZeroMeans {
    Punch,
    Zero,
    Write,
}

/// What is to be done with a flight after a completion.
pub(super) enum Step {
    /// The kernel still owes an entry.
    Wait,
    /// Prepare it again.
    Again,
    /// Hand it to the helper thread.
    Help(Job),
    /// It has ended.
    Finished(Result<Outcome, RingError>),
}

/// What goes into the queue for one stage.
pub(super) struct Entries {
    pub(super) first: Entry,
    /// Begins when the first has succeeded (or, a timeout, limits it).
    pub(super) linked: Option<Entry>,
}

impl Entries {
    pub(super) fn one(first: Entry) -> Self {
        Self { first, linked: None }
    }

    pub(super) fn pair(first: Entry, linked: Entry) -> Self {
        Self { first: first.flags(Flags::IO_LINK), linked: Some(linked) }
    }
}

pub(super) struct Flight {
    pub(super) operation: Operation,
    pub(super) tag: u64,
    pub(super) generation: u32,
    /// Entries whose completion the kernel still owes.
    pub(super) pending: u32,
    /// Nothing new may be begun for it.
    pub(super) cancelled: bool,
    pub(super) stage: Stage,
    /// Bytes moved by completed entries.
    pub(super) done: usize,
    pub(super) main: Option<i32>,
    pub(super) linked: Option<i32>,
    pub(super) linked_in_order: bool,
    pub(super) retries: u32,
    pub(super) zero_means: ZeroMeans,
    pub(super) pinned: Option<Pinned>,
}

impl Flight {
    pub(super) fn new(operation: Operation, tag: u64, generation: u32) -> Self {
        let zero_means = match &operation {
            Operation::WriteZeroes { may_unmap: true, .. } => ZeroMeans::Punch,
            _ => ZeroMeans::Zero,
        };
        Self {
            operation,
            tag,
            generation,
            pending: 0,
            cancelled: false,
            stage: Stage::Main,
            done: 0,
            main: None,
            linked: None,
            linked_in_order: false,
            retries: 0,
            zero_means,
            pinned: None,
        }
    }

    /// Gives up what is used again.
    pub(super) fn land(self, free: &mut FreeList) -> Operation {
        if let Some(pinned) = self.pinned {
            free.give_back(pinned);
        }
        self.operation
    }

    /// Makes the entries for the next stage. The caller puts both into the queue, together.
    pub(super) fn prepare(&mut self, user_data: u64, files: &FileTable, free: &mut FreeList) -> Entries {
        assert_eq!(self.pending, 0, "entries are made only when the kernel owes none");
        self.main = None;
        self.linked = None;
        self.linked_in_order = false;
        let mut entries = match self.stage {
            Stage::Main => self.main_entries(files, free),
            Stage::Sync => Entries::one(self.sync_entry(files)),
            Stage::Ready => Entries::one(self.ready_entry(files)),
        };
        entries.first = entries.first.user_data(user_data);
        entries.linked = entries.linked.map(|entry| entry.user_data(user_data | LINKED));
        if self.retries > 0 && self.is_disk() {
            // The file system would not do it without blocking: let a worker thread block.
            entries.first = entries.first.flags(Flags::ASYNC);
        }
        self.pending = if entries.linked.is_some() { 2 } else { 1 };
        entries
    }

    /// Takes in one completion.
    pub(super) fn on_result(&mut self, is_linked: bool, result: i32) -> Step {
        assert!(self.pending > 0, "the kernel completes an entry once");
        self.pending -= 1;
        if is_linked {
            self.linked_in_order = self.main.is_some();
            self.linked = Some(result);
        } else {
            self.main = Some(result);
        }
        if self.pending > 0 { Step::Wait } else { self.judge() }
    }

    /// Takes in what the helper thread says.
    pub(super) fn on_helped(&mut self, result: io::Result<()>) -> Step {
        match result {
            Ok(()) => Step::Finished(Ok(Outcome::Done)),
            Err(source) => Step::Finished(Err(RingError::System { operation: self.operation.name(), source })),
        }
    }

    /// The shared descriptor it works on.
    pub(super) fn file(&self) -> &Descriptor {
        match &self.operation {
            Operation::ReadAt { file, .. }
            | Operation::WriteAt { file, .. }
            | Operation::Fsync { file, .. }
            | Operation::WriteBack { file }
            | Operation::Fallocate { file, .. }
            | Operation::WriteZeroes { file, .. }
            | Operation::Discard { file, .. } => file,
            Operation::Recv { socket, .. }
            | Operation::RecvMsg { socket, .. }
            | Operation::SendMsg { socket, .. }
            | Operation::Connect { socket, .. }
            | Operation::Shutdown { socket, .. } => socket,
            Operation::Accept { listener } => listener,
            Operation::PollAdd { descriptor, .. } => descriptor,
            Operation::Timeout { .. } | Operation::Cancel { .. } | Operation::Close { .. } => {
                unreachable!("only operations on a shared descriptor ask for it")
            }
        }
    }

    /// The means for the next part of a `WriteZeroes`, and its length.
    pub(super) fn zero_part(&self) -> (ZeroMeans, u64) {
        let Operation::WriteZeroes { file, offset, len, .. } = &self.operation else {
            unreachable!("called for zeroes only");
        };
        let left = *len - self.done as u64;
        let unit = u64::from(file.space_unit());
        let ragged = (*offset + self.done as u64) % unit;
        match self.zero_means {
            ZeroMeans::Write => (ZeroMeans::Write, left),
            _ if ragged > 0 => (ZeroMeans::Write, left.min(unit - ragged)),
            _ if left < unit => (ZeroMeans::Write, left),
            means => (means, left - left % unit),
        }
    }

    fn is_disk(&self) -> bool {
        matches!(self.operation, Operation::ReadAt { .. } | Operation::WriteAt { .. } | Operation::WriteZeroes { .. })
    }
}
