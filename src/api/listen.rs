//! Connections of the API and of the admin address: bounded in number and in time.
//!
//! hyper's own answers to what is no HTTP at all (400, 431) have an empty body; every request that
//! can be parsed is answered by the router.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::Problem;
use super::quota::Quota;
use crate::chat::ChatError;
use crate::edge::{
    Answering, Arrived, Brake, Came, Doorman, Edge, HEAD_BYTES_MAX, Incoming, StallGuard, Watched,
};
use crate::gateway::{Guest, Porch};
use crate::limits::{Address, Limit, Over, Stay};
use crate::protocol::ErrorCode;

/// The most bytes of a connection that are read ahead.
const READ_BYTES_MAX: usize = 64 * 1024;

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How many connections are open at once; what comes beyond waits in the system's queue.
    pub(super) connections_max: usize,
    /// How many of them an address may have, and one request each, where no porch counts: so that
    /// one stranger leaves places for others. Addresses of this machine have no such bound.
    pub(super) of_an_address_max: Option<usize>,
    /// How long a request head may take, and how long a connection may idle.
    pub(super) header_timeout: Duration,
    /// How long requests may take to end once `stop` is called.
    pub(super) drain: Duration,
}

/// Serves until `stop`, then lets the requests under way end. With a quota connections have places
/// on a porch, as everywhere where strangers come.
pub(super) async fn listen(
    router: Router,
    listener: TcpListener,
    edge: Arc<Edge>,
    bounds: Bounds,
    quota: Option<Quota>,
    stop: CancellationToken,
) {
    let mut incoming = Incoming::at(listener);
    let porch = quota.as_ref().map(|quota| quota.porch(&edge));
    let shares = Arc::new(Shares::default());
    let permits = Arc::new(Semaphore::new(bounds.connections_max));
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        // The permit first: a connection that can't be served is not taken out of the queue.
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.ok();
            (permit, incoming.next().await)
        };
        let (permit, came) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match came {
            Came::Connection(stream, address) => {
                let share = match bounds.of_an_address_max {
                    Some(most) => shares.take(address.ip(), most),
                    None => Some(Share::default()),
                };
                let Some(share) = share else { continue };
                let Some((stream, visitor)) = enter(porch.as_ref(), stream, address) else {
                    continue;
                };
                let (router, edge, stop) = (router.clone(), edge.clone(), stop.clone());
                let cut = cut.clone();
                tasks.spawn(async move {
                    let _places = (permit, share);
                    let serving = async {
                        let mut visitor = visitor;
                        let arrived = edge.arrive(stream, address, &mut visitor).await?;
                        // A proxy's connection has the requests of others as well.
                        let of_a_proxy = edge.gate.trusted.holds(arrived.peer.address.ip());
                        let brake = (!of_a_proxy).then(|| Arc::new(Brake::default()));
                        serve(router, arrived, (visitor, brake), (bounds, &edge), stop).await;
                        Some(())
                    };
                    cut.run_until_cancelled(serving).await;
                });
            }
            Came::Nothing => {
                if let Some(quota) = &quota {
                    quota.out_of_files();
                }
            }
        }
    }
    drop(incoming);
    tasks.close();
    if tokio::time::timeout(bounds.drain, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Shares(Mutex<HashMap<Address, usize>>);

/// One of them, until it is dropped.
#[derive(Debug, Default)]
struct Share(Option<(Arc<Shares>, Address)>);

impl Shares {
    /// `None` where this address has all that it may have.
    fn take(self: &Arc<Self>, client: IpAddr, most: usize) -> Option<Share> {
        let Some(address) = Address::of(client) else { return Some(Share::default()) };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Share(Some((self.clone(), address))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((shares, address)) = &self.0 else { return };
        let mut taken = shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(address);
            }
        }
    }
}

/// What a connection has of the places of its process.
enum Visitor {
    /// On the porch, until the head of its first request is whole.
    New(Guest),
    /// One of plain HTTP.
    Known(Stay),
    /// None: the listener is bounded otherwise, or this was its last answer.
    Uncounted,
}

