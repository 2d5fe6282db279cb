//! Plain sockets joined: octets move from one to the other inside the kernel (`splice(2)`), counted at both ends.
//!
//! ```text
//! client socket ─ splice ─▶ pipe ─ splice ─▶ origin socket        and the same the other way
//!        └ received          └ held             └ upstream sent
//! ```
//!
//! A tunnel is both directions, each to its source's end, which is passed on. The body of an answer (`relay.rs`) is one direction to
//! a known length, and the sockets go on behind it.
//!
//! *Counting.* Each call says how many octets it moved: into the pipe is received, out of it is sent. What was received
//! and never sent is the pipe's content at the end; it stays visible as received > sent, and its pipe is thrown away.
//!
//! *Small or idle.* A direction begins by reading through one buffer that all sessions of a worker share, and holds
//! nothing between two reads. Only a read that fills this buffer takes a pipe, and a direction that has come to rest gives
//! it back: ten thousand idle tunnels have no pipe and no buffer.
//!
//! *Bounded.* A direction holds at most a pipe. What pipes hold is counted ([`piped_bytes`]) with what traffic has allocated.
//!
//! *When there are no pipes* (descriptors, the user's limit of pipe pages, [`PIPES_MAX`] in use) the direction goes on
//! through the shared buffer. What its target does not take at once is copied, so at most one such buffer is held.
//!
//! A pipe is filled only when it is empty. So `EAGAIN` on filling means an empty socket, never a full pipe, and clears
//! the socket's readiness rightly.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::session::Session;
use crate::meter::Direction;
use crate::units::Column;

/// Asked of the kernel for each pipe, octets.
const PIPE_BYTES: usize = 1 << 20;
/// A pipe smaller than this is not worth its calls: the kernel has shrunk it, because the user has too many.
const PIPE_BYTES_MIN: usize = 64 << 10;
/// Pipes that one worker has at once, two descriptors each.
const PIPES_MAX: usize = 256;
/// Of those, kept for the next use.
const PIPES_IDLE_MAX: usize = 32;
/// The buffer that a worker's small and idle sessions share. A read that fills it asks for a pipe.
const SHARED_BYTES: usize = 32 << 10;
/// A fill smaller than this is cheaper through the shared buffer.
const BULK_BYTES_MIN: usize = 8 << 10;
/// What one session moves before others have their turn.
const TURN_BYTES_MAX: usize = 4 << 20;

/// A pipe, empty unless a direction is using it.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

#[derive(Default)]
struct Pool {
    idle: RefCell<Vec<Pipe>>,
    /// Idle ones and those in use.
    open: Cell<usize>,
    /// Octets in all of them.
    held_bytes: Cell<usize>,
}

thread_local! {
    /// A worker is a thread: its pipes and its buffer are the thread's.
    static POOL: Pool = Pool::default();
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; SHARED_BYTES].into_boxed_slice());
}

/// Octets that the thread's pipes hold, in memory of the kernel's.
pub fn piped_bytes() -> usize {
    POOL.with(|pool| pool.held_bytes.get())
}

impl Pool {
    /// So many octets went into a pipe, or (negative) out of one.
    fn holds_more(&self, bytes: isize) {
        self.held_bytes.set(self.held_bytes.get().saturating_add_signed(bytes));
    }
}

impl Pipe {
    /// An idle pipe, or a new one; `None` at a limit.
    fn take() -> Option<Self> {
        POOL.with(|pool| {
            if let Some(pipe) = pool.idle.borrow_mut().pop() {
                return Some(pipe);
            }
            if pool.open.get() >= PIPES_MAX {
                return None;
            }
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            pool.open.set(pool.open.get() + 1);
            let pipe = Self { reader, writer };
            // Beyond the user's limit the kernel refuses a larger one: then it is as large as the kernel made it.
            let bytes = fcntl_setpipe_size(&pipe.writer, PIPE_BYTES).or_else(|_| fcntl_getpipe_size(&pipe.writer));
            (bytes.is_ok_and(|bytes| bytes >= PIPE_BYTES_MIN)).then_some(pipe)
        })
    }

