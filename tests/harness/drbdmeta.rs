//! The real drbdmeta, the judge of what is on a node's disks.

use super::configuration::{Format, MetaDisk};
use super::load::BLOCK;
use super::tools::{run, tool};
use std::fs;
use std::path::{Path, PathBuf};

/// Where metadata lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) format: Format,
    pub(crate) meta_disk: MetaDisk,
    /// The backing file itself, if the metadata is internal.
    pub(crate) file: PathBuf,
}

impl Place {
    /// Runs drbdmeta on it, which must succeed; what it printed.
    pub(crate) fn drbdmeta(&self, arguments: &[&str]) -> String {
        let mut command = tool("drbdmeta");
        command.args(["--force", "-", self.format.name()]).arg(&self.file).arg(self.meta_disk.name());
        run(command.args(arguments))
    }

    /// The metadata in a copy of the file, for what changes it.
    pub(crate) fn copied_to(&self, copy: &Path) -> Self {
        fs::copy(&self.file, copy).expect("there is room");
        Self { file: copy.to_owned(), ..self.clone() }
    }

    /// Sets the generations that are kept for the one peer.
    pub(crate) fn set_generations(&self, generations: &str) {
        let peer = self.peer();
        self.drbdmeta(&[&["set-gi", generations], &peer.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    }

    /// The generations that are kept for the one peer.
    pub(crate) fn generations(&self) -> String {
        let peer = self.peer();
        self.drbdmeta(&[&["get-gi"], &peer.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
    }

    /// How drbdmeta is told which peer is meant; v08 has only one.
    fn peer(&self) -> Vec<String> {
        if self.format == Format::V08 {
            return Vec::new();
        }
        let dump = self.drbdmeta(&["dump-md"]);
        let id = dump.lines().find_map(|line| line.trim().strip_prefix("node-id ")?.strip_suffix(';'));
        let own: u32 = id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no node id in\n{dump}"));
        vec!["--node-id".into(), (1 - own).to_string()]
    }

    /// KiB that the metadata of a dead node names as possibly different, by bitmap and activity log.
    pub(crate) fn named_kib(&self, copy: &Path) -> u64 {
        let copy = self.copied_to(copy);
        copy.drbdmeta(&["apply-al"]);
        copy.marked_kib()
    }

    /// KiB that the bitmap alone names, also while the node is at work.
    pub(crate) fn marked_kib(&self) -> u64 {
        let dump = self.drbdmeta(&["dump-md"]);
        let bits = dump.lines().filter_map(|line| line.trim().strip_prefix("# bits-set ")?.strip_suffix(';'));
        let bits: Vec<u64> = bits.map(|bits| bits.parse().expect("drbdmeta prints a number")).collect();
        assert!(!bits.is_empty(), "no number of bits in\n{dump}");
        bits.iter().sum::<u64>() * BLOCK / 1024
    }
}
