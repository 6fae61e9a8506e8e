//! Events: in the order in which they came to be, kept in a file until containerd has acknowledged them. What happens while
//! containerd is away is told when it is back.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use prost::Message;

use super::proto::{Any, Envelope, ForwardRequest, Request, Response, TaskDelete, TaskExit, Timestamp};
use super::ttrpc::{Connection, Frame, Item, REQUEST, code};
use crate::error::{Error, Result};
use crate::shim::clock::{self, Moment};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// How long one may take to be acknowledged.
const PATIENCE: Duration = Duration::from_secs(5);
/// From the first try in vain to the next, twice as long each time.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// Bytes that may wait. More than a hundred thousand events; then the oldest one goes, and that is said.
const KEPT: usize = 16 << 20;
/// The file's head: where the first one lies that was not acknowledged.
const HEAD: u64 = 8;

/// Requests in order, in memory and in a file: the head, then for each its length in four bytes and its content.
#[derive(Debug)]
pub struct Queue {
    file: File,
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    first: u64,
    end: u64,
}

impl Queue {
    /// Opens the file, with what an earlier shim has left in it.
    ///
    /// # Errors
    /// It can't be made or read.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |call: &str, error: &std::io::Error| {
            Error::new(format!("keep events in {}", path.display())).call(call, crate::host::errno(error))
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(path).map_err(|error| failed("open", &error))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| failed("read", &error))?;
        let (waiting, first) = parse(&text);
        let bytes = waiting.iter().map(Vec::len).sum();
        let end = first + waiting.iter().map(|one| one.len() as u64 + 4).sum::<u64>();
        let mut queue = Self { file, waiting, bytes, first, end };
        if queue.waiting.is_empty() {
            queue.clear().map_err(|error| failed("write", &error))?;
        }
        Ok(queue)
    }

    fn clear(&mut self) -> std::io::Result<()> {
        (self.first, self.end) = (HEAD, HEAD);
        self.file.write_all_at(&HEAD.to_le_bytes(), 0)?;
        self.file.set_len(HEAD)
    }

    /// One more. It lies in the file when this returns.
    fn push(&mut self, request: Vec<u8>) -> std::io::Result<()> {
        let mut record = (request.len() as u32).to_le_bytes().to_vec();
        record.extend_from_slice(&request);
        self.bytes += request.len();
        self.waiting.push_back(request);
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&record)?;
        self.end += record.len() as u64;
        self.file.sync_data()
    }

    /// The oldest one is done with.
    fn pop(&mut self) -> std::io::Result<()> {
        let Some(request) = self.waiting.pop_front() else { return Ok(()) };
        self.bytes -= request.len();
        if self.waiting.is_empty() {
            return self.clear();
        }
        self.first += request.len() as u64 + 4;
        self.file.write_all_at(&self.first.to_le_bytes(), 0)
    }
}

/// The requests of a file from its head's place on. A record that was not written to its end is none.
fn parse(text: &[u8]) -> (VecDeque<Vec<u8>>, u64) {
    let mut waiting = VecDeque::new();
    let head = text.get(..HEAD as usize).and_then(|head| head.try_into().ok()).map(u64::from_le_bytes);
    let first = head.filter(|first| (HEAD..=text.len() as u64).contains(first)).unwrap_or(HEAD);
    let mut rest = text.get(first as usize..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some(request) = after.get(..length) else { break };
        waiting.push_back(request.to_vec());
        rest = &after[length..];
    }
    (waiting, first)
}

/// The queue, and the way to containerd.
#[derive(Debug)]
pub struct Events {
    queue: Queue,
    path: PathBuf,
    address: Option<String>,
    connection: Option<Connection>,
    stream: u32,
    /// Until when the oldest one has to be acknowledged that was sent.
    sent: Option<Moment>,
    again: Option<Moment>,
    wait: Duration,
    lost: Vec<String>,
}

impl Events {
    /// What waits in `path` goes to the socket `address`; without one nothing is kept.
    ///
    /// # Errors
    /// The file can't be made or read.
    pub fn open(path: PathBuf, address: Option<String>) -> Result<Self> {
        let address = address.map(|address| address.strip_prefix("unix://").unwrap_or(&address).to_owned());
        let queue = Queue::open(&path)?;
        Ok(Self {
            queue,
            path,
            address,
            connection: None,
            stream: 1,
            sent: None,
            again: None,
            wait: FIRST,
            lost: Vec::new(),
        })
    }

