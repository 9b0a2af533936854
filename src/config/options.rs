//! The one table of options.
//!
//! A row says everything about an option: where it stands, what it takes, what it is without being written, which
//! generation of the language knows it, what it is for in a sentence, and whether this product acts on it today. The
//! parser, the messages about ranges, the dump, `lint` and the sample file read this table; nothing else knows names or
//! limits.

use super::value::{
    AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, Fencing, OnCongestion, OnIoError, OnNoData, OnSuspendedPrimaryOutdated,
    ReadBalancing, ReplicationProtocol, RrConflict,
};

/// Where options stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `global { }`
    Global,
    /// `options { }`
    Options,
    /// `net { }`
    Net,
    /// `disk { }`
    Disk,
    /// `startup { }`
    Startup,
    /// `proxy { }`
    Proxy,
    /// `handlers { }`
    Handlers,
}

impl Section {
    /// All sections, in the order a dump prints them.
    pub const ALL: &'static [Self] =
        &[Self::Global, Self::Options, Self::Net, Self::Disk, Self::Startup, Self::Proxy, Self::Handlers];

    /// The keyword.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Options => "options",
            Self::Net => "net",
            Self::Disk => "disk",
            Self::Startup => "startup",
            Self::Proxy => "proxy",
            Self::Handlers => "handlers",
        }
    }
}

/// Which language knows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// DRBD 8.4 only.
    Eight,
    /// DRBD 9 only.
    Nine,
    /// Both.
    Both,
}

/// What a number without suffix counts, and therefore what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    One,
    /// Bytes.
    Byte,
    /// Sectors of 512 bytes.
    Sector,
    /// KiB.
    Kibibyte,
    /// KiB a second.
    KibibytePerSecond,
    /// Seconds.
    Second,
    /// Tenths of a second.
    Tenth,
    /// Thousandths of a second.
    Millisecond,
    /// Pages of 4 KiB.
    Page,
}

impl Unit {
    /// Bytes in one, where a suffix means bytes; 1 elsewhere.
    #[must_use]
    pub const fn scale(self) -> u64 {
        match self {
            Self::Sector => 512,
            Self::Kibibyte | Self::KibibytePerSecond => 1024,
            _ => 1,
        }
    }

    /// The suffix that means the unit itself.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Sector => "s",
            Self::Kibibyte | Self::KibibytePerSecond => "k",
            _ => "",
        }
    }

    /// What is counted, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Byte => "bytes",
            Self::Sector => "sectors",
            Self::Kibibyte => "KiB",
            Self::KibibytePerSecond => "KiB/s",
            Self::Second => "s",
            Self::Tenth => "tenths of a second",
            Self::Millisecond => "ms",
            Self::Page => "pages of 4 KiB",
        }
    }
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Number {
        /// What it counts.
        unit: Unit,
        /// Least, in that unit.
        min: u64,
        /// Most, in that unit.
        max: u64,
    },
    /// A number or one of some words.
    NumberOr {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
        /// The words.
        words: &'static [&'static str],
    },
    /// One of some words.
    Choice(&'static [&'static str]),
    /// `yes` or `no`; bare means yes, `no-NAME` means no.
    Boolean,
    /// Text of at most that many bytes.
    Text(usize),
    /// Stands alone.
    Flag,
    /// One word or several.
    Words,
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Where it stands.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when not written, as it would be written; `None` for unset.
    pub default: Option<&'static str>,
    /// Which language knows it.
    pub generation: Generation,
    /// Older names.
    pub aliases: &'static [&'static str],
    /// Whether this product acts on it today.
    pub effect: bool,
    /// What it is for.
    pub help: &'static str,
}

