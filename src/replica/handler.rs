//! Programs that the configuration names for incidents: which there are, and whom the machine waits for.
//!
//! The machine asks for a run and goes on. Three of them are asked something: `fence-peer` whether the peer can still be in
//! use, and those before a resync whether it may begin. What such an answer is about may be over when it comes; then it is
//! heard by nobody. One that is not configured is not asked for: it counts as exit code 0, but for `fence-peer`, without
//! which nothing is known of the peer.
//!
//! Not here: texts and environments (`engine`), what follows from an answer of `fence-peer` (`fencing`).

use super::Resource;
use super::action::{Action, LogLevel};
use super::link::BeforeResync;
use crate::model::ids::HandlerId;

/// The incidents that have a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handler {
    /// A Primary has lost its last good copy.
    PriOnInconDegr,
    /// A Primary has lost the election after a split brain and could not step down.
    PriLostAfterSb,
    /// A Primary would have to take the peer's data.
    PriLost,
    /// A split brain was found; it may still be solved.
    InitialSplitBrain,
    /// A split brain was found and is not solved.
    SplitBrain,
    /// A Primary, or who is to become one, needs to know that its peer cannot write.
    FencePeer,
    /// The peer has good data again.
    UnfencePeer,
    /// The backing device has failed.
    LocalIoError,
    /// This node is about to take the peer's data.
    BeforeResyncTarget,
    /// This node has taken the peer's data.
    AfterResyncTarget,
    /// This node is about to give its data.
    BeforeResyncSource,
    /// A verify has ended and found differences.
    OutOfSync,
}

impl Handler {
    /// All of them, with their names in the configuration.
    const NAMES: [(Self, &'static str); 12] = [
        (Self::PriOnInconDegr, "pri-on-incon-degr"),
        (Self::PriLostAfterSb, "pri-lost-after-sb"),
        (Self::PriLost, "pri-lost"),
        (Self::InitialSplitBrain, "initial-split-brain"),
        (Self::SplitBrain, "split-brain"),
        (Self::FencePeer, "fence-peer"),
        (Self::UnfencePeer, "unfence-peer"),
        (Self::LocalIoError, "local-io-error"),
        (Self::BeforeResyncTarget, "before-resync-target"),
        (Self::AfterResyncTarget, "after-resync-target"),
        (Self::BeforeResyncSource, "before-resync-source"),
        (Self::OutOfSync, "out-of-sync"),
    ];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(handler, _)| *handler == self).map_or("", |(_, name)| name)
    }

    /// The handler of that name; `None` for names that nobody runs.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(handler, _)| *handler)
    }
}

/// In words for a log line.
pub(super) fn exit_words(exit: Option<u8>) -> String {
    exit.map_or_else(|| "did not end by itself".to_owned(), |code| format!("returned {code}"))
}

impl Resource {
    /// Whether the configuration has something to run.
    pub(super) fn has_handler(&self, handler: Handler) -> bool {
        self.settings.handlers.contains_key(&handler)
    }

    /// Asks for a run, if the handler is configured.
    pub(super) fn run_handler(
        &mut self,
        handler: Handler,
        volume: Option<usize>,
        peer: Option<usize>,
    ) -> Option<HandlerId> {
        if !self.has_handler(handler) {
            return None;
        }
        self.handlers_run += 1;
        let id = HandlerId(self.handlers_run);
        self.actions.push(Action::RunHandler { id, handler, volume, peer });
        Some(id)
    }

    /// A handler has ended. What nobody waits for is not looked at.
    pub(super) fn on_handler_ended(&mut self, id: HandlerId, exit: Option<u8>) {
        for peer in 0..self.peers.len() {
            if self.peers[peer].fence == Some(id) {
                return self.on_fence_ended(peer, exit);
            }
            for volume in 0..self.volumes.len() {
                match self.peers[peer].volumes[volume].before_resync {
                    BeforeResync::Running(asked, handler) if asked == id => {
                        return self.on_before_resync_ended(volume, peer, handler, exit);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether a resync may begin here. If a handler has to be asked first, it is, and calls back.
    pub(super) fn may_begin_resync(&mut self, volume: usize, peer: usize, handler: Handler) -> bool {
        match self.peers[peer].volumes[volume].before_resync {
            BeforeResync::Passed => {
                self.peers[peer].volumes[volume].before_resync = BeforeResync::Unasked;
                true
            }
            BeforeResync::Running(..) => false,
            BeforeResync::Unasked => match self.run_handler(handler, Some(volume), Some(peer)) {
                None => true,
                Some(id) => {
                    self.peers[peer].volumes[volume].before_resync = BeforeResync::Running(id, handler);
                    false
                }
            },
        }
    }

    fn on_before_resync_ended(&mut self, volume: usize, peer: usize, handler: Handler, exit: Option<u8>) {
        // 3 is what DRBD's old tools say for a handler that they do not know.
        let passes = exit == Some(0) || (handler == Handler::BeforeResyncSource && exit == Some(3));
        if !passes {
            self.peers[peer].volumes[volume].before_resync = BeforeResync::Unasked;
            let sentence = format!("{} handler {}, dropping connection", handler.name(), exit_words(exit));
            return self.stand_alone(peer, &sentence);
        }
        self.peers[peer].volumes[volume].before_resync = BeforeResync::Passed;
        self.log(LogLevel::Debug, format!("{} handler {}", handler.name(), exit_words(exit)));
        match handler {
            Handler::BeforeResyncTarget => self.begin_target(volume, peer),
            _ => self.begin_source(volume, peer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_has_a_name_of_its_own() {
        for (handler, name) in Handler::NAMES {
            assert_eq!((handler.name(), Handler::from_name(name)), (name, Some(handler)));
        }
        assert_eq!(Handler::from_name("quorum-lost"), None);
    }
}
