//! A receive that takes what is there and waits for nothing: it needs no place in the ring.

use std::io;
use std::os::fd::AsRawFd;

use super::entries::scatter;
use super::judge::{distribute, is_passing};
use super::operation::{Operation, RingError};
use super::validate::why_invalid;

/// Does a receive at once: how many bytes it has brought, or the error that the socket had and has told now. `None`: nothing is
/// there, or the end, which the next receive through the ring will tell, as it tells why an operation is refused. Its chunks
/// have to be taken back either way.
pub fn receive_now(operation: &mut Operation) -> Option<Result<usize, RingError>> {
    if why_invalid(operation).is_some() {
        return None;
    }
    let name = operation.name();
    let Operation::RecvMsg { socket, chunks, layout } = operation else { return None };
    let mut vectors: Vec<libc::iovec> = scatter(chunks, layout).collect();
    let mut message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vectors.as_mut_ptr(),
        msg_iovlen: vectors.len() as _,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    };
    // SAFETY: the vectors point to memory of the chunks beyond what they have received, which belongs to them alone and has
    // room for the layout; chunks, vectors and message outlive the call.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    if let Ok(count) = usize::try_from(count) {
        distribute(chunks, layout, count);
        return (count > 0).then_some(Ok(count));
    }
    let source = io::Error::last_os_error();
    let passes = source.raw_os_error().is_some_and(is_passing);
    (!passes).then_some(Err(RingError::System { operation: name, source }))
}
