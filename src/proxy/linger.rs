//! The end of a connection: FIN, then a bounded wait for what the client has acknowledged.
//!
//! Without the wait, a close with unread octets in the receive buffer makes the kernel send RST, and the client may
//! lose the end of a response it was sent; and nobody would know how much of it arrived.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::kernel;
use super::session::{Cut, Session};

/// How soon the acknowledgement is looked for where no octet or FIN of the client's will bring it.
const LOOK: Duration = Duration::from_millis(5);
/// And where the client's FIN is still to come. Later than the worker's next tick: an earlier timer than the earliest
/// costs a system call.
const LATER_LOOK: Duration = Duration::from_millis(50);
/// How many times the limit it lasts at most, however slowly the client takes what is left.
const SLOW_FACTOR: u32 = 60;

/// Shuts our side down and reads (and counts) what still comes, until everything is acknowledged and the client's
/// side is at its end, or nothing was acknowledged for `limit`. A client that takes its answer slowly takes it.
pub async fn linger(session: &Session, limit: Duration) {
    if let Err(error) = shutdown(&*session.tcp().borrow(), Shutdown::Write) {
        // ENOTCONN: both sides have ended already. What came before the client's end can still be read, and counts.
        debug!(session = %session.id, %error, "shutdown");
    }
    let mut deadline = Instant::now() + limit;
    let last = Instant::now() + limit * SLOW_FACTOR;
    let mut at_end = session.at_eof();
    // Where the client's FIN is awaited in any case nobody needs to know yet.
    let mut left = if at_end { unacknowledged(session) } else { u64::MAX };
    // A flood is left where it is: the client gets time to read why it was cut, and a full socket to write into.
    let is_flood = session.cut_reason() == Some(Cut::Flood);
    let mut look = if at_end { LOOK } else { LATER_LOOK };
    while !(at_end && left == 0) {
        let wake_at = deadline.min(Instant::now() + look);
        look = (look * 2).min(Duration::from_millis(100));
        if at_end || is_flood {
            sleep_until(wake_at).await;
        } else {
            let timer = sleep_until(wake_at);
            tokio::pin!(timer);
            poll_fn(|cx| {
                while let Poll::Ready(more) = session.poll_discard(cx) {
                    if !more {
                        at_end = true;
                        return Poll::Ready(());
                    }
                }
                timer.as_mut().poll(cx)
            })
            .await;
        }
        if Instant::now() >= deadline || session.was_reset() {
            return;
        }
        let before = std::mem::replace(&mut left, unacknowledged(session));
        // What is left when the drain's deadline passes is left.
        if left < before && session.cut_reason() != Some(Cut::Drain) {
            deadline = last.min(Instant::now() + limit);
        }
    }
}

/// Octets that the client has not acknowledged, our FIN included; 0 where it never will.
fn unacknowledged(session: &Session) -> u64 {
    match kernel::unacked_bytes(&*session.tcp().borrow()) {
        Ok(left) if left > 0 && !session.is_gone() => left,
        _ => 0,
    }
}
