//! Two sockets become one connection.
//!
//! Both nodes listen and both dial. Who dialled the data stream dials the meta stream too; who accepted data waits a moment
//! for meta and then dials it itself (a kernel that dialled data expects that). When both dial data at once, the node with
//! the lower address keeps its own and the other yields. The node that *accepted* meta holds the conflict flag.
//!
//! ```text
//! Idle ─ begin ─▶ dialling ─ dialled ─▶ data is ours ─ dial meta ─▶ both ─▶ Pair
//!                    │ accepted, "initial data" ─▶ data is theirs ─ accepted meta, or dial it ─▶ both ─▶ Pair
//!                    └ failed ─▶ wait connect-int (and accept meanwhile) ─▶ dialling
//! ```
//!
//! Limits: at most [`STRANGERS_MAX`] accepted sockets that have not said which stream they are; each has 4 ping time-outs to
//! say it.
//!
//! Not here: what is said on the sockets afterwards (`handshake`).

use std::time::Duration;

use bytes::Bytes;

use crate::model::ids::SocketId;
use crate::model::time::Instant;
use crate::wire::framing::{PacketReader, Stream};
use crate::wire::packet::Packet;

/// Accepted sockets that may wait for identification: a peer needs two, one more for each of a few crossed attempts.
const STRANGERS_MAX: usize = 8;
/// How long the node that accepted data waits for the peer to dial meta before it dials meta itself.
const META_PATIENCE: Duration = Duration::from_millis(150);

/// Time-outs, from the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) connect_interval: Duration,
    pub(super) first_packet: Duration,
}

/// One stream of the future connection.
#[derive(Debug)]
struct Half {
    socket: SocketId,
    reader: PacketReader,
    accepted: bool,
}

/// Both streams.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) data: SocketId,
    pub(super) meta: SocketId,
    pub(super) data_reader: PacketReader,
    pub(super) meta_reader: PacketReader,
    /// The peer dialled the data stream.
    pub(super) data_accepted: bool,
    /// We accepted meta: ties are decided against us.
    pub(super) resolve: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Dial,
    /// Send "initial data" or "initial meta".
    Introduce(SocketId, Stream),
    Close(SocketId),
}

