//! The commands and options of `shimai`, with their help.
//!
//! Verbs, options and their spelling are those of `drbdadm`, so that fingers and scripts need not learn. A target is
//! `RESOURCE`, `RESOURCE/VOLUME` or `all`.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::configuration::StandardInput;
use crate::control::{Options, Request, Verb};

/// Administers volumes that are replicated between two machines.
#[derive(Clone, Debug, Parser)]
#[command(name = "shimai", version, max_term_width = 100, infer_subcommands = false)]
pub struct Arguments {
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of all commands.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The configuration file, `-` for standard input; where DRBD's tools look if not given
    #[arg(long, short = 'c', global = true, value_name = "FILE", env = "SHIMAI_CONFIG")]
    pub config: Option<PathBuf>,
    /// Be this node of the configuration; the host name if not given
    #[arg(long, global = true, value_name = "NAME", env = "SHIMAI_NODE")]
    pub node: Option<String>,
    /// Where the daemon keeps its sockets
    #[arg(long, global = true, value_name = "DIR", env = "SHIMAI_RUN_DIR", default_value = "/run/shimai")]
    pub run_dir: PathBuf,
    /// Give up after so many seconds; 60 if not given, and never for commands that wait
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// A configuration that came from there.
    #[arg(skip)]
    pub(super) standard_input: StandardInput,
}

/// Seconds after which a command that does not wait by nature gives up.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

impl Common {
    /// How long the command may take; `None` is for ever.
    #[must_use]
    pub fn deadline(&self, waits: bool) -> Option<Duration> {
        match self.timeout {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None if waits => None,
            None => Some(TIMEOUT_DEFAULT),
        }
    }

    /// The daemon's admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }
}

/// What a command is about: `RESOURCE`, `RESOURCE/VOLUME` or `all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `None` is all of them.
    pub resource: Option<String>,
    /// `None` is all of the resource's.
    pub volume: Option<u16>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, volume) = match text.split_once('/') {
            None => (text, None),
            Some((name, volume)) => {
                let number = volume.parse().map_err(|_| format!("{volume:?} is no volume number (0 to 65535)"))?;
                (name, Some(number))
            }
        };
        match name {
            "" => Err("the name of a resource is missing".into()),
            "all" if volume.is_some() => Err("`all` has no volumes; name a resource".into()),
            "all" => Ok(Self { resource: None, volume: None }),
            name => Ok(Self { resource: Some(name.into()), volume }),
        }
    }
}

/// The target of a command.
#[derive(Args, Clone, Debug)]
pub struct On {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
}

/// The target of a command that can be forced.
#[derive(Args, Clone, Debug)]
pub struct Forced {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
    /// Although data may be lost, or without the peer's word
    #[arg(long)]
    pub force: bool,
}

/// What `shimai` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Write fresh metadata on the backing disk
    CreateMd(CreateMd),
    /// Attach the disk and look for the peer
    Up(On),
    /// Leave the peer and let the disk go
    Down(On),
    /// Take the backing disk into use
    Attach(On),
    /// Let the backing disk go; a Primary goes on with the peer's
    Detach(Forced),
    /// Look for the peer
    Connect(Connect),
    /// Leave the peer
    Disconnect(Forced),
    /// Become the one that may write
    Primary(Forced),
    /// Become the one that may not write
    Secondary(On),
    /// Declare this node's data worthless and fetch all of it from the peer
    Invalidate(On),
    /// Declare the peer's data worthless and send it all of ours
    InvalidateRemote(On),
    /// Declare this node's data older than another copy
    Outdate(On),
    /// Hold the resync
    PauseSync(On),
    /// Let the resync go on
    ResumeSync(On),
    /// Hold the application's requests
    SuspendIo(On),
    /// Let the application's requests go on
    ResumeIo(On),
    /// Begin a new data generation
    NewCurrentUuid(NewCurrentUuid),
    /// Compare all blocks with the peer's, and mark those that differ
    Verify(Verify),
    /// Take a changed size of the backing disks into use
    #[command(hide = true)]
    Resize(Resize),
    /// Wait until connected
    WaitConnect(On),
    /// Wait until connected and both disks are UpToDate
    WaitSync(On),
    /// Print both roles, as Local/Peer
    Role(On),
    /// Print the connection state
    Cstate(On),
    /// Print both disk states, as Local/Peer
    Dstate(On),
    /// Show resources, their disks and their peers
    Status(Status),
    /// Show the status in the format of /proc/drbd
    Proc,
    /// Print what there is, then state changes as they happen
    #[command(name = "events2", visible_alias = "events")]
    Events(Events),
    /// Explain the state a resource is in, and which command helps
    Why(MaybeOn),
    /// Print the configuration as it was understood
    Dump(MaybeOn),
    /// Look for mistakes and risks in the configuration
    Lint(MaybeOn),
    /// Print a configuration with every option, its default and its limits, to begin with
    SampleConfig,
    /// Bring what runs in line with the configuration
    Adjust(Adjust),
    /// Print the generation identifiers with an explanation
    ShowGi(On),
    /// Print the generation identifiers on one line
    GetGi(On),
    /// Change the generation identifiers of a disk that is not in use
    SetGi(SetGi),
    /// Print the metadata as text
    DumpMd(DumpMd),
    /// Write metadata from the text of dump-md
    RestoreMd(RestoreMd),
    /// Remove the metadata
    WipeMd(Forced),
    /// Apply the activity log to the bitmap, as after a crash
    ApplyAl(On),
    /// End the daemon, after bringing everything down
    Shutdown,
    /// Show a pair at work on this machine, with files for disks
    Demo(Demo),
    /// Measure a volume
    Bench(Bench),
}

