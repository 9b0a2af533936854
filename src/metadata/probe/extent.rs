//! How much of a device its contents take, by their own account.
//!
//! A file system that ends before the place of internal metadata goes on as it is; one that reaches further would lose its
//! end. Each function reads one format's own statement of its size from the first bytes of the device.
//!
//! Not here: what the contents are called (`probe`), and where metadata would be.

use super::{EXT_SUPERBLOCK, has};

/// What the contents of a device take of it, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// As many bytes.
    Bytes(u64),
    /// All of it, whatever is written there: whoever uses it goes by the size of the device.
    Whole,
    /// Nothing tells.
    Unknown,
}

/// Blocks of some size; a size that is no size tells nothing.
fn blocks(count: Option<u64>, block_bytes: Option<u64>) -> Extent {
    match count.zip(block_bytes).and_then(|(count, bytes)| count.checked_mul(bytes)) {
        Some(bytes) if bytes > 0 => Extent::Bytes(bytes),
        _ => Extent::Unknown,
    }
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..)?.first_chunk().copied()
}

fn le16(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(|bytes| u16::from_le_bytes(bytes).into())
}

fn le32(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(|bytes| u32::from_le_bytes(bytes).into())
}

fn le64(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(u64::from_le_bytes)
}

/// `2^shift` times `unit`, where the shift is a sane one.
fn shifted(unit: u64, shift: Option<u64>) -> Option<u64> {
    shift.filter(|&shift| shift <= 16).map(|shift| unit << shift)
}

pub(super) fn whole(_: &[u8]) -> Extent {
    Extent::Whole
}

pub(super) fn unknown(_: &[u8]) -> Extent {
    Extent::Unknown
}

/// The area's last page, in pages as large as the one that holds the header.
pub(super) fn swap_4k(head: &[u8]) -> Extent {
    swap(head, 4 << 10)
}

/// As [`swap_4k`], on a machine with large pages.
pub(super) fn swap_64k(head: &[u8]) -> Extent {
    swap(head, 64 << 10)
}

fn swap(head: &[u8], page_bytes: u64) -> Extent {
    blocks(le32(head, 0x404).map(|last| last + 1), Some(page_bytes))
}

/// `label` is where LVM's label stands; it says where the volume's header is.
pub(super) fn lvm(head: &[u8], label: usize) -> Extent {
    let header = le32(head, label + 0x14).and_then(|offset| label.checked_add(usize::try_from(offset).ok()?));
    let stated = blocks(header.and_then(|header| le64(head, header.checked_add(0x20)?)), Some(1));
    if stated == Extent::Unknown { Extent::Whole } else { stated }
}

/// The count of blocks has a high half only where the feature `64bit` says so.
pub(super) fn ext(head: &[u8]) -> Extent {
    const INCOMPATIBLE_64BIT: u64 = 0x80;
    let is_wide = le32(head, EXT_SUPERBLOCK + 0x60).is_some_and(|features| features & INCOMPATIBLE_64BIT != 0);
    let high = if is_wide { le32(head, EXT_SUPERBLOCK + 0x150) } else { Some(0) };
    let count = le32(head, EXT_SUPERBLOCK + 0x04).zip(high).map(|(low, high)| high << 32 | low);
    blocks(count, shifted(1024, le32(head, EXT_SUPERBLOCK + 0x18)))
}

pub(super) fn xfs(head: &[u8]) -> Extent {
    let block_bytes = bytes(head, 4).map(|bytes| u32::from_be_bytes(bytes).into());
    blocks(bytes(head, 8).map(u64::from_be_bytes), block_bytes)
}

/// What this device gives to the file system, which may have several.
pub(super) fn btrfs(head: &[u8]) -> Extent {
    blocks(le64(head, 0x1_00D1), Some(1))
}

pub(super) fn reiserfs(head: &[u8]) -> Extent {
    blocks(le32(head, 0x1_0000), le16(head, 0x1_002C))
}

/// Counted in blocks of the device.
pub(super) fn jfs(head: &[u8]) -> Extent {
    blocks(le64(head, 0x8008), le32(head, 0x8018))
}

pub(super) fn f2fs(head: &[u8]) -> Extent {
    blocks(le64(head, 0x424), shifted(1, le32(head, 0x410)))
}

/// The copy of the boot sector lies behind what is counted.
pub(super) fn ntfs(head: &[u8]) -> Extent {
    blocks(le64(head, 0x28).and_then(|sectors| sectors.checked_add(1)), le16(head, 0x0B))
}

pub(super) fn exfat(head: &[u8]) -> Extent {
    blocks(le64(head, 0x48), shifted(1, head.get(0x6C).map(|&shift| shift.into())))
}

