//! Performs the machine's disk operations on the ring.
//!
//! ```text
//!   Write { preflush, fua }:  [sync, if preflush] ──ok──► write [linked sync, if fua] ──► Event::Disk
//!                             (of metadata on a device of its own: first the data's sync, then its own)
//!   Zero { fua }:             zero ──► [sync, if fua] ──► Event::Disk
//! ```
//!
//! At most [`JOBS_MAX`] jobs are with the ring, each with one step at a time; what is asked for beyond that waits here, first
//! come, first served. A full ring is no error of a disk.
//!
//! Invariants: a write begins only after its preflush has succeeded on both devices, because a record of the activity log
//! says that what it forgets is stable; a failed step ends the job with that error; every
//! job ends in exactly one event; payloads are given to the kernel by reference when they are aligned, else copied into
//! aligned memory first.
//!
//! Not here: order between jobs (the machine's), opening and locking (`backing`).

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use slab::Slab;

use super::backing::Opened;
use super::tag::Tag;
use crate::io::block_file::BlockFile;
use crate::io::buffer::BufferPool;
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Completion, OPERATIONS_MAX, Operation, Outcome, Refused, Ring, RingError};
use crate::model::ids::Ticket;
use crate::replica::action::{Area, DiskOperation};
use crate::replica::event::{DiskError, Event};

/// Jobs with the ring at once: more than a disk gains from, and half of what a ring holds, so that sockets, listeners and the
/// mailbox always find room in it. Clients may ask for several times as much.
const JOBS_MAX: usize = OPERATIONS_MAX / 2;

/// Bytes written through the page cache after which they are sent on to the disk. Without it the kernel gathers as much as
/// memory allows, and the next flush takes seconds; more often, and neighbours are written one by one.
const DIRTY_BYTES_MAX: u64 = 32 << 20;

/// The disks of a resource's volumes, and what they are doing.
#[derive(Debug)]
pub(super) struct LocalDisks {
    pool: BufferPool,
    disks: Vec<Option<Opened>>,
    /// Bytes written through the page cache since they were last sent on, by volume.
    dirty_bytes: Vec<u64>,
    jobs: Slab<Job>,
    /// What has not begun.
    waiting: VecDeque<Waiting>,
    /// Steps of jobs that the ring had no room for.
    stalled: VecDeque<(usize, Operation)>,
    /// Errors that nobody has looked at, each with its volume.
    errors: Vec<(usize, String)>,
    /// Registered descriptors of disks that were released, until the ring lets them go.
    retired: Vec<Descriptor>,
}

/// An operation that waits for a place.
#[derive(Debug)]
struct Waiting {
    volume: usize,
    ticket: Ticket,
    operation: DiskOperation,
}

/// One operation of the machine that has begun.
#[derive(Debug)]
struct Job {
    volume: usize,
    ticket: Ticket,
    name: &'static str,
    offset: u64,
    bytes: u64,
    then: Then,
}

/// What follows the step in flight.
#[derive(Debug)]
enum Then {
    /// The event.
    End,
    /// The write for which the sync in flight had to come first.
    Operation(Box<Operation>),
    /// Another sync, and then that write.
    Operations(Box<[Operation; 2]>),
}

impl LocalDisks {
    pub(super) fn new(volumes: usize, pool: BufferPool) -> Self {
        let disks = (0..volumes).map(|_| None).collect();
        let (jobs, waiting, stalled) = (Slab::new(), VecDeque::new(), VecDeque::new());
        let (dirty_bytes, errors, retired) = (vec![0; volumes], Vec::new(), Vec::new());
        Self { pool, disks, dirty_bytes, jobs, waiting, stalled, errors, retired }
    }

    pub(super) fn has(&self, volume: usize) -> bool {
        self.disks.get(volume).is_some_and(Option::is_some)
    }

    /// Whether zeroing a range costs less than writing zeroes.
    pub(super) fn zeroes_fast(&self, volume: usize) -> bool {
        self.disks.get(volume).and_then(Option::as_ref).is_some_and(|disk| disk.data.supports_discard())
    }

    pub(super) fn is_rotational(&self, volume: usize) -> bool {
        self.disks.get(volume).and_then(Option::as_ref).and_then(|disk| disk.data.is_rotational()).unwrap_or(false)
    }

    /// Takes over an opened disk.
    pub(super) fn place(&mut self, volume: usize, opened: Opened, ring: &mut Ring) {
        for file in std::iter::once(&opened.data).chain(&opened.metadata) {
            // Without a registration everything works, a little slower.
            let _ = ring.register(file.descriptor());
        }
        self.disks[volume] = Some(opened);
    }

