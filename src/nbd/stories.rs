//! Stories of whole sessions: transcripts, hostile clients, and our client against our server on a model disk.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

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

fn opened(structured: bool) -> Session {
    opened_with(structured, Limits::default())
}

fn opened_with(structured: bool, limits: Limits) -> Session {
    let mut session = session_with(limits);
    feed(&mut session, hex("00000003"));
    if structured {
        feed(&mut session, option(OptionKind::STRUCTURED_REPLY, b""));
    }
    let out = feed(&mut session, option(OptionKind::EXPORT_NAME, b"data"));
    assert!(matches!(&out[..], [Output::Opened(export), Output::Send(_)] if export.name == "data"));
    session
}

fn command(out: &[Output]) -> Command {
    match out {
        [Output::Command(command)] => command.clone(),
        other => panic!("one command was expected: {other:?}"),
    }
}

fn closed(out: &[Output]) -> &CloseReason {
    match out.last() {
        Some(Output::Close(reason)) => reason,
        other => panic!("an end was expected: {other:?}"),
    }
}

#[test]
fn the_greeting_offers_fixed_newstyle_and_no_zeroes() {
    let mut out = Vec::new();
    Session::new(Limits::default()).greeting(&mut out);
    assert_eq!(out, [Output::Send(hex("'NBDMAGICIHAVEOPT' 0003"))]);
}

#[test]
fn transcripts_of_negotiation() {
    // What the client sends after its flags, and what it gets.
    let table = [
        (
            "the list names all, the refused one too",
            "'IHAVEOPT' 00000003 00000000",
            "0003e889045565a9 00000003 00000002 00000013 00000004 'data' 'volume data'
          0003e889045565a9 00000003 00000002 00000013 00000004 'logs' 'volume logs'
          0003e889045565a9 00000003 00000001 00000000",
        ),
        (
            "a list with data is invalid",
            "'IHAVEOPT' 00000003 00000001 00",
            "0003e889045565a9 00000003 80000003 00000016 'the option has no data'",
        ),
        (
            "structured replies are granted",
            "'IHAVEOPT' 00000008 00000000",
            "0003e889045565a9 00000008 00000001 00000000",
        ),
        (
            "TLS is not known",
            "'IHAVEOPT' 00000005 00000000",
            "0003e889045565a9 00000005 80000001 00000027 'this server does not know the option'",
        ),
        (
            "nor metadata contexts",
            "'IHAVEOPT' 0000000a 00000002 0102",
            "0003e889045565a9 0000000a 80000001 00000027 'this server does not know the option'",
        ),
        (
            "all facts, when all are asked for",
            "'IHAVEOPT' 00000006 00000010 00000004 'data' 0003 0001 0002 0003",
            "0003e889045565a9 00000006 00000003 0000000c 0000 0000000000100000 0d6d
          0003e889045565a9 00000006 00000003 00000006 0001 'data'
          0003e889045565a9 00000006 00000003 0000000d 0002 'volume data'
          0003e889045565a9 00000006 00000003 0000000e 0003 00000200 00001000 02000000
          0003e889045565a9 00000006 00000001 00000000",
        ),
        (
            "the empty name is the default export; size and block sizes come unasked",
            "'IHAVEOPT' 00000007 00000006 00000000 0000",
            "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0d6d
          0003e889045565a9 00000007 00000003 0000000e 0003 00000200 00001000 02000000
          0003e889045565a9 00000007 00000001 00000000",
        ),
        (
            "an unknown export",
            "'IHAVEOPT' 00000007 0000000a 00000004 'nope' 0000",
            "0003e889045565a9 00000007 80000006 0000001f 'there is no export \"nope\" here'",
        ),
        (
            "a refused export is described",
            "'IHAVEOPT' 00000006 0000000a 00000004 'logs' 0000",
            "0003e889045565a9 00000006 00000003 0000000c 0000 0000000000100000 0d6d
          0003e889045565a9 00000006 00000003 0000000e 0003 00000200 00001000 02000000
          0003e889045565a9 00000006 00000001 00000000",
        ),
        (
            "but not opened",
            "'IHAVEOPT' 00000007 0000000a 00000004 'logs' 0000",
            "0003e889045565a9 00000007 80000002 00000028 'logs is Secondary here; alice is Primary'",
        ),
        (
            "a count of facts that lies is invalid, and the session goes on",
            "'IHAVEOPT' 00000007 0000000a 00000004 'data' 0007 'IHAVEOPT' 00000008 00000000",
            "0003e889045565a9 00000007 80000003 00000038 'the lengths inside the option do not add up to its own'
          0003e889045565a9 00000008 00000001 00000000",
        ),
        (
            "so is a name that is longer than its option",
            "'IHAVEOPT' 00000007 0000000a ffffffff 'data' 0000",
            "0003e889045565a9 00000007 80000003 00000038 'the lengths inside the option do not add up to its own'",
        ),
        (
            "and no data at all",
            "'IHAVEOPT' 00000007 00000000",
            "0003e889045565a9 00000007 80000003 00000038 'the lengths inside the option do not add up to its own'",
        ),
        (
            "a name with NUL",
            "'IHAVEOPT' 00000006 0000000a 00000004 'da' 00 'a' 0000",
            "0003e889045565a9 00000006 80000003 00000018 'a name has no NUL in it'",
        ),
        (
            "a name that is no text",
            "'IHAVEOPT' 00000006 0000000a 00000004 ff 'ata' 0000",
            "0003e889045565a9 00000006 80000003 0000000f 'a name is UTF-8'",
        ),
        ("abort is granted", "'IHAVEOPT' 00000002 00000000", "0003e889045565a9 00000002 00000001 00000000"),
    ];
    for (fact, client, server) in table {
        let mut session = session();
        feed(&mut session, hex("00000003"));
        let answer = sent(&feed(&mut session, hex(client)));
        let expected = with_true_lengths(&hex(server));
        assert_eq!(answer, expected, "{fact}");
        assert_eq!(session.is_closed(), fact.starts_with("abort"), "{fact}");
    }
}

