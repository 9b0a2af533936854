//! Options of one place, inherited and defaulted, as plain values.

use std::collections::BTreeMap;
use std::time::Duration;

use super::number;
use super::options::{self, Kind, Section, Unit};
use super::syntax::{OptionLine, Options};
use super::value::{
    AfterSb0Pri, AfterSb1Pri, AfterSb2Pri, DiskOptions, Fencing, NetOptions, OnCongestion, OnIoError, OnNoData,
    OnSuspendedPrimaryOutdated, PeerDeviceOptions, Quorum, ReadBalancing, ReplicationProtocol, ResourceOptions,
    RrConflict, Startup,
};

/// Files of DRBD 8.3 have smaller activity logs than today's format takes; like the tools, we read them and use this.
const AL_EXTENTS_MIN: u32 = 67;

/// Options of one section from several places; later places win.
#[derive(Clone)]
pub(super) struct Settings<'a> {
    section: Section,
    lines: BTreeMap<&'static str, &'a OptionLine>,
}

impl<'a> Settings<'a> {
    /// From the most general place to the most specific one.
    pub(super) fn new(section: Section, places: &[&'a Options]) -> Self {
        let lines = places.iter().flat_map(|options| &options.0);
        Self { section, lines: lines.map(|line| (line.spec.name, line)).collect() }
    }

    /// The line that counts for `name`.
    pub(super) fn line(&self, name: &str) -> Option<&'a OptionLine> {
        self.lines.get(name).copied()
    }

    /// What is written for `name`, not its default.
    pub(super) fn written(&self, name: &str) -> Option<&'a str> {
        self.line(name).map(|line| line.value.as_str())
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.written(name).or_else(|| options::find(self.section, name)?.default)
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn unit(&self, name: &str) -> Unit {
        match options::find(self.section, name).map(|spec| spec.kind) {
            Some(Kind::Number { unit, .. }) => unit,
            _ => Unit::One,
        }
    }

    /// A number in the unit of its option. The parser has checked it.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(|text| number::parse(text, self.unit(name)).ok()).unwrap_or_default()
    }

    fn small(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    fn bytes(&self, name: &str) -> u64 {
        self.number(name).saturating_mul(self.unit(name).scale())
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        let count = self.number(name);
        match self.unit(name) {
            Unit::Tenth => Duration::from_millis(count.saturating_mul(100)),
            Unit::Millisecond => Duration::from_millis(count),
            _ => Duration::from_secs(count),
        }
    }

    pub(super) fn yes(&self, name: &str) -> bool {
        self.text(name) == Some("yes")
    }

    /// A choice; `fallback` is what the table says too, and is reached only if the table lacked a default.
    fn choice<T>(&self, name: &str, from_word: impl Fn(&str) -> Option<T>, fallback: T) -> T {
        self.text(name).and_then(from_word).unwrap_or(fallback)
    }

    pub(super) fn quorum(&self, name: &str) -> Quorum {
        match self.text(name) {
            None | Some("off") => Quorum::Off,
            Some("majority") => Quorum::Majority,
            Some("all") => Quorum::All,
            Some(count) => count.parse().map_or(Quorum::Off, Quorum::Count),
        }
    }
}

/// `disks`: what the volumes say, of which the strictest `fencing` counts where `net` has none.
pub(super) fn net(net: &Settings, disks: &[Settings]) -> NetOptions {
    let strictest = disks.iter().filter_map(|disk| disk.written("fencing")).filter_map(Fencing::from_word).max();
    let fencing = net.written("fencing").and_then(Fencing::from_word).or(strictest);
    NetOptions {
        protocol: net.choice("protocol", ReplicationProtocol::from_word, ReplicationProtocol::C),
        timeout: net.duration("timeout"),
        connect_int: net.duration("connect-int"),
        ping_int: net.duration("ping-int"),
        ping_timeout: net.duration("ping-timeout"),
        ko_count: net.small("ko-count"),
        socket_check_timeout: net.duration("socket-check-timeout"),
        max_epoch_size: net.small("max-epoch-size"),
        max_buffers: net.small("max-buffers"),
        unplug_watermark: net.small("unplug-watermark"),
        sndbuf_size: net.bytes("sndbuf-size"),
        rcvbuf_size: net.bytes("rcvbuf-size"),
        tcp_cork: net.yes("tcp-cork"),
        allow_two_primaries: net.yes("allow-two-primaries"),
        cram_hmac_alg: net.owned("cram-hmac-alg"),
        shared_secret: net.owned("shared-secret"),
        data_integrity_alg: net.owned("data-integrity-alg"),
        csums_alg: net.owned("csums-alg"),
        csums_after_crash_only: net.yes("csums-after-crash-only"),
        verify_alg: net.owned("verify-alg"),
        use_rle: net.yes("use-rle"),
        after_sb_0pri: net.choice("after-sb-0pri", AfterSb0Pri::from_word, AfterSb0Pri::Disconnect),
        after_sb_1pri: net.choice("after-sb-1pri", AfterSb1Pri::from_word, AfterSb1Pri::Disconnect),
        after_sb_2pri: net.choice("after-sb-2pri", AfterSb2Pri::from_word, AfterSb2Pri::Disconnect),
        always_asbp: net.yes("always-asbp"),
        rr_conflict: net.choice("rr-conflict", RrConflict::from_word, RrConflict::Disconnect),
        on_congestion: net.choice("on-congestion", OnCongestion::from_word, OnCongestion::Block),
        congestion_fill_sectors: net.number("congestion-fill"),
        congestion_extents: net.small("congestion-extents"),
        allow_remote_read: net.yes("allow-remote-read"),
        fencing: fencing.unwrap_or(Fencing::DontCare),
    }
}

