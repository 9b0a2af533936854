//! Option haggling: from the greeting to an open export, or to the end.
//!
//! ```text
//!   ClientFlags ──► Header ──► Data ──► (answer) ──► Header …
//!                     │                    └──► Opened or Closed
//!                     └──► Skip (data too long to keep) ──► (TOO_BIG) ──► Header …
//! ```
//!
//! A client that breaks the framing is closed on; one that asks for something we do not have is told so and may go on.
//! Options are limited in length and in number, so that a client that never opens anything costs little.
//!
//! Not here: TLS, metadata contexts and 64-bit headers; all three are answered `ERR_UNSUP`, which clients accept.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::export::{BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, Catalogue, Export};
use super::rope::Rope;
use super::session::{CloseReason, Limits, Output};
use super::wire::{
    ClientFlags, DecodeError, EXPORT_NAME_PADDING_BYTES, InfoKind, OptionHeader, OptionKind, OptionReplyHeader,
    OptionReplyKind, STRING_BYTES_MAX, TransmissionFlags, clip,
};

const CLIENT_FLAGS_BYTES: usize = 4;

/// Why a string a client sent is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// More than [`STRING_BYTES_MAX`] bytes.
    #[error("a name has {STRING_BYTES_MAX} bytes at most, not {0}")]
    TooLong(usize),
    /// Contains a zero byte.
    #[error("a name has no NUL in it")]
    Nul,
    /// Is not text.
    #[error("a name is UTF-8")]
    NotUtf8,
}

/// Why the data of `INFO` or `GO` make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum InfoRequestError {
    #[error("the lengths inside the option do not add up to its own")]
    Lengths,
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What one step of the machine came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Something was consumed; try again.
    Progress,
    /// More bytes are needed.
    Starved,
    /// The client opened this export; requests follow.
    Opened {
        /// What was opened.
        export: Export,
        /// Whether replies are structured.
        structured: bool,
    },
    /// Nothing more will be read.
    Closed(CloseReason),
}

#[derive(Debug)]
enum Expect {
    ClientFlags,
    Header,
    Data(OptionHeader),
    Skip { kind: OptionKind, left: u64 },
}

/// One client's negotiation.
#[derive(Debug)]
pub(super) struct Negotiation {
    expect: Expect,
    client: ClientFlags,
    structured: bool,
    options: u32,
}

impl Negotiation {
    /// Waits for the answer to the greeting.
    pub(super) fn new() -> Self {
        Self { expect: Expect::ClientFlags, client: ClientFlags::NONE, structured: false, options: 0 }
    }

    /// How many bytes the rope must hold for the next step.
    pub(super) fn bytes_wanted(&self) -> usize {
        match self.expect {
            Expect::ClientFlags => CLIENT_FLAGS_BYTES,
            Expect::Header => OptionHeader::BYTES,
            Expect::Data(header) => header.bytes as usize,
            Expect::Skip { left, .. } => usize::try_from(left).unwrap_or(usize::MAX),
        }
    }

    /// Takes one step with the bytes that are there.
    pub(super) fn step(
        &mut self,
        limits: &Limits,
        input: &mut Rope,
        catalogue: &dyn Catalogue,
        out: &mut Vec<Output>,
    ) -> Step {
        match self.expect {
            Expect::ClientFlags => match input.take_array::<CLIENT_FLAGS_BYTES>() {
                Some(bytes) => self.on_client_flags(ClientFlags(u32::from_be_bytes(bytes))),
                None => Step::Starved,
            },
            Expect::Header => match input.take_array::<{ OptionHeader::BYTES }>() {
                Some(bytes) => self.on_header(limits, OptionHeader::decode(&mut &bytes[..])),
                None => Step::Starved,
            },
            Expect::Data(header) => match input.take(header.bytes as usize) {
                Some(data) => {
                    self.expect = Expect::Header;
                    self.on_option(limits, header.kind, data, catalogue, out)
                }
                None => Step::Starved,
            },
            Expect::Skip { kind, left } => {
                let left = left - input.skip(left);
                self.on_skipped(limits, kind, left, out)
            }
        }
    }

    fn on_client_flags(&mut self, flags: ClientFlags) -> Step {
        if flags.without(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES) != ClientFlags::NONE {
            return Step::Closed(CloseReason::UnknownClientFlags(flags));
        }
        self.client = flags;
        self.expect = Expect::Header;
        Step::Progress
    }

