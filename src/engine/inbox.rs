//! Receives one stream so that payloads land at aligned addresses, in one piece, nearly always without a copy.
//!
//! A stream is frames: a head of a few bytes, and behind some heads a payload. The frame that is being received is known
//! by its head, so a receive asks for the rest of its payload, into an aligned place, and for the next frame's head, into
//! another chunk: one receive a frame, whatever the sizes and the order (the stream does several of them in a pass). A stream
//! that has been regular for long is taken to go on so: for every [`RUN_PER_FRAME`] frames of one shape in a row a receive asks for one frame more.
//!
//! ```text
//!   stream:  | head | payload      | head | payload | head | head | pay...
//!   heads:   | head | head | head | head |
//!   main:    | payload      | payload | ... | pay...       (the next receive goes on behind)
//! ```
//!
//! Where a frame that was asked for ahead turns out to be another, what lies wrong is put together by a copy at an aligned
//! place; one that came in one piece is handed out where it lies. Either way the bytes come out in order.
//!
//! Invariants: bytes come out in the order of the stream, none twice, none lost; a held payload is at the end of `main`
//! when a receive begins, so that the receive goes on behind it; behind the receive that brought a peer's first payload not
//! more than one frame in [`RUN_PER_FRAME`] finds its payload copied, and none where the stream is never so long regular.

#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;

use super::framing::{Frame, Framing, Payload};
use crate::io::buffer::{ALIGNMENT, BufferPool, CHUNK_BYTES, Chunk};
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Operation, Span};

/// Room for heads: some hundred of them.
const HEADS_BYTES: usize = 16 << 10;
/// The least room worth a receive.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// How many frames one receive asks for ahead: a queue depth that is common. More would fill the chunk anyway.
const FRAMES_MAX: usize = 32;
/// How many frames of one shape in a row allow one frame to be asked for ahead. It bounds what a change of shape costs: so
/// many copied payloads as were asked for ahead.
const RUN_PER_FRAME: usize = 32;
/// Which chunk of a scattered receive is which.
const MAIN: usize = 0;
const HEADS: usize = 1;

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Nobody knows.
    Anything,
    /// The head of a frame, of which `wanted` bytes must be seen.
    Head { wanted: usize },
    /// So many bytes that matter to the machine only.
    Plain { left: usize },
    /// A payload. What is here of it is held in `main`, from `start`.
    Payload { payload: Payload, held: Option<Held> },
}

#[derive(Clone, Copy, Debug)]
struct Held {
    start: usize,
    len: usize,
}

/// The frames that came last.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// What each of them had; `None`: no payload.
    payload: Option<Payload>,
    frames: usize,
}

impl Run {
    fn count(&mut self, payload: Option<Payload>) {
        if self.payload != payload {
            *self = Self { payload, frames: 0 };
        }
        self.frames += 1;
    }

    /// How many more of them may be asked for.
    fn ahead(&self) -> usize {
        (self.frames / RUN_PER_FRAME).min(FRAMES_MAX)
    }
}

/// Bytes received in one run, and where in `main` they lie (if there).
struct Piece {
    bytes: Bytes,
    in_main: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Inbox {
    pool: BufferPool,
    framing: Framing,
    expect: Expect,
    /// What has been seen of the frame's head.
    head: Vec<u8>,
    /// Bytes of a head that has a payload behind it. `None`: not known before there was one; bytes are taken as they come.
    head_bytes: Option<usize>,
    run: Run,
    /// `None` while the kernel has it.
    main: Option<Chunk>,
    heads: Option<Chunk>,
    /// Bytes in the chunks when the receive began.
    before: [usize; 2],
    /// The last receive brought all that it was laid out for.
    was_filled: bool,
}

impl Inbox {
    pub(super) fn new(pool: &BufferPool, framing: Framing) -> Self {
        let mut inbox = Self {
            pool: pool.clone(),
            framing,
            expect: Expect::Anything,
            head: Vec::new(),
            head_bytes: None,
            run: Run::default(),
            main: None,
            heads: None,
            before: [0; 2],
            was_filled: false,
        };
        inbox.track(framing);
        inbox
    }

    /// The next byte received begins a frame.
    pub(super) fn track(&mut self, framing: Framing) {
        self.framing = framing;
        self.head_bytes = self.head_bytes.or(framing.payload_head_bytes());
        self.expect_head();
    }

