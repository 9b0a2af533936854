//! The one clock: nanoseconds since boot, counting the time the machine was suspended.
//!
//! `CLOCK_BOOTTIME` and not `CLOCK_MONOTONIC`: a lease that slept through a suspend must be seen to have ended.
//! Nothing in the program may ask for the time of day to decide anything; people read it.

use nix::time::{ClockId, clock_gettime};

use crate::model::time::Instant;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// The instant of this call.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every kernel that has io_uring has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(NANOSECONDS_PER_SECOND).saturating_add(nanoseconds))
}

/// The time of day, since the beginning of 1970 (UTC): for people to read, and for nothing else.
#[must_use]
pub fn time_of_day() -> std::time::Duration {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("every kernel has CLOCK_REALTIME");
    std::time::Duration::from(time)
}

/// Lets time pass on this thread. Only helper threads that ask the system again and again may use it; whoever can wait for
/// an event does.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that sleeps; the kernel has no event for what is waited for"
)]
pub fn pause(duration: std::time::Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let mut last = now();
        assert!(last.as_nanos() > 0);
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
