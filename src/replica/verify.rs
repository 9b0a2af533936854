//! An online verify: two nodes compare their disks by digests, block by block, while applications go on.
//!
//! ```text
//! source (VerifyS): hold ─▶ P_OV_REQUEST ───────────▶ target (VerifyT): hold, read, let go
//!                   hold against everybody, read ◀─── P_OV_REPLY: digest
//!                   compare, let go ─ P_OV_RESULT ──▶ both mark what differs
//! ```
//!
//! Both disks are read at one and the same point of the stream of writes, so a write that is on its way is no difference. The
//! request follows our writes that came before it, and the answer follows the peer's: each reads behind the writes that are
//! before its packet in the stream. Our own writes wait at the source from before the request is sent until the block is
//! compared, the peer's from when the answer has come. At the target, writes wait while the block is read.
//!
//! What differs is marked, never repaired: which of the two is right is nobody's to guess here.
//!
//! Not here: how much to ask for (`verify_source`), what is answered (`verify_target`), one block's way (`comparison`), the
//! order of verdicts (`findings`).

use std::ops::Range;

use super::Resource;
use super::action::LogLevel;
use super::findings::Findings;
use super::handler::Handler;
use super::marks::Marks;
use super::state::View;
use super::verify_source::Source;
use super::verify_target::Target;
use crate::control::refusal::StateRefusal;
use crate::model::state::{ConnectionState, DiskState};
use crate::model::time::Instant;
use crate::model::units::{BLOCK_SECTORS, BlockIndex, SectorRange};
use crate::wire::auth::DigestAlgorithm;

/// The first version whose P_SYNC_PARAM tells the digest.
const VERSION_MIN: u32 = 88;

/// Which part of a volume to compare, in sectors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// Where to begin, rounded down to a block; where the last verify stopped if not given.
    pub(super) start: Option<u64>,
    /// Where to end, rounded up to a block; the end of the volume if not given.
    pub(super) stop: Option<u64>,
}

/// A verify of one volume with one peer.
#[derive(Debug)]
pub(super) struct Verify {
    pub(super) started: Instant,
    /// The first block to compare, and the one behind the last.
    pub(super) blocks: Range<u64>,
    pub(super) findings: Findings,
    /// Blocks that the peer could not read.
    pub(super) skipped: u64,
    pub(super) marks: Marks,
    pub(super) side: Side,
}

/// Which end we are.
#[derive(Debug)]
pub(super) enum Side {
    Source(Box<Source>),
    Target(Target),
}

impl Verify {
    pub(super) fn new(now: Instant, blocks: Range<u64>, side: Side) -> Self {
        let total = blocks.end - blocks.start;
        Self {
            started: now,
            findings: Findings::new(blocks.start),
            skipped: 0,
            marks: Marks::new(now, total),
            blocks,
            side,
        }
    }

    /// How many blocks are to be compared, those that are included.
    pub(super) fn total(&self) -> u64 {
        self.blocks.end - self.blocks.start
    }

    /// How many are left.
    pub(super) fn left(&self) -> u64 {
        self.total().saturating_sub(self.findings.judged())
    }

    pub(super) fn source(&mut self) -> Option<&mut Source> {
        match &mut self.side {
            Side::Source(source) => Some(source),
            Side::Target(_) => None,
        }
    }

    pub(super) fn target(&mut self) -> Option<&mut Target> {
        match &mut self.side {
            Side::Source(_) => None,
            Side::Target(target) => Some(target),
        }
    }
}

/// What became of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Differs,
    /// The peer could not read it.
    Skipped,
}

/// Whether a state is one of a verify.
pub(super) fn is_verify(conn: ConnectionState) -> bool {
    matches!(conn, ConnectionState::VerifyS | ConnectionState::VerifyT)
}

impl Resource {
    /// The digest that both nodes have agreed on; `None` without one, or if it is none that we know.
    pub(super) fn verify_algorithm(&self, peer: usize) -> Option<DigestAlgorithm> {
        DigestAlgorithm::from_name(&self.peers[peer].settings.verify_alg)
    }

