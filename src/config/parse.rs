//! Tokens to what was written: the cursor, files and their includes, and sections of options.
//!
//! A fault of form ends the reading; faults of value are collected, so that one run names them all.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::files::Files;
use super::lexer::{self, Fault, Token, TokenKind};
use super::number;
use super::options::{self, Kind, OptionSpec, Section};
use super::syntax::{Document, Located, OptionLine, Options, Proxy, Sections};

/// How deep files may include files; the depth of a file the tools still read.
const INCLUDE_LIMIT: u32 = 10;
const TOP_LEVEL: &str = "global, common, resource, skip, include or require-drbd-module-version-…";
const SECTION_NAMES: [&str; 6] = ["net", "disk", "options", "startup", "handlers", "proxy"];

/// Reads `main_file` and everything it includes.
pub(super) fn document(main_file: &str, files: &dyn Files) -> (Document, Vec<ConfigError>) {
    let mut reader = Reader { files, document: Document::default(), seen: BTreeSet::new(), errors: Vec::new() };
    let start = Place { file: Arc::from(main_file), line: 1, column: 1 };
    if let Err(error) = reader.file(main_file, &start, 0) {
        reader.errors.push(error);
    }
    (reader.document, reader.errors)
}

/// What all files of a configuration share.
pub(super) struct Reader<'a> {
    pub(super) files: &'a dyn Files,
    document: Document,
    seen: BTreeSet<String>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// Reads one file; `named_at` is blamed if it cannot be read.
    fn file(&mut self, path: &str, named_at: &Place, depth: u32) -> Result<(), ConfigError> {
        if depth > INCLUDE_LIMIT {
            return Err(ConfigError::new(named_at, ConfigErrorKind::IncludeDepth { limit: INCLUDE_LIMIT }));
        }
        if !self.seen.insert(self.files.canonical(path)) {
            return Ok(());
        }
        let bytes = read(self.files, path, named_at)?;
        let mut cursor = Cursor::new(path, &bytes);
        let result = self.top_level(&mut cursor, path, depth);
        self.errors.append(&mut cursor.errors);
        result
    }

    fn top_level(&mut self, cursor: &mut Cursor, path: &str, depth: u32) -> Result<(), ConfigError> {
        while cursor.peek() != &TokenKind::End {
            let (word, place) = cursor.word(TOP_LEVEL)?;
            match word.as_str() {
                "global" => self.global(cursor, &place)?,
                "common" => {
                    if self.document.common.is_some() {
                        return Err(ConfigError::new(&place, ConfigErrorKind::Rule("common is given twice")));
                    }
                    self.document.common = Some(common(cursor)?);
                }
                "resource" => {
                    let resource = cursor.resource(self.files, path)?;
                    self.document.resources.push(resource);
                }
                "skip" => cursor.skip()?,
                "include" => self.include(cursor, path, depth)?,
                _ if word.starts_with("require-drbd-module-version-") => {
                    module_version(cursor, &word, &place)?;
                    self.document.module_versions.push(Located { value: word, place });
                }
                _ => {
                    let known = ["global", "common", "resource", "skip", "include"];
                    return Err(unknown(&place, &word, "the file", known.into_iter()));
                }
            }
        }
        Ok(())
    }

    fn global(&mut self, cursor: &mut Cursor, place: &Place) -> Result<(), ConfigError> {
        if self.document.global.is_some() {
            return Err(ConfigError::new(place, ConfigErrorKind::Rule("global is given twice")));
        }
        self.document.global = Some(cursor.options(Section::Global)?);
        Ok(())
    }

    fn include(&mut self, cursor: &mut Cursor, path: &str, depth: u32) -> Result<(), ConfigError> {
        let (pattern, place) = cursor.word("a file or pattern")?;
        cursor.sign(';')?;
        let pattern = beside(path, &pattern);
        let mut found = self.files.glob(&pattern);
        if found.is_empty() && !pattern.contains(['*', '?', '[']) {
            found.push(pattern);
        }
        found.iter().try_for_each(|path| self.file(path, &place, depth + 1))
    }
}

/// Reads a file, or blames the place that names it.
fn read(files: &dyn Files, path: &str, named_at: &Place) -> Result<Vec<u8>, ConfigError> {
    files.read(path).map_err(|unreadable| {
        ConfigError::new(named_at, ConfigErrorKind::Unreadable { path: path.to_owned(), reason: unreadable.0 })
    })
}

