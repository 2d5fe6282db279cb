//! A request on its way to the origin, until the head of the response is there.

use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;

use http::header::HOST;
use http::{HeaderValue, Request, Response, Version};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;

use crate::proxy::body::{BodyState, RequestBody};
use crate::proxy::headers;
use crate::proxy::upstream::{self, ConnectError, Connection, Lease, Wanted};

/// The response's head, and the hold on the connection that its body comes over.
pub(super) type Answered = (Response<Incoming>, Lease);

/// A request on its way.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<Answered, Failure>>>>;

/// A response's body before it is tied to its lease.
pub(super) enum Incoming {
    H1(hyper::body::Incoming),
    H2(h2::RecvStream),
}

#[derive(Debug)]
pub(super) enum Failure {
    /// No connection: nothing was sent.
    Connect(ConnectError),
    /// Something may have been sent.
    Exchange(String),
}

/// Sends it: at once where a connection is at hand.
pub(super) fn send(wanted: Wanted, request: Request<RequestBody>, body: Rc<BodyState>) -> Sending {
    let member = match upstream::pick(&wanted) {
        Ok(member) => member,
        Err(error) => return Box::pin(ready(Err(Failure::Connect(error)))),
    };
    match upstream::existing(&wanted, &member) {
        Some(connection) => over(connection, wanted, request, body),
        None => Box::pin(async move {
            let connection = upstream::connection(&wanted, member).await.map_err(Failure::Connect)?;
            over(connection, wanted, request, body).await
        }),
    }
}

fn over(connection: Connection, wanted: Wanted, mut request: Request<RequestBody>, body: Rc<BodyState>) -> Sending {
    let (Connection::H1(_, lease) | Connection::H2(_, lease)) = &connection;
    name_host(&mut request, lease.server());
    wanted.session.sent_to(wanted.index, lease.server());
    match connection {
        Connection::H1(mut sender, lease) => {
            // In a box of its own: it has room for the request, and what is around it is moved.
            let response = Box::pin(sender.try_send_request(request));
            Box::pin(async move {
                match response.await {
                    Ok(response) => Ok(answered(response, sender, lease, body)),
                    Err(error) => again(error, wanted, lease, body).await,
                }
            })
        }
        Connection::H2(sender, lease) => Box::pin(async move {
            let sent = upstream::send_h2(&wanted, sender, lease, request).await;
            let (response, lease) = sent.map_err(|error| Failure::Exchange(error.to_string()))?;
            Ok((response.map(Incoming::H2), lease))
        }),
    }
}

fn answered(
    response: Response<hyper::body::Incoming>,
    sender: SendRequest<RequestBody>,
    mut lease: Lease,
    body: Rc<BodyState>,
) -> Answered {
    let persists = response.version() == Version::HTTP_11 && !headers::asks_to_close(response.headers());
    lease.keep(sender, body, persists);
    lease.succeeded();
    (response.map(Incoming::H1), lease)
}

/// A kept connection that was closed meanwhile: if not an octet was written to it, a new one may serve.
fn again(error: TrySendError<Request<RequestBody>>, wanted: Wanted, lease: Lease, body: Rc<BodyState>) -> Sending {
    let mut error = error;
    let unsent = error.take_message();
    if let (Some(unsent), true) = (unsent, lease.link().reused.get()) {
        drop(lease);
        return send(Wanted { fresh: true, ..wanted }, unsent, body);
    }
    if !body.failed.get() && !body.refused.get() {
        lease.failed();
    }
    Box::pin(ready(Err(Failure::Exchange(error.into_error().to_string()))))
}

/// An HTTP/1.0 request may lack Host; an HTTP/1.1 origin wants one. The server's own name is all there is to say.
fn name_host(request: &mut Request<RequestBody>, server: &str) {
    if !request.headers().contains_key(HOST)
        && let Ok(server) = HeaderValue::from_str(server)
    {
        request.headers_mut().insert(HOST, server);
    }
}
