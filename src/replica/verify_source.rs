//! The source's end of an online verify: who may begin one, how much it asks for, the verdict on each block.
//!
//! It asks block by block, since the peer counts blocks, at the pace of the resync's controller and as gently to applications.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Resource;
use super::action::LogLevel;
use super::findings::AHEAD_MAX;
use super::rate::{Controller, TICK};
use super::refusal::Refusal;
use super::state::{Origin, View};
use super::state_request::Agreement;
use super::verify::{Part, Side, Verdict, Verify};
use crate::control::refusal::StateRefusal;
use crate::model::ids::CommandId;
use crate::model::state::ConnectionState;
use crate::model::time::Instant;
use crate::model::units::{BLOCK_SECTORS, BlockIndex, Sector, SectorRange};
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockId, BlockRequest, Packet};

/// What only the source keeps.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) controller: Controller,
    /// The next block to ask about.
    cursor: u64,
    /// Blocks that are not judged, with the keys of their comparisons.
    open: BTreeMap<u64, usize>,
    tick_at: Option<Instant>,
    /// What may still be asked for before the next tick without going over `c-max-rate`, sectors.
    allowance: u64,
}

impl Source {
    fn open_sectors(&self) -> u64 {
        self.open.len() as u64 * BLOCK_SECTORS
    }
}

impl Resource {
    /// An operator asks for a verify, or moves the end of the one that runs.
    pub(super) fn verify(&mut self, id: CommandId, volume: usize, part: Part) {
        let Some(peer) = (0..self.peers.len()).next() else {
            return self.answer(id, Err(StateRefusal::NoNetConfig.into()));
        };
        let moves_the_end = self.view(volume, peer).conn == ConnectionState::VerifyS && part.start.is_none();
        let judged = self.refusal_of_verify(volume, peer).filter(|_| !moves_the_end);
        if let Some(code) = judged {
            let refusal = self.explained_refusal_of_verify(volume, peer, code);
            return self.answer(id, Err(refusal));
        }
        if part.stop.is_some() && !self.may_stop_early(peer) {
            let sentence = format!("{}: it expects a verify to go on to the end", StateRefusal::NotSupported.text());
            return self.answer(id, Err(Refusal::state(StateRefusal::NotSupported, sentence)));
        }
        if moves_the_end {
            self.move_end_of_verify(volume, peer, part.stop);
            return self.answer(id, Ok(()));
        }
        self.ask_connection(volume, peer, ConnectionState::VerifyS, Agreement::Verify(id, part));
    }

    fn explained_refusal_of_verify(&self, volume: usize, peer: usize, code: StateRefusal) -> Refusal {
        let (view, settings) = (self.view(volume, peer), &self.peers[peer].settings);
        let (name, other, number) = (&self.settings.name, &settings.name, self.volumes[volume].settings.number);
        let text = code.text();
        let (detail, next) = match code {
            StateRefusal::NeedConnection if view.conn == ConnectionState::StandAlone => {
                (format!("{name} is StandAlone"), Some(format!("connect {name}")))
            }
            StateRefusal::NeedConnection => (format!("volume {number} is {}", view.conn), Some(format!("why {name}"))),
            StateRefusal::NoVerifyAlg if settings.verify_alg.is_empty() => (
                "the configuration has no verify-alg in net; both nodes need the same one".into(),
                Some(format!("adjust {name}    (after adding it, on both nodes)")),
            ),
            StateRefusal::NoVerifyAlg => (format!("\"{}\" is none that is known here", settings.verify_alg), None),
            StateRefusal::ResyncRunning => (format!("volume {number} is {}", view.conn), None),
            _ => (
                format!("volume {number} is {} here and {} on {other}", view.disk, view.pdsk),
                Some(format!("why {name}")),
            ),
        };
        let refusal = Refusal::state(code, format!("{text}; {detail}"));
        next.into_iter().fold(refusal, Refusal::next)
    }

