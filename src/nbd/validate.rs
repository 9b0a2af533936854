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
            CommandNumber::WRITE_ZEROES => rule(T::SEND_WRITE_ZEROES, C::NO_HOLE | C::FAST_ZERO, true, Extent::Range),
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk() -> Export {
        Export {
            name: "data".to_owned(),
            description: String::new(),
            bytes: 64 * MIB,
            read_only: false,
            rotational: false,
            may_trim: true,
            may_write_zeroes: true,
            multi_conn: true,
            refusal: None,
        }
    }

    fn judge(export: &Export, structured: bool, command: u16, flags: u16, offset: u64, bytes: u64) -> Option<NbdErrno> {
        let bytes = u32::try_from(bytes).expect("test lengths fit");
        let (command, flags) = (CommandNumber(command), CommandFlags(flags));
        let request = RequestHeader { flags, command, cookie: 1, offset, bytes };
        validate(&request, export, structured, &Limits::default()).err().map(|refused| refused.errno)
    }

    #[test]
    fn each_bad_request_has_its_errno() {
        const READ: u16 = 0;
        const WRITE: u16 = 1;
        const FLUSH: u16 = 3;
        const TRIM: u16 = 4;
        const CACHE: u16 = 5;
        const ZEROES: u16 = 6;
        const FUA: u16 = 1;
        const NO_HOLE: u16 = 2;
        const DF: u16 = 4;
        const FAST: u16 = 16;
        let (fine, invalid, space) = (None, Some(NbdErrno::EINVAL), Some(NbdErrno::ENOSPC));
        let end = 64 * MIB;
        let table: &[(u16, u16, u64, u64, Option<NbdErrno>)] = &[
            // In range, on either edge.
            (READ, 0, 0, 512, fine),
            (WRITE, FUA, end - 512, 512, fine),
            (READ, 0, 0, 32 * MIB, fine),
            (TRIM, FUA, 0, end, fine),
            (ZEROES, NO_HOLE | FUA | FAST, 0, end, fine),
            (CACHE, 0, 0, end, fine),
            (FLUSH, 0, 0, 0, fine),
            // FUA means nothing where nothing is written, and is legal.
            (READ, FUA, 0, 512, fine),
            (FLUSH, FUA, 0, 0, fine),
            // Past the end.
            (READ, 0, end, 512, invalid),
            (TRIM, 0, end - 512, 1024, invalid),
            (CACHE, 0, end - 512, 1024, invalid),
            (WRITE, 0, end - 512, 1024, space),
            (ZEROES, 0, end, 512, space),
            // The sum overflows.
            (READ, 0, u64::MAX, 512, invalid),
            (WRITE, 0, u64::MAX - 511, 512, space),
            // Half sectors.
            (READ, 0, 1, 512, invalid),
            (WRITE, 0, 0, 513, invalid),
            (TRIM, 0, 256, 512, invalid),
            (ZEROES, 0, 0, 100, invalid),
            // Nothing at all.
            (READ, 0, 0, 0, invalid),
            (WRITE, 0, 0, 0, invalid),
            (TRIM, 0, 0, 0, invalid),
            // Longer than a payload may be.
            (READ, 0, 0, 32 * MIB + 512, invalid),
            (WRITE, 0, 0, 32 * MIB + 512, invalid),
            // Flags that were not offered, or not for this command.
            (READ, DF, 0, 512, invalid),
            (READ, NO_HOLE, 0, 512, invalid),
            (WRITE, NO_HOLE, 0, 512, invalid),
            (TRIM, FAST, 0, 512, invalid),
            (WRITE, 0x8000, 0, 512, invalid),
            (FLUSH, 32, 0, 0, invalid),
            // A flush has no place.
            (FLUSH, 0, 512, 0, invalid),
            (FLUSH, 0, 0, 512, invalid),
            // Commands we do not have.
            (7, 0, 0, 512, invalid),
            (8, 0, 0, 512, invalid),
            (0xffff, 0xffff, u64::MAX, 512, invalid),
        ];
        for &(command, flags, offset, bytes, expected) in table {
            let actual = judge(&disk(), false, command, flags, offset, bytes);
            assert_eq!(actual, expected, "{} flags {flags:#x} {offset} +{bytes}", CommandNumber(command));
        }
    }

    #[test]
    fn one_chunk_may_be_asked_for_when_replies_are_structured() {
        assert_eq!(judge(&disk(), true, 0, 4, 0, 512), None);
        assert_eq!(judge(&disk(), true, 1, 4, 0, 512), Some(NbdErrno::EINVAL), "only of reads");
    }

    #[test]
    fn a_read_only_export_permits_no_write_of_any_kind() {
        let export = Export { read_only: true, ..disk() };
        for command in [1, 4, 6] {
            assert_eq!(judge(&export, false, command, 0, 0, 512), Some(NbdErrno::EPERM));
        }
        for (command, bytes) in [(0, 512), (3, 0), (5, 512)] {
            assert_eq!(judge(&export, false, command, 0, 0, bytes), None);
        }
    }

    #[test]
    fn what_an_export_does_not_offer_is_invalid() {
        let export = Export { may_trim: false, may_write_zeroes: false, ..disk() };
        assert_eq!(judge(&export, false, 4, 0, 0, 512), Some(NbdErrno::EINVAL));
        assert_eq!(judge(&export, false, 6, 0, 0, 512), Some(NbdErrno::EINVAL));
    }

    #[test]
    fn zeroes_may_unmap_unless_told_otherwise() {
        let request =
            |flags| RequestHeader { flags, command: CommandNumber::WRITE_ZEROES, cookie: 0, offset: 512, bytes: 1024 };
        let admitted = |flags| validate(&request(flags), &disk(), false, &Limits::default()).expect("it is in range");
        let zeroes = |may_unmap, fua, fast| {
            Admitted::Command(CommandKind::WriteZeroes { offset: 512, bytes: 1024, fua, may_unmap, fast })
        };
        assert_eq!(admitted(CommandFlags::NONE), zeroes(true, false, false));
        assert_eq!(admitted(CommandFlags::NO_HOLE | CommandFlags::FUA), zeroes(false, true, false));
        assert_eq!(admitted(CommandFlags::FAST_ZERO), zeroes(true, false, true));
    }
}
