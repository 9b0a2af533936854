//! The nouns everyone shares: quantities, identifiers, states and time. No behaviour beyond arithmetic and names.

pub mod generation_id;
pub mod ids;
pub mod state;
pub mod time;
pub mod units;