    fn on_header(&mut self, limits: &Limits, header: Result<OptionHeader, DecodeError>) -> Step {
        let header = match header {
            Ok(header) => header,
            Err(error) => return Step::Closed(CloseReason::Malformed(error)),
        };
        let OptionHeader { kind, bytes } = header;
        self.options += 1;
        if self.options > limits.options_max {
            return Step::Closed(CloseReason::TooManyOptions { limit: limits.options_max });
        }
        if kind != OptionKind::EXPORT_NAME && !self.client.contains(ClientFlags::FIXED_NEWSTYLE) {
            return Step::Closed(CloseReason::NotFixedNewstyle(kind));
        }
        self.expect = if bytes <= limits.option_bytes_max {
            Expect::Data(header)
        } else if bytes <= limits.option_skip_bytes_max && kind != OptionKind::EXPORT_NAME {
            Expect::Skip { kind, left: bytes.into() }
        } else {
            return Step::Closed(CloseReason::OptionTooLong { kind, bytes });
        };
        Step::Progress
    }

    fn on_skipped(&mut self, limits: &Limits, kind: OptionKind, left: u64, out: &mut Vec<Output>) -> Step {
        if left > 0 {
            self.expect = Expect::Skip { kind, left };
            return Step::Starved;
        }
        self.expect = Expect::Header;
        let message = format!("an option has {} bytes at most here", limits.option_bytes_max);
        refuse(kind, OptionReplyKind::ERR_TOO_BIG, &message, out)
    }

    fn on_option(
        &mut self,
        limits: &Limits,
        kind: OptionKind,
        data: Bytes,
        catalogue: &dyn Catalogue,
        out: &mut Vec<Output>,
    ) -> Step {
        match kind {
            OptionKind::EXPORT_NAME => self.on_export_name(&data, catalogue, out),
            OptionKind::ABORT => on_abort(out),
            OptionKind::LIST => on_list(&data, catalogue, out),
            OptionKind::INFO | OptionKind::GO => self.on_info_or_go(limits, kind, data, catalogue, out),
            OptionKind::STRUCTURED_REPLY => self.on_structured_reply(&data, out),
            _ => refuse(kind, OptionReplyKind::ERR_UNSUP, "this server does not know the option", out),
        }
    }

    fn on_export_name(&self, data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<Output>) -> Step {
        let name = match parse_name(data) {
            Ok(name) => name,
            Err(error) => return Step::Closed(CloseReason::BadName(error)),
        };
        let Some(export) = catalogue.find(name) else {
            return Step::Closed(CloseReason::UnknownExport(name.to_owned()));
        };
        if let Some(refusal) = export.refusal {
            return Step::Closed(CloseReason::Refused { name: export.name, refusal });
        }
        let mut answer = BytesMut::new();
        answer.put_u64(export.bytes);
        answer.put_u16(self.flags_of(&export).0);
        if !self.client.contains(ClientFlags::NO_ZEROES) {
            answer.put_bytes(0, EXPORT_NAME_PADDING_BYTES);
        }
        self.open(export, answer, out)
    }

    fn on_info_or_go(
        &self,
        limits: &Limits,
        kind: OptionKind,
        mut data: Bytes,
        catalogue: &dyn Catalogue,
        out: &mut Vec<Output>,
    ) -> Step {
        let (name, wanted) = match parse_info_request(&mut data) {
            Ok(request) => request,
            Err(error) => return refuse(kind, OptionReplyKind::ERR_INVALID, &error.to_string(), out),
        };
        let Some(export) = catalogue.find(&name) else {
            let message = if name.is_empty() {
                "there is no default export here; ask for one by name".to_owned()
            } else {
                format!("there is no export \"{name}\" here")
            };
            return refuse(kind, OptionReplyKind::ERR_UNKNOWN, &message, out);
        };
        let is_go = kind == OptionKind::GO;
        if let Some(refusal) = export.refusal.as_deref().filter(|_| is_go) {
            return refuse(kind, OptionReplyKind::ERR_POLICY, refusal, out);
        }
        let mut answer = BytesMut::new();
        self.put_infos(limits, kind, &export, &wanted, &mut answer);
        put_reply(kind, OptionReplyKind::ACK, &[], &mut answer);
        if is_go {
            return self.open(export, answer, out);
        }
        out.push(Output::Send(answer.freeze()));
        Step::Progress
    }

