//! One packet of the replication link as a value, and its way to and from bytes.
//!
//! The header is [`super::framing`]'s; here a command and a head become a [`Packet`] and back. A packet that the agreed
//! version or features do not have is never encoded: see [`Packet::supported`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::model::generation_id::GenerationId;
use crate::model::ids::VolumeNumber;
use crate::model::state::StateWord;
use crate::model::units::Sector;

use super::command::{Command, CommandNumber};
use super::data::{decode_description, encode_description};
use super::error::WireError;
use super::fields::Fields;
use super::framing::{Features, Header, PROTOCOL_BEFORE_AGREEMENT, header_bytes};

pub use super::data::{
    BarrierId, BlockAck, BlockId, BlockRequest, Data, DataFlags, REQUEST_BYTES_MAX, ReadReply, TRIM_BYTES_MAX, Trim,
};
pub use super::handshake::{AfterSplitBrain, ConnectionFeatures, Protocol, ReplicationProtocol, SyncParam};
pub use super::volume_facts::{QueueLimits, Sizes, StateChange, UuidFlags, Uuids};

/// Everything one node says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// This stream is the meta stream.
    InitialMeta,
    /// This stream is the data stream.
    InitialData,
    /// What the sender speaks.
    ConnectionFeatures(ConnectionFeatures),
    /// Random bytes to be signed.
    AuthChallenge(Bytes),
    /// The signature.
    AuthResponse(Bytes),
    /// Rules of the connection.
    Protocol(Protocol),
    /// New rules, valid for the sender's packets from here on.
    ProtocolUpdate(Protocol),
    /// Speed and digests of resync and verify.
    SyncParam(SyncParam),
    /// Sizes and limits of a volume.
    Sizes(Sizes),
    /// Generations of a volume's data.
    Uuids(Uuids),
    /// The sender's state.
    State(StateWord),
    /// Asks to agree to a change of a volume.
    StateChangeRequest(StateChange),
    /// Asks to agree to a change of the connection.
    ConnectionStateChangeRequest(StateChange),
    /// 1 or more: agreed. 0 or less: why not.
    StateChangeReply(i32),
    /// 1 or more: agreed. 0 or less: why not.
    ConnectionStateChangeReply(i32),
    /// A resync begins; its id.
    SyncUuid(GenerationId),
    /// A write.
    Data(Data),
    /// A discard.
    Trim(Trim),
    /// A write of zeroes.
    Zeroes(Trim),
    /// Blocks that were asked for by `DataRequest`.
    DataReply(ReadReply),
    /// Blocks for a resync.
    ResyncDataReply(ReadReply),
    /// The epoch ends.
    Barrier(BarrierId),
    /// The epoch is on stable storage.
    BarrierAck {
        /// Which.
        barrier: BarrierId,
        /// How many writes it had.
        writes: u32,
    },
    /// Submit what is queued.
    UnplugRemote,
    /// Reads for an application.
    DataRequest(BlockRequest),
    /// Reads for a resync.
    ResyncDataRequest(BlockRequest),
    /// Reads for a resync; "all zero" is a good answer.
    ThinResyncRequest(BlockRequest),
    /// Reads for a resync unless the digests are equal.
    ChecksumResyncRequest {
        /// What.
        request: BlockRequest,
        /// Of what the asker has.
        digest: Bytes,
    },
    /// The range is all zero: the answer to a thin request.
    ResyncDeallocated {
        /// Where.
        sector: Sector,
        /// How much.
        bytes: u32,
    },
    /// The range was written here only.
    OutOfSync {
        /// Where.
        sector: Sector,
        /// How much.
        bytes: u32,
    },
    /// Words of the bitmap; none at the end of a transfer that ended with words.
    Bitmap(Bytes),
    /// Runs of the bitmap, in the code of [`super::bitmap_rle`].
    CompressedBitmap(Bytes),
    /// Are you there?
    Ping,
    /// Yes.
    PingAck,
    /// Write received.
    RecvAck(BlockAck),
    /// Write on disk.
    WriteAck(BlockAck),
    /// Write on disk, the block is in sync.
    ResyncWriteAck(BlockAck),
    /// Two primaries: the write lost.
    Superseded(BlockAck),
    /// Write failed.
    NegAck(BlockAck),
    /// Read failed.
    NegDataReply(BlockAck),
    /// Resync read failed.
    NegResyncDataReply(BlockAck),
    /// Digests are equal.
    ResyncIsInSync(BlockAck),
    /// Request dropped; the source went Ahead.
    ResyncCancel(BlockAck),
    /// Two primaries: send it again.
    RetryWrite(BlockAck),
    /// Send me your digest.
    OnlineVerifyRequest(BlockRequest),
    /// My digest.
    OnlineVerifyReply {
        /// Of what.
        request: BlockRequest,
        /// The digest.
        digest: Bytes,
    },
    /// `block_id` is [`BlockId::IN_SYNC`] or [`BlockId::OUT_OF_SYNC`].
    OnlineVerifyResult(BlockAck),
    /// To be ignored.
    DelayProbe,
    /// A command above 0x100 that we do not know, skipped. Never sent.
    Ignored(u16),
}

