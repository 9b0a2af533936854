//! Two nodes that have just met: features, authentication, rules of the connection, then each volume's sizes, generations and
//! state.
//!
//! ```text
//! Features ─▶ (Challenge ─▶ Response ─▶) Protocol ─▶ Up: SyncParam, Sizes, Uuids, State of every volume
//! ```
//!
//! Both sides run it at the same time; nobody waits except where an answer needs the question. What must be equal on both
//! sides and is not ends in StandAlone with a line that names the option.

use bytes::Bytes;

use super::Resource;
use super::action::LogLevel;
use super::link::Phase;
use crate::model::state::{ConnectionState, DiskState};
use crate::model::units::SECTOR_BYTES;
use crate::wire::auth::{DigestAlgorithm, equal, hmac};
use crate::wire::framing::{Features, PROTOCOL_MIN, Stream};
use crate::wire::packet::{AfterSplitBrain, ConnectionFeatures, Packet, Protocol, QueueLimits, Sizes};

/// Largest request we take and send from version 100 on.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// The largest request a version allows, bytes.
const fn request_bytes_max(version: u32) -> u32 {
    match version {
        0..=94 => 32 << 10,
        95..=99 => 128 << 10,
        _ => REQUEST_BYTES_MAX,
    }
}

impl Resource {
    fn own_features(&self, peer: usize) -> ConnectionFeatures {
        let protocol_max = self.peers[peer].settings.version_max;
        ConnectionFeatures { protocol_min: PROTOCOL_MIN, features: Features::OURS, protocol_max }
    }

    pub(super) fn begin_handshake(&mut self, peer: usize) {
        let packet = Packet::ConnectionFeatures(self.own_features(peer));
        self.send_connection(peer, Stream::Data, &packet);
        if let Some(link) = self.peers[peer].link() {
            debug_assert!(link.version < PROTOCOL_MIN, "nothing is agreed yet");
        }
    }

    /// A packet of the data stream before the link is up.
    pub(super) fn on_handshake_packet(&mut self, peer: usize, packet: Packet) {
        let Some(link) = self.peers[peer].link_mut() else { return };
        match (&link.phase, packet) {
            (_, Packet::InitialData | Packet::InitialMeta) => {}
            (Phase::Features, Packet::ConnectionFeatures(theirs)) => self.on_features(peer, &theirs),
            (Phase::Challenge(own), Packet::AuthChallenge(theirs)) => {
                let own = *own;
                self.on_challenge(peer, own, &theirs);
            }
            (Phase::Response(own), Packet::AuthResponse(theirs)) => {
                let own = *own;
                self.on_response(peer, own, &theirs);
            }
            (Phase::Protocol, Packet::Protocol(theirs)) => self.on_protocol(peer, theirs),
            (Phase::Challenge(_), other) => {
                let reason = format!("expected AuthChallenge packet, received: {}", name(&other));
                self.stand_alone(peer, &format!("{reason}; is cram-hmac-alg set on both nodes?"));
            }
            (Phase::Response(_), other) => {
                let reason = format!("expected AuthResponse packet, received: {}", name(&other));
                self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            }
            (Phase::Protocol, Packet::AuthChallenge(_)) => {
                self.stand_alone(peer, "the peer wants authentication; cram-hmac-alg is not set here");
            }
            (_, other) => {
                let reason = format!("unexpected {} during the handshake", name(&other));
                self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            }
        }
    }

    fn on_features(&mut self, peer: usize, theirs: &ConnectionFeatures) {
        let (version, features) = match self.own_features(peer).agree(theirs) {
            Ok(agreed) => agreed,
            Err(error) => return self.stand_alone(peer, &error.to_string()),
        };
        let authentication = self.peers[peer].settings.authentication.is_some();
        let challenge = self.random.challenge();
        let link = self.peers[peer].link_mut().expect("a packet came from it");
        link.version = version;
        link.features = features;
        link.data_reader.agree(version, features);
        link.meta_reader.agree(version, features);
        if version < 100 && self.volumes.len() > 1 {
            let reason =
                format!("version {version} of the protocol knows one volume, this resource has {}", self.volumes.len());
            return self.stand_alone(peer, &reason);
        }
        if !features.contains(Features::WSAME) && self.begin_due_generations(peer) {
            let reason = "a peer of this version can follow a frozen Primary only under a new generation";
            return self.lose_connection(peer, ConnectionState::ProtocolError, reason);
        }
        let link = self.peers[peer].link_mut().expect("still there");
        if authentication {
            link.phase = Phase::Challenge(challenge);
            self.send_connection(peer, Stream::Data, &Packet::AuthChallenge(Bytes::copy_from_slice(&challenge)));
        } else {
            link.phase = Phase::Protocol;
            self.send_configuration(peer);
        }
    }

