//! What peers prove to each other, and what data packets prove about their data: HMACs and digests.
//!
//! Not here: who sends which packet when, and where random bytes come from.

use std::fmt;

use bytes::Bytes;
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Bytes in a challenge that we send.
pub const CHALLENGE_BYTES: usize = 64;
/// The key is the shared secret, cut to this many bytes.
pub const KEY_BYTES_MAX: usize = 64;

/// One row an algorithm: variant, name in the configuration and on the wire, size of its result.
macro_rules! algorithms {
    ($(#[$doc:meta])* $type:ident { $($(#[$row:meta])* $variant:ident $name:literal $bytes:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$row])* $variant,)+ }

        impl $type {
            /// Every algorithm.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The algorithm of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }

            /// The name in the configuration and on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The size of a result.
            #[must_use]
            pub const fn bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.name()) }
        }
    };
}

algorithms! {
    /// `cram-hmac-alg`.
    HmacAlgorithm {
        /// Weak; for old peers.
        Md5 "md5" 16;
        /// The common one.
        Sha1 "sha1" 20;
        /// The strong one.
        Sha256 "sha256" 32;
    }
}

algorithms! {
    /// `data-integrity-alg`, `verify-alg`, `csums-alg`.
    DigestAlgorithm {
        /// Fast; finds accidents.
        Crc32c "crc32c" 4;
        /// Finds accidents.
        Md5 "md5" 16;
        /// Finds accidents.
        Sha1 "sha1" 20;
        /// Finds intent too.
        Sha256 "sha256" 32;
    }
}

/// The HMAC of `message` under `key`, of which at most 64 bytes count.
#[must_use]
pub fn hmac(algorithm: HmacAlgorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    fn compute<M: Mac + hmac::digest::KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
        let mut mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }
    let key = &key[..key.len().min(KEY_BYTES_MAX)];
    match algorithm {
        HmacAlgorithm::Md5 => compute::<Hmac<Md5>>(key, message),
        HmacAlgorithm::Sha1 => compute::<Hmac<Sha1>>(key, message),
        HmacAlgorithm::Sha256 => compute::<Hmac<Sha256>>(key, message),
    }
}

/// The digest of `data` as it stands in packets; crc32c as the four bytes of its usual value, lowest first.
#[must_use]
pub fn digest(algorithm: DigestAlgorithm, data: &[u8]) -> Bytes {
    match algorithm {
        DigestAlgorithm::Crc32c => Bytes::copy_from_slice(&crc32c::crc32c(data).to_le_bytes()),
        DigestAlgorithm::Md5 => Bytes::copy_from_slice(&Md5::digest(data)),
        DigestAlgorithm::Sha1 => Bytes::copy_from_slice(&Sha1::digest(data)),
        DigestAlgorithm::Sha256 => Bytes::copy_from_slice(&Sha256::digest(data)),
    }
}

/// Whether both are equal, in a time that does not tell where they differ.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hmacs_are_the_published_ones() {
        let message = b"what do ya want for nothing?";
        let case = |algorithm, expected| assert_eq!(hex(&hmac(algorithm, b"Jefe", message)), expected);
        case(HmacAlgorithm::Md5, "750c783e6ab0b503eaa86e310a5db738");
        case(HmacAlgorithm::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        case(HmacAlgorithm::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_key_counts_up_to_64_bytes() {
        let long = [7; 80];
        assert_eq!(hmac(HmacAlgorithm::Sha1, &long, b"x"), hmac(HmacAlgorithm::Sha1, &long[..64], b"x"));
    }

    #[test]
    fn digests_have_the_wires_form_and_size() {
        assert_eq!(hex(&digest(DigestAlgorithm::Crc32c, &[0; 4096])), "8941f998");
        assert_eq!(hex(&digest(DigestAlgorithm::Md5, b"")), "d41d8cd98f00b204e9800998ecf8427e");
        for &algorithm in DigestAlgorithm::ALL {
            assert_eq!(digest(algorithm, b"x").len(), algorithm.bytes());
            assert_eq!(DigestAlgorithm::from_name(algorithm.name()), Some(algorithm));
        }
        for &algorithm in HmacAlgorithm::ALL {
            assert_eq!(hmac(algorithm, b"k", b"x").len(), algorithm.bytes());
        }
        assert_eq!(DigestAlgorithm::from_name("hmac(sha1)"), None);
    }

    #[test]
    fn equal_compares_all_bytes_and_lengths() {
        assert!(equal(b"abc", b"abc"));
        assert!(!equal(b"abc", b"abd"));
        assert!(!equal(b"abc", b"ab"));
    }
}