impl OptionSpec {
    /// What it takes, for messages: `1 to 600 (tenths of a second)`, `A, B, C`, `yes, no`.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Number { unit, min, max } => {
                let suffix = unit.suffix();
                let words = if unit.words().is_empty() { String::new() } else { format!(" ({})", unit.words()) };
                format!("{min}{suffix} to {max}{suffix}{words}")
            }
            Kind::NumberOr { min, max, words } => format!("{}, {min} to {max}", words.join(", ")),
            Kind::Choice(words) => words.join(", "),
            Kind::Boolean => "yes, no".to_owned(),
            Kind::Text(limit) => format!("text of at most {limit} bytes"),
            Kind::Flag => "no value".to_owned(),
            Kind::Words => "names".to_owned(),
        }
    }
}

/// Finds `name` (or an older name of it) in a section.
#[must_use]
pub fn find(section: Section, name: &str) -> Option<&'static OptionSpec> {
    TABLE.iter().find(|spec| spec.section == section && (spec.name == name || spec.aliases.contains(&name)))
}

/// The options of a section, in the order of the table.
pub fn section(section: Section) -> impl Iterator<Item = &'static OptionSpec> {
    TABLE.iter().filter(move |spec| spec.section == section)
}

/// One row, short enough for a line or two.
macro_rules! table {
    ($($section:ident { $(
        $name:literal $kind:expr, $default:expr, $generation:ident, $effect:literal, [$($alias:literal)*] $help:literal;
    )+ })+) => {
        /// Every option of both languages.
        pub const TABLE: &[OptionSpec] = &[$($(OptionSpec {
            section: Section::$section,
            name: $name,
            kind: $kind,
            default: $default,
            generation: Generation::$generation,
            aliases: &[$($alias),*],
            effect: $effect,
            help: $help,
        },)+)+];
    };
}

const fn number(unit: Unit, min: u64, max: u64) -> Kind {
    Kind::Number { unit, min, max }
}

const HANDLER: Kind = Kind::Text(super::lexer::STRING_LIMIT);
const NAME: Kind = Kind::Text(63);
const QUORUM: Kind = Kind::NumberOr { min: 1, max: 32, words: &["off", "majority", "all"] };
const YES: Option<&str> = Some("yes");
const NO: Option<&str> = Some("no");

