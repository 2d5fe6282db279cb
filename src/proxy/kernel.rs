//! What the kernel says of a TCP connection: the second opinion that every session's counts are held against.
//!
//! `TCP_INFO` as of Linux 4.19 (`bytes_sent`, `bytes_retrans`); the struct is `linux/tcp.h`'s, append-only by the
//! kernel's promise, and a shorter answer from an older kernel leaves the rest zero. Measured on Linux 6.x, on an
//! accepted socket: `bytes_received` counts a received FIN as one byte; `bytes_acked` is exact until our FIN is
//! acknowledged and one more after; `bytes_sent` excludes SYN and FIN.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The kernel's counts of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpCounts {
    /// Connection state, `TCP_*` of `net/tcp_states.h`.
    pub state: u8,
    /// Octets received in order, read by us or not, FIN included.
    pub bytes_received: u64,
    /// Octets of ours that the peer acknowledged, our FIN included.
    pub bytes_acked: u64,
    /// Octets sent, retransmissions included.
    pub bytes_sent: u64,
    /// Octets retransmitted.
    pub bytes_retrans: u64,
    /// Octets written by us and not sent yet, our FIN included.
    pub notsent_bytes: u64,
    /// Octets received and not read by us yet.
    pub unread_bytes: u64,
}

/// `TCP_CLOSE`: nothing more will come or go.
pub const STATE_CLOSE: u8 = 7;
const STATE_FIN_WAIT1: u8 = 4;
const STATE_TIME_WAIT: u8 = 6;
const STATE_CLOSE_WAIT: u8 = 8;
const STATE_LAST_ACK: u8 = 9;
const STATE_CLOSING: u8 = 11;

impl TcpCounts {
    fn of(info: &TcpInfo, unread_bytes: u64) -> Self {
        Self {
            state: info.state,
            bytes_received: info.bytes_received,
            bytes_acked: info.bytes_acked,
            bytes_sent: info.bytes_sent,
            bytes_retrans: info.bytes_retrans,
            notsent_bytes: u64::from(info.notsent_bytes),
            unread_bytes,
        }
    }

    /// Octets that we wrote, as the kernel sees it.
    pub fn written(&self) -> u64 {
        // Our FIN is the last of what is not sent yet; once sent, it is not counted.
        let fin_waits =
            self.notsent_bytes > 0 && matches!(self.state, STATE_FIN_WAIT1 | STATE_LAST_ACK | STATE_CLOSING);
        (self.bytes_sent + self.notsent_bytes).saturating_sub(self.bytes_retrans + u64::from(fin_waits))
    }

    /// Octets of ours that the peer has not acknowledged, our FIN included, which has been said; 0 where it never will.
    pub fn unacknowledged(&self) -> u64 {
        if self.state == STATE_CLOSE { 0 } else { (self.written() + 1).saturating_sub(self.bytes_acked) }
    }

    /// The state says that the client's FIN has come.
    pub fn fin_received(&self) -> bool {
        matches!(self.state, STATE_TIME_WAIT | STATE_CLOSE_WAIT | STATE_LAST_ACK | STATE_CLOSING)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    state: u8,
    bytes: [u8; 7],
    words: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
}

/// How often the counts are read again because octets came in between.
const LOOKS_MAX: usize = 8;

/// Reads the kernel's counts, all of one moment: what is unread is asked before and after the rest, and all of it again
/// where octets came in between. `at_eof`: we have read to the client's end, so there is nothing unread.
pub fn tcp_counts(socket: impl AsFd, at_eof: bool) -> io::Result<TcpCounts> {
    let fd = socket.as_fd();
    if at_eof {
        return Ok(TcpCounts::of(&tcp_info(fd)?, 0));
    }
    let mut unread_bytes = rustix::io::ioctl_fionread(fd)?;
    let mut looks = 0;
    loop {
        let info = tcp_info(fd)?;
        let before = std::mem::replace(&mut unread_bytes, rustix::io::ioctl_fionread(fd)?);
        looks += 1;
        if before != unread_bytes && looks < LOOKS_MAX {
            continue;
        }
        return Ok(TcpCounts::of(&info, unread_bytes));
    }
}

/// Nothing more will come or go.
pub fn is_closed(socket: impl AsFd) -> bool {
    tcp_info(socket.as_fd()).is_ok_and(|info| info.state == STATE_CLOSE)
}

fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<TcpInfo>::zeroed();
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: `info` is valid for `length` bytes and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern is a valid TcpInfo, and what the kernel did not write is zero.
    Ok(unsafe { info.assume_init() })
}

/// Octets written by us and not acknowledged yet, a FIN included (`SIOCOUTQ`). One cheap `ioctl`.
pub fn unacked_bytes(socket: impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (= SIOCOUTQ) writes one int to the given address.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_counts_what_we_count() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 600]).unwrap();
        server.write_all(&[2; 77]).unwrap();
        client.read_exact(&mut [0; 77]).unwrap();
        let counts = tcp_counts(&server, false).unwrap();
        assert_eq!((counts.bytes_received, counts.unread_bytes), (1000, 400));
        assert_eq!((counts.written(), counts.bytes_acked), (77, 77));
        assert_eq!(unacked_bytes(&server).unwrap(), 0);
    }
}