    fn on_challenge(&mut self, peer: usize, own: [u8; 64], theirs: &Bytes) {
        if equal(&own, theirs) {
            return self.stand_alone(peer, "Peer presented the same challenge!");
        }
        let (algorithm, secret) =
            self.peers[peer].settings.authentication.clone().expect("or no challenge is expected");
        let response = Packet::AuthResponse(hmac(algorithm, &secret, theirs).into());
        self.send_connection(peer, Stream::Data, &response);
        self.peers[peer].link_mut().expect("a packet came from it").phase = Phase::Response(own);
    }

    fn on_response(&mut self, peer: usize, own: [u8; 64], theirs: &Bytes) {
        let (algorithm, secret) = self.peers[peer].settings.authentication.clone().expect("or no response is expected");
        let expected = hmac(algorithm, &secret, &own);
        if theirs.len() != expected.len() {
            let reason = "expected AuthResponse payload of wrong size: is cram-hmac-alg the same on both nodes?";
            return self.lose_connection(peer, ConnectionState::ProtocolError, reason);
        }
        if !equal(&expected, theirs) {
            return self.stand_alone(peer, "Authentication of peer failed: is shared-secret the same on both nodes?");
        }
        self.peers[peer].link_mut().expect("a packet came from it").phase = Phase::Protocol;
        self.send_configuration(peer);
    }

    /// Our rules, and everything about every volume, back to back.
    fn send_configuration(&mut self, peer: usize) {
        let protocol = Packet::Protocol(self.own_protocol(peer));
        self.send_connection(peer, Stream::Data, &protocol);
        for volume in 0..self.volumes.len() {
            let parameters = Packet::SyncParam(self.own_sync_parameters(volume, peer));
            self.send(peer, Stream::Data, volume, &parameters);
            self.send_sizes(volume, peer, 0);
            self.send_uuids(volume, peer);
            self.send_state(volume, peer);
        }
    }

    fn own_protocol(&self, peer: usize) -> Protocol {
        let settings = &self.peers[peer].settings;
        let [after_sb_0pri, after_sb_1pri, after_sb_2pri] = settings.after_split_brain;
        Protocol {
            protocol: settings.protocol,
            after_sb_0pri,
            after_sb_1pri,
            after_sb_2pri,
            discard_my_data: self.peers[peer].discard_my_data,
            dry_run: false,
            allow_two_primaries: settings.allow_two_primaries,
            integrity_alg: settings.integrity.map(DigestAlgorithm::name).unwrap_or_default().to_owned(),
        }
    }

    fn on_protocol(&mut self, peer: usize, theirs: Protocol) {
        let own = self.own_protocol(peer);
        let mirrored = |value: AfterSplitBrain| match value {
            AfterSplitBrain::DiscardLocal => AfterSplitBrain::DiscardRemote,
            AfterSplitBrain::DiscardRemote => AfterSplitBrain::DiscardLocal,
            other => other,
        };
        let rows = [
            (own.protocol == theirs.protocol, "protocol"),
            (own.after_sb_0pri == mirrored(theirs.after_sb_0pri), "after-sb-0pri"),
            (own.after_sb_1pri == mirrored(theirs.after_sb_1pri), "after-sb-1pri"),
            (own.after_sb_2pri == mirrored(theirs.after_sb_2pri), "after-sb-2pri"),
            (!(own.discard_my_data && theirs.discard_my_data), "discard-my-data"),
            (own.allow_two_primaries == theirs.allow_two_primaries, "allow-two-primaries"),
            (own.integrity_alg == theirs.integrity_alg, "data-integrity-alg"),
        ];
        let version = self.version(peer);
        let differs =
            rows.into_iter().find(|(same, option)| !same && (version >= 87 || *option != "data-integrity-alg"));
        if let Some((_, option)) = differs {
            let reason = format!("incompatible {option} settings: make `{option}` the same on both nodes");
            return self.stand_alone(peer, &reason);
        }
        let digest = DigestAlgorithm::from_name(&theirs.integrity_alg).map_or(0, DigestAlgorithm::bytes);
        let link = self.peers[peer].link_mut().expect("a packet came from it");
        link.data_reader.set_digest_bytes(digest);
        link.peer_protocol = Some(theirs);
        link.phase = Phase::Up;
    }

