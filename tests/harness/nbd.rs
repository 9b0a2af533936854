//! A blocking NBD client over a unix socket that keeps many requests in flight.

use bytes::{Bytes, BytesMut};
use shimai::nbd::client::{Client, ClientEvent};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// After so long without a byte a server is taken for hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// An open export.
pub(crate) struct Nbd {
    stream: UnixStream,
    client: Client,
    arrived: VecDeque<Reply>,
    next_cookie: u64,
    /// Size of the export.
    pub(crate) bytes: u64,
}

/// A request's cookie, and what it gave: data, or an error number and words.
pub(crate) type Reply = (u64, Result<Bytes, (u32, String)>);

impl Nbd {
    /// Opens an export; the error is the server's sentence or the system's.
    pub(crate) fn open(socket: &Path, export: &str) -> Result<Self, String> {
        let mut stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        let (client, hello) = Client::connect_bytes(export);
        stream.write_all(&hello).map_err(|error| error.to_string())?;
        let mut nbd = Self { stream, client, arrived: VecDeque::new(), next_cookie: 1, bytes: 0 };
        while nbd.bytes == 0 {
            nbd.receive()?;
        }
        Ok(nbd)
    }

    /// Sends a write; its cookie.
    pub(crate) fn begin_write(&mut self, offset: u64, payload: &[u8]) -> Result<u64, String> {
        self.begin(|client, cookie, out| client.write(cookie, offset, payload, false, out))
    }

    /// Sends a flush; its cookie.
    pub(crate) fn begin_flush(&mut self) -> Result<u64, String> {
        self.begin(|client, cookie, out| client.flush(cookie, out))
    }

    /// How many requests await a reply.
    pub(crate) fn in_flight(&self) -> usize {
        self.client.in_flight() + self.arrived.len()
    }

    /// Waits for the next reply.
    pub(crate) fn reply(&mut self) -> Result<Reply, String> {
        loop {
            if let Some(reply) = self.arrived.pop_front() {
                return Ok(reply);
            }
            self.receive()?;
        }
    }

    /// Writes and waits.
    pub(crate) fn write(&mut self, offset: u64, payload: &[u8]) -> Result<(), String> {
        let cookie = self.begin_write(offset, payload)?;
        self.finish(cookie).map(|_| ())
    }

    /// Reads and waits.
    pub(crate) fn read(&mut self, offset: u64, bytes: u32) -> Result<Bytes, String> {
        let cookie = self.begin_read(offset, bytes)?;
        self.finish(cookie)
    }

    /// Sends a read; its cookie.
    pub(crate) fn begin_read(&mut self, offset: u64, bytes: u32) -> Result<u64, String> {
        self.begin(|client, cookie, out| client.read(cookie, offset, bytes, out))
    }

    /// Trims and waits.
    pub(crate) fn trim(&mut self, offset: u64, bytes: u32) -> Result<(), String> {
        let cookie = self.begin(|client, cookie, out| client.trim(cookie, offset, bytes, false, out))?;
        self.finish(cookie).map(|_| ())
    }

    /// Writes zeroes and waits.
    pub(crate) fn zeroes(&mut self, offset: u64, bytes: u32) -> Result<(), String> {
        let cookie = self.begin(|client, cookie, out| client.zeroes(cookie, offset, bytes, true, false, out))?;
        self.finish(cookie).map(|_| ())
    }

    /// Flushes and waits.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        let cookie = self.begin_flush()?;
        self.finish(cookie).map(|_| ())
    }

    fn finish(&mut self, cookie: u64) -> Result<Bytes, String> {
        let (answered, result) = self.reply()?;
        assert_eq!(answered, cookie, "one request at a time");
        result.map_err(|(number, words)| format!("error {number}: {words}"))
    }

    fn begin(&mut self, encode: impl FnOnce(&mut Client, u64, &mut BytesMut)) -> Result<u64, String> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut out = BytesMut::new();
        encode(&mut self.client, cookie, &mut out);
        self.stream.write_all(&out).map_err(|error| error.to_string())?;
        Ok(cookie)
    }

    fn receive(&mut self) -> Result<(), String> {
        let mut chunk = vec![0; 256 << 10];
        let length = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.map_err(|error| error.to_string())?,
            }
        };
        if length == 0 {
            return Err("the server closed the connection".into());
        }
        chunk.truncate(length);
        self.client.push(Bytes::from(chunk));
        let mut events = Vec::new();
        let result = self.client.handle(&mut events);
        for event in events {
            match event {
                ClientEvent::Ready { bytes, .. } => self.bytes = bytes,
                ClientEvent::Reply { cookie, result } => self.arrived.push_back((cookie, result)),
            }
        }
        result.map_err(|error| error.to_string())
    }
}
