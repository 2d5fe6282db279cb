//! Listening sockets: opened, shared among workers, and handed to a successor without losing a connection.
//!
//! The running process listens on `<state_dir>/upgrade.sock` (mode 0600). A successor started with `--upgrade` connects:
//!
//! ```text
//! successor                         running process
//!   TAKE 1  ──────────────────────▶
//!           ◀────────────────────── names and the sockets themselves (SCM_RIGHTS), one message each, then RELEASED
//!   claims the state directory, starts its workers on the same sockets
//!   SERVING ──────────────────────▶ stops accepting, drains, ends
//! ```
//!
//! Both hold the same sockets meanwhile, so no connection in the kernel's queue is lost. If the successor dies before
//! SERVING, the running process takes the state directory back and goes on.
//!
//! pingora's own hand-over is not used: it carries at most 32 sockets, and its socket file is open to every user.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Config;

/// How long each side waits for the other's word.
const WAIT: Duration = Duration::from_secs(30);
/// The name under which the operator's listener is handed over; no listener can be called so.
const ADMIN: &str = "\u{1}admin";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket cannot be opened.
    #[error("listener {name}: cannot listen on {address}")]
    Listen {
        /// Which listener.
        name: String,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// There is no process to take over from, or it does not answer.
    #[error("no process answers on {}", .0.display())]
    NoPredecessor(PathBuf, #[source] io::Error),
    /// The other side's words are not ours.
    #[error("the other process said {0:?}")]
    Protocol(String),
    /// The conversation broke.
    #[error("the conversation with the other process broke")]
    Io(#[from] io::Error),
}

/// A listening socket with its listener's name.
pub struct Listening {
    /// The listener.
    pub name: Arc<str>,
    /// Its socket, non-blocking.
    pub socket: TcpListener,
}

/// All listening sockets of the process.
#[derive(Default)]
pub struct Sockets {
    open: HashMap<String, TcpListener>,
}

impl Sockets {
    /// Opens what the configuration names and is not here yet; closes what it does not name.
    pub fn open_missing(&mut self, config: &Config) -> Result<(), Error> {
        let backlog = i32::try_from(config.limits.accept_queue_max).unwrap_or(i32::MAX);
        let mut wanted: Vec<(String, SocketAddr)> =
            config.listeners.iter().map(|listener| (listener.name.clone(), listener.listen)).collect();
        if let Some(address) = config.admin.listen {
            wanted.push((ADMIN.to_owned(), address));
        }
        self.open.retain(|name, socket| {
            wanted.iter().any(|(wanted, address)| wanted == name && same_address(socket, *address))
        });
        for (name, address) in wanted {
            if let Entry::Vacant(missing) = self.open.entry(name) {
                let socket = listen(address, backlog).map_err(|source| Error::Listen {
                    name: shown(missing.key()).to_owned(),
                    address,
                    source,
                })?;
                missing.insert(socket);
            }
        }
        Ok(())
    }

    /// Another handle of each traffic socket.
    pub fn for_worker(&self) -> io::Result<Vec<Listening>> {
        let traffic = self.open.iter().filter(|(name, _)| *name != ADMIN);
        traffic
            .map(|(name, socket)| Ok(Listening { name: Arc::from(name.as_str()), socket: socket.try_clone()? }))
            .collect()
    }

    /// Lets go of the traffic sockets: without a successor nobody listens there any more.
    pub fn close_traffic(&mut self) {
        self.open.retain(|name, _| name == ADMIN);
    }

    /// The operator's socket.
    pub fn admin(&self) -> io::Result<Option<TcpListener>> {
        self.open.get(ADMIN).map(TcpListener::try_clone).transpose()
    }

    /// Where traffic is listened for, by listener.
    pub fn addresses(&self) -> Vec<(&str, SocketAddr)> {
        let mut addresses: Vec<_> =
            self.open.iter().filter_map(|(name, socket)| Some((shown(name), socket.local_addr().ok()?))).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Sends every socket to a successor.
    fn send(&self, to: &UnixStream) -> Result<(), Error> {
        for (name, socket) in &self.open {
            let fds = [socket.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(Error::Protocol("no room for a socket".to_owned()));
            }
            // Length first: a stream has no message borders, but the descriptor comes with its first octet.
            let mut message = vec![u8::try_from(name.len()).unwrap_or(u8::MAX)];
            message.extend_from_slice(&name.as_bytes()[..name.len().min(255)]);
            let sent =
                sendmsg(to, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL).map_err(io::Error::from)?;
            if sent != message.len() {
                return Err(Error::Protocol("a socket's name was cut".to_owned()));
            }
        }
        let mut to = to;
        to.write_all(&[0])?;
        Ok(())
    }
}

fn receive(from: &UnixStream) -> Result<HashMap<String, TcpListener>, Error> {
    let mut open = HashMap::new();
    loop {
        let mut length = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(from, &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(io::Error::from)?;
        if received.bytes == 0 {
            return Err(Error::Protocol("nothing".to_owned()));
        }
        if length == [0] {
            return Ok(open);
        }
        let mut name = vec![0; usize::from(length[0])];
        let mut stream = from;
        stream.read_exact(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| Error::Protocol("a name that is no text".to_owned()))?;
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<OwnedFd>>()),
            _ => None,
        });
        let fd = fds.flatten().next();
        let Some(fd) = fd else { return Err(Error::Protocol(format!("{name} without its socket"))) };
        open.insert(name, TcpListener::from(fd));
    }
}

/// The process that hands over, waiting for our word.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Our workers accept: it can drain.
    pub fn serving(mut self) -> Result<(), Error> {
        self.0.write_all(b"SERVING\n")?;
        Ok(())
    }
}

