//! A thread for the few requests that only exist as a blocking ioctl.
//!
//! It is started by the first such request, so on a current kernel it never runs.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::operation::OpKey;
use crate::io::descriptor::{Descriptor, checked};
use crate::io::wake::{Mailbox, Waker};

/// `_IO(0x12, 119)` of linux/fs.h.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// What the thread can do.
pub(super) enum Job {
    Discard { file: Descriptor, offset: u64, len: u64 },
}

pub(super) struct Helper {
    /// Taken when the helper is dropped, which ends the thread.
    jobs: Option<mpsc::Sender<(OpKey, Job)>>,
    answers: Mailbox<(OpKey, io::Result<()>)>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    pub(super) fn start(capacity: usize) -> io::Result<Self> {
        let answers = Mailbox::new(capacity)?;
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new().name("ring-helper".into()).spawn({
            let answers = answers.clone();
            move || serve(&queue, &answers)
        })?;
        Ok(Self { jobs: Some(jobs), answers, thread: Some(thread) })
    }

    pub(super) fn waker(&self) -> &Waker {
        self.answers.waker()
    }

    pub(super) fn submit(&self, key: OpKey, job: Job) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        jobs.send((key, job)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    pub(super) fn drain(&self, into: &mut Vec<(OpKey, io::Result<()>)>) {
        self.answers.drain(into);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn serve(queue: &mpsc::Receiver<(OpKey, Job)>, answers: &Mailbox<(OpKey, io::Result<()>)>) {
    while let Ok((key, job)) = queue.recv() {
        let Job::Discard { file, offset, len } = &job;
        let result = discard(file, *offset, *len);
        let posted = answers.post((key, result));
        assert!(posted.is_ok(), "the mailbox holds as many answers as the ring holds operations");
    }
}

fn discard(file: &Descriptor, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the ioctl reads two 64-bit numbers during the call.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) }).map(drop)
}
