//! Reading a dump: a stream of words, numbers and punctuation, white space free, `#` to the end of the line a comment.

use std::ops::RangeInclusive;

use thiserror::Error;

use super::write::UNCLEAN_WORD;
use super::{Dump, SlotWords, WordRun};
use crate::metadata::layout::{DEVICE_BYTES_MAX, Format, PEERS_MAX, Striping};
use crate::metadata::superblock::{DeviceFlags, PEER_ENTRIES, PeerEntry, PeerFlags, Superblock};
use crate::model::generation_id::GenerationId;
use crate::model::ids::NodeId;
use crate::model::units::SECTOR_BYTES;

/// The longest string the tool reads.
const STRING_MAX: usize = 20;
/// With one of these a dump of unclean metadata is made unreadable, by us or by the tool.
const UNCLEAN_WORDS: [&str; 2] = [UNCLEAN_WORD, "This_is_an_unclean"];
/// Digits of a decimal number, without the sign.
const DIGITS_MAX: usize = 19;

/// Where and why a text is no dump.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub struct DumpError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: DumpProblem,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DumpProblem {
    /// Something else has to stand here.
    #[error("expected {expected}, found '{found}'")]
    Unexpected {
        /// What should stand here.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// The text ends too early.
    #[error("expected {expected}, found the end of the text")]
    End {
        /// What should come next.
        expected: &'static str,
    },
    /// A number has too many digits or is outside its limits.
    #[error("{field}: expected {min} to {max}, found {found}")]
    Limit {
        /// Name of the field.
        field: &'static str,
        /// The least it may be.
        min: i64,
        /// The most it may be.
        max: i64,
        /// What it is.
        found: String,
    },
    /// A peer stands in the text twice.
    #[error("peer {node} stands here for the second time")]
    PeerTwice {
        /// Which one.
        node: usize,
    },
    /// The text was made before the activity log was applied; the tool marks such dumps so that nobody restores them.
    #[error("this is a dump of unclean metadata, whose bitmap is not complete")]
    Unclean,
}

/// Reads a dump of either version.
pub fn parse(text: &str) -> Result<Dump, DumpError> {
    let mut input = Tokens { rest: text, line: 1 };
    input.word("version")?;
    let format = input.version()?;
    input.punctuation(';')?;
    let mut superblock = Superblock::unplaced(format);
    match format {
        Format::V08 => parse_v08_head(&mut input, &mut superblock)?,
        Format::V09 => parse_v09_head(&mut input, &mut superblock)?,
    }
    parse_common(&mut input, &mut superblock)?;
    let slots = parse_bitmap(&mut input, format, superblock.max_peers)?;
    match input.next()? {
        None => Ok(Dump { superblock, slots }),
        Some(token) => Err(input.unexpected("the end of the text", &token)),
    }
}

fn parse_v08_head(input: &mut Tokens, superblock: &mut Superblock) -> Result<(), DumpError> {
    input.word("uuid")?;
    input.punctuation('{')?;
    let generations = &mut superblock.generations;
    generations.current = GenerationId(input.wide_item()?);
    generations.bitmap[0] = GenerationId(input.wide_item()?);
    generations.history[0] = GenerationId(input.wide_item()?);
    generations.history[1] = GenerationId(input.wide_item()?);
    superblock.flags = DeviceFlags(input.narrow_field("flags")?);
    input.punctuation('}')
}

fn parse_v09_head(input: &mut Tokens, superblock: &mut Superblock) -> Result<(), DumpError> {
    superblock.max_peers = input.number_field("max-peers", 1..=i64::from(PEERS_MAX))? as u32;
    let node_id = input.number_field("node-id", -1..=i64::from(NodeId::MAX))?;
    superblock.node_id = u8::try_from(node_id).ok().and_then(NodeId::new);
    superblock.generations.current = GenerationId(input.wide_field("current-uuid")?);
    superblock.flags = DeviceFlags(input.narrow_field("flags")?);
    if input.peek_word("members") {
        superblock.members = input.wide_field("members")?;
    }
    let mut seen = [false; PEER_ENTRIES];
    for _ in 0..PEER_ENTRIES {
        let line = input.line;
        let node = parse_peer(input, superblock)?;
        if std::mem::replace(&mut seen[node], true) {
            return Err(DumpError { line, problem: DumpProblem::PeerTwice { node } });
        }
    }
    input.word("history-uuids")?;
    input.punctuation('{')?;
    for generation in &mut superblock.generations.history {
        *generation = GenerationId(input.wide_item()?);
    }
    input.punctuation('}')
}