/// `name` as seen from the folder of `path`.
pub(super) fn beside(path: &str, name: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, _)) if !name.starts_with('/') => format!("{folder}/{name}"),
        _ => name.to_owned(),
    }
}

/// A template file: `common { }` and nothing else.
pub(super) fn template(
    files: &dyn Files,
    path: &str,
    place: &Place,
    errors: &mut Vec<ConfigError>,
) -> Result<Sections, ConfigError> {
    let bytes = read(files, path, place)?;
    let mut cursor = Cursor::new(path, &bytes);
    let (word, at) = cursor.word("common")?;
    if word != "common" {
        return Err(expected(&at, "common", &TokenKind::Word(word, false)));
    }
    let sections = common(&mut cursor)?;
    errors.append(&mut cursor.errors);
    cursor.end()?;
    Ok(sections)
}

/// The body of `common`.
fn common(cursor: &mut Cursor) -> Result<Sections, ConfigError> {
    let mut sections = Sections::default();
    let mut seen = Vec::new();
    cursor.sign('{')?;
    while !cursor.take('}') {
        let (word, place) = cursor.word("a section")?;
        match word.as_str() {
            "skip" => cursor.skip()?,
            "on" | "floating" | "stacked-on-top-of" => {
                return Err(ConfigError::new(&place, ConfigErrorKind::Rule("common has no host sections")));
            }
            _ if cursor.section(&word, &place, &mut sections, &mut seen)? => {}
            _ => return Err(unknown(&place, &word, "common", SECTION_NAMES.into_iter().chain(["syncer", "protocol"]))),
        }
    }
    Ok(sections)
}

/// The version a kernel module would need; there is none here, so only the form is read.
fn module_version(cursor: &mut Cursor, word: &str, place: &Place) -> Result<(), ConfigError> {
    let comparison = word.rsplit('-').next().unwrap_or_default();
    if !["eq", "ne", "gt", "ge", "lt", "le"].contains(&comparison) {
        return Err(unknown(place, word, "the file", std::iter::empty()));
    }
    cursor.word("a version")?;
    cursor.sign(';')
}

pub(super) fn expected(place: &Place, expected: &str, found: &TokenKind) -> ConfigError {
    ConfigError::new(place, ConfigErrorKind::Expected { expected: expected.to_owned(), found: found.to_string() })
}

/// An option that belongs into another section than the one it stands in; `None` if it is no option at all.
pub(super) fn misplaced(word: &str, found_in: &str, place: &Place) -> Option<ConfigError> {
    let sections = Section::ALL.iter().filter(|section| options::find(**section, word).is_some());
    let sections: Vec<&str> = sections.map(|section| section.keyword()).collect();
    (!sections.is_empty()).then(|| {
        let kind = ConfigErrorKind::Misplaced {
            option: word.to_owned(),
            found_in: found_in.to_owned(),
            sections: sections.join(" or "),
        };
        ConfigError::new(place, kind)
    })
}

pub(super) fn unknown<'a>(
    place: &Place,
    name: &str,
    section: &str,
    known: impl Iterator<Item = &'a str>,
) -> ConfigError {
    let nearest = options::nearest(name, known);
    ConfigError::new(
        place,
        ConfigErrorKind::UnknownName { name: name.to_owned(), section: section.to_owned(), nearest },
    )
}

/// Where in a file the reading is.
pub(super) struct Cursor {
    tokens: Vec<Token>,
    at: usize,
    /// Faults of value so far.
    pub(super) errors: Vec<ConfigError>,
}

impl Cursor {
    fn new(path: &str, bytes: &[u8]) -> Self {
        Self { tokens: lexer::tokens(&Arc::from(path), bytes), at: 0, errors: Vec::new() }
    }

    fn token(&self) -> &Token {
        let last = self.tokens.len() - 1;
        &self.tokens[self.at.min(last)]
    }

    pub(super) fn peek(&self) -> &TokenKind {
        &self.token().kind
    }

    pub(super) fn place(&self) -> Place {
        self.token().place.clone()
    }

    /// What the next token is instead of `what`.
    pub(super) fn wrong(&self, what: &str) -> ConfigError {
        self.token().fault().unwrap_or_else(|| expected(&self.token().place, what, self.peek()))
    }

