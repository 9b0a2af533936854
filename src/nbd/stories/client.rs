//! Our client and servers that are not ours.

use super::*;

const OPENING: &str = "'NBDMAGICIHAVEOPT' 0003
    0003e889045565a9 00000008 00000001 00000000
    0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0d6d
    0003e889045565a9 00000007 00000001 00000000";

fn heard(client: &mut Client, transcript: &str) -> Result<Vec<ClientEvent>, ClientError> {
    let mut events = Vec::new();
    client.push(hex(transcript));
    client.handle(&mut events).map(|()| events)
}

fn ready() -> Client {
    let (mut client, _) = Client::connect_bytes("data");
    let events = heard(&mut client, OPENING).expect("the server is sane");
    assert_eq!(events, [ClientEvent::Ready { bytes: MIB as u64, flags: 0x0d6d }]);
    client
}

/// A client that reads 1024 bytes at 512 under cookie 7.
fn reading() -> Client {
    let mut client = ready();
    client.read(7, 512, 1024, &mut BytesMut::new());
    client
}

fn read_result(transcript: &str) -> Result<Result<Bytes, (u32, String)>, ClientError> {
    let mut client = reading();
    match &heard(&mut client, transcript)?[..] {
        [ClientEvent::Reply { cookie: 7, result }] => Ok(result.clone()),
        other => panic!("one reply was expected: {other:?}"),
    }
}

/// A transcript with a run of `count` equal bytes behind it.
fn then(transcript: &str, byte: u8, count: usize) -> String {
    format!("{transcript} {}", format!("{byte:02x}").repeat(count))
}

#[test]
fn what_is_sent_first_asks_for_structured_replies_and_opens() {
    let (_, hello) = Client::connect_bytes("data");
    let expected = "00000001 'IHAVEOPT' 00000008 00000000
                    'IHAVEOPT' 00000007 0000000c 00000004 'data' 0001 0003";
    assert_eq!(hello, hex(expected));
}

#[test]
fn requests_have_their_bytes() {
    let mut client = ready();
    let mut out = BytesMut::new();
    client.write(1, 512, b"abcd", true, &mut out);
    client.zeroes(2, 0, 4096, false, false, &mut out);
    client.trim(3, 0, 4096, false, &mut out);
    client.flush(4, &mut out);
    client.disconnect(&mut out);
    let expected = "25609513 0001 0001 0000000000000001 0000000000000200 00000004 'abcd'
                    25609513 0002 0006 0000000000000002 0000000000000000 00001000
                    25609513 0000 0004 0000000000000003 0000000000000000 00001000
                    25609513 0000 0003 0000000000000004 0000000000000000 00000000
                    25609513 0000 0002 0000000000000000 0000000000000000 00000000";
    assert_eq!((out.freeze(), client.in_flight()), (hex(expected), 4));
}

#[test]
fn a_server_without_structured_replies_will_do() {
    let data = read_result(&then("67446698 00000000 0000000000000007", 3, 1024));
    assert_eq!(data, Ok(Ok(Bytes::from(vec![3; 1024]))));
    let error = read_result("67446698 00000005 0000000000000007");
    assert_eq!(error, Ok(Err((5, String::new()))));
}

#[test]
fn a_read_may_come_in_pieces_out_of_order_and_with_holes() {
    let late = then("668e33ef 0000 0001 0000000000000007 00000208 0000000000000400", 4, 512);
    let hole = "668e33ef 0001 0002 0000000000000007 0000000c 0000000000000200 00000200";
    let data = read_result(&format!("{late} {hole}"));
    assert_eq!(data, Ok(Ok([vec![0; 512], vec![4; 512]].concat().into())));
}

#[test]
fn an_error_chunk_wins_over_data() {
    let part = then("668e33ef 0000 0001 0000000000000007 00000208 0000000000000200", 4, 512);
    let error = "668e33ef 0000 8002 0000000000000007 00000011 00000005 0003 'ill' 0000000000000400
                 668e33ef 0001 0000 0000000000000007 00000000";
    assert_eq!(read_result(&format!("{part} {error}")), Ok(Err((5, "ill".to_owned()))));
}

#[test]
fn a_server_that_answers_wrongly_is_found_out() {
    let twice = then("668e33ef 0000 0001 0000000000000007 00000208 0000000000000200", 4, 512);
    let whole = then("668e33ef 0000 0001 0000000000000007 00000408 0000000000000200", 4, 1024);
    let overlap = then("668e33ef 0000 0001 0000000000000007 00000009 0000000000000201", 4, 1);
    let table = [
        (then("668e33ef 0001 0001 0000000000000007 00000208 0000000000000200", 4, 512), ClientError::MissingData(7)),
        (then("668e33ef 0001 0001 0000000000000007 00000208 0000000000000600", 4, 512), ClientError::UnwantedData(7)),
        (format!("{twice} {twice}"), ClientError::UnwantedData(7)),
        (format!("{whole} {overlap}"), ClientError::UnwantedData(7)),
        ("668e33ef 0001 0001 0000000000000007 ffffffff".to_owned(), ClientError::BadLength(u32::MAX)),
        ("668e33ef 0001 8001 0000000000000007 00000006 00000005 0003".to_owned(), ClientError::BadLength(6)),
        ("668e33ef 0001 0009 0000000000000007 00000000".to_owned(), ClientError::UnknownChunk(wire::ChunkKind(9))),
        ("67446698 00000000 0000000000000008".to_owned(), ClientError::UnknownCookie(8)),
    ];
    for (transcript, expected) in table {
        assert_eq!(read_result(&transcript), Err(expected));
    }
}

#[test]
fn a_refusal_reaches_the_caller_in_words() {
    let (mut client, hello) = Client::connect_bytes("logs");
    let mut session = session();
    let answer = sent(&feed(&mut session, hello));
    client.push(hex("'NBDMAGICIHAVEOPT' 0003"));
    client.push(answer);
    let error = client.handle(&mut Vec::new()).expect_err("logs is refused");
    let expected = "the server refused the export with ERR_POLICY: logs is Secondary here; alice is Primary";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_server_of_the_old_style_is_no_server_for_us() {
    let (mut client, _) = Client::connect_bytes("");
    assert_eq!(heard(&mut client, "'NBDMAGICIHAVEOPT' 0002"), Err(ClientError::NotFixedNewstyle));
    let (mut client, _) = Client::connect_bytes("");
    assert!(matches!(heard(&mut client, "'NBDMAGIC' 0000420281861253 0000"), Err(ClientError::Malformed(_))));
}
