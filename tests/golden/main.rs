//! Bytes and texts that others wrote, read and written by us.

mod wire;