    /// Takes a word, quoted or not.
    pub(super) fn word(&mut self, what: &str) -> Result<(String, Place), ConfigError> {
        let Token { kind: TokenKind::Word(word, _), place } = self.token() else { return Err(self.wrong(what)) };
        let taken = (word.clone(), place.clone());
        self.at += 1;
        Ok(taken)
    }

    /// Takes a word that names something; bare digits are a number to the tools, and no name.
    pub(super) fn name(&mut self, what: &str) -> Result<(String, Place), ConfigError> {
        let is_number =
            matches!(self.peek(), TokenKind::Word(word, false) if word.bytes().all(|byte| byte.is_ascii_digit()));
        let (name, place) = self.word(what)?;
        if is_number {
            let rule = "a name of digits alone is read as a number; put it in double quotes";
            self.errors.push(ConfigError::new(&place, ConfigErrorKind::Rule(rule)));
        }
        Ok((name, place))
    }

    /// Takes a character that is no token elsewhere, if it is next.
    pub(super) fn take_stray(&mut self, character: char) -> bool {
        let is_next = self.peek() == &TokenKind::Fault(Fault::Stray(character));
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes a sign if it is next.
    pub(super) fn take(&mut self, sign: char) -> bool {
        let is_next = self.peek() == &TokenKind::Sign(sign);
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes a sign that must be next.
    pub(super) fn sign(&mut self, sign: char) -> Result<(), ConfigError> {
        if self.take(sign) { Ok(()) } else { Err(self.wrong(&format!("'{sign}'"))) }
    }

    /// Takes a word if it is next.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), TokenKind::Word(next, false) if next == word);
        self.at += usize::from(is_next);
        is_next
    }

    /// The end of a file that must have come.
    pub(super) fn end(&self) -> Result<(), ConfigError> {
        if self.peek() == &TokenKind::End { Ok(()) } else { Err(self.wrong("the end of the file")) }
    }

    /// `skip` is taken: passes words and a block with balanced braces.
    pub(super) fn skip(&mut self) -> Result<(), ConfigError> {
        let mut depth = 0_u32;
        loop {
            match self.peek() {
                TokenKind::Sign('{') => depth += 1,
                TokenKind::Sign('}') if depth <= 1 => {
                    return if depth == 1 { self.sign('}') } else { Err(self.wrong("'{'")) };
                }
                TokenKind::Sign('}') => depth -= 1,
                TokenKind::End => return Err(self.wrong("the '}' that ends the skipped block")),
                _ => {}
            }
            self.at += 1;
        }
    }

    /// A section that `common` and resources have; `false` if `word` is none. `seen` holds those there were.
    pub(super) fn section(
        &mut self,
        word: &str,
        place: &Place,
        sections: &mut Sections,
        seen: &mut Vec<(String, Place)>,
    ) -> Result<bool, ConfigError> {
        if word == "protocol" {
            self.once(word, place, seen);
            let line = self.protocol(place)?;
            sections.net.0.extend(line);
            return Ok(true);
        }
        if word != "syncer" && !SECTION_NAMES.contains(&word) {
            return Ok(false);
        }
        self.once(word, place, seen);
        match word {
            "syncer" => self.syncer(sections)?,
            "proxy" => self.proxy_options(&mut sections.proxy)?,
            "net" => sections.net.0.append(&mut self.options(Section::Net)?.0),
            "disk" => sections.disk.0.append(&mut self.options(Section::Disk)?.0),
            "options" => sections.options = self.options(Section::Options)?,
            "startup" => sections.startup = self.options(Section::Startup)?,
            _ => sections.handlers = self.options(Section::Handlers)?,
        }
        Ok(true)
    }

    /// Notes that `what` stands here; a fault if it stood before.
    pub(super) fn once(&mut self, what: &str, place: &Place, seen: &mut Vec<(String, Place)>) {
        match seen.iter().find(|(other, _)| other == what) {
            Some((_, first)) => {
                let kind = ConfigErrorKind::Twice { what: what.to_owned(), first: first.clone() };
                self.errors.push(ConfigError::new(place, kind));
            }
            None => seen.push((what.to_owned(), place.clone())),
        }
    }

    /// `protocol C;` outside of a net section.
    fn protocol(&mut self, place: &Place) -> Result<Option<OptionLine>, ConfigError> {
        match options::find(Section::Net, "protocol") {
            Some(spec) => self.option_value(spec, false, place.clone()).map(Some),
            None => Ok(None),
        }
    }

    /// `{ option value; … }`
    pub(super) fn options(&mut self, section: Section) -> Result<Options, ConfigError> {
        let mut lines = Vec::new();
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("an option or '}'")?;
            if word == "skip" {
                self.skip()?;
                continue;
            }
            lines.push(self.option(&[section], &word, place)?);
        }
        Ok(Options(lines))
    }

