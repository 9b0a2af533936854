//! DRBD's on-disk metadata, versions v08 (DRBD 8.4) and v09 (DRBD 9), as pure formats: bytes and text in, values out.
//!
//! A disk carries, besides data, one *superblock* ([`superblock`]), a ring of *activity records* ([`activity_record`])
//! and one *bitmap* with a slot per peer ([`bitmap_page`]); [`layout`] says where. [`apply`] turns the activity log
//! of a crash into bits, [`dump`] reads and writes the text of `drbdmeta dump-md`, [`probe`] tells whether a device
//! looks as if it held something else.
//!
//! Superblock and activity log are big-endian, the bitmap is little-endian. Only activity records have a checksum.
//!
//! Not here: reading and writing devices, which extents are hot while running (`activity_log`), counting bits
//! (`bitmap`), what generation identifiers mean (`generation`).

pub mod activity_record;
pub mod apply;
pub mod bitmap_page;
pub mod dump;
pub mod flags;
pub mod layout;
pub mod probe;
pub mod superblock;

/// Bytes in every unit of metadata: superblock, activity record, bitmap page.
pub const METADATA_BLOCK_BYTES: usize = 4096;
