//! Whether a device that is about to become a replica holds something already.
//!
//! Known file systems, volume managers and partition tables are told by the magic numbers their own documents publish;
//! anything else that is not zero counts as data too: whoever asks must not overwrite it unasked.
//!
//! Most of them also say how much of the device they take ([`Extent`]): metadata that is put behind a file system's end
//! leaves it whole, metadata that is put before it cuts the file system off.
//!
//! Invariant: only bytes that are all zero are [`Contents::Blank`].
//!
//! Not here: reading the device, and whether DRBD's own metadata, which is only named here, is usable.

mod extent;

pub use self::extent::Extent;
use super::METADATA_BLOCK_BYTES;
use super::superblock::UnverifiedSuperblock;

/// How much of the start of a device is worth reading: all magics below lie in it.
pub const HEAD_BYTES: usize = 68 << 10;

/// What a device seems to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Zero wherever we looked.
    Blank,
    /// Something.
    Data(Finding),
    /// There was nothing to look at.
    Unknown,
}

/// What was found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// For people.
    pub name: &'static str,
    /// What it takes of the device.
    pub extent: Extent,
}

impl Finding {
    const fn of_unknown_extent(name: &'static str) -> Self {
        Self { name, extent: Extent::Unknown }
    }
}

type ExtentOf = fn(&[u8]) -> Extent;

/// One row a signature: offset, bytes, name, size. The first match wins; the more particular stand first.
const SIGNATURES: &[(usize, &[u8], &str, ExtentOf)] = &[
    (0, b"LUKS\xBA\xBE", "a LUKS encrypted volume", extent::unknown),
    (0, b"XFSB", "an XFS file system", extent::xfs),
    (
        0x1018,
        b"\xC6\x85\x73\xF6\x4E\x1A\x45\xCA\x82\x65\xF5\x7F\x48\xBA\x6D\x81",
        "a bcache or bcachefs device",
        extent::unknown,
    ),
    (0x10040, b"_BHRfS_M", "a btrfs file system", extent::btrfs),
    (0x10034, b"ReIsEr", "a ReiserFS file system", extent::reiserfs),
    (0x400, b"\x10\x20\xF5\xF2", "an F2FS file system", extent::f2fs),
    (0x8000, b"JFS1", "a JFS file system", extent::jfs),
    (0x8001, b"CD001", "an ISO 9660 file system", extent::unknown),
    (0, b"hsqs", "a SquashFS file system", extent::unknown),
    (0x400, b"\xE2\xE1\xF5\xE0", "an EROFS file system", extent::unknown),
    (0x10000, b"\x01\x16\x19\x70", "a GFS2 file system", extent::unknown),
    (0x2000, b"OCFSV2", "an OCFS2 file system", extent::unknown),
    (0x400, b"OCFSV2", "an OCFS2 file system", extent::unknown),
    (0x800, b"OCFSV2", "an OCFS2 file system", extent::unknown),
    (0x1000, b"OCFSV2", "an OCFS2 file system", extent::unknown),
    (0, b"\xFC\x4E\x2B\xA9", "a Linux software RAID member", extent::unknown),
    (0x1000, b"\xFC\x4E\x2B\xA9", "a Linux software RAID member", extent::unknown),
    (0, b"QFI\xFB", "a QCOW2 image", extent::unknown),
    (3, b"NTFS    ", "an NTFS file system", extent::ntfs),
    (3, b"EXFAT   ", "an exFAT file system", extent::exfat),
    (0x36, b"FAT", "a FAT file system", extent::fat),
    (0x52, b"FAT32", "a FAT file system", extent::fat),
    (0x1000 - 10, b"SWAPSPACE2", "a swap area", extent::swap_4k),
    (0x1000 - 10, b"SWAP-SPACE", "a swap area", extent::whole),
    (0x10000 - 10, b"SWAPSPACE2", "a swap area", extent::swap_64k),
    (0x200, b"EFI PART", "a GPT partition table", extent::unknown),
    (0x1000, b"EFI PART", "a GPT partition table", extent::unknown),
];

/// The name of what has no signature that is known here.
pub const UNRECOGNISED: &str = "unrecognised data";

/// LVM's label is in one of the first four sectors.
const LVM_LABELS: [usize; 4] = [0, 0x200, 0x400, 0x600];
const EXT_SUPERBLOCK: usize = 0x400;

/// Looks at `head`, the first [`HEAD_BYTES`] of a device (or all of it, if it is smaller), and at `others`: the places
/// where metadata would go, and the last blocks. Each of those begins at a multiple of 4096 bytes.
#[must_use]
pub fn probe(head: &[u8], others: &[&[u8]]) -> Contents {
    if let Some(finding) = signature(head).or_else(|| others.iter().find_map(|bytes| tail_signature(bytes))) {
        return Contents::Data(finding);
    }
    if head.is_empty() && others.iter().all(|bytes| bytes.is_empty()) {
        return Contents::Unknown;
    }
    if is_zero(head) && others.iter().all(|bytes| is_zero(bytes)) {
        return Contents::Blank;
    }
    Contents::Data(Finding::of_unknown_extent(UNRECOGNISED))
}

/// Who has the whole device, from its [head](probe): DRBD's metadata, which shares it, does not.
#[must_use]
pub fn owner(head: &[u8]) -> Option<Finding> {
    signature(head).filter(|_| !UnverifiedSuperblock::is_metadata(head))
}