/// What has been agreed, or announced by the sender, that decides how bytes are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub(super) version: u32,
    pub(super) features: Features,
    /// Size of the sender's integrity digest.
    pub(super) digest_bytes: usize,
}

impl Packet {
    /// Which command carries it; `None` for what is never sent.
    #[must_use]
    pub fn command(&self, version: u32) -> Option<Command> {
        Some(match self {
            Self::InitialMeta => Command::InitialMeta,
            Self::InitialData => Command::InitialData,
            Self::ConnectionFeatures(_) => Command::ConnectionFeatures,
            Self::AuthChallenge(_) => Command::AuthChallenge,
            Self::AuthResponse(_) => Command::AuthResponse,
            Self::Protocol(_) => Command::Protocol,
            Self::ProtocolUpdate(_) => Command::ProtocolUpdate,
            Self::SyncParam(_) => SyncParam::command(version),
            Self::Sizes(_) => Command::Sizes,
            Self::Uuids(_) => Command::Uuids,
            Self::State(_) => Command::State,
            Self::StateChangeRequest(_) => Command::StateChangeRequest,
            Self::ConnectionStateChangeRequest(_) => Command::ConnectionStateChangeRequest,
            Self::StateChangeReply(_) => Command::StateChangeReply,
            Self::ConnectionStateChangeReply(_) => Command::ConnectionStateChangeReply,
            Self::SyncUuid(_) => Command::SyncUuid,
            Self::Data(_) => Command::Data,
            Self::Trim(_) => Command::Trim,
            Self::Zeroes(_) => Command::Zeroes,
            Self::DataReply(_) => Command::DataReply,
            Self::ResyncDataReply(_) => Command::ResyncDataReply,
            Self::Barrier(_) => Command::Barrier,
            Self::BarrierAck { .. } => Command::BarrierAck,
            Self::UnplugRemote => Command::UnplugRemote,
            Self::DataRequest(_) => Command::DataRequest,
            Self::ResyncDataRequest(_) => Command::ResyncDataRequest,
            Self::ThinResyncRequest(_) => Command::ThinResyncRequest,
            Self::ChecksumResyncRequest { .. } => Command::ChecksumResyncRequest,
            Self::ResyncDeallocated { .. } => Command::ResyncDeallocated,
            Self::OutOfSync { .. } => Command::OutOfSync,
            Self::Bitmap(_) => Command::Bitmap,
            Self::CompressedBitmap(_) => Command::CompressedBitmap,
            Self::Ping => Command::Ping,
            Self::PingAck => Command::PingAck,
            Self::RecvAck(_) => Command::RecvAck,
            Self::WriteAck(_) => Command::WriteAck,
            Self::ResyncWriteAck(_) => Command::ResyncWriteAck,
            Self::Superseded(_) => Command::Superseded,
            Self::NegAck(_) => Command::NegAck,
            Self::NegDataReply(_) => Command::NegDataReply,
            Self::NegResyncDataReply(_) => Command::NegResyncDataReply,
            Self::ResyncIsInSync(_) => Command::ResyncIsInSync,
            Self::ResyncCancel(_) => Command::ResyncCancel,
            Self::RetryWrite(_) => Command::RetryWrite,
            Self::OnlineVerifyRequest(_) => Command::OnlineVerifyRequest,
            Self::OnlineVerifyReply { .. } => Command::OnlineVerifyReply,
            Self::OnlineVerifyResult(_) => Command::OnlineVerifyResult,
            Self::DelayProbe => Command::DelayProbe,
            Self::Ignored(_) => return None,
        })
    }

