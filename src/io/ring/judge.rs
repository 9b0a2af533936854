//! What completions mean: finished, go on, or go about it differently.

use std::io;

use super::flight::{Flight, Stage, Step, ZeroMeans};
use super::helper::Job;
use super::operation::{Operation, Outcome, RingError, Span};
use crate::io::buffer::Chunk;
use crate::io::descriptor::{DescriptorKind, owned};

/// How often in a row an operation is begun again without progress (EAGAIN, EINTR) before that is an error. A file
/// system that keeps saying so would otherwise burn a CPU for ever.
const RETRIES_MAX: u32 = 64;

impl Flight {
    /// Decides after the last completion of a stage.
    pub(super) fn judge(&mut self) -> Step {
        let result = self.main.unwrap_or(-libc::EIO);
        let Ok(count) = usize::try_from(result) else { return self.on_error(-result) };
        self.retries = 0;
        match self.stage {
            Stage::Main => self.on_success(count, result),
            Stage::Sync => Step::Finished(Ok(Outcome::Transferred(self.done))),
            Stage::Ready => {
                self.stage = Stage::Main;
                Step::Again
            }
        }
    }

    fn on_success(&mut self, count: usize, result: i32) -> Step {
        match &mut self.operation {
            Operation::ReadAt { buffer, .. } => {
                let total = buffer.len();
                self.on_transferred(count, total as u64)
            }
            Operation::SendMsg { pieces, .. } => {
                let total = pieces.len();
                self.on_transferred(count, total as u64)
            }
            Operation::WriteAt { pieces, durable, .. } => {
                let (total, durable) = (pieces.len(), *durable);
                match self.on_transferred(count, total as u64) {
                    Step::Finished(Ok(_)) if durable => self.on_written_durably(),
                    step => step,
                }
            }
            Operation::WriteZeroes { len, .. } => {
                let total = *len;
                let count = match self.zero_part() {
                    (ZeroMeans::Write, _) => count,
                    // All of it, and the result is 0.
                    (ZeroMeans::Punch | ZeroMeans::Zero, part) => usize::try_from(part).expect("64 bits fit"),
                };
                match self.on_transferred(count, total) {
                    Step::Finished(Ok(_)) => Step::Finished(Ok(Outcome::Done)),
                    step => step,
                }
            }
            Operation::Recv { chunk, .. } => {
                chunk.skip(count.min(chunk.remaining()));
                Step::Finished(Ok(Outcome::Transferred(count)))
            }
            Operation::RecvMsg { chunks, layout, .. } => {
                distribute(chunks, layout, count);
                Step::Finished(Ok(Outcome::Transferred(count)))
            }
            Operation::Accept { .. } => Step::Finished(match owned(result) {
                Ok(connection) => Ok(Outcome::Accepted(connection)),
                Err(source) => Err(RingError::System { operation: "accept", source }),
            }),
            Operation::PollAdd { .. } => Step::Finished(Ok(Outcome::Ready(result.cast_unsigned()))),
            Operation::Timeout { .. } => Step::Finished(Ok(Outcome::Expired)),
            Operation::Fsync { .. }
            | Operation::WriteBack { .. }
            | Operation::Fallocate { .. }
            | Operation::Discard { .. }
            | Operation::Connect { .. }
            | Operation::Cancel { .. }
            | Operation::Shutdown { .. }
            | Operation::Close { .. } => Step::Finished(Ok(Outcome::Done)),
        }
    }

    /// Counts bytes of an operation that must move all of its `total`.
    fn on_transferred(&mut self, count: usize, total: u64) -> Step {
        self.done += count;
        if self.done as u64 >= total {
            Step::Finished(Ok(Outcome::Transferred(self.done)))
        } else if count == 0 {
            Step::Finished(Err(self.short_transfer(total)))
        } else {
            Step::Again
        }
    }

    /// All bytes of a durable write are with the file; was the linked sync one that covered them?
    fn on_written_durably(&mut self) -> Step {
        match self.linked {
            Some(0) if self.linked_in_order => Step::Finished(Ok(Outcome::Transferred(self.done))),
            Some(result) if result < 0 && !is_passing(-result) && result != -libc::ECANCELED => {
                Step::Finished(Err(self.system(-result)))
            }
            // The link was broken or the sync did not come after the write: sync now.
            _ => {
                self.stage = Stage::Sync;
                Step::Again
            }
        }
    }

    fn on_error(&mut self, errno: i32) -> Step {
        match &self.operation {
            Operation::Timeout { .. } if errno == libc::ETIME => Step::Finished(Ok(Outcome::Expired)),
            Operation::Connect { .. } if self.linked == Some(-libc::ETIME) => {
                Step::Finished(Err(RingError::TimedOut { operation: self.operation.name() }))
            }
            _ if errno == libc::ECANCELED => Step::Finished(Err(self.cancellation())),
            Operation::Connect { .. } | Operation::Close { .. } => Step::Finished(Err(self.system(errno))),
            _ if is_passing(errno) => self.retry(errno),
            // EINVAL: of a range or mode that this file does not like.
            Operation::WriteZeroes { .. }
                if (is_unsupported(errno) || errno == libc::EINVAL) && self.zero_part().0 != ZeroMeans::Write =>
            {
                self.zero_means = if self.zero_means == ZeroMeans::Punch { ZeroMeans::Zero } else { ZeroMeans::Write };
                Step::Again
            }
            Operation::Discard { file, offset, len }
                if file.kind() == DescriptorKind::BlockDevice && (is_unsupported(errno) || errno == libc::EINVAL) =>
            {
                // Kernels before 6.12 know the discard of a block device only as an ioctl, which blocks.
                Step::Help(Job::Discard { file: file.clone(), offset: *offset, len: *len })
            }
            // The rest of a read with O_DIRECT that met the end of the file begins unaligned.
            Operation::ReadAt { buffer, .. } if errno == libc::EINVAL && self.done > 0 => {
                Step::Finished(Err(self.short_transfer(buffer.len() as u64)))
            }
            _ => Step::Finished(Err(self.system(errno))),
        }
    }

    fn retry(&mut self, errno: i32) -> Step {
        self.retries += 1;
        if self.retries > RETRIES_MAX {
            return Step::Finished(Err(self.system(errno)));
        }
        let waits_for_peer = matches!(
            self.operation,
            Operation::Recv { .. } | Operation::RecvMsg { .. } | Operation::SendMsg { .. } | Operation::Accept { .. }
        );
        if waits_for_peer && errno == libc::EAGAIN {
            self.stage = Stage::Ready;
        }
        Step::Again
    }

    pub(super) fn cancellation(&self) -> RingError {
        RingError::Cancelled { operation: self.operation.name() }
    }

    fn system(&self, errno: i32) -> RingError {
        RingError::System { operation: self.operation.name(), source: io::Error::from_raw_os_error(errno) }
    }

    fn short_transfer(&self, wanted: u64) -> RingError {
        RingError::ShortTransfer { operation: self.operation.name(), done: self.done as u64, wanted }
    }
}

/// Gives each chunk its share of `count` received bytes.
pub(super) fn distribute(chunks: &mut [Chunk], layout: &[Span], count: usize) {
    let mut left = count;
    for span in layout {
        let share = span.len.min(left);
        if let Some(chunk) = chunks.get_mut(span.chunk) {
            chunk.skip(share.min(chunk.remaining()));
        }
        left -= share;
    }
}

pub(super) fn is_passing(errno: i32) -> bool {
    errno == libc::EAGAIN || errno == libc::EINTR
}

fn is_unsupported(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::ENODEV)
}
