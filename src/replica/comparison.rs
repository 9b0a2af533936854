//! One block on its way through a verify: held, asked for, read, compared. The same at both ends, but for the asking.

use bytes::Bytes;

use super::Resource;
use super::action::{Area, DiskOperation};
use super::conflicts::{Held, Kind};
use super::event::DiskError;
use super::verify::Verdict;
use super::volume::{Owner, Pending};
use crate::model::units::SectorRange;
use crate::wire::auth;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockId, BlockRequest, Packet};

/// A block, or at the target what was asked for.
#[derive(Debug)]
pub(super) struct Comparison {
    volume: usize,
    peer: usize,
    range: SectorRange,
    held: Option<Held>,
    stage: Stage,
    /// We are the target: our digest goes to the peer.
    is_answer: bool,
    /// The peer's digest, once the source has it.
    theirs: Bytes,
    /// The verify that wanted it is over.
    abandoned: bool,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The source waits for writes of its own before it asks.
    Waiting,
    /// The source waits for the peer's digest.
    Asked,
    /// Our own is to be read when nothing is in the way.
    Due,
    /// Our own is being read.
    Reading,
}

impl Resource {
    /// The source wants to compare a block. Writes of applications here wait from now on; when none is in the way, the peer
    /// is asked. Returns its key.
    pub(super) fn begin_comparison(&mut self, volume: usize, peer: usize, range: SectorRange) -> usize {
        self.insert_comparison(volume, peer, range, false)
    }

    /// The target has been asked for a digest.
    pub(super) fn begin_answer(&mut self, volume: usize, peer: usize, range: SectorRange) {
        self.peers[peer].serving_bytes += range.bytes();
        self.insert_comparison(volume, peer, range, true);
    }

    fn insert_comparison(&mut self, volume: usize, peer: usize, range: SectorRange, is_answer: bool) -> usize {
        let (stage, kind) =
            if is_answer { (Stage::Due, Kind::ResyncRead) } else { (Stage::Waiting, Kind::ResyncPending) };
        let (theirs, abandoned) = (Bytes::new(), false);
        let comparison = Comparison { volume, peer, range, held: None, stage, is_answer, theirs, abandoned };
        let key = self.comparisons.insert(comparison);
        let (held, now) = self.volumes[volume].conflicts.hold(range, kind, Owner::Comparison(key));
        self.comparisons[key].held = Some(held);
        if now {
            self.continue_comparison(key);
        }
        key
    }

    /// The peer's digest has come. What it wrote before is written before ours is read; what it writes now waits.
    pub(super) fn compare_with(&mut self, key: usize, theirs: Bytes) {
        let state = &mut self.comparisons[key];
        (state.stage, state.theirs) = (Stage::Due, theirs);
        let (volume, held) = (state.volume, state.held.expect("held from its beginning to its end"));
        if self.volumes[volume].conflicts.turn(held, Owner::Comparison(key)) {
            self.continue_comparison(key);
        }
    }

    /// The range that the peer has been asked about, and has not answered.
    pub(super) fn asked_range(&self, key: usize) -> Option<SectorRange> {
        let state = &self.comparisons[key];
        (state.stage == Stage::Asked).then_some(state.range)
    }

    /// Nothing is in the way any more.
    pub(super) fn continue_comparison(&mut self, key: usize) {
        let state = &mut self.comparisons[key];
        let (volume, peer, range) = (state.volume, state.peer, state.range);
        if state.abandoned {
            return self.forget_comparison(key);
        }
        if state.stage == Stage::Waiting {
            state.stage = Stage::Asked;
            let packet = Packet::OnlineVerifyRequest(request_for(range));
            return self.send(peer, Stream::Data, volume, &packet);
        }
        state.stage = Stage::Reading;
        self.volumes[volume].counters.sectors_read += range.sectors;
        let operation = DiskOperation::Read { area: Area::Data, offset: range.start.byte(), bytes: range.bytes() };
        self.disk_operation(volume, Pending::Comparison(key), operation);
    }

    /// Our own has been read. What cannot be read differs, as far as anybody can tell.
    pub(super) fn on_comparison_read(&mut self, key: usize, result: Result<Bytes, DiskError>) {
        let state = &mut self.comparisons[key];
        let (volume, peer, range, theirs) = (state.volume, state.peer, state.range, std::mem::take(&mut state.theirs));
        let (is_answer, abandoned) = (state.is_answer, state.abandoned);
        self.forget_comparison(key);
        if !abandoned && let Some(algorithm) = self.verify_algorithm(peer) {
            let own = result.as_ref().ok().map(|own| auth::digest(algorithm, own));
            if is_answer {
                // No data has zeroes for a digest.
                let digest = own.unwrap_or_else(|| Bytes::from(vec![0; algorithm.bytes()]));
                let packet = Packet::OnlineVerifyReply { request: request_for(range), digest };
                self.send(peer, Stream::Data, volume, &packet);
            } else {
                let verdict = if own == Some(theirs) { Verdict::Same } else { Verdict::Differs };
                self.on_compared(volume, peer, range, verdict);
            }
        }
        if let Err(error) = result {
            self.on_data_error(volume, &error, false);
        }
    }

    pub(super) fn comparison_volume(&self, key: usize) -> usize {
        self.comparisons[key].volume
    }

    /// Blocks that the peer has been asked about, and those that it has asked about.
    pub(super) fn open_comparisons(&self, volume: usize, peer: usize) -> (u64, u64) {
        let ours = self.comparisons.iter().map(|(_, state)| state);
        let ours = ours.filter(|state| state.volume == volume && state.peer == peer && !state.abandoned);
        ours.fold((0, 0), |(asked, answering), state| {
            (asked + u64::from(state.stage == Stage::Asked), answering + u64::from(state.is_answer))
        })
    }

    /// It is over, or nobody wants to know any more.
    pub(super) fn forget_comparison(&mut self, key: usize) {
        let state = self.comparisons.remove(key);
        if let Some(held) = state.held {
            self.release_interval(state.volume, held);
        }
        if state.is_answer && !state.abandoned {
            self.peers[state.peer].count_served(state.range.bytes());
        }
    }

    /// The verify is over: what is under way for it is nobody's.
    pub(super) fn give_up_comparisons(&mut self, volume: usize, peer: usize) {
        self.peers[peer].wishes.retain(|(of, wish)| *of != volume || !wish.is_for_verify());
        let is_mine = |state: &Comparison| state.volume == volume && state.peer == peer && !state.abandoned;
        let mine: Vec<usize> =
            self.comparisons.iter().filter(|(_, state)| is_mine(state)).map(|(key, _)| key).collect();
        for key in mine {
            let is_reading = self.comparisons[key].stage == Stage::Reading;
            if !is_reading && !self.is_ready_to_run(volume, Owner::Comparison(key)) {
                self.forget_comparison(key);
                continue;
            }
            // The disk, or the queue of those that may run, still has its key.
            let state = &mut self.comparisons[key];
            state.abandoned = true;
            if state.is_answer {
                let bytes = state.range.bytes();
                self.peers[peer].count_served(bytes);
            }
        }
    }
}

fn request_for(range: SectorRange) -> BlockRequest {
    BlockRequest { sector: range.start, block_id: BlockId::RESYNC, bytes: range.bytes() as u32 }
}