    /// Whether a peer of that version and those features understands the packet. Whoever decides to send asks first;
    /// [`Packet::encode`] only asserts it.
    #[must_use]
    pub fn supported(&self, version: u32, features: Features) -> bool {
        self.command(version).is_some_and(|command| {
            command.precedes_agreement() || (version >= command.version_min() && features.contains(command.features()))
        })
    }

    /// The big part that goes out by itself, after what `encode` appended.
    #[must_use]
    pub fn payload(&self) -> Option<&Bytes> {
        let payload = match self {
            Self::Data(Data { payload, .. })
            | Self::DataReply(ReadReply { payload, .. })
            | Self::ResyncDataReply(ReadReply { payload, .. })
            | Self::Bitmap(payload)
            | Self::CompressedBitmap(payload) => payload,
            _ => return None,
        };
        (!payload.is_empty()).then_some(payload)
    }

    /// Appends header, fixed part and digest to `out`; returns the payload, shared, to be sent right after them.
    ///
    /// The first packets of a connection get the oldest header whatever `version` says.
    ///
    /// # Panics
    /// For [`Packet::Ignored`]; in debug builds also for a packet that is not [`supported`](Self::supported) and for a
    /// length that the receiver would refuse. The caller decides what to send by what was agreed, so these are our
    /// mistakes.
    pub fn encode(&self, version: u32, features: Features, volume: VolumeNumber, out: &mut BytesMut) -> Option<Bytes> {
        let command = self.command(version).expect("what was ignored on receipt is never sent");
        debug_assert!(self.supported(version, features), "{command} is not part of version {version}");
        let version = if command.precedes_agreement() { PROTOCOL_BEFORE_AGREEMENT } else { version };
        debug_assert!(version >= 100 || volume.0 == 0, "headers before version 100 know volume 0 only");

        let header_at = out.len();
        let body_at = header_at + header_bytes(version);
        out.put_bytes(0, body_at - header_at);
        self.encode_body(version, features, out);
        let payload = self.payload().cloned();
        let length = out.len() - body_at + payload.as_ref().map_or(0, Bytes::len);
        let length = u32::try_from(length).expect("packets are at most a few MiB");
        debug_assert!(self.length_is_legal(command, length, version, features), "{command} of {length} bytes");
        let header = Header { volume, command: CommandNumber(command.number()), length };
        header.encode(version, &mut out[header_at..body_at]);
        payload
    }

    fn length_is_legal(&self, command: Command, length: u32, version: u32, features: Features) -> bool {
        let digest_bytes = match self {
            Self::Data(Data { digest, .. })
            | Self::DataReply(ReadReply { digest, .. })
            | Self::ResyncDataReply(ReadReply { digest, .. }) => digest.len() as u32,
            _ => 0,
        };
        let rule = command.length_rule(version, features, digest_bytes);
        (rule.min..=rule.max).contains(&length)
    }