fn signature(head: &[u8]) -> Option<Finding> {
    let known = SIGNATURES.iter().find(|(offset, magic, ..)| has(head, *offset, magic));
    let named = |is_there: bool, name| is_there.then_some(Finding::of_unknown_extent(name));
    let lvm_label = || LVM_LABELS.iter().find(|&&at| has(head, at, b"LABELONE") && has(head, at + 0x18, b"LVM2 001"));
    known
        .map(|&(_, _, name, extent)| Finding { name, extent: extent(head) })
        .or_else(|| lvm_label().map(|&at| Finding { name: "an LVM2 physical volume", extent: extent::lvm(head, at) }))
        .or_else(|| ext_name(head).map(|name| Finding { name, extent: extent::ext(head) }))
        .or_else(|| named(UnverifiedSuperblock::is_metadata(head), "DRBD metadata"))
        // Boot sectors of file systems end like a partition table, so this comes last.
        .or_else(|| named(is_partition_table(head), "an MBR partition table"))
}

/// What is found at the end of a device: GPT's copy in the last sector, and metadata like ours.
fn tail_signature(bytes: &[u8]) -> Option<Finding> {
    let has_gpt = bytes.chunks(512).any(|sector| has(sector, 0, b"EFI PART"));
    let has_drbd = || bytes.chunks(METADATA_BLOCK_BYTES).any(UnverifiedSuperblock::is_metadata);
    let name = has_gpt.then_some("a GPT partition table").or_else(|| has_drbd().then_some("DRBD metadata"));
    name.map(Finding::of_unknown_extent)
}

fn has(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|bytes| bytes.starts_with(magic))
}

/// ext2, ext3 and ext4 share a magic number; the feature words tell them apart.
fn ext_name(head: &[u8]) -> Option<&'static str> {
    const HAS_JOURNAL: u32 = 0x4;
    const EXTENTS_64BIT_FLEX_BG: u32 = 0x2C0;
    if !has(head, EXT_SUPERBLOCK + 0x38, &[0x53, 0xEF]) {
        return None;
    }
    let word = |offset| {
        let bytes = head.get(EXT_SUPERBLOCK + offset..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let (compatible, incompatible) = (word(0x5C), word(0x60));
    Some(match (incompatible & EXTENTS_64BIT_FLEX_BG != 0, compatible & HAS_JOURNAL != 0) {
        (true, _) => "an ext4 file system",
        (false, true) => "an ext3 file system",
        (false, false) => "an ext2 file system",
    })
}

/// The boot signature and at least one entry with a type; every entry's status byte is 0 or 0x80.
fn is_partition_table(head: &[u8]) -> bool {
    const ENTRIES: std::ops::Range<usize> = 0x1BE..0x1FE;
    let Some(entries) = head.get(ENTRIES).filter(|_| has(head, 0x1FE, &[0x55, 0xAA])) else { return false };
    let entries = entries.as_chunks::<16>().0;
    entries.iter().all(|entry| entry[0] & 0x7F == 0) && entries.iter().any(|entry| entry[4] != 0)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        for (offset, bytes) in pieces {
            head[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    fn name_of(contents: Contents) -> Option<&'static str> {
        match contents {
            Contents::Data(finding) => Some(finding.name),
            _ => None,
        }
    }

    #[test]
    fn known_contents_are_named() {
        type Case = (&'static [(usize, &'static [u8])], &'static str);
        let cases: &[Case] = &[
            (&[(0x438, &[0x53, 0xEF])], "an ext2 file system"),
            (&[(0x438, &[0x53, 0xEF]), (0x45C, &[4])], "an ext3 file system"),
            (&[(0x438, &[0x53, 0xEF]), (0x45C, &[4]), (0x460, &[0x42])], "an ext4 file system"),
            (&[(0, b"XFSB")], "an XFS file system"),
            (&[(0x10040, b"_BHRfS_M")], "a btrfs file system"),
            (&[(4086, b"SWAPSPACE2")], "a swap area"),
            (&[(0x200, b"LABELONE"), (0x218, b"LVM2 001")], "an LVM2 physical volume"),
            (&[(0, b"LUKS\xBA\xBE\x00\x02")], "a LUKS encrypted volume"),
            (&[(0x200, b"EFI PART"), (0x1FE, &[0x55, 0xAA]), (0x1C2, &[0xEE])], "a GPT partition table"),
            (&[(0x1FE, &[0x55, 0xAA]), (0x1C2, &[0x83])], "an MBR partition table"),
            (&[(0x1FE, &[0x55, 0xAA])], "unrecognised data"),
            (&[(0x3C, &[0x83, 0x74, 0x02, 0x6D])], "DRBD metadata"),
            (&[(0x3C, &[0x83, 0x74, 0x02, 0x6E])], "DRBD metadata"),
            (&[(0x3C, &[0x83, 0x74, 0x02, 0x6A])], "DRBD metadata"),
            (&[(69631, &[1])], "unrecognised data"),
        ];
        for (pieces, name) in cases {
            assert_eq!(name_of(probe(&with(pieces), &[])), Some(*name));
        }
    }

    #[test]
    fn only_zeroes_are_blank() {
        let head = with(&[]);
        assert_eq!(probe(&head, &[&[0; 4096]]), Contents::Blank);
        assert_eq!(name_of(probe(&head, &[&[0, 0, 1]])), Some("unrecognised data"));
        assert_eq!(probe(&[], &[]), Contents::Unknown);
        let mut last = [0; 1024];
        last[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(name_of(probe(&head, &[&last])), Some("a GPT partition table"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_can_be_probed(head: Vec<u8>, other: Vec<u8>) {
            let is_blank = probe(&head, &[&other]) == Contents::Blank;
            prop_assert!(!is_blank || head.iter().chain(&other).all(|&byte| byte == 0));
        }
    }
}
