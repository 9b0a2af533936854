//! Reads the big-endian fields of one packet's head, each with a length check.

use bytes::{Buf, Bytes};

use super::command::{Command, NAME_BYTES_MAX};
use super::error::WireError;

/// The head of one packet, read from front to back.
pub(super) struct Fields {
    command: Command,
    length: u32,
    rest: Bytes,
}

impl Fields {
    pub(super) fn new(command: Command, head: Bytes) -> Self {
        Self { command, length: head.len() as u32, rest: head }
    }

    pub(super) fn command(&self) -> Command {
        self.command
    }

    /// The next `count` bytes, shared, not copied.
    pub(super) fn bytes(&mut self, count: usize) -> Result<Bytes, WireError> {
        if self.rest.len() < count {
            return Err(self.too_short(count));
        }
        Ok(self.rest.split_to(count))
    }

    #[cold]
    fn too_short(&self, count: usize) -> WireError {
        let expected = self.length - self.rest.len() as u32 + count as u32;
        WireError::TooShort { command: self.command, expected, received: self.length }
    }

    /// The next `N` bytes, copied: sharing so few would cost more.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some(array) = self.rest.first_chunk().copied() else { return Err(self.too_short(N)) };
        self.rest.advance(N);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Whatever is left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// A name in a field of `count` bytes, ended by a zero, by the end of the field, or where a name must end. What no name
    /// holds becomes `?`: the result equals none of ours and is safe to print.
    pub(super) fn name(&mut self, count: usize) -> Result<String, WireError> {
        let field = self.bytes(count)?;
        let name = field.iter().take(NAME_BYTES_MAX as usize - 1).take_while(|&&byte| byte != 0);
        Ok(name.map(|&byte| if byte.is_ascii_graphic() { byte.into() } else { '?' }).collect())
    }

    /// A name that fills the rest of the packet.
    pub(super) fn name_in_rest(&mut self) -> Result<String, WireError> {
        self.name(self.rest.len())
    }
}