    fn encode_body(&self, version: u32, features: Features, out: &mut BytesMut) {
        match self {
            Self::InitialMeta | Self::InitialData | Self::UnplugRemote | Self::Ping | Self::PingAck => {}
            Self::Bitmap(_) | Self::CompressedBitmap(_) | Self::Ignored(_) => {}
            Self::ConnectionFeatures(connection_features) => connection_features.encode(out),
            Self::AuthChallenge(bytes) | Self::AuthResponse(bytes) => out.put_slice(bytes),
            Self::Protocol(protocol) | Self::ProtocolUpdate(protocol) => protocol.encode(version, out),
            Self::SyncParam(param) => param.encode(version, out),
            Self::Sizes(sizes) => sizes.encode(features.contains(Features::WSAME), out),
            Self::Uuids(uuids) => uuids.encode(out),
            Self::State(word) => out.put_u32(word.0),
            Self::StateChangeRequest(change) | Self::ConnectionStateChangeRequest(change) => change.encode(out),
            Self::StateChangeReply(code) | Self::ConnectionStateChangeReply(code) => out.put_i32(*code),
            Self::SyncUuid(id) => out.put_u64(id.0),
            Self::Data(data) => data.encode(version, out),
            Self::Trim(trim) | Self::Zeroes(trim) => trim.encode(version, out),
            Self::DataReply(reply) | Self::ResyncDataReply(reply) => reply.encode(out),
            Self::Barrier(barrier) => encode_barrier(*barrier, 0, out),
            Self::BarrierAck { barrier, writes } => encode_barrier(*barrier, *writes, out),
            Self::DataRequest(request)
            | Self::ResyncDataRequest(request)
            | Self::ThinResyncRequest(request)
            | Self::OnlineVerifyRequest(request) => request.encode(out),
            Self::ChecksumResyncRequest { request, digest } | Self::OnlineVerifyReply { request, digest } => {
                request.encode(out);
                out.put_slice(digest);
            }
            Self::ResyncDeallocated { sector, bytes } | Self::OutOfSync { sector, bytes } => {
                encode_description(*sector, *bytes, out);
            }
            Self::RecvAck(ack)
            | Self::WriteAck(ack)
            | Self::ResyncWriteAck(ack)
            | Self::Superseded(ack)
            | Self::NegAck(ack)
            | Self::NegDataReply(ack)
            | Self::NegResyncDataReply(ack)
            | Self::ResyncIsInSync(ack)
            | Self::ResyncCancel(ack)
            | Self::RetryWrite(ack)
            | Self::OnlineVerifyResult(ack) => ack.encode(out),
            Self::DelayProbe => out.put_u64(0),
        }
    }