/// Options of `create-md`.
#[derive(Args, Clone, Debug)]
pub struct CreateMd {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
    /// Also over metadata or data that is there
    #[arg(long)]
    pub force: bool,
    /// The metadata's version; without it v08 is kept where it is found (a kernel with DRBD 8.4 reads nothing else), and new
    /// disks get v09
    #[arg(long, value_name = "VERSION", value_parser = ["v08", "v09"])]
    pub format: Option<String>,
    /// How many peers the metadata has room for (v09)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=31))]
    pub max_peers: Option<u8>,
    /// The largest request of the peer to assume until it says so itself, in bytes (0 to 1048576)
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    pub peer_max_bio_size: Option<u32>,
    /// Stripes of the activity log (1 to 1024); for metadata on a RAID
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub al_stripes: Option<u32>,
    /// Size of each stripe in KiB (4 to 16777216, a multiple of 4); 32 if not given
    #[arg(long = "al-stripe-size-kB", value_name = "KIB", value_parser = stripe_blocks)]
    pub al_stripe_size: Option<StripeBlocks>,
}

/// The size of a stripe of the activity log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeBlocks(pub u32);

fn stripe_blocks(text: &str) -> Result<StripeBlocks, String> {
    let kibibytes = text.parse().ok().filter(|kibibytes: &u32| (4..=16_777_216).contains(kibibytes));
    let kibibytes = kibibytes.filter(|kibibytes| kibibytes.is_multiple_of(4));
    let blocks = kibibytes.map(|kibibytes| StripeBlocks(kibibytes / 4));
    blocks.ok_or_else(|| format!("{text:?} is no size of a stripe (4 to 16777216 KiB, a multiple of 4)"))
}

/// Options of `connect`.
#[derive(Args, Clone, Debug)]
pub struct Connect {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
    /// In a split brain, give up this node's changes
    #[arg(long)]
    pub discard_my_data: bool,
}

/// Options of `new-current-uuid`.
#[derive(Args, Clone, Debug)]
pub struct NewCurrentUuid {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
    /// Declare both disks equal; on two fresh disks this skips the first resync
    #[arg(long)]
    pub clear_bitmap: bool,
}

/// Options of `verify`.
#[derive(Args, Clone, Debug)]
pub struct Verify {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
    /// Begin at that sector (or so many K, M or G); where the last verify stopped if not given
    #[arg(long, short = 's', value_name = "SECTOR", value_parser = crate::config::sectors)]
    pub start: Option<u64>,
    /// End before that sector; given alone it moves the end of a verify that runs
    #[arg(long, short = 'S', value_name = "SECTOR", value_parser = crate::config::sectors)]
    pub stop: Option<u64>,
}

/// Options of `resize`.
#[derive(Args, Clone, Debug)]
pub struct Resize {
    /// RESOURCE, RESOURCE/VOLUME or all
    pub target: Target,
    /// Do not resync what was added
    #[arg(long)]
    pub assume_clean: bool,
}

