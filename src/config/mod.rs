//! DRBD's configuration language (`.res` files): what was written, what it means, and how to print it.
//!
//! Text becomes tokens (`lexer`), tokens become what was written with places (`syntax`, `parse`), that is checked as a
//! whole (`check`), and for one node it becomes plain values (`resolve`, `value`). `options::TABLE` is the one table of
//! options: parser, range messages, dump, lint and the sample file come from it. DRBD 8.4's and 9's languages are read
//! as one.
//!
//! Invariants: every value in a loaded configuration is within the limits of its option; a dump reads back as the same
//! dump; no text makes the parser panic.
//!
//! Not here: files (the caller supplies [`Files`]), which addresses this host has (the caller says so), changing anything.

mod check;
mod dump;
mod error;
mod files;
mod fill;
mod lexer;
mod lint;
mod number;
pub mod options;
mod parse;
mod parse_connection;
mod parse_host;
mod parse_resource;
mod resolve;
mod sample;
pub mod syntax;
#[cfg(test)]
mod tests;
mod value;

use core::net::IpAddr;

pub use error::{ConfigError, ConfigErrorKind, Place, ResolveError};
pub use files::{Files, MemoryFiles, Unreadable, default_file};
pub use lint::{Lint, Served};
pub use number::sectors;
pub use syntax::{Document, ResourceConfig};
pub use value::*;

/// A loaded configuration.
#[derive(Clone, Debug)]
pub struct Config {
    main_file: String,
    document: Document,
    /// Addresses of this machine.
    addresses: Vec<IpAddr>,
}

impl Config {
    /// Reads `main_file` and what it includes. The errors are never empty.
    pub fn load(main_file: &str, files: &dyn Files) -> Result<Self, Vec<ConfigError>> {
        let (document, mut errors) = parse::document(main_file, files);
        if errors.is_empty() {
            errors = check::document(&document);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self { main_file: main_file.to_owned(), document, addresses: Vec::new() })
    }

    /// Says which addresses this machine has. Floating hosts are found by them.
    #[must_use]
    pub fn at(self, addresses: Vec<IpAddr>) -> Self {
        Self { addresses, ..self }
    }

    /// The file it was loaded from.
    #[must_use]
    pub fn main_file(&self) -> &str {
        &self.main_file
    }

    /// Everything as it was written.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The resources as they were written, in the order of the files.
    #[must_use]
    pub fn resources(&self) -> &[ResourceConfig] {
        &self.document.resources
    }

    /// A resource by name.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<&ResourceConfig> {
        self.document.resources.iter().find(|resource| resource.name == name)
    }

    /// What resource `name` means on `node` (the output of `uname -n`), or as a floating host at [our addresses](Self::at).
    pub fn resolve(&self, name: &str, node: &str) -> Result<Resource, ResolveError> {
        resolve::resource(&self.document, name, node, &self.addresses)
    }

    /// The configuration as text, as `drbdadm dump` would print it on `node`. It reads back as itself.
    #[must_use]
    pub fn dump(&self, node: &str) -> String {
        dump::document(&self.document, &self.main_file, |resource| {
            let is_ignored = matches!(self.resolve(&resource.name, node), Err(ResolveError::NotForThisNode { .. }));
            let is_stacked = resource.hosts.iter().any(|host| matches!(host.kind, syntax::HostKind::Stacked(_)));
            let (ignored, stacked) = (
                if is_ignored { "ignored" } else { "not ignored" },
                if is_stacked { "stacked" } else { "not stacked" },
            );
            let Place { file, line, .. } = &resource.place;
            // A name may hold anything but control characters, so it cannot end the comment.
            let name = dump::named(&resource.name);
            format!("# resource {name} on {node}: {ignored}, {stacked}\n# defined at {file}:{line}\n")
        })
    }

    /// What has no effect here, is not served, or is probably not meant; of all resources, or of one.
    #[must_use]
    pub fn lint(&self, only: Option<&str>, served: &Served) -> Vec<Lint> {
        lint::document(&self.document, only, served)
    }

    /// Every option the language knows.
    #[must_use]
    pub fn options_reference() -> &'static [options::OptionSpec] {
        options::TABLE
    }

    /// A commented configuration with every option and its default.
    #[must_use]
    pub fn sample_file() -> String {
        sample::file()
    }
}
