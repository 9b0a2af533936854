//! Jobs on a real file, more of them than there are places.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::engine::specification::BackingPaths;

const DISK_BYTES: u64 = 1 << 20;

/// A disk of one volume, its ring, and what has been heard of it.
struct Bench {
    _directory: tempfile::TempDir,
    ring: Ring,
    disks: LocalDisks,
    events: VecDeque<Event>,
}

impl Bench {
    fn new(direct: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("disk");
        std::fs::File::create(&data).unwrap().set_len(DISK_BYTES).unwrap();
        let opened = Opened::open(&BackingPaths { data, metadata: None, slot: None }, direct, Duration::ZERO).unwrap();
        let mut ring = Ring::new(64).unwrap();
        let mut disks = LocalDisks::new(1, BufferPool::new());
        disks.place(0, opened, &mut ring);
        Self { _directory: directory, ring, disks, events: VecDeque::new() }
    }

    fn read(&mut self, ticket: u64) {
        let operation = DiskOperation::Read { area: Area::Data, offset: ticket % 2048 * 512, bytes: 512 };
        self.events.extend(self.disks.submit(0, Ticket(ticket), operation, &mut self.ring));
    }

    fn write(&mut self, ticket: u64, payload: Bytes) {
        let operation = DiskOperation::Write { area: Area::Data, offset: 0, payload, preflush: false, fua: false };
        self.events.extend(self.disks.submit(0, Ticket(ticket), operation, &mut self.ring));
    }

    /// Goes round until nothing is left to do; the tickets of what succeeded.
    fn finish(&mut self) -> BTreeSet<u64> {
        let mut completions = Vec::new();
        while !self.disks.is_idle() {
            assert!(self.disks.jobs.len() <= JOBS_MAX);
            self.ring.submit_and_wait(Some(Duration::from_secs(1))).unwrap();
            self.ring.completions(&mut completions);
            for completion in completions.drain(..) {
                if let Tag::Disk(job) = Tag::decode(completion.tag) {
                    self.events.extend(self.disks.on_completion(job, completion, &mut self.ring));
                }
            }
            self.disks.pump(&mut self.ring, &mut self.events);
        }
        let tickets = self.events.drain(..).map(|event| match event {
            Event::Disk { ticket, result } => (ticket.0, result.unwrap()).0,
            event => panic!("{event:?}"),
        });
        tickets.collect()
    }
}

#[test]
fn more_than_a_ring_holds_is_done_in_turn() {
    let mut bench = Bench::new(true);
    let tickets = 0..OPERATIONS_MAX as u64 + 5000;
    tickets.clone().for_each(|ticket| bench.read(ticket));
    assert_eq!(bench.ring.len(), JOBS_MAX);
    assert_eq!(bench.finish(), tickets.collect());
}

#[test]
fn a_full_ring_is_no_error_of_the_disk() {
    let mut bench = Bench::new(true);
    while !bench.ring.is_full() {
        bench.ring.push(Operation::Timeout { after: Duration::ZERO }).unwrap();
    }
    (0..3).for_each(|ticket| bench.read(ticket));
    assert!(bench.events.is_empty());
    assert_eq!(bench.finish(), [0, 1, 2].into());
}

#[test]
fn what_gathers_in_the_page_cache_is_sent_on() {
    let payload = Bytes::from(vec![7; DISK_BYTES as usize]);
    for (direct, gathered) in [(false, [DIRTY_BYTES_MAX - DISK_BYTES, 0]), (true, [0, 0])] {
        let mut bench = Bench::new(direct);
        if direct != bench.disks.disks[0].as_ref().unwrap().data.is_direct() {
            continue;
        }
        (1..DIRTY_BYTES_MAX / DISK_BYTES).for_each(|ticket| bench.write(ticket, payload.clone()));
        assert_eq!(bench.disks.dirty_bytes[0], gathered[0]);
        bench.write(0, payload.clone());
        assert_eq!(bench.disks.dirty_bytes[0], gathered[1]);
        assert_eq!(bench.finish().len() as u64, DIRTY_BYTES_MAX / DISK_BYTES);
    }
}

#[test]
fn what_has_not_begun_ends_with_its_disk() {
    let mut bench = Bench::new(true);
    (0..JOBS_MAX as u64 + 2).for_each(|ticket| bench.read(ticket));
    let gone = bench.disks.release(0, &mut bench.ring);
    let gone: Vec<u64> = gone
        .into_iter()
        .map(|event| match event {
            Event::Disk { ticket, result: Err(_) } => ticket.0,
            event => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(gone, [JOBS_MAX as u64, JOBS_MAX as u64 + 1]);
    assert_eq!(bench.finish().len(), JOBS_MAX);
}
