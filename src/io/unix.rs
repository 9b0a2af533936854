//! Unix-domain sockets: listeners whose path outlives a crash of their owner.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::tcp::{SocketError, system};

/// Who may connect unless the caller says otherwise: the owner.
const OWNER_ONLY: u32 = 0o600;

/// A socket that listens at the path, for the owner only. A socket left there by a process that is gone is removed; one
/// that somebody listens on, or a file of another kind, is left alone.
///
/// # Errors
/// The path is in use or cannot be made.
pub fn listener(path: &Path) -> Result<OwnedFd, SocketError> {
    let fail = |action| move |source| at(path, action, source);
    remove_stale(path)?;
    // Made under another name and then moved: there is no moment at which others could connect.
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft).map_err(fail("listen at"))?;
    let placed = std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(OWNER_ONLY))
        // A hard link fails if the path exists by now; a rename would replace what another daemon has just made.
        .and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    placed.map_err(fail("listen at"))?;
    Ok(listener.into())
}

/// A connection to the socket at the path.
///
/// # Errors
/// Nobody listens there.
pub fn connect(path: &Path) -> Result<OwnedFd, SocketError> {
    UnixStream::connect(path).map(OwnedFd::from).map_err(|source| at(path, "connect to", source))
}

/// Two connected stream sockets.
///
/// # Errors
/// Out of descriptors.
pub fn pair() -> Result<(OwnedFd, OwnedFd), SocketError> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(system("make a socket pair"))
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(status) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !status.file_type().is_socket() {
        return Err(at(path, "listen at", io::ErrorKind::AlreadyExists.into()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| at(path, "remove the old socket", source))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(at(path, "listen at", io::Error::from_raw_os_error(libc::EADDRINUSE))),
    }
}

fn at(path: &Path, action: &'static str, source: io::Error) -> SocketError {
    SocketError::Address { address: path.display().to_string(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_connect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.socket");
        let listener = UnixListener::from(listener(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let _client = connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_but_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let first = listener(&path).unwrap();
        assert!(listener(&path).unwrap_err().to_string().contains("in use"));
        drop(first);
        assert!(path.exists());
        let _second = listener(&path).unwrap();
        connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        std::fs::write(&path, "keep").unwrap();
        assert!(listener(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"keep");
    }
}
