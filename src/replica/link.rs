//! A peer: the connection to it, and what we know of it, volume by volume.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::bitmap_exchange::Exchange;
use super::establish::{Establish, Times};
use super::handler::Handler;
use super::receive_epochs::ReceiveEpochs;
use super::resync::Resync;
use super::settings::{PeerSettings, ResyncSettings};
use super::transfer::TransferLog;
use super::verify::Verify;
use super::wishes::Wish;
use crate::model::generation_id::GenerationId;
use crate::model::ids::{HandlerId, SocketId};
use crate::model::state::{ConnectionState, DiskState, Role, StateWord};
use crate::model::time::Instant;
use crate::wire::framing::{Features, PacketReader};
use crate::wire::packet::{Protocol, Sizes, Uuids};

/// What is expected next on the data stream of a young connection.
#[derive(Debug)]
pub(super) enum Phase {
    Features,
    Challenge([u8; 64]),
    Response([u8; 64]),
    Protocol,
    /// Handshake packets are through: replication packets flow.
    Up,
}

/// Both sockets and what was agreed on them.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) data: SocketId,
    pub(super) meta: SocketId,
    pub(super) data_reader: PacketReader,
    pub(super) meta_reader: PacketReader,
    pub(super) phase: Phase,
    pub(super) version: u32,
    pub(super) features: Features,
    /// We decide ties against ourselves (we accepted meta).
    pub(super) resolve: bool,
    /// The peer's settings as it sent them.
    pub(super) peer_protocol: Option<Protocol>,
    pub(super) opened: Instant,
    pub(super) last_received: Instant,
    pub(super) ping_sent: Option<Instant>,
    /// Pings sent and answered: they bear no numbers, but come back in order.
    pub(super) pings: u64,
    pub(super) pings_answered: u64,
    /// Bytes queued on, and taken by, the data socket.
    pub(super) data_queued: u64,
    pub(super) data_sent: u64,
    pub(super) data_progress: Instant,
    pub(super) throttled: bool,
    /// Replies that the socket has not taken: the place of each in the stream, and its bytes; and their sum.
    pub(super) replies: VecDeque<(u64, u64)>,
    pub(super) reply_bytes: u64,
    /// Pieces of reads that the peer has been asked for, and when.
    pub(super) reads_asked: BTreeSet<(Instant, usize)>,
    /// A write is "handed to the socket" when this much has been taken (protocol A).
    pub(super) handed: VecDeque<(u64, usize)>,
    /// The peer has said goodbye: its end of the streams follows.
    pub(super) leaving: bool,
    /// It has agreed to outdate itself as we leave.
    pub(super) outdated: bool,
}

/// Where the connection stands.
#[derive(Debug)]
pub(super) enum Connection {
    /// Not looking for the peer.
    Off,
    /// Looking for it.
    Establishing(Box<Establish>),
    /// Both sockets are up.
    Linked(Box<Link>),
}

/// Whether the handler before a resync has been asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BeforeResync {
    #[default]
    Unasked,
    Running(HandlerId, Handler),
    /// It lets the resync begin.
    Passed,
}

/// One volume towards one peer.
#[derive(Debug)]
pub(super) struct PeerVolume {
    /// Meaningful while linked: WFReportParams or above.
    pub(super) conn: ConnectionState,
    pub(super) pdsk: DiskState,
    pub(super) user_isp: bool,
    pub(super) peer_isp: bool,
    /// The peer's generations as it last sent them.
    pub(super) uuids: Option<Uuids>,
    pub(super) sizes: Option<Sizes>,
    /// The parameters of the resync controller, as the peer told them last.
    pub(super) told_resync: Option<ResyncSettings>,
    /// How many of our blocks differ, as the peer was told last.
    pub(super) told_blocks: Option<u64>,
    /// A resync was given up on this link: late words of it may still come, on either stream.
    pub(super) gave_up_resync: bool,
    /// The id of a resync is told when our ping of this number has come back, so that nothing old is taken for an answer.
    pub(super) start_after_ping: Option<u64>,
    /// Our own bits when the handshake compared.
    pub(super) exchange: Option<Exchange>,
    pub(super) resync: Option<Resync>,
    pub(super) before_resync: BeforeResync,
    /// We go on alone, but replies are frozen: the new generation begins when they thaw without the peer.
    pub(super) generation_due: bool,
    pub(super) verify: Option<Verify>,
    /// The block from which a verify goes on that stopped early; it outlives connections.
    pub(super) verify_from: u64,
    /// Both were Inconsistent and the peer has been forced: its next state is to be considered.
    pub(super) consider_resync: bool,
    /// A resync between equal generations has been named, and the target has not shown that it knows.
    pub(super) unheard_equal_start: bool,
    /// We were source of a resync that may have ended there, and have not gone on alone since.
    pub(super) target_may_be_done: bool,
    /// We have agreed to the peer's giving its disk back: what it says of that disk meanwhile is said too late.
    pub(super) detach_agreed: bool,
    /// We have declared both disks equal, and the peer has not said anything since it heard of that.
    pub(super) declared_equal: bool,
    /// The peer attaches while we are being promoted by force: it is answered when our data is declared good.
    pub(super) deferred_state: Option<StateWord>,
    /// The id of the resync that is about to begin here.
    pub(super) sync_id: GenerationId,
    /// Ranges sent to the target and not confirmed, by first sector.
    pub(super) serving: BTreeMap<u64, usize>,
    /// Sectors of applications' writes since the last tick of the resync.
    pub(super) application_sectors: u64,
    /// Counter of packets that carry a sequence number.
    pub(super) sequence: u32,
    /// Largest request to send, bytes.
    pub(super) max_request_bytes: u32,
    pub(super) sectors_sent: u64,
    pub(super) sectors_received: u64,
    pub(super) pending_acks: u64,
    pub(super) unacked: u64,
}

