//! Bytes to tokens, each with its place.
//!
//! A fault (a stray character, an open string) becomes a token of its own, so that it is reported only if the parser
//! reaches it: skipped blocks may hold anything that keeps its braces balanced.

use std::fmt;
use std::sync::Arc;

use super::error::{ConfigError, ConfigErrorKind, Place};

/// Longest bare word.
pub(super) const WORD_LIMIT: usize = 128;
/// Longest quoted string.
pub(super) const STRING_LIMIT: usize = 255;

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A word; `true` if it was quoted.
    Word(String, bool),
    /// One of `; { } [ ] :`.
    Sign(char),
    /// Something that is no token.
    Fault(Fault),
    /// The end of the file.
    End,
}

/// What can be wrong within a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Stray(char),
    OpenString,
    NotText,
    LongWord,
    LongString,
}

/// A token and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) place: Place,
}

impl Token {
    /// The fault of this token, if it is one.
    pub(super) fn fault(&self) -> Option<ConfigError> {
        let TokenKind::Fault(fault) = &self.kind else { return None };
        let kind = match fault {
            Fault::Stray(character) => ConfigErrorKind::StrayCharacter(*character),
            Fault::OpenString => ConfigErrorKind::OpenString,
            Fault::NotText => ConfigErrorKind::NotText,
            Fault::LongWord => ConfigErrorKind::TooLong { what: "word", limit: WORD_LIMIT },
            Fault::LongString => ConfigErrorKind::TooLong { what: "quoted string", limit: STRING_LIMIT },
        };
        Some(ConfigError::new(&self.place, kind))
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word, _) => write!(f, "{word:?}"),
            Self::Sign(sign) => write!(f, "'{sign}'"),
            Self::Fault(_) => f.write_str("something unreadable"),
            Self::End => f.write_str("the end of the file"),
        }
    }
}

/// Whether a byte may stand in a bare word.
pub(super) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-')
}

/// All tokens of a file; the last one is [`TokenKind::End`].
pub(super) fn tokens(file: &Arc<str>, bytes: &[u8]) -> Vec<Token> {
    let mut lexer = Lexer { file, bytes, at: 0, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let place = Place { file: Arc::clone(lexer.file), line: lexer.line, column: lexer.column };
        let kind = lexer.token();
        let is_last = kind == TokenKind::End;
        tokens.push(Token { kind, place });
        if is_last {
            return tokens;
        }
    }
}

struct Lexer<'a> {
    file: &'a Arc<str>,
    bytes: &'a [u8],
    at: usize,
    line: u32,
    column: u32,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn advance(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else if byte & 0xc0 != 0x80 {
            // Bytes that continue a character of UTF-8 do not move the column.
            self.column = self.column.saturating_add(1);
        }
        Some(byte)
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.advance();
                }
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.advance();
                    }
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> TokenKind {
        match self.peek() {
            None => TokenKind::End,
            Some(b'"') => self.quoted(),
            Some(byte) if is_word_byte(byte) => self.word(),
            Some(byte @ (b';' | b'{' | b'}' | b'[' | b']' | b':')) => {
                self.advance();
                TokenKind::Sign(char::from(byte))
            }
            Some(_) => self.stray(),
        }
    }

    fn word(&mut self) -> TokenKind {
        let mut word = String::new();
        while let Some(byte) = self.peek().filter(|byte| is_word_byte(*byte)) {
            word.push(char::from(byte));
            self.advance();
        }
        if word.len() > WORD_LIMIT { TokenKind::Fault(Fault::LongWord) } else { TokenKind::Word(word, false) }
    }

    fn quoted(&mut self) -> TokenKind {
        self.advance();
        let mut text = Vec::new();
        loop {
            match self.peek() {
                None | Some(b'\n') => return TokenKind::Fault(Fault::OpenString),
                Some(b'"') => break,
                Some(b'\\') => {
                    self.advance();
                    match self.peek() {
                        None | Some(b'\n') => return TokenKind::Fault(Fault::OpenString),
                        Some(byte) => text.push(byte),
                    }
                }
                Some(byte) => text.push(byte),
            }
            self.advance();
        }
        self.advance();
        match String::from_utf8(text) {
            Ok(text) if text.len() > STRING_LIMIT => TokenKind::Fault(Fault::LongString),
            Ok(text) => TokenKind::Word(text, true),
            Err(_) => TokenKind::Fault(Fault::NotText),
        }
    }

    fn stray(&mut self) -> TokenKind {
        let rest = self.bytes.get(self.at..self.at.saturating_add(4).min(self.bytes.len())).unwrap_or_default();
        let character = String::from_utf8_lossy(rest).chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
        self.advance();
        while self.peek().is_some_and(|byte| byte & 0xc0 == 0x80) {
            self.advance();
        }
        TokenKind::Fault(Fault::Stray(character))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind> {
        tokens(&Arc::from("f"), text.as_bytes()).into_iter().map(|token| token.kind).collect()
    }

    fn word(text: &str) -> TokenKind {
        TokenKind::Word(text.to_owned(), false)
    }

    #[test]
    fn words_signs_strings_and_comments() {
        let expected = [
            word("disk"),
            word("/dev/a.b_c-d"),
            TokenKind::Sign('['),
            word("1"),
            TokenKind::Sign(']'),
            TokenKind::Sign(';'),
            TokenKind::Word("a \"b\" \\".to_owned(), true),
            TokenKind::End,
        ];
        assert_eq!(kinds("disk /dev/a.b_c-d[1]; # no }\n\"a \\\"b\\\" \\\\\""), expected);
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let tokens = tokens(&Arc::from("f"), "\"同期\" x\n  y".as_bytes());
        assert_eq!(tokens[1].place.to_string(), "f:1:6");
        assert_eq!(tokens[2].place.to_string(), "f:2:3");
    }

    #[test]
    fn faults_are_tokens() {
        assert_eq!(
            kinds("a ! \"b\nc"),
            [
                word("a"),
                TokenKind::Fault(Fault::Stray('!')),
                TokenKind::Fault(Fault::OpenString),
                word("c"),
                TokenKind::End
            ]
        );
        assert_eq!(kinds(&"x".repeat(129))[0], TokenKind::Fault(Fault::LongWord));
        assert_eq!(kinds(&"x".repeat(128))[0], word(&"x".repeat(128)));
    }
}
