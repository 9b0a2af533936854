//! Whole resources on this machine: files for disks, 127.0.0.0/8 for a network, real NBD clients.

mod alone;
mod client;
mod node;
mod pair;