/// Texts change; their lengths in the table above need not be counted anew.
fn with_true_lengths(transcript: &Bytes) -> Bytes {
    const MAGIC: &[u8] = &[0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9];
    let starts: Vec<usize> =
        (0..transcript.len()).filter(|&at| transcript[at..].starts_with(MAGIC)).chain([transcript.len()]).collect();
    let mut out = BytesMut::new();
    for pair in starts.windows(2) {
        out.put_slice(&transcript[pair[0]..pair[0] + 16]);
        out.put_u32((pair[1] - pair[0] - 20) as u32);
        out.put_slice(&transcript[pair[0] + 20..pair[1]]);
    }
    out.freeze()
}

#[test]
fn the_old_way_to_open_is_padded_unless_declined() {
    for (flags, padding) in [("00000001", 124), ("00000003", 0), ("00000000", 124)] {
        let mut session = session();
        feed(&mut session, hex(flags));
        let out = feed(&mut session, option(OptionKind::EXPORT_NAME, b"data"));
        let mut expected = BytesMut::from(&hex("0000000000100000 0d6d")[..]);
        expected.put_bytes(0, padding);
        assert_eq!(sent(&out), expected);
        assert_eq!(session.export().map(|export| export.name.as_str()), Some("data"));
    }
}

#[test]
fn structured_replies_bring_the_flag_for_one_chunk() {
    let mut session = session();
    feed(&mut session, hex("00000003"));
    feed(&mut session, option(OptionKind::STRUCTURED_REPLY, b""));
    let out = feed(&mut session, option(OptionKind::EXPORT_NAME, b""));
    assert_eq!(sent(&out), hex("0000000000100000 0ded"));
}

