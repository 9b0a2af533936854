//! Connections between the two hosts, as a pure model of byte streams; the world delivers what arrives.
//!
//! A link has two ends. Bytes of an end wait in its queue, are taken by the transport while there is room (told by
//! `Sent`), travel for a while in pieces of any size, and arrive in order unless the link is cut or the direction blocked.
//! Each end learns of the link's death at a time of its own, or never.
//!
//! Invariant: nothing arrives at an end that its process has not opened or has closed.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use shimai::model::ids::SocketId;
use shimai::wire::command::Command;

use crate::rng::Rng;

/// One end of a link.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) incarnation: u32,
    pub(crate) socket: SocketId,
    pub(crate) state: EndState,
    /// Given by the machine, not yet taken.
    queue: VecDeque<Bytes>,
    /// Bytes taken since the socket was opened.
    pub(crate) taken: u64,
    /// Under way to the other end, with the time of arrival.
    wire: VecDeque<(u64, Bytes)>,
    wire_bytes: u64,
    last_arrival: u64,
    pub(crate) throttled: bool,
    /// Nothing arrives here until that is taken back.
    pub(crate) deaf: bool,
    /// Bytes of packets that its process knows nothing of.
    pub(crate) slipped_in: u64,
    /// The last byte is in the queue or on the wire; then the other end sees the end.
    finishing: bool,
}

/// What the process that owns the end knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndState {
    /// The process has not heard of it yet.
    Opening,
    /// In use.
    Open,
    /// Closed by the process, or the process was told, or it died.
    Gone,
}

/// A link; end 0 belongs to the host that dialled.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    /// Nothing passes any more.
    pub(crate) cut: bool,
    /// Nothing passes until then.
    pub(crate) stalled_until: u64,
    /// Which of the two streams it is, once an end has said so.
    is_meta: Option<bool>,
}

/// How the wire behaves.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) latency_min: u64,
    pub(crate) latency_max: u64,
    /// Bytes a millisecond.
    pub(crate) bandwidth: u64,
    /// Room for bytes that were taken and have not arrived.
    pub(crate) window: u64,
    /// Largest piece.
    pub(crate) piece_max: u64,
}

/// All links.
pub(crate) struct Network {
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) wire: Wire,
    /// `blocked[n]`: nothing that node n sends arrives.
    pub(crate) blocked: [bool; 2],
    by_socket: BTreeMap<SocketId, (u64, usize)>,
    next: u64,
}

/// Something to be looked at later.
pub(crate) enum Later {
    /// The first piece on the wire to that end may have arrived.
    Arrival { link: u64, side: usize, at: u64 },
    /// Bytes of that end were taken.
    Taken { link: u64, side: usize },
}

/// What is there for an end now.
pub(crate) enum Arrived {
    Piece(Bytes),
    /// The other end has closed and everything before has arrived.
    End,
    /// Not yet; look again then.
    Wait(u64),
    Nothing,
}

