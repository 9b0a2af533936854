//! Messages as lines: encode, and decode what anyone may have written.

use super::message::{Options, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The longest line either side accepts. A status takes about a kilobyte a volume.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// How deep a message may nest. The deepest of ours (a status) uses 8.
pub const DEPTH_MAX: usize = 32;
/// The longest name of a resource, as in DRBD.
const RESOURCE_NAME_BYTES_MAX: usize = 127;

/// Why a line is no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Longer than [`LINE_BYTES_MAX`].
    #[error("a message of {bytes} bytes; at most {LINE_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("a message nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Not JSON.
    #[error("not a JSON object: {reason}")]
    Syntax {
        /// Where and what.
        reason: String,
    },
    /// A field that must be there is not.
    #[error("field `{field}` is missing")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field nobody knows.
    #[error("unknown field `{field}`")]
    Unknown {
        /// Its name.
        field: String,
    },
    /// A field's value cannot be used.
    #[error("field `{field}`: {reason}")]
    Field {
        /// Its name.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The message as one line, with its line feed.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have string keys and finite numbers");
    line.push(b'\n');
    line
}

/// Reads a request; a line feed at the end does no harm.
pub fn decode_request(line: &[u8]) -> Result<Request, DecodeError> {
    let mut fields = object(line)?;
    let request = Request {
        id: take(&mut fields, "id")?.unwrap_or_default(),
        verb: take(&mut fields, "verb")?.ok_or(DecodeError::Missing { field: "verb" })?,
        resource: take(&mut fields, "resource")?.map(resource_name).transpose()?,
        volume: take(&mut fields, "volume")?,
        options: fields.remove("options").map(options).transpose()?.unwrap_or_default(),
    };
    match fields.keys().next() {
        Some(field) => Err(DecodeError::Unknown { field: field.clone() }),
        None => Ok(request),
    }
}

/// Reads a response; a line feed at the end does no harm.
pub fn decode_response(line: &[u8]) -> Result<Response, DecodeError> {
    let fields = object(line)?;
    let field = fields.keys().next().cloned().unwrap_or_default();
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| DecodeError::Field { field, reason: error.to_string() })
}

/// The outermost object, after the limits.
fn object(line: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    if line.len() > LINE_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: line.len() });
    }
    if depth(line) > DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    serde_json::from_slice(line).map_err(|error| DecodeError::Syntax { reason: error.to_string() })
}

/// How deep brackets nest outside strings, whether or not they match.
fn depth(line: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Removes a field and reads it; `None` where it is absent or null.
fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, field: &str) -> Result<Option<T>, DecodeError> {
    match fields.remove(field) {
        None => Ok(None),
        Some(value) => serde_json::from_value(value)
            .map_err(|error| DecodeError::Field { field: field.into(), reason: error.to_string() }),
    }
}

/// Names go into log lines, paths and environments of handlers, so they are held to what those can carry.
fn resource_name(name: String) -> Result<String, DecodeError> {
    let fault = match name.as_str() {
        "" => Some("empty".to_owned()),
        name if name.len() > RESOURCE_NAME_BYTES_MAX => Some(format!("longer than {RESOURCE_NAME_BYTES_MAX} bytes")),
        name => name
            .chars()
            .find(|&c| c.is_control() || c.is_whitespace() || c == '/')
            .map(|c| format!("{c:?} may not be in the name of a resource")),
    };
    match fault {
        Some(reason) => Err(DecodeError::Field { field: "resource".into(), reason }),
        None => Ok(name),
    }
}

/// Reads the options; on failure names the first one that cannot be read alone.
fn options(value: Value) -> Result<Options, DecodeError> {
    let Value::Object(fields) = value else {
        return Err(DecodeError::Field { field: "options".into(), reason: "not an object".into() });
    };
    for (name, value) in &fields {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<Options>(Value::Object(alone))
            .map_err(|error| DecodeError::Field { field: format!("options.{name}"), reason: error.to_string() })?;
    }
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| DecodeError::Field { field: "options".into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::Verb;
    use proptest::prelude::*;

    fn error(line: &str) -> String {
        decode_request(line.as_bytes()).expect_err("the line is bad").to_string()
    }

    #[test]
    fn a_request_is_one_short_line() {
        let mut request = Request::new(Verb::Primary, Some("data"));
        request.id = 7;
        request.options.force = true;
        let line = encode(&request);
        assert_eq!(
            String::from_utf8_lossy(&line),
            "{\"id\":7,\"verb\":\"primary\",\"resource\":\"data\",\"options\":{\"force\":true}}\n"
        );
        assert_eq!(decode_request(&line), Ok(request));
    }

    #[test]
    fn responses_survive_the_line() {
        let cases = [
            Response::done(),
            Response::Progress {
                sentence: "resync".into(),
                percent: Some(12.5),
                rate_bytes_per_s: Some(1 << 30),
                seconds_left: None,
            },
            Response::refused(crate::control::StateRefusal::NoUpToDateDisk, Some("connect data".into())),
            Response::Failed { code: None, exit: 20, sentence: "two\nlines".into(), next: None },
            Response::Status(Vec::new()),
            Response::Text("Primary/Secondary".into()),
        ];
        for case in cases {
            let line = encode(&case);
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1, "a message is one line");
            assert_eq!(decode_response(&line), Ok(case));
        }
    }

    #[test]
    fn an_error_names_the_field() {
        assert_eq!(error("{}"), "field `verb` is missing");
        assert_eq!(error(r#"{"verb":"fly"}"#), "field `verb`: \"fly\" is no verb");
        assert_eq!(error(r#"{"verb":"up","forse":true}"#), "unknown field `forse`");
        assert!(error(r#"{"verb":"up","volume":65536}"#).starts_with("field `volume`: "));
        assert!(error(r#"{"verb":"up","options":{"force":"yes"}}"#).starts_with("field `options.force`: "));
        assert!(error(r#"{"verb":"up","options":{"now":true,"forse":true}}"#).starts_with("field `options.forse`: "));
        assert!(error(r#"{"verb":"up","resource":"a\nb"}"#).starts_with("field `resource`: "));
        assert!(error("[]").starts_with("not a JSON object: "));
    }

    #[test]
    fn length_and_depth_are_bounded() {
        assert_eq!(
            decode_request(&vec![b' '; LINE_BYTES_MAX + 1]),
            Err(DecodeError::TooLong { bytes: LINE_BYTES_MAX + 1 })
        );
        assert_eq!(decode_request("[".repeat(LINE_BYTES_MAX).as_bytes()), Err(DecodeError::TooDeep));
        let brackets_in_a_name = format!(r#"{{"verb":"up","resource":"{}"}}"#, "[".repeat(40));
        assert!(decode_request(brackets_in_a_name.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(&bytes);
            let _ = decode_response(&bytes);
        }

        #[test]
        fn arbitrary_structure_never_panics(text in r#"[{}\[\]":,a-z0-9 \\]{0,80}"#) {
            let _ = decode_request(text.as_bytes());
            let _ = decode_response(text.as_bytes());
        }
    }
}
