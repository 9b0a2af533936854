//! An NBD client that waits for each answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::nbd::client::{Client, ClientError, ClientEvent};

pub(super) struct NbdClient {
    socket: UnixStream,
    client: Client,
    cookie: u64,
    /// Answers that came together with one that was told.
    early: Vec<ClientEvent>,
    pub(super) bytes: u64,
}

impl NbdClient {
    /// Opens an export; the server's words if it refuses.
    pub(super) fn open(path: &Path, export: &str) -> Result<Self, String> {
        Self::over(UnixStream::connect(path).map_err(|error| error.to_string())?, export)
    }

    /// As `open`, over TCP.
    pub(super) fn open_tcp(address: SocketAddr, export: &str) -> Result<Self, String> {
        let socket = TcpStream::connect(address).map_err(|error| error.to_string())?;
        // A stream is a stream: only its reads and writes are used.
        Self::over(OwnedFd::from(socket).into(), export)
    }

    fn over(mut socket: UnixStream, export: &str) -> Result<Self, String> {
        socket.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        let (client, hello) = Client::connect_bytes(export);
        socket.write_all(&hello).unwrap();
        let mut this = Self { socket, client, cookie: 0, early: Vec::new(), bytes: 0 };
        match this.next_event() {
            Ok(ClientEvent::Ready { bytes, .. }) => {
                this.bytes = bytes;
                Ok(this)
            }
            Ok(event) => panic!("{event:?}"),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&mut self, offset: u64, payload: &[u8], fua: bool) -> Result<Bytes, (u32, String)> {
        self.ask(|client, cookie, out| client.write(cookie, offset, payload, fua, out))
    }

    pub(super) fn read(&mut self, offset: u64, bytes: u32) -> Result<Bytes, (u32, String)> {
        self.ask(|client, cookie, out| client.read(cookie, offset, bytes, out))
    }

    pub(super) fn flush(&mut self) -> Result<Bytes, (u32, String)> {
        self.ask(|client, cookie, out| client.flush(cookie, out))
    }

    pub(super) fn trim(&mut self, offset: u64, bytes: u32) -> Result<Bytes, (u32, String)> {
        self.ask(|client, cookie, out| client.trim(cookie, offset, bytes, true, out))
    }

    pub(super) fn zeroes(&mut self, offset: u64, bytes: u32) -> Result<Bytes, (u32, String)> {
        self.ask(|client, cookie, out| client.zeroes(cookie, offset, bytes, false, false, out))
    }

    /// Many writes in flight at once, each with contents of its own; the number of those that succeeded.
    pub(super) fn write_each(&mut self, offsets: &[u64], contents: impl Fn(usize) -> Vec<u8>) -> usize {
        let mut out = BytesMut::new();
        for (index, offset) in offsets.iter().enumerate() {
            self.cookie += 1;
            self.client.write(self.cookie, *offset, &contents(index), false, &mut out);
        }
        let mut socket = self.socket.try_clone().unwrap();
        let sender = std::thread::spawn(move || socket.write_all(&out));
        let answers = offsets.iter().map(|_| self.next_event().unwrap());
        let done = answers.filter(|event| matches!(event, ClientEvent::Reply { result: Ok(_), .. })).count();
        sender.join().unwrap().unwrap();
        done
    }

    /// As `write_each`, all alike.
    pub(super) fn write_many(&mut self, offsets: &[u64], payload: &[u8]) -> usize {
        self.write_each(offsets, |_| payload.to_vec())
    }

    /// Asks for more than it will ever read.
    pub(super) fn ask_without_listening(&mut self, reads: u64, bytes: u32) {
        let mut out = BytesMut::new();
        for _ in 0..reads {
            self.cookie += 1;
            self.client.read(self.cookie, 0, bytes, &mut out);
        }
        self.socket.write_all(&out).unwrap();
    }

    /// Takes so many answers; how many were successes.
    pub(super) fn listen(&mut self, answers: u64) -> u64 {
        let answers = (0..answers).map(|_| self.next_event().unwrap());
        answers.filter(|event| matches!(event, ClientEvent::Reply { result: Ok(_), .. })).count() as u64
    }

    /// Sends the beginning of a write and vanishes.
    pub(super) fn vanish_in_a_write(mut self) {
        self.cookie += 1;
        let mut out = BytesMut::new();
        self.client.write(self.cookie, 0, &[1; 8192], false, &mut out);
        self.socket.write_all(&out[..5000]).unwrap();
    }

    fn ask(&mut self, encode: impl FnOnce(&mut Client, u64, &mut BytesMut)) -> Result<Bytes, (u32, String)> {
        self.cookie += 1;
        let mut out = BytesMut::new();
        encode(&mut self.client, self.cookie, &mut out);
        self.socket.write_all(&out).map_err(|error| (0, error.to_string()))?;
        match self.next_event() {
            Ok(ClientEvent::Reply { cookie, result }) => {
                assert_eq!(cookie, self.cookie);
                result
            }
            Ok(event) => panic!("{event:?}"),
            Err(error) => Err((0, error)),
        }
    }

    fn next_event(&mut self) -> Result<ClientEvent, String> {
        let mut buffer = vec![0; 1 << 16];
        let mut events = Vec::new();
        loop {
            match self.client.handle(&mut events) {
                Err(ClientError::Refused { message, .. }) => return Err(message),
                result => result.unwrap(),
            }
            self.early.append(&mut events);
            if !self.early.is_empty() {
                return Ok(self.early.remove(0));
            }
            let count = match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(|error| error.to_string())?,
            };
            if count == 0 {
                return Err("the server closed".to_owned());
            }
            self.client.push(Bytes::copy_from_slice(&buffer[..count]));
        }
    }
}