table! {
    Global {
        "usage-count" Kind::Choice(&["yes", "no", "ask"]), Some("ask"), Both, false, []
            "Take part in counting installations; nothing is ever reported from here.";
        "minor-count" number(Unit::One, 1, 255), Some("32"), Both, false, [] "How many devices to expect.";
        "dialog-refresh" number(Unit::Second, 0, 600), Some("1"), Both, false, []
            "How often the countdown at start is redrawn; 0 is never.";
        "disable-ip-verification" Kind::Flag, None, Both, false, []
            "Do not check that our address belongs to this host.";
        "udev-always-use-vnr" Kind::Flag, None, Both, false, []
            "Name links by resource and volume, even of single volumes.";
        "cmd-timeout-short" number(Unit::Second, 0, 900), Some("5"), Both, false, []
            "Limit of quick administrative commands.";
        "cmd-timeout-medium" number(Unit::Second, 0, 900), Some("121"), Both, false, []
            "Limit of administrative commands that touch disk or network.";
        "cmd-timeout-long" number(Unit::Second, 0, 900), Some("600"), Both, false, []
            "Limit of long administrative commands.";
    }
    Options {
        "cpu-mask" Kind::Text(4096), None, Both, false, []
            "Processors for the resource's threads, as a hexadecimal mask.";
        "on-no-data-accessible" Kind::Choice(OnNoData::WORDS), Some("io-error"), Both, true, []
            "What a request gets when no good copy is reachable.";
        "auto-promote" Kind::Boolean, YES, Nine, false, [] "Become Primary when the device is opened for writing.";
        "peer-ack-window" number(Unit::Sector, 2048, 204_800), Some("4096"), Nine, false, []
            "How much may be written before peers are told which writes reached everyone.";
        "peer-ack-delay" number(Unit::Millisecond, 1, 10_000), Some("100"), Nine, false, []
            "How long an idle Primary waits before it tells peers which writes reached everyone.";
        "twopc-timeout" number(Unit::Tenth, 50, 600), Some("300"), Nine, false, []
            "Limit of a change all nodes must agree on.";
        "twopc-retry-timeout" number(Unit::Tenth, 1, 50), Some("1"), Nine, false, []
            "Pause before a change that collided with another is tried again.";
        "auto-promote-timeout" number(Unit::Tenth, 0, 600), Some("20"), Nine, false, []
            "How long opening the device waits until it may be promoted.";
        "max-io-depth" number(Unit::One, 4, 4_294_967_295), Some("8000"), Nine, false, []
            "Requests in flight before new ones wait.";
        "quorum" QUORUM, Some("off"), Nine, false, [] "How many nodes must be reachable to write.";
        "on-no-quorum" Kind::Choice(OnNoData::WORDS), Some("suspend-io"), Nine, false, []
            "What a request gets without quorum.";
        "quorum-minimum-redundancy" QUORUM, Some("off"), Nine, false, [] "How many of the quorum must hold good data.";
        "on-suspended-primary-outdated" Kind::Choice(OnSuspendedPrimaryOutdated::WORDS), Some("disconnect"), Nine, false, []

            "What becomes of a suspended Primary when its peers went on without it.";
        "drbd8-api-compatibility" Kind::Boolean, NO, Nine, false, []
            "Answer tools of the older generation for this resource.";
    }
    Net {
        "protocol" Kind::Choice(ReplicationProtocol::WORDS), Some("C"), Both, true, []
            "When a write is done: A handed to the network, B received by the peer, C written by the peer.";
        "timeout" number(Unit::Tenth, 1, 600), Some("60"), Both, true, []
            "How long a peer may take to answer; below connect-int and ping-int.";
        "max-epoch-size" number(Unit::One, 1, 20_000), Some("2048"), Both, true, [] "Writes between two barriers.";
        "connect-int" number(Unit::Second, 1, 120), Some("10"), Both, true, [] "Pause between attempts to connect.";
        "ping-int" number(Unit::Second, 1, 120), Some("10"), Both, true, [] "How long a quiet link stays unchecked.";
        "sndbuf-size" number(Unit::Byte, 0, 10 << 20), Some("0"), Both, true, []
            "Send buffer; 0 lets the system choose.";
        "rcvbuf-size" number(Unit::Byte, 0, 10 << 20), Some("0"), Both, true, []
            "Receive buffer; 0 lets the system choose.";
        "ko-count" number(Unit::One, 0, 200), Some("7"), Both, true, []
            "After how many missed timeouts a peer is dropped; 0 is never.";
        "allow-two-primaries" Kind::Boolean, NO, Both, false, [] "Both nodes may be Primary at once; needs protocol C.";
        "cram-hmac-alg" NAME, None, Both, true, [] "Digest with which peers prove that they know the secret.";
        "shared-secret" NAME, None, Both, true, [] "The secret of that proof.";
        "after-sb-0pri" Kind::Choice(AfterSb0Pri::WORDS), Some("disconnect"), Both, true, []
            "Who loses after split brain when no node is Primary.";
        "after-sb-1pri" Kind::Choice(AfterSb1Pri::WORDS), Some("disconnect"), Both, true, []
            "Who loses after split brain when one node is Primary.";
        "after-sb-2pri" Kind::Choice(AfterSb2Pri::WORDS), Some("disconnect"), Both, true, []
            "Who loses after split brain when both nodes are Primary.";
        "always-asbp" Kind::Boolean, NO, Both, true, []
            "Decide split brain also when older history cannot be excluded.";
        "rr-conflict" Kind::Choice(RrConflict::WORDS), Some("disconnect"), Both, true, []
            "What happens when a Primary would have to take the peer's data.";
        "ping-timeout" number(Unit::Tenth, 1, 300), Some("5"), Both, true, [] "How long a ping may stay unanswered.";
        "data-integrity-alg" NAME, None, Both, true, [] "Digest sent with every write and checked by the peer.";
        "tcp-cork" Kind::Boolean, YES, Both, false, [] "Let the system gather small packets.";
        "on-congestion" Kind::Choice(OnCongestion::WORDS), Some("block"), Both, false, []
            "What to do when the link cannot keep up; pull-ahead needs protocol A.";
        "congestion-fill" number(Unit::Sector, 0, 20_971_520), Some("0"), Both, false, []
            "Data in flight that counts as congestion.";
        "congestion-extents" number(Unit::One, 67, 65_534), Some("1237"), Both, false, []
            "Active extents that count as congestion.";
        "csums-alg" NAME, None, Both, true, [] "Digest that spares the resync of blocks that are equal.";
        "csums-after-crash-only" Kind::Boolean, NO, Both, false, [] "Compare digests only in the resync after a crash.";
        "verify-alg" NAME, None, Both, true, []
            "Digest of online verification; both nodes must name the same one to connect.";
        "use-rle" Kind::Boolean, YES, Both, true, [] "Compress bitmaps on the wire.";
        "socket-check-timeout" number(Unit::Tenth, 0, 300), Some("0"), Both, false, []
            "Limit of the first exchange on a new socket; 0 is ping-timeout.";
        "fencing" Kind::Choice(Fencing::WORDS), Some("dont-care"), Nine, true, []
            "What a Primary does before it goes on without this peer.";
        "max-buffers" number(Unit::Page, 32, 131_072), Some("2048"), Both, true, []
            "Memory for data received from the peer.";
        "unplug-watermark" number(Unit::One, 1, 131_072), Some("128"), Eight, false, []
            "Requests waiting before the backing device is told to begin.";
        "allow-remote-read" Kind::Boolean, YES, Nine, false, []
            "Read from this peer when the local disk cannot answer.";
        "transport" NAME, Some("tcp"), Nine, false, [] "What carries the connection.";
        "load-balance-paths" Kind::Boolean, NO, Nine, false, [] "Use all paths at once.";
        "tls" Kind::Boolean, NO, Nine, false, [] "Encrypt the connection.";
        "tls-keyring" number(Unit::One, 0, 4_294_967_295), None, Nine, false, [] "Kernel keyring with the keys.";
        "tls-privkey" number(Unit::One, 0, 4_294_967_295), None, Nine, false, [] "Kernel key that is the private key.";
        "tls-certificate" number(Unit::One, 0, 4_294_967_295), None, Nine, false, []
            "Kernel key that is the certificate.";
        "rdma-ctrl-rcvbuf-size" number(Unit::Byte, 0, 10 << 20), Some("0"), Nine, false, []
            "Receive buffer of the RDMA control stream.";
        "rdma-ctrl-sndbuf-size" number(Unit::Byte, 0, 10 << 20), Some("0"), Nine, false, []
            "Send buffer of the RDMA control stream.";
        "_name" NAME, None, Nine, false, [] "The peer's name as shown in status.";
    }
    Disk {
        "size" number(Unit::Sector, 0, 1 << 41), Some("0"), Both, true, []
            "Size of the device; 0 is all the backing device has.";
        "max-bio-bvecs" number(Unit::One, 0, 128), Some("0"), Eight, false, []
            "Pieces in one request to the backing device.";
        "on-io-error" Kind::Choice(OnIoError::WORDS), Some("detach"), Both, true, []
            "What to do when the backing device fails.";
        "fencing" Kind::Choice(Fencing::WORDS), Some("dont-care"), Eight, true, []
            "What a Primary does before it goes on without its peer.";
        "disk-barrier" Kind::Boolean, NO, Both, false, [] "Order writes by barriers of the backing device.";
        "disk-flushes" Kind::Boolean, YES, Both, true, [] "Flush the backing device between epochs.";
        "disk-drain" Kind::Boolean, YES, Both, false, [] "Let an epoch's writes finish before the next ones begin.";
        "md-flushes" Kind::Boolean, YES, Both, true, [] "Flush the metadata device after writing to it.";
        "resync-after" Kind::Text(255), None, Both, false, ["after"] "Resynchronise only after this resource has.";
        "al-extents" number(Unit::One, 0, 65_534), Some("1237"), Both, true, []
            "Extents of 4 MiB that may be written to at once, at least 67; more is rarer records and longer crash resync.";
        "al-updates" Kind::Boolean, YES, Both, false, []
            "Keep the activity log; without it a crash means a full resync.";
        "discard-zeroes-if-aligned" Kind::Boolean, YES, Both, false, []
            "Use discards of aligned ranges to write zeroes.";
        "disable-write-same" Kind::Boolean, NO, Both, false, [] "Never pass write-same to the backing device.";
        "disk-timeout" number(Unit::Tenth, 0, 6000), Some("0"), Both, false, []
            "Give up a backing device that does not answer; dangerous, 0 is never.";
        "read-balancing" Kind::Choice(ReadBalancing::WORDS), Some("prefer-local"), Both, false, [] "Who answers reads.";
        "rs-discard-granularity" number(Unit::Byte, 0, 1 << 20), Some("0"), Both, false, []
            "Resynchronise zeroed ranges of this size by discarding; 0 is never.";
        "resync-rate" number(Unit::KibibytePerSecond, 1, 8_388_608), Some("250"), Both, true, ["rate"]
            "Resync speed while c-plan-ahead is 0, and at its start.";
        "c-plan-ahead" number(Unit::Tenth, 0, 300), Some("20"), Both, true, []
            "How far resync speed is planned; 0 is a fixed rate.";
        "c-delay-target" number(Unit::Tenth, 1, 100), Some("10"), Both, true, []
            "Delay that resync requests aim at, without c-fill-target.";
        "c-fill-target" number(Unit::Sector, 0, 1_048_576), Some("100"), Both, true, []
            "Resync data to keep in flight.";
        "c-max-rate" number(Unit::KibibytePerSecond, 0, 4_194_304), Some("102400"), Both, true, [] "Most resync speed.";
        "c-min-rate" number(Unit::KibibytePerSecond, 0, 4_194_304), Some("250"), Both, true, []
            "Resync speed that applications do not push aside; 0 lets resync ignore applications.";
        "bitmap" Kind::Boolean, YES, Nine, false, [] "Keep a bitmap for this peer.";
        "resync-without-replication" Kind::Boolean, YES, Nine, false, []
            "Resynchronise also with a peer that is not replicated to.";
        "peer-tiebreaker" Kind::Boolean, YES, Nine, false, [] "Count this diskless peer when quorum is even.";
        "block-size" number(Unit::Byte, 512, 4096), Some("512"), Nine, false, [] "Logical block size of the device.";
        "discard-granularity" number(Unit::Byte, 0, 128 << 20), None, Nine, false, []
            "Discard granularity of the device; 0 offers no discard.";
        "max-bio-size" number(Unit::Byte, 512, 1 << 20), Some("1048576"), Nine, false, []
            "Largest request of the device.";
        "diskless" Kind::Boolean, NO, Nine, false, [] "The node has no disk on purpose.";
    }
    Startup {
        "wfc-timeout" number(Unit::Second, 0, 300_000), Some("0"), Both, false, []
            "How long starting waits for peers; 0 is for ever.";
        "degr-wfc-timeout" number(Unit::Second, 0, 300_000), Some("0"), Both, false, []
            "The same, if this node was alone when it went down.";
        "outdated-wfc-timeout" number(Unit::Second, 0, 300_000), Some("0"), Both, false, []
            "The same, if the peer is known to be outdated.";
        "wait-after-sb" Kind::Boolean, NO, Both, false, [] "Keep waiting when split brain keeps the nodes apart.";
        "stacked-timeouts" Kind::Flag, None, Both, false, [] "Use these timeouts also for stacked resources.";
        "become-primary-on" Kind::Words, None, Eight, false, []
            "Nodes (or both) that become Primary when the service starts.";
    }
    Proxy {
        "memlimit" number(Unit::Byte, 0, 1 << 63), None, Both, false, [] "Memory of the long-distance proxy.";
        "read-loops" number(Unit::One, 0, 1 << 31), None, Both, false, [] "Reads of the proxy in a row.";
        "compression" NAME, None, Both, false, [] "Compress in the proxy.";
        "bwlimit" number(Unit::Byte, 0, 1 << 63), None, Both, false, [] "Bandwidth limit of the proxy.";
        "sndbuf-size" number(Unit::Byte, 0, 1 << 63), None, Both, false, [] "Send buffer of the proxy.";
        "rcvbuf-size" number(Unit::Byte, 0, 1 << 63), None, Both, false, [] "Receive buffer of the proxy.";
        "ping-timeout" number(Unit::Tenth, 0, 300), None, Both, false, [] "Ping limit of the proxy.";
        "sockopt-keepalive" Kind::Boolean, None, Both, false, [] "Keep the proxy's idle sockets alive.";
    }
    Handlers {
        "pri-on-incon-degr" HANDLER, None, Both, true, [] "A Primary has lost its last good copy.";
        "pri-lost-after-sb" HANDLER, None, Both, true, [] "A Primary lost after split brain and could not step down.";
        "pri-lost" HANDLER, None, Both, true, [] "A Primary would have to take the peer's data.";
        "initial-split-brain" HANDLER, None, Both, true, [] "Split brain was found; it may still be resolved.";
        "split-brain" HANDLER, None, Both, true, [] "Split brain was found and could not be resolved.";
        "fence-peer" HANDLER, None, Both, true, ["outdate-peer"] "A Primary needs to know that its peer cannot write.";
        "unfence-peer" HANDLER, None, Both, true, [] "The peer has good data again.";
        "local-io-error" HANDLER, None, Both, true, [] "The backing device failed.";
        "before-resync-target" HANDLER, None, Both, true, [] "This node is about to take the peer's data.";
        "after-resync-target" HANDLER, None, Both, true, [] "This node has taken the peer's data.";
        "before-resync-source" HANDLER, None, Both, true, [] "This node is about to give its data.";
        "out-of-sync" HANDLER, None, Both, true, [] "Online verification found differences.";
        "quorum-lost" HANDLER, None, Nine, false, [] "A volume of a Primary lost its quorum.";
        "disconnected" HANDLER, None, Nine, false, [] "A connection went down.";
    }
}