    /// Closes a volume's disk, and with it its lock. What has not begun there never will.
    pub(super) fn release(&mut self, volume: usize, ring: &mut Ring) -> Vec<Event> {
        if let Some(opened) = self.disks.get_mut(volume).and_then(Option::take) {
            let files = std::iter::once(&opened.data).chain(&opened.metadata);
            self.retired.extend(files.map(|file| file.descriptor().clone()));
        }
        self.retire(ring);
        let (gone, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.volume == volume);
        self.waiting = kept;
        let gone: VecDeque<Waiting> = gone;
        gone.into_iter().map(without_disk).collect()
    }

    /// Counts bytes on their way into the page cache, and has the kernel write there what has gathered.
    fn gather(&mut self, volume: usize, bytes: u64, ring: &mut Ring) {
        let Some(disk) = self.disks.get(volume).and_then(Option::as_ref).filter(|disk| !disk.data.is_direct()) else {
            return;
        };
        self.dirty_bytes[volume] += bytes;
        if self.dirty_bytes[volume] < DIRTY_BYTES_MAX {
            return;
        }
        let operation = Operation::WriteBack { file: disk.data.descriptor().clone() };
        // Where there is no room it is tried with the next write. An error is one of the disk's, and the next sync has it.
        if ring.push_tagged(operation, Tag::Ignored.encode()).is_ok() {
            self.dirty_bytes[volume] = 0;
        }
    }

    /// Closes all disks. Descriptors that operations in flight hold are closed with the last of these.
    pub(super) fn release_all(&mut self, ring: &mut Ring) {
        for volume in 0..self.disks.len() {
            // Nobody is left to hear of what had not begun.
            let _ = self.release(volume, ring);
        }
    }

    /// Lets go of released disks that the ring still had.
    fn retire(&mut self, ring: &mut Ring) {
        self.retired.retain(|descriptor| ring.unregister(descriptor).is_err());
    }

    /// Whether descriptors wait for the ring to let them go, which it does not announce.
    pub(super) fn is_retiring(&self) -> bool {
        !self.retired.is_empty()
    }

    /// What has failed since this was last asked.
    pub(super) fn take_errors(&mut self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.errors)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.waiting.is_empty()
    }

    /// Begins an operation, or lets it wait for its turn. What can never begin ends at once.
    pub(super) fn submit(
        &mut self,
        volume: usize,
        ticket: Ticket,
        operation: DiskOperation,
        ring: &mut Ring,
    ) -> Option<Event> {
        let waiting = Waiting { volume, ticket, operation };
        if self.may_begin() && self.waiting.is_empty() {
            return self.begin(waiting, ring);
        }
        self.waiting.push_back(waiting);
        None
    }

    /// Begins what there is room for by now.
    pub(super) fn pump(&mut self, ring: &mut Ring, events: &mut VecDeque<Event>) {
        while !ring.is_full()
            && let Some((key, step)) = self.stalled.pop_front()
        {
            events.extend(self.push(key, step, ring));
        }
        while self.may_begin()
            && let Some(waiting) = self.waiting.pop_front()
        {
            events.extend(self.begin(waiting, ring));
        }
        self.retire(ring);
    }

    fn may_begin(&self) -> bool {
        self.jobs.len() < JOBS_MAX && self.stalled.is_empty()
    }

    fn begin(&mut self, waiting: Waiting, ring: &mut Ring) -> Option<Event> {
        let Some(disk) = self.disks.get(waiting.volume).and_then(Option::as_ref) else {
            return Some(without_disk(waiting));
        };
        let Waiting { volume, ticket, operation } = waiting;
        let (name, offset, bytes) = describe(&operation);
        let writes = matches!(operation, DiskOperation::Write { .. });
        let (first, then) = plan(disk, operation, &self.pool);
        let job = Job { volume, ticket, name, offset, bytes, then };
        let key = self.jobs.insert(job);
        let event = self.push(key, first, ring);
        if writes {
            self.gather(volume, bytes, ring);
        }
        event
    }

    /// A step of a job ended.
    pub(super) fn on_completion(&mut self, job: u64, completion: Completion, ring: &mut Ring) -> Option<Event> {
        let key = usize::try_from(job).ok().filter(|key| self.jobs.contains(*key))?;
        if let Err(error) = &completion.result {
            return Some(self.fail(key, error));
        }
        match std::mem::replace(&mut self.jobs[key].then, Then::End) {
            Then::Operation(next) => self.push(key, *next, ring),
            Then::Operations(operations) => {
                let [next, last] = *operations;
                self.jobs[key].then = Then::Operation(Box::new(last));
                self.push(key, next, ring)
            }
            Then::End => {
                let ticket = self.jobs.remove(key).ticket;
                Some(Event::Disk { ticket, result: Ok(what_was_read(completion)) })
            }
        }
    }

    fn push(&mut self, key: usize, operation: Operation, ring: &mut Ring) -> Option<Event> {
        match ring.push_tagged(operation, Tag::Disk(key as u64).encode()) {
            Ok(_) => None,
            Err(Refused { reason: RingError::Full { .. }, operation }) => {
                self.stalled.push_back((key, *operation));
                None
            }
            Err(refused) => Some(self.fail(key, &refused.reason)),
        }
    }

    fn fail(&mut self, key: usize, error: &RingError) -> Event {
        let Job { volume, ticket, name, offset, bytes, .. } = self.jobs.remove(key);
        let error = DiskError { operation: name, offset, bytes, reason: error.to_string() };
        tracing::debug!(%error, "disk");
        self.errors.push((volume, error.to_string()));
        Event::Disk { ticket, result: Err(error) }
    }
}