    /// The peer has agreed.
    pub(super) fn begin_verify(&mut self, volume: usize, peer: usize, part: Part) -> Result<(), StateRefusal> {
        if let Some(refusal) = self.refusal_of_verify(volume, peer) {
            // It went while the peer was asked; the peer has heard of it, or will.
            return Err(refusal);
        }
        let view = self.view(volume, peer);
        self.change(volume, peer, View { conn: ConnectionState::VerifyS, ..view }, Origin::Wish)?;
        let blocks = self.blocks_of_volume(volume);
        let from = part.start.map_or(self.peers[peer].volumes[volume].verify_from, |sector| Sector(sector).block().0);
        // Before version 90 the target expects all of it.
        let first = if self.version(peer) < 90 { 0 } else { from.min(blocks.saturating_sub(1)) };
        // At least one: it is the first request that shows the target that it has begun.
        let end = end_of(part.stop, blocks).max(first + 1);
        let source = Source {
            controller: Controller::new(self.resync_settings(volume, peer)),
            cursor: first,
            open: BTreeMap::new(),
            tick_at: Some(self.now),
            allowance: 0,
        };
        let side = Side::Source(Box::new(source));
        self.peers[peer].volumes[volume].verify = Some(Verify::new(self.now, first..end, side));
        let (number, sector) = (self.volumes[volume].settings.number, BlockIndex(first).sector());
        self.log(LogLevel::Info, format!("volume {number}: starting online verify from sector {sector}"));
        self.on_verify_tick(volume, peer);
        Ok(())
    }

    /// What has been asked for is compared in any case.
    fn move_end_of_verify(&mut self, volume: usize, peer: usize, stop: Option<u64>) {
        let blocks = self.blocks_of_volume(volume);
        if let Some(verify) = self.peers[peer].volumes[volume].verify.as_mut() {
            let cursor = verify.source().map_or(0, |source| source.cursor);
            verify.blocks.end = end_of(stop, blocks).max(cursor);
        }
        self.try_finish_verify(volume, peer);
    }

    pub(super) fn verify_deadline(&self, volume: usize, peer: usize) -> Option<Instant> {
        match &self.peers[peer].volumes[volume].verify.as_ref()?.side {
            Side::Source(source) => source.tick_at,
            Side::Target(_) => None,
        }
    }

    /// A tenth of a second has passed: ask for as much as the controller says.
    pub(super) fn on_verify_tick(&mut self, volume: usize, peer: usize) {
        let now = self.now;
        let Some(verify) = self.peers[peer].volumes[volume].verify.as_mut() else { return };
        let (mark, left) = (verify.marks.recent(), verify.left());
        let Some(source) = verify.source().filter(|source| source.tick_at.is_some_and(|at| at <= now)) else { return };
        source.tick_at = Some(now + TICK);
        let busy = self.must_spare_applications(volume, peer, mark, left);
        let Some(source) = self.verify_source(volume, peer) else { return };
        let budget = source.controller.budget_sectors();
        let budget = if busy { budget.min(BLOCK_SECTORS) } else { budget };
        let ceiling = source.controller.ceiling_sectors();
        source.allowance = if busy { 0 } else { ceiling.saturating_sub(budget) };
        self.ask_for_digests(volume, peer, budget.max(BLOCK_SECTORS));
        self.try_finish_verify(volume, peer);
    }

    pub(super) fn verify_source(&mut self, volume: usize, peer: usize) -> Option<&mut Source> {
        self.peers[peer].volumes[volume].verify.as_mut().and_then(Verify::source)
    }

