//! Our bytes and texts against those that other programs made.

mod metadata;
