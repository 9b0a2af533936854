//! Arbitrary bytes as a server, to our client with requests in flight.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use shimai::nbd::client::Client;
use shimai_fuzz::script::steps;

fuzz_target!(|input: &[u8]| {
    let (mut client, _) = Client::connect_bytes("data");
    let (mut events, mut out) = (Vec::new(), BytesMut::new());
    for (cookie, step) in (0..).zip(steps(input)) {
        out.clear();
        match step.which {
            1 => client.read(cookie, 4096, 4096, &mut out),
            2 => client.flush(cookie, &mut out),
            3 => client.write(cookie, 0, &[0; 512], false, &mut out),
            _ => {}
        }
        client.push(step.bytes);
        events.clear();
        if client.handle(&mut events).is_err() {
            return;
        }
    }
});