    fn expect_head(&mut self) {
        self.head.clear();
        self.expect = match self.framing {
            Framing::Opaque => Expect::Anything,
            Framing::Nbd | Framing::Link => Expect::Head { wanted: self.framing.head_bytes_min() },
        };
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the last receive brought all that it had been laid out for, so that there may be more.
    pub(super) fn was_filled(&self) -> bool {
        self.was_filled
    }

    /// The next receive, with the chunks in it.
    pub(super) fn receive(&mut self, socket: Descriptor) -> Operation {
        let mut main = self.take_main();
        let layout = self.layout(&mut main);
        self.before = [main.filled(), 0];
        if layout.is_empty() {
            return Operation::Recv { socket, chunk: main, len: usize::MAX };
        }
        let heads = self.take_heads();
        self.before[HEADS] = heads.filled();
        Operation::RecvMsg { socket, chunks: vec![main, heads], layout }
    }

    /// The receive came back; the bytes it brought, in order, in as few pieces as they can be.
    pub(super) fn on_received(&mut self, operation: Operation, out: &mut Vec<Bytes>) {
        self.was_filled = false;
        let pieces = match operation {
            Operation::Recv { mut chunk, .. } => {
                let piece = piece(&mut chunk, MAIN, self.before[MAIN]..usize::MAX);
                self.main = Some(chunk);
                vec![piece]
            }
            Operation::RecvMsg { chunks, layout, .. } => self.gathered(chunks, &layout),
            _ => Vec::new(),
        };
        // Places in `main` mean nothing any more once it has been replaced.
        let mut is_same_main = true;
        for piece in pieces.into_iter().filter(|piece| !piece.bytes.is_empty()) {
            is_same_main &= self.absorb(piece, is_same_main, out);
        }
    }

    /// Cuts what a scattered receive has brought back into the order of the stream.
    fn gathered(&mut self, mut chunks: Vec<Chunk>, layout: &[Span]) -> Vec<Piece> {
        let mut cursors = self.before;
        let mut pieces = Vec::with_capacity(layout.len());
        for span in layout {
            let start = cursors[span.chunk];
            cursors[span.chunk] += span.len;
            pieces.push(piece(&mut chunks[span.chunk], span.chunk, start..start + span.len));
        }
        self.was_filled = cursors.iter().zip(&chunks).all(|(end, chunk)| *end == chunk.filled());
        self.heads = chunks.pop();
        self.main = chunks.pop();
        pieces
    }

    /// Takes one run of bytes; whether `main` is still the chunk it was.
    fn absorb(&mut self, piece: Piece, is_same_main: bool, out: &mut Vec<Bytes>) -> bool {
        let Piece { bytes, in_main } = piece;
        let mut is_same_main = is_same_main;
        // What goes out as it is: from `run` to `at`.
        let (mut run, mut at) = (0, 0);
        while at < bytes.len() {
            let left = bytes.len() - at;
            match self.expect {
                Expect::Anything => at = bytes.len(),
                Expect::Head { wanted } => at += self.on_head(&bytes[at..], wanted),
                Expect::Plain { left: plain } => {
                    let part = plain.min(left);
                    at += part;
                    self.expect_rest(plain - part);
                }
                Expect::Payload { payload, held: None } if left >= payload.bytes => {
                    at += payload.bytes;
                    self.expect_rest(0);
                }
                Expect::Payload { payload, held } => {
                    emit(&bytes, run..at, out);
                    let part = (payload.bytes - held.map_or(0, |held| held.len)).min(left);
                    let place = in_main.filter(|_| is_same_main).map(|start| start + at);
                    is_same_main &= self.hold(payload, held, &bytes.slice(at..at + part), place, out);
                    at += part;
                    run = at;
                }
            }
        }
        emit(&bytes, run..at, out);
        is_same_main
    }

    /// Looks at the head of a frame; how many bytes of it were here.
    fn on_head(&mut self, bytes: &[u8], wanted: usize) -> usize {
        let part = wanted.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..part]);
        if self.head.len() < wanted {
            return part;
        }
        match self.framing.judge(&self.head) {
            Frame::Head(wanted) => self.expect = Expect::Head { wanted },
            Frame::Plain(left) => {
                self.run.count(None);
                self.expect_rest(left);
            }
            Frame::Payload(payload) => {
                self.head_bytes = Some(self.head.len());
                self.run.count(Some(payload));
                self.expect = Expect::Payload { payload, held: None };
            }
            Frame::Lost => {
                self.head_bytes = None;
                self.track(Framing::Opaque);
            }
        }
        part
    }

    fn expect_rest(&mut self, left: usize) {
        if left > 0 {
            self.expect = Expect::Plain { left };
        } else {
            self.expect_head();
        }
    }

    /// Keeps a part of a payload in `main` so that the payload becomes one aligned piece, and lets it go when complete.
    fn hold(
        &mut self,
        payload: Payload,
        held: Option<Held>,
        part: &Bytes,
        place: Option<usize>,
        out: &mut Vec<Bytes>,
    ) -> bool {
        let mut main = self.main.take().unwrap_or_else(|| self.pool.chunk());
        let mut is_same_main = true;
        let held = match (held, place) {
            (None, Some(start)) if is_good_start(&main, start, part.len(), payload) => Held { start, len: part.len() },
            (Some(held), Some(start)) if start == held.start + held.len => Held { len: held.len + part.len(), ..held },
            (Some(held), _) if held.start + held.len == main.filled() => {
                main.append(part);
                Held { len: held.len + part.len(), ..held }
            }
            (held, _) => {
                let before = held.and_then(|held| main.bytes(held.start..held.start + held.len)).unwrap_or_default();
                is_same_main = !self.reserve(&mut main, payload);
                let start = main.filled();
                main.append(&before);
                main.append(part);
                Held { start, len: before.len() + part.len() }
            }
        };
        self.expect = Expect::Payload { payload, held: Some(held) };
        if held.len == payload.bytes {
            out.extend(main.bytes(held.start..held.start + held.len));
            self.expect_rest(0);
        }
        self.main = Some(main);
        is_same_main
    }

