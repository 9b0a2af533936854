//! A whole bitmap as a sequence of packets, sent and received.
//!
//! No packet says where it belongs: each begins where the last ended, so both ends keep a position. Runs may end at any
//! bit; words begin at a multiple of 64. Plain words after runs go back to the last such multiple.
//!
//! ```text
//! ... runs, to the last bit                     end: nothing follows
//! ... words, with the last word | no words      end: an empty packet says so
//! ```
//!
//! Invariants: a piece never goes beyond the bitmap; a transfer ends exactly at the last bit.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::bitmap_rle::{self, BitSource, RleError};
use super::command::HEAD_BYTES_MAX;
use super::framing::header_bytes;
use super::packet::Packet;

const WORD_BITS: u64 = 64;
const WORD_BYTES: usize = 8;
/// The first version with runs.
const RLE_VERSION_MIN: u32 = 90;

/// A bitmap that can be read by words.
pub trait WordSource: BitSource {
    /// Word `index`: bits `64 * index` (the lowest) and up. Bits beyond the end are clear.
    fn word(&self, index: u64) -> u64;
}

/// A bitmap into which a peer's is merged.
pub trait BitSink {
    /// Sets the bits from `first` to `end` exclusive.
    fn set(&mut self, first: u64, end: u64);
    /// Sets the bits that are set in `words`, bytes in wire order (8 a word), from word `first_word` on. Bits beyond the end
    /// of the bitmap are to be ignored.
    fn merge_words(&mut self, first_word: u64, words: &[u8]);
}

/// The peer's bitmap is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BitmapError {
    /// Plain words are as many as fit, or the rest.
    #[error("receive_bitmap_plain:want ({want}) != size ({size})")]
    PlainSize {
        /// Bytes due.
        want: usize,
        /// Bytes that came.
        size: usize,
    },
    /// A bad run.
    #[error(transparent)]
    Rle(#[from] RleError),
    /// Something else in the middle of a bitmap, or a bitmap after its end.
    #[error("unexpected packet in a bitmap transfer")]
    Unexpected,
}

/// Largest payload of a bitmap packet.
fn piece_bytes_max(version: u32) -> usize {
    HEAD_BYTES_MAX as usize - header_bytes(version)
}

/// Where the next piece begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    bits: u64,
    bit: u64,
    word: u64,
    words_in_piece_max: u64,
}

impl Cursor {
    fn new(bits: u64, version: u32) -> Self {
        let words_in_piece_max = (piece_bytes_max(version) / WORD_BYTES) as u64;
        Self { bits, bit: 0, word: 0, words_in_piece_max }
    }

    fn at_end(&self) -> bool {
        self.bit >= self.bits
    }

    /// Words of the next plain piece.
    fn words_due(&self) -> u64 {
        (self.bits.div_ceil(WORD_BITS) - self.word).min(self.words_in_piece_max)
    }

    fn after_words(&mut self, words: u64) {
        self.word += words;
        self.bit = (self.word * WORD_BITS).min(self.bits);
    }

    fn after_runs(&mut self, end: u64) {
        self.bit = end;
        self.word = end / WORD_BITS;
    }
}

/// Cuts a bitmap into packets. Bits that change meanwhile are sent as they are when their piece is made.
#[derive(Clone, Debug)]
pub struct BitmapSender {
    cursor: Cursor,
    version: u32,
    use_rle: bool,
    done: bool,
}

impl BitmapSender {
    /// A transfer of `bits` bits; runs only if wanted and the version has them.
    #[must_use]
    pub fn new(bits: u64, version: u32, use_rle: bool) -> Self {
        let use_rle = use_rle && version >= RLE_VERSION_MIN;
        Self { cursor: Cursor::new(bits, version), version, use_rle, done: false }
    }

    /// The next packet; `None` after the last.
    ///
    /// # Panics
    /// If `source` has another size than the transfer.
    pub fn next(&mut self, source: &(impl WordSource + ?Sized)) -> Option<Packet> {
        assert_eq!(source.bits(), self.cursor.bits, "a bitmap keeps its size during a transfer");
        if self.done {
            return None;
        }
        match self.next_runs(source) {
            Some(payload) => {
                self.done = self.cursor.at_end();
                Some(Packet::CompressedBitmap(payload))
            }
            None => Some(Packet::Bitmap(self.next_words(source))),
        }
    }

