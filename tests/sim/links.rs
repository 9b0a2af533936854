//! The engine's part of the network: what the machine asks of sockets, what it hears from them.

use bytes::Bytes;
use shimai::model::ids::{HandlerId, SocketId};
use shimai::replica::action::Closing;
use shimai::replica::event::Event;

use crate::network::{Arrived, EndState, Later};
use crate::profile::{MICROSECOND, MILLISECOND, SECOND, name};
use crate::rng::mix;
use crate::world::{Happening, World};

impl World {
    pub(crate) fn send(&mut self, socket: SocketId, head: Bytes, payload: Option<Bytes>) {
        let Some((link, side)) = self.network.find(socket) else { return };
        let node = self.network.links.get(&link).map_or(0, |link| link.ends[side].node);
        self.hash = mix(self.hash ^ head.len() as u64 ^ payload.as_ref().map_or(0, |bytes| (bytes.len() as u64) << 20));
        if self.verbose {
            let (bytes, start) =
                (head.len() + payload.as_ref().map_or(0, Bytes::len), head.slice(..head.len().min(12)));
            self.note(|| format!("{}: sends {bytes} bytes on socket {}: {start:02x?}", name(node), socket.0));
        }
        if let Some(parts) = self.tap.pass(node, socket, (head, payload)) {
            self.put(socket, parts);
        }
    }

    pub(crate) fn pump(&mut self, link: u64, side: usize) {
        let mut later = Vec::new();
        self.network.pump(link, side, self.now, &mut self.rng.wire, &mut later);
        for item in later {
            match item {
                Later::Arrival { link, side, at } => {
                    self.at(at, Happening::Arrival { link, side });
                }
                Later::Taken { link, side } => self.after(MICROSECOND, Happening::Taken { link, side }),
            }
        }
    }

    pub(crate) fn on_arrival(&mut self, link: u64, side: usize) {
        match self.network.arrive(link, side, self.now) {
            Arrived::Nothing => {}
            Arrived::Wait(until) => {
                self.at(until, Happening::Arrival { link, side });
            }
            Arrived::End => self.tell_closed(link, side, "closed by the peer"),
            Arrived::Piece(bytes) => {
                let Some(end) = self.network.links.get(&link).map(|link| &link.ends[side]) else { return };
                let (node, socket) = (end.node, end.socket);
                self.pump(link, 1 - side);
                // What waited behind a stall, or the end itself.
                self.at(self.now, Happening::Arrival { link, side });
                self.deliver(node, Event::Received { socket, bytes });
            }
        }
    }

    pub(crate) fn on_taken(&mut self, link: u64, side: usize) {
        let Some(end) = self.network.links.get(&link).map(|link| &link.ends[side]) else { return };
        if end.state == EndState::Open {
            let (node, event) =
                (end.node, Event::Sent { socket: end.socket, total: end.taken.saturating_sub(end.slipped_in) });
            self.deliver(node, event);
        }
    }

    pub(crate) fn throttle(&mut self, socket: SocketId, stop: bool) {
        let Some((link, side)) = self.network.find(socket) else { return };
        if let Some(found) = self.network.links.get_mut(&link) {
            found.ends[side].throttled = stop;
        }
    }

    /// The machine closes a socket.
    pub(crate) fn close(&mut self, socket: SocketId, how: Closing) {
        let Some((link, side)) = self.network.find(socket) else { return };
        if how == Closing::Lingering {
            self.network.leave(link, side);
            return self.after(SECOND, Happening::Lingered { link, side });
        }
        self.network.close(link, side, how == Closing::Drained);
        self.tell_end(link, side);
    }

    pub(crate) fn on_lingered(&mut self, link: u64, side: usize) {
        self.network.close(link, side, true);
        self.tell_end(link, side);
    }

    fn tell_end(&mut self, link: u64, side: usize) {
        let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
        self.after(delay, Happening::Arrival { link, side: 1 - side });
    }

    pub(crate) fn on_dial(&mut self, node: usize, life: u32, peer: usize) {
        if !self.is_up(node) || self.nodes[node].life != life {
            return;
        }
        let other = 1 - node;
        let reachable = !self.network.blocked[0] && !self.network.blocked[1];
        if !reachable || !self.is_up(other) {
            let patience = if reachable { self.profile.wire.latency_max } else { 2 * SECOND };
            let delay = self.rng.wire.spread(MILLISECOND, patience.max(2 * MILLISECOND));
            self.after(delay, Happening::DialFailed { node, life, peer });
            return;
        }
        let link = self.network.connect((node, life), (other, self.nodes[other].life));
        for side in 0..2 {
            let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
            self.after(delay, Happening::Opened { link, side });
        }
    }

