//! Requests, commands and replies.

use super::*;

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
    for bytes in [(64 << 20) + 1, u32::MAX] {
        let mut session = opened(false);
        let out = feed(&mut session, request(CommandNumber::WRITE, CommandFlags::NONE, 9, 0, bytes));
        assert_eq!(closed(&out), &CloseReason::PayloadTooLong { bytes });
    }
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
fn a_session_that_is_allowed_nothing_takes_one_command_after_another() {
    let mut session = opened(false);
    let mut flood = BytesMut::new();
    for cookie in 0..4 {
        flood.put_slice(&request(CommandNumber::READ, CommandFlags::NONE, cookie, 0, 512));
    }
    session.allow(0);
    assert_eq!(command(&feed(&mut session, flood.freeze())).cookie, 0);
    assert_eq!((session.wants_pause(), session.payload_bytes_held()), (true, 512));
    session.reply(0, Reply::Error(NbdErrno::EIO, String::new()), &mut BytesMut::new());
    assert_eq!(command(&feed(&mut session, Bytes::new())).cookie, 1);
    session.allow(1024);
    assert_eq!(command(&feed(&mut session, Bytes::new())).cookie, 2, "and two where there is room");
    assert_eq!((session.wants_pause(), session.payload_bytes_held()), (true, 1024));
    session.allow(u64::MAX);
    assert_eq!(command(&feed(&mut session, Bytes::new())).cookie, 3);
    session.check();
}

#[test]
fn a_payload_is_held_from_its_first_byte_on() {
    let mut session = opened(false);
    feed(&mut session, request(CommandNumber::WRITE, CommandFlags::NONE, 1, 0, 4096));
    assert_eq!(session.payload_bytes_held(), 4096);
    command(&feed(&mut session, vec![0; 4096]));
    assert_eq!(session.payload_bytes_held(), 4096);
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
