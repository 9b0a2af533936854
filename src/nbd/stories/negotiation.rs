//! Options and their answers, byte by byte.

use super::*;

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
            "0003e889045565a9 00000005 80000001 00000024 'this server does not know the option'",
        ),
        (
            "nor metadata contexts",
            "'IHAVEOPT' 0000000a 00000002 0102",
            "0003e889045565a9 0000000a 80000001 00000024 'this server does not know the option'",
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
            "0003e889045565a9 00000007 80000006 0000001e 'there is no export \"nope\" here'",
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
            "0003e889045565a9 00000007 80000003 00000036 'the lengths inside the option do not add up to its own'
          0003e889045565a9 00000008 00000001 00000000",
        ),
        (
            "and one that is too small",
            "'IHAVEOPT' 00000007 0000000c 00000004 'data' 0000 0003",
            "0003e889045565a9 00000007 80000003 00000036 'the lengths inside the option do not add up to its own'",
        ),
        (
            "so is a name that is longer than its option",
            "'IHAVEOPT' 00000007 0000000a ffffffff 'data' 0000",
            "0003e889045565a9 00000007 80000003 00000036 'the lengths inside the option do not add up to its own'",
        ),
        (
            "and no data at all",
            "'IHAVEOPT' 00000007 00000000",
            "0003e889045565a9 00000007 80000003 00000036 'the lengths inside the option do not add up to its own'",
        ),
        (
            "a name with NUL",
            "'IHAVEOPT' 00000006 0000000a 00000004 'da' 00 'a' 0000",
            "0003e889045565a9 00000006 80000003 00000017 'a name has no NUL in it'",
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
        assert_eq!(answer, hex(server), "{fact}");
        assert_eq!(session.is_closed(), fact.starts_with("abort"), "{fact}");
    }
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
fn the_last_option_allowed_may_open() {
    let mut session = session();
    feed(&mut session, hex("00000003"));
    feed(&mut session, option(OptionKind::STRUCTURED_REPLY, b"").repeat(255));
    feed(&mut session, option(OptionKind::EXPORT_NAME, b"data"));
    assert!(session.export().is_some());
}
