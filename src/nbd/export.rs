//! What can be opened: an export's facts, and where they are looked up.
//!
//! An [`Export`] is a snapshot taken when the client asks. What changes later (a demotion, a lost quorum) reaches the
//! client as errors of its commands, not through here.

use super::wire::TransmissionFlags;

/// Every offset and length is a multiple of this, in bytes.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// What a client had better use, in bytes: one bit of the bitmap.
pub const BLOCK_BYTES_PREFERRED: u32 = 4096;

/// One volume as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// What clients call it; valid UTF-8 without NUL, at most 4096 bytes.
    pub name: String,
    /// A line for people.
    pub description: String,
    /// Size.
    pub bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The disk below turns.
    pub rotational: bool,
    /// `TRIM` is passed on.
    pub may_trim: bool,
    /// `WRITE_ZEROES` is passed on. Whoever sets this also keeps the promise of its `fast` form: to answer `ENOTSUP`
    /// at once when zeroes would have to be written as data.
    pub may_write_zeroes: bool,
    /// A flush on one connection covers the completed writes of all connections of this export.
    pub multi_conn: bool,
    /// Why the export cannot be opened now, in words for the client; it is listed and described all the same.
    pub refusal: Option<String>,
}

impl Export {
    /// The flags the client is told on opening, except `SEND_DF`, which depends on the session.
    #[must_use]
    pub fn transmission_flags(&self) -> u16 {
        use TransmissionFlags as F;
        let writable = !self.read_only;
        let flags = F::HAS_FLAGS
            | F::SEND_FLUSH
            | F::SEND_FUA
            | F::SEND_CACHE
            | F::READ_ONLY.when(self.read_only)
            | F::ROTATIONAL.when(self.rotational)
            | F::SEND_TRIM.when(writable && self.may_trim)
            | (F::SEND_WRITE_ZEROES | F::SEND_FAST_ZERO).when(writable && self.may_write_zeroes)
            | F::CAN_MULTI_CONN.when(self.multi_conn);
        flags.0
    }
}

/// Where a session looks exports up.
pub trait Catalogue {
    /// All exports, in the order to list them.
    fn exports(&self) -> Vec<Export>;

    /// The export of that name; the empty name asks for the default export, if there is one.
    fn find(&self, name: &str) -> Option<Export>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_follow_from_the_facts() {
        let plain = Export {
            name: String::new(),
            description: String::new(),
            bytes: 0,
            read_only: false,
            rotational: false,
            may_trim: false,
            may_write_zeroes: false,
            multi_conn: false,
            refusal: None,
        };
        let check = |export: Export, expected: &str| {
            assert_eq!(TransmissionFlags(export.transmission_flags()).to_string(), expected);
        };
        check(plain.clone(), "HAS_FLAGS|SEND_FLUSH|SEND_FUA|SEND_CACHE");
        let rich = Export { may_trim: true, may_write_zeroes: true, rotational: true, multi_conn: true, ..plain };
        check(
            rich.clone(),
            "HAS_FLAGS|SEND_FLUSH|SEND_FUA|ROTATIONAL|SEND_TRIM|SEND_WRITE_ZEROES|CAN_MULTI_CONN|SEND_CACHE|SEND_FAST_ZERO",
        );
        let read_only = Export { read_only: true, rotational: false, ..rich };
        check(read_only, "HAS_FLAGS|READ_ONLY|SEND_FLUSH|SEND_FUA|CAN_MULTI_CONN|SEND_CACHE");
    }
}
