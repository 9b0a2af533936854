//! One io_uring of one thread: operations go in as values that own their buffers, and come out whole.
//!
//! ```text
//!  push ──> [queue, or backlog while it is full] ── submit_and_wait: one system call ──> kernel
//!                                                                                          │
//!  completions <── finished <── judged: go on with the rest, or done <─────────────────────┘
//! ```
//!
//! Everything that is ready goes to the kernel in one enter, and that enter waits for the next completion.
//! Durability is asked for as a sync operation: a FLUSH is `Fsync`, a FUA write is `WriteAt { durable: true }`, which
//! links a data sync behind the write. Write flags for that (RWF_DSYNC) are never used: on a file of a FUSE file system
//! they are silently ignored.
//!
//! Invariants: memory named by an entry belongs to a flight in the table until all completions of that flight have been
//! reaped; short transfers never reach the caller (the rest is done, or it is an error); operations begin in the order of
//! `push`, but complete, and take effect, in any order: who needs order waits for the completion.
//!
//! Dropping a ring asks the kernel to cancel what is in flight and waits for every completion before any memory is
//! freed. Transfers to a disk cannot be cancelled, so the drop lasts as long as the disk takes; after
//! [`DROP_PATIENCE`] the memory is given up for lost (leaked, never freed under the kernel).
//!
//! Not here: what the operations are for, and in which order they must be begun.

mod entries;
mod files;
mod flight;
mod helper;
mod judge;
mod now;
mod operation;
mod pinned;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode};
use slab::Slab;

use self::files::FileTable;
use self::flight::{Flight, LINKED, Step};
use self::helper::{Helper, Job};
pub use self::now::receive_now;
pub use self::operation::{Completion, FallocateMode, OpKey, Operation, Outcome, Pieces, Refused, RingError, Span};
use self::pinned::FreeList;
use self::validate::why_invalid;
use crate::io::descriptor::Descriptor;

/// How many operations a ring holds at once, queued or in flight. More than a disk or a socket gains from, so callers have
/// limits of their own below it; one that meets this one tries again after the next completion.
pub const OPERATIONS_MAX: usize = 16_384;

/// How long dropping a ring waits for the kernel.
pub const DROP_PATIENCE: Duration = Duration::from_secs(60);

/// User data of entries whose completion means nothing.
const IGNORED: u64 = u64::MAX;

/// User data of the poll on the helper's answers.
const HELPER: u64 = u64::MAX - 1;

/// An io_uring and the operations in it. Belongs to the thread that made it.
pub struct Ring {
    ring: IoUring,
    flights: Slab<Flight>,
    next_generation: u32,
    /// Flights that wait for room in the queue, in order.
    backlog: VecDeque<OpKey>,
    finished: Vec<Completion>,
    /// Completions of the kernel being handled; kept to be used again.
    reaped: Vec<(u64, i32)>,
    files: FileTable,
    free: FreeList,
    helper: Option<Helper>,
    /// Nothing new is begun.
    closing: bool,
    /// The kernel ties a ring to its thread.
    not_send: PhantomData<*const ()>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("operations", &self.len())
            .field("backlog", &self.backlog.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring whose queue has `entries` places (a power of two is best; more operations than that wait in a backlog).
    ///
    /// # Errors
    /// The kernel has no io_uring or forbids it.
    pub fn new(entries: u32) -> Result<Self, RingError> {
        set_up(entries.max(2)).map(Self::over).map_err(RingError::Setup)
    }

    fn over(ring: IoUring) -> Self {
        let files = FileTable::new(&ring);
        Self {
            ring,
            flights: Slab::new(),
            next_generation: 0,
            backlog: VecDeque::new(),
            finished: Vec::new(),
            reaped: Vec::new(),
            files,
            free: FreeList::default(),
            helper: None,
            closing: false,
            not_send: PhantomData,
        }
    }

    /// Makes operations on `descriptor` cheaper from now on. It stays open until [`unregister`](Self::unregister), also
    /// when every other clone is gone. False if there is no room, which changes nothing else.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn register(&mut self, descriptor: &Descriptor) -> io::Result<bool> {
        self.files.register(&self.ring, descriptor)
    }

    /// Undoes [`register`](Self::register). Operations in flight go on.
    ///
    /// # Errors
    /// The kernel refused; `WouldBlock`: completions must be taken first.
    pub fn unregister(&mut self, descriptor: &Descriptor) -> io::Result<()> {
        // Entries in the queue name the slot, so they have to be with the kernel before it is emptied.
        self.flush_queue().map_err(io::Error::other)?;
        if !self.ring.submission().is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.files.unregister(&self.ring, descriptor)
    }