/// Takes the sockets of the process that runs with this state directory. When this returns, the directory is free.
pub fn take(state_dir: &Path) -> Result<(Sockets, Predecessor), Error> {
    let path = socket_path(state_dir);
    let mut stream = UnixStream::connect(&path).map_err(|source| Error::NoPredecessor(path, source))?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(b"TAKE 1\n")?;
    let open = receive(&stream)?;
    expect(&mut stream, "RELEASED")?;
    Ok((Sockets { open }, Predecessor(stream)))
}

/// Where successors ask.
pub fn listen_for_successors(state_dir: &Path) -> io::Result<UnixListener> {
    let path = socket_path(state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Hands the sockets to a successor. `release` gives up the state directory once they are sent. Returns when the successor
/// serves; an error means that it does not, and this process must go on.
pub fn hand_over(mut stream: UnixStream, sockets: &Sockets, release: impl FnOnce()) -> Result<(), Error> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(WAIT))?;
    expect(&mut stream, "TAKE 1")?;
    sockets.send(&stream)?;
    release();
    stream.write_all(b"RELEASED\n")?;
    expect(&mut stream, "SERVING")
}

fn expect(stream: &mut UnixStream, word: &str) -> Result<(), Error> {
    let mut said = Vec::new();
    let mut octet = [0];
    while said.len() < 64 {
        if stream.read(&mut octet)? == 0 || octet == *b"\n" {
            break;
        }
        said.push(octet[0]);
    }
    if said == word.as_bytes() {
        return Ok(());
    }
    Err(Error::Protocol(String::from_utf8_lossy(&said).into_owned()))
}

fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("upgrade.sock")
}

fn shown(name: &str) -> &str {
    if name == ADMIN { "admin" } else { name }
}

fn same_address(socket: &TcpListener, wanted: SocketAddr) -> bool {
    socket
        .local_addr()
        .is_ok_and(|address| address.ip() == wanted.ip() && (wanted.port() == 0 || address.port() == wanted.port()))
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, as the kernel's default mostly does; said so that it is the same everywhere.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}
