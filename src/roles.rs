//! The long-running roles: from the command line to a running process, and to its exit code.

mod addresses;
mod dealer;
mod entrance;
mod hatch;
mod signals;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use addresses::Addresses;
pub use dealer::balancer;
use entrance::Entrance;
use signals::Signals;

use crate::api::health::{self, Health};
use crate::api::{self, ApiOptions};
use crate::auth::Verifier;
use crate::balancer::discovery::Here;
use crate::balancer::forward::Forward;
use crate::balancer::{self, Backends};
use crate::board::Role;
use crate::chat::{Chat, Opening};
use crate::config::{Api, Common, Dm, EdgeOptions, LimitOptions, Server, Up};
use crate::edge::Edge;
use crate::edge::handoff::Folder;
use crate::limits::{self, Limits, Settings};
use crate::node::{Node, NodeError, PartOptions, listen};
use crate::protocol::ProcessId;
use crate::telemetry::Metrics;
use crate::wiring::{self, Data, Wired};

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
    handoff: Option<&Folder>,
    signals: &mut Signals,
) -> Result<Option<Option<SocketAddr>>, NodeError> {
    let asked = signals.renewal();
    let starting = async {
        node.start(parts).await?;
        node.watchers.spawn(entrance.follow(&node.health, node.background.clone(), asked));
        let admin = admin(common, entrance, node).await?;
        hatch::serve(node, handoff)?;
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
    tracing::info!("stopped");
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
    let chat = node.parts.first().map(|part| part.chat.clone());
    let auth = (node.auth.as_ref(), chat);
    let serving = serve_admin(common, entrance, auth, &node.health, &node.background).await?;
    Ok(serving.map(|(bound, serving)| {
        node.watchers.spawn(serving);
        bound
    }))
}

/// Where the admin's listener is, and what answers at it; `None` without one.
async fn serve_admin(
    common: &Common,
    entrance: &Entrance,
    (auth, chat): (Option<&Verifier>, Option<Arc<Chat>>),
    health: &Arc<Health>,
    stop: &CancellationToken,
) -> Result<Option<(SocketAddr, impl Future<Output = ()> + use<>)>, NodeError> {
    let Some(address) = common.admin_listen else { return Ok(None) };
    let listener = listen(address, common.anywhere(), "--admin-listen").await?;
    let bound = listener.local_addr().map_err(|error| NodeError::Failed(error.to_string()))?;
    let admin = entrance.admin(&listener, auth, chat);
    Ok(Some((bound, health::serve_admin(listener, health.clone(), admin, stop.clone()))))
}

/// Reads the keys, before anything is started.
async fn keys(common: &Common, dm: Dm) -> Result<(Option<Verifier>, Opening), NodeError> {
    let auth = Verifier::start(&common.tokens).await?;
    if dm == Dm::Existing && auth.is_none() {
        let text = "--dm existing asks for a service's token, and tokens are not in use: give \
                    --jwt-secret-file, --jwt-key-file or --jwks-url as well";
        return Err(NodeError::Usage(text.to_owned()));
    }
    let opening = match dm {
        Dm::Open => Opening::Anybody,
        Dm::Existing => Opening::Services,
    };
    Ok((auth, opening))
}

/// How much clients may do in a process whose open files go to so many shares of sockets.
fn limits(options: &LimitOptions, common: &Common, shares: u32) -> Result<Arc<Limits>, NodeError> {
    // Where the system does not say, what most begin with.
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1_024);
    let sockets = limits::sockets_by_files(files, shares);
    let settings = options.settings(common.tokens.has_keys(), sockets);
    let settings = settings.map_err(NodeError::Usage)?;
    let [half_open, plain] = limits::others_by_files(files).map(Some);
    let (half_open, plain) = (settings.half_open.or(half_open), settings.plain.or(plain));
    Ok(Limits::new(Settings { half_open, plain, ..settings }))
}

/// A process without parts, which asks for tokens where there are keys.
fn node(
    wired: Wired,
    health: Arc<Health>,
    common: &Common,
    limits: Arc<Limits>,
    (auth, opening): (Option<Verifier>, Opening),
) -> Node {
    let mut node = Node::new(wired, health, common.drain_seconds);
    node.opening = opening;
    node.limits = limits;
    if let Some(auth) = auth {
        node.guard(auth);
    }
    node
}