    /// Makes the end of `main` a good place for a payload; whether it was replaced for that.
    fn reserve(&self, main: &mut Chunk, payload: Payload) -> bool {
        let start = aligned_start(main.filled(), payload.lead);
        let is_replaced = start + payload.bytes > main.capacity();
        if is_replaced {
            let start = aligned_start(0, payload.lead);
            *main = self.pool.chunk_of(CHUNK_BYTES.max(start + payload.bytes));
        }
        main.skip(aligned_start(main.filled(), payload.lead) - main.filled());
        is_replaced
    }

    fn take_main(&mut self) -> Chunk {
        let is_held = matches!(self.expect, Expect::Payload { held: Some(_), .. });
        match self.main.take() {
            Some(main) if is_held || main.remaining() >= ROOM_BYTES_MIN => main,
            Some(mut main) => {
                if main.capacity() == CHUNK_BYTES && main.rewind() {
                    main
                } else {
                    self.pool.chunk()
                }
            }
            None => self.pool.chunk(),
        }
    }

    fn take_heads(&mut self) -> Chunk {
        if let Some(mut heads) = self.heads.take()
            && (heads.remaining() >= ROOM_BYTES_MIN || heads.rewind())
        {
            return heads;
        }
        self.pool.chunk_of(HEADS_BYTES)
    }

    /// Where the next bytes should go; empty: into `main`, as they come.
    fn layout(&self, main: &mut Chunk) -> Vec<Span> {
        let Some(head_bytes) = self.head_bytes else { return Vec::new() };
        let mut layout = Vec::new();
        let mut head = head_bytes;
        match self.expect {
            Expect::Anything => return layout,
            Expect::Head { wanted } => head = head_bytes.max(wanted) - self.head.len(),
            Expect::Plain { left } => layout.push(Span { chunk: MAIN, len: left.min(main.remaining()) }),
            Expect::Payload { payload, held: Some(held) } => {
                assert_eq!(held.start + held.len, main.filled(), "a held payload is at the end");
                layout.push(Span { chunk: MAIN, len: payload.bytes - held.len });
            }
            Expect::Payload { payload, held: None } => {
                self.reserve(main, payload);
                layout.push(Span { chunk: MAIN, len: payload.bytes });
            }
        }
        layout.push(Span { chunk: HEADS, len: head });
        self.lay_out_ahead(&mut layout, main);
        layout
    }

    /// Frames behind the next head, if the stream has been regular.
    fn lay_out_ahead(&self, layout: &mut Vec<Span>, main: &mut Chunk) {
        let Some(head_bytes) = self.head_bytes else { return };
        match self.run.payload {
            None => layout.extend((0..self.run.ahead()).map(|_| Span { chunk: HEADS, len: head_bytes })),
            // Behind a digest the next payload would not be aligned.
            Some(payload) if payload.lead > 0 => {}
            Some(payload) => {
                if layout.len() == 1 && self.run.ahead() > 0 {
                    self.reserve(main, payload);
                }
                let used: usize = layout.iter().filter(|span| span.chunk == MAIN).map(|span| span.len).sum();
                let room = main.remaining().saturating_sub(used) / payload.bytes;
                for _ in 0..self.run.ahead().min(room) {
                    layout.push(Span { chunk: MAIN, len: payload.bytes });
                    layout.push(Span { chunk: HEADS, len: head_bytes });
                }
            }
        }
    }
}

/// The received part of a span as a piece.
fn piece(chunk: &mut Chunk, number: usize, range: Range<usize>) -> Piece {
    let end = range.end.min(chunk.filled());
    let bytes = chunk.bytes(range.start.min(end)..end).unwrap_or_default();
    Piece { bytes, in_main: (number == MAIN).then_some(range.start) }
}

fn emit(bytes: &Bytes, run: Range<usize>, out: &mut Vec<Bytes>) {
    if !run.is_empty() {
        out.push(bytes.slice(run));
    }
}

/// The first place from `filled` on where a payload is aligned behind its lead.
fn aligned_start(filled: usize, lead: usize) -> usize {
    (filled + lead).next_multiple_of(ALIGNMENT) - lead
}

/// Whether a payload whose first part was received here can be completed here.
fn is_good_start(main: &Chunk, start: usize, len: usize, payload: Payload) -> bool {
    (start + payload.lead).is_multiple_of(512)
        && start + len == main.filled()
        && start + payload.bytes <= main.capacity()
}