    /// Back to the pool. It must be empty: the next direction would send what is in it.
    fn give_back(self) {
        POOL.with(|pool| {
            let mut idle = pool.idle.borrow_mut();
            if idle.len() < PIPES_IDLE_MAX {
                idle.push(self);
            }
        });
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // At the thread's end the pool may be gone before its pipes.
        POOL.try_with(|pool| pool.open.set(pool.open.get().saturating_sub(1))).unwrap_or_default();
    }
}

/// What was received and is to be sent.
enum Held {
    Nothing,
    Octets(Bytes),
    /// In the pipe, so many octets; never 0.
    Piped(Pipe, usize),
}

/// One direction.
struct Flow {
    direction: Direction,
    held: Held,
    /// Kept while more is likely to come at once.
    pipe: Option<Pipe>,
    bulk: bool,
    /// Octets still to come from the source; a tunnel's source says itself when it ends.
    left: Option<u64>,
    at_end: bool,
    done: bool,
}

/// What the octets are.
#[derive(Clone, Copy)]
enum Payload {
    /// All there is: of the upgraded exchange, or of the session.
    Tunnel(Option<u64>),
    /// The body of this exchange's answer.
    Body(u64),
}

/// The two sockets and who is charged.
struct Ends<'a> {
    session: &'a Session,
    payload: Payload,
    origin: &'a RefCell<TcpStream>,
}

/// Carries octets both ways until both sides have ended or one has failed. `exchange`: the upgraded one, or none where
/// the session is the tunnel. `to_origin` and `to_client` were received (and counted) already. On failure
/// [`Session::was_reset`] tells the side.
pub async fn carry(
    session: &Session,
    exchange: Option<u64>,
    origin: TcpStream,
    to_origin: Bytes,
    to_client: Bytes,
) -> io::Result<()> {
    let origin = RefCell::new(origin);
    let ends = Ends { session, payload: Payload::Tunnel(exchange), origin: &origin };
    let mut up = Flow::new(Direction::Received, to_origin, None);
    let mut down = Flow::new(Direction::Sent, to_client, None);
    let carried = poll_fn(|cx| {
        let mut turn_bytes = TURN_BYTES_MAX;
        let moved_up = up.poll(&ends, &mut turn_bytes, cx)?;
        turn_bytes = turn_bytes.max(TURN_BYTES_MAX / 2);
        let moved_down = down.poll(&ends, &mut turn_bytes, cx)?;
        if moved_up.is_ready() && moved_down.is_ready() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    })
    .await;
    if session.was_reset() && super::kernel::unacked_bytes(&*origin.borrow()).is_ok_and(|bytes| bytes == 0) {
        // The client's reset is passed on, so that the origin does not take a torn stream for a whole one; not while
        // octets are under way that the reset would destroy.
        socket2::SockRef::from(&*origin.borrow()).set_linger(Some(std::time::Duration::ZERO))?;
    }
    carried
}

/// Carries the body of an answer to the client: what was received (and counted) already, then so many octets more. Answers the
/// origin's socket, behind the body. On failure [`Session::was_reset`] tells the side.
pub async fn carry_body(
    session: &Session,
    exchange: u64,
    origin: TcpStream,
    early: Bytes,
    left: u64,
) -> io::Result<TcpStream> {
    let origin = RefCell::new(origin);
    let ends = Ends { session, payload: Payload::Body(exchange), origin: &origin };
    let mut down = Flow::new(Direction::Sent, early, Some(left));
    down.bulk = true;
    poll_fn(|cx| {
        let mut turn_bytes = TURN_BYTES_MAX;
        down.poll(&ends, &mut turn_bytes, cx)
    })
    .await?;
    Ok(origin.into_inner())
}

