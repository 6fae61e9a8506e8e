//! ttrpc: a header of ten bytes, then a message (PROTOCOL.md of containerd/ttrpc). Connections never block, and hold no more
//! than a bounded number of bytes.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use prost::Message;

use super::proto::{Response, Status};

/// The longest message that goes either way.
pub const LONGEST: usize = 4 << 20;
/// What may wait for a peer that does not read. Then it is left.
const OUTPUT: usize = 4 * LONGEST;
const HEADER: usize = 10;

/// Of whom a message comes.
pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;

/// Codes of gRPC (google/rpc/code.proto) for which containerd has errors of its own.
pub mod code {
    pub const UNKNOWN: i32 = 2;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const NOT_FOUND: i32 = 5;
    pub const ALREADY_EXISTS: i32 = 6;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const UNIMPLEMENTED: i32 = 12;
}

impl Status {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub fn unknown(message: impl std::fmt::Display) -> Self {
        Self::new(code::UNKNOWN, message.to_string())
    }
}

/// What a handler says at once.
pub type Answer = Result<Vec<u8>, Status>;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub stream: u32,
    pub kind: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The answer to a request.
    pub fn answer(stream: u32, answer: Answer) -> Self {
        let response = match answer {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        Self { stream, kind: RESPONSE, payload: response.encode_to_vec() }
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&(self.payload.len() as u32).to_be_bytes());
        header[4..8].copy_from_slice(&self.stream.to_be_bytes());
        header[8] = self.kind;
        header
    }
}

/// What came out of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Frame(Frame),
    /// A message of this stream that is longer than may be; its bytes are skipped.
    TooLong(u32),
}

/// Bytes as they come, cut into messages.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Vec<u8>,
    skip: usize,
}

impl Input {
    pub fn push(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        self.bytes.extend_from_slice(bytes);
    }

    pub fn next(&mut self) -> Option<Item> {
        let header: [u8; HEADER] = self.bytes.get(..HEADER)?.try_into().ok()?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, stream) = (word(0) as usize, word(4));
        if length > LONGEST {
            let there = self.bytes.len().min(HEADER + length);
            self.skip = HEADER + length - there;
            self.bytes.drain(..there);
            return Some(Item::TooLong(stream));
        }
        let payload = self.bytes.get(HEADER..HEADER + length)?.to_vec();
        self.bytes.drain(..HEADER + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Some(Item::Frame(Frame { stream, kind: header[8], payload }))
    }
}

/// A peer.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    input: Input,
    output: Vec<u8>,
}

impl Connection {
    /// # Errors
    /// fcntl(2) fails.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, input: Input::default(), output: Vec::new() })
    }

    /// Reads what is there, up to one message of the longest kind: the rest comes in the next round. A peer that has gone is an
    /// error.
    pub fn receive(&mut self) -> io::Result<Vec<Item>> {
        let mut buffer = [0; 16 << 10];
        let mut items = Vec::new();
        let mut count = 0;
        while count <= LONGEST {
            match self.socket.read(&mut buffer) {
                Ok(0) => return if items.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(items) },
                Ok(length) => {
                    count += length;
                    self.input.push(&buffer[..length]);
                    items.extend(std::iter::from_fn(|| self.input.next()));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }

    /// Sends it, now or as soon as the peer reads. A peer that reads nothing for too long is an error.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.output.extend_from_slice(&frame.header());
        self.output.extend_from_slice(&frame.payload);
        self.flush()?;
        if self.output.len() > OUTPUT { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Writes what can be written.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.output.len() {
            match self.socket.write(&self.output[written..]) {
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..written);
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Something waits to be written.
    pub fn is_behind(&self) -> bool {
        !self.output.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(frame: &Frame) -> Vec<u8> {
        [&frame.header()[..], &frame.payload].concat()
    }

    #[test]
    fn a_header_as_the_protocol_has_it() {
        let frame = Frame { stream: 0x0102_0304, kind: REQUEST, payload: vec![7; 0x0506] };
        assert_eq!(frame.header(), [0, 0, 5, 6, 1, 2, 3, 4, 1, 0]);
    }

    #[test]
    fn a_message_that_is_too_long_is_skipped_and_the_next_one_read() {
        let long = (LONGEST + 1) as u32;
        let mut input = Input::default();
        input.push(&[&long.to_be_bytes()[..], &9u32.to_be_bytes(), &[REQUEST, 0], &[1; 100]].concat());
        assert_eq!(input.next(), Some(Item::TooLong(9)));
        input.push(&vec![1; LONGEST + 1 - 100]);
        let next = Frame { stream: 11, kind: REQUEST, payload: vec![2] };
        input.push(&bytes(&next));
        assert_eq!(input.next(), Some(Item::Frame(next)));
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_are_cut(
            frames in prop::collection::vec((any::<u32>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..5),
            cut in 1usize..20,
        ) {
            let frames: Vec<Frame> =
                frames.into_iter().map(|(stream, kind, payload)| Frame { stream, kind, payload }).collect();
            let mut input = Input::default();
            let mut seen = Vec::new();
            for part in frames.iter().flat_map(bytes).collect::<Vec<_>>().chunks(cut) {
                input.push(part);
                seen.extend(std::iter::from_fn(|| input.next()));
            }
            prop_assert_eq!(seen, frames.into_iter().map(Item::Frame).collect::<Vec<_>>());
        }
    }
}
