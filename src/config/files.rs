//! The files of a configuration, as the caller supplies them.

use std::collections::BTreeMap;

/// Reads for the parser. Paths are text: a configuration names its files in text.
pub trait Files {
    /// The bytes of a file.
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable>;
    /// Paths that match a shell pattern, sorted. A pattern without `*`, `?` or `[` matches itself if the file exists.
    fn glob(&self, pattern: &str) -> Vec<String>;
    /// One name for a file, however it was reached; a file is included once.
    fn canonical(&self, path: &str) -> String;
}

/// Where DRBD's tools look for the configuration, in their order.
const DEFAULT_FILES: [&str; 6] = [
    "/etc/drbd-90.conf",
    "/etc/drbd-84.conf",
    "/etc/drbd-83.conf",
    "/etc/drbd-82.conf",
    "/etc/drbd-08.conf",
    DEFAULT_FILE,
];
/// The one that is missed where none of them exists.
const DEFAULT_FILE: &str = "/etc/drbd.conf";

/// The configuration that is meant when nobody names one: the first of DRBD's that exists.
pub fn default_file(exists: impl Fn(&str) -> bool) -> &'static str {
    DEFAULT_FILES.into_iter().find(|path| exists(path)).unwrap_or(DEFAULT_FILE)
}

/// Why a file could not be read, in the words of whoever tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Files in memory: for tests, and for text that comes from elsewhere (standard input, the admin socket).
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles(pub BTreeMap<String, Vec<u8>>);

impl MemoryFiles {
    /// One file.
    #[must_use]
    pub fn single(path: &str, text: impl Into<Vec<u8>>) -> Self {
        Self(BTreeMap::from([(path.to_owned(), text.into())]))
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable> {
        self.0.get(path).cloned().ok_or_else(|| Unreadable("No such file".to_owned()))
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        self.0.keys().filter(|path| matches(pattern.as_bytes(), path.as_bytes())).cloned().collect()
    }

    fn canonical(&self, path: &str) -> String {
        path.to_owned()
    }
}

/// Whether `text` matches a pattern of `*` and `?`, neither of which crosses a slash.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if matches(rest, text) => true,
        (Some((b'*', _)), Some((byte, tail))) => *byte != b'/' && matches(pattern, tail),
        (Some((b'?', rest)), Some((byte, tail))) => *byte != b'/' && matches(rest, tail),
        (Some((expected, rest)), Some((byte, tail))) => expected == byte && matches(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_folder() {
        assert!(matches(b"d/*.res", b"d/a.res"));
        assert!(matches(b"d/?.res", b"d/a.res"));
        assert!(!matches(b"d/*.res", b"d/e/a.res"));
        assert!(!matches(b"d/*.res", b"d/a.cfg"));
    }
}
