//! Random sessions: on a model disk, cut into any chunks, with hostile bytes.

use proptest::prelude::*;

use super::*;

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
