//! The exports of the NBD targets: one that opens, read-only siblings, and one that is refused.

use shimai::nbd::export::{Catalogue, Export};

/// Size of every export.
pub const EXPORT_BYTES: u64 = 1 << 20;

/// Always the same exports.
pub struct Shelf;

impl Catalogue for Shelf {
    fn exports(&self) -> Vec<Export> {
        let refusal = Some("away is Secondary here".to_owned());
        vec![export("data"), Export { read_only: true, ..export("old") }, Export { refusal, ..export("away") }]
    }

    fn find(&self, name: &str) -> Option<Export> {
        let name = if name.is_empty() { "data" } else { name };
        self.exports().into_iter().find(|export| export.name == name)
    }
}

fn export(name: &str) -> Export {
    Export {
        name: name.to_owned(),
        description: format!("volume {name}"),
        bytes: EXPORT_BYTES,
        read_only: false,
        rotational: false,
        may_trim: true,
        may_write_zeroes: true,
        multi_conn: true,
        refusal: None,
    }
}
