//! The long-running roles: from the command line to a running process, and to its exit code.

mod addresses;
mod entrance;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use addresses::Addresses;
use entrance::Entrance;

use crate::api::health::{self, Admin, Health};
use crate::api::{self, ApiOptions};
use crate::balancer::forward::Forward;
use crate::balancer::{self, Backends};
use crate::board::Role;
use crate::config::{Api, Balancer, Common, EdgeOptions, Server, Up};
use crate::edge::{Edge, Upstream};
use crate::node::{Node, NodeError, PartOptions, listen};
use crate::protocol::ProcessId;
use crate::telemetry::Metrics;
use crate::wiring::{self, Data};

fn process_id(text: &str) -> Result<ProcessId, NodeError> {
    ProcessId::parse(text).map_err(|error| NodeError::Usage(error.to_string()))
}

/// `ws-` or `api-` and 8 random characters.
fn random_id(prefix: &str) -> Result<ProcessId, NodeError> {
    process_id(&format!("{prefix}-{:08x}", rand::random::<u32>()))
}

/// What ended a role.
enum End {
    Signal,
    Taken,
}

async fn until_stopped(node: &mut Node, signals: &mut Signals) -> End {
    tokio::select! {
        () = signals.stop() => End::Signal,
        () = node.taken() => End::Taken,
    }
}

/// Starts all parts and takes sockets, and gives where the admin's listener is. `None`: stopped
/// before that; whatever ended the start, nothing of it stays.
async fn start(
    node: &mut Node,
    parts: Vec<(PartOptions, Arc<Metrics>)>,
    entrance: &Entrance,
    common: &Common,
    signals: &mut Signals,
) -> Result<Option<Option<SocketAddr>>, NodeError> {
    let starting = async {
        node.start(parts).await?;
        node.watchers.spawn(entrance.follow(node.background.clone())?);
        let admin = admin(common, entrance, node).await?;
        node.open().await;
        Ok(admin)
    };
    tokio::select! {
        started = starting => started.map(Some),
        () = signals.stop() => Ok(None),
    }
}

async fn stop(mut node: Node, end: End) -> ExitCode {
    match end {
        End::Signal => tracing::info!("stopping"),
        End::Taken => {
            tracing::error!("another process took this name on the board: stopping");
            node.hurry();
        }
    }
    node.stop().await;
    match end {
        End::Signal => ExitCode::SUCCESS,
        End::Taken => ExitCode::FAILURE,
    }
}

/// After a start that failed half-way.
async fn given_up(mut node: Node, error: NodeError) -> NodeError {
    node.hurry();
    node.stop().await;
    error
}

async fn admin(
    common: &Common,
    entrance: &Entrance,
    node: &Node,
) -> Result<Option<SocketAddr>, NodeError> {
    let Some(address) = common.admin_listen else { return Ok(None) };
    let listener = listen(address, common.insecure_dev, "--admin-listen").await?;
    let bound = listener.local_addr().map_err(|error| NodeError::Failed(error.to_string()))?;
    let (health, end) = (node.health.clone(), node.background.clone());
    let admin = Admin { edge: entrance.of_admin(&listener), check: None };
    node.watchers.spawn(health::serve_admin(listener, health, admin, end));
    Ok(Some(bound))
}

fn ready(common: &Common, mut fields: serde_json::Value, admin: Option<SocketAddr>) {
    if let Some(admin) = admin {
        fields["admin"] = json!(admin.to_string());
    }
    if common.ready_json {
        println!("{fields}");
    }
}

