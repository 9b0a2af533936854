//! Received bytes that were not consumed yet, in the chunks they came in.
//!
//! What lies inside one chunk is handed out as a slice of it; only what spans chunks is copied, once.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// A queue of bytes. No chunk in it is empty.
#[derive(Debug, Default)]
pub(super) struct Rope {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Rope {
    /// Appends a chunk.
    pub(super) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Bytes in the rope.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Copies the first `N` bytes and leaves them where they are, if there are so many.
    pub(super) fn peek_array<const N: usize>(&self) -> Option<[u8; N]> {
        let mut array = [0; N];
        let mut bytes = self.chunks.iter().flat_map(|chunk| chunk.iter());
        for place in &mut array {
            *place = *bytes.next()?;
        }
        Some(array)
    }

    /// Takes the first `N` bytes by value, if there are so many.
    pub(super) fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.bytes < N {
            return None;
        }
        let mut array = [0; N];
        let filled = self.drain_into(&mut array);
        assert_eq!(filled, N, "a rope holds as many bytes as it counts");
        Some(array)
    }

    /// Takes the first `count` bytes, if there are so many: a slice of their chunk when they lie in one.
    pub(super) fn take(&mut self, count: usize) -> Option<Bytes> {
        if self.bytes < count {
            return None;
        }
        if let Some(front) = self.chunks.front_mut()
            && front.len() >= count
        {
            let taken = front.split_to(count);
            self.bytes -= count;
            self.drop_empty_front();
            return Some(taken);
        }
        let mut assembled = BytesMut::zeroed(count);
        let filled = self.drain_into(&mut assembled);
        assert_eq!(filled, count, "a rope holds as many bytes as it counts");
        Some(assembled.freeze())
    }

    /// Drops up to `count` bytes and says how many.
    pub(super) fn skip(&mut self, count: u64) -> u64 {
        let mut left = count;
        while left > 0
            && let Some(front) = self.chunks.front_mut()
        {
            let part = front.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            front.advance(part);
            self.bytes -= part;
            left -= part as u64;
            self.drop_empty_front();
        }
        count - left
    }

    /// Moves bytes out until `target` is full or the rope is empty, and says how many.
    pub(super) fn drain_into(&mut self, target: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(front) = self.chunks.front_mut()
            && let Some(rest) = target.get_mut(filled..)
            && !rest.is_empty()
        {
            let part = front.len().min(rest.len());
            front.copy_to_slice(&mut rest[..part]);
            self.bytes -= part;
            filled += part;
            self.drop_empty_front();
        }
        filled
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
    }

    fn drop_empty_front(&mut self) {
        if self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(chunks: &[&'static str]) -> Rope {
        let mut rope = Rope::default();
        for chunk in chunks {
            rope.push(Bytes::from_static(chunk.as_bytes()));
        }
        rope
    }

    #[test]
    fn what_lies_in_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"abcdef");
        let mut rope = Rope::default();
        rope.push(chunk.clone());
        assert_eq!(rope.skip(1), 1);
        let taken = rope.take(3).expect("five bytes are left");
        assert_eq!(taken.as_ptr(), chunk.slice(1..).as_ptr());
        assert_eq!(rope.len(), 2);
    }

    #[test]
    fn what_spans_chunks_is_assembled() {
        let mut rope = rope(&["ab", "", "c", "defg"]);
        assert_eq!(rope.take(8), None);
        assert_eq!(rope.take(5).as_deref(), Some(&b"abcde"[..]));
        assert_eq!((rope.peek_array::<2>(), rope.peek_array::<3>()), (Some(*b"fg"), None));
        assert_eq!(rope.take_array::<2>(), Some(*b"fg"));
        assert_eq!((rope.len(), rope.take(0).as_deref(), rope.take(1)), (0, Some(&b""[..]), None));
    }

    #[test]
    fn a_skip_says_how_far_it_came() {
        let mut rope = rope(&["ab", "cd"]);
        assert_eq!((rope.skip(3), rope.skip(u64::MAX), rope.len()), (3, 1, 0));
    }
}