impl Ends<'_> {
    fn source(&self, direction: Direction) -> &RefCell<TcpStream> {
        match direction {
            Direction::Received => self.session.tcp(),
            Direction::Sent => self.origin,
        }
    }

    fn target(&self, direction: Direction) -> &RefCell<TcpStream> {
        match direction {
            Direction::Received => self.origin,
            Direction::Sent => self.session.tcp(),
        }
    }

    /// Octets came from the direction's source.
    fn came(&self, direction: Direction, n: usize) {
        match direction {
            Direction::Received => {
                self.session.wire_received(n);
                self.moved(direction, n);
            }
            Direction::Sent => self.upstream_moved(Column::UpstreamReceived, n),
        }
    }

    /// A call that gives up to `n` octets to the direction's target, counted.
    fn give(&self, direction: Direction, n: usize, write: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        if direction == Direction::Received {
            let result = write();
            if let Ok(n) = result {
                self.upstream_moved(Column::UpstreamSent, n);
            }
            return result;
        }
        // What a kill during the call leaves uncertain is at most this.
        self.session.pending(n);
        let result = write();
        if let Ok(n) = result {
            self.session.wire_sent(n);
            self.moved(direction, n);
        }
        self.session.pending(0);
        result
    }

    fn moved(&self, direction: Direction, n: usize) {
        match self.payload {
            Payload::Tunnel(exchange) => self.session.tunnel_moved(exchange, direction, n as u64),
            Payload::Body(_) => self.session.body_passed(n),
        }
    }

    fn upstream_moved(&self, column: Column, n: usize) {
        let exchange = match self.payload {
            Payload::Tunnel(exchange) => exchange.unwrap_or(u64::MAX),
            Payload::Body(exchange) => exchange,
        };
        self.session.upstream_moved(exchange, column, n as u64);
    }

    fn at_end(&self, direction: Direction) {
        if direction == Direction::Received {
            self.session.eof_seen();
        }
    }

    /// The side that failed is the client's, or the origin's.
    fn failed(&self, on_client: bool, error: io::Error) -> io::Error {
        if on_client {
            self.session.failed(&error);
        }
        error
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // What is in the pipe goes with it.
        if let Held::Piped(_, bytes) = self.held {
            POOL.try_with(|pool| pool.holds_more(-bytes.cast_signed())).unwrap_or_default();
        }
    }
}

impl Flow {
    fn new(direction: Direction, early: Bytes, left: Option<u64>) -> Self {
        let held = if early.is_empty() { Held::Nothing } else { Held::Octets(early) };
        Self { direction, held, pipe: None, bulk: false, left, at_end: false, done: false }
    }