    pub(super) fn send_sizes(&mut self, volume: usize, peer: usize, flags: u16) {
        let version = self.version(peer);
        let state = &self.volumes[volume];
        let d_size = state
            .disk
            .as_ref()
            .filter(|_| state.disk_state >= DiskState::Negotiating)
            .map_or(0, |disk| disk.layout.usable_sectors.min(disk.facts.data_bytes / SECTOR_BYTES));
        let limits = self.has_feature(peer, Features::WSAME).then_some(QueueLimits {
            physical_block_size: 512,
            logical_block_size: 512,
            alignment_offset: 0,
            io_min: 512,
            io_opt: 0,
            discard_enabled: true,
            discard_zeroes_data: true,
            write_same_capable: false,
        });
        let sizes = Sizes {
            d_size,
            u_size: state.settings.size_sectors,
            c_size: state.device_sectors,
            max_bio_size: request_bytes_max(version),
            queue_order: 0,
            flags,
            limits,
        };
        self.send(peer, Stream::Data, volume, &Packet::Sizes(sizes));
    }

    /// P_SIZES: the device is as large as both can hold.
    pub(super) fn on_sizes(&mut self, volume: usize, peer: usize, theirs: Sizes) {
        let ours = request_bytes_max(self.version(peer));
        let most = theirs.max_bio_size.clamp(4096, ours);
        self.peers[peer].volumes[volume].max_request_bytes = most;
        let last = self.peers[peer].volumes[volume].sizes.replace(theirs.clone());
        let first = last.is_none();
        let is_new = last.is_none_or(|last| last.c_size != theirs.c_size || last.d_size != theirs.d_size);
        let connected = self.view(volume, peer).conn >= ConnectionState::Connected;
        let state = &self.volumes[volume];
        let Some(disk) = state.disk.as_ref().filter(|_| state.disk_state >= DiskState::Negotiating) else {
            // Without a disk the device is as large as the peer says.
            let sectors = [theirs.c_size, theirs.u_size, theirs.d_size].into_iter().find(|sectors| *sectors > 0);
            self.volumes[volume].device_sectors = sectors.unwrap_or(self.volumes[volume].device_sectors);
            return;
        };
        let own = disk.layout.usable_sectors.min(disk.facts.data_bytes / SECTOR_BYTES);
        let users = [state.settings.size_sectors, theirs.u_size].into_iter().filter(|size| *size > 0).min();
        let both = if theirs.d_size == 0 { state.device_sectors.min(own) } else { own.min(theirs.d_size) };
        let size = users.map_or(both, |user| both.min(user));
        let valuable = state.disk_state >= DiskState::Outdated;
        if connected && is_new && theirs.c_size != state.device_sectors {
            // A disk of another size is being attached there: it must learn how large the device is.
            self.send_sizes(volume, peer, 0);
        }
        let state = &self.volumes[volume];
        if valuable && size < state.device_sectors {
            if connected {
                // Its attach is refused there; what is shared goes on.
                return;
            }
            let reason = format!("The peer's disk size is too small! ({size} < {} sectors)", state.device_sectors);
            return self.stand_alone(peer, &reason);
        }
        if theirs.d_size > 0 && (own.abs_diff(theirs.d_size)) > own.min(theirs.d_size) / 8 {
            let sentence =
                format!("Considerable difference in lower level device sizes: {}s vs. {own}s", theirs.d_size);
            self.log(LogLevel::Warn, sentence);
        }
        if valuable && !first {
            // Growing a device that is in use comes with the resize command.
            return;
        }
        self.set_device_size(volume, size);
    }

    /// Agrees on a size: at attach, and at the first connection of a disk without data that counts.
    fn set_device_size(&mut self, volume: usize, sectors: u64) {
        let state = &mut self.volumes[volume];
        let old = state.device_sectors;
        if sectors == old || sectors == 0 {
            return;
        }
        state.device_sectors = sectors;
        if let Some(disk) = state.disk.as_mut() {
            disk.bitmap.resize(sectors.div_ceil(crate::model::units::BLOCK_SECTORS), true);
            disk.superblock.effective_size_sectors = sectors;
        }
        let number = state.settings.number;
        self.log(LogLevel::Info, format!("volume {number}: size {old} -> {sectors} sectors"));
        self.superblock_changed(volume);
    }

    /// A disk was attached while connected: the peer is told all about it.
    pub(super) fn send_attach_offer(&mut self, volume: usize, peer: usize) {
        if self.view(volume, peer).conn >= ConnectionState::Connected {
            self.send_sizes(volume, peer, 0);
            self.send_uuids(volume, peer);
            self.send_state(volume, peer);
        }
    }
}

fn name(packet: &Packet) -> String {
    packet.command(100).map_or_else(|| "an ignored packet".to_owned(), |command| command.to_string())
}