    /// 8.3's section of resync settings: each goes where 8.4 has it.
    fn syncer(&mut self, sections: &mut Sections) -> Result<(), ConfigError> {
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("an option or '}'")?;
            let line = self.option(&[Section::Disk, Section::Net, Section::Options], &word, place)?;
            match line.spec.section {
                Section::Disk => sections.disk.0.push(line),
                Section::Net => sections.net.0.push(line),
                _ => sections.options.0.push(line),
            }
        }
        Ok(())
    }

    /// An option whose name is taken, in the first of `sections` that has it.
    pub(super) fn option(&mut self, sections: &[Section], word: &str, place: Place) -> Result<OptionLine, ConfigError> {
        if let Some(spec) = sections.iter().find_map(|section| options::find(*section, word)) {
            return self.option_value(spec, false, place);
        }
        let positive = word.strip_prefix("no-").unwrap_or(word);
        let negated = sections.iter().find_map(|section| options::find(*section, positive));
        if let Some(spec) = negated.filter(|spec| spec.kind == Kind::Boolean) {
            return self.option_value(spec, true, place);
        }
        let keyword = sections.first().map_or("", |section| section.keyword());
        if let Some(spec) = negated {
            let kind = ConfigErrorKind::NotNegatable { option: spec.name.to_owned(), allowed: spec.allowed() };
            return Err(ConfigError::new(&place, kind));
        }
        if let Some(error) = misplaced(word, &format!("section {keyword}"), &place) {
            return Err(error);
        }
        let known = sections.iter().flat_map(|section| options::section(*section)).map(|spec| spec.name);
        Err(unknown(&place, word, &format!("section {keyword}"), known))
    }

    fn option_value(
        &mut self,
        spec: &'static OptionSpec,
        is_no: bool,
        place: Place,
    ) -> Result<OptionLine, ConfigError> {
        let (mut value, at) = match spec.kind {
            Kind::Flag => (String::new(), place.clone()),
            Kind::Boolean if is_no => ("no".to_owned(), place.clone()),
            Kind::Boolean if self.peek() == &TokenKind::Sign(';') => ("yes".to_owned(), place.clone()),
            Kind::Words => self.words(spec)?,
            _ => self.word(&format!("the value of {} ({})", spec.name, spec.allowed()))?,
        };
        self.sign(';')?;
        if spec.name == "protocol" {
            // The one choice that the tools take in either case.
            value.make_ascii_uppercase();
        }
        if let Err(kind) = number::check(spec, &value) {
            self.errors.push(ConfigError::new(&at, kind));
        }
        Ok(OptionLine { spec, value, place })
    }

    fn words(&mut self, spec: &OptionSpec) -> Result<(String, Place), ConfigError> {
        let (mut words, place) = self.word(&format!("the value of {}", spec.name))?;
        while self.peek() != &TokenKind::Sign(';') {
            words.push(' ');
            words.push_str(&self.word("a name or ';'")?.0);
        }
        Ok((words, place))
    }

    /// `{ options; plugin { … } }`
    pub(super) fn proxy_options(&mut self, proxy: &mut Proxy) -> Result<(), ConfigError> {
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("a proxy option or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "plugin" => {
                    self.plugins(&mut proxy.plugins)?;
                    proxy.plugin_place.get_or_insert(place);
                }
                _ => proxy.options.0.push(self.option(&[Section::Proxy], &word, place)?),
            }
        }
        Ok(())
    }

    fn plugins(&mut self, plugins: &mut Vec<Vec<String>>) -> Result<(), ConfigError> {
        self.sign('{')?;
        while !self.take('}') {
            let mut line = vec![self.word("a plugin or '}'")?.0];
            while !self.take(';') {
                line.push(self.word("a plugin's setting or ';'")?.0);
            }
            plugins.push(line);
        }
        Ok(())
    }
}
