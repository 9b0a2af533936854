//! How other threads reach a thread that sleeps in its ring: an eventfd to wake it and a bounded mailbox to tell it.
//!
//! The sleeping thread keeps one `PollAdd` on the [`Waker`]'s descriptor in its ring; when that completes it drains the
//! mailbox and arms the poll again. The eventfd is written only when the mailbox was empty, so a burst costs one wake.
//!
//! Invariants: the counter is reset before the queue is emptied, so a message posted in between wakes again; a full
//! mailbox hands the message back, it never blocks and never drops.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::descriptor::{Descriptor, owned};

/// Wakes the thread that polls its descriptor. Cheap to clone and to send.
#[derive(Clone, Debug)]
pub struct Waker {
    descriptor: Descriptor,
}

impl Waker {
    /// A new eventfd.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned.
        let fd = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self { descriptor: fd.into() })
    }

    /// The descriptor to poll for input.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // The only failure is a counter at its limit, and then the descriptor is readable already.
        let _ = nix::unistd::write(&self.descriptor, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable until the next [`wake`](Self::wake); whether it had been woken.
    #[must_use]
    pub fn reset(&self) -> bool {
        let mut counter = [0; 8];
        matches!(nix::unistd::read(&self.descriptor, &mut counter), Ok(8))
    }
}

/// A bounded queue of messages to a thread that sleeps in its ring. Clones share the queue.
#[derive(Debug)]
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<VecDeque<T>>,
    capacity: usize,
    waker: Waker,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Mailbox<T> {
    /// A mailbox for at most `capacity` messages, with its own waker.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let (queue, waker) = (Mutex::new(VecDeque::new()), Waker::new()?);
        Ok(Self { shared: Arc::new(Shared { queue, capacity, waker }) })
    }

    /// The waker to poll.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.shared.waker
    }

    /// Leaves a message and wakes the reader.
    ///
    /// # Errors
    /// The mailbox is full; the message comes back.
    pub fn post(&self, message: T) -> Result<(), T> {
        let mut queue = self.queue();
        if queue.len() >= self.shared.capacity {
            return Err(message);
        }
        queue.push_back(message);
        let was_empty = queue.len() == 1;
        drop(queue);
        if was_empty {
            self.shared.waker.wake();
        }
        Ok(())
    }

    /// Moves all messages to `into`, oldest first; how many there were.
    pub fn drain(&self, into: &mut Vec<T>) -> usize {
        let _ = self.shared.waker.reset();
        let mut queue = self.queue();
        let count = queue.len();
        into.extend(queue.drain(..));
        count
    }

    /// How many messages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue().len()
    }

    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<T>> {
        // A thread that panicked while holding the lock left a whole queue: push and drain cannot be half done.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_hands_the_message_back() {
        let mailbox = Mailbox::new(2).unwrap();
        assert_eq!(mailbox.post(1), Ok(()));
        assert_eq!(mailbox.post(2), Ok(()));
        assert_eq!(mailbox.post(3), Err(3));
        let mut messages = Vec::new();
        assert_eq!(mailbox.drain(&mut messages), 2);
        assert_eq!(messages, [1, 2]);
        assert!(mailbox.is_empty());
        assert!(!mailbox.waker().reset(), "draining has reset the waker");
    }

    #[test]
    fn a_message_after_a_drain_wakes_again() {
        let mailbox = Mailbox::new(8).unwrap();
        let mut messages = Vec::new();
        mailbox.post(1).unwrap();
        mailbox.drain(&mut messages);
        mailbox.post(2).unwrap();
        assert!(mailbox.waker().reset());
    }

    #[test]
    fn messages_of_many_threads_all_arrive_in_each_senders_order() {
        let mailbox = Mailbox::new(10_000).unwrap();
        std::thread::scope(|scope| {
            for sender in 0..4 {
                let mailbox = mailbox.clone();
                scope.spawn(move || (0..500).for_each(|number| mailbox.post((sender, number)).unwrap()));
            }
        });
        let mut messages = Vec::new();
        mailbox.drain(&mut messages);
        for sender in 0..4 {
            let numbers: Vec<_> =
                messages.iter().filter(|message| message.0 == sender).map(|message| message.1).collect();
            assert_eq!(numbers, (0..500).collect::<Vec<_>>());
        }
    }
}