    pub(crate) fn on_dial_failed(&mut self, node: usize, life: u32, peer: usize) {
        if self.is_up(node) && self.nodes[node].life == life {
            self.deliver(node, Event::DialFailed { peer, reason: "no answer".into() });
        }
    }

    pub(crate) fn on_handler_end(&mut self, node: usize, life: u32, id: HandlerId, exit: Option<u8>) {
        if self.is_up(node) && self.nodes[node].life == life {
            self.deliver(node, Event::HandlerEnded { id, exit });
        }
    }

    pub(crate) fn on_opened(&mut self, link: u64, side: usize) {
        let Some(found) = self.network.links.get_mut(&link) else { return };
        let cut = found.cut;
        let end = &mut found.ends[side];
        if end.state != EndState::Opening {
            return;
        }
        let (node, socket) = (end.node, end.socket);
        if self.nodes[node].process.is_none() || self.nodes[node].life != end.incarnation {
            end.state = EndState::Gone;
            self.kill_link(link, side);
            return;
        }
        end.state = EndState::Open;
        let event = if side == 0 { Event::Dialled { peer: 0, socket } } else { Event::Accepted { peer: 0, socket } };
        self.note(|| format!("{}: {event:?}", name(node)));
        self.deliver(node, event);
        if cut {
            self.after(MILLISECOND, Happening::Notice { link, side });
        }
    }

    /// One side of a link is gone without a word; the other one hears of it when the network lets it.
    pub(crate) fn kill_link(&mut self, link: u64, side: usize) {
        self.network.cut(link);
        self.network.lose(link, side);
        let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
        self.after(delay, Happening::Notice { link, side: 1 - side });
    }

    pub(crate) fn on_notice(&mut self, link: u64, side: usize) {
        let Some(found) = self.network.links.get(&link) else { return };
        let end = &found.ends[side];
        match end.state {
            EndState::Gone => {}
            EndState::Opening => self.after(10 * MILLISECOND, Happening::Notice { link, side }),
            EndState::Open if self.network.blocked[1 - end.node] && found.ends[1 - side].state == EndState::Gone => {
                self.after(50 * MILLISECOND, Happening::Notice { link, side });
            }
            EndState::Open => self.tell_closed(link, side, "connection reset"),
        }
    }

    pub(crate) fn tell_closed(&mut self, link: u64, side: usize, reason: &str) {
        let Some(found) = self.network.links.get_mut(&link) else { return };
        let end = &mut found.ends[side];
        if end.state != EndState::Open {
            return;
        }
        end.state = EndState::Gone;
        let (node, socket) = (end.node, end.socket);
        if found.ends.iter().all(|end| end.state == EndState::Gone) {
            self.network.forget(link);
        }
        self.note(|| format!("{}: socket {} ends: {reason}", name(node), socket.0));
        self.deliver(node, Event::Closed { socket, reason: reason.into() });
    }

    /// The process is gone: what becomes of its sockets. With the power gone too the peer hears nothing.
    pub(crate) fn drop_sockets(&mut self, node: usize, silently: bool) {
        let links: Vec<(u64, usize)> = self
            .network
            .links
            .iter()
            .flat_map(|(&number, link)| {
                let mine =
                    move |side: &usize| link.ends[*side].node == node && link.ends[*side].state != EndState::Gone;
                (0..2).filter(mine).map(move |side| (number, side))
            })
            .collect();
        for (link, side) in links {
            if silently {
                self.network.cut(link);
                self.network.lose(link, side);
                // A host that is up again answers the peer's next packet with a reset.
                let delay = self.rng.wire.spread(MILLISECOND, 20 * SECOND);
                self.after(delay, Happening::Notice { link, side: 1 - side });
            } else if self.rng.wire.coin() {
                self.kill_link(link, side);
            } else {
                self.network.close(link, side, true);
                let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
                self.after(delay, Happening::Arrival { link, side: 1 - side });
            }
        }
    }
}
