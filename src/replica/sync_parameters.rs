//! What the two nodes tell each other about how they synchronise: P_SYNC_PARAM, in the handshake and at any time after it.
//!
//! Of the controller's parameters the peer's count, in place of ours: who told last decides, so that an operator can change
//! them on either node (drbd-semantics 1.16). They count until the peer tells others or our own configuration is changed;
//! what we tell is always that. `c-min-rate` is not told: each node spares its own applications.
//!
//! The digests of verify and of checksum-based resync must be the same on both nodes during the handshake. Later a peer's
//! change of them is taken over into our settings, so that the next handshake finds them the same.

use super::Resource;
use super::action::LogLevel;
use super::settings::ResyncSettings;
use crate::model::state::ConnectionState;
use crate::wire::auth::DigestAlgorithm;
use crate::wire::framing::Stream;
use crate::wire::packet::{Packet, SyncParam};

/// The ranges of the options, which a peer's word has to keep as well: a plan has one slot per step of `c-plan-ahead`.
const RATE_KIB_MAX: u32 = 8 << 20;
const PLAN_AHEAD_MAX: u32 = 300;
const DELAY_TARGET_MAX: u32 = 100;
const FILL_TARGET_MAX: u32 = 1 << 20;
const MAX_RATE_KIB_MAX: u32 = 4 << 20;

/// Our parameters with those that the peer has told in their place.
fn as_told(own: ResyncSettings, theirs: &SyncParam, version: u32) -> ResyncSettings {
    let told = ResyncSettings { rate_kib: theirs.resync_rate.clamp(1, RATE_KIB_MAX), ..own };
    if version < 95 {
        return told;
    }
    ResyncSettings {
        plan_ahead: theirs.c_plan_ahead.min(PLAN_AHEAD_MAX),
        delay_target: theirs.c_delay_target.clamp(1, DELAY_TARGET_MAX),
        fill_target: theirs.c_fill_target.min(FILL_TARGET_MAX),
        max_rate_kib: theirs.c_max_rate.min(MAX_RATE_KIB_MAX),
        ..told
    }
}

impl Resource {
    /// The parameters of the resync controller that count.
    pub(super) fn resync_settings(&self, volume: usize, peer: usize) -> ResyncSettings {
        self.peers[peer].volumes[volume].told_resync.unwrap_or(self.volumes[volume].settings.resync)
    }

    pub(super) fn own_sync_parameters(&self, volume: usize, peer: usize) -> SyncParam {
        let resync = &self.volumes[volume].settings.resync;
        let settings = &self.peers[peer].settings;
        SyncParam {
            resync_rate: resync.rate_kib,
            verify_alg: settings.verify_alg.clone(),
            csums_alg: settings.csums.map(DigestAlgorithm::name).unwrap_or_default().to_owned(),
            c_plan_ahead: resync.plan_ahead,
            c_delay_target: resync.delay_target,
            c_fill_target: resync.fill_target,
            c_max_rate: resync.max_rate_kib,
        }
    }

    pub(super) fn on_sync_parameters(&mut self, volume: usize, peer: usize, theirs: &SyncParam) {
        let own = self.own_sync_parameters(volume, peer);
        let version = self.version(peer);
        let rows = [
            ("verify-alg", own.verify_alg, &theirs.verify_alg, 88),
            ("csums-alg", own.csums_alg, &theirs.csums_alg, 89),
        ];
        for (option, own, theirs, since) in rows {
            if version < since || own == *theirs {
                continue;
            }
            if self.view(volume, peer).conn < ConnectionState::Connected {
                let reason = format!("Different {option} settings. me=\"{own}\" peer=\"{theirs}\"");
                return self.stand_alone(peer, &reason);
            }
            if !self.take_over_digest(peer, option, theirs) {
                let reason = format!("the peer uses {option} \"{theirs}\" from now on, which is not known here");
                return self.stand_alone(peer, &reason);
            }
        }
        self.take_over_pace(volume, peer, as_told(self.volumes[volume].settings.resync, theirs, version));
    }

