//! What a completion is about: a number that travels through the ring with each operation.

/// The owner of an operation. Numbers have at most 56 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Nobody waits for it.
    Ignored,
    /// The poll on the mailbox.
    Mailbox,
    /// A disk job.
    Disk(u64),
    /// Accepting on a peer listener.
    PeerAccept(u64),
    /// Connecting a socket to a peer.
    PeerDial(u64),
    /// Receiving on a peer's socket.
    PeerReceive(u64),
    /// Sending on a peer's socket.
    PeerSend(u64),
    /// Accepting on an NBD listener.
    NbdAccept(u64),
    /// Receiving from a client.
    NbdReceive(u64),
    /// Sending to a client.
    NbdSend(u64),
}

const NUMBER_BITS: u32 = 56;

impl Tag {
    pub(super) fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Ignored => (0, 0),
            Self::Mailbox => (1, 0),
            Self::Disk(number) => (2, number),
            Self::PeerAccept(number) => (3, number),
            Self::PeerDial(number) => (4, number),
            Self::PeerReceive(number) => (5, number),
            Self::PeerSend(number) => (6, number),
            Self::NbdAccept(number) => (7, number),
            Self::NbdReceive(number) => (8, number),
            Self::NbdSend(number) => (9, number),
        };
        assert!(number >> NUMBER_BITS == 0, "numbers are counted up from 0");
        kind << NUMBER_BITS | number
    }

    pub(super) fn decode(encoded: u64) -> Self {
        let number = encoded & ((1 << NUMBER_BITS) - 1);
        match encoded >> NUMBER_BITS {
            1 => Self::Mailbox,
            2 => Self::Disk(number),
            3 => Self::PeerAccept(number),
            4 => Self::PeerDial(number),
            5 => Self::PeerReceive(number),
            6 => Self::PeerSend(number),
            7 => Self::NbdAccept(number),
            8 => Self::NbdReceive(number),
            9 => Self::NbdSend(number),
            _ => Self::Ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_as_they_went() {
        for number in [0, 1, (1 << NUMBER_BITS) - 1] {
            let tags = [
                Tag::Disk(number),
                Tag::PeerAccept(number),
                Tag::PeerDial(number),
                Tag::PeerReceive(number),
                Tag::PeerSend(number),
                Tag::NbdAccept(number),
                Tag::NbdReceive(number),
                Tag::NbdSend(number),
                Tag::Mailbox,
                Tag::Ignored,
            ];
            for tag in tags {
                assert_eq!(Tag::decode(tag.encode()), tag);
            }
        }
    }
}
