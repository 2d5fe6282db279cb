//! The end of a connection: FIN, then a bounded wait for what the client has acknowledged.
//!
//! Without the wait, a close with unread octets in the receive buffer makes the kernel send RST, and the client may
//! lose the end of a response it was sent; and nobody would know how much of it arrived.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::kernel::TcpCounts;
use super::session::{Cut, Session};

/// How soon the acknowledgement is looked for where no octet or FIN of the client's will bring it, and how seldom at last.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// How many times the limit it lasts at most, however slowly the client takes what is left.
const SLOW_FACTOR: u32 = 60;

/// Shuts our side down and reads (and counts) what still comes, until everything is acknowledged and the client's
/// side is at its end, or nothing was acknowledged for `limit`. A client that takes its answer slowly takes it.
/// Returns what the kernel says of it all, where that is its last word.
pub async fn linger(session: &Session, limit: Duration) -> Option<TcpCounts> {
    if let Err(error) = shutdown(&*session.tcp().borrow(), Shutdown::Write) {
        // ENOTCONN: both sides have ended already. What came before the client's end can still be read, and counts.
        debug!(session = %session.id, %error, "shutdown");
    }
    let mut now = Instant::now();
    let mut deadline = now + limit;
    let last = now + limit * SLOW_FACTOR;
    let mut look = LOOK;
    let mut left = u64::MAX;
    let mut at_end = session.at_eof();
    // Where the client's FIN is awaited in any case nobody needs to know yet.
    let mut asks = at_end;
    // A flood is left where it is: the client gets time to read why it was cut, and a full socket to write into.
    let is_flood = session.cut_reason() == Some(Cut::Flood);
    loop {
        if std::mem::replace(&mut asks, true) {
            let counts = session.kernel_counts();
            let before = std::mem::replace(&mut left, counts.as_ref().map_or(0, TcpCounts::unacknowledged));
            if at_end && left == 0 {
                return counts.ok();
            }
            // What is left when the drain's deadline passes is left.
            if left < before && session.cut_reason() != Some(Cut::Drain) {
                deadline = last.min(now + limit);
            }
        }
        if at_end || is_flood {
            sleep_until(deadline.min(now + look)).await;
            look = (look * 2).min(LOOK_MAX);
        } else {
            // Most have their end at once: a timer for each would cost more than a look at each sweep.
            let sweeps = session.worker.sweeps();
            poll_fn(|cx| {
                while let Poll::Ready(more) = session.poll_discard(cx) {
                    if !more {
                        at_end = true;
                        return Poll::Ready(());
                    }
                }
                session.poll_swept(sweeps, cx)
            })
            .await;
        }
        now = Instant::now();
        if now >= deadline || session.was_reset() {
            return None;
        }
    }
}
