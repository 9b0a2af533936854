//! The configuration files of a pair, in the spelling of DRBD 8.4 or 9.

use super::network::address;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The resource of all tests.
pub(crate) const RESOURCE: &str = "data";
/// The names of the two nodes.
pub(crate) const NODES: [&str; 2] = ["alpha", "bravo"];
/// The replication port.
pub(crate) const PORT: u16 = 7789;

/// Version of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Of DRBD 8.4.
    V08,
    /// Of DRBD 9.
    V09,
}

impl Format {
    /// An old pair.
    pub(crate) const BOTH_V08: [Self; 2] = [Self::V08; 2];
    /// What new disks get.
    pub(crate) const BOTH_V09: [Self; 2] = [Self::V09; 2];
    /// A pair of which one node was made anew.
    pub(crate) const MIXED: [Self; 2] = [Self::V08, Self::V09];

    /// As drbdmeta spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V08 => "v08",
            Self::V09 => "v09",
        }
    }
}

/// Where the metadata lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaDisk {
    /// At the end of the backing file.
    Internal,
    /// In a file of its own, of any size.
    Flexible,
    /// In a slot of a file of its own.
    Indexed,
}

/// The slot of indexed metadata; not the first, so that an offset is in the game.
pub(crate) const INDEX: u32 = 1;

impl MetaDisk {
    /// As drbdmeta spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Flexible => "flex-external",
            Self::Indexed => "1",
        }
    }

    /// Size of the file it needs; every slot of an indexed one has 128 MiB.
    pub(crate) fn file_bytes(self) -> u64 {
        match self {
            Self::Internal => 0,
            Self::Flexible => 4 << 20,
            Self::Indexed => u64::from(INDEX + 1) * (128 << 20),
        }
    }

    fn statement(self, file: &Path) -> String {
        match self {
            Self::Internal => "meta-disk internal;".into(),
            Self::Flexible => format!("meta-disk {};", file.display()),
            Self::Indexed => format!("meta-disk {} [{INDEX}];", file.display()),
        }
    }
}

/// The files of one volume on one node.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) disk: PathBuf,
    /// The same, if the metadata is internal.
    pub(crate) metadata: PathBuf,
}

/// Spelling of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `device`, `disk`, `address` and `meta-disk` in each host.
    Eight,
    /// Node ids, volumes and a connection.
    Nine,
}

/// What a test wants to be unlike the usual.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) protocol: char,
    pub(crate) volumes: u16,
    pub(crate) disk_mib: u64,
    /// Of alpha's and of bravo's metadata.
    pub(crate) formats: [Format; 2],
    pub(crate) meta_disk: MetaDisk,
    pub(crate) style: Style,
    /// Statements for `net`.
    pub(crate) net: Vec<&'static str>,
    /// Statements for `disk`.
    pub(crate) disk: Vec<&'static str>,
    /// Statements for `handlers`.
    pub(crate) handlers: Vec<&'static str>,
    /// Without the timeouts and rates that make tests short.
    pub(crate) is_plain: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: 'C',
            volumes: 1,
            disk_mib: 64,
            formats: Format::BOTH_V09,
            meta_disk: MetaDisk::Internal,
            style: Style::Eight,
            net: Vec::new(),
            disk: Vec::new(),
            handlers: Vec::new(),
            is_plain: false,
        }
    }
}

/// A dead peer is noticed within four seconds and looked for every two. One whose disk stalls is not given up for a minute.
const QUICK_NET: &[&str] = &["timeout 15", "ping-int 2", "connect-int 2", "ping-timeout 10", "ko-count 40"];
/// The resync begins at full speed.
const QUICK_DISK: &[&str] = &["c-plan-ahead 0", "resync-rate 400M"];

impl Options {
    /// The text for both nodes; `files` are each node's, by volume.
    pub(crate) fn text(&self, files: &[Vec<Files>; 2]) -> String {
        let protocol = format!("protocol {}", self.protocol);
        let mut net = vec![protocol.as_str()];
        let mut disk = Vec::new();
        if !self.is_plain {
            net.extend(QUICK_NET.iter().filter(|quick| !is_overridden(quick, &self.net)));
            disk.extend(QUICK_DISK.iter().filter(|quick| !is_overridden(quick, &self.disk)));
        }
        net.extend(&self.net);
        disk.extend(&self.disk);
        let mut text = format!("global {{\n    usage-count no;\n}}\n\nresource {RESOURCE} {{\n");
        section(&mut text, "net", &net);
        section(&mut text, "disk", &disk);
        section(&mut text, "handlers", &self.handlers);
        for (side, files) in files.iter().enumerate() {
            self.host(&mut text, side, files);
        }
        if self.style == Style::Nine {
            text.push_str("    connection {\n");
            for (side, node) in NODES.iter().enumerate() {
                writeln!(text, "        host {node} address {}:{PORT};", address(side)).expect("a String takes all");
            }
            text.push_str("    }\n");
        }
        text.push_str("}\n");
        text
    }

    fn host(&self, text: &mut String, side: usize, files: &[Files]) {
        let mut line = |indent: usize, words: String| {
            text.extend(std::iter::repeat_n(' ', indent));
            text.push_str(&words);
            text.push('\n');
        };
        line(4, format!("on {} {{", NODES[side]));
        match self.style {
            Style::Nine => line(8, format!("node-id {side};")),
            Style::Eight => line(8, format!("address {}:{PORT};", address(side))),
        }
        for (volume, files) in files.iter().enumerate() {
            let is_implicit = self.style == Style::Eight && self.volumes == 1;
            let indent = if is_implicit { 8 } else { 12 };
            if !is_implicit {
                line(8, format!("volume {volume} {{"));
            }
            line(indent, format!("device /dev/drbd{volume};"));
            line(indent, format!("disk {};", files.disk.display()));
            line(indent, self.meta_disk.statement(&files.metadata));
            if !is_implicit {
                line(8, "}".into());
            }
        }
        line(4, "}".into());
    }
}

/// Whether the test sets the option itself.
fn is_overridden(statement: &str, by: &[&str]) -> bool {
    let name = |statement: &str| statement.split(' ').next().map(str::to_owned);
    by.iter().any(|other| name(other) == name(statement))
}

fn section(text: &mut String, name: &str, statements: &[&str]) {
    if !statements.is_empty() {
        let lines: String = statements.iter().map(|statement| format!("        {statement};\n")).collect();
        writeln!(text, "    {name} {{\n{lines}    }}").expect("a String takes all");
    }
}
