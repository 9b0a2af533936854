//! The configuration files of a pair, in the spelling of DRBD 8.4 or 9.

use super::network::address;
use std::fmt::Write;
use std::path::PathBuf;

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
    /// As drbdmeta spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V08 => "v08",
            Self::V09 => "v09",
        }
    }
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
    pub(crate) format: Format,
    pub(crate) style: Style,
    /// Statements for `net`.
    pub(crate) net: Vec<&'static str>,
    /// Statements for `disk`.
    pub(crate) disk: Vec<&'static str>,
    /// Without the timeouts and rates that make tests short.
    pub(crate) is_plain: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            protocol: 'C',
            volumes: 1,
            disk_mib: 64,
            format: Format::V08,
            style: Style::Eight,
            net: Vec::new(),
            disk: Vec::new(),
            is_plain: false,
        }
    }
}

/// A dead peer is noticed within four seconds and looked for every two.
const QUICK_NET: &[&str] = &["timeout 15", "ping-int 2", "connect-int 2", "ping-timeout 10", "ko-count 3"];
/// The resync begins at full speed.
const QUICK_DISK: &[&str] = &["c-plan-ahead 0", "resync-rate 400M"];

impl Options {
    /// The text for both nodes; `disks` are each node's, by volume.
    pub(crate) fn text(&self, disks: &[Vec<PathBuf>; 2]) -> String {
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
        for (side, disks) in disks.iter().enumerate() {
            self.host(&mut text, side, disks);
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

    fn host(&self, text: &mut String, side: usize, disks: &[PathBuf]) {
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
        for (volume, disk) in disks.iter().enumerate() {
            let is_implicit = self.style == Style::Eight && disks.len() == 1;
            let indent = if is_implicit { 8 } else { 12 };
            if !is_implicit {
                line(8, format!("volume {volume} {{"));
            }
            line(indent, format!("device /dev/drbd{volume};"));
            line(indent, format!("disk {};", disk.display()));
            line(indent, "meta-disk internal;".into());
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
