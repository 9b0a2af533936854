//! Where payloads lie in a received stream: just enough of the framing to receive them at aligned addresses.
//!
//! Nothing is decided by it. Bytes reach the machines in order and unchanged whatever is thought of them here; a frame
//! that is not understood only costs a copy. So it looks at magic, kind and length, and checks nothing else.

use crate::model::units::SECTOR_BYTES;

/// The longest payload that is worth an aligned place: what an NBD client may send at once.
const PAYLOAD_BYTES_MAX: usize = 32 << 20;

const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
const NBD_REQUEST_BYTES: usize = 28;
const NBD_WRITE: u16 = 1;

const LINK_MAGIC_80: u32 = 0x8374_0267;
const LINK_MAGIC_95: u16 = 0x835a;
const LINK_MAGIC_100: u32 = 0x8620_ec20;
/// `Data`, `DataReply`, `ResyncDataReply`: a head of 24 bytes, perhaps a digest, blocks.
const LINK_BLOCKS: std::ops::RangeInclusive<u16> = 0..=2;
const LINK_BLOCKS_HEAD_BYTES: usize = 24;

/// Which stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Not known (an NBD client negotiating), or lost.
    Opaque,
    /// Requests of an NBD client.
    Nbd,
    /// Packets of a peer.
    Link,
}

/// What the beginning of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// So many bytes are needed to say.
    Head(usize),
    /// So many bytes of no interest follow.
    Plain(usize),
    /// A payload follows.
    Payload(Payload),
    /// This is no frame.
    Lost,
}

/// A payload that should lie aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// Length, `lead` included.
    pub(super) bytes: usize,
    /// Bytes before the part that is to be aligned (a digest).
    pub(super) lead: usize,
}

impl Framing {
    /// The fewest bytes that a frame has, and that `judge` wants to see.
    pub(super) const fn head_bytes_min(self) -> usize {
        match self {
            Self::Opaque => 0,
            Self::Nbd => NBD_REQUEST_BYTES,
            Self::Link => 8,
        }
    }

    /// Bytes of a head that has a payload behind it, where they are the same in every version.
    pub(super) const fn payload_head_bytes(self) -> Option<usize> {
        match self {
            Self::Nbd => Some(NBD_REQUEST_BYTES),
            Self::Opaque | Self::Link => None,
        }
    }

    /// Looks at the first bytes of a frame.
    pub(super) fn judge(self, head: &[u8]) -> Frame {
        if head.len() < self.head_bytes_min() {
            return Frame::Head(self.head_bytes_min());
        }
        match self {
            Self::Opaque => Frame::Lost,
            Self::Nbd => judge_nbd(head),
            Self::Link => judge_link(head),
        }
    }
}

fn judge_nbd(head: &[u8]) -> Frame {
    if u32_at(head, 0) != NBD_REQUEST_MAGIC {
        return Frame::Lost;
    }
    if u16_at(head, 6) == NBD_WRITE { payload(u32_at(head, 24) as usize) } else { Frame::Plain(0) }
}

fn judge_link(head: &[u8]) -> Frame {
    let (header_bytes, command, length) = match u32_at(head, 0) {
        LINK_MAGIC_80 => (8, u16_at(head, 4), usize::from(u16_at(head, 6))),
        LINK_MAGIC_100 if head.len() < 16 => return Frame::Head(16),
        LINK_MAGIC_100 => (16, u16_at(head, 6), u32_at(head, 8) as usize),
        magic if magic >> 16 == u32::from(LINK_MAGIC_95) => (8, u16_at(head, 2), u32_at(head, 4) as usize),
        _ => return Frame::Lost,
    };
    if !LINK_BLOCKS.contains(&command) || length < LINK_BLOCKS_HEAD_BYTES {
        return Frame::Plain(length + header_bytes - head.len());
    }
    let head_bytes = header_bytes + LINK_BLOCKS_HEAD_BYTES;
    if head.len() < head_bytes { Frame::Head(head_bytes) } else { payload(length - LINK_BLOCKS_HEAD_BYTES) }
}

/// Blocks are whole sectors, so what is over is a digest before them.
fn payload(bytes: usize) -> Frame {
    let lead = bytes % SECTOR_BYTES as usize;
    if bytes == lead || bytes > PAYLOAD_BYTES_MAX {
        Frame::Plain(bytes)
    } else {
        Frame::Payload(Payload { bytes, lead })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(framing: Framing, head: &[u8], expected: Frame) {
        assert_eq!(framing.judge(head), expected, "{head:x?}");
    }

    fn nbd(kind: u8, length: u32) -> Vec<u8> {
        let mut head = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, kind];
        head.extend([7; 16]);
        head.extend(length.to_be_bytes());
        head
    }

    #[test]
    fn only_writes_of_a_client_have_a_payload() {
        check(Framing::Nbd, &nbd(1, 4096)[..20], Frame::Head(28));
        check(Framing::Nbd, &nbd(1, 4096), Frame::Payload(Payload { bytes: 4096, lead: 0 }));
        check(Framing::Nbd, &nbd(0, 4096), Frame::Plain(0));
        check(Framing::Nbd, &nbd(1, u32::MAX), Frame::Plain(u32::MAX as usize));
        check(Framing::Nbd, &[0; 28], Frame::Lost);
    }

    #[test]
    fn data_packets_of_every_version_have_a_payload_behind_their_head() {
        let blocks = Frame::Payload(Payload { bytes: 4096, lead: 0 });
        let mut h80 = vec![0x83, 0x74, 2, 0x67, 0, 0, 0x10, 24];
        check(Framing::Link, &h80, Frame::Head(32));
        h80.extend([0; 24]);
        check(Framing::Link, &h80, blocks);
        let mut h95 = vec![0x83, 0x5a, 0, 1, 0, 0, 0x10, 24];
        h95.extend([0; 24]);
        check(Framing::Link, &h95, blocks);
        let mut h100 = vec![0x86, 0x20, 0xec, 0x20, 0, 3, 0, 2, 0, 0, 0x10, 24 + 20, 0, 0, 0, 0];
        check(Framing::Link, &h100[..8], Frame::Head(16));
        check(Framing::Link, &h100, Frame::Head(40));
        h100.extend([0; 24]);
        check(Framing::Link, &h100, Frame::Payload(Payload { bytes: 4116, lead: 20 }));
    }

    #[test]
    fn other_packets_are_plain() {
        check(Framing::Link, &[0x83, 0x74, 2, 0x67, 0, 0x13, 0, 0], Frame::Plain(0));
        check(Framing::Link, &[0x86, 0x20, 0xec, 0x20, 0, 0, 0, 4, 0, 0, 1, 0, 0, 0, 0, 0], Frame::Plain(256));
        check(Framing::Link, &[1; 8], Frame::Lost);
        check(Framing::Opaque, &[], Frame::Lost);
    }
}