impl PeerVolume {
    fn new() -> Self {
        Self {
            conn: ConnectionState::WfReportParams,
            pdsk: DiskState::Unknown,
            user_isp: false,
            peer_isp: false,
            uuids: None,
            sizes: None,
            told_resync: None,
            told_blocks: None,
            gave_up_resync: false,
            start_after_ping: None,
            exchange: None,
            resync: None,
            before_resync: BeforeResync::Unasked,
            generation_due: false,
            verify: None,
            verify_from: 0,
            consider_resync: false,
            target_may_be_done: false,
            detach_agreed: false,
            declared_equal: false,
            deferred_state: None,
            unheard_equal_start: false,
            sync_id: GenerationId::NONE,
            serving: BTreeMap::new(),
            application_sectors: 0,
            sequence: 0,
            max_request_bytes: 4096,
            sectors_sent: 0,
            sectors_received: 0,
            pending_acks: 0,
            unacked: 0,
        }
    }

    /// A new connection begins: nothing of the old one counts.
    pub(super) fn forget_connection(&mut self) {
        self.conn = ConnectionState::WfReportParams;
        self.uuids = None;
        self.sizes = None;
        self.told_blocks = None;
        self.gave_up_resync = false;
        self.start_after_ping = None;
        self.exchange = None;
        self.before_resync = BeforeResync::Unasked;
        self.consider_resync = false;
        self.detach_agreed = false;
        self.declared_equal = false;
        self.deferred_state = None;
        self.sequence = 0;
        self.max_request_bytes = 4096;
        self.pending_acks = 0;
        self.unacked = 0;
    }
}

/// A peer of the resource.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) settings: PeerSettings,
    /// WFReportParams and below; above it the volumes' own states count.
    pub(super) conn: ConnectionState,
    pub(super) connection: Connection,
    pub(super) role: Role,
    pub(super) volumes: Vec<PeerVolume>,
    /// Why we are StandAlone, or why the last attempt failed.
    pub(super) reason: Option<String>,
    pub(super) discard_my_data: bool,
    pub(super) log: TransferLog,
    pub(super) receive: ReceiveEpochs,
    /// Bytes of its writes that have come and are not on the disk.
    pub(super) received_bytes: u64,
    /// What it wants to read and nobody has begun to.
    pub(super) wishes: VecDeque<(usize, Wish)>,
    /// Bytes that it reads: of a resync until they are confirmed, else until they are answered.
    pub(super) serving_bytes: u64,
    /// A flush of the front receive epoch: disks that have not answered.
    pub(super) flushes_pending: usize,
    /// A change that we have asked the peer to agree to.
    pub(super) request: Option<super::state_request::PeerRequest>,
    /// Its answer is still to come on the other stream, but what it allows has begun already.
    pub(super) request_overtaken: bool,
    /// The run of `fence-peer` whose answer counts.
    pub(super) fence: Option<HandlerId>,
    /// How the last one ended, for people.
    pub(super) fence_words: Option<String>,
}

impl Peer {
    pub(super) fn new(settings: PeerSettings, volumes: usize) -> Self {
        Self {
            settings,
            conn: ConnectionState::StandAlone,
            connection: Connection::Off,
            role: Role::Unknown,
            volumes: (0..volumes).map(|_| PeerVolume::new()).collect(),
            reason: None,
            discard_my_data: false,
            log: TransferLog::default(),
            receive: ReceiveEpochs::new(),
            received_bytes: 0,
            wishes: VecDeque::new(),
            serving_bytes: 0,
            flushes_pending: 0,
            request: None,
            request_overtaken: false,
            fence: None,
            fence_words: None,
        }
    }

    /// It reads so much less.
    pub(super) fn count_served(&mut self, bytes: u64) {
        self.serving_bytes = self.serving_bytes.saturating_sub(bytes);
    }

    pub(super) fn link(&self) -> Option<&Link> {
        match &self.connection {
            Connection::Linked(link) => Some(link),
            Connection::Off | Connection::Establishing(_) => None,
        }
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        match &mut self.connection {
            Connection::Linked(link) => Some(link),
            Connection::Off | Connection::Establishing(_) => None,
        }
    }

    pub(super) fn times(&self) -> Times {
        Times { connect_interval: self.settings.connect_interval, first_packet: 4 * self.settings.ping_timeout }
    }
}
