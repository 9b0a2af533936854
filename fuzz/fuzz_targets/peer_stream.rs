//! A peer that says anything, on two sockets, to a live resource with a disk, applications and an operator.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use shimai::replica::event::Command;
use shimai_fuzz::host::{BLOCKS, Host};
use shimai_fuzz::script::{Step, steps};

fuzz_target!(|input: &[u8]| {
    let mut host = Host::new();
    let mut sockets = [host.accept(), host.accept()];
    for Step { which, bytes } in steps(input) {
        let argument = bytes.first().copied().unwrap_or(0);
        match which {
            0 | 1 => host.receive(sockets[usize::from(which)], bytes),
            2 => host.wait(Duration::from_millis(u64::from(argument) * 50)),
            3 => bytes.chunks(2).for_each(|pair| {
                host.request(u64::from(pair[0]) % BLOCKS, pair.last().copied().unwrap_or(0));
            }),
            4 => host.close(sockets[usize::from(argument & 1)]),
            5 => sockets = [host.accept(), host.accept()],
            6 => host.command(command(argument)),
            _ => {}
        }
    }
});

fn command(number: u8) -> Command {
    match number {
        0 => Command::Primary { force: false },
        1 => Command::Primary { force: true },
        2 => Command::Secondary,
        3 => Command::Disconnect { force: false },
        4 => Command::Disconnect { force: true },
        5 => Command::Connect { discard_my_data: false },
        6 => Command::Connect { discard_my_data: true },
        7 => Command::Invalidate { volume: 0 },
        8 => Command::InvalidateRemote { volume: 0 },
        9 => Command::Outdate { volume: 0 },
        10 => Command::PauseSync { volume: 0 },
        11 => Command::ResumeSync { volume: 0 },
        12 => Command::SuspendIo,
        13 => Command::ResumeIo,
        14 => Command::NewCurrentUuid { volume: 0, clear_bitmap: false },
        15 => Command::NewCurrentUuid { volume: 0, clear_bitmap: true },
        16 => Command::Detach { volume: 0, force: false },
        17 => Command::WaitConnect,
        18 => Command::WaitSync { volume: 0 },
        _ => Command::Down,
    }
}
