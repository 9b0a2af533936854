//! Is the peer still there: pings, time-outs, and everything of a connection that has a deadline.
//!
//! The meta stream is pinged when nothing was received for `ping-int`; anything received counts as life. A write or an epoch
//! that is not confirmed within `timeout` × `ko-count`, a read that is not answered, or a socket that takes nothing for as
//! long, ends the connection.

use std::time::Duration;

use super::Resource;
use super::link::{Connection, Link, Phase};
use crate::model::state::ConnectionState;
use crate::model::time::Instant;
use crate::wire::framing::{PROTOCOL_MIN, Stream};
use crate::wire::packet::Packet;

impl Resource {
    pub(super) fn peer_deadline(&self, peer: usize) -> Option<Instant> {
        match &self.peers[peer].connection {
            Connection::Off => None,
            Connection::Establishing(establish) => establish.next_deadline(),
            Connection::Linked(link) => {
                let resync = (0..self.volumes.len()).filter_map(|volume| self.resync_deadline(volume, peer));
                let verify = (0..self.volumes.len()).filter_map(|volume| self.verify_deadline(volume, peer));
                let link = [
                    self.handshake_deadline(peer, link),
                    self.volumes_deadline(peer, link),
                    Some(self.ping_deadline(peer, link)),
                    self.knock_out(peer),
                ];
                link.into_iter().flatten().chain(resync).chain(verify).min()
            }
        }
    }

    /// Two kernels wait half a second before they say anything; a handshake that takes much longer is none.
    fn handshake_deadline(&self, peer: usize, link: &Link) -> Option<Instant> {
        (!matches!(link.phase, Phase::Up)).then(|| self.patience_ends(peer, link))
    }

    fn patience_ends(&self, peer: usize, link: &Link) -> Instant {
        link.opened + 4 * self.peers[peer].settings.ping_timeout + Duration::from_secs(2)
    }

    /// When a volume of which the peer has said nothing is one that it does not have.
    fn volumes_deadline(&self, peer: usize, link: &Link) -> Option<Instant> {
        let at = self.patience_ends(peer, link);
        let waits = |volume: usize| self.peers[peer].volumes[volume].sizes.is_none();
        (at > self.now && matches!(link.phase, Phase::Up) && (0..self.volumes.len()).any(waits)).then_some(at)
    }

    /// Whether the peer has all the same not said a word of this volume: it is not configured there.
    pub(super) fn is_unknown_to_peer(&self, volume: usize, peer: usize) -> bool {
        self.peers[peer].link().is_some_and(|link| {
            let silent = self.peers[peer].volumes[volume].sizes.is_none();
            silent && matches!(link.phase, Phase::Up) && self.patience_ends(peer, link) <= self.now
        })
    }

    fn ping_deadline(&self, peer: usize, link: &Link) -> Instant {
        let settings = &self.peers[peer].settings;
        match link.ping_sent {
            Some(sent) => sent + settings.ping_timeout,
            // Before the versions are agreed there is no ping; the handshake has a deadline of its own.
            None if link.version < PROTOCOL_MIN => link.opened + settings.ping_interval + Duration::from_secs(3600),
            None => link.last_received + settings.ping_interval,
        }
    }

    /// When the peer has taken too long with what we sent.
    fn knock_out(&self, peer: usize) -> Option<Instant> {
        let settings = &self.peers[peer].settings;
        if settings.ko_count == 0 {
            return None;
        }
        let patience = settings.timeout * settings.ko_count;
        let link = self.peers[peer].link();
        let write = self.peers[peer].log.oldest();
        let read = link.and_then(|link| link.reads_asked.first()).map(|(since, _)| *since);
        let stuck = link.filter(|_| self.backlog(peer) > 0).map(|link| link.data_progress);
        [write, read, stuck].into_iter().flatten().min().map(|since| since + patience)
    }

    pub(super) fn on_peer_timer(&mut self, peer: usize) {
        match &self.peers[peer].connection {
            Connection::Off => {}
            Connection::Establishing(_) => self.on_establish_timer(peer),
            Connection::Linked(_) => self.on_link_timer(peer),
        }
    }

    fn on_link_timer(&mut self, peer: usize) {
        let now = self.now;
        let link = self.peers[peer].link().expect("the caller has seen it");
        if self.handshake_deadline(peer, link).is_some_and(|at| at <= now) {
            return self.lose_connection(peer, ConnectionState::Timeout, "the handshake took too long");
        }
        if self.knock_out(peer).is_some_and(|at| at <= now) {
            let settings = &self.peers[peer].settings;
            let reason = format!(
                "Remote failed to finish a request within ko-count ({}) * timeout ({} * 0.1s)",
                settings.ko_count,
                settings.timeout.as_millis() / 100
            );
            return self.lose_connection(peer, ConnectionState::Timeout, &reason);
        }
        if self.ping_deadline(peer, link) <= now {
            match link.ping_sent {
                Some(sent) if link.last_received < sent => {
                    let reason = "PingAck did not arrive in time.";
                    return self.lose_connection(peer, ConnectionState::NetworkFailure, reason);
                }
                Some(_) => self.peers[peer].link_mut().expect("still there").ping_sent = None,
                None => self.ping(peer),
            }
        }
        for volume in 0..self.volumes.len() {
            self.on_resync_tick(volume, peer);
            self.on_verify_tick(volume, peer);
        }
    }

    /// Asks the peer for a sign of life.
    pub(super) fn ping(&mut self, peer: usize) {
        let now = self.now;
        if let Some(link) = self.peers[peer].link_mut() {
            link.ping_sent = Some(now);
            self.numbered_ping(peer);
        }
    }

    /// Sends a ping and returns its number. When it is answered ([`Self::is_answered`]), the peer has read all we sent before
    /// on the meta stream, and we have read all it sent there before its answer.
    pub(super) fn numbered_ping(&mut self, peer: usize) -> u64 {
        let Some(link) = self.peers[peer].link_mut() else { return 0 };
        link.pings += 1;
        let number = link.pings;
        self.send_connection(peer, Stream::Meta, &Packet::Ping);
        number
    }

    /// Whether the ping of that number has come back.
    pub(super) fn is_answered(&self, peer: usize, ping: u64) -> bool {
        self.peers[peer].link().is_some_and(|link| link.pings_answered >= ping)
    }

    pub(super) fn on_ping_ack(&mut self, peer: usize) {
        if let Some(link) = self.peers[peer].link_mut() {
            link.ping_sent = None;
            // One that nobody asked for answers nothing.
            link.pings_answered = link.pings.min(link.pings_answered + 1);
        }
        self.on_ping_ack_for_resync(peer);
        self.on_ping_ack_for_verify(peer);
        self.retry_promotion();
    }
}
