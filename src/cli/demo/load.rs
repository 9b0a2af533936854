//! A load whose every block can be checked: it says which run, which block and which version it is.
//!
//! At most one write to a block is in flight. An acknowledged version must be there afterwards, on whatever node; a version
//! that was in flight when the server died may be there or not, but both nodes must agree about it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::bench::Random;
use crate::cli::nbd::Connection;
use crate::io::random::random_u64;
use crate::nbd::client::ClientEvent;

/// What is written at once.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Blocks that are written, again and again: 64 MiB.
const BLOCKS: u64 = 16 << 10;
/// What all of them take.
pub(super) const WRITTEN_BYTES: u64 = BLOCKS * BLOCK_BYTES;
const DEPTH: usize = 16;
const FLUSH_EVERY: u64 = 256;
const FUA_EVERY: u64 = 64;
const PATIENCE: Duration = Duration::from_millis(20);
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// What a load at work is told.
const GO: u8 = 0;
/// Answers are waited for, nothing new is sent.
const STOP: u8 = 1;
/// Nothing is waited for.
const ABANDON: u8 = 2;
/// Cookies of flushes: no block has such a number.
const FLUSH: u64 = 1 << 63;

/// What is known of one block.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// The last version given out.
    version: u64,
    /// The last version that was acknowledged; 0: never written.
    acknowledged: u64,
    /// In flight when the server went away.
    uncertain: Option<u64>,
}

/// What the blocks should hold.
#[derive(Debug)]
pub(super) struct Load {
    seed: u64,
    random: Random,
    blocks: Vec<Block>,
    acknowledged: u64,
    /// Since the load was last started.
    first: Arc<OnceLock<Instant>>,
}

/// A load at work.
pub(super) struct Running {
    order: Arc<AtomicU8>,
    first: Arc<OnceLock<Instant>>,
    thread: JoinHandle<(Load, anyhow::Result<()>)>,
}

impl Running {
    /// When the first write was acknowledged.
    pub(super) fn first_acknowledged(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    /// Whether it works no more although nobody has told it to stop.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// The server has been killed: what it has not answered by now stays unanswered.
    pub(super) fn abandon(self) -> anyhow::Result<Load> {
        self.order.store(ABANDON, Ordering::Relaxed);
        let (load, _) = self.thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))?;
        Ok(load)
    }

    /// Ends the load in order.
    pub(super) fn stop(self) -> anyhow::Result<Load> {
        self.order.store(STOP, Ordering::Relaxed);
        let (load, result) = self.thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))?;
        result.context("the load was interrupted")?;
        Ok(load)
    }
}

/// What reading back has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How many blocks were looked at.
    pub(super) blocks: u64,
    /// How many do not hold what was acknowledged.
    pub(super) wrong: u64,
}

impl Load {
    pub(super) fn new() -> anyhow::Result<Self> {
        let seed = random_u64().context("no random numbers")?;
        Ok(Self::with_seed(seed))
    }

    fn with_seed(seed: u64) -> Self {
        let blocks = vec![Block::default(); BLOCKS as usize];
        Self { seed, random: Random::new(seed), blocks, acknowledged: 0, first: Arc::default() }
    }

    /// Writes acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Blocks of which nobody knows whether their last write arrived.
    pub(super) fn uncertain(&self) -> usize {
        self.blocks.iter().filter(|block| block.uncertain.is_some()).count()
    }

    /// Goes to work.
    pub(super) fn start(mut self, mut connection: Connection) -> Running {
        let order = Arc::new(AtomicU8::new(GO));
        let theirs = Arc::clone(&order);
        let first = Arc::new(OnceLock::new());
        self.first = Arc::clone(&first);
        let thread = std::thread::spawn(move || {
            let result = self.work(&mut connection, &theirs);
            (self, result)
        });
        Running { order, first, thread }
    }

    /// Works until told to stop or the server goes away; then what was in flight is uncertain.
    fn work(&mut self, connection: &mut Connection, order: &AtomicU8) -> anyhow::Result<()> {
        let mut in_flight = BTreeMap::new();
        let result = self.pump(connection, order, &mut in_flight);
        for (block, version) in in_flight {
            if let Some(block) = self.blocks.get_mut(block as usize) {
                block.uncertain = Some(version);
            }
        }
        result
    }

