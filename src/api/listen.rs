//! Connections of the API and of the admin address: bounded in number and in time.
//!
//! hyper's own answers to what is no HTTP at all (400, 431) have an empty body; every request that
//! can be parsed is answered by the router.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::quota::Quota;
use super::stall::StallGuard;
use crate::edge::{Arrived, Came, Edge, HEAD_BYTES_MAX, Incoming, Watched};

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
    quota: Option<Quota>,
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
                let (cut, quota) = (cut.clone(), quota.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    let admits = |client| quota.as_ref().is_none_or(|quota| quota.admits(client));
                    let serving = async {
                        let arrived = edge.arrive(stream, address, admits).await?;
                        serve(router, arrived, bounds, stop).await;
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

async fn serve(
    router: Router,
    Arrived { stream, peer }: Arrived,
    bounds: Bounds,
    stop: CancellationToken,
) {
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
