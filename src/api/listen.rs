//! Connections of the API and of the admin address: bounded in number and in time.
//!
//! hyper's own answers to what is no HTTP at all (400, 431) have an empty body; every request that
//! can be parsed is answered by the router.

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
    Arrived, Brake, Came, Doorman, Edge, HEAD_BYTES_MAX, Incoming, StallGuard, Watched,
};
use crate::gateway::{Guest, Porch};
use crate::limits::{Limit, Over, Stay};
use crate::protocol::ErrorCode;

/// The most bytes of a connection that are read ahead.
const READ_BYTES_MAX: usize = 64 * 1024;

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How many connections are open at once; what comes beyond waits in the system's queue.
    pub(super) connections_max: usize,
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
                let Some((stream, visitor)) = enter(porch.as_ref(), stream, address) else {
                    continue;
                };
                let (router, edge, stop) = (router.clone(), edge.clone(), stop.clone());
                let cut = cut.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    let serving = async {
                        let mut visitor = visitor;
                        let arrived = edge.arrive(stream, address, &mut visitor).await?;
                        // A proxy's connection has the requests of others as well.
                        let of_a_proxy = edge.gate.trusted.holds(arrived.peer.address.ip());
                        let brake = (!of_a_proxy).then(|| Arc::new(Brake::default()));
                        serve(router, arrived, (visitor, brake), bounds, stop).await;
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
    bounds: Bounds,
    stop: CancellationToken,
) {
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
        let answer = stays.map(|_| hyper::service::Service::call(&service, request));
        let brake = brake.clone();
        async move {
            let mut answer: Response = match answer {
                Ok(answer) => answer.await?,
                Err(over) => refusal(over).into_response(),
            };
            if let Some(brake) = brake {
                brake.hold(answer.status() == StatusCode::TOO_MANY_REQUESTS).await;
            }
            if stays != Ok(true) {
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
