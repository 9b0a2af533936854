//! The one door that every acknowledgement passes.
//!
//! Without the manager, DRBD's own rules decide who may write: fencing shuts the door while a Primary with the policy
//! resource-and-stonith does not know what its lost peer does (`fencing`). The
//! manager will put its grant here: the epoch that was granted, the end of the lease on this node's clock, and which replicas
//! count. The order on losing a replica is fixed already and the same with and without it: freeze replies, ask the door,
//! make the new generation durable, reply.

use crate::model::time::Instant;

/// What the manager has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Number of the grant; grows.
    pub epoch: u64,
    /// Nothing is acknowledged at or after this instant.
    pub lease_end: Instant,
    /// Bit mask of the node ids whose replicas count.
    pub counted: u32,
}

/// Who may acknowledge, until when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Door {
    /// `None`: no manager, always open.
    grant: Option<Grant>,
    /// Nothing leaves until it is known that a lost peer is not in use, whoever may count.
    frozen: bool,
}

/// What the door says when a replica has been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnLoss {
    /// Make the new generation durable, then go on alone.
    GoOn,
    /// Not yet: the new generation is due when the door opens again.
    Wait,
}

impl Door {
    /// Whether a reply may leave at `now`, a clock read after the events it answers were reaped.
    pub(super) fn is_open(self, now: Instant) -> bool {
        !self.frozen && self.grant.is_none_or(|grant| now < grant.lease_end)
    }

    /// A replica that may count has been lost.
    pub(super) fn on_replica_lost(self) -> OnLoss {
        if self.frozen { OnLoss::Wait } else { OnLoss::GoOn }
    }

    /// Whether it is shut until the peer is fenced.
    pub(super) fn is_frozen(self) -> bool {
        self.frozen
    }

    /// Shuts it until the peer is fenced, or opens it again.
    pub(super) fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }
}
