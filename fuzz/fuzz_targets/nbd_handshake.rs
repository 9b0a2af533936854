//! Arbitrary bytes as a client that negotiates: no panic, bounded answers, silence after the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shimai::nbd::session::{Limits, Output, Session};
use shimai_fuzz::script::steps;
use shimai_fuzz::shelf::Shelf;

fuzz_target!(|input: &[u8]| {
    let (mut session, mut outputs) = (Session::new(Limits::default()), Vec::new());
    session.greeting(&mut outputs);
    for step in steps(input) {
        outputs.clear();
        let was_closed = session.is_closed();
        session.push(step.bytes);
        session.handle(&Shelf, &mut outputs);
        session.check();
        assert!(!was_closed || outputs.is_empty(), "a session that is over says nothing");
        let ends = outputs.iter().filter(|output| matches!(output, Output::Close(_))).count();
        assert!(ends <= 1, "a session ends once");
    }
});
