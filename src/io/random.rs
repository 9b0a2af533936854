//! Random numbers from the kernel, for generation ids, nonces and seeds. The machines get them as arguments.

use std::io;

/// Fills `bytes` with random bytes.
///
/// # Errors
/// The kernel has no random source (a filter that forbids `getrandom`).
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // SAFETY: `rest` is exclusively borrowed and the kernel writes at most `rest.len()` bytes during the call.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// A random number.
///
/// # Errors
/// As [`fill_random`].
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_differ_and_no_byte_is_left_out() {
        assert_ne!(random_u64().unwrap(), random_u64().unwrap());
        let mut seen = [0u8; 600];
        for _ in 0..8 {
            let mut bytes = [0u8; 600];
            fill_random(&mut bytes).unwrap();
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        assert!(seen.iter().all(|byte| *byte != 0));
    }
}
