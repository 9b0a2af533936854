//! The real daemons, as pairs on one machine: real disks, a real wire, real clients, real crashes.
#![allow(dead_code)]

mod harness;
