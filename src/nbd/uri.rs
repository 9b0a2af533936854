//! The parts of an NBD URI that may hold any byte: the name of an export and the path of a socket.
//!
//! `nbd+unix:///EXPORT?socket=PATH` and `nbd://HOST:PORT/EXPORT`; in both parts everything but letters, digits, `-._~` and
//! `/` is written as `%XX`, so that a blank, a `?` or a `%` of a name stays part of it. libnbd and qemu read it so.

/// The text as part of a URI.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The text that a part of a URI stands for; `None` if it is not written as one, or does not stand for text.
#[must_use]
pub fn unescaped(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
        let value = digit(rest.first())? * 16 + digit(rest.get(1))?;
        out.push(u8::try_from(value).ok()?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_what_it_was_made_of() {
        for (text, part) in [
            ("data/1", "data/1"),
            ("/run/shimai/data.nbd", "/run/shimai/data.nbd"),
            ("my disk?100%", "my%20disk%3F100%25"),
            ("größe#+&=", "gr%C3%B6%C3%9Fe%23%2B%26%3D"),
        ] {
            assert_eq!(escaped(text), part);
            assert_eq!(unescaped(part).as_deref(), Some(text));
        }
        for broken in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(unescaped(broken), None, "{broken}");
        }
    }
}
