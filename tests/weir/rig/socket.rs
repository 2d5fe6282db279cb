//! What the kernel says of a test's own socket, and how it is made to misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::PATIENCE;

/// Connects, with a small receive buffer where asked.
pub fn connect(to: SocketAddr, receive_buffer_bytes: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Octets that the kernel received in order, read or not. Counts the peer's FIN as one.
pub fn kernel_received(stream: &TcpStream) -> u64 {
    tcp_info(stream, 128)
}

/// Octets of ours that the peer's kernel acknowledged, our SYN counted as one on the side that connected.
pub fn kernel_acked(stream: &TcpStream) -> u64 {
    tcp_info(stream, 120)
}

/// What [`kernel_received`] is once it does not grow any more: the sender is blocked, and the last acknowledgement,
/// which may be delayed by 40 ms, is out.
pub fn kernel_received_at_rest(stream: &TcpStream) -> u64 {
    let started = Instant::now();
    let mut last = (kernel_received(stream), Instant::now());
    while last.1.elapsed() < Duration::from_millis(120) {
        assert!(started.elapsed() < PATIENCE, "the peer never stops sending");
        std::thread::sleep(Duration::from_millis(5));
        let now = kernel_received(stream);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

fn tcp_info(stream: &TcpStream, offset: usize) -> u64 {
    let mut info = [0u8; 256];
    let mut length = 256;
    // SAFETY: `info` is valid for `length` octets, and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    u64::from_ne_bytes(info[offset..offset + 8].try_into().unwrap())
}

/// A socket that counts what passes; what TLS runs over.
pub struct Counting {
    pub stream: TcpStream,
    pub received: u64,
    pub sent: u64,
}

impl Counting {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, received: 0, sent: 0 }
    }
}

impl Read for Counting {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.stream.read(into)?;
        self.received += n as u64;
        Ok(n)
    }
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.stream.write(bytes)?;
        self.sent += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}
