//! Arbitrary bytes as a peer's stream, in arbitrary chunks: packets or an error, the same error for ever.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use shimai::wire::framing::{Features, PROTOCOL_MAX, PROTOCOL_MIN, PacketReader, Stream};
use shimai_fuzz::script::steps;

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, version, features, digest], script)) = input.split_first_chunk::<4>() else { return };
    let stream = if kind & 1 == 0 { Stream::Data } else { Stream::Meta };
    let version = PROTOCOL_MIN + u32::from(version) % (PROTOCOL_MAX - PROTOCOL_MIN + 1);
    let features = if version < 100 { Features::NONE } else { Features(u32::from(features & 0xf)) };
    let mut reader = PacketReader::new(stream);
    if kind & 2 != 0 {
        reader.agree(version, features);
        reader.set_digest_bytes(usize::from(digest % 65));
    }
    let mut out = BytesMut::new();
    for step in steps(script) {
        if step.which == 0xff {
            reader.agree(version, features);
        }
        reader.push(step.bytes);
        loop {
            match reader.next() {
                Ok(Some((volume, packet))) => {
                    let is_ours =
                        kind & 2 != 0 && packet.supported(version, features) && (version >= 100 || volume.0 == 0);
                    if is_ours {
                        out.clear();
                        let _ = packet.encode(version, features, volume, &mut out);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next(), Err(error), "an error stays");
                    return;
                }
            }
        }
        let _ = reader.wants();
    }
});