    /// Why no verify can begin. (The rules alone would take an old disk for a current one, or quietly stay Connected.)
    pub(super) fn refusal_of_verify(&self, volume: usize, peer: usize) -> Option<StateRefusal> {
        use StateRefusal as R;
        let view = self.view(volume, peer);
        let rows = [
            (view.conn < ConnectionState::Connected, R::NeedConnection),
            (view.disk < DiskState::Inconsistent, R::NoLocalDisk),
            (view.pdsk < DiskState::Inconsistent, R::NoRemoteDisk),
            (self.verify_algorithm(peer).is_none(), R::NoVerifyAlg),
            (self.version(peer) < VERSION_MIN, R::NotSupported),
            (view.conn > ConnectionState::Connected, R::ResyncRunning),
            (view.disk != DiskState::UpToDate || view.pdsk != DiskState::UpToDate, R::NoUpToDateDisk),
        ];
        rows.into_iter().find(|(broken, _)| *broken).map(|(_, refusal)| refusal)
    }

    /// Whether the source tells that it is at the end, so that the end can be anywhere.
    pub(super) fn may_stop_early(&self, peer: usize) -> bool {
        self.version(peer) >= 97 && self.version(peer) != 100
    }

    /// Blocks of the volume, the last of which may be shorter.
    pub(super) fn blocks_of_volume(&self, volume: usize) -> u64 {
        self.volumes[volume].device_sectors.div_ceil(BLOCK_SECTORS)
    }

    /// Blocks are compared.
    pub(super) fn judge(&mut self, volume: usize, peer: usize, range: SectorRange, verdict: Verdict) {
        if verdict == Verdict::Differs {
            self.set_bits(volume, peer, range);
        }
        let now = self.now;
        let Some(verify) = self.peers[peer].volumes[volume].verify.as_mut() else { return };
        let (first, end) = range.blocks_touched();
        let mut runs = Vec::new();
        for block in first.0..end.0 {
            verify.skipped += u64::from(verdict == Verdict::Skipped);
            runs.extend(verify.findings.note(block, verdict == Verdict::Differs));
        }
        verify.marks.note(now, verify.left());
        self.report(volume, runs);
    }

    /// Runs of blocks that differ.
    fn report(&mut self, volume: usize, runs: Vec<Range<u64>>) {
        let (number, device) = (self.volumes[volume].settings.number, self.volumes[volume].device_sectors);
        for run in runs {
            let start = BlockIndex(run.start).sector().0;
            let sectors = BlockIndex(run.end).sector().0.min(device).saturating_sub(start);
            self.log(LogLevel::Warn, format!("volume {number}: Out of sync: start={start}, size={sectors} (sectors)"));
        }
    }

    /// All that was to be compared is.
    pub(super) fn finish_verify(&mut self, volume: usize, peer: usize) {
        let Some(verify) = self.end_verify(volume, peer) else { return };
        let number = self.volumes[volume].settings.number;
        let (seconds, judged) = (self.now.since(verify.started).as_secs(), verify.findings.judged());
        self.log(LogLevel::Info, format!("volume {number}: online verify done ({} KiB in {seconds} s)", judged * 4));
        if verify.skipped > 0 {
            let skipped = verify.skipped;
            self.log(LogLevel::Warn, format!("volume {number}: the peer could not read {skipped} 4k blocks"));
        }
        let differing = verify.findings.differing();
        if differing > 0 {
            self.log(
                LogLevel::Error,
                format!("volume {number}: Online verify found {differing} 4k block out of sync!"),
            );
            self.run_handler(Handler::OutOfSync, Some(volume), Some(peer));
        }
        let view = self.view(volume, peer);
        self.change_fact(volume, peer, View { conn: ConnectionState::Connected, ..view });
    }

    /// The state is none of a verify any more. If that was not its end, the next one goes on from here.
    pub(super) fn leave_verify(&mut self, volume: usize, peer: usize) {
        if self.end_verify(volume, peer).is_some() {
            let number = self.volumes[volume].settings.number;
            let sector = BlockIndex(self.peers[peer].volumes[volume].verify_from).sector().0;
            self.log(LogLevel::Info, format!("volume {number}: Online Verify reached sector {sector}"));
        }
    }

    fn end_verify(&mut self, volume: usize, peer: usize) -> Option<Verify> {
        let mut verify = self.peers[peer].volumes[volume].verify.take()?;
        self.give_up_comparisons(volume, peer);
        let runs = verify.findings.close();
        self.report(volume, runs);
        let next = verify.findings.next();
        let is_whole = next >= self.blocks_of_volume(volume);
        self.peers[peer].volumes[volume].verify_from = if is_whole { 0 } else { next };
        Some(verify)
    }
}