    /// The peer's operator has changed a digest on a living connection; an empty name changes nothing. Whether it is known.
    fn take_over_digest(&mut self, peer: usize, option: &str, name: &str) -> bool {
        if name.is_empty() {
            return true;
        }
        let Some(algorithm) = DigestAlgorithm::from_name(name) else { return false };
        let settings = &mut self.peers[peer].settings;
        match option {
            "csums-alg" => settings.csums = Some(algorithm),
            _ => name.clone_into(&mut settings.verify_alg),
        }
        let peer = self.peers[peer].settings.name.clone();
        self.log(LogLevel::Info, format!("peer {peer}: using {option}: \"{name}\""));
        true
    }

    /// Our operator has changed it: he told last.
    pub(super) fn tell_pace(&mut self, volume: usize) {
        let own = self.volumes[volume].settings.resync;
        for peer in 0..self.peers.len() {
            let state = &mut self.peers[peer].volumes[volume];
            state.told_resync = None;
            if let Some(target) = state.resync.as_mut().and_then(super::resync::Resync::target) {
                target.controller.adopt(own);
            }
            if let Some(source) = state.verify.as_mut().and_then(super::verify::Verify::source) {
                source.controller.adopt(own);
            }
            if self.view(volume, peer).conn >= ConnectionState::Connected {
                let parameters = Packet::SyncParam(self.own_sync_parameters(volume, peer));
                self.send(peer, Stream::Data, volume, &parameters);
            }
        }
    }

    fn take_over_pace(&mut self, volume: usize, peer: usize, told: ResyncSettings) {
        if told == self.resync_settings(volume, peer) {
            return;
        }
        let state = &mut self.peers[peer].volumes[volume];
        state.told_resync = Some(told);
        if let Some(target) = state.resync.as_mut().and_then(super::resync::Resync::target) {
            target.controller.adopt(told);
        }
        if let Some(source) = state.verify.as_mut().and_then(super::verify::Verify::source) {
            source.controller.adopt(told);
        }
        let (number, name) = (self.volumes[volume].settings.number, &self.peers[peer].settings.name);
        let pace = format!(
            "resync-rate {}, c-plan-ahead {}, c-delay-target {}, c-fill-target {}s, c-max-rate {}",
            told.rate_kib, told.plan_ahead, told.delay_target, told.fill_target, told.max_rate_kib
        );
        self.log(LogLevel::Info, format!("volume {number}, peer {name}: the peer's resync pace counts: {pace}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ResyncSettings = ResyncSettings {
        rate_kib: 250,
        plan_ahead: 20,
        delay_target: 10,
        fill_target: 100,
        max_rate_kib: 102_400,
        min_rate_kib: 99,
    };

    fn told() -> SyncParam {
        SyncParam {
            resync_rate: 5000,
            c_plan_ahead: 0,
            c_delay_target: 7,
            c_fill_target: 0,
            c_max_rate: 900,
            ..SyncParam::default()
        }
    }

    #[test]
    fn what_a_version_can_tell_takes_the_place_of_ours() {
        let whole = ResyncSettings {
            rate_kib: 5000,
            plan_ahead: 0,
            delay_target: 7,
            fill_target: 0,
            max_rate_kib: 900,
            min_rate_kib: 99,
        };
        assert_eq!(as_told(OWN, &told(), 95), whole);
        assert_eq!(as_told(OWN, &told(), 94), ResyncSettings { rate_kib: 5000, ..OWN });
    }

    #[test]
    fn a_word_out_of_range_counts_as_the_nearest_in_it() {
        let most = u32::MAX;
        let wild = SyncParam {
            resync_rate: 0,
            c_plan_ahead: most,
            c_delay_target: 0,
            c_fill_target: most,
            c_max_rate: most,
            ..SyncParam::default()
        };
        let expected = ResyncSettings {
            rate_kib: 1,
            plan_ahead: 300,
            delay_target: 1,
            fill_target: 1 << 20,
            max_rate_kib: 4 << 20,
            min_rate_kib: 99,
        };
        assert_eq!(as_told(OWN, &wild, 101), expected);
    }
}