impl Network {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { links: BTreeMap::new(), wire, blocked: [false; 2], by_socket: BTreeMap::new(), next: 1 }
    }

    /// A new link from `dialler`'s process to `acceptor`'s.
    pub(crate) fn connect(&mut self, dialler: (usize, u32), acceptor: (usize, u32)) -> u64 {
        let link = self.next;
        self.next += 1;
        let end = |side: u64, (node, incarnation): (usize, u32)| End {
            node,
            incarnation,
            socket: SocketId(link * 2 + side),
            state: EndState::Opening,
            queue: VecDeque::new(),
            taken: 0,
            wire: VecDeque::new(),
            wire_bytes: 0,
            last_arrival: 0,
            throttled: false,
            deaf: false,
            slipped_in: 0,
            finishing: false,
        };
        let ends = [end(0, dialler), end(1, acceptor)];
        for (side, end) in ends.iter().enumerate() {
            self.by_socket.insert(end.socket, (link, side));
        }
        self.links.insert(link, Link { ends, cut: false, stalled_until: 0, is_meta: None });
        link
    }

    pub(crate) fn find(&self, socket: SocketId) -> Option<(u64, usize)> {
        self.by_socket.get(&socket).copied()
    }

    /// The newest link of a node that is the data stream or the meta stream, and the node's end of it.
    pub(crate) fn link_of(&self, node: usize, is_meta: bool) -> Option<(u64, usize)> {
        let (number, link) = self.links.iter().rev().find(|(_, link)| link.is_meta == Some(is_meta) && !link.cut)?;
        Some((*number, link.ends.iter().position(|end| end.node == node)?))
    }

    pub(crate) fn send(&mut self, link: u64, side: usize, parts: [Option<Bytes>; 2]) {
        let Some(link) = self.links.get_mut(&link) else { return };
        if link.is_meta.is_none() {
            let introduction = Command::InitialMeta.number().to_be_bytes();
            link.is_meta = parts[0].as_ref().map(|head| head.get(4..6) == Some(&introduction));
        }
        let end = &mut link.ends[side];
        end.queue.extend(parts.into_iter().flatten().filter(|bytes| !bytes.is_empty()));
    }

    /// Lets the transport take what it has room for.
    pub(crate) fn pump(&mut self, number: u64, side: usize, now: u64, rng: &mut Rng, later: &mut Vec<Later>) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let cut = link.cut;
        let end = &mut link.ends[side];
        let before = end.taken;
        while let Some(bytes) = end.queue.front_mut() {
            let room = self.wire.window.saturating_sub(end.wire_bytes);
            // Little room is not worth a packet: pieces would stay small for ever.
            let worthwhile = (bytes.len() as u64).min(self.wire.piece_max).min(self.wire.window / 2);
            if room == 0 || room < worthwhile {
                break;
            }
            let most = (bytes.len() as u64).min(room).min(self.wire.piece_max);
            let size = if rng.chance(200) { rng.within(1, most) } else { most };
            let piece = bytes.split_to(size as usize);
            if bytes.is_empty() {
                end.queue.pop_front();
            }
            let travel = rng.within(self.wire.latency_min, self.wire.latency_max);
            let arrival = (now + travel).max(end.last_arrival) + size * 1_000_000 / self.wire.bandwidth;
            end.taken += size;
            end.wire_bytes += size;
            end.last_arrival = arrival;
            if !cut {
                end.wire.push_back((arrival, piece));
                later.push(Later::Arrival { link: number, side: 1 - side, at: arrival });
            }
        }
        if end.taken > before {
            later.push(Later::Taken { link: number, side });
        }
    }

    /// What has arrived at an end.
    pub(crate) fn arrive(&mut self, number: u64, side: usize, now: u64) -> Arrived {
        let Some(link) = self.links.get_mut(&number) else { return Arrived::Nothing };
        let sender = link.ends[1 - side].node;
        if link.cut || link.ends[side].state == EndState::Gone {
            return Arrived::Nothing;
        }
        if link.stalled_until > now {
            return Arrived::Wait(link.stalled_until);
        }
        if self.blocked[sender]
            || link.ends[side].state == EndState::Opening
            || link.ends[side].throttled
            || link.ends[side].deaf
        {
            return Arrived::Wait(now + 5_000_000);
        }
        let end = &mut link.ends[1 - side];
        match end.wire.front() {
            Some((at, _)) if *at > now => Arrived::Nothing,
            Some(_) => {
                let piece = end.wire.pop_front().map(|(_, piece)| piece).unwrap_or_default();
                end.wire_bytes -= piece.len() as u64;
                Arrived::Piece(piece)
            }
            None if end.finishing && end.queue.is_empty() => Arrived::End,
            None => Arrived::Nothing,
        }
    }

    /// The process wants to hear nothing more; the other end is not told yet.
    pub(crate) fn leave(&mut self, number: u64, side: usize) {
        if let Some(link) = self.links.get_mut(&number) {
            link.ends[side].state = EndState::Gone;
        }
    }

    /// The process closes its end (or dies with its kernel alive). Returns whether the other end will see an orderly end.
    pub(crate) fn close(&mut self, number: u64, side: usize, graceful: bool) {
        let Some(link) = self.links.get_mut(&number) else { return };
        let end = &mut link.ends[side];
        end.state = EndState::Gone;
        end.finishing = true;
        if !graceful {
            end.queue.clear();
        }
        if link.ends.iter().all(|end| end.state == EndState::Gone) {
            self.forget(number);
        }
    }

    /// Forgets an end without telling the other one.
    pub(crate) fn lose(&mut self, number: u64, side: usize) {
        if let Some(link) = self.links.get_mut(&number) {
            link.cut = true;
            link.ends[side].state = EndState::Gone;
        }
    }

    /// Nothing passes any more; what was on the wire is lost.
    pub(crate) fn cut(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number) {
            link.cut = true;
            link.ends.iter_mut().for_each(|end| end.wire.clear());
        }
    }

    pub(crate) fn forget(&mut self, number: u64) {
        if let Some(link) = self.links.remove(&number) {
            for end in link.ends {
                self.by_socket.remove(&end.socket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(rng: &mut Rng) -> (Network, u64) {
        let wire = Wire {
            latency_min: 10,
            latency_max: 1000,
            bandwidth: rng.within(1000, 100_000),
            window: rng.within(10, 5000),
            piece_max: rng.within(1, 3000),
        };
        let mut network = Network::new(wire);
        let link = network.connect((0, 1), (1, 1));
        network.links.values_mut().for_each(|link| link.ends.iter_mut().for_each(|end| end.state = EndState::Open));
        (network, link)
    }

    /// What arrives at side 1 until nothing comes any more, and whether the end was seen.
    fn drain(network: &mut Network, link: u64, rng: &mut Rng) -> (Vec<u8>, bool) {
        let (mut bytes, mut now) = (Vec::new(), 0);
        for _ in 0..100_000 {
            now += 500_000;
            network.pump(link, 0, now, rng, &mut Vec::new());
            match network.arrive(link, 1, now + 10_000_000) {
                Arrived::Piece(piece) => bytes.extend_from_slice(&piece),
                Arrived::End => return (bytes, true),
                Arrived::Nothing if bytes.len() >= 20_000 => return (bytes, false),
                Arrived::Wait(_) | Arrived::Nothing => {}
            }
        }
        (bytes, false)
    }

    #[test]
    fn an_orderly_close_delivers_everything_in_order_first() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let (mut network, link) = network(&mut rng);
            let sent: Vec<u8> = (0..20_000u32).map(|number| number as u8).collect();
            for part in sent.chunks(777) {
                network.send(link, 0, [Some(Bytes::copy_from_slice(part)), None]);
            }
            network.close(link, 0, true);
            assert_eq!(drain(&mut network, link, &mut rng), (sent, true));
        }
    }

    #[test]
    fn nothing_passes_a_cut_or_a_blocked_direction() {
        let mut rng = Rng::new(3);
        let (mut network, link) = network(&mut rng);
        network.send(link, 0, [Some(Bytes::from_static(&[1; 100])), None]);
        network.pump(link, 0, 0, &mut rng, &mut Vec::new());
        network.blocked = [true, false];
        assert!(matches!(network.arrive(link, 1, 1 << 40), Arrived::Wait(_)));
        network.blocked = [false; 2];
        network.cut(link);
        assert!(matches!(network.arrive(link, 1, 1 << 40), Arrived::Nothing));
    }
}
