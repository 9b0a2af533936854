//! Arbitrary bytes as lines of the admin socket: what is understood is written so that it is understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shimai::control::{decode_request, decode_response, encode};

fuzz_target!(|input: &[u8]| {
    match decode_request(input) {
        Ok(request) => assert_eq!(decode_request(&encode(&request)), Ok(request), "a request comes back as it went"),
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal has words"),
    }
    if let Ok(response) = decode_response(input) {
        let line = encode(&response);
        let again = decode_response(&line).expect("our own response is understood");
        assert_eq!(encode(&again), line, "a response comes back as it went");
    }
});
