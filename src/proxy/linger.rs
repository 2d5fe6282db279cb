//! The end of a connection: FIN, then a bounded wait for what the client has acknowledged.
//!
//! Without the wait, a close with unread octets in the receive buffer makes the kernel send RST, and the client may
//! lose the end of a response it was sent; and nobody would know how much of it arrived.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::time::{Instant, sleep_until};

use super::kernel;
use super::session::Session;
use crate::units::Column;

/// How often the acknowledgement is looked for while nothing else happens.
const LOOK: Duration = Duration::from_millis(5);

/// Shuts our side down and reads (and counts) what still comes, until everything is acknowledged and the client's
/// side is at its end, or `limit` has passed.
pub async fn linger(session: &Session, limit: Duration) {
    if shutdown(&*session.tcp().borrow(), Shutdown::Write).is_err() {
        // ENOTCONN: the connection is over already; there is nothing to wait for.
        return;
    }
    let deadline = Instant::now() + limit;
    let mut at_end = session.at_eof();
    let mut look = LOOK;
    loop {
        if at_end && all_acknowledged(session) {
            return;
        }
        let wake_at = deadline.min(Instant::now() + look);
        look = (look * 2).min(Duration::from_millis(100));
        if at_end {
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
    }
}

fn all_acknowledged(session: &Session) -> bool {
    match kernel::tcp_counts(&*session.tcp().borrow()) {
        Ok(counts) => counts.state == kernel::STATE_CLOSE || counts.bytes_acked >= session.value(Column::SentWire),
        Err(_) => true,
    }
}
