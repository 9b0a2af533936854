//! Somebody who stands at the wire: what becomes of single packets on their way, where that is a matter of the peer's manners
//! and not of the network's.
//!
//! A kernel sends some packets in another order than we do, and some that we never send; another version of us offers fewer
//! features. A machine hands over one packet at a time, so whole packets are held back, become others or are slipped in between.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use shimai::model::ids::{SocketId, VolumeNumber};
use shimai::wire::command::{Command, Streams};
use shimai::wire::framing::Features;
use shimai::wire::packet::Packet;

use crate::world::World;

/// First bytes of a packet, and the place of its command.
const MAGICS: [(&[u8], usize); 3] =
    [(&[0x83, 0x74, 0x02, 0x67], 4), (&[0x83, 0x5a], 2), (&[0x86, 0x20, 0xec, 0x20], 6)];
/// Where P_CONNECTION_FEATURES has its features, behind the header of the oldest form and the lowest version.
const FEATURES_AT: usize = 8 + 4;
/// Where P_PROTOCOL has its flags, behind the header.
const PROTOCOL_FLAGS_AT: usize = 16;
const DRY_RUN: u8 = 2;

/// A head and the payload that follows it.
type Parts = (Bytes, Option<Bytes>);

/// What is done to packets.
#[derive(Debug)]
pub(crate) struct Tap {
    /// No other features are offered, by either node.
    features: u32,
    /// By that node: kept until they are let go.
    pub(crate) held_back: Vec<(usize, Command)>,
    /// By that node: the first becomes the second, which has the same body.
    pub(crate) renamed: Vec<(usize, Command, Command)>,
    /// Both only ask what would become of a connection.
    pub(crate) dry_run: bool,
    kept: Vec<(SocketId, Parts)>,
    sent: BTreeMap<(usize, u16), u64>,
}

impl Tap {
    pub(crate) fn new(features: u32) -> Self {
        Self {
            features,
            held_back: Vec::new(),
            renamed: Vec::new(),
            dry_run: false,
            kept: Vec::new(),
            sent: BTreeMap::new(),
        }
    }

    /// What goes on its way of a packet.
    pub(crate) fn pass(&mut self, node: usize, socket: SocketId, parts: Parts) -> Option<Parts> {
        let (mut head, payload) = parts;
        let Some(at) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, at)| *at) else {
            return Some((head, payload));
        };
        let command = u16::from_be_bytes([head[at], head[at + 1]]);
        *self.sent.entry((node, command)).or_default() += 1;
        if command == Command::ConnectionFeatures.number() && self.features != u32::MAX {
            head = changed(&head, |bytes| {
                for (byte, mask) in bytes[FEATURES_AT..FEATURES_AT + 4].iter_mut().zip(self.features.to_be_bytes()) {
                    *byte &= mask;
                }
            });
        }
        if command == Command::Protocol.number() && self.dry_run {
            let flags_at = if at == 6 { 16 } else { 8 } + PROTOCOL_FLAGS_AT;
            head = changed(&head, |bytes| bytes[flags_at + 3] |= DRY_RUN);
        }
        if let Some((.., new)) = self.renamed.iter().find(|(by, old, _)| (*by, old.number()) == (node, command)) {
            let number = new.number().to_be_bytes();
            head = changed(&head, |bytes| bytes[at..at + 2].copy_from_slice(&number));
        }
        if self.held_back.iter().any(|(by, it)| (*by, it.number()) == (node, command)) {
            self.kept.push((socket, (head, payload)));
            return None;
        }
        Some((head, payload))
    }

    /// How many of them the node has sent.
    pub(crate) fn sent(&self, node: usize, command: Command) -> u64 {
        self.sent.get(&(node, command.number())).copied().unwrap_or(0)
    }

    /// How many are held back.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }
}

fn changed(head: &Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = BytesMut::from(&head[..]);
    change(&mut bytes);
    bytes.freeze()
}

impl World {
    /// What was held back goes on its way, and nothing more is held back.
    pub(crate) fn let_go(&mut self) {
        self.tap.held_back.clear();
        for (socket, parts) in std::mem::take(&mut self.tap.kept) {
            self.put(socket, parts);
        }
    }

    /// The first of what was held back never arrives.
    pub(crate) fn drop_first_kept(&mut self) {
        self.tap.kept.remove(0);
    }

    /// What was held back never arrives.
    pub(crate) fn drop_kept(&mut self) {
        self.tap.held_back.clear();
        self.tap.kept.clear();
    }

    /// A packet that the node's machine knows nothing of, behind what it has sent.
    pub(crate) fn slip_in(&mut self, node: usize, packet: &Packet) {
        let version = self.profile.peer.version_max;
        let is_meta = packet.command(version).is_some_and(|command| command.streams() == Streams::Meta);
        let Some((number, side)) = self.network.link_of(node, is_meta) else { return };
        let mut head = BytesMut::new();
        let payload = packet.encode(version, Features::NONE, VolumeNumber(0), &mut head);
        self.note(|| format!("{}: {packet:?} is slipped in", crate::profile::name(node)));
        if let Some(link) = self.network.links.get_mut(&number) {
            let end = &mut link.ends[side];
            end.slipped_in += (head.len() + payload.as_ref().map_or(0, Bytes::len)) as u64;
            let socket = end.socket;
            self.put(socket, (head.freeze(), payload));
        }
    }

    /// To the network, as it is.
    pub(crate) fn put(&mut self, socket: SocketId, (head, payload): Parts) {
        let Some((link, side)) = self.network.find(socket) else { return };
        self.network.send(link, side, [Some(head), payload]);
        self.pump(link, side);
    }
}