    fn ask_for_digests(&mut self, volume: usize, peer: usize, mut budget: u64) {
        let device = self.volumes[volume].device_sectors;
        let most = u64::from(self.peers[peer].settings.buffers_max) * BLOCK_SECTORS / 2;
        while budget >= BLOCK_SECTORS {
            let Some(verify) = self.peers[peer].volumes[volume].verify.as_mut() else { return };
            let (end, next) = (verify.blocks.end, verify.findings.next());
            let Some(source) = verify.source() else { return };
            let block = source.cursor;
            if block >= end || block - next >= AHEAD_MAX || source.open_sectors() >= most.max(BLOCK_SECTORS) {
                return;
            }
            source.cursor += 1;
            source.controller.requested(BLOCK_SECTORS);
            budget -= BLOCK_SECTORS;
            let start = BlockIndex(block).sector();
            let range = SectorRange { start, sectors: BLOCK_SECTORS.min(device - start.0) };
            let key = self.begin_comparison(volume, peer, range);
            if let Some(source) = self.verify_source(volume, peer) {
                source.open.insert(block, key);
            }
        }
    }

    /// The target's digest has come.
    pub(super) fn on_verify_reply(&mut self, volume: usize, peer: usize, request: BlockRequest, digest: Bytes) {
        if let Some(key) = self.answered_comparison(volume, peer, request.sector, request.bytes) {
            self.compare_with(key, digest);
        }
    }

    /// The target could not, or would not, read.
    pub(super) fn on_verify_refused(&mut self, volume: usize, peer: usize, sector: Sector, bytes: u32) {
        if let Some(key) = self.answered_comparison(volume, peer, sector, bytes) {
            self.forget_comparison(key);
            self.note_judged(volume, peer, SectorRange::from_bytes(sector, u64::from(bytes)), Verdict::Skipped);
        }
    }

    fn answered_comparison(&mut self, volume: usize, peer: usize, sector: Sector, bytes: u32) -> Option<usize> {
        let range = SectorRange::from_bytes(sector, u64::from(bytes));
        // Of a verify that was given up: late answers are harmless.
        let open = self.verify_source(volume, peer)?.open.get(&sector.block().0).copied();
        let Some(key) = open.filter(|key| self.asked_range(*key) == Some(range)) else {
            let reason = format!("an answer about {range}, which was not to be verified");
            self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            return None;
        };
        self.verify_source(volume, peer)?.controller.arrived(range.sectors);
        Some(key)
    }

    /// A block is compared: the target hears of it.
    pub(super) fn on_compared(&mut self, volume: usize, peer: usize, range: SectorRange, verdict: Verdict) {
        let block_id = if verdict == Verdict::Same { BlockId::IN_SYNC } else { BlockId::OUT_OF_SYNC };
        let ack = self.block_ack(volume, peer, range, block_id);
        self.send(peer, Stream::Meta, volume, &Packet::OnlineVerifyResult(ack));
        self.note_judged(volume, peer, range, verdict);
    }

    fn note_judged(&mut self, volume: usize, peer: usize, range: SectorRange, verdict: Verdict) {
        if let Some(source) = self.verify_source(volume, peer) {
            source.open.remove(&range.start.block().0);
        }
        self.judge(volume, peer, range, verdict);
        self.top_up_verify(volume, peer);
        self.try_finish_verify(volume, peer);
    }

    /// Something is compared: keep as much on its way as `c-fill-target` says, within the ceiling of this tick.
    fn top_up_verify(&mut self, volume: usize, peer: usize) {
        let Some(source) = self.verify_source(volume, peer) else { return };
        let room = source.controller.fill_sectors().saturating_sub(source.open_sectors());
        let budget = room.min(source.allowance);
        if budget >= BLOCK_SECTORS {
            source.allowance -= budget;
            self.ask_for_digests(volume, peer, budget);
        }
    }

    fn try_finish_verify(&mut self, volume: usize, peer: usize) {
        let Some(verify) = self.peers[peer].volumes[volume].verify.as_mut() else { return };
        let end = verify.blocks.end;
        if verify.source().is_some_and(|source| source.cursor >= end && source.open.is_empty()) {
            self.finish_verify(volume, peer);
        }
    }
}

/// The block behind the last that is to be compared.
fn end_of(stop: Option<u64>, blocks: u64) -> u64 {
    stop.map_or(blocks, |sector| sector.div_ceil(BLOCK_SECTORS).min(blocks))
}
