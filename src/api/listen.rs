//! Connections of the API and of the admin address: bounded in number and in time.
//!
//! hyper's own answers to what is no HTTP at all (400, 431) have an empty body; every request that
//! can be parsed is answered by the router.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stall::StallGuard;
use crate::edge::{Arrived, Came, Edge, HEAD_BYTES_MAX, Incoming, Watched};
use crate::limits::Limit;
use crate::telemetry::Metrics;

/// The most bytes of a connection that are read ahead.
const READ_BYTES_MAX: usize = 64 * 1024;
/// How long a write may wait for a client that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

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

/// Serves until `stop`, then lets the requests under way end.
pub(super) async fn listen(
    router: Router,
    listener: TcpListener,
    edge: Arc<Edge>,
    bounds: Bounds,
    metrics: Option<Arc<Metrics>>,
    stop: CancellationToken,
) {
    let mut incoming = Incoming::at(listener);
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
                let (router, edge, stop) = (router.clone(), edge.clone(), stop.clone());
                let connection = serve(router, edge, stream, address, bounds, stop);
                let cut = cut.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    cut.run_until_cancelled(connection).await;
                });
            }
            Came::Nothing => {
                if let Some(metrics) = &metrics {
                    metrics.count_limited(Limit::Files.as_str());
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

async fn serve(
    router: Router,
    edge: Arc<Edge>,
    stream: TcpStream,
    address: SocketAddr,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let Some(Arrived { stream, peer }) = edge.arrive(stream, address).await else { return };
    let _ = stream.set_nodelay();
    let stream = Watched::new(StallGuard::new(stream, WRITE_TIMEOUT), Bytes::new());
    let service = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        hyper::service::Service::call(&service, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
