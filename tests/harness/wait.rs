//! Waiting for a condition, with a deadline and a sentence about what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// For what takes a fraction of a second on an idle machine; a disk may need twenty seconds for a flush at times.
pub(crate) const SHORT: Duration = Duration::from_secs(90);
/// For what moves data or waits for timeouts of the link.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `look` gives a value.
///
/// # Panics
/// After `limit`, with what was waited for and what the last look saw instead.
pub(crate) fn until<T, S: Display>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, S>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if begin.elapsed() > limit => {
                panic!("not within {} s: {what}; last seen: {seen}", limit.as_secs())
            }
            Err(_) => pause(),
        }
    }
}

/// Lets others run between two looks.
#[expect(clippy::disallowed_methods, reason = "the one pause: between two looks at a condition that has a deadline")]
pub(super) fn pause() {
    std::thread::sleep(PAUSE);
}