    /// Whether everything has been given out.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn next_runs(&mut self, source: &(impl WordSource + ?Sized)) -> Option<Bytes> {
        if !self.use_rle {
            return None;
        }
        let (payload, end) = bitmap_rle::encode_runs(source, self.cursor.bit, piece_bytes_max(self.version))?;
        self.cursor.after_runs(end);
        Some(payload)
    }

    fn next_words(&mut self, source: &(impl WordSource + ?Sized)) -> Bytes {
        let count = self.cursor.words_due();
        let first = self.cursor.word;
        let mut words = BytesMut::with_capacity(count as usize * WORD_BYTES);
        for index in first..first + count {
            words.put_u64_le(source.word(index));
        }
        self.cursor.after_words(count);
        self.done = count == 0;
        words.freeze()
    }
}

/// Merges a peer's packets into a bitmap.
#[derive(Clone, Debug)]
pub struct BitmapReceiver {
    cursor: Cursor,
    done: bool,
}

impl BitmapReceiver {
    /// A transfer of `bits` bits.
    #[must_use]
    pub fn new(bits: u64, version: u32) -> Self {
        Self { cursor: Cursor::new(bits, version), done: false }
    }

    /// Takes the next packet; true when it was the last.
    pub fn receive(&mut self, packet: &Packet, bitmap: &mut impl BitSink) -> Result<bool, BitmapError> {
        match packet {
            Packet::Bitmap(words) if !self.done => self.merge_words(words, bitmap)?,
            Packet::CompressedBitmap(payload) if !self.done => self.merge_runs(payload, bitmap)?,
            _ => return Err(BitmapError::Unexpected),
        }
        Ok(self.done)
    }