/// Options of `status`.
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// RESOURCE or all
    #[arg(default_value = "all")]
    pub target: Target,
    /// Show everything, also what is as it should be
    #[arg(long, short = 'v')]
    pub verbose: bool,
    /// Show counters
    #[arg(long, short = 's')]
    pub statistics: bool,
    /// Print JSON with DRBD's keys
    #[arg(long, short = 'j')]
    pub json: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "always", "never"])]
    pub color: String,
}

/// Options of `events`.
#[derive(Args, Clone, Debug)]
pub struct Events {
    /// RESOURCE or all
    #[arg(default_value = "all")]
    pub target: Target,
    /// End after what there is now
    #[arg(long)]
    pub now: bool,
    /// With counters
    #[arg(long)]
    pub statistics: bool,
    /// Begin each line with the time (UTC)
    #[arg(long)]
    pub timestamps: bool,
    /// Changes tell everything, counters too, not only what has changed
    #[arg(long)]
    pub full: bool,
    /// For each line `n` on standard input, print what has other counters than the last time
    #[arg(long, conflicts_with = "now")]
    pub poll: bool,
}

/// The target of a command that can do without.
#[derive(Args, Clone, Debug)]
pub struct MaybeOn {
    /// RESOURCE or all
    #[arg(default_value = "all")]
    pub target: Target,
}

/// Options of `adjust`.
#[derive(Args, Clone, Debug)]
pub struct Adjust {
    /// RESOURCE or all
    #[arg(default_value = "all")]
    pub target: Target,
    /// Only print what would be done
    #[arg(long, short = 'd')]
    pub dry_run: bool,
}

/// Options of `set-gi`.
#[derive(Args, Clone, Debug)]
pub struct SetGi {
    /// RESOURCE/VOLUME, or RESOURCE if it has one volume
    pub target: Target,
    /// As get-gi prints it; an empty field stays as it is, and fields may be missing at the end
    #[arg(value_name = "IDENTIFIERS")]
    pub line: String,
}

/// Options of `dump-md`.
#[derive(Args, Clone, Debug)]
pub struct DumpMd {
    /// RESOURCE/VOLUME, or RESOURCE if it has one volume
    pub target: Target,
    /// Also while the activity log has not been applied
    #[arg(long)]
    pub force: bool,
}

/// Options of `restore-md`.
#[derive(Args, Clone, Debug)]
pub struct RestoreMd {
    /// RESOURCE/VOLUME, or RESOURCE if it has one volume
    pub target: Target,
    /// The text; standard input if not given, or `-`
    pub file: Option<PathBuf>,
    /// Also over metadata that is there
    #[arg(long)]
    pub force: bool,
}

/// Options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Leave the pair running and its files in place
    #[arg(long)]
    pub keep: bool,
    /// How long the load runs before and after the crash
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

/// What `bench` can do.
const LOADS: [&str; 5] = ["read", "write", "randread", "randwrite", "randrw"];

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// An NBD address (nbd://… or nbd+unix://…), or RESOURCE[/VOLUME] of this node
    pub volume: String,
    /// What to do; what writes destroys what is on the volume
    #[arg(long, value_name = "LOAD", default_value = "randread", value_parser = LOADS)]
    pub load: String,
    /// Bytes of a request; with several sizes each request takes one by chance
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [4096])]
    pub block_bytes: Vec<u32>,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,
    /// Connections, each served by a thread
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub seconds: u64,
    /// Of 100 requests of randrw, how many read
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// A flush after so many writes; 0 is never
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub flush_every: u32,
    /// Of 100 writes, how many have to be stable before they are answered (FUA)
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub fua_percent: u8,
    /// Use only so many bytes from the start of the volume
    #[arg(long, value_name = "BYTES")]
    pub range_bytes: Option<u64>,
    /// Print JSON
    #[arg(long, short = 'j')]
    pub json: bool,
}

