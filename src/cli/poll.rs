//! `events2 --poll`: counters make no line by themselves, so whoever wants them asks, with a line `n` on standard input.

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::client::{Answer, ClientError, ask};
use crate::control::{Request, Response};

/// The line that ends what there is.
const END_OF_DUMP: &str = "exists -";

/// Lines that wait for whoever reads our output before the daemon's wait too.
const LINES_MAX: usize = 64;

/// What the printing thread waits for.
enum Arrived {
    /// A line of the answer, or what became of it.
    Line(Result<Response, ClientError>),
    /// Somebody wants to see the counters.
    Wanted,
}

/// The lines of an answer, and between them, when standard input asks, a `change` of each object that looks otherwise than
/// when it was last asked for. Nothing is asked before all that there is has been told.
pub(super) fn polled(
    socket: PathBuf,
    request: Request,
    answer: Answer,
) -> impl Iterator<Item = Result<Response, ClientError>> {
    let (sender, arrived) = sync_channel(LINES_MAX);
    let wanted = sender.clone();
    std::thread::spawn(move || pass_on(answer, &sender));
    std::thread::spawn(move || listen(io::stdin().lock(), &wanted));
    Polled {
        arrived,
        look: move || look(&socket, &request),
        known: BTreeSet::new(),
        is_told: false,
        is_wanted: false,
        pending: Vec::new(),
    }
}

/// The answer goes to the printing thread, as far as that reads.
fn pass_on(mut answer: Answer, sender: &SyncSender<Arrived>) {
    while let Some(line) = answer.next_response().transpose() {
        let is_last = line.is_err();
        if sender.send(Arrived::Line(line)).is_err() || is_last {
            return;
        }
    }
}

/// Wishes go to the printing thread, until there is no more input.
fn listen(input: impl BufRead, sender: &SyncSender<Arrived>) {
    for line in input.lines() {
        match line {
            Ok(line) if line.trim() == "n" => {
                if sender.send(Arrived::Wanted).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// What there is now, with counters.
fn look(socket: &Path, request: &Request) -> Result<Vec<String>, ClientError> {
    let mut request = request.clone();
    (request.options.now, request.options.statistics) = (true, true);
    let mut answer = ask(socket, request, None)?;
    let mut lines = Vec::new();
    while let Some(response) = answer.next_response()? {
        if let Response::Text(line) = response {
            lines.push(line);
        }
    }
    Ok(lines)
}

struct Polled<F> {
    arrived: Receiver<Arrived>,
    look: F,
    /// What was told when it was last asked for, without its time.
    known: BTreeSet<String>,
    is_told: bool,
    is_wanted: bool,
    pending: Vec<Response>,
}

impl<F: FnMut() -> Result<Vec<String>, ClientError>> Iterator for Polled<F> {
    type Item = Result<Response, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(response) = self.pending.pop() {
                return Some(Ok(response));
            }
            if self.is_told && std::mem::take(&mut self.is_wanted) {
                if let Err(error) = self.look() {
                    return Some(Err(error));
                }
                continue;
            }
            match self.arrived.recv().ok()? {
                Arrived::Wanted => self.is_wanted = true,
                Arrived::Line(line) => {
                    self.is_told |= matches!(&line, Ok(Response::Text(text)) if text.ends_with(END_OF_DUMP));
                    return Some(line);
                }
            }
        }
    }
}

impl<F: FnMut() -> Result<Vec<String>, ClientError>> Polled<F> {
    /// Puts what has changed where it is printed from, last line first.
    fn look(&mut self) -> Result<(), ClientError> {
        let mut known = BTreeSet::new();
        for line in (self.look)()? {
            // With a time or without.
            let Some((time, object)) = line.split_once("exists ").filter(|_| !line.ends_with(END_OF_DUMP)) else {
                continue;
            };
            if !self.known.contains(object) {
                self.pending.push(Response::Text(format!("{time}change {object}")));
            }
            known.insert(object.to_owned());
        }
        self.known = known;
        self.pending.reverse();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> Arrived {
        Arrived::Line(Ok(Response::Text(line.into())))
    }

    #[test]
    fn counters_are_told_after_the_dump_and_only_where_they_differ() {
        let (sender, arrived) = sync_channel(LINES_MAX);
        let asked = ["n\nx\n", "n\n", "n"];
        listen(asked[0].as_bytes(), &sender);
        for line in ["exists resource name:r", "exists -"] {
            sender.send(text(line)).unwrap();
        }
        listen(asked[1].as_bytes(), &sender);
        sender.send(text("change resource name:r role:Primary")).unwrap();
        listen(asked[2].as_bytes(), &sender);
        drop(sender);
        let mut dumps = vec![
            vec!["exists resource name:r", "exists device name:r read:8", "exists -"],
            vec!["T exists resource name:r", "T exists device name:r read:4", "T exists -"],
            vec!["exists resource name:r", "exists device name:r read:4", "exists -"],
        ];
        let polled = Polled {
            arrived,
            look: || Ok(dumps.pop().unwrap().into_iter().map(str::to_owned).collect()),
            known: BTreeSet::new(),
            is_told: false,
            is_wanted: false,
            pending: Vec::new(),
        };
        let told: Vec<String> = polled
            .map(|line| match line.unwrap() {
                Response::Text(line) => line,
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            "exists resource name:r",
            "exists -",
            "change resource name:r",
            "change device name:r read:4",
            // The second wish finds what the first had told, with a time before it.
            "change resource name:r role:Primary",
            "change device name:r read:8",
        ];
        assert_eq!(told, expected);
    }
}