    fn pump(
        &mut self,
        connection: &mut Connection,
        order: &AtomicU8,
        in_flight: &mut BTreeMap<u64, u64>,
    ) -> anyhow::Result<()> {
        let (mut submitted, mut flush, mut stopped) = (0_u64, None, None);
        loop {
            match order.load(Ordering::Relaxed) {
                GO => {}
                ABANDON => return Ok(()),
                _ => drop(stopped.get_or_insert_with(Instant::now)),
            }
            while stopped.is_none() && in_flight.len() < DEPTH {
                self.submit(connection, in_flight, submitted);
                submitted += 1;
                if submitted.is_multiple_of(FLUSH_EVERY) && flush.is_none() {
                    flush = Some(FLUSH | submitted);
                    let (client, out) = connection.requests();
                    client.flush(FLUSH | submitted, out);
                }
            }
            match stopped {
                Some(_) if in_flight.is_empty() && flush.is_none() => return Ok(()),
                Some(since) if since.elapsed() > LAST_ANSWERS => bail!("{} writes are not answered", in_flight.len()),
                _ => {}
            }
            for event in connection.exchange(PATIENCE)? {
                let ClientEvent::Reply { cookie, result } = event else { continue };
                if let Err((code, words)) = result {
                    bail!("the server answered with error {code}: {words}");
                }
                match in_flight.remove(&cookie) {
                    Some(version) => self.acknowledge(cookie, version),
                    None => flush = flush.filter(|flush| *flush != cookie),
                }
            }
        }
    }

    fn submit(&mut self, connection: &mut Connection, in_flight: &mut BTreeMap<u64, u64>, number: u64) {
        let block = loop {
            let block = self.random.below(BLOCKS);
            if !in_flight.contains_key(&block) {
                break block;
            }
        };
        let Some(state) = self.blocks.get_mut(block as usize) else { return };
        state.version += 1;
        in_flight.insert(block, state.version);
        let payload = stamp(self.seed, block, state.version);
        let (client, out) = connection.requests();
        client.write(block, block * BLOCK_BYTES, &payload, number.is_multiple_of(FUA_EVERY), out);
    }

    fn acknowledge(&mut self, block: u64, version: u64) {
        if let Some(block) = self.blocks.get_mut(block as usize) {
            block.acknowledged = version;
            block.uncertain = None;
        }
        self.acknowledged += 1;
        self.first.get_or_init(Instant::now);
    }

    /// Reads back every block that was ever written.
    pub(super) fn verify(&mut self, mut connection: Connection) -> anyhow::Result<Verdict> {
        let written = |block: &Block| block.version > 0;
        let wanted: Vec<u64> =
            (0..BLOCKS).filter(|&block| self.blocks.get(block as usize).is_some_and(written)).collect();
        let mut verdict = Verdict::default();
        let (mut waiting, mut in_flight) = (wanted.into_iter(), 0);
        loop {
            while in_flight < DEPTH
                && let Some(block) = waiting.next()
            {
                let (client, out) = connection.requests();
                client.read(block, block * BLOCK_BYTES, BLOCK_BYTES as u32, out);
                in_flight += 1;
            }
            if in_flight == 0 {
                connection.close();
                return Ok(verdict);
            }
            for event in connection.exchange(PATIENCE)? {
                let ClientEvent::Reply { cookie, result } = event else { continue };
                in_flight -= 1;
                verdict.blocks += 1;
                let is_right = result.is_ok_and(|bytes| self.judge(cookie, &bytes));
                verdict.wrong += u64::from(!is_right);
            }
        }
    }

    /// Whether a block holds what it must. What was uncertain is settled by the first look at it.
    fn judge(&mut self, block: u64, bytes: &[u8]) -> bool {
        let seed = self.seed;
        let Some(state) = self.blocks.get_mut(block as usize) else { return false };
        let holds = |version: u64| match version {
            0 => bytes.iter().all(|&byte| byte == 0),
            version => bytes == stamp(seed, block, version),
        };
        if let Some(version) = state.uncertain.take()
            && holds(version)
        {
            state.acknowledged = version;
            return true;
        }
        holds(state.acknowledged)
    }
}

/// The contents of a block: its identity, and noise that follows from it.
fn stamp(seed: u64, block: u64, version: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.rotate_left(32));
    let identity = [seed, block, version];
    let noise = std::iter::repeat_with(|| random.next());
    identity.into_iter().chain(noise).take(BLOCK_BYTES as usize / 8).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_judged_by_what_was_acknowledged() {
        let mut load = Load::with_seed(7);
        load.blocks[3] = Block { version: 2, acknowledged: 2, uncertain: None };
        assert!(load.judge(3, &stamp(7, 3, 2)));
        assert!(!load.judge(3, &stamp(7, 3, 1)), "an old version is a lost write");
        assert!(!load.judge(3, &stamp(7, 4, 2)), "another block's contents are a misplaced write");
        let mut torn = stamp(7, 3, 2);
        torn[4000] ^= 1;
        assert!(!load.judge(3, &torn));
    }

    #[test]
    fn both_nodes_must_agree_about_an_uncertain_write() {
        let mut load = Load::with_seed(7);
        load.blocks[0] = Block { version: 5, acknowledged: 4, uncertain: Some(5) };
        load.blocks[1] = load.blocks[0];
        assert!(load.judge(0, &stamp(7, 0, 5)) && !load.judge(0, &stamp(7, 0, 4)));
        assert!(load.judge(1, &stamp(7, 1, 4)) && !load.judge(1, &stamp(7, 1, 5)));
    }
}
