//! What is wrong with an operation, before it is taken. An operation that passes cannot make the ring or the kernel touch
//! memory that is not its own; everything else is left to the kernel to refuse.

use super::entries::CHUNKS_MAX;
use super::operation::{Operation, Span};
use super::pinned::VECTORS_MAX;
use crate::io::buffer::Chunk;
use crate::io::descriptor::Descriptor;

const UNALIGNED: &str = "it is not aligned as the file needs it to bypass the page cache";

pub(super) fn why_invalid(operation: &Operation) -> Option<&'static str> {
    match operation {
        Operation::ReadAt { file, buffer, offset } => {
            range(*offset, buffer.len() as u64).or_else(|| unaligned(file, *offset, std::iter::once(&buffer[..])))
        }
        Operation::WriteAt { file, pieces, offset, .. } => {
            let parts = pieces.as_slice().iter().map(|piece| &piece[..]);
            range(*offset, pieces.len() as u64).or_else(|| unaligned(file, *offset, parts))
        }
        Operation::WriteZeroes { file, offset, len, .. } => {
            let alignment = file.alignment();
            let is_aligned = alignment.allows_offset(*offset) && alignment.allows_offset(*len);
            range(*offset, *len).or_else(|| (!is_aligned).then_some(UNALIGNED))
        }
        Operation::Fallocate { offset, len, .. } | Operation::Discard { offset, len, .. } => range(*offset, *len),
        Operation::SendMsg { pieces, .. } => pieces.is_empty().then_some("there is nothing to send"),
        Operation::Recv { chunk, len, .. } => (*len == 0 || chunk.remaining() == 0).then_some("there is no room"),
        Operation::RecvMsg { chunks, layout, .. } => why_invalid_layout(chunks, layout),
        Operation::Close { descriptor } => descriptor.is_none().then_some("there is nothing to close"),
        _ => None,
    }
}

fn range(offset: u64, len: u64) -> Option<&'static str> {
    let end = offset.checked_add(len).and_then(|end| i64::try_from(end).ok());
    if len == 0 {
        Some("the range is empty")
    } else if end.is_none() {
        Some("the range ends beyond any file")
    } else {
        None
    }
}

fn why_invalid_layout(chunks: &[Chunk], layout: &[Span]) -> Option<&'static str> {
    if chunks.len() > CHUNKS_MAX || layout.len() > VECTORS_MAX {
        return Some("the layout has too many parts");
    }
    if layout.is_empty() || layout.iter().any(|span| span.len == 0 || span.chunk >= chunks.len()) {
        return Some("a span is empty or names no chunk");
    }
    for (index, chunk) in chunks.iter().enumerate() {
        let wanted =
            layout.iter().filter(|span| span.chunk == index).try_fold(0usize, |sum, span| sum.checked_add(span.len));
        if wanted.is_none_or(|wanted| wanted > chunk.remaining()) {
            return Some("a chunk has no room for its spans");
        }
    }
    None
}

fn unaligned<'a>(file: &Descriptor, offset: u64, mut parts: impl Iterator<Item = &'a [u8]>) -> Option<&'static str> {
    let alignment = file.alignment();
    let is_aligned = alignment.allows_offset(offset) && parts.all(|part| alignment.allows_memory(part));
    (!is_aligned).then_some(UNALIGNED)
}
