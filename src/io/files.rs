//! Small text files by name: read, find by pattern, one name for each. For configurations; never on the data path.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// More than any configuration has; a pipe or a device that never ends is not read for ever.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The bytes of a file.
///
/// # Errors
/// It cannot be read, or has more than 16 MiB.
pub fn read(path: &str) -> io::Result<Vec<u8>> {
    read_all(fs::File::open(path)?)
}

/// What comes from standard input.
///
/// # Errors
/// It cannot be read, or has more than 16 MiB.
pub fn read_standard_input() -> io::Result<Vec<u8>> {
    read_all(io::stdin().lock())
}

fn read_all(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// One absolute name for a file, however it was reached; the path itself where there is no such file.
#[must_use]
pub fn canonical(path: &str) -> String {
    fs::canonicalize(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Paths that match a shell pattern (`*`, `?`, `[a-z]`, none of which crosses a slash), sorted.
#[must_use]
pub fn glob(pattern: &str) -> Vec<String> {
    let (start, rest) = match pattern.strip_prefix('/') {
        Some(rest) => ("/", rest),
        None => ("", pattern),
    };
    let mut found = vec![start.to_owned()];
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        found = found.iter().flat_map(|folder| below(folder, part)).collect();
    }
    found.retain(|path| !path.is_empty() && Path::new(path).exists());
    found.sort();
    found
}

/// What `part` of a pattern matches in a folder.
fn below(folder: &str, part: &str) -> Vec<String> {
    let join = |name: &str| match folder {
        "" => name.to_owned(),
        folder if folder.ends_with('/') => format!("{folder}{name}"),
        folder => format!("{folder}/{name}"),
    };
    if !part.contains(['*', '?', '[']) {
        return vec![join(part)];
    }
    let Ok(entries) = fs::read_dir(if folder.is_empty() { "." } else { folder }) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // As in a shell, what is hidden is not meant by a star.
    let is_meant = |name: &String| (part.starts_with('.') || !name.starts_with('.')) && is_match(part, name);
    names.filter(is_meant).map(|name| join(&name)).collect()
}

/// Whether a name matches one part of a pattern.
fn is_match(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let head = name.chars().next();
    let tail = head.map_or("", |head| &name[head.len_utf8()..]);
    match (first, head) {
        ('*', None) => is_match(rest, name),
        ('*', Some(_)) => is_match(rest, name) || is_match(pattern, tail),
        (_, None) => false,
        ('?', Some(_)) => is_match(rest, tail),
        ('[', Some(head)) if rest.contains(']') => {
            let (set, rest) = rest.split_once(']').unwrap_or((rest, ""));
            is_in_set(set, head) && is_match(rest, tail)
        }
        (first, Some(head)) => first == head && is_match(rest, tail),
    }
}

/// `abc`, `a-z`, and the opposite with `!` in front.
fn is_in_set(set: &str, wanted: char) -> bool {
    let (set, is_negated) = set.strip_prefix('!').map_or((set, false), |set| (set, true));
    let set: Vec<char> = set.chars().collect();
    let mut at = 0;
    let mut is_found = false;
    while let Some(&low) = set.get(at) {
        match (set.get(at + 1), set.get(at + 2)) {
            (Some('-'), Some(&high)) => {
                is_found |= (low..=high).contains(&wanted);
                at += 3;
            }
            _ => {
                is_found |= low == wanted;
                at += 1;
            }
        }
    }
    is_found != is_negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_what_a_shell_would_find() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        for name in ["b.res", "a.res", ".hidden.res", "a.cfg"] {
            fs::write(folder.path().join("conf.d").join(name), name).unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            glob(&format!("{root}/{pattern}")).iter().map(|path| path[root.len() + 1..].to_owned()).collect()
        };
        assert_eq!(found("conf.d/*.res"), ["conf.d/a.res", "conf.d/b.res"]);
        assert_eq!(found("c*/[!a].res"), ["conf.d/b.res"]);
        assert_eq!(found("conf.d/?.[a-d]?g"), ["conf.d/a.cfg"]);
        assert_eq!(found("conf.d/none.res"), [""; 0]);
        assert_eq!(read(&format!("{root}/conf.d/b.res")).unwrap(), b"b.res");
        assert!(read(root).is_err());
    }
}
