//! Roles, disk states and connection states with DRBD 8.4's numbers and names, and the 32-bit state word of the wire.
//!
//! The order of the disk and connection states matters: rules compare them.

use std::fmt;

/// One row a state: number, variant, name. Gives the enum, its number, its name and its inverse.
macro_rules! states {
    ($(#[$doc:meta])* $type:ident { $($(#[$row:meta])* $number:literal $variant:ident $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $type { $($(#[$row])* $variant = $number,)+ }

        impl $type {
            /// Every state, lowest first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire; `None` where no state has it.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u8 { self as u8 }

            /// The name as users of DRBD know it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.name()) }
        }
    };
}

states! {
    /// Who may write.
    Role {
        /// Not known (a peer that is not connected).
        0 Unknown "Unknown",
        /// May write.
        1 Primary "Primary",
        /// Takes writes from the peer only.
        2 Secondary "Secondary",
    }
}

states! {
    /// What the data on a disk is worth.
    DiskState {
        /// No backing device.
        0 Diskless "Diskless",
        /// Metadata is being read; never sent.
        1 Attaching "Attaching",
        /// Given up after an error or a forced detach; waiting for what is in flight.
        2 Failed "Failed",
        /// Attached while connected: the handshake decides.
        3 Negotiating "Negotiating",
        /// Contents are a mix.
        4 Inconsistent "Inconsistent",
        /// Consistent, but known to be older than another copy.
        5 Outdated "Outdated",
        /// A peer's disk that we cannot see.
        6 Unknown "DUnknown",
        /// Consistent; whether it is current is not known yet.
        7 Consistent "Consistent",
        /// Consistent and current.
        8 UpToDate "UpToDate",
    }
}

states! {
    /// DRBD 8.4's one enum for connection and replication.
    ConnectionState {
        /// Deliberately without a connection.
        0 StandAlone "StandAlone",
        /// On the way to StandAlone.
        1 Disconnecting "Disconnecting",
        /// About to connect (again).
        2 Unconnected "Unconnected",
        /// A request or a send took too long.
        3 Timeout "Timeout",
        /// A send failed.
        4 BrokenPipe "BrokenPipe",
        /// No answer to a ping, or the peer closed a socket.
        5 NetworkFailure "NetworkFailure",
        /// The peer said something it must not say.
        6 ProtocolError "ProtocolError",
        /// The peer asked for a disconnect.
        7 TearDown "TearDown",
        /// Dialling and listening.
        8 WfConnection "WFConnection",
        /// Sockets are up, handshake packets are exchanged.
        9 WfReportParams "WFReportParams",
        /// Replicating.
        10 Connected "Connected",
        /// A full sync as source was asked for.
        11 StartingSyncS "StartingSyncS",
        /// A full sync as target was asked for.
        12 StartingSyncT "StartingSyncT",
        /// Exchanging bitmaps, as source.
        13 WfBitMapS "WFBitMapS",
        /// Exchanging bitmaps, as target.
        14 WfBitMapT "WFBitMapT",
        /// Target waits for the id of the resync.
        15 WfSyncUuid "WFSyncUUID",
        /// Resync runs; the peer gets.
        16 SyncSource "SyncSource",
        /// Resync runs; we get.
        17 SyncTarget "SyncTarget",
        /// Online verify that we started.
        18 VerifyS "VerifyS",
        /// Online verify that the peer started.
        19 VerifyT "VerifyT",
        /// Resync held, as source.
        20 PausedSyncS "PausedSyncS",
        /// Resync held, as target.
        21 PausedSyncT "PausedSyncT",
        /// Congested: writes are marked, not sent.
        22 Ahead "Ahead",
        /// The peer is Ahead of us.
        23 Behind "Behind",
    }
}

impl ConnectionState {
    /// Whether replication packets flow: Connected or above.
    #[must_use]
    pub fn is_connected(self) -> bool {
        self >= Self::Connected
    }

    /// Resync or verify has begun and not ended: SyncSource to PausedSyncT.
    #[must_use]
    pub fn is_syncing(self) -> bool {
        (Self::SyncSource..=Self::PausedSyncT).contains(&self)
    }
}

/// The 32-bit word of P_STATE and of state change requests. Fields are kept as numbers: a word from the wire may hold any,
/// and a *mask* word holds all ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateWord(pub u32);

macro_rules! word_fields {
    ($($(#[$doc:meta])* $field:ident $with:ident $shift:literal $bits:literal;)+) => {
        impl StateWord {
            $(
                $(#[$doc])*
                #[must_use]
                pub const fn $field(self) -> u8 { (self.0 >> $shift & ((1 << $bits) - 1)) as u8 }

                /// The same word with that field set.
                #[must_use]
                pub const fn $with(self, value: u8) -> Self {
                    let mask = ((1u32 << $bits) - 1) << $shift;
                    Self(self.0 & !mask | (value as u32) << $shift & mask)
                }
            )+
        }
    };
}

word_fields! {
    /// The sender's role.
    role with_role 0 2;
    /// The receiver's role as the sender sees it.
    peer with_peer 2 2;
    /// Connection state.
    conn with_conn 4 5;
    /// The sender's disk.
    disk with_disk 9 4;
    /// The receiver's disk as the sender sees it.
    pdsk with_pdsk 13 4;
    /// I/O suspended by the operator.
    susp with_susp 17 1;
    /// Resync paused: waits for another resource.
    aftr_isp with_aftr_isp 18 1;
    /// Resync paused by the peer.
    peer_isp with_peer_isp 19 1;
    /// Resync paused by the operator.
    user_isp with_user_isp 20 1;
    /// I/O suspended: no data.
    susp_nod with_susp_nod 21 1;
    /// I/O suspended: fencing.
    susp_fen with_susp_fen 22 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_words_seen_on_the_wire_read_as_documented() {
        let unconnected_primary = StateWord(0x0000_d081);
        assert_eq!(Role::from_number(unconnected_primary.role()), Some(Role::Primary));
        assert_eq!(Role::from_number(unconnected_primary.peer()), Some(Role::Unknown));
        assert_eq!(ConnectionState::from_number(unconnected_primary.conn()), Some(ConnectionState::WfConnection));
        assert_eq!(DiskState::from_number(unconnected_primary.disk()), Some(DiskState::UpToDate));
        assert_eq!(DiskState::from_number(unconnected_primary.pdsk()), Some(DiskState::Unknown));
        let both = StateWord::default().with_role(2).with_peer(2).with_conn(10).with_disk(8).with_pdsk(8);
        assert_eq!(both, StateWord(0x0001_10aa));
    }
}
