//! A writer that knows what it wrote: random blocks with numbered contents, and a ledger of what was acknowledged.
//!
//! Every sector of a block bears the number of its write. A block that was read back must bear the number that was
//! acknowledged last, or in each sector one of those still in doubt: sent, and neither acknowledged nor refused.
//! The writer never has two writes of one block in flight, so that "last" has a meaning.

use super::nbd::Nbd;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Bytes of a block of ours; one bit of the bitmap.
pub(crate) const BLOCK: u64 = 4096;
/// Writes in flight.
const DEPTH: usize = 32;
/// After so many writes comes a flush.
const WRITES_PER_FLUSH: u64 = 256;

/// What the disk must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Number of the last acknowledged write, by block.
    settled: BTreeMap<u64, u64>,
    /// Numbers of writes in doubt, by block.
    in_doubt: BTreeMap<u64, BTreeSet<u64>>,
    /// The number of the next write.
    next: u64,
    /// What ended the writer, if it was not told to end.
    pub(crate) error: Option<String>,
}

impl Ledger {
    /// Blocks that were written, or may have been.
    pub(crate) fn touched(&self) -> BTreeSet<u64> {
        self.settled.keys().chain(self.in_doubt.keys()).copied().collect()
    }

    /// How many writes were begun.
    pub(crate) fn writes(&self) -> u64 {
        self.next
    }

    /// Checks each touched block; `read` gives a block's bytes.
    ///
    /// # Panics
    /// At a block that holds what it may not.
    pub(crate) fn check(&self, what: &str, mut read: impl FnMut(u64) -> Vec<u8>) {
        for block in self.touched() {
            let settled = self.settled.get(&block).copied().unwrap_or(0);
            let in_doubt = self.in_doubt.get(&block).cloned().unwrap_or_default();
            for (sector, bytes) in read(block).chunks(512).enumerate() {
                let found = number_of(bytes, block, sector);
                let is_legal = found.is_some_and(|found| found == settled || in_doubt.contains(&found));
                assert!(
                    is_legal,
                    "{what}: block {block}, sector {sector} holds write {found:?}; acknowledged last: {settled}, in doubt: {in_doubt:?}"
                );
            }
        }
    }

    fn begin(&mut self, block: u64) -> Vec<u8> {
        self.next += 1;
        self.in_doubt.entry(block).or_default().insert(self.next);
        contents(block, self.next)
    }

    fn settle(&mut self, block: u64, number: u64) {
        self.settled.insert(block, number);
        self.in_doubt.remove(&block);
    }
}

/// A block's bytes after a write.
fn contents(block: u64, number: u64) -> Vec<u8> {
    (0..BLOCK / 512)
        .flat_map(|sector| (0..32).flat_map(move |_| [number.to_le_bytes(), tag(block, sector).to_le_bytes()].concat()))
        .collect()
}

/// Makes each sector unlike all others.
fn tag(block: u64, sector: u64) -> u64 {
    (block << 3 | sector) ^ 0x5348_494d_4149_0000
}

/// The number of the write that a sector holds: 0 if none did, `None` if it is nobody's or torn.
fn number_of(bytes: &[u8], block: u64, sector: usize) -> Option<u64> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(0);
    }
    let head: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    let number = u64::from_le_bytes(head);
    let at = sector * 512;
    (contents(block, number).get(at..at + 512)? == bytes).then_some(number)
}

/// A small generator of numbers; the seed is in the message of every failure.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Begins at a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }
}

/// A writer at work in a thread.
pub(crate) struct Load {
    thread: JoinHandle<Ledger>,
    shall_stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Load {
    /// Writes at random to `blocks` of an export, going on from `ledger`.
    pub(crate) fn start(socket: &Path, export: &str, blocks: Vec<u64>, seed: u64, ledger: Ledger) -> Self {
        assert!(blocks.len() > DEPTH, "fewer blocks than writes in flight");
        let nbd = Nbd::open(socket, export).unwrap_or_else(|error| panic!("the export cannot be opened: {error}"));
        let (shall_stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writer = Writer {
            nbd,
            dice: Dice::new(seed),
            blocks,
            ledger,
            flying: BTreeMap::new(),
            shall_stop: shall_stop.clone(),
            acknowledged: acknowledged.clone(),
        };
        let thread = std::thread::spawn(move || {
            writer.ledger.error = writer.run().err();
            writer.ledger
        });
        Self { thread, shall_stop, acknowledged }
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged: this is how a test picks a moment.
    pub(crate) fn wait_for(&self, more: u64) {
        let goal = self.acknowledged() + more;
        super::wait::until(&format!("{more} more writes are acknowledged"), super::LONG, || {
            let now = self.acknowledged();
            if now >= goal || self.thread.is_finished() { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    }

    /// Ends it after all in flight is answered and flushed.
    pub(crate) fn stop(self) -> Ledger {
        self.shall_stop.store(true, Ordering::Relaxed);
        let ledger = self.thread.join().expect("the writer does not panic");
        assert_eq!(ledger.error, None, "the writer was not disturbed");
        ledger
    }

    /// The ledger after the export died under the writer.
    pub(crate) fn died(self) -> Ledger {
        let ledger = self.thread.join().expect("the writer does not panic");
        assert!(ledger.error.is_some(), "the export died under the writer");
        ledger
    }
}

struct Writer {
    nbd: Nbd,
    dice: Dice,
    blocks: Vec<u64>,
    ledger: Ledger,
    /// Block and number by cookie; `None` for a flush.
    flying: BTreeMap<u64, Option<(u64, u64)>>,
    shall_stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    fn run(&mut self) -> Result<(), String> {
        while !self.shall_stop.load(Ordering::Relaxed) {
            while self.nbd.in_flight() < DEPTH {
                self.begin()?;
            }
            self.complete()?;
        }
        while self.nbd.in_flight() > 0 {
            self.complete()?;
        }
        self.nbd.flush()
    }

    fn begin(&mut self) -> Result<(), String> {
        let block = loop {
            let block = self.blocks[self.dice.below(self.blocks.len() as u64) as usize];
            if !self.flying.values().flatten().any(|(flying, _)| *flying == block) {
                break block;
            }
        };
        let payload = self.ledger.begin(block);
        let number = self.ledger.next;
        let cookie = self.nbd.begin_write(block * BLOCK, &payload)?;
        self.flying.insert(cookie, Some((block, number)));
        if number.is_multiple_of(WRITES_PER_FLUSH) {
            let cookie = self.nbd.begin_flush()?;
            self.flying.insert(cookie, None);
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), String> {
        let (cookie, result) = self.nbd.reply()?;
        let request = self.flying.remove(&cookie).expect("the client knows its cookies");
        result.map_err(|(number, words)| format!("error {number}: {words}"))?;
        if let Some((block, number)) = request {
            self.ledger.settle(block, number);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
