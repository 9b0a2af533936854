//! Which requests may reach the replica, and with which error the others are answered.
//!
//! What passes is inside the export, whole sectors, not empty, not longer than a payload may be, allowed by the
//! export's flags, and carries only flags that were offered. The rules are tried in the order they stand in
//! [`validate`]; the first that fires decides the error.

use super::export::{BLOCK_BYTES_MIN, Export};
use super::session::{CommandKind, Limits};
use super::wire::{CommandFlags, CommandNumber, NbdErrno, RequestHeader, TransmissionFlags};

/// A request that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// A command, complete.
    Command(CommandKind),
    /// A write whose payload is still to come.
    Write {
        /// First byte.
        offset: u64,
        /// How many bytes.
        bytes: u32,
        /// Reply only when they are stable.
        fua: bool,
    },
}

/// A request that did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{errno}: {message}")]
pub struct Refused {
    /// What the client is told in a number.
    pub errno: NbdErrno,
    /// And in words.
    pub message: String,
}

/// Judges one request against the export it is for. `structured` says whether structured replies were agreed on.
///
/// # Errors
/// The answer to send when the request must not reach the replica.
pub fn validate(
    request: &RequestHeader,
    export: &Export,
    structured: bool,
    limits: &Limits,
) -> Result<Admitted, Refused> {
    let offered = TransmissionFlags(export.transmission_flags()) | TransmissionFlags::SEND_DF.when(structured);
    let rule = Rule::of(request.command).ok_or_else(|| unknown_command(request))?;
    if rule.writes && export.read_only {
        return refuse(NbdErrno::EPERM, format!("\"{}\" is read-only", export.name));
    }
    if !offered.contains(rule.needs) {
        return refuse(NbdErrno::EINVAL, format!("\"{}\" does not offer {}", export.name, request.command));
    }
    check_flags(request, offered, &rule)?;
    match rule.extent {
        Extent::None => check_no_extent(request)?,
        Extent::Payload => check_extent(request, export, &rule, limits.payload_bytes_max)?,
        Extent::Range => check_extent(request, export, &rule, u32::MAX)?,
    }
    Ok(admit(request))
}

enum Extent {
    /// Offset and length mean nothing.
    None,
    /// As many bytes travel with the request or its reply.
    Payload,
    /// Any part of the export.
    Range,
}

/// What the protocol says of one command.
struct Rule {
    needs: TransmissionFlags,
    flags: CommandFlags,
    writes: bool,
    extent: Extent,
}

impl Rule {
    fn of(command: CommandNumber) -> Option<Self> {
        use {CommandFlags as C, TransmissionFlags as T};
        let rule = |needs, flags, writes, extent| Some(Self { needs, flags, writes, extent });
        match command {
            CommandNumber::READ => rule(T::NONE, C::DF, false, Extent::Payload),
            CommandNumber::WRITE => rule(T::NONE, C::NONE, true, Extent::Payload),
            CommandNumber::FLUSH => rule(T::SEND_FLUSH, C::NONE, false, Extent::None),
            CommandNumber::TRIM => rule(T::SEND_TRIM, C::NONE, true, Extent::Range),
            CommandNumber::WRITE_ZEROES => {
                rule(T::SEND_WRITE_ZEROES, C::NO_HOLE | C::FAST_ZERO, true, Extent::Range)
            }
            CommandNumber::CACHE => rule(T::SEND_CACHE, C::NONE, false, Extent::Range),
            _ => None,
        }
    }
}

/// `FUA` is legal on every command once offered; where nothing is written it changes nothing.
fn check_flags(request: &RequestHeader, offered: TransmissionFlags, rule: &Rule) -> Result<(), Refused> {
    let allowed = CommandFlags::FUA.when(offered.contains(TransmissionFlags::SEND_FUA))
        | CommandFlags::DF.when(rule.flags.contains(CommandFlags::DF) && offered.contains(TransmissionFlags::SEND_DF))
        | rule.flags.without(CommandFlags::DF);
    match request.flags.without(allowed) {
        CommandFlags::NONE => Ok(()),
        extra => refuse(NbdErrno::EINVAL, format!("flags {extra} are not offered for {}", request.command)),
    }
}

fn check_no_extent(request: &RequestHeader) -> Result<(), Refused> {
    if request.offset == 0 && request.bytes == 0 {
        return Ok(());
    }
    refuse(NbdErrno::EINVAL, format!("{} has neither offset nor length", request.command))
}

fn check_extent(request: &RequestHeader, export: &Export, rule: &Rule, bytes_max: u32) -> Result<(), Refused> {
    let RequestHeader { command, offset, bytes, .. } = *request;
    if bytes == 0 {
        return refuse(NbdErrno::EINVAL, format!("{command} of nothing"));
    }
    if bytes > bytes_max {
        return refuse(NbdErrno::EINVAL, format!("{command} of {bytes} bytes; {bytes_max} is the most"));
    }
    if offset.checked_add(bytes.into()).is_none_or(|end| end > export.bytes) {
        let grows = matches!(command, CommandNumber::WRITE | CommandNumber::WRITE_ZEROES) && rule.writes;
        let errno = if grows { NbdErrno::ENOSPC } else { NbdErrno::EINVAL };
        return refuse(errno, format!("{command} of {bytes} bytes at {offset}; the export ends at {}", export.bytes));
    }
    let block = u64::from(BLOCK_BYTES_MIN);
    if !offset.is_multiple_of(block) || !u64::from(bytes).is_multiple_of(block) {
        return refuse(NbdErrno::EINVAL, format!("{command} of {bytes} bytes at {offset}; blocks have {block} bytes"));
    }
    Ok(())
}

fn admit(request: &RequestHeader) -> Admitted {
    let RequestHeader { flags, command, offset, bytes, .. } = *request;
    let fua = flags.contains(CommandFlags::FUA);
    Admitted::Command(match command {
        CommandNumber::WRITE => return Admitted::Write { offset, bytes, fua },
        CommandNumber::READ => CommandKind::Read { offset, bytes },
        CommandNumber::FLUSH => CommandKind::Flush,
        CommandNumber::TRIM => CommandKind::Trim { offset, bytes: bytes.into(), fua },
        CommandNumber::CACHE => CommandKind::Cache { offset, bytes: bytes.into() },
        CommandNumber::WRITE_ZEROES => CommandKind::WriteZeroes {
            offset,
            bytes: bytes.into(),
            fua,
            may_unmap: !flags.contains(CommandFlags::NO_HOLE),
            fast: flags.contains(CommandFlags::FAST_ZERO),
        },
        other => unreachable!("{other} has no rule, so it was refused"),
    })
}

fn unknown_command(request: &RequestHeader) -> Refused {
    Refused { errno: NbdErrno::EINVAL, message: format!("{}: no such command here", request.command) }
}

fn refuse<T>(errno: NbdErrno, message: String) -> Result<T, Refused> {
    Err(Refused { errno, message })
}