/// To stdout. Where nobody reads it the service goes on.
fn tell(text: &impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn ready(common: &Common, mut fields: serde_json::Value, admin: Option<SocketAddr>) {
    if let Some(admin) = admin {
        fields["admin"] = json!(admin.to_string());
    }
    if common.ready_json {
        tell(&fields);
    }
}

/// `parlor up`: everything in one process.
pub async fn up(options: Up) -> Result<ExitCode, NodeError> {
    let mut signals = Signals::new(&options.edge)?;
    let common = &options.common;
    let limits = limits(&options.limits, common, options.servers.into())?;
    let entrance = Entrance::new(&options.edge, common)?;
    let metrics = Arc::new(Metrics::new("up"));
    let data = if options.memory { Data::Memory } else { Data::Folder(&options.data) };
    let port = |port| SocketAddr::new(options.host, port);
    // All ports first: one that is in use is said before anything is started.
    let front = listen(port(options.balancer_port), common.anywhere(), "--balancer-port").await?;
    let mut listeners = Vec::new();
    for number in 0..options.servers {
        let own = if options.server_port == 0 { 0 } else { options.server_port + number };
        listeners.push(listen(port(own), common.anywhere(), "--server-port").await?);
    }
    let api = listen(port(options.api_port), common.anywhere(), "--api-port").await?;
    entrance.warn(&front);
    let keys = keys(common, options.dm).await?;
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
    let mut node = node(wired, health, common, limits, keys);
    let mut parts = Vec::new();
    for ((name, metrics), listener) in names.into_iter().zip(listeners) {
        let options = part_of_up(&name, Role::Server, listener, &entrance, lock_held)?;
        parts.push((options, metrics));
    }
    let api = part_of_up("api", Role::Api, api, &entrance, lock_held)?;
    parts.push((api, api_metrics));
    let admin = match start(&mut node, parts, &entrance, common, None, &mut signals).await {
        Ok(Some(admin)) => admin,
        Ok(None) => return Ok(stop(node, End::Signal).await),
        Err(error) => return Err(given_up(node, error).await),
    };
    let front_at = front.local_addr().map_err(|error| NodeError::Failed(error.to_string()))?;
    let addresses = Addresses::of(front_at, &node);
    let backends = Backends::InProcess(here(&node));
    let (pick, edge, upstream) = (options.pick, entrance.at(&front), None);
    let (forward, auth) = (api_of(&node, &edge), node.auth.clone());
    let limits = node.limits.clone();
    let handoff = None;
    let dealing =
        balancer::Options { pick, forward, edge, upstream, auth, handoff, limits, metrics };
    let balancer = balancer::Balancer::new(dealing, backends, node.background.clone());
    node.tasks.spawn(balancer.run(front, node.accepting.clone()));
    ready(common, addresses.ready_json(), admin);
    if !common.ready_json {
        tell(&addresses.banner(&options, &entrance));
    }
    let end = until_stopped(&mut node, &mut signals).await;
    Ok(stop(node, end).await)
}

/// The servers of this process, for its balancer.
fn here(node: &Node) -> Vec<Here> {
    let here = node.parts.iter().filter_map(|part| {
        let (id, metrics) = (part.chat.me.id.clone(), part.chat.metrics.clone());
        Some(Here { id, door: part.door.clone()?, metrics, seats: part.seats.clone()? })
    });
    here.collect()
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
    Some(Forward::Here(api::router(part.chat.clone(), node.auth.clone(), options)))
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
        handoff: options.handoff,
    };
    let bounds = (&options.edge, &options.limits);
    one_part(part, &options.parts, bounds, options.dm, &options.common).await
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
        handoff: None,
    };
    let bounds = (&options.edge, &options.limits);
    one_part(part, &options.parts, bounds, options.dm, &options.common).await
}

struct PartSettings {
    id: ProcessId,
    role: Role,
    listen: SocketAddr,
    advertise: Option<String>,
    public_url: Option<String>,
    handoff: Option<PathBuf>,
}

async fn one_part(
    part: PartSettings,
    parts: &crate::config::Parts,
    (edge, limited): (&EdgeOptions, &LimitOptions),
    dm: Dm,
    common: &Common,
) -> Result<ExitCode, NodeError> {
    let mut signals = Signals::new(edge)?;
    if parts.redis.is_none() {
        let text = "give --redis URL: servers of a fleet find each other's sockets there";
        return Err(NodeError::Usage(text.to_owned()));
    }
    let limits = limits(limited, common, 1)?;
    let entrance = Entrance::new(edge, common)?;
    let folder = hatch::folder(part.handoff.as_deref(), &part.id)?;
    let listener = listen(part.listen, common.anywhere(), "--listen").await?;
    entrance.warn(&listener);
    let keys = keys(common, dm).await?;
    let metrics = Arc::new(Metrics::new(part.id.as_str()));
    let wired = tokio::select! {
        wired = wiring::wire(parts, Data::None, &metrics) => wired?,
        () = signals.stop() => return Ok(ExitCode::SUCCESS),
    };
    let health = Health::new(vec![metrics.clone()]);
    let mut node = node(wired, health, common, limits, keys);
    let PartSettings { id, role, advertise, public_url, .. } = part;
    let (name, lock_held) = (id.to_string(), false);
    let edge = entrance.at(&listener);
    let options = PartOptions { id, role, advertise, public_url, listener, edge, lock_held };
    let parts_started = vec![(options, metrics)];
    let folder = folder.as_ref();
    let starting = start(&mut node, parts_started, &entrance, common, folder, &mut signals);
    let admin = match starting.await {
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
