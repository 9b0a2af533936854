//! Sums over the bits of one slot: the total, and how many are set in each chunk of 512 words.

use std::ops::Range;

/// Words in a chunk: 32768 bits, 4096 bytes of bitmap, 128 MiB of data. Its count just fits 16 bits.
pub(super) const CHUNK_WORDS: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Tally {
    total: u64,
    chunks: Vec<u16>,
}

impl Tally {
    /// The tally of `words` clear words.
    pub(super) fn new(words: usize) -> Self {
        Self { total: 0, chunks: vec![0; words.div_ceil(CHUNK_WORDS)] }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn chunk(&self, chunk: usize) -> u64 {
        self.chunks[chunk].into()
    }

    /// The sum over whole chunks.
    pub(super) fn chunks(&self, range: Range<usize>) -> u64 {
        self.chunks[range].iter().map(|&count| u64::from(count)).sum()
    }

    pub(super) fn add(&mut self, chunk: usize, bits: u64) {
        self.total += bits;
        self.chunks[chunk] += bits as u16;
    }

    pub(super) fn subtract(&mut self, chunk: usize, bits: u64) {
        self.total -= bits;
        self.chunks[chunk] -= bits as u16;
    }

    /// Follows a change of the number of words; words cut off must be clear, new ones are.
    pub(super) fn resize(&mut self, words: usize) {
        self.chunks.resize(words.div_ceil(CHUNK_WORDS), 0);
    }

    /// Counts anew the chunks that the word range touches.
    pub(super) fn recount(&mut self, bits: &[u64], words: Range<usize>) {
        if words.is_empty() {
            return;
        }
        for chunk in words.start / CHUNK_WORDS..=(words.end - 1) / CHUNK_WORDS {
            let counted = ones(&bits[chunk_words(chunk, bits.len())]);
            self.total = self.total - self.chunk(chunk) + counted;
            self.chunks[chunk] = counted as u16;
        }
    }

    pub(super) fn check(&self, bits: &[u64]) {
        assert_eq!(self.total, ones(bits), "the total equals the bits");
        for (chunk, words) in bits.chunks(CHUNK_WORDS).enumerate() {
            assert_eq!(self.chunk(chunk), ones(words), "chunk {chunk} equals its bits");
        }
        assert_eq!(self.chunks.len(), bits.len().div_ceil(CHUNK_WORDS), "a tally for each chunk");
    }
}

/// The words of a chunk, given how many words there are.
pub(super) fn chunk_words(chunk: usize, words: usize) -> Range<usize> {
    chunk * CHUNK_WORDS..((chunk + 1) * CHUNK_WORDS).min(words)
}

/// How many bits are set.
pub(super) fn ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}
