//! The options of `shimaid`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Runs replicated volumes and serves them over NBD.
#[derive(Clone, Debug, Parser)]
#[command(name = "shimaid", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration file; where DRBD's tools look if not given
    #[arg(long, short = 'c', value_name = "FILE", env = "SHIMAI_CONFIG")]
    pub config: Option<PathBuf>,
    /// Be this node of the configuration; the host name if not given
    #[arg(long, value_name = "NAME", env = "SHIMAI_NODE")]
    pub node: Option<String>,
    /// Where the sockets are
    #[arg(long, value_name = "DIR", env = "SHIMAI_RUN_DIR", default_value = "/run/shimai")]
    pub run_dir: PathBuf,
    /// Reserved for what must survive a restart and is on no disk; made at the start, nothing is kept there yet
    #[arg(long, value_name = "DIR", env = "SHIMAI_STATE_DIR", default_value = "/var/lib/shimai")]
    pub state_dir: PathBuf,
    /// Serve NBD over TCP as well: the first resource of the configuration on this port, the next on the next port
    #[arg(long, value_name = "ADDRESS:PORT", env = "SHIMAI_NBD_LISTEN")]
    pub nbd_listen: Option<SocketAddr>,
    /// Use the page cache for backing stores
    #[arg(long)]
    pub buffered: bool,
    /// End when the process with this number, which has started this one, ends
    #[arg(long, value_name = "PROCESS", hide = true)]
    pub parent: Option<i32>,
    /// Bring all resources up at the start
    #[arg(long)]
    pub up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }
}