#[derive(Debug)]
struct Stranger {
    socket: SocketId,
    bytes: Vec<Bytes>,
    deadline: Instant,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Establish {
    times: Times,
    address_is_lower: bool,
    data: Option<Half>,
    meta: Option<Half>,
    strangers: Vec<Stranger>,
    dialling: bool,
    /// When to dial (again).
    dial_at: Option<Instant>,
    /// The peer has closed on us: it does not want us now, so no dial before then.
    hold_off: Option<Instant>,
}

impl Establish {
    /// Begins: dials after `pause`.
    pub(super) fn begin(now: Instant, pause: Duration, times: Times, address_is_lower: bool) -> Self {
        Self {
            times,
            address_is_lower,
            data: None,
            meta: None,
            strangers: Vec::new(),
            dialling: false,
            dial_at: Some(now + pause),
            hold_off: None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let strangers = self.strangers.iter().map(|stranger| stranger.deadline).min();
        // While a dial is under way its end comes first.
        let dial_at = self.dial_at.filter(|_| !self.dialling);
        [dial_at, strangers].into_iter().flatten().min()
    }

    pub(super) fn on_timer(&mut self, now: Instant, steps: &mut Vec<Step>) {
        if self.dial_at.is_some_and(|at| at <= now) && !self.dialling {
            self.dial(steps);
        }
        self.strangers.retain(|stranger| {
            let keep = stranger.deadline > now;
            if !keep {
                steps.push(Step::Close(stranger.socket));
            }
            keep
        });
    }

    fn dial(&mut self, steps: &mut Vec<Step>) {
        self.dial_at = None;
        self.dialling = true;
        steps.push(Step::Dial);
    }

    pub(super) fn on_dialled(&mut self, now: Instant, socket: SocketId, steps: &mut Vec<Step>) {
        self.dialling = false;
        let half = |stream| Some(Half { socket, reader: PacketReader::new(stream), accepted: false });
        if let Some(until) = self.hold_off.filter(|until| *until > now && self.data.is_none()) {
            steps.push(Step::Close(socket));
            self.dial_at = Some(until);
        } else if self.data.is_none() {
            self.data = half(Stream::Data);
            steps.push(Step::Introduce(socket, Stream::Data));
            self.dial(steps);
        } else if self.meta.is_none() && (self.data_is_ours() || self.dial_at.is_none()) {
            self.meta = half(Stream::Meta);
            steps.push(Step::Introduce(socket, Stream::Meta));
        } else {
            steps.push(Step::Close(socket));
            if self.meta.is_none() {
                self.dial_at = Some(now + META_PATIENCE);
            }
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, jitter: u64) {
        self.dialling = false;
        // A seventh more or less, so that two nodes do not stay in step.
        let seventh = self.times.connect_interval.as_millis() as u64 / 7;
        let wait = self.times.connect_interval.as_millis() as u64 - seventh + jitter % (2 * seventh + 1);
        self.dial_at = Some(now + Duration::from_millis(wait));
    }

    pub(super) fn on_accepted(&mut self, now: Instant, socket: SocketId, steps: &mut Vec<Step>) {
        if self.strangers.len() == STRANGERS_MAX {
            steps.push(Step::Close(socket));
            return;
        }
        let deadline = now + self.times.first_packet;
        self.strangers.push(Stranger { socket, bytes: Vec::new(), deadline });
    }

    /// Bytes on one of our sockets.
    pub(super) fn on_received(&mut self, now: Instant, socket: SocketId, bytes: Bytes, steps: &mut Vec<Step>) {
        if let Some(half) = [&mut self.data, &mut self.meta].into_iter().flatten().find(|half| half.socket == socket) {
            half.reader.push(bytes);
            return;
        }
        let Some(index) = self.strangers.iter().position(|stranger| stranger.socket == socket) else { return };
        self.strangers[index].bytes.push(bytes);
        match identify(&self.strangers[index].bytes) {
            Identity::Unknown => {}
            Identity::Wrong => {
                self.strangers.remove(index);
                steps.push(Step::Close(socket));
            }
            Identity::Stream(reader, stream) => {
                self.strangers.remove(index);
                self.introduce(now, Half { socket, reader: *reader, accepted: true }, stream, steps);
            }
        }
    }

    fn introduce(&mut self, now: Instant, half: Half, stream: Stream, steps: &mut Vec<Step>) {
        let ours_wins = self.address_is_lower;
        let place = match stream {
            Stream::Data => &mut self.data,
            Stream::Meta => &mut self.meta,
        };
        if let Some(old) = place.take() {
            // A crossing. Theirs replaces an older one of theirs; against ours the lower address wins.
            if !old.accepted && ours_wins {
                steps.push(Step::Close(half.socket));
                *place = Some(old);
                return;
            }
            steps.push(Step::Close(old.socket));
        }
        *place = Some(half);
        if stream == Stream::Data && self.meta.as_ref().is_some_and(|meta| !meta.accepted) {
            // Our meta belonged to our data.
            let meta = self.meta.take().expect("just seen");
            steps.push(Step::Close(meta.socket));
        }
        if self.meta.is_none() {
            self.dial_at = Some(now + META_PATIENCE);
        }
    }

    /// A socket ended. True if it was one of ours.
    pub(super) fn on_closed(&mut self, now: Instant, socket: SocketId, steps: &mut Vec<Step>) -> bool {
        let strangers = self.strangers.len();
        self.strangers.retain(|stranger| stranger.socket != socket);
        let is = |half: &Option<Half>| half.as_ref().is_some_and(|half| half.socket == socket);
        if is(&self.data) || is(&self.meta) {
            for half in [self.data.take(), self.meta.take()].into_iter().flatten() {
                if half.socket != socket {
                    steps.push(Step::Close(half.socket));
                }
            }
            let until = now + Duration::from_millis(100) + META_PATIENCE;
            self.hold_off = Some(until);
            if !self.dialling {
                self.dial_at = Some(until);
            }
            return true;
        }
        strangers != self.strangers.len()
    }

    fn data_is_ours(&self) -> bool {
        self.data.as_ref().is_some_and(|data| !data.accepted)
    }

    /// Whether both streams are there.
    pub(super) fn is_complete(&self) -> bool {
        self.data.is_some() && self.meta.is_some()
    }

    /// Both streams, once; sockets that are not used are closed.
    pub(super) fn finish(mut self, steps: &mut Vec<Step>) -> Pair {
        let data = self.data.take().expect("asked when complete");
        let meta = self.meta.take().expect("asked when complete");
        steps.extend(self.strangers.iter().map(|stranger| Step::Close(stranger.socket)));
        Pair {
            data: data.socket,
            meta: meta.socket,
            data_reader: data.reader,
            meta_reader: meta.reader,
            data_accepted: data.accepted,
            resolve: meta.accepted,
        }
    }

    /// Closes everything.
    pub(super) fn abandon(self, steps: &mut Vec<Step>) {
        let halves = [self.data, self.meta].into_iter().flatten().map(|half| half.socket);
        steps.extend(halves.chain(self.strangers.into_iter().map(|stranger| stranger.socket)).map(Step::Close));
    }
}

enum Identity {
    Unknown,
    Wrong,
    Stream(Box<PacketReader>, Stream),
}

/// Reads the first packet of an accepted socket. The reader that has read it goes on with the stream.
fn identify(bytes: &[Bytes]) -> Identity {
    let mut reader = PacketReader::new(Stream::Data);
    bytes.iter().for_each(|bytes| reader.push(bytes.clone()));
    match reader.next() {
        Ok(None) => Identity::Unknown,
        Ok(Some((_, Packet::InitialData))) => Identity::Stream(Box::new(reader), Stream::Data),
        Ok(Some((_, Packet::InitialMeta))) => Identity::Stream(Box::new(reader), Stream::Meta),
        Ok(Some(_)) | Err(_) => Identity::Wrong,
    }
}
