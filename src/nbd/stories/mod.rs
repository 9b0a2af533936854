//! Stories of whole sessions: transcripts, hostile clients, and our client against our server on a model disk.

mod client;
mod negotiation;
mod properties;
mod transmission;

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{CommandFlags, CommandNumber, OptionHeader, OptionKind, RequestHeader};
use super::*;

const MIB: usize = 1 << 20;

struct Shelf(Vec<Export>);

impl Catalogue for Shelf {
    fn exports(&self) -> Vec<Export> {
        self.0.clone()
    }

    fn find(&self, name: &str) -> Option<Export> {
        let name = if name.is_empty() { "data" } else { name };
        self.0.iter().find(|export| export.name == name).cloned()
    }
}

fn export(name: &str) -> Export {
    Export {
        name: name.to_owned(),
        description: format!("volume {name}"),
        bytes: MIB as u64,
        read_only: false,
        rotational: false,
        may_trim: true,
        may_write_zeroes: true,
        multi_conn: true,
        refusal: None,
    }
}

fn shelf() -> Shelf {
    let refusal = Some("logs is Secondary here; alice is Primary".to_owned());
    Shelf(vec![export("data"), Export { refusal, ..export("logs") }])
}

fn session_with(limits: Limits) -> Session {
    let mut session = Session::new(limits);
    session.greeting(&mut Vec::new());
    session
}

fn session() -> Session {
    session_with(Limits::default())
}

fn feed(session: &mut Session, bytes: impl Into<Bytes>) -> Vec<Output> {
    let mut out = Vec::new();
    session.push(bytes.into());
    session.handle(&shelf(), &mut out);
    session.check();
    out
}

/// Bytes of a transcript: hexadecimal words, and text between single quotes. Blanks do not matter.
fn hex(text: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.put_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).expect("digits are text");
            bytes.put_u8(u8::from_str_radix(pair, 16).expect("pairs of digits"));
        }
    }
    bytes.freeze()
}

fn sent(out: &[Output]) -> Bytes {
    let mut bytes = BytesMut::new();
    for output in out {
        if let Output::Send(part) = output {
            bytes.put_slice(part);
        }
    }
    bytes.freeze()
}

fn option(kind: OptionKind, data: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    OptionHeader { kind, bytes: data.len() as u32 }.encode(&mut bytes);
    bytes.put_slice(data);
    bytes.freeze()
}

fn request(command: CommandNumber, flags: CommandFlags, cookie: u64, offset: u64, bytes: u32) -> Bytes {
    let mut out = BytesMut::new();
    RequestHeader { flags, command, cookie, offset, bytes }.encode(&mut out);
    out.freeze()
}

fn closed(out: &[Output]) -> &CloseReason {
    match out.last() {
        Some(Output::Close(reason)) => reason,
        other => panic!("an end was expected: {other:?}"),
    }
}