    /// Moves what can be moved now. Ready when all that was to come, or the source's end, has been passed on.
    fn poll(&mut self, ends: &Ends<'_>, turn_bytes: &mut usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.done {
            if *turn_bytes == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let writes_to_client = self.direction == Direction::Sent;
            ready!(self.poll_empty(ends, cx)).map_err(|error| ends.failed(writes_to_client, error))?;
            if self.left == Some(0) {
                self.rest();
                self.done = true;
                break;
            }
            if self.at_end {
                self.rest();
                // An error means that the target has ended by itself: its own direction sees that.
                shutdown(&*ends.target(self.direction).borrow(), Shutdown::Write).unwrap_or_default();
                self.done = true;
                break;
            }
            let Poll::Ready(filled) = self.poll_fill(ends, cx) else {
                self.rest();
                return Poll::Pending;
            };
            let n = filled.map_err(|error| ends.failed(!writes_to_client, error))?;
            if n == 0 && self.left.is_some() {
                self.rest();
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if n == 0 {
                self.at_end = true;
                ends.at_end(self.direction);
            }
            self.left = self.left.map(|left| left - n as u64);
            *turn_bytes = turn_bytes.saturating_sub(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing is held and nothing comes: the pipe may serve another.
    fn rest(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }

    /// Gives the target all that is held.
    fn poll_empty(&mut self, ends: &Ends<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let target = ends.target(self.direction).borrow();
            let written = match &self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Octets(octets) => {
                    ready!(target.poll_write_ready(cx))?;
                    ends.give(self.direction, octets.len(), || target.try_write(octets))
                }
                Held::Piped(pipe, bytes) => {
                    ready!(target.poll_write_ready(cx))?;
                    ends.give(self.direction, *bytes, || {
                        target.try_io(Interest::WRITABLE, || move_octets(&pipe.reader, &*target, *bytes))
                    })
                }
            };
            drop(target);
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.gave(n),
                Err(error) if would_block(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn gave(&mut self, n: usize) {
        self.held = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => Held::Nothing,
            Held::Octets(mut octets) => {
                octets.advance(n);
                if octets.is_empty() { Held::Nothing } else { Held::Octets(octets) }
            }
            Held::Piped(pipe, bytes) => {
                // A pipe that gives more than it took would be the kernel's bug, and every count wrong.
                assert!(n <= bytes, "a pipe gave {n} octets of {bytes}");
                POOL.with(|pool| pool.holds_more(-n.cast_signed()));
                if n < bytes {
                    Held::Piped(pipe, bytes - n)
                } else {
                    self.pipe = Some(pipe);
                    Held::Nothing
                }
            }
        };
    }

    /// Takes from the source what it has. 0 at its end.
    fn poll_fill(&mut self, ends: &Ends<'_>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bulk {
            self.pipe = self.pipe.take().or_else(Pipe::take);
        }
        match self.pipe.take() {
            Some(pipe) => self.poll_fill_pipe(pipe, ends, cx),
            None => self.poll_fill_shared(ends, cx),
        }
    }

    fn poll_fill_pipe(&mut self, pipe: Pipe, ends: &Ends<'_>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let source = ends.source(self.direction).borrow();
        loop {
            if source.poll_read_ready(cx)?.is_pending() {
                self.pipe = Some(pipe);
                return Poll::Pending;
            }
            let bytes_max = self.at_most(PIPE_BYTES);
            match source.try_io(Interest::READABLE, || move_octets(&*source, &pipe.writer, bytes_max)) {
                Ok(0) => {
                    self.pipe = Some(pipe);
                    return Poll::Ready(Ok(0));
                }
                Ok(n) => {
                    ends.came(self.direction, n);
                    POOL.with(|pool| pool.holds_more(n.cast_signed()));
                    self.bulk = n >= BULK_BYTES_MIN;
                    self.held = Held::Piped(pipe, n);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if would_block(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Never more than is to come.
    fn at_most(&self, bytes: usize) -> usize {
        self.left.and_then(|left| usize::try_from(left).ok()).map_or(bytes, |left| left.min(bytes))
    }

    /// Through the worker's buffer, and on to the target at once; the rest is held.
    fn poll_fill_shared(&mut self, ends: &Ends<'_>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SHARED.with_borrow_mut(|shared| {
            let bytes_max = self.at_most(SHARED_BYTES);
            let mut buf = ReadBuf::new(&mut shared[..bytes_max]);
            ready!(Pin::new(&mut *ends.source(self.direction).borrow_mut()).poll_read(cx, &mut buf))?;
            let read = buf.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(0));
            }
            ends.came(self.direction, read.len());
            self.bulk = read.len() == SHARED_BYTES;
            let target = ends.target(self.direction).borrow();
            // An error is seen again, and handled, when the rest is to be written.
            let given = ends.give(self.direction, read.len(), || target.try_write(read)).unwrap_or(0);
            if given < read.len() {
                self.held = Held::Octets(Bytes::copy_from_slice(&read[given..]));
            }
            Poll::Ready(Ok(read.len()))
        })
    }
}

/// Moves up to `bytes_max` octets without waiting.
fn move_octets(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, bytes_max: usize) -> io::Result<usize> {
    loop {
        match splice(&from, None, &to, None, bytes_max, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests;
