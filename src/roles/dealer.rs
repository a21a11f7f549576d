//! `parlor balancer`: deals connections to servers in other processes.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::Signal;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Entrance, Signals, limits, ready, serve_admin};
use crate::api::health::Health;
use crate::auth::Verifier;
use crate::balancer::forward::Forward;
use crate::balancer::{self, Backends};
use crate::config::{Balancer, Common};
use crate::edge::Upstream;
use crate::edge::handoff::Folder;
use crate::node::{NodeError, listen};
use crate::telemetry::Metrics;
use crate::wiring;

/// From the command line to the exit code.
pub async fn balancer(options: Balancer) -> Result<ExitCode, NodeError> {
    let mut signals = Signals::new(&options.edge)?;
    let common = &options.common;
    // A socket that passes through is two open files.
    let limits = limits(&options.limits, common, 2)?;
    let entrance = Entrance::new(&options.edge, common)?;
    let upstream = options.upstream_ca.as_deref().map(Upstream::trusting).transpose();
    let upstream = upstream.map_err(|error| NodeError::Usage(error.to_string()))?;
    let forward = options.api.as_deref().map(|url| Forward::to(url, upstream.as_ref()));
    let forward = forward.transpose().map_err(NodeError::Usage)?;
    if options.handoff.is_some() && entrance.is_secure() {
        let text = "--handoff gives sockets away as they are, and with --tls-cert the balancer \
                    must stay between: give one of the two, and let what stands before it end TLS";
        return Err(NodeError::Usage(text.to_owned()));
    }
    let handoff = options.handoff.as_deref().map(Folder::open).transpose();
    let handoff = handoff.map_err(|error| NodeError::Usage(error.to_string()))?;
    let listener = listen(options.listen, common.anywhere(), "--listen").await?;
    entrance.warn(&listener);
    let auth = Verifier::start(&common.tokens).await?;
    let address = listener.local_addr().map_err(|error| NodeError::Failed(error.to_string()))?;
    let metrics = Arc::new(Metrics::new("balancer"));
    let backends = match &options.dynamodb {
        Some(target) if options.servers.is_empty() => {
            let board = tokio::select! {
                board = wiring::board(target, &options.table, &metrics) => board?,
                () = signals.stop() => return Ok(ExitCode::SUCCESS),
            };
            Backends::Board(board)
        }
        _ => Backends::Named(options.servers.clone()),
    };
    let stop = CancellationToken::new();
    let health = Health::new(vec![metrics.clone()]);
    let admin =
        beside(common, &entrance, auth.as_ref(), &health, (&stop, signals.renewal())).await?;
    let (pick, edge) = (options.pick, entrance.at(&listener));
    let dealing =
        balancer::Options { pick, forward, edge, upstream, auth, handoff, limits, metrics };
    let balancer = balancer::Balancer::new(dealing, backends, stop.clone());
    let running = tokio::spawn(balancer.clone().run(listener, stop.clone()));
    let known = balancer.servers_known();
    tokio::select! {
        () = known => {}
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    }
    health.ready();
    tracing::info!(%address, "ready");
    ready(common, json!({"ready": true, "balancer": address.to_string()}), admin);
    signals.stop().await;
    tracing::info!("stopping");
    health.draining();
    stop.cancel();
    let _ = running.await;
    // Servers end the sockets that go through here; a balancer only stops dealing new ones, and
    // waits for those as long as a drain may take.
    let _ = timeout(Duration::from_secs(common.drain_seconds), balancer.finished()).await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What runs beside the dealing: certificates and keys are kept fresh, the admin is answered.
async fn beside(
    common: &Common,
    entrance: &Entrance,
    auth: Option<&Verifier>,
    health: &Arc<Health>,
    (stop, asked): (&CancellationToken, Option<Signal>),
) -> Result<Option<SocketAddr>, NodeError> {
    tokio::spawn(entrance.follow(health, stop.clone(), asked));
    if let Some(auth) = auth {
        let asked = auth.clone();
        health.watch("keys", move || asked.trouble());
        tokio::spawn(auth.clone().keep(stop.clone()));
    }
    let serving = serve_admin(common, entrance, (auth, None), health, stop).await?;
    Ok(serving.map(|(bound, serving)| {
        tokio::spawn(serving);
        bound
    }))
}
