//! A whole bitmap as packets.