    /// Size and block sizes are told whether asked or not: a client that does not know them may ask for half sectors.
    fn put_infos(
        &self,
        limits: &Limits,
        kind: OptionKind,
        export: &Export,
        wanted: &[InfoKind],
        answer: &mut BytesMut,
    ) {
        let mut put = |info: InfoKind, fact: &[u8]| {
            put_reply(kind, OptionReplyKind::INFO, &[&info.0.to_be_bytes(), fact], answer);
        };
        let flags = self.flags_of(export);
        put(InfoKind::EXPORT, &[&export.bytes.to_be_bytes()[..], &flags.0.to_be_bytes()].concat());
        if wanted.contains(&InfoKind::NAME) {
            put(InfoKind::NAME, export.name.as_bytes());
        }
        if wanted.contains(&InfoKind::DESCRIPTION) {
            put(InfoKind::DESCRIPTION, clip(&export.description).as_bytes());
        }
        let sizes = [BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, limits.payload_bytes_max];
        put(InfoKind::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat());
    }

    fn on_structured_reply(&mut self, data: &[u8], out: &mut Vec<Output>) -> Step {
        let kind = OptionKind::STRUCTURED_REPLY;
        if !data.is_empty() {
            return refuse(kind, OptionReplyKind::ERR_INVALID, "the option has no data", out);
        }
        self.structured = true;
        let mut answer = BytesMut::new();
        put_reply(kind, OptionReplyKind::ACK, &[], &mut answer);
        out.push(Output::Send(answer.freeze()));
        Step::Progress
    }

    fn flags_of(&self, export: &Export) -> TransmissionFlags {
        TransmissionFlags(export.transmission_flags()) | TransmissionFlags::SEND_DF.when(self.structured)
    }

    /// `Opened` comes before the bytes that tell the client, so that the owner knows first.
    fn open(&self, export: Export, answer: BytesMut, out: &mut Vec<Output>) -> Step {
        out.push(Output::Opened(export.clone()));
        out.push(Output::Send(answer.freeze()));
        Step::Opened { export, structured: self.structured }
    }
}

fn on_abort(out: &mut Vec<Output>) -> Step {
    let mut answer = BytesMut::new();
    put_reply(OptionKind::ABORT, OptionReplyKind::ACK, &[], &mut answer);
    out.push(Output::Send(answer.freeze()));
    Step::Closed(CloseReason::Aborted)
}

fn on_list(data: &[u8], catalogue: &dyn Catalogue, out: &mut Vec<Output>) -> Step {
    let kind = OptionKind::LIST;
    if !data.is_empty() {
        return refuse(kind, OptionReplyKind::ERR_INVALID, "the option has no data", out);
    }
    let mut answer = BytesMut::new();
    for export in catalogue.exports() {
        let name = clip(&export.name).as_bytes();
        let name_bytes = (name.len() as u32).to_be_bytes();
        let description = clip(&export.description).as_bytes();
        put_reply(kind, OptionReplyKind::SERVER, &[&name_bytes, name, description], &mut answer);
    }
    put_reply(kind, OptionReplyKind::ACK, &[], &mut answer);
    out.push(Output::Send(answer.freeze()));
    Step::Progress
}

fn refuse(kind: OptionKind, reply: OptionReplyKind, message: &str, out: &mut Vec<Output>) -> Step {
    let mut answer = BytesMut::new();
    put_reply(kind, reply, &[clip(message).as_bytes()], &mut answer);
    out.push(Output::Send(answer.freeze()));
    Step::Progress
}

fn put_reply(option: OptionKind, reply: OptionReplyKind, parts: &[&[u8]], out: &mut BytesMut) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let bytes = u32::try_from(bytes).expect("a reply is a few clipped strings");
    OptionReplyHeader { option, reply, bytes }.encode(out);
    for part in parts {
        out.put_slice(part);
    }
}

fn parse_name(bytes: &[u8]) -> Result<&str, NameError> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(NameError::TooLong(bytes.len()));
    }
    if bytes.contains(&0) {
        return Err(NameError::Nul);
    }
    std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)
}

/// The name, and which facts are asked for; the data must be exactly as long as the lengths inside say.
fn parse_info_request(data: &mut Bytes) -> Result<(String, Vec<InfoKind>), InfoRequestError> {
    let name_bytes = data.try_get_u32().map_err(|_| InfoRequestError::Lengths)? as usize;
    if name_bytes > data.len() {
        return Err(InfoRequestError::Lengths);
    }
    let name = parse_name(&data.split_to(name_bytes))?.to_owned();
    let count = data.try_get_u16().map_err(|_| InfoRequestError::Lengths)? as usize;
    if data.len() != count * 2 {
        return Err(InfoRequestError::Lengths);
    }
    let wanted = (0..count).map(|_| InfoKind(data.get_u16())).collect();
    Ok((name, wanted))
}
