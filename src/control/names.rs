//! States and verbs travel as their names; this is how serde is told so.
//!
//! Used as `#[serde(with = "names")]`. The model stays free of serde.

use crate::model::state::{ConnectionState, DiskState, Role};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// A value out of a short list, each with a name of its own.
pub(super) trait Named: Copy + 'static {
    /// What the value is, for messages.
    const WHAT: &'static str;

    /// Every value.
    fn all() -> &'static [Self];

    /// The name on the wire.
    fn name(self) -> &'static str;
}

macro_rules! named_states {
    ($($type:ident $what:literal;)+) => {
        $(impl Named for $type {
            const WHAT: &'static str = $what;

            fn all() -> &'static [Self] { Self::ALL }

            fn name(self) -> &'static str { $type::name(self) }
        })+
    };
}

named_states! {
    Role "role";
    DiskState "disk state";
    ConnectionState "connection state";
}

/// Writes the name.
pub(super) fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.name())
}

/// Reads a name; exact spelling.
pub(super) fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let name = String::deserialize(deserializer)?;
    T::all()
        .iter()
        .copied()
        .find(|value| value.name() == name)
        .ok_or_else(|| D::Error::custom(format_args!("{name:?} is no {}", T::WHAT)))
}
