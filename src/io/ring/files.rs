//! Registered descriptors: the kernel skips its lookup and reference counting for those.
//!
//! Callers keep naming descriptors by value; the table translates when an entry is made. It holds a clone of each, so a
//! number cannot come to mean another file while it is in the table.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::IoUring;
use io_uring::squeue::Flags;

use crate::io::descriptor::Descriptor;

/// Room for a resource's volumes, metadata, links and clients; what does not fit works unregistered.
const SLOTS: u32 = 256;

/// How an entry names its descriptor.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) fd: RawFd,
    pub(super) flags: Flags,
}

pub(super) struct FileTable {
    slots: Vec<Option<Descriptor>>,
    /// The slot of each descriptor number.
    by_number: Vec<Option<u32>>,
}

impl FileTable {
    /// An empty table in the ring; without slots when the kernel refuses.
    pub(super) fn new(ring: &IoUring) -> Self {
        let slots = if ring.submitter().register_files_sparse(SLOTS).is_ok() { SLOTS as usize } else { 0 };
        Self { slots: vec![None; slots], by_number: Vec::new() }
    }

    pub(super) fn register(&mut self, ring: &IoUring, descriptor: &Descriptor) -> io::Result<bool> {
        let number = index(descriptor);
        if self.slot(number).is_some() {
            return Ok(true);
        }
        let Some(free) = self.slots.iter().position(Option::is_none) else { return Ok(false) };
        let slot = u32::try_from(free).expect("the table has few slots");
        ring.submitter().register_files_update(slot, &[descriptor.as_raw_fd()])?;
        self.slots[free] = Some(descriptor.clone());
        if self.by_number.len() <= number {
            self.by_number.resize(number + 1, None);
        }
        self.by_number[number] = Some(slot);
        Ok(true)
    }

    pub(super) fn unregister(&mut self, ring: &IoUring, descriptor: &Descriptor) -> io::Result<()> {
        let number = index(descriptor);
        let Some(slot) = self.slot(number) else { return Ok(()) };
        ring.submitter().register_files_update(slot, &[-1])?;
        self.slots[slot as usize] = None;
        self.by_number[number] = None;
        Ok(())
    }

    pub(super) fn target(&self, descriptor: &Descriptor) -> Target {
        match self.slot(index(descriptor)) {
            Some(slot) => Target { fd: slot.cast_signed(), flags: Flags::FIXED_FILE },
            None => Target { fd: descriptor.as_raw_fd(), flags: Flags::empty() },
        }
    }

    fn slot(&self, number: usize) -> Option<u32> {
        self.by_number.get(number).copied().flatten()
    }
}

fn index(descriptor: &Descriptor) -> usize {
    usize::try_from(descriptor.as_raw_fd()).expect("an open descriptor is not negative")
}