#[test]
fn a_negotiation_that_cannot_go_on_is_closed_with_its_reason() {
    let long_name = "x".repeat(5000);
    let many = option(OptionKind::LIST, b"").repeat(257);
    let table: [(&str, Bytes, &str); 9] = [
        ("00000004", Bytes::new(), "the client answered the greeting with flags 0x4"),
        ("00000003", hex("'IHAVEOPS' 00000003 00000000"), "magic 0x49484156454f5053"),
        ("00000003", hex("'IHAVEOPT' 00000003 ffffffff"), "option LIST of 4294967295 bytes"),
        ("00000003", request(CommandNumber::READ, CommandFlags::NONE, 1, 0, 512), "magic 0x25609513"),
        ("00000003", option(OptionKind::EXPORT_NAME, b"nope"), "export \"nope\", which is not here"),
        ("00000003", option(OptionKind::EXPORT_NAME, b"logs"), "refused: logs is Secondary here; alice is Primary"),
        ("00000003", option(OptionKind::EXPORT_NAME, long_name.as_bytes()), "4096 bytes at most, not 5000"),
        ("00000000", option(OptionKind::LIST, b""), "without offering to read replies"),
        ("00000003", many.into(), "more than 256 options"),
    ];
    for (flags, bytes, expected) in table {
        let mut session = session();
        let mut out = feed(&mut session, hex(flags));
        out.extend(feed(&mut session, bytes));
        let reason = closed(&out).to_string();
        assert!(reason.contains(expected), "{reason:?} does not contain {expected:?}");
        assert!(session.is_closed() && !closed(&out).is_orderly());
        assert_eq!(feed(&mut session, hex("00")), [], "nothing is read after the end");
    }
}

#[test]
fn a_long_option_is_skipped_and_refused() {
    let mut session = session();
    feed(&mut session, hex("00000003"));
    assert_eq!(feed(&mut session, hex("'IHAVEOPT' 00000007 00100000")), []);
    for _ in 0..15 {
        assert_eq!(feed(&mut session, vec![0; 65536]), []);
    }
    let mut last = BytesMut::zeroed(65536);
    last.put_slice(&option(OptionKind::ABORT, b""));
    let out = feed(&mut session, last.freeze());
    assert_eq!(sent(&out)[..16], hex("0003e889045565a9 00000007 80000009")[..]);
    assert_eq!(closed(&out), &CloseReason::Aborted);
}

#[test]
fn a_long_name_is_refused() {
    let mut session = session();
    feed(&mut session, hex("00000003"));
    let mut data = BytesMut::new();
    data.put_u32(4097);
    data.put_bytes(b'x', 4097);
    data.put_u16(0);
    let out = feed(&mut session, option(OptionKind::GO, &data));
    assert_eq!(sent(&out)[12..16], hex("80000003")[..]);
}

#[test]
fn a_read_is_answered_in_one_chunk_or_simply() {
    let data = Bytes::from(vec![7; 512]);
    let table = [
        (false, "67446698 00000000 000000000000002a"),
        (true, "668e33ef 0001 0001 000000000000002a 00000208 0000000000000400"),
    ];
    for (structured, header) in table {
        let mut session = opened(structured);
        let command = command(&feed(&mut session, request(CommandNumber::READ, CommandFlags::NONE, 42, 1024, 512)));
        assert_eq!(command.kind, CommandKind::Read { offset: 1024, bytes: 512 });
        let pieces = vec![data.slice(..100), data.slice(100..)];
        let mut out = BytesMut::new();
        let returned = session.reply(command.slot, Reply::Data(pieces), &mut out);
        assert_eq!((out.freeze(), session.in_flight()), (hex(header), 0));
        assert_eq!(returned.first().map(|piece| piece.as_ptr()), Some(data.as_ptr()), "data is not copied");
    }
}

#[test]
fn an_error_carries_words_when_it_can() {
    let table = [
        (false, "67446698 00000005 0000000000000001"),
        (true, "668e33ef 0001 8001 0000000000000001 0000000e 00000005 0008 'disk ill'"),
    ];
    for (structured, expected) in table {
        let mut session = opened(structured);
        let command = command(&feed(&mut session, request(CommandNumber::FLUSH, CommandFlags::NONE, 1, 0, 0)));
        let mut out = BytesMut::new();
        session.reply(command.slot, Reply::Error(NbdErrno::EIO, "disk ill".to_owned()), &mut out);
        assert_eq!(out.freeze(), hex(expected));
    }
}