    /// The packet of a known command whose length has been judged; `head` is everything but the payload.
    pub(super) fn decode(command: Command, dialect: Dialect, head: Bytes, payload: Bytes) -> Result<Self, WireError> {
        let fields = &mut Fields::new(command, head);
        let Dialect { version, features, .. } = dialect;
        Ok(match command {
            Command::InitialMeta => Self::InitialMeta,
            Command::InitialData => Self::InitialData,
            Command::ConnectionFeatures => Self::ConnectionFeatures(ConnectionFeatures::decode(fields)?),
            Command::AuthChallenge => Self::AuthChallenge(fields.rest()),
            Command::AuthResponse => Self::AuthResponse(fields.rest()),
            Command::Protocol => Self::Protocol(Protocol::decode(fields)?),
            Command::ProtocolUpdate => Self::ProtocolUpdate(Protocol::decode(fields)?),
            Command::SyncParam | Command::SyncParam89 => Self::SyncParam(SyncParam::decode(fields, version)?),
            Command::Sizes => Self::Sizes(Sizes::decode(fields, features.contains(Features::WSAME))?),
            Command::Uuids => Self::Uuids(Uuids::decode(fields)?),
            Command::State => Self::State(StateWord(fields.u32()?)),
            Command::StateChangeRequest => Self::StateChangeRequest(StateChange::decode(fields)?),
            Command::ConnectionStateChangeRequest => Self::ConnectionStateChangeRequest(StateChange::decode(fields)?),
            Command::StateChangeReply => Self::StateChangeReply(fields.u32()?.cast_signed()),
            Command::ConnectionStateChangeReply => Self::ConnectionStateChangeReply(fields.u32()?.cast_signed()),
            Command::SyncUuid => Self::SyncUuid(GenerationId(fields.u64()?)),
            Command::Data => Self::Data(Data::decode(fields, payload)?),
            Command::Trim => Self::Trim(Trim::decode(fields)?),
            Command::Zeroes => Self::Zeroes(Trim::decode(fields)?),
            Command::DataReply => Self::DataReply(ReadReply::decode(fields, payload)?),
            Command::ResyncDataReply => Self::ResyncDataReply(ReadReply::decode(fields, payload)?),
            Command::Barrier => Self::Barrier(BarrierId(fields.array()?)),
            Command::BarrierAck => Self::BarrierAck { barrier: BarrierId(fields.array()?), writes: fields.u32()? },
            Command::UnplugRemote => Self::UnplugRemote,
            Command::DataRequest => Self::DataRequest(BlockRequest::decode(fields)?),
            Command::ResyncDataRequest => Self::ResyncDataRequest(BlockRequest::decode(fields)?),
            Command::ThinResyncRequest => Self::ThinResyncRequest(BlockRequest::decode(fields)?),
            Command::ChecksumResyncRequest => {
                Self::ChecksumResyncRequest { request: BlockRequest::decode(fields)?, digest: fields.rest() }
            }
            Command::ResyncDeallocated => {
                let (sector, bytes) = decode_description(fields)?;
                Self::ResyncDeallocated { sector, bytes }
            }
            Command::OutOfSync => {
                let (sector, bytes) = decode_description(fields)?;
                Self::OutOfSync { sector, bytes }
            }
            Command::Bitmap => Self::Bitmap(payload),
            Command::CompressedBitmap => Self::CompressedBitmap(payload),
            Command::Ping => Self::Ping,
            Command::PingAck => Self::PingAck,
            Command::RecvAck => Self::RecvAck(BlockAck::decode(fields)?),
            Command::WriteAck => Self::WriteAck(BlockAck::decode(fields)?),
            Command::ResyncWriteAck => Self::ResyncWriteAck(BlockAck::decode(fields)?),
            Command::Superseded => Self::Superseded(BlockAck::decode(fields)?),
            Command::NegAck => Self::NegAck(BlockAck::decode(fields)?),
            Command::NegDataReply => Self::NegDataReply(BlockAck::decode(fields)?),
            Command::NegResyncDataReply => Self::NegResyncDataReply(BlockAck::decode(fields)?),
            Command::ResyncIsInSync => Self::ResyncIsInSync(BlockAck::decode(fields)?),
            Command::ResyncCancel => Self::ResyncCancel(BlockAck::decode(fields)?),
            Command::RetryWrite => Self::RetryWrite(BlockAck::decode(fields)?),
            Command::OnlineVerifyRequest => Self::OnlineVerifyRequest(BlockRequest::decode(fields)?),
            Command::OnlineVerifyReply => {
                Self::OnlineVerifyReply { request: BlockRequest::decode(fields)?, digest: fields.rest() }
            }
            Command::OnlineVerifyResult => Self::OnlineVerifyResult(BlockAck::decode(fields)?),
            Command::DelayProbe => Self::DelayProbe,
            // Refused with the header already: these have no stream.
            Command::BecomeSyncTarget | Command::BecomeSyncSource | Command::WriteSame => {
                Self::Ignored(command.number())
            }
        })
    }
}

fn encode_barrier(barrier: BarrierId, second: u32, out: &mut BytesMut) {
    out.put_slice(&barrier.0);
    out.put_u32(second);
}
