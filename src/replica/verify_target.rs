//! The target's end of an online verify: digests of what is here, and the source's verdicts.
//!
//! The first request tells where the verify begins. It ends with the verdict on the last block of the volume, or, from version
//! 97 on, when the source says that it is at the end; its last verdicts may be on the other stream still, a ping tells.

use super::Resource;
use super::verify::{Side, Verdict, Verify};
use crate::model::state::{ConnectionState, DiskState, StateWord};
use crate::model::units::SectorRange;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockAck, BlockId, BlockRequest, Packet, REQUEST_BYTES_MAX};

/// What only the target keeps.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// The first request has come.
    has_begun: bool,
    /// The source is at the end: our ping that tells whether more verdicts will come.
    ending: Option<u64>,
}

impl Resource {
    /// We have agreed to a verify.
    pub(super) fn become_verify_target(&mut self, volume: usize, peer: usize) {
        let blocks = self.blocks_of_volume(volume);
        let side = Side::Target(Target::default());
        self.peers[peer].volumes[volume].verify = Some(Verify::new(self.now, 0..blocks, side));
    }

    fn verify_target(&mut self, volume: usize, peer: usize) -> Option<&mut Target> {
        self.peers[peer].volumes[volume].verify.as_mut().and_then(Verify::target)
    }

    /// The source wants a digest.
    pub(super) fn on_verify_request(&mut self, volume: usize, peer: usize, request: BlockRequest) {
        let range = SectorRange::from_bytes(request.sector, u64::from(request.bytes));
        if range.end().0 > self.volumes[volume].device_sectors
            || request.bytes > REQUEST_BYTES_MAX
            || range.sectors == 0
        {
            let reason = format!("a verify request for {range}, beyond the device or above 1 MiB");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        let is_current = self.volumes[volume].disk_state == DiskState::UpToDate;
        let Some(target) = self.verify_target(volume, peer).filter(|_| is_current) else {
            let ack = self.block_ack(volume, peer, range, request.block_id);
            return self.send(peer, Stream::Meta, volume, &Packet::NegResyncDataReply(ack));
        };
        if !std::mem::replace(&mut target.has_begun, true) && self.version(peer) >= 90 {
            let (blocks, now) = (self.blocks_of_volume(volume), self.now);
            let side = Side::Target(Target { has_begun: true, ending: None });
            let verify = Verify::new(now, range.start.block().0..blocks, side);
            self.peers[peer].volumes[volume].verify = Some(verify);
        }
        self.begin_answer(volume, peer, range);
    }

    /// The source has compared.
    pub(super) fn on_verify_result(&mut self, volume: usize, peer: usize, ack: &BlockAck) {
        let range = SectorRange::from_bytes(ack.sector, u64::from(ack.bytes));
        let verdict = match ack.block_id {
            BlockId::IN_SYNC => Verdict::Same,
            BlockId::OUT_OF_SYNC => Verdict::Differs,
            other => {
                let reason = format!("a verdict {:#x} that there is not", other.to_u64());
                return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            }
        };
        if range.end().0 > self.volumes[volume].device_sectors || ack.bytes > REQUEST_BYTES_MAX {
            let reason = format!("a verdict on {range}, beyond the device or above 1 MiB");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        if self.verify_target(volume, peer).is_none() {
            // We have left that verify meanwhile. It is as true as before.
            if verdict == Verdict::Differs {
                self.set_bits(volume, peer, range);
            }
            return;
        }
        self.judge(volume, peer, range, verdict);
        if self.peers[peer].volumes[volume].verify.as_ref().is_some_and(|verify| verify.left() == 0) {
            self.finish_verify(volume, peer);
        }
    }

    /// A word of the source: once it is Connected again it asks for nothing more.
    pub(super) fn consider_end_of_verify(&mut self, volume: usize, peer: usize, word: StateWord) {
        let is_over = word.conn() == ConnectionState::Connected.number() && self.may_stop_early(peer);
        // What it said before it heard that we agree is not the end of what has not begun.
        let is_waited_for = |target: &mut Target| target.has_begun && target.ending.is_none();
        if is_over && self.verify_target(volume, peer).is_some_and(is_waited_for) {
            let ping = self.numbered_ping(peer);
            if let Some(target) = self.verify_target(volume, peer) {
                target.ending = Some(ping);
            }
        }
    }

    /// A ping has come back: no verdicts are on their way.
    pub(super) fn on_ping_ack_for_verify(&mut self, peer: usize) {
        for volume in 0..self.volumes.len() {
            let ending = self.verify_target(volume, peer).and_then(|target| target.ending);
            if ending.is_some_and(|ping| self.is_answered(peer, ping)) {
                self.finish_verify(volume, peer);
            }
        }
    }
}