#[test]
fn unknown_commands_and_refused_writes_keep_the_stream_in_step() {
    let mut session = opened(false);
    let mut bytes = BytesMut::new();
    bytes.put_slice(&request(CommandNumber(77), CommandFlags(0xffff), 1, u64::MAX, u32::MAX));
    bytes.put_slice(&request(CommandNumber::WRITE, CommandFlags::NONE, 2, MIB as u64, 4096));
    bytes.put_bytes(0xee, 4096);
    bytes.put_slice(&request(CommandNumber::FLUSH, CommandFlags::NONE, 3, 0, 0));
    let out = feed(&mut session, bytes.freeze());
    let errors = hex("67446698 00000016 0000000000000001 67446698 0000001c 0000000000000002");
    assert_eq!(sent(&out), errors);
    assert!(matches!(out.last(), Some(Output::Command(Command { cookie: 3, kind: CommandKind::Flush, .. }))));
}

#[test]
fn a_write_that_is_too_large_is_thrown_away_or_ends_the_session() {
    let mut session = opened(false);
    let large = 33 << 20;
    assert_eq!(feed(&mut session, request(CommandNumber::WRITE, CommandFlags::NONE, 9, 0, large)), []);
    assert_eq!(session.wants(), Wants { header_bytes_missing: large as usize, ..Wants::default() });
    let piece = Bytes::from(vec![0; MIB]);
    for _ in 0..32 {
        assert_eq!(feed(&mut session, piece.clone()), []);
    }
    assert_eq!(sent(&feed(&mut session, piece)), hex("67446698 00000016 0000000000000009"));
    let out = feed(&mut session, request(CommandNumber::WRITE, CommandFlags::NONE, 9, 0, u32::MAX));
    assert_eq!(closed(&out), &CloseReason::PayloadTooLong { bytes: u32::MAX });
}

#[test]
fn a_payload_inside_one_chunk_is_not_copied() {
    let mut session = opened(false);
    let mut bytes = BytesMut::from(&request(CommandNumber::WRITE, CommandFlags::FUA, 1, 512, 512)[..]);
    bytes.put_bytes(3, 512);
    let chunk = bytes.freeze();
    let CommandKind::Write { offset: 512, payload, fua: true } = command(&feed(&mut session, chunk.clone())).kind
    else {
        panic!("a write was sent");
    };
    assert_eq!((payload.as_ptr(), payload.len()), (chunk[28..].as_ptr(), 512));
}

#[test]
fn the_receiver_can_lay_out_a_payload() {
    let mut session = opened(false);
    assert_eq!(session.wants(), Wants { header_bytes_missing: 28, ..Wants::default() });
    let mut bytes = BytesMut::from(&request(CommandNumber::WRITE, CommandFlags::NONE, 1, 0, 4096)[..]);
    bytes.put_bytes(5, 100);
    feed(&mut session, bytes.split_to(20).freeze());
    assert_eq!(session.wants().header_bytes_missing, 8);
    feed(&mut session, bytes.freeze());
    let wants = Wants { header_bytes_missing: 0, payload_bytes_total: 4096, payload_bytes_here: 100 };
    assert_eq!(session.wants(), wants);
    let mut buffer = vec![6; 4096];
    assert_eq!(session.drain_payload(&mut buffer), 100);
    assert_eq!(session.wants().payload_bytes_here, 0);
    let chunk = Bytes::from(buffer);
    let CommandKind::Write { payload, .. } = command(&feed(&mut session, chunk.clone())).kind else {
        panic!("a write was sent");
    };
    assert_eq!((payload.as_ptr(), &payload[98..102]), (chunk.as_ptr(), &[5, 5, 6, 6][..]));
}

#[test]
fn equal_cookies_are_told_apart_by_their_slots() {
    let mut session = opened(true);
    let first = command(&feed(&mut session, request(CommandNumber::READ, CommandFlags::NONE, 5, 0, 512)));
    let second = command(&feed(&mut session, request(CommandNumber::READ, CommandFlags::NONE, 5, 512, 1024)));
    assert_ne!(first.slot, second.slot);
    let mut out = BytesMut::new();
    session.reply(second.slot, Reply::Data(vec![Bytes::from(vec![0; 1024])]), &mut out);
    session.reply(first.slot, Reply::Data(vec![Bytes::from(vec![0; 512])]), &mut out);
    let expected = "668e33ef 0001 0001 0000000000000005 00000408 0000000000000200
                    668e33ef 0001 0001 0000000000000005 00000208 0000000000000000";
    assert_eq!(out.freeze(), hex(expected));
}