fn parse_peer(input: &mut Tokens, superblock: &mut Superblock) -> Result<usize, DumpError> {
    input.word("peer")?;
    let node = input.index("peer", PEER_ENTRIES as i64 - 1)?;
    input.punctuation('{')?;
    let bitmap_index = input.number_field("bitmap-index", -1..=i64::from(superblock.max_peers) - 1)?;
    superblock.generations.bitmap[node] = GenerationId(input.wide_field("bitmap-uuid")?);
    superblock.peers[node] = PeerEntry {
        bitmap_index: u32::try_from(bitmap_index).ok(),
        bitmap_dagtag: input.wide_field("bitmap-dagtag")?,
        flags: PeerFlags(input.narrow_field("flags")?),
    };
    input.punctuation('}')?;
    Ok(node)
}

fn parse_common(input: &mut Tokens, superblock: &mut Superblock) -> Result<(), DumpError> {
    let field_max = i64::from(u32::MAX);
    let sectors_max = (DEVICE_BYTES_MAX / SECTOR_BYTES) as i64;
    superblock.effective_size_sectors = input.number_field("la-size-sect", 0..=sectors_max)? as u64;
    superblock.bytes_per_bit = input.number_field("bm-byte-per-bit", 4096..=1 << 20)? as u32;
    superblock.device_uuid = input.wide_field("device-uuid")?;
    superblock.la_peer_max_bio_size = input.number_field("la-peer-max-bio-size", 0..=field_max)? as u32;
    superblock.striping = Striping {
        stripes: input.number_field("al-stripes", 1..=field_max)? as u32,
        stripe_blocks: input.number_field("al-stripe-size-4k", 1..=field_max)? as u32,
    };
    Ok(())
}

fn parse_bitmap(input: &mut Tokens, format: Format, max_peers: u32) -> Result<Vec<SlotWords>, DumpError> {
    let mut slots = Vec::with_capacity(max_peers as usize);
    for slot in 0..i64::from(max_peers) {
        match format {
            Format::V08 => input.word("bm")?,
            Format::V09 => {
                input.word("bitmap")?;
                input.punctuation('[')?;
                input.number("bitmap", slot..=slot)?;
                input.punctuation(']')?;
            }
        }
        input.punctuation('{')?;
        slots.push(parse_words(input)?);
    }
    Ok(slots)
}

fn parse_words(input: &mut Tokens) -> Result<SlotWords, DumpError> {
    let mut runs: Vec<WordRun> = Vec::new();
    loop {
        let run = match input.next()? {
            Some(Token::Punctuation('}')) => return Ok(SlotWords { runs }),
            Some(Token::Hex(digits)) => WordRun { count: 1, word: input.wide_value(digits)? },
            Some(Token::Number(digits)) => {
                let count = input.number_value("times", digits, 0..=i64::MAX)?;
                input.word("times")?;
                WordRun { count: count.unsigned_abs(), word: input.wide()? }
            }
            Some(token) => return Err(input.unexpected("a word of the bitmap or '}'", &token)),
            None => return Err(input.end("a word of the bitmap or '}'")),
        };
        input.punctuation(';')?;
        match runs.last_mut().filter(|last| last.word == run.word) {
            Some(last) => last.count = last.count.saturating_add(run.count),
            None => runs.push(run),
        }
    }
}

