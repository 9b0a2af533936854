//! What the peer wants to read of our disk: a diskless node's applications, the target of a resync, the source of a verify.
//!
//! A wish is a few bytes, its answer up to a megabyte. So only so many are begun that their answers fit in bounded memory; the
//! others wait here, in their order, and the stream behind them is read on. (If it were not, two nodes that read from each
//! other could both wait for the other to take its answers.)

use bytes::Bytes;

use super::Resource;
use crate::wire::packet::BlockRequest;

/// Bytes that are being read for a peer, or wait to be sent to it, or for its confirmation.
const SERVING_BYTES_MAX: u64 = 128 << 20;

/// A read that has not begun.
#[derive(Debug)]
pub(super) enum Wish {
    /// For the peer's applications.
    Data(BlockRequest),
    /// For its copy.
    Resync {
        request: BlockRequest,
        /// Of what it has.
        digest: Option<Bytes>,
        /// "All zero" is a good answer.
        thin: bool,
    },
    /// For a verify: its digest is enough.
    Digest(BlockRequest),
}

impl Wish {
    pub(super) fn is_for_resync(&self) -> bool {
        matches!(self, Self::Resync { .. })
    }

    pub(super) fn is_for_verify(&self) -> bool {
        matches!(self, Self::Digest(_))
    }
}

impl Resource {
    pub(super) fn on_wish(&mut self, volume: usize, peer: usize, wish: Wish) {
        self.peers[peer].wishes.push_back((volume, wish));
        self.grant_wishes(peer);
        self.regulate(peer);
    }

    /// Begins what there is room for.
    pub(super) fn grant_wishes(&mut self, peer: usize) {
        while self.may_serve(peer)
            && let Some((volume, wish)) = self.peers[peer].wishes.pop_front()
        {
            match wish {
                Wish::Data(request) => self.on_data_request(volume, peer, request),
                Wish::Digest(request) => self.on_verify_request(volume, peer, request),
                Wish::Resync { request, digest, thin } => self.on_resync_request(volume, peer, request, digest, thin),
            }
        }
    }

    fn may_serve(&self, peer: usize) -> bool {
        let peer = &self.peers[peer];
        peer.link().is_some_and(|link| peer.serving_bytes + link.reply_bytes < SERVING_BYTES_MAX)
    }
}