#[test]
fn commands_in_flight_are_limited_in_number_and_bytes() {
    let table = [
        Limits { commands_in_flight_max: 2, ..Limits::default() },
        Limits { payload_bytes_in_flight_max: 1024, ..Limits::default() },
    ];
    for limits in table {
        let mut session = opened_with(false, limits);
        let mut flood = BytesMut::new();
        for cookie in 0..3 {
            flood.put_slice(&request(CommandNumber::READ, CommandFlags::NONE, cookie, 0, 512));
        }
        let out = feed(&mut session, flood.freeze());
        assert_eq!((out.len(), session.wants_pause(), session.in_flight()), (2, true, 2));
        session.reply(0, Reply::Error(NbdErrno::EIO, String::new()), &mut BytesMut::new());
        assert!(!session.wants_pause());
        assert_eq!(command(&feed(&mut session, Bytes::new())).cookie, 2, "what waited goes on");
    }
}

#[test]
fn replies_are_still_due_after_a_disconnect() {
    let mut session = opened(false);
    let flush = command(&feed(&mut session, request(CommandNumber::FLUSH, CommandFlags::NONE, 1, 0, 0)));
    let out = feed(&mut session, request(CommandNumber::DISC, CommandFlags::NONE, 2, 0, 0));
    let [Output::Command(disconnect), Output::Close(CloseReason::Disconnected)] = &out[..] else {
        panic!("a disconnect is told, then the end: {out:?}");
    };
    let mut replies = BytesMut::new();
    session.reply(flush.slot, Reply::Done, &mut replies);
    session.reply(disconnect.slot, Reply::Done, &mut replies);
    assert_eq!((replies.freeze(), session.in_flight()), (hex("67446698 00000000 0000000000000001"), 0));
}

#[test]
fn a_payload_that_stops_half_way_is_no_command() {
    let mut session = opened(false);
    feed(&mut session, request(CommandNumber::WRITE, CommandFlags::NONE, 1, 0, 4096));
    assert_eq!(feed(&mut session, vec![0; 4095]), []);
    assert_eq!((session.in_flight(), session.is_closed()), (0, false));
}

/// What the owner of a session does with a disk in memory; replies go out last command first.
struct Model {
    session: Session,
    disk: Vec<u8>,
}

impl Model {
    fn serve(&mut self, chunk: Bytes) -> Vec<u8> {
        let mut wire = Vec::new();
        self.session.push(chunk);
        loop {
            let mut out = Vec::new();
            self.session.handle(&shelf(), &mut out);
            self.session.check();
            let mut commands = Vec::new();
            for output in out {
                match output {
                    Output::Send(bytes) => wire.extend_from_slice(&bytes),
                    Output::Command(command) => commands.push(command),
                    Output::Opened(_) | Output::Close(_) => {}
                }
            }
            if commands.is_empty() {
                return wire;
            }
            let replies: Vec<(u32, Reply)> =
                commands.into_iter().map(|command| (command.slot, self.perform(command.kind))).collect();
            for (slot, reply) in replies.into_iter().rev() {
                let mut header = BytesMut::new();
                let pieces = self.session.reply(slot, reply, &mut header);
                wire.extend_from_slice(&header);
                pieces.iter().for_each(|piece| wire.extend_from_slice(piece));
            }
        }
    }

    fn perform(&mut self, kind: CommandKind) -> Reply {
        let disk = &mut self.disk;
        let range = |offset: u64, bytes: u64| offset as usize..(offset + bytes) as usize;
        match kind {
            CommandKind::Read { offset, bytes } => {
                let data = Bytes::copy_from_slice(&disk[range(offset, bytes.into())]);
                return Reply::Data(vec![data.slice(..100), data.slice(100..)]);
            }
            CommandKind::Write { offset, payload, .. } => {
                disk[range(offset, payload.len() as u64)].copy_from_slice(&payload);
            }
            CommandKind::Trim { offset, bytes, .. } | CommandKind::WriteZeroes { offset, bytes, .. } => {
                disk[range(offset, bytes)].fill(0);
            }
            CommandKind::Flush | CommandKind::Cache { .. } | CommandKind::Disconnect => {}
        }
        Reply::Done
    }
}