impl Command {
    /// The request for the daemon; `None` for what is done without it.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        let (verb, target) = self.simple_request()?;
        let mut options = Options::default();
        match self {
            Self::Detach(forced) | Self::Disconnect(forced) | Self::Primary(forced) => options.force = forced.force,
            Self::Connect(connect) => options.discard_my_data = connect.discard_my_data,
            Self::NewCurrentUuid(new) => options.clear_bitmap = new.clear_bitmap,
            Self::Verify(verify) => (options.start_sector, options.stop_sector) = (verify.start, verify.stop),
            Self::Resize(resize) => options.assume_clean = resize.assume_clean,
            Self::Events(events) => {
                options.now = events.now;
                options.statistics = events.statistics;
                options.timestamps = events.timestamps;
                options.full = events.full;
            }
            _ => {}
        }
        let (resource, volume) = target.map_or((None, None), |target| (target.resource.clone(), target.volume));
        Some(Request { id: 0, verb, resource, volume, options })
    }

    /// What the command is about, where that is part of a configuration.
    pub fn target_mut(&mut self) -> Option<&mut Target> {
        Some(match self {
            Self::CreateMd(CreateMd { target, .. })
            | Self::Connect(Connect { target, .. })
            | Self::NewCurrentUuid(NewCurrentUuid { target, .. })
            | Self::Verify(Verify { target, .. })
            | Self::Resize(Resize { target, .. })
            | Self::Status(Status { target, .. })
            | Self::Events(Events { target, .. })
            | Self::Adjust(Adjust { target, .. })
            | Self::DumpMd(DumpMd { target, .. })
            | Self::RestoreMd(RestoreMd { target, .. })
            | Self::SetGi(SetGi { target, .. }) => target,
            Self::Detach(forced) | Self::Disconnect(forced) | Self::Primary(forced) | Self::WipeMd(forced) => {
                &mut forced.target
            }
            Self::Why(on) | Self::Dump(on) | Self::Lint(on) => &mut on.target,
            Self::Up(on)
            | Self::Down(on)
            | Self::Attach(on)
            | Self::Secondary(on)
            | Self::Invalidate(on)
            | Self::InvalidateRemote(on)
            | Self::Outdate(on)
            | Self::PauseSync(on)
            | Self::ResumeSync(on)
            | Self::SuspendIo(on)
            | Self::ResumeIo(on)
            | Self::WaitConnect(on)
            | Self::WaitSync(on)
            | Self::Role(on)
            | Self::Cstate(on)
            | Self::Dstate(on)
            | Self::ShowGi(on)
            | Self::GetGi(on)
            | Self::ApplyAl(on) => &mut on.target,
            Self::Proc | Self::SampleConfig | Self::Shutdown | Self::Demo(_) | Self::Bench(_) => return None,
        })
    }

    /// Verb and target; `None` for what is done without the daemon.
    fn simple_request(&self) -> Option<(Verb, Option<&Target>)> {
        Some(match self {
            Self::Up(on) => (Verb::Up, Some(&on.target)),
            Self::Down(on) => (Verb::Down, Some(&on.target)),
            Self::Attach(on) => (Verb::Attach, Some(&on.target)),
            Self::Detach(forced) => (Verb::Detach, Some(&forced.target)),
            Self::Connect(connect) => (Verb::Connect, Some(&connect.target)),
            Self::Disconnect(forced) => (Verb::Disconnect, Some(&forced.target)),
            Self::Primary(forced) => (Verb::Primary, Some(&forced.target)),
            Self::Secondary(on) => (Verb::Secondary, Some(&on.target)),
            Self::Invalidate(on) => (Verb::Invalidate, Some(&on.target)),
            Self::InvalidateRemote(on) => (Verb::InvalidateRemote, Some(&on.target)),
            Self::Outdate(on) => (Verb::Outdate, Some(&on.target)),
            Self::PauseSync(on) => (Verb::PauseSync, Some(&on.target)),
            Self::ResumeSync(on) => (Verb::ResumeSync, Some(&on.target)),
            Self::SuspendIo(on) => (Verb::SuspendIo, Some(&on.target)),
            Self::ResumeIo(on) => (Verb::ResumeIo, Some(&on.target)),
            Self::NewCurrentUuid(new) => (Verb::NewCurrentUuid, Some(&new.target)),
            Self::Verify(verify) => (Verb::Verify, Some(&verify.target)),
            Self::Resize(resize) => (Verb::Resize, Some(&resize.target)),
            Self::WaitConnect(on) => (Verb::WaitConnect, Some(&on.target)),
            Self::WaitSync(on) => (Verb::WaitSync, Some(&on.target)),
            Self::Role(on) => (Verb::Role, Some(&on.target)),
            Self::Cstate(on) => (Verb::CState, Some(&on.target)),
            Self::Dstate(on) => (Verb::DState, Some(&on.target)),
            Self::Status(status) => (Verb::Status, Some(&status.target)),
            Self::Proc => (Verb::Status, None),
            Self::Events(events) => (Verb::Events, Some(&events.target)),
            Self::Why(on) => (Verb::Why, Some(&on.target)),
            Self::Adjust(adjust) if adjust.dry_run => (Verb::AdjustPlan, Some(&adjust.target)),
            Self::Adjust(adjust) => (Verb::Adjust, Some(&adjust.target)),
            Self::ShowGi(on) => (Verb::ShowGi, Some(&on.target)),
            Self::GetGi(on) => (Verb::GetGi, Some(&on.target)),
            Self::Shutdown => (Verb::Shutdown, None),
            Self::CreateMd(_)
            | Self::Dump(_)
            | Self::Lint(_)
            | Self::SampleConfig
            | Self::SetGi(_)
            | Self::DumpMd(_)
            | Self::RestoreMd(_)
            | Self::WipeMd(_)
            | Self::ApplyAl(_)
            | Self::Demo(_)
            | Self::Bench(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn request(line: &str) -> Request {
        parse(line).command.request().expect("the command needs the daemon")
    }

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_command_becomes_a_request() {
        let forced = request("shimai primary --force data");
        assert_eq!(
            (forced.verb, forced.resource.as_deref(), forced.options.force),
            (Verb::Primary, Some("data"), true)
        );
        let volume = request("shimai invalidate data/3");
        assert_eq!((volume.resource.as_deref(), volume.volume), (Some("data"), Some(3)));
        assert_eq!(request("shimai up all").resource, None);
        assert_eq!(request("shimai adjust -d data").verb, Verb::AdjustPlan);
        assert_eq!(request("shimai status").verb, Verb::Status);
        assert!(parse("shimai create-md data").command.request().is_none(), "metadata is written without the daemon");
    }

    #[test]
    fn a_place_on_a_volume_is_given_in_sectors_or_bytes() {
        let part = |line: &str| {
            let request = request(line);
            (request.options.start_sector, request.options.stop_sector)
        };
        assert_eq!(part("shimai verify data"), (None, None));
        assert_eq!(part("shimai verify data/0 --start 4096 --stop 1M"), (Some(4096), Some(2048)));
        assert_eq!(part("shimai verify -s 8s -S 4k all"), (Some(8), Some(8)));
        assert!(Arguments::try_parse_from(["shimai", "verify", "data", "--start", "half"]).is_err());
    }

    #[test]
    fn commands_are_spelt_like_the_verbs() {
        for verb in Verb::ALL {
            let is_command = Arguments::command().find_subcommand(verb.name()).is_some();
            let is_internal = matches!(verb, Verb::AdjustPlan | Verb::Version);
            assert!(is_command || is_internal, "{verb} cannot be typed");
        }
    }

    #[test]
    fn what_is_not_served_yet_is_not_offered() {
        let help = Arguments::command().render_help().to_string();
        let offered: Vec<&str> = help.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(!offered.contains(&"resize"), "{help}");
        assert!(offered.contains(&"wait-sync") && offered.contains(&"events2") && offered.contains(&"verify"));
    }

    #[test]
    fn global_options_stand_anywhere() {
        let arguments = parse("shimai status --run-dir /x --json --timeout 5");
        assert_eq!(arguments.common.socket(), PathBuf::from("/x/control.sock"));
        assert_eq!(arguments.common.deadline(true), Some(Duration::from_secs(5)));
    }

    #[test]
    fn only_commands_that_wait_have_no_deadline() {
        let common = parse("shimai role data").common;
        assert_eq!(common.deadline(Verb::Role.waits()), Some(Duration::from_secs(60)));
        assert_eq!(common.deadline(Verb::WaitSync.waits()), None);
    }

    #[test]
    fn a_target_that_cannot_be_is_refused_in_words() {
        for (text, complaint) in [
            ("", "the name of a resource is missing"),
            ("data/x", "\"x\" is no volume number (0 to 65535)"),
            ("all/0", "`all` has no volumes; name a resource"),
        ] {
            assert_eq!(text.parse::<Target>(), Err(complaint.to_owned()));
        }
    }
}
