//! One request to the daemon and the lines of its answer, with a deadline that says what it waited for.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::control::{DecodeError, LINE_BYTES_MAX, Request, Response, decode_response, encode};

/// How much longer than the daemon we wait, so that its better sentence arrives.
const MARGIN: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("shimaid does not answer at {}: {source}; is it running, and with the same run directory?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It took too long.
    #[error("no answer within {} s while waiting for: {waited_for}", after.as_secs())]
    Deadline {
        /// How long we waited.
        after: Duration,
        /// The last thing the daemon said it was doing, or the request.
        waited_for: String,
    },
    /// The connection broke.
    #[error("the connection to shimaid broke while waiting for: {waited_for}")]
    Broken {
        /// The last thing the daemon said it was doing, or the request.
        waited_for: String,
        /// What the system says; none if the daemon closed it.
        source: Option<io::Error>,
    },
    /// The daemon speaks differently; it is probably of another version.
    #[error("shimaid's answer is not understood: {0}")]
    Decode(#[from] DecodeError),
}

/// A request under way.
#[derive(Debug)]
pub struct Answer {
    reader: BufReader<UnixStream>,
    /// The deadline and the time from the request to it.
    deadline: Option<(Instant, Duration)>,
    waited_for: String,
    is_over: bool,
    /// What has arrived of the next line.
    line: Vec<u8>,
}

/// Sends the request; the answer is read from what is returned.
pub fn ask(socket: &Path, mut request: Request, timeout: Option<Duration>) -> Result<Answer, ClientError> {
    let unreachable = |source| ClientError::Unreachable { path: socket.into(), source };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    if let Some(timeout) = timeout {
        request.options.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
    stream.set_write_timeout(timeout.map(|timeout| timeout + MARGIN)).map_err(unreachable)?;
    stream.write_all(&encode(&request)).map_err(unreachable)?;
    Ok(Answer {
        reader: BufReader::new(stream),
        deadline: timeout.map(|timeout| (Instant::now() + timeout + MARGIN, timeout)),
        waited_for: described(&request),
        is_over: false,
        line: Vec::new(),
    })
}

impl Answer {
    /// The next line of the answer; `None` after the one that ended it.
    pub fn next_response(&mut self) -> Result<Option<Response>, ClientError> {
        if self.is_over {
            return Ok(None);
        }
        self.read_line()?;
        let response = decode_response(&self.line)?;
        self.line.clear();
        if let Response::Progress { sentence, .. } = &response {
            self.waited_for.clone_from(sentence);
        }
        self.is_over = response.ends_answer();
        Ok(Some(response))
    }

    /// Fills `line` up to its line feed.
    fn read_line(&mut self) -> Result<(), ClientError> {
        loop {
            self.arm_deadline()?;
            let arrived = match self.reader.fill_buf() {
                Ok([]) => return Err(self.broken(None)),
                Ok(arrived) => arrived,
                // The deadline is looked at above.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(Some(error))),
            };
            let end = arrived.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(arrived.len(), |end| end + 1);
            self.line.extend(arrived.iter().take(taken));
            self.reader.consume(taken);
            if self.line.len() > LINE_BYTES_MAX {
                return Err(DecodeError::TooLong { bytes: self.line.len() }.into());
            }
            if end.is_some() {
                return Ok(());
            }
        }
    }

    /// Lets the next read end at the deadline, or says that it has passed.
    fn arm_deadline(&self) -> Result<(), ClientError> {
        let Some((at, after)) = self.deadline else { return Ok(()) };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Deadline { after, waited_for: self.waited_for.clone() });
        }
        self.reader.get_ref().set_read_timeout(Some(left)).map_err(|source| self.broken(Some(source)))
    }

    fn broken(&self, source: Option<io::Error>) -> ClientError {
        ClientError::Broken { waited_for: self.waited_for.clone(), source }
    }
}

/// The request as it was typed.
fn described(request: &Request) -> String {
    let target = request.resource.as_deref().unwrap_or("all");
    match request.volume {
        Some(volume) => format!("{} {target}/{volume}", request.verb),
        None => format!("{} {target}", request.verb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Verb, decode_request};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    /// A daemon that reads one request, says these lines, and keeps the connection until asked to end.
    fn daemon(lines: Vec<Vec<u8>>) -> (tempfile::TempDir, PathBuf, JoinHandle<(Request, UnixStream)>) {
        let folder = tempfile::tempdir().expect("there is room for a socket");
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).expect("the folder is ours");
        let handle = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the test connects");
            let mut line = Vec::new();
            BufReader::new(&stream).read_until(b'\n', &mut line).expect("the test sends a request");
            for line in lines {
                stream.write_all(&line).expect("the test reads");
            }
            (decode_request(&line).expect("the test sends a request"), stream)
        });
        (folder, path, handle)
    }

    fn progress(sentence: &str) -> Response {
        Response::Progress { sentence: sentence.into(), percent: None, rate_bytes_per_s: None, seconds_left: None }
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let lines = vec![encode(&progress("attaching")), encode(&Response::done())];
        let (_folder, path, handle) = daemon(lines);
        let request = Request::new(Verb::Up, Some("data"));
        let mut answer = ask(&path, request, Some(Duration::from_secs(10))).expect("the daemon listens");
        assert_eq!(answer.next_response().expect("a line"), Some(progress("attaching")));
        assert_eq!(answer.next_response().expect("a line"), Some(Response::done()));
        assert_eq!(answer.next_response().expect("the end"), None);
        let (seen, _stream) = handle.join().expect("the daemon lives");
        assert_eq!(seen.options.timeout_ms, Some(10_000), "the daemon gives up first, as late as was asked for");
    }

    #[test]
    fn a_deadline_says_what_it_waited_for() {
        let (_folder, path, handle) = daemon(vec![encode(&progress("waiting for bravo"))]);
        let request = Request::new(Verb::Connect, Some("data"));
        let mut answer = ask(&path, request, Some(Duration::from_millis(50))).expect("the daemon listens");
        answer.next_response().expect("a line");
        let error = answer.next_response().expect_err("nothing more comes");
        assert_eq!(error.to_string(), "no answer within 0 s while waiting for: waiting for bravo");
        drop(handle.join());
    }

    #[test]
    fn a_daemon_that_goes_away_is_told_from_one_that_is_not_there() {
        let (folder, path, handle) = daemon(Vec::new());
        let mut answer = ask(&path, Request::new(Verb::Down, None), None).expect("the daemon listens");
        drop(handle.join());
        let gone = answer.next_response().expect_err("the daemon is gone");
        assert_eq!(gone.to_string(), "the connection to shimaid broke while waiting for: down all");
        let absent = ask(&folder.path().join("none.sock"), Request::new(Verb::Down, None), None);
        assert!(matches!(absent, Err(ClientError::Unreachable { .. })));
    }
}