/// `parlor up`: everything in one process.
pub async fn up(options: Up) -> Result<ExitCode, NodeError> {
    let mut signals = Signals::new()?;
    let common = &options.common;
    let entrance = Entrance::new(&options.edge, common)?;
    let metrics = Arc::new(Metrics::new("up"));
    let data = if options.memory { Data::Memory } else { Data::Folder(&options.data) };
    let port = |port| SocketAddr::new(options.host, port);
    // All ports first: one that is in use is said before anything is started.
    let front = listen(port(options.balancer_port), common.insecure_dev, "--balancer-port").await?;
    let mut listeners = Vec::new();
    for number in 0..options.servers {
        let own = if options.server_port == 0 { 0 } else { options.server_port + number };
        listeners.push(listen(port(own), common.insecure_dev, "--server-port").await?);
    }
    let api = listen(port(options.api_port), common.insecure_dev, "--api-port").await?;
    let wired = tokio::select! {
        wired = wiring::wire(&options.parts, data, &metrics) => wired?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let lock_held = wired.rows_are_past;
    let part = |name: String| (name.clone(), Arc::new(Metrics::new(&name)));
    let names: Vec<_> = (1..=options.servers).map(|number| part(format!("ws{number}"))).collect();
    let api_metrics = Arc::new(Metrics::new("api"));
    let all = names.iter().map(|(_, metrics)| metrics).chain([&api_metrics, &metrics]);
    let health = Health::new(all.cloned().collect());
    let mut node = Node::new(wired, health, common.drain_seconds);
    let mut parts = Vec::new();
    for ((name, metrics), listener) in names.into_iter().zip(listeners) {
        let options = part_of_up(&name, Role::Server, listener, &entrance, lock_held)?;
        parts.push((options, metrics));
    }
    let api = part_of_up("api", Role::Api, api, &entrance, lock_held)?;
    parts.push((api, api_metrics));
    let admin = match start(&mut node, parts, &entrance, common, &mut signals).await {
        Ok(Some(admin)) => admin,
        Ok(None) => return Ok(stop(node, End::Signal).await),
        Err(error) => return Err(given_up(node, error).await),
    };
    let front_at = front.local_addr().map_err(|error| NodeError::Failed(error.to_string()))?;
    let addresses = Addresses::of(front_at, &node);
    let doors = node.parts.iter().filter_map(|part| {
        Some((part.chat.me.id.clone(), part.door.clone()?, part.chat.metrics.clone()))
    });
    let backends = Backends::InProcess(doors.collect());
    let edge = entrance.at(&front);
    let forward = api_of(&node, &edge);
    let dealing = balancer::Options { pick: options.pick, forward, edge, upstream: None };
    let balancer = balancer::Balancer::new(dealing, backends, node.background.clone());
    node.tasks.spawn(balancer.run(front, node.accepting.clone()));
    ready(common, addresses.ready_json(), admin);
    if !common.ready_json {
        println!("{}", addresses.banner(&options, entrance.is_secure()));
    }
    let end = until_stopped(&mut node, &mut signals).await;
    Ok(stop(node, end).await)
}

fn part_of_up(
    name: &str,
    role: Role,
    listener: TcpListener,
    entrance: &Entrance,
    lock_held: bool,
) -> Result<PartOptions, NodeError> {
    let (id, edge) = (process_id(name)?, entrance.at(&listener));
    Ok(PartOptions { id, role, advertise: None, public_url: None, listener, edge, lock_held })
}

/// The way to the Message API in this process: what passes through the balancer's listener is
/// judged by that one's edge.
fn api_of(node: &Node, edge: &Arc<Edge>) -> Option<Forward> {
    let part = node.parts.iter().find(|part| part.door.is_none())?;
    let options = ApiOptions { edge: edge.clone(), ..ApiOptions::default() };
    Some(Forward::Here(api::router(part.chat.clone(), options)))
}

/// `parlor server`: one server of a fleet.
pub async fn server(options: Server) -> Result<ExitCode, NodeError> {
    let id = match options.id.clone() {
        Some(id) => id,
        None => random_id("ws")?,
    };
    let part = PartSettings {
        id,
        role: Role::Server,
        listen: options.listen,
        advertise: options.advertise,
        public_url: options.public_url,
    };
    one_part(part, &options.parts, &options.edge, &options.common).await
}

/// `parlor api`: the Message API of a fleet.
pub async fn api(options: Api) -> Result<ExitCode, NodeError> {
    let id = match options.id.clone() {
        Some(id) => id,
        None => random_id("api")?,
    };
    let part = PartSettings {
        id,
        role: Role::Api,
        listen: options.listen,
        advertise: None,
        public_url: None,
    };
    one_part(part, &options.parts, &options.edge, &options.common).await
}

struct PartSettings {
    id: ProcessId,
    role: Role,
    listen: SocketAddr,
    advertise: Option<String>,
    public_url: Option<String>,
}

async fn one_part(
    part: PartSettings,
    parts: &crate::config::Parts,
    edge: &EdgeOptions,
    common: &Common,
) -> Result<ExitCode, NodeError> {
    let mut signals = Signals::new()?;
    if parts.redis.is_none() {
        let text = "give --redis URL: servers of a fleet find each other's sockets there";
        return Err(NodeError::Usage(text.to_owned()));
    }
    let entrance = Entrance::new(edge, common)?;
    let listener = listen(part.listen, common.insecure_dev, "--listen").await?;
    let metrics = Arc::new(Metrics::new(part.id.as_str()));
    let wired = tokio::select! {
        wired = wiring::wire(parts, Data::None, &metrics) => wired?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let health = Health::new(vec![metrics.clone()]);
    let mut node = Node::new(wired, health, common.drain_seconds);
    let PartSettings { id, role, advertise, public_url, .. } = part;
    let (name, lock_held) = (id.to_string(), false);
    let edge = entrance.at(&listener);
    let options = PartOptions { id, role, advertise, public_url, listener, edge, lock_held };
    let parts_started = vec![(options, metrics)];
    let admin = match start(&mut node, parts_started, &entrance, common, &mut signals).await {
        Ok(Some(admin)) => admin,
        Ok(None) => return Ok(stop(node, End::Signal).await),
        Err(error) => return Err(given_up(node, error).await),
    };
    let address = node.parts.first().map(|part| part.address.to_string());
    tracing::info!(%name, address, table = parts.table, "ready");
    let fields = match role {
        Role::Server => json!({"ready": true, "servers": {name: address}}),
        Role::Api => json!({"ready": true, "api": address}),
    };
    ready(common, fields, admin);
    let end = until_stopped(&mut node, &mut signals).await;
    Ok(stop(node, end).await)
}

/// `parlor balancer`: deals connections to servers in other processes.
pub async fn balancer(options: Balancer) -> Result<ExitCode, NodeError> {
    let mut signals = Signals::new()?;
    let common = &options.common;
    let entrance = Entrance::new(&options.edge, common)?;
    let upstream = options.upstream_ca.as_deref().map(Upstream::trusting).transpose();
    let upstream = upstream.map_err(|error| NodeError::Usage(error.to_string()))?;
    let forward = options.api.as_deref().map(|url| Forward::to(url, upstream.as_ref()));
    let forward = forward.transpose().map_err(NodeError::Usage)?;
    let listener = listen(options.listen, common.insecure_dev, "--listen").await?;
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
    let edge = entrance.at(&listener);
    let dealing = balancer::Options { pick: options.pick, forward, edge, upstream };
    let balancer = balancer::Balancer::new(dealing, backends, stop.clone());
    tokio::spawn(entrance.follow(stop.clone())?);
    let health = Health::new(vec![metrics]);
    let admin = match common.admin_listen {
        None => None,
        Some(at) => {
            let admin = listen(at, common.insecure_dev, "--admin-listen").await?;
            let bound = admin.local_addr().map_err(|e| NodeError::Failed(e.to_string()))?;
            let who = Admin { edge: entrance.of_admin(&admin), check: None };
            tokio::spawn(health::serve_admin(admin, health.clone(), who, stop.clone()));
            Some(bound)
        }
    };
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
    let limit = std::time::Duration::from_secs(common.drain_seconds);
    let _ = tokio::time::timeout(limit, balancer.finished()).await;
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM and ctrl-C. Caught from the first line of a role on: a stop in the middle of a start is
/// a clean one too.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, NodeError> {
        let failed = |error: std::io::Error| NodeError::Failed(error.to_string());
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { terminate, interrupt })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
