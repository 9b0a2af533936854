//! Arbitrary bytes as requests of a client that has opened an export; replies come at arbitrary times.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use shimai::nbd::client::Client;
use shimai::nbd::session::{Command, CommandKind, Limits, Output, Reply, Session};
use shimai::nbd::wire::NbdErrno;
use shimai_fuzz::script::steps;
use shimai_fuzz::shelf::{EXPORT_BYTES, Shelf};

fuzz_target!(|input: &[u8]| {
    let (mut session, mut outputs) = (Session::new(Limits::default()), Vec::new());
    session.greeting(&mut outputs);
    session.push(Client::connect_bytes("data").1);
    let mut waiting = Vec::new();
    let mut out = BytesMut::new();
    for step in steps(input) {
        if step.which & 1 == 1 {
            for (slot, reply) in waiting.drain(..) {
                out.clear();
                session.reply(slot, reply, &mut out);
                session.check();
            }
        }
        session.push(step.bytes);
        session.handle(&Shelf, &mut outputs);
        session.check();
        for output in outputs.drain(..) {
            if let Output::Command(command) = output
                && let Some(reply) = answer(&command, step.which & 2 != 0)
            {
                waiting.push((command.slot, reply));
            }
        }
    }
});

/// A reply that suits the command, which must be inside the export.
fn answer(command: &Command, fails: bool) -> Option<Reply> {
    let (offset, bytes) = match &command.kind {
        CommandKind::Disconnect => return None,
        CommandKind::Flush => (0, 0),
        CommandKind::Read { offset, bytes } => (*offset, u64::from(*bytes)),
        CommandKind::Write { offset, payload, .. } => (*offset, payload.len() as u64),
        CommandKind::Trim { offset, bytes, .. }
        | CommandKind::WriteZeroes { offset, bytes, .. }
        | CommandKind::Cache { offset, bytes } => (*offset, *bytes),
    };
    assert!(offset % 512 == 0 && bytes % 512 == 0, "commands are whole sectors");
    assert!(offset.checked_add(bytes).is_some_and(|end| end <= EXPORT_BYTES), "commands are inside the export");
    Some(match &command.kind {
        _ if fails => Reply::Error(NbdErrno::EIO, "the disk failed".to_owned()),
        CommandKind::Read { bytes, .. } => Reply::Data(vec![Bytes::from(vec![0; *bytes as usize])]),
        _ => Reply::Done,
    })
}