    /// Whether the last packet has come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    fn merge_words(&mut self, words: &[u8], bitmap: &mut impl BitSink) -> Result<(), BitmapError> {
        let due = self.cursor.words_due();
        let want = due as usize * WORD_BYTES;
        if words.len() != want {
            return Err(BitmapError::PlainSize { want, size: words.len() });
        }
        if due == 0 {
            self.done = true;
        } else {
            bitmap.merge_words(self.cursor.word, words);
            self.cursor.after_words(due);
        }
        Ok(())
    }

    fn merge_runs(&mut self, payload: &[u8], bitmap: &mut impl BitSink) -> Result<(), BitmapError> {
        let Cursor { bit, bits, .. } = self.cursor;
        let end = bitmap_rle::decode(payload, bit, bits, &mut |first, end| bitmap.set(first, end))?;
        self.cursor.after_runs(end);
        self.done = self.cursor.at_end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Bitmap(Vec<bool>);

    impl BitSource for Bitmap {
        fn bits(&self) -> u64 {
            self.0.len() as u64
        }
        fn next_set(&self, from: u64) -> Option<u64> {
            (from..self.bits()).find(|&bit| self.0[bit as usize])
        }
        fn next_clear(&self, from: u64) -> Option<u64> {
            (from..self.bits()).find(|&bit| !self.0[bit as usize])
        }
    }

    impl WordSource for Bitmap {
        fn word(&self, index: u64) -> u64 {
            let bits = self.0.iter().skip(index as usize * 64).take(64);
            bits.enumerate().fold(0, |word, (shift, &bit)| word | u64::from(bit) << shift)
        }
    }

    impl BitSink for Bitmap {
        fn set(&mut self, first: u64, end: u64) {
            self.0[first as usize..end as usize].fill(true);
        }
        fn merge_words(&mut self, first_word: u64, words: &[u8]) {
            let bits = self.0.iter_mut().skip(first_word as usize * 64);
            for (index, bit) in bits.take(words.len() * 8).enumerate() {
                *bit |= words[index / 8] >> (index % 8) & 1 == 1;
            }
        }
    }

    fn packets(bitmap: &Bitmap, version: u32, use_rle: bool) -> Vec<Packet> {
        let mut sender = BitmapSender::new(bitmap.bits(), version, use_rle);
        let packets: Vec<Packet> = std::iter::from_fn(|| sender.next(bitmap)).collect();
        assert!(sender.is_done());
        packets
    }

    fn received(packets: &[Packet], bits: usize, version: u32) -> Bitmap {
        let mut receiver = BitmapReceiver::new(bits as u64, version);
        let mut bitmap = Bitmap(vec![false; bits]);
        for (index, packet) in packets.iter().enumerate() {
            let done = receiver.receive(packet, &mut bitmap).unwrap();
            assert_eq!(done, index + 1 == packets.len());
        }
        bitmap
    }

    #[test]
    fn plain_words_end_with_an_empty_packet() {
        let bitmap = Bitmap((0..100_000).map(|bit| bit % 7 == 0).collect());
        let lengths = |version| -> Vec<usize> {
            let packets = packets(&bitmap, version, false);
            assert_eq!(received(&packets, 100_000, version), bitmap);
            packets.iter().map(|packet| packet.payload().map_or(0, Bytes::len)).collect()
        };
        assert_eq!(lengths(101), [4080, 4080, 4080, 264, 0], "510 words a packet");
        assert_eq!(lengths(99), [4088, 4088, 4088, 240, 0], "511 words a packet");
    }

    #[test]
    fn runs_end_at_the_last_bit() {
        let bitmap = Bitmap(vec![true; 100_000]);
        assert_eq!(packets(&bitmap, 101, true).len(), 1);
        assert!(matches!(packets(&bitmap, 89, true)[0], Packet::Bitmap(_)), "runs exist from version 90");
    }

    #[test]
    fn words_after_runs_go_back_to_a_multiple_of_64() {
        // Long runs first, to an odd bit where the packet is full, then bits too dense for runs.
        let long = |bit: usize| bit < 200_000 && (bit / 61).is_multiple_of(2);
        let bitmap = Bitmap((0..260_000).map(|bit| long(bit) || (bit >= 200_000 && bit % 3 == 0)).collect());
        let packets = packets(&bitmap, 101, true);
        let plain = packets.iter().position(|packet| matches!(packet, Packet::Bitmap(_))).unwrap();
        assert!(plain > 0);
        assert_eq!(received(&packets, 260_000, 101), bitmap);
    }

    #[test]
    fn a_bitmap_without_bits_is_one_empty_packet() {
        assert_eq!(packets(&Bitmap(Vec::new()), 101, true), [Packet::Bitmap(Bytes::new())]);
    }

    #[test]
    fn words_of_another_number_are_refused() {
        let mut receiver = BitmapReceiver::new(1000, 101);
        let mut bitmap = Bitmap(vec![false; 1000]);
        let error = receiver.receive(&Packet::Bitmap(Bytes::from_static(&[0; 8])), &mut bitmap).unwrap_err();
        assert_eq!(error.to_string(), "receive_bitmap_plain:want (128) != size (8)");
        assert_eq!(receiver.receive(&Packet::Ping, &mut bitmap), Err(BitmapError::Unexpected));
        assert_eq!(receiver.receive(&Packet::Bitmap(Bytes::new()), &mut bitmap).ok(), None, "too early an end");
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let mut receiver = BitmapReceiver::new(0, 101);
        let mut bitmap = Bitmap(Vec::new());
        assert_eq!(receiver.receive(&Packet::Bitmap(Bytes::new()), &mut bitmap), Ok(true));
        assert_eq!(receiver.receive(&Packet::Bitmap(Bytes::new()), &mut bitmap), Err(BitmapError::Unexpected));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_bitmap_arrives(
            pieces in prop::collection::vec((1_usize..4000, 1_usize..40), 1..20),
            use_rle in any::<bool>(),
            version in 86_u32..=101,
        ) {
            let mut bits = Vec::new();
            for (length, period) in pieces {
                bits.extend((0..length).map(|bit| bit % period == 0));
            }
            let bitmap = Bitmap(bits);
            let packets = packets(&bitmap, version, use_rle);
            prop_assert_eq!(received(&packets, bitmap.0.len(), version), bitmap);
        }
    }
}