#[derive(Clone, Debug)]
enum Work {
    Read(u64, u32),
    Write(u64, u32, u8),
    Zeroes(u64, u32),
    Trim(u64, u32),
    Flush,
}

fn work() -> impl Strategy<Value = Work> {
    let place = || (0..130u64, 0..40u32).prop_map(|(offset, count)| (offset * 8192, count * 512));
    prop_oneof![
        place().prop_map(|(offset, bytes)| Work::Read(offset, bytes)),
        (place(), any::<u8>()).prop_map(|((offset, bytes), fill)| Work::Write(offset, bytes, fill)),
        place().prop_map(|(offset, bytes)| Work::Zeroes(offset, bytes)),
        place().prop_map(|(offset, bytes)| Work::Trim(offset, bytes)),
        Just(Work::Flush),
    ]
}

fn in_range(offset: u64, bytes: u32) -> bool {
    bytes > 0 && offset + u64::from(bytes) <= MIB as u64
}

/// Sends `bytes` to the server in chunks of the given sizes, taken round and round, and the answers back likewise.
fn talk(
    client: &mut Client,
    model: &mut Model,
    bytes: &[u8],
    sizes: &[usize],
    next: &mut usize,
    events: &mut Vec<ClientEvent>,
) {
    let mut size = || {
        *next += 1;
        sizes[*next % sizes.len()]
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(size().min(rest.len()));
        rest = later;
        let answer = model.serve(Bytes::copy_from_slice(chunk));
        let mut answer = &answer[..];
        while !answer.is_empty() {
            let (chunk, later) = answer.split_at(size().min(answer.len()));
            answer = later;
            client.push(Bytes::copy_from_slice(chunk));
            client.handle(events).expect("our server is sane");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn client_and_server_agree_on_a_disk(works in prop::collection::vec(work(), 1..20),
                                         sizes in prop::collection::vec(1..9000usize, 1..6)) {
        let (mut client, hello) = Client::connect_bytes("data");
        let mut greeting = Vec::new();
        let mut model = Model { session: Session::new(Limits::default()), disk: vec![0; MIB] };
        model.session.greeting(&mut greeting);
        let (mut events, mut next) = (Vec::new(), 0);
        client.push(sent(&greeting));
        client.handle(&mut events).expect("our server is sane");
        talk(&mut client, &mut model, &hello, &sizes, &mut next, &mut events);
        prop_assert_eq!(events.pop(), Some(ClientEvent::Ready { bytes: MIB as u64, flags: 0x0ded }));
        let mut oracle = vec![0; MIB];
        for (cookie, work) in works.into_iter().enumerate() {
            let cookie = cookie as u64;
            let mut out = BytesMut::new();
            let mut fill = |offset: u64, bytes: u32, value: u8| {
                let fits = in_range(offset, bytes);
                if fits {
                    oracle[offset as usize..][..bytes as usize].fill(value);
                }
                fits
            };
            let expected = match work {
                Work::Read(offset, bytes) => {
                    client.read(cookie, offset, bytes, &mut out);
                    in_range(offset, bytes).then(|| oracle[offset as usize..][..bytes as usize].to_vec())
                }
                Work::Write(offset, bytes, value) => {
                    client.write(cookie, offset, &vec![value; bytes as usize], value % 2 == 0, &mut out);
                    fill(offset, bytes, value).then(Vec::new)
                }
                Work::Zeroes(offset, bytes) => {
                    client.zeroes(cookie, offset, bytes, true, false, &mut out);
                    fill(offset, bytes, 0).then(Vec::new)
                }
                Work::Trim(offset, bytes) => {
                    client.trim(cookie, offset, bytes, false, &mut out);
                    fill(offset, bytes, 0).then(Vec::new)
                }
                Work::Flush => {
                    client.flush(cookie, &mut out);
                    Some(Vec::new())
                }
            };
            talk(&mut client, &mut model, &out, &sizes, &mut next, &mut events);
            let Some(ClientEvent::Reply { cookie: answered, result }) = events.pop() else {
                panic!("every request is answered");
            };
            prop_assert_eq!((answered, result.ok().map(|data| data.to_vec())), (cookie, expected));
        }
        prop_assert_eq!((model.disk, client.in_flight()), (oracle, 0));
    }
}

/// Fragments that lead somewhere, so that random sessions reach all states.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![0..13u32, any::<u32>(), Just(u32::MAX)];
    prop_oneof![
        Just(hex("00000003").to_vec()),
        prop::collection::vec(any::<u8>(), 0..64),
        (number(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| option(OptionKind(kind), &data).to_vec()),
        (number(), number()).prop_map(|(kind, bytes)| {
            let mut out = BytesMut::new();
            OptionHeader { kind: OptionKind(kind), bytes }.encode(&mut out);
            out.to_vec()
        }),
        Just(option(OptionKind::STRUCTURED_REPLY, b"").to_vec()),
        Just(option(OptionKind::EXPORT_NAME, b"data").to_vec()),
        Just(option(OptionKind::GO, &hex("00000004 'data' 0001 0003")).to_vec()),
        (0..9u16, 0..40u16, 0..4u64, 0..4u32).prop_map(|(command, flags, offset, count)| {
            let (command, flags) = (CommandNumber(command), CommandFlags(flags));
            let mut bytes = request(command, flags, offset, offset * 512, count * 512).to_vec();
            if command == CommandNumber::WRITE {
                bytes.extend(vec![1; count as usize * 512]);
            }
            bytes
        }),
        (any::<u16>(), any::<u16>(), any::<u64>(), any::<u32>()).prop_map(|(command, flags, offset, bytes)| {
            request(CommandNumber(command), CommandFlags(flags), 0, offset, bytes).to_vec()
        }),
    ]
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(fragment(), 0..12).prop_map(|parts| parts.concat());
    let opening = prop_oneof![
        Just(Vec::new()),
        Just([&hex("00000003")[..], &option(OptionKind::EXPORT_NAME, b"data")].concat()),
        Just(hex("00000001").to_vec()),
    ];
    (opening, body).prop_map(|(opening, body)| [opening, body].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_in_any_chunks_give_the_same_outputs(bytes in hostile(),
                                                     sizes in prop::collection::vec(1..700usize, 1..6)) {
        let mut whole = session();
        let expected = feed(&mut whole, bytes.clone());
        let mut pieces = session();
        let mut actual = Vec::new();
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, later) = rest.split_at((*size).min(rest.len()));
            rest = later;
            actual.extend(feed(&mut pieces, chunk.to_vec()));
        }
        prop_assert_eq!(actual, expected);
        prop_assert_eq!((whole.is_closed(), whole.wants()), (pieces.is_closed(), pieces.wants()));
    }

    #[test]
    fn no_server_makes_the_client_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200),
                                        chunks in prop::collection::vec((0..7u16, 0..3u16, 0..2u64, 0..600u32), 0..6)) {
        let (mut client, _) = Client::connect_bytes("data");
        let mut out = BytesMut::new();
        client.read(0, 512, 512, &mut out);
        client.read(1, u64::MAX, u32::MAX, &mut out);
        let mut wire = hex("'NBDMAGICIHAVEOPT' 0003
                            0003e889045565a9 00000008 80000001 00000000
                            0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0d6d
                            0003e889045565a9 00000007 00000001 00000000").to_vec();
        for (kind, flags, cookie, length) in chunks {
            let mut chunk = BytesMut::new();
            let kind = if kind > 4 { kind + 0x7ffc } else { kind };
            let (kind, flags) = (wire::ChunkKind(kind), wire::ChunkFlags(flags));
            wire::ChunkHeader { flags, kind, cookie, bytes: length }.encode(&mut chunk);
            chunk.put_u64(512);
            chunk.put_bytes(0, length.saturating_sub(8) as usize);
            wire.extend_from_slice(&chunk);
        }
        wire.append(&mut bytes);
        client.push(wire.into());
        let _ = client.handle(&mut Vec::new());
    }
}