fn without_disk(Waiting { ticket, operation, .. }: Waiting) -> Event {
    let (operation, offset, bytes) = describe(&operation);
    let reason = "there is no disk".to_owned();
    Event::Disk { ticket, result: Err(DiskError { operation, offset, bytes, reason }) }
}

/// For error messages: what, where, how much.
fn describe(operation: &DiskOperation) -> (&'static str, u64, u64) {
    match operation {
        DiskOperation::Read { offset, bytes, .. } => ("read", *offset, *bytes),
        DiskOperation::Write { offset, payload, .. } => ("write", *offset, payload.len() as u64),
        DiskOperation::Zero { offset, bytes, .. } => ("discard", *offset, *bytes),
        DiskOperation::Flush { .. } => ("flush", 0, 0),
    }
}

/// The first step, and what follows it.
fn plan(disk: &Opened, operation: DiskOperation, pool: &BufferPool) -> (Operation, Then) {
    let file = |area| match (area, &disk.metadata) {
        (Area::Metadata, Some(metadata)) => metadata,
        (Area::Metadata, None) | (Area::Data, _) => &disk.data,
    };
    match operation {
        DiskOperation::Read { area, offset, bytes } => {
            let buffer = pool.take(usize::try_from(bytes).unwrap_or(usize::MAX));
            (Operation::ReadAt { file: file(area).descriptor().clone(), offset, buffer }, Then::End)
        }
        DiskOperation::Write { area, offset, payload, preflush, fua } => {
            let other = (area == Area::Metadata && disk.metadata.is_some()).then_some(&disk.data);
            let file = file(area);
            let pieces = aligned(payload, file, pool).into();
            let write = Operation::WriteAt { file: file.descriptor().clone(), offset, pieces, durable: fua };
            match other {
                _ if !preflush => (write, Then::End),
                None => (sync(file), Then::Operation(Box::new(write))),
                Some(data) => (sync(data), Then::Operations(Box::new([sync(file), write]))),
            }
        }
        DiskOperation::Zero { area, offset, bytes, unmap, fua } => {
            let file = file(area);
            let descriptor = file.descriptor().clone();
            let zero = Operation::WriteZeroes { file: descriptor, offset, len: bytes, may_unmap: unmap };
            (zero, if fua { Then::Operation(Box::new(sync(file))) } else { Then::End })
        }
        DiskOperation::Flush { area } => (sync(file(area)), Then::End),
    }
}

fn sync(file: &BlockFile) -> Operation {
    Operation::Fsync { file: file.descriptor().clone(), data_only: true }
}

/// The payload itself if its address suits the file, else a copy.
fn aligned(payload: Bytes, file: &BlockFile, pool: &BufferPool) -> Bytes {
    if (payload.as_ptr() as usize).is_multiple_of(file.memory_alignment() as usize) {
        return payload;
    }
    pool.copy_of(&payload).freeze()
}

fn what_was_read(completion: Completion) -> Bytes {
    match (completion.result, completion.operation) {
        (Ok(Outcome::Transferred(_)), Operation::ReadAt { buffer, .. }) => buffer.freeze(),
        _ => Bytes::new(),
    }
}
