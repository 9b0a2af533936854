//! The two bitmaps become one: the union, on both nodes, before a resync by bitmap begins.
//!
//! The source sends its bitmap as soon as it has decided; the target merges it into its own and sends the union back. A
//! bitmap is long, so it is sent piece by piece as the socket takes it.

use super::Resource;
use super::metadata_writer::Then;
use super::mutant;
use super::state::View;
use crate::bitmap::Bitmap;
use crate::model::state::ConnectionState;
use crate::model::units::BlockIndex;
use crate::wire::bitmap_rle::BitSource;
use crate::wire::bitmap_transfer::{BitSink, BitmapReceiver, BitmapSender, WordSource};
use crate::wire::framing::Stream;
use crate::wire::packet::Packet;

/// Bytes of bitmap packets queued on the socket before we wait for it to take some.
const QUEUED_BYTES_MAX: u64 = 1 << 20;

/// An exchange under way.
#[derive(Debug)]
pub(super) struct Exchange {
    sender: Option<BitmapSender>,
    receiver: Option<BitmapReceiver>,
}

/// One slot of the bitmap, to be read.
struct Slot<'a> {
    bitmap: &'a Bitmap,
    slot: usize,
}

impl BitSource for Slot<'_> {
    fn bits(&self) -> u64 {
        self.bitmap.blocks()
    }

    fn next_set(&self, from: u64) -> Option<u64> {
        self.bitmap.next_set(self.slot, BlockIndex(from)).map(|block| block.0)
    }

    fn next_clear(&self, from: u64) -> Option<u64> {
        self.bitmap.next_clear(self.slot, BlockIndex(from)).map(|block| block.0)
    }
}

impl WordSource for Slot<'_> {
    fn word(&self, index: u64) -> u64 {
        self.bitmap.word(self.slot, index as usize)
    }
}

/// One slot of the bitmap, to be merged into.
struct Merge<'a> {
    bitmap: &'a mut Bitmap,
    slot: usize,
}

impl BitSink for Merge<'_> {
    fn set(&mut self, first: u64, end: u64) {
        if !mutant(9) {
            self.bitmap.set_range(self.slot, BlockIndex(first), BlockIndex(end));
        }
    }

    fn merge_words(&mut self, first_word: u64, words: &[u8]) {
        if !mutant(9) {
            self.bitmap.merge_bytes(self.slot, first_word as usize, words);
        }
    }
}

impl Resource {
    /// A state that exchanges bitmaps has just been entered.
    pub(super) fn begin_exchange(&mut self, volume: usize, peer: usize, old: ConnectionState) {
        let conn = self.view(volume, peer).conn;
        if conn == old || !matches!(conn, ConnectionState::WfBitMapS | ConnectionState::WfBitMapT) {
            return;
        }
        let Some(disk) = self.volumes[volume].disk.as_ref() else { return };
        let (bits, version) = (disk.bitmap.blocks(), self.version(peer));
        let receiver = Some(BitmapReceiver::new(bits, version));
        self.peers[peer].volumes[volume].exchange = Some(Exchange { sender: None, receiver });
        if conn == ConnectionState::WfBitMapS {
            self.send_bitmap(volume, peer);
        } else if !mutant(12) {
            // The source may begin to send writes before we have made Inconsistent durable.
            self.hold_peer_writes(volume, peer);
        }
    }

    fn send_bitmap(&mut self, volume: usize, peer: usize) {
        let Some(disk) = self.volumes[volume].disk.as_ref() else { return };
        let use_rle = self.peers[peer].settings.use_rle;
        let sender = BitmapSender::new(disk.bitmap.blocks(), self.version(peer), use_rle);
        if let Some(exchange) = self.peers[peer].volumes[volume].exchange.as_mut() {
            exchange.sender = Some(sender);
        }
        self.pump_bitmap(volume, peer);
    }

    /// Sends pieces while the socket takes them.
    pub(super) fn pump_bitmap(&mut self, volume: usize, peer: usize) {
        let node = self.peers[peer].settings.node_id.index();
        while self.backlog(peer) < QUEUED_BYTES_MAX {
            let Some(exchange) = self.peers[peer].volumes[volume].exchange.as_mut() else { return };
            let Some(sender) = exchange.sender.as_mut() else { return };
            let Some(disk) = self.volumes[volume].disk.as_ref() else { return };
            let slot = Slot { bitmap: &disk.bitmap, slot: disk.slot(node) };
            match sender.next(&slot) {
                Some(packet) => self.send(peer, Stream::Data, volume, &packet),
                None => {
                    exchange.sender = None;
                    return self.on_bitmap_sent(volume, peer);
                }
            }
        }
    }

    /// Our bitmap is on its way: a target now waits for the resync's id.
    fn on_bitmap_sent(&mut self, volume: usize, peer: usize) {
        let view = self.view(volume, peer);
        if view.conn == ConnectionState::WfBitMapT {
            self.peers[peer].volumes[volume].exchange = None;
            self.change_fact(volume, peer, View { conn: ConnectionState::WfSyncUuid, ..view });
        }
    }

    /// A piece of the peer's bitmap.
    pub(super) fn on_bitmap(&mut self, volume: usize, peer: usize, packet: &Packet) {
        let node = self.peers[peer].settings.node_id.index();
        let is_late = self.peers[peer].volumes[volume].gave_up_resync || !self.volumes[volume].has_disk();
        let Some(exchange) = self.peers[peer].volumes[volume].exchange.as_mut() else {
            if is_late {
                // It was on its way when our disk went.
                return;
            }
            return self.lose_connection(peer, ConnectionState::ProtocolError, "a bitmap that nobody waits for");
        };
        let (Some(receiver), Some(disk)) = (exchange.receiver.as_mut(), self.volumes[volume].disk.as_mut()) else {
            return self.lose_connection(peer, ConnectionState::ProtocolError, "a bitmap after its end");
        };
        let slot = disk.slot(node);
        match receiver.receive(packet, &mut Merge { bitmap: &mut disk.bitmap, slot }) {
            Ok(false) => {}
            Ok(true) => {
                exchange.receiver = None;
                self.on_bitmap_received(volume, peer);
            }
            Err(error) => self.lose_connection(peer, ConnectionState::ProtocolError, &error.to_string()),
        }
    }

    fn on_bitmap_received(&mut self, volume: usize, peer: usize) {
        match self.view(volume, peer).conn {
            ConnectionState::WfBitMapT => self.send_bitmap(volume, peer),
            ConnectionState::WfBitMapS => {
                self.peers[peer].volumes[volume].exchange = None;
                if let Some(disk) = self.volumes[volume].disk.as_mut() {
                    disk.after_pages(Then::SourcePages(peer));
                }
            }
            _ => self.peers[peer].volumes[volume].exchange = None,
        }
    }
}
