//! The admin socket: lines in, verbs carried out, lines out.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as PlainListener;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::node::Node;
use super::verbs;
use crate::control::{LINE_BYTES_MAX, Request, Response, decode_request, encode};

/// Lines that wait for a reader before the verb that says them waits too.
const LINES_MAX: usize = 64;
/// How long to wait before accepting again when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a verb's lines go until the one that ends its answer.
#[derive(Debug)]
pub(super) struct Out {
    lines: mpsc::Sender<Response>,
    waited_for: Mutex<String>,
    /// What is done at the same time as parts of this, as long as it lasts.
    parts: Mutex<Vec<Weak<Out>>>,
}

impl Out {
    /// For one request, whose deadline would so far interrupt what is asked for.
    pub(super) fn new(lines: mpsc::Sender<Response>, what: impl Into<String>) -> Self {
        Self { lines, waited_for: Mutex::new(what.into()), parts: Mutex::default() }
    }

    /// Where nobody reads.
    pub(super) fn unread() -> Self {
        let (lines, _) = mpsc::channel(1);
        Self::new(lines, "")
    }

    /// For one of several things that are done at once, and its lines.
    pub(super) fn part(&self, what: impl Into<String>) -> (Arc<Self>, mpsc::Receiver<Response>) {
        let (lines, arrived) = mpsc::channel(LINES_MAX);
        let part = Arc::new(Self::new(lines, what));
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&part));
        (part, arrived)
    }

    /// Sends a line; a reader who has gone does not matter.
    pub(super) async fn say(&self, response: Response) {
        let _ = self.lines.send(response).await;
    }

    /// What a deadline would interrupt.
    pub(super) fn waits_for(&self, what: impl Into<String>) {
        *self.waited_for.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    /// What was last waited for, in each part that has not come to its end.
    pub(super) fn waited_for(&self) -> String {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let parts: Vec<String> = parts.iter().filter_map(Weak::upgrade).map(|part| part.waited_for()).collect();
        if parts.is_empty() {
            return self.waited_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
        }
        parts.join("; ")
    }
}

/// Serves until the daemon ends.
pub(super) async fn serve(node: Arc<Node>, listener: OwnedFd) -> std::io::Result<()> {
    let listener = PlainListener::from(listener);
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(Arc::clone(&node), stream));
            }
            Err(error) => {
                tracing::warn!("cannot accept on the admin socket: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection: requests one after another.
async fn converse(node: Arc<Node>, stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    while let Ok(Some(line)) = next_line(&mut reader).await {
        let is_open = match decode_request(&line) {
            Ok(request) => answer(&node, &request, &mut reader, &mut write).await,
            Err(error) => {
                let sentence = format!("the request is not understood: {error}");
                send(&mut write, &Response::Failed { code: None, exit: 1, sentence, next: None }).await
            }
        };
        if !is_open {
            return;
        }
    }
}

/// A line with its line feed; `None` at the end. One that is too long is cut, and fails to decode.
async fn next_line(reader: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let arrived = reader.fill_buf().await?;
        if arrived.is_empty() {
            return Ok(None);
        }
        let end = arrived.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(arrived.len(), |end| end + 1);
        line.extend(arrived.iter().take(taken));
        reader.consume(taken);
        if end.is_some() {
            return Ok(Some(line));
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
}

/// Carries out one request; false when the asker has gone.
async fn answer(
    node: &Arc<Node>,
    request: &Request,
    reader: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> bool {
    let (sender, mut lines) = mpsc::channel(LINES_MAX);
    let out = Arc::new(Out::new(sender, request.verb.name()));
    let work = verbs::answer(node, request, &out);
    tokio::pin!(work);
    let mut is_watched = true;
    let last = loop {
        tokio::select! {
            biased;
            Some(line) = lines.recv() => if !send(write, &line).await { return false },
            last = &mut work => break last,
            arrived = reader.fill_buf(), if is_watched => match arrived {
                // What was begun goes on; only the waiting ends.
                Ok([]) | Err(_) => return false,
                // The next request already: it is read when this one is answered.
                Ok(_) => is_watched = false,
            },
        }
    };
    while let Ok(line) = lines.try_recv() {
        if !send(write, &line).await {
            return false;
        }
    }
    send(write, &last).await
}

async fn send(write: &mut OwnedWriteHalf, response: &Response) -> bool {
    write.write_all(&encode(response)).await.is_ok()
}