/// The name of `names` nearest to `name`, if it is near enough to be a typing error.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    names
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// How many characters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().take(64).collect(), right.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, r) in right.iter().enumerate() {
            let mut best = (last[j + 1] + 1).min(row[j] + 1).min(last[j] + usize::from(l != r));
            if i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::number;

    #[test]
    fn every_name_stands_once_in_its_section() {
        for (at, spec) in TABLE.iter().enumerate() {
            for name in spec.aliases.iter().chain([&spec.name]) {
                let found = TABLE.iter().position(|other| {
                    other.section == spec.section && (other.name == *name || other.aliases.contains(name))
                });
                assert_eq!(found, Some(at), "{name}");
            }
        }
    }

    #[test]
    fn every_default_is_allowed() {
        for spec in TABLE {
            if let Some(default) = spec.default {
                assert_eq!(number::check(spec, default), Ok(()), "{}", spec.name);
            }
        }
    }

    #[test]
    fn a_typing_error_is_told_the_nearest_name() {
        let names = || section(Section::Net).map(|spec| spec.name);
        assert_eq!(nearest("ping-itn", names()).as_deref(), Some("ping-int"));
        assert_eq!(nearest("conect-int", names()).as_deref(), Some("connect-int"));
        assert_eq!(nearest("zebra", names()), None);
    }
}