    /// How many operations have not completed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether every operation has completed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether nothing can be pushed before an operation has completed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flights.len() >= OPERATIONS_MAX
    }

    /// Begins an operation at the next [`submit_and_wait`](Self::submit_and_wait).
    ///
    /// # Errors
    /// The operation makes no sense or the ring is full; it comes back.
    pub fn push(&mut self, operation: Operation) -> Result<OpKey, Refused> {
        self.push_tagged(operation, 0)
    }

    /// As [`push`](Self::push), with a number of the caller's that comes back in the completion.
    ///
    /// # Errors
    /// As for `push`.
    pub fn push_tagged(&mut self, operation: Operation, tag: u64) -> Result<OpKey, Refused> {
        if let Err(reason) = self.validate(&operation) {
            return Err(Refused { reason, operation: Box::new(operation) });
        }
        if let Operation::Cancel { key } = operation {
            self.mark_cancelled(key);
        }
        let generation = self.next_generation;
        // The topmost generation would make user data that means something else.
        self.next_generation = if generation == u32::MAX - 1 { 0 } else { generation + 1 };
        let index = self.flights.insert(Flight::new(operation, tag, generation));
        let key = OpKey { index: u32::try_from(index).expect("the number of operations is limited"), generation };
        self.begin(key);
        Ok(key)
    }

    /// Gives everything that was pushed to the kernel and waits until at least one operation has made progress or the
    /// time is over: no time at all for zero, without limit for `None`. Returns at once if completions are waiting to be
    /// taken, and for `None` also if there is nothing to wait for. May return early.
    ///
    /// # Errors
    /// The kernel refused; nothing has been lost, but the ring is of no more use.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> Result<(), RingError> {
        self.drain_backlog()?;
        let has_completions = !self.finished.is_empty() || !self.ring.completion().is_empty();
        let nothing_to_wait_for = timeout.is_none() && self.flights.is_empty();
        if has_completions && self.ring.submission().is_empty() {
            return Ok(());
        }
        if has_completions || nothing_to_wait_for || timeout == Some(Duration::ZERO) {
            self.enter(0, None)
        } else {
            self.enter(1, timeout)
        }
    }

    /// Appends what has completed.
    pub fn completions(&mut self, into: &mut Vec<Completion>) {
        self.reap();
        into.append(&mut self.finished);
    }

    fn validate(&self, operation: &Operation) -> Result<(), RingError> {
        if self.is_full() {
            return Err(RingError::Full { limit: OPERATIONS_MAX });
        }
        match why_invalid(operation) {
            Some(why) => Err(RingError::Invalid { operation: operation.name(), why }),
            None => Ok(()),
        }
    }

    fn flight(&mut self, key: OpKey) -> Option<&mut Flight> {
        self.flights.get_mut(key.index as usize).filter(|flight| flight.generation == key.generation)
    }

    /// Marks a flight so that it is not begun again; one that waits in the backlog ends there.
    fn mark_cancelled(&mut self, key: OpKey) {
        if let Some(flight) = self.flight(key) {
            flight.cancelled = true;
        }
    }

    /// Puts a flight's next entries into the queue, or the flight into the backlog.
    fn begin(&mut self, key: OpKey) {
        if self.backlog.is_empty() && self.has_room() {
            self.queue(key);
        } else {
            self.backlog.push_back(key);
        }
    }

    /// Whether a pair of linked entries fits the queue: they must go to the kernel in one enter.
    fn has_room(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.capacity() - queue.len() >= 2
    }

    fn queue(&mut self, key: OpKey) {
        let flight = self.flights.get_mut(key.index as usize).filter(|flight| flight.generation == key.generation);
        let Some(flight) = flight else { return };
        if flight.cancelled || self.closing {
            let error = flight.cancellation();
            return self.finish(key, Err(error));
        }
        let entries = flight.prepare(key.user_data(), &self.files, &mut self.free);
        let mut queue = self.ring.submission();
        // SAFETY: what the entries point to is owned by the flight (see `entries`), which stays in the table until
        // `pending` completions have been reaped; descriptors are held by the operation or the table of files.
        let pushed = unsafe {
            queue.push(&entries.first).is_ok() && entries.linked.is_none_or(|entry| queue.push(&entry).is_ok())
        };
        assert!(pushed, "room was checked before");
    }

    fn drain_backlog(&mut self) -> Result<(), RingError> {
        while !self.backlog.is_empty() {
            if !self.has_room() {
                self.flush_queue()?;
                if !self.has_room() {
                    // The kernel takes no more before completions are reaped.
                    return Ok(());
                }
            }
            if let Some(key) = self.backlog.pop_front() {
                self.queue(key);
            }
        }
        Ok(())
    }

    /// Gives the queue to the kernel without waiting.
    fn flush_queue(&mut self) -> Result<(), RingError> {
        if self.ring.submission().is_empty() { Ok(()) } else { self.enter(0, None) }
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> Result<(), RingError> {
        let count = u32::try_from(self.ring.submission().len()).expect("a queue is shorter than that");
        let time = timeout.map(Timespec::from);
        let mut arguments = SubmitArgs::new();
        if let Some(time) = &time {
            arguments = arguments.timespec(time);
        }
        // Always with GETEVENTS: a ring with deferred task work completes nothing without it.
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        // SAFETY: the arguments and the time they point to live until the call returns; the entries in the queue were
        // justified when they were pushed.
        let result = unsafe { self.ring.submitter().enter(count, want, flags, Some(&arguments)) };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Time is over; a signal; completions must be reaped first; short of memory for the moment.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(RingError::Enter(error)),
            },
        }
    }

    fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        for (user_data, result) in reaped.drain(..) {
            self.on_completion(user_data, result);
        }
        self.reaped = reaped;
    }

    fn on_completion(&mut self, user_data: u64, result: i32) {
        match user_data {
            IGNORED => (),
            HELPER => self.on_helper_ready(),
            _ => {
                let index = u32::try_from(user_data & (LINKED - 1)).expect("31 bits fit 32");
                let generation = u32::try_from(user_data >> 32).expect("32 bits fit 32");
                let key = OpKey { index, generation };
                let Some(flight) = self.flight(key) else {
                    tracing::error!(?key, result, "a completion of no operation");
                    return;
                };
                let step = flight.on_result(user_data & LINKED != 0, result);
                self.take(key, step);
            }
        }
    }

    fn take(&mut self, key: OpKey, step: Step) {
        match step {
            Step::Wait => (),
            Step::Again => self.begin(key),
            Step::Help(job) => self.help(key, job),
            Step::Finished(result) => self.finish(key, result),
        }
    }

    fn finish(&mut self, key: OpKey, result: Result<Outcome, RingError>) {
        let flight = self.flights.remove(key.index as usize);
        assert_eq!(flight.pending, 0, "a flight ends when the kernel owes it nothing");
        let tag = flight.tag;
        self.finished.push(Completion { key, tag, result, operation: flight.land(&mut self.free) });
    }

    fn help(&mut self, key: OpKey, job: Job) {
        let submitted = self.helper().and_then(|helper| helper.submit(key, job));
        if let Err(error) = submitted {
            self.on_helped(key, Err(error));
        }
    }

    fn helper(&mut self) -> io::Result<&Helper> {
        if self.helper.is_none() {
            self.helper = Some(Helper::start(OPERATIONS_MAX)?);
            self.poll_helper();
        }
        self.helper.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn poll_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let target = self.files.target(helper.waker().descriptor());
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(io_uring::types::Fd(target.fd), events).build().user_data(HELPER);
        self.push_internal(&entry);
    }

    fn on_helper_ready(&mut self) {
        let mut answers = Vec::new();
        if let Some(helper) = &self.helper {
            helper.drain(&mut answers);
        }
        for (key, result) in answers {
            self.on_helped(key, result);
        }
        self.poll_helper();
    }

    fn on_helped(&mut self, key: OpKey, result: io::Result<()>) {
        if let Some(flight) = self.flight(key) {
            let step = flight.on_helped(result);
            self.take(key, step);
        }
    }

    /// An entry without a flight; it names no memory.
    fn push_internal(&mut self, entry: &io_uring::squeue::Entry) {
        if !self.has_room() && self.enter(0, None).is_err() {
            return;
        }
        // SAFETY: the entry points to no memory, and its descriptor lives as long as the ring. If the queue is full all
        // the same, the entry is not queued, which costs a late answer.
        let _ = unsafe { self.ring.submission().push(entry) };
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.closing = true;
        self.push_internal(&opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(IGNORED));
        let deadline = crate::io::clock::now() + DROP_PATIENCE;
        while !self.flights.is_empty() {
            let left = deadline.since(crate::io::clock::now());
            let entered = self.submit_and_wait(Some(left));
            self.reap();
            self.finished.clear();
            if entered.is_err() || left.is_zero() {
                tracing::error!(operations = self.flights.len(), "the kernel does not give buffers back: leaked");
                std::mem::forget(std::mem::take(&mut self.flights));
                std::mem::forget(self.helper.take());
                return;
            }
        }
    }
}

/// A ring with the flags that make it cheap; plain on kernels or sandboxes that refuse them.
fn set_up(entries: u32) -> io::Result<IoUring> {
    let cheap = IoUring::builder()
        .setup_clamp()
        .setup_cqsize(entries.saturating_mul(4))
        .setup_submit_all()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .build(entries);
    match cheap {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_up_plainly(entries),
        result => result,
    }
}

fn set_up_plainly(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().setup_clamp().setup_cqsize(entries.saturating_mul(4)).setup_submit_all().build(entries)
}