/// One token, as a part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// Between quotes.
    Text(&'a str),
    /// Decimal, perhaps with a sign.
    Number(&'a str),
    /// The digits behind `0x`.
    Hex(&'a str),
    Punctuation(char),
}

struct Tokens<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Tokens<'a> {
    fn skip_space(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            self.line += self.rest[..self.rest.len() - trimmed.len()].matches('\n').count();
            self.rest = trimmed;
            if !trimmed.starts_with('#') {
                return;
            }
            self.rest = &trimmed[trimmed.find('\n').unwrap_or(trimmed.len())..];
        }
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, DumpError> {
        self.skip_space();
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        if let Some(behind) = self.rest.strip_prefix("0x") {
            self.rest = behind;
            return Ok(Some(Token::Hex(self.take_while(|c| c.is_ascii_hexdigit()))));
        }
        match first {
            '{' | '}' | '[' | ']' | ';' => {
                self.rest = &self.rest[1..];
                Ok(Some(Token::Punctuation(first)))
            }
            '"' => self.quoted().map(Some),
            '-' | '0'..='9' => Ok(Some(Token::Number(self.take_while(|c| c == '-' || c.is_ascii_digit())))),
            'a'..='z' | 'A'..='Z' => {
                let word = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
                if UNCLEAN_WORDS.iter().any(|mark| word.starts_with(mark)) {
                    self.fail(DumpProblem::Unclean)
                } else {
                    Ok(Some(Token::Word(word)))
                }
            }
            other => self.fail(DumpProblem::Unexpected {
                expected: "a word, a number or punctuation",
                found: other.to_string(),
            }),
        }
    }

    fn quoted(&mut self) -> Result<Token<'a>, DumpError> {
        let behind = &self.rest[1..];
        match behind.find(['"', '\n']).filter(|&end| behind[end..].starts_with('"') && end <= STRING_MAX) {
            Some(end) => {
                self.rest = &behind[end + 1..];
                Ok(Token::Text(&behind[..end]))
            }
            None => self.fail(DumpProblem::Unexpected {
                expected: "a string of at most 20 characters",
                found: "\"".to_owned(),
            }),
        }
    }

    fn fail<T>(&self, problem: DumpProblem) -> Result<T, DumpError> {
        Err(DumpError { line: self.line, problem })
    }

    fn unexpected(&self, expected: &'static str, token: &Token) -> DumpError {
        let found = match token {
            Token::Word(word) | Token::Number(word) => (*word).to_owned(),
            Token::Text(text) => format!("\"{text}\""),
            Token::Hex(digits) => format!("0x{digits}"),
            Token::Punctuation(sign) => sign.to_string(),
        };
        DumpError { line: self.line, problem: DumpProblem::Unexpected { expected, found } }
    }

    fn end(&self, expected: &'static str) -> DumpError {
        DumpError { line: self.line, problem: DumpProblem::End { expected } }
    }

    /// The next token, which `choose` must accept.
    fn expect<T>(
        &mut self,
        expected: &'static str,
        choose: impl FnOnce(Token<'a>) -> Option<T>,
    ) -> Result<T, DumpError> {
        let token = self.next()?.ok_or_else(|| self.end(expected))?;
        choose(token).ok_or_else(|| self.unexpected(expected, &token))
    }

    fn word(&mut self, word: &'static str) -> Result<(), DumpError> {
        self.expect(word, |token| (token == Token::Word(word)).then_some(()))
    }

    fn peek_word(&mut self, word: &str) -> bool {
        self.skip_space();
        self.rest.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_whitespace()))
    }

    fn punctuation(&mut self, sign: char) -> Result<(), DumpError> {
        let expected = match sign {
            '{' => "'{'",
            '}' => "'}'",
            '[' => "'['",
            ']' => "']'",
            _ => "';'",
        };
        self.expect(expected, |token| (token == Token::Punctuation(sign)).then_some(()))
    }

    fn version(&mut self) -> Result<Format, DumpError> {
        self.expect("\"v08\" or \"v09\"", |token| match token {
            Token::Text(name) => name.parse().ok(),
            _ => None,
        })
    }

    fn hex_value(&self, digits: &'a str, expected: &'static str, length: usize) -> Result<u64, DumpError> {
        let value = (digits.len() == length).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
        value.ok_or_else(|| self.unexpected(expected, &Token::Hex(digits)))
    }

    fn wide_value(&self, digits: &'a str) -> Result<u64, DumpError> {
        self.hex_value(digits, "0x and 16 hexadecimal digits", 16)
    }

    fn hex(&mut self, expected: &'static str) -> Result<&'a str, DumpError> {
        self.expect(expected, |token| if let Token::Hex(digits) = token { Some(digits) } else { None })
    }

    fn wide(&mut self) -> Result<u64, DumpError> {
        let digits = self.hex("0x and 16 hexadecimal digits")?;
        self.wide_value(digits)
    }

    fn wide_item(&mut self) -> Result<u64, DumpError> {
        let value = self.wide()?;
        self.punctuation(';')?;
        Ok(value)
    }

    fn wide_field(&mut self, name: &'static str) -> Result<u64, DumpError> {
        self.word(name)?;
        self.wide_item()
    }

    fn narrow_field(&mut self, name: &'static str) -> Result<u32, DumpError> {
        const EXPECTED: &str = "0x and 8 hexadecimal digits";
        self.word(name)?;
        let digits = self.hex(EXPECTED)?;
        let value = self.hex_value(digits, EXPECTED, 8)?;
        self.punctuation(';')?;
        Ok(value as u32)
    }

    fn number_value(&self, field: &'static str, digits: &str, limits: RangeInclusive<i64>) -> Result<i64, DumpError> {
        let short = digits.trim_start_matches('-').len() <= DIGITS_MAX;
        let value = digits.parse().ok().filter(|value| short && limits.contains(value));
        value.map_or_else(
            || {
                let (min, max, found) = (*limits.start(), *limits.end(), digits.to_owned());
                self.fail(DumpProblem::Limit { field, min, max, found })
            },
            Ok,
        )
    }

    fn number(&mut self, field: &'static str, limits: RangeInclusive<i64>) -> Result<i64, DumpError> {
        let digits =
            self.expect("a number", |token| if let Token::Number(digits) = token { Some(digits) } else { None })?;
        self.number_value(field, digits, limits)
    }

    fn number_field(&mut self, name: &'static str, limits: RangeInclusive<i64>) -> Result<i64, DumpError> {
        self.word(name)?;
        let value = self.number(name, limits)?;
        self.punctuation(';')?;
        Ok(value)
    }

    fn index(&mut self, field: &'static str, max: i64) -> Result<usize, DumpError> {
        self.punctuation('[')?;
        let index = self.number(field, 0..=max)?;
        self.punctuation(']')?;
        Ok(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::write;
    use super::*;
    use crate::metadata::layout::{Layout, Placement};

    const HEAD: &str = "version \"v08\"; uuid { 0x0000000000000001; 0x0000000000000002; 0x0000000000000003;\n\
        0x00000000000000aB; flags 0x00000091; } la-size-sect 1000;# remark\n bm-byte-per-bit 4096;\n\
        device-uuid 0x0000000000000000; la-peer-max-bio-size 0; al-stripes 1; al-stripe-size-4k 8; bm {";

    fn problem(text: &str) -> (usize, String) {
        let error = parse(text).expect_err("not a dump");
        (error.line, error.problem.to_string())
    }

    #[test]
    fn white_space_and_comments_are_free() {
        let dump = parse(&format!("{HEAD}0x0000000000000005; 3 times 0x0000000000000000;}}")).expect("a dump");
        assert_eq!(dump.superblock.generations.history[1], GenerationId(0xAB));
        assert_eq!((dump.superblock.flags, dump.superblock.effective_size_sectors), (DeviceFlags(0x91), 1000));
        assert_eq!((dump.slots[0].word_count(), dump.slots[0].expand(6)), (4, vec![5, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn errors_name_the_line_and_what_should_be_there() {
        assert_eq!(problem(""), (1, "expected version, found the end of the text".to_owned()));
        assert_eq!(problem("\nversion v08"), (2, "expected \"v08\" or \"v09\", found 'v08'".to_owned()));
        assert_eq!(problem(&HEAD.replace("1000", "-1")).1, "la-size-sect: expected 0 to 2199023255552, found -1");
        assert_eq!(
            problem(&HEAD.replace("flags 0x", "flags 0x0")).1.split(',').next(),
            Some("expected 0x and 8 hexadecimal digits")
        );
        assert_eq!(problem(&format!("{HEAD} 4 0x")), (4, "expected times, found '0x'".to_owned()));
        assert_eq!(problem(&format!("{HEAD}}} more")).1, "expected the end of the text, found 'more'");
        assert_eq!(problem("version \"v08\";\nThis_is_an_unclean_dump; ").0, 2);
        assert_eq!(
            problem("version \"v08\"; unclean-apply-the-activity-log-first;").1,
            DumpProblem::Unclean.to_string()
        );
    }

    #[test]
    fn a_huge_run_takes_no_room() {
        let dump =
            parse(&format!("{HEAD} 9223372036854775807 times 0x0000000000000001; 9 times 0x0000000000000001;}}"));
        assert_eq!(dump.expect("a dump").slots[0].expand(2), [1, 1]);
    }

    fn any_words() -> impl Strategy<Value = Vec<u64>> {
        let word = prop_oneof![Just(0), Just(u64::MAX), Just(1 << 33), any::<u64>()];
        let runs = proptest::collection::vec((word, 1usize..40), 0..20);
        runs.prop_map(|runs| runs.into_iter().flat_map(|(word, count)| std::iter::repeat_n(word, count)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn dumps_survive_the_round_trip(words in proptest::collection::vec(any_words(), 3), sectors in 0u64..130_000) {
            let place = Layout::compute(Format::V09, Placement::Internal, 64 << 20, 3, Striping::default());
            let layout = place.expect("64 MiB is enough");
            let mut superblock = Superblock::fresh(&layout);
            superblock.effective_size_sectors = sectors;
            let views: Vec<&[u64]> = words.iter().map(Vec::as_slice).collect();
            let mut text = String::new();
            write(&superblock, &layout, &views, &mut text).expect("strings take everything");
            let dump = parse(&text).expect("our own text");
            prop_assert_eq!(dump.superblock_for(&layout), superblock);
            for (slot, read) in words.iter().zip(dump.bitmap_for(&layout)) {
                // A last half word has no place in the text.
                for (index, found) in read.iter().enumerate().take(read.len().saturating_sub(1)) {
                    prop_assert_eq!(*found, slot.get(index).copied().unwrap_or(0));
                }
            }
        }

        #[test]
        fn any_text_can_be_parsed(text: String, cut in 0usize..400, tail in "[-0-9a-z{};# \\[\\]x\"]*") {
            let _ = parse(&text);
            let _ = parse(&format!("{}{tail}", &HEAD[..cut.min(HEAD.len())]));
        }
    }
}
