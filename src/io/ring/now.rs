//! A receive that takes what is there and waits for nothing: it needs no place in the ring.

use std::os::fd::AsRawFd;

use super::entries::scatter;
use super::judge::distribute;
use super::operation::Operation;
use super::validate::why_invalid;

/// Does a receive at once. How many bytes it has brought; `None`: nothing is there, or the socket is broken or closed, which
/// the next receive through the ring will tell, as it tells why an operation is refused. Its chunks have to be taken back either
/// way.
pub fn receive_now(operation: &mut Operation) -> Option<usize> {
    if why_invalid(operation).is_some() {
        return None;
    }
    let Operation::RecvMsg { socket, chunks, layout } = operation else { return None };
    let mut vectors: Vec<libc::iovec> = scatter(chunks, layout).collect();
    let message = libc::msghdr {
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
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), (&raw const message).cast_mut(), libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).ok().filter(|count| *count > 0)?;
    distribute(chunks, layout, count);
    Some(count)
}
