//! What a terminal tells about itself.

use std::os::fd::{AsFd, AsRawFd};

use super::descriptor::checked;

/// Columns of the terminal behind a descriptor; `None` if there is no terminal, or it does not know.
#[must_use]
pub fn columns(terminal: impl AsFd) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl writes one `winsize` during the call.
    checked(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_columns() {
        assert_eq!(columns(tempfile::tempfile().unwrap()), None);
    }
}