    /// Something has happened.
    pub fn publish(&mut self, namespace: &str, topic: &str, kind: &str, event: &impl Message) {
        if self.address.is_none() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(Timestamp::now()),
            namespace: namespace.into(),
            topic: topic.into(),
            event: Some(Any::of(&format!("containerd.events.{kind}"), event)),
        };
        let request = ForwardRequest { envelope: Some(envelope) }.encode_to_vec();
        if let Err(error) = self.queue.push(request) {
            self.lost.push(format!("{topic} is kept in memory only: {error}"));
        }
        while self.queue.bytes > KEPT {
            // The one that is on its way as well: it would be acknowledged for another.
            self.disconnect(clock::now());
            self.drop_first("there are too many");
        }
    }

    fn drop_first(&mut self, why: &str) {
        let envelope = self.queue.waiting.front().and_then(|first| ForwardRequest::decode(&**first).ok()?.envelope);
        self.lost.push(format!("an event is lost, {}: {why}", envelope.unwrap_or_default().topic));
        self.done();
    }

    fn done(&mut self) {
        self.sent = None;
        if let Err(error) = self.queue.pop() {
            self.lost.push(format!("an event may be told twice: {error}"));
        }
    }

    /// What has to be said in the log, once.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lost)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.waiting.is_empty()
    }

    /// The socket to wait for, and whether for room to write in it.
    pub fn socket(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.connection.as_ref().map(|connection| (connection.as_fd(), connection.is_behind()))
    }

    /// When something has to be done without a word from containerd.
    pub fn deadline(&self) -> Option<Moment> {
        self.sent.or(self.again.filter(|_| !self.is_empty()))
    }

    fn disconnect(&mut self, now: Moment) {
        (self.connection, self.sent) = (None, None);
        self.again = Some(now + self.wait);
        self.wait = (self.wait * 2).min(LONGEST);
    }

    /// Does what there is to do: connects, sends, reads, gives up a connection. True when there is another socket to wait for.
    pub fn go_on(&mut self, now: Moment) -> bool {
        let mut changed = false;
        if self.connection.is_some() && self.talk(now).is_err() {
            self.disconnect(now);
            changed = true;
        }
        if self.sent.is_some_and(|sent| sent <= now) {
            self.disconnect(now);
            changed = true;
        }
        if self.connection.is_none() && !self.is_empty() && self.again.is_none_or(|again| again <= now) {
            match self.address.as_deref().map(connected) {
                Some(Ok(connection)) => {
                    (self.connection, self.again) = (Some(connection), None);
                    changed = true;
                    if self.talk(now).is_err() {
                        self.disconnect(now);
                    }
                }
                Some(Err(_)) => self.disconnect(now),
                None => {}
            }
        }
        changed
    }

    /// One request after the other: the next one goes when the one before was acknowledged.
    fn talk(&mut self, now: Moment) -> std::io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.flush()?;
        for item in connection.receive()? {
            let Item::Frame(frame) = item else { return Err(std::io::ErrorKind::InvalidData.into()) };
            if self.sent.is_none() || frame.stream != self.stream {
                continue;
            }
            self.stream = self.stream.wrapping_add(2);
            let response = Response::decode(&*frame.payload).map_err(|_| std::io::ErrorKind::InvalidData)?;
            match response.status.filter(|status| status.code != 0) {
                None => {
                    self.wait = FIRST;
                    self.done();
                }
                // It will never be taken.
                Some(status) if matches!(status.code, code::INVALID_ARGUMENT | code::UNIMPLEMENTED) => {
                    self.drop_first(&status.message);
                }
                Some(_) => return Err(std::io::ErrorKind::Other.into()),
            }
        }
        self.send(now)
    }

    fn send(&mut self, now: Moment) -> std::io::Result<()> {
        let (None, Some(first), Some(connection)) = (self.sent, self.queue.waiting.front(), &mut self.connection)
        else {
            return Ok(());
        };
        let request = Request {
            service: SERVICE.into(),
            method: "Forward".into(),
            payload: first.clone(),
            timeout_nano: PATIENCE.as_nanos() as i64,
        };
        self.sent = Some(now + PATIENCE);
        connection.send(&Frame { stream: self.stream, kind: REQUEST, payload: request.encode_to_vec() })
    }

    /// The file that they are kept in.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.queue.file.as_fd()
    }

    /// Does not tell that this container's first process has ended, nor that it was removed.
    pub fn forget_end_of(&mut self, container: &str) {
        let told = |request: &Vec<u8>| {
            let event = ForwardRequest::decode(&**request).ok()?.envelope?.event?;
            match event.name() {
                "containerd.events.TaskExit" => {
                    let exit = TaskExit::decode(&*event.value).ok()?;
                    (exit.id == exit.container_id).then_some(exit.container_id)
                }
                "containerd.events.TaskDelete" => Some(TaskDelete::decode(&*event.value).ok()?.container_id),
                _ => None,
            }
        };
        let kept: Vec<_> = self.queue.waiting.drain(..).filter(|one| told(one).as_deref() != Some(container)).collect();
        self.queue.bytes = 0;
        let written = self.queue.clear().and_then(|()| kept.into_iter().try_for_each(|one| self.queue.push(one)));
        if let Err(error) = written {
            self.lost.push(format!("events are not kept: {error}"));
        }
    }

    /// Removes the file, when all has been told.
    pub fn close(self) {
        if self.is_empty() {
            // It may be gone with its directory.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A connection that did not wait: a listener whose queue is full has no time now.
fn connected(address: &str) -> std::io::Result<Connection> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = match address.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(address)?,
    };
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    }
    Connection::new(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::super::proto::{Empty, Status, TaskNamed};
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("orlop-events-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).expect("a directory");
            Self(path)
        }

        fn events(&self) -> Events {
            Events::open(self.0.join("events"), Some(self.0.join("socket").display().to_string())).expect("events")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn publish(events: &mut Events, id: &str) {
        events.publish("n", "/tasks/oom", "TaskOOM", &TaskNamed { container_id: id.into() });
    }

    /// The id of the next event that comes, which is answered by `status`.
    fn take(peer: &mut Connection, status: Option<Status>) -> String {
        let Item::Frame(frame) = peer.receive().expect("a request").remove(0) else { panic!("too long") };
        let request = Request::decode(&*frame.payload).expect("a request");
        assert_eq!((request.service.as_str(), request.method.as_str()), (SERVICE, "Forward"));
        let answer = status.map_or(Ok(Empty {}.encode_to_vec()), Err);
        peer.send(&Frame::answer(frame.stream, answer)).expect("an answer");
        let envelope = ForwardRequest::decode(&*request.payload).expect("a message").envelope.expect("an envelope");
        let event = envelope.event.expect("an event");
        assert_eq!(event.type_url, "containerd.events.TaskOOM");
        TaskNamed::decode(&*event.value).expect("the event").container_id
    }

    fn accept(listener: &UnixListener) -> Connection {
        Connection::new(listener.accept().expect("a connection").0).expect("a connection")
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order_and_by_the_next_shim_too() {
        let place = Place::new("again");
        let mut events = place.events();
        publish(&mut events, "a");
        publish(&mut events, "b");
        // Nobody listens.
        events.go_on(Moment::from_secs(100));
        assert!(events.socket().is_none() && events.deadline() > Some(Moment::from_secs(100)));
        let listener = UnixListener::bind(place.0.join("socket")).expect("a socket");
        events.go_on(Moment::from_secs(101));
        let mut peer = accept(&listener);
        assert_eq!(take(&mut peer, None), "a");
        events.go_on(Moment::from_secs(102));
        // It dies before it has answered, and so does the shim.
        drop(peer);
        drop(events);
        let mut events = place.events();
        publish(&mut events, "c");
        events.go_on(Moment::from_secs(103));
        let mut peer = accept(&listener);
        assert_eq!(take(&mut peer, Some(Status::new(14, "later"))), "b");
        // Not acknowledged: another connection, after a while.
        events.go_on(Moment::from_secs(104));
        assert!(events.socket().is_none());
        events.go_on(Moment::from_secs(105));
        let mut peer = accept(&listener);
        assert_eq!(take(&mut peer, None), "b");
        events.go_on(Moment::from_secs(106));
        // Silence: as much as an end.
        assert!(peer.receive().is_ok_and(|items| items.len() == 1));
        events.go_on(Moment::from_secs(120));
        assert!(events.socket().is_none());
        events.go_on(Moment::from_secs(121));
        let mut peer = accept(&listener);
        assert_eq!(take(&mut peer, None), "c");
        events.go_on(Moment::from_secs(122));
        assert!(events.is_empty() && events.deadline().is_none() && events.complaints().is_empty());
        events.close();
        assert!(!place.0.join("events").exists());
    }

    #[test]
    fn what_is_refused_for_ever_is_dropped_and_said() {
        let place = Place::new("refused");
        let listener = UnixListener::bind(place.0.join("socket")).expect("a socket");
        let mut events = place.events();
        publish(&mut events, "a");
        events.go_on(Moment::from_secs(1));
        take(&mut accept(&listener), Some(Status::new(code::INVALID_ARGUMENT, "no topic")));
        events.go_on(Moment::from_secs(2));
        assert!(events.is_empty());
        assert_eq!(events.complaints(), ["an event is lost, /tasks/oom: no topic"]);
    }

    proptest! {
        #[test]
        fn any_file_is_read(text in prop::collection::vec(any::<u8>(), 0..200), small in prop::collection::vec(0u8..12, 8..60)) {
            parse(&text);
            // A head and lengths that may be right.
            let head = [HEAD.to_le_bytes().to_vec(), small.chunks(4).flat_map(|c| [c[0], 0, 0, 0]).collect()].concat();
            let (waiting, first) = parse(&head);
            prop_assert!(first + waiting.iter().map(|one| one.len() as u64 + 4).sum::<u64>() <= head.len() as u64);
        }
    }
}