/// A small count stands in a field of 16 bits, a large one in another, and then the small one is 0.
pub(super) fn fat(head: &[u8]) -> Extent {
    let count = le16(head, 0x13).filter(|&small| small > 0).or_else(|| le32(head, 0x20));
    // A boot sector of another kind may say FAT too; a FAT has sectors of a known size.
    let sector_bytes = le16(head, 0x0B).filter(|bytes| bytes.is_power_of_two() && has(head, 0x1FE, &[0x55, 0xAA]));
    blocks(count, sector_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{Contents, HEAD_BYTES, probe};
    use super::*;

    fn extent(pieces: &[(usize, &[u8])]) -> Extent {
        let mut head = vec![0; HEAD_BYTES];
        for (offset, bytes) in pieces {
            head[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        match probe(&head, &[]) {
            Contents::Data(finding) => finding.extent,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_system_states_its_size() {
        type Case = (&'static [(usize, &'static [u8])], Extent);
        const EXT: (usize, &[u8]) = (0x438, &[0x53, 0xEF]);
        let cases: &[Case] = &[
            // 0x4000 blocks of 1 KiB; of 4 KiB; and 2^32 blocks more, if the feature is there.
            (&[EXT, (0x404, &[0, 0x40])], Extent::Bytes(16 << 20)),
            (&[EXT, (0x404, &[0, 0x40]), (0x418, &[2])], Extent::Bytes(64 << 20)),
            (&[EXT, (0x404, &[0, 0x40]), (0x550, &[1])], Extent::Bytes(16 << 20)),
            (&[EXT, (0x404, &[0, 0x40]), (0x550, &[1]), (0x460, &[0x80])], Extent::Bytes((4 << 40) + (16 << 20))),
            (&[(0, b"XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x40\x00")], Extent::Bytes(64 << 20)),
            (&[(0x10040, b"_BHRfS_M"), (0x100D1, &[0, 0, 0, 4])], Extent::Bytes(64 << 20)),
            (&[(0x10034, b"ReIsEr"), (0x10000, &[0, 0x40]), (0x1002C, &[0, 0x10])], Extent::Bytes(64 << 20)),
            (&[(0x8000, b"JFS1"), (0x8008, &[0, 0, 2]), (0x8018, &[0, 2])], Extent::Bytes(64 << 20)),
            (&[(0x400, b"\x10\x20\xF5\xF2"), (0x410, &[12]), (0x424, &[0, 0x40])], Extent::Bytes(64 << 20)),
            (&[(3, b"NTFS    "), (0x0B, &[0, 2]), (0x28, &[0xFF, 0xFF, 1])], Extent::Bytes(64 << 20)),
            (&[(3, b"EXFAT   "), (0x48, &[0, 0, 2]), (0x6C, &[9])], Extent::Bytes(64 << 20)),
            (&[(0x36, b"FAT16"), (0x0B, &[0, 2]), (0x13, &[0, 0x80]), (0x1FE, &[0x55, 0xAA])], Extent::Bytes(16 << 20)),
            (&[(0x52, b"FAT32"), (0x0B, &[0, 2]), (0x20, &[0, 0, 2]), (0x1FE, &[0x55, 0xAA])], Extent::Bytes(64 << 20)),
            (&[(4086, b"SWAPSPACE2"), (0x404, &[0xFF, 0x3F])], Extent::Bytes(64 << 20)),
            (&[(65526, b"SWAPSPACE2"), (0x404, &[0xFF, 3])], Extent::Bytes(64 << 20)),
            (&[(4086, b"SWAP-SPACE")], Extent::Whole),
            (
                &[(0x200, b"LABELONE"), (0x214, &[0x20]), (0x218, b"LVM2 001"), (0x240, &[0, 0, 0, 4])],
                Extent::Bytes(64 << 20),
            ),
            (&[(0x200, b"LABELONE"), (0x218, b"LVM2 001")], Extent::Whole),
            (&[(0, b"LUKS\xBA\xBE\x00\x02")], Extent::Unknown),
            (&[(0x1FE, &[0x55, 0xAA]), (0x1C2, &[0x83])], Extent::Unknown),
            (&[(100, &[1])], Extent::Unknown),
        ];
        for (pieces, expected) in cases {
            assert_eq!(extent(pieces), *expected, "{pieces:?}");
        }
    }

    #[test]
    fn a_size_that_cannot_be_is_none() {
        assert_eq!(extent(&[(0x438, &[0x53, 0xEF])]), Extent::Unknown, "no blocks");
        assert_eq!(extent(&[(0x438, &[0x53, 0xEF]), (0x404, &[1]), (0x418, &[60])]), Extent::Unknown, "a huge block");
        let xfs = [&b"XFSB\xFF\xFF\xFF\xFF"[..], &[0xFF; 8]].concat();
        assert_eq!(extent(&[(0, &xfs)]), Extent::Unknown, "more than can be counted");
    }
}