pub(super) fn disk(disk: &Settings) -> DiskOptions {
    DiskOptions {
        size_sectors: disk.number("size"),
        on_io_error: disk.choice("on-io-error", OnIoError::from_word, OnIoError::Detach),
        disk_barrier: disk.yes("disk-barrier"),
        disk_flushes: disk.yes("disk-flushes"),
        disk_drain: disk.yes("disk-drain"),
        md_flushes: disk.yes("md-flushes"),
        resync_after: disk.owned("resync-after").filter(|after| after != "-1"),
        al_extents: disk.small("al-extents").max(AL_EXTENTS_MIN),
        al_updates: disk.yes("al-updates"),
        disk_timeout: disk.duration("disk-timeout"),
        read_balancing: disk.choice("read-balancing", ReadBalancing::from_word, ReadBalancing::PreferLocal),
        discard_zeroes_if_aligned: disk.yes("discard-zeroes-if-aligned"),
        disable_write_same: disk.yes("disable-write-same"),
        rs_discard_granularity: disk.bytes("rs-discard-granularity"),
    }
}

pub(super) fn peer_device(disk: &Settings) -> PeerDeviceOptions {
    PeerDeviceOptions {
        resync_rate: disk.bytes("resync-rate"),
        c_plan_ahead: disk.duration("c-plan-ahead"),
        c_delay_target: disk.duration("c-delay-target"),
        c_fill_target_sectors: disk.number("c-fill-target"),
        c_max_rate: disk.bytes("c-max-rate"),
        c_min_rate: disk.bytes("c-min-rate"),
        bitmap: disk.yes("bitmap"),
    }
}

pub(super) fn resource(options: &Settings) -> ResourceOptions {
    let outdated = OnSuspendedPrimaryOutdated::Disconnect;
    ResourceOptions {
        cpu_mask: options.owned("cpu-mask"),
        on_no_data_accessible: options.choice("on-no-data-accessible", OnNoData::from_word, OnNoData::IoError),
        auto_promote: options.yes("auto-promote"),
        auto_promote_timeout: options.duration("auto-promote-timeout"),
        peer_ack_window_sectors: options.number("peer-ack-window"),
        peer_ack_delay: options.duration("peer-ack-delay"),
        twopc_timeout: options.duration("twopc-timeout"),
        twopc_retry_timeout: options.duration("twopc-retry-timeout"),
        max_io_depth: options.small("max-io-depth"),
        quorum: options.quorum("quorum"),
        quorum_minimum_redundancy: options.quorum("quorum-minimum-redundancy"),
        on_no_quorum: options.choice("on-no-quorum", OnNoData::from_word, OnNoData::SuspendIo),
        on_suspended_primary_outdated: options.choice(
            "on-suspended-primary-outdated",
            OnSuspendedPrimaryOutdated::from_word,
            outdated,
        ),
    }
}

/// A timeout that does not grow from wfc to degr to outdated, as the tools see to it; 0 is for ever.
pub(super) fn startup(options: &Settings) -> Startup {
    let wait = |name| Some(options.duration(name)).filter(|duration| !duration.is_zero());
    let wfc = wait("wfc-timeout");
    let at_most_wfc = |name| match (wait(name), wfc) {
        (Some(own), Some(wfc)) => Some(own.min(wfc)),
        (own, wfc) => own.or(wfc),
    };
    Startup {
        wfc_timeout: wfc,
        degr_wfc_timeout: at_most_wfc("degr-wfc-timeout"),
        outdated_wfc_timeout: at_most_wfc("outdated-wfc-timeout"),
        wait_after_sb: options.yes("wait-after-sb"),
        become_primary_on: options
            .written("become-primary-on")
            .map(|names| names.split(' ').map(str::to_owned).collect())
            .unwrap_or_default(),
    }
}