fn enter(
    porch: Option<&Arc<Porch>>,
    stream: TcpStream,
    address: SocketAddr,
) -> Option<(TcpStream, Visitor)> {
    let Some(porch) = porch else { return Some((stream, Visitor::Uncounted)) };
    porch.enter(stream, address).map(|(stream, guest)| (stream, Visitor::New(guest)))
}

impl Doorman for Visitor {
    fn names(&mut self, client: IpAddr) -> bool {
        if let Self::New(guest) = self { guest.names(client) } else { true }
    }

    fn admits(&mut self, client: IpAddr) -> bool {
        if let Self::New(guest) = self { guest.admits(client) } else { true }
    }
}

impl Visitor {
    /// A request has come; whether the connection may stay for another one.
    fn asks(&mut self, client: IpAddr) -> Result<bool, Over> {
        if let Self::New(guest) = self {
            let stay = guest.goes_on(client)?;
            *self = Self::Known(stay);
        }
        Ok(!self.is_short())
    }

    /// Whether somebody else needs the place.
    fn is_short(&self) -> bool {
        matches!(self, Self::Known(stay) if stay.is_short())
    }
}

fn refusal(over: Over) -> Problem {
    match over.limit {
        Limit::Plain => {
            ChatError { code: ErrorCode::Unavailable, ..ChatError::limited(over) }.into()
        }
        _ => ChatError::limited(over).into(),
    }
}

async fn serve(
    router: Router,
    Arrived { stream, peer, until }: Arrived,
    (visitor, brake): (Visitor, Option<Arc<Brake>>),
    (bounds, edge): (Bounds, &Arc<Edge>),
    stop: CancellationToken,
) {
    let one_request =
        bounds.of_an_address_max.is_some() && !peer.address.ip().to_canonical().is_loopback();
    let edge = edge.clone();
    let _ = stream.set_nodelay();
    let visitor = Arc::new(Mutex::new(visitor));
    let (asking, staying) = (visitor.clone(), visitor.clone());
    let is_short = move || staying.lock().unwrap_or_else(PoisonError::into_inner).is_short();
    let stream = Watched::new(StallGuard::new(stream, is_short), Bytes::new());
    let service = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let client = peer.address.ip();
        let stays = asking.lock().unwrap_or_else(PoisonError::into_inner).asks(client);
        request.extensions_mut().insert(peer);
        let answering = || Answering::of(&edge.gate, peer, request.method(), request.headers());
        let answer = match stays {
            Ok(_) => Ok(hyper::service::Service::call(&service, request)),
            Err(over) => Err((over, answering())),
        };
        let brake = brake.clone();
        async move {
            let mut answer: Response = match answer {
                Ok(answer) => answer.await?,
                Err((over, answering)) => {
                    let mut refused = refusal(over).into_response();
                    answering.dress(refused.headers_mut());
                    refused
                }
            };
            if let Some(brake) = brake {
                brake.hold(answer.status() == StatusCode::TOO_MANY_REQUESTS).await;
            }
            if stays != Ok(true) || one_request {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // Its first head has what is left of the time for coming in, whatever it has waited before.
    let late = async {
        sleep_until(until).await;
        let visitor = visitor.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*visitor, Visitor::New(_))
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        true = late => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_share_and_leaves_the_rest_to_others() {
        let shares = Arc::new(Shares::default());
        let take = |ip: &str| shares.take(ip.parse().unwrap(), 2);
        let mut held = [take("203.0.113.7"), take("203.0.113.7")];
        assert!(held.iter().all(Option::is_some) && take("203.0.113.7").is_none());
        let others = [take("203.0.113.8"), take("2001:db8::1"), take("2001:db8::2")];
        assert!(others.iter().all(Option::is_some) && take("2001:db8::3").is_none(), "a /64");
        held[0] = None;
        let again = take("203.0.113.7");
        assert!(again.is_some() && take("203.0.113.7").is_none());
        let here: Vec<_> = (0..9).map(|_| take("127.0.0.1")).collect();
        assert!(here.iter().all(Option::is_some));
        drop((held, others, again, here));
        assert!(shares.0.lock().unwrap().is_empty(), "nothing stays of who has gone");
    }
}
