//! The command line: a contract, scripts of others depend on it. The doc comments are the help.

mod edge;
mod limits;
mod secret;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use edge::EdgeOptions;
pub use limits::LimitOptions;
pub use secret::{Secret, tell_if_readable};
pub use tools::{Chat, Store, StoreCommand, Table, TableCommand};

use crate::protocol::ProcessId;

/// The version, and the commit that it was built of.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PARLOR_COMMIT"), ")");

/// A chat backend that you run yourself.
///
/// `parlor up` starts everything in one process with nothing installed. With `--redis` and
/// `--dynamodb` the same binary is a fleet: `parlor server`, `parlor api` and `parlor balancer` are
/// its parts.
#[derive(Debug, Parser)]
#[command(name = "parlor", version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Reads where to listen.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
        let port = port.unwrap_or("8080");
        format!("give 127.0.0.1:{port} for this machine alone, or 0.0.0.0:{port} for all networks")
    })
}

/// The roles and tools.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything in one process: balancer, servers, Message API, page.
    Up(Up),
    /// Deals new connections to the servers, and serves the page.
    Balancer(Balancer),
    /// Holds WebSockets, sends, delivers.
    Server(Server),
    /// The Message API over HTTP: history, send, conversations, presence, rooms.
    Api(Api),
    /// The DynamoDB table: create it, check it, show a conversation.
    Table(Table),
    /// The data folder of `parlor up`: check what it holds.
    Store(Store),
    /// Tokens for trying things, and the secret that signs them.
    Token(crate::auth::mint::Mint),
    /// Chat from the terminal; plain lines when it is not one.
    Chat(Chat),
    /// Load, with a report.
    Bench(crate::bench::Bench),
    /// Servers, Redis and DynamoDB Local under attack: is a message lost?
    Torture(crate::torture::Torture),
}

/// What all long-running roles take.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Serve /healthz, /readyz and /metrics here: a loopback address, or with tokens any
    #[arg(long, value_name = "IP:PORT", value_parser = address, env = "PARLOR_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,
    /// How long a stop may take: sockets are told to reconnect at an even rate
    #[arg(long, value_name = "SECONDS", default_value_t = 25, env = "PARLOR_DRAIN_SECONDS")]
    pub drain_seconds: u64,
    /// Trust ?userId= on addresses that are not loopback: anybody can be anybody
    #[arg(long, env = "PARLOR_INSECURE_DEV")]
    pub insecure_dev: bool,
    /// Print one line of JSON on stdout once everything accepts
    #[arg(long, env = "PARLOR_READY_JSON")]
    pub ready_json: bool,
    /// Which tokens are taken
    #[command(flatten)]
    pub tokens: crate::auth::Options,
}

impl Common {
    /// Whether other machines may reach the listeners.
    pub fn anywhere(&self) -> bool {
        self.insecure_dev || self.tokens.has_keys()
    }
}

/// Who may open a direct conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dm {
    /// Anybody, with anybody.
    Open,
    /// Only tokens of scope `service`, over the Message API: people write where there is one.
    Existing,
}

/// Where the real parts are.
#[derive(Debug, Clone, Args)]
pub struct Parts {
    /// Redis: redis://, rediss:// or redis+cluster://HOST:PORT; with a user and no password,
    /// redis://USER@HOST:PORT, where that stands in a file
    #[arg(long, value_name = "URL", hide_env_values = true, env = "PARLOR_REDIS")]
    pub redis: Option<Secret>,
    /// The password of Redis, in a file
    #[arg(long, value_name = "FILE", requires = "redis", env = "PARLOR_REDIS_PASSWORD_FILE")]
    pub redis_password_file: Option<PathBuf>,
    /// Of rediss:// trust the authorities in this PEM file, and no others
    #[arg(long, value_name = "FILE", requires = "redis", env = "PARLOR_REDIS_CA")]
    pub redis_ca: Option<PathBuf>,
    /// Put before every Redis key and channel
    #[arg(long, value_name = "PREFIX", default_value = "", env = "PARLOR_REDIS_PREFIX")]
    pub redis_prefix: String,
    /// Sign what servers tell each other over Redis, and drop what is not signed; better by the
    /// variable or a file, since others can see a command line. Several, with commas between them,
    /// for a change of key: the first one signs, all are accepted
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        hide_env_values = true,
        env = "PARLOR_BUS_KEY"
    )]
    pub bus_key: Vec<Secret>,
    /// The same from a file, one key a line
    #[arg(long, value_name = "FILE", conflicts_with = "bus_key", env = "PARLOR_BUS_KEY_FILE")]
    pub bus_key_file: Option<PathBuf>,
    /// DynamoDB: `aws` for the ordinary credential and region chain, or the URL of DynamoDB Local
    #[arg(long, value_name = "URL|aws", hide_env_values = true, env = "PARLOR_DYNAMODB")]
    pub dynamodb: Option<String>,
    /// The table's name
    #[arg(long, value_name = "NAME", default_value = "parlor", env = "PARLOR_TABLE")]
    pub table: String,
}

/// `parlor up`
#[derive(Debug, Clone, Args)]
pub struct Up {
    /// How many servers: ws1, ws2, …
    #[arg(long, default_value_t = 3, env = "PARLOR_SERVERS",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub servers: u16,
    /// Listen on this address
    #[arg(long, default_value = "127.0.0.1", env = "PARLOR_HOST")]
    pub host: std::net::IpAddr,
    /// The balancer and the page; 0 picks a free port
    #[arg(long, default_value_t = 8080, env = "PARLOR_BALANCER_PORT")]
    pub balancer_port: u16,
    /// The first server's port, the next ones follow; 0 picks a free one for each
    #[arg(long, default_value_t = 3001, env = "PARLOR_SERVER_PORT")]
    pub server_port: u16,
    /// The Message API; 0 picks a free port
    #[arg(long, default_value_t = 4000, env = "PARLOR_API_PORT")]
    pub api_port: u16,
    /// Keep everything in this folder
    #[arg(long, value_name = "DIR", default_value = "./parlor-data", env = "PARLOR_DATA")]
    pub data: PathBuf,
    /// Keep everything in memory, without a bound, for trying and measuring: gone at exit, nothing
    /// is durable
    #[arg(long, conflicts_with = "data", env = "PARLOR_MEMORY")]
    pub memory: bool,
    /// How new connections are dealt
    #[arg(long, value_enum, default_value_t = Pick::RoundRobin, env = "PARLOR_PICK")]
    pub pick: Pick,
    /// Who may open a direct conversation
    #[arg(long, value_enum, default_value_t = Dm::Open, env = "PARLOR_DM")]
    pub dm: Dm,
    /// The real parts
    #[command(flatten)]
    pub parts: Parts,
    /// Who gets in
    #[command(flatten)]
    pub edge: EdgeOptions,
    /// How much a client may do
    #[command(flatten)]
    pub limits: LimitOptions,
    /// What all roles take
    #[command(flatten)]
    pub common: Common,
}

/// How the balancer picks a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pick {
    /// ws1, ws2, ws3, ws1, …
    RoundRobin,
    /// The server with the fewest sockets.
    LeastConnections,
    /// The same server for the same user while it lives.
    Sticky,
}

/// `parlor balancer`
#[derive(Debug, Clone, Args)]
pub struct Balancer {
    /// Listen here
    #[arg(long, value_name = "IP:PORT", value_parser = address, env = "PARLOR_LISTEN")]
    pub listen: SocketAddr,
    /// A server, NAME=HOST:PORT or NAME=tls://HOST:PORT, several times; without any they are
    /// found on the board
    #[arg(
        long = "server",
        value_name = "ws1=HOST:PORT",
        env = "PARLOR_SERVER",
        value_delimiter = ',',
        required_unless_present = "dynamodb"
    )]
    pub servers: Vec<NamedServer>,
    /// Forward /v1/… to the Message API here
    #[arg(long, value_name = "URL", hide_env_values = true, env = "PARLOR_API")]
    pub api: Option<String>,
    /// Dial servers by TLS alone, and trust the authorities in this PEM file for them and for an
    /// API of https://…
    #[arg(long, value_name = "FILE", env = "PARLOR_UPSTREAM_CA")]
    pub upstream_ca: Option<PathBuf>,
    /// Hand sockets to the servers of this host that listen in this folder, in place of passing
    /// their bytes on (Linux; not with --tls-cert)
    #[arg(long, value_name = "DIR", env = "PARLOR_HANDOFF")]
    pub handoff: Option<PathBuf>,
    /// How new connections are dealt
    #[arg(long, value_enum, default_value_t = Pick::RoundRobin, env = "PARLOR_PICK")]
    pub pick: Pick,
    /// DynamoDB: `aws`, or the URL of DynamoDB Local
    #[arg(long, value_name = "URL|aws", hide_env_values = true, env = "PARLOR_DYNAMODB")]
    pub dynamodb: Option<String>,
    /// The table's name
    #[arg(long, value_name = "NAME", default_value = "parlor", env = "PARLOR_TABLE")]
    pub table: String,
    /// Who gets in
    #[command(flatten)]
    pub edge: EdgeOptions,
    /// How much a client may do
    #[command(flatten)]
    pub limits: LimitOptions,
    /// What all roles take
    #[command(flatten)]
    pub common: Common,
}

/// `ws1=HOST:PORT`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedServer {
    /// Its name.
    pub id: ProcessId,
    /// `HOST:PORT`, or `tls://HOST:PORT`.
    pub address: String,
}

impl std::str::FromStr for NamedServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not of the form ws1=HOST:PORT");
        let (id, address) = text.split_once('=').ok_or_else(form)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
        port.parse::<u16>().map_err(|_| form())?;
        if matches!(host, "" | "tls://") {
            return Err(form());
        }
        let id = ProcessId::parse(id).map_err(|error| error.to_string())?;
        Ok(Self { id, address: address.to_owned() })
    }
}

/// `parlor server`
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// Listen here
    #[arg(long, value_name = "IP:PORT", value_parser = address, env = "PARLOR_LISTEN")]
    pub listen: SocketAddr,
    /// Name on the board and of the Redis channel; default `ws-` and 8 random characters
    #[arg(long, value_name = "ID", env = "PARLOR_ID")]
    pub id: Option<ProcessId>,
    /// Where balancers reach this server; default: the listening address
    #[arg(long, value_name = "HOST:PORT", env = "PARLOR_ADVERTISE")]
    pub advertise: Option<String>,
    /// Where browsers reach this server themselves, for GET /v1/connect
    #[arg(long, value_name = "wss://…/ws", hide_env_values = true, env = "PARLOR_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Take sockets from balancers of this host, in this folder that only this user can enter; made
    /// where it is missing (Linux)
    #[arg(long, value_name = "DIR", env = "PARLOR_HANDOFF")]
    pub handoff: Option<PathBuf>,
    /// Who may open a direct conversation
    #[arg(long, value_enum, default_value_t = Dm::Open, env = "PARLOR_DM")]
    pub dm: Dm,
    /// The real parts
    #[command(flatten)]
    pub parts: Parts,
    /// Who gets in
    #[command(flatten)]
    pub edge: EdgeOptions,
    /// How much a client may do
    #[command(flatten)]
    pub limits: LimitOptions,
    /// What all roles take
    #[command(flatten)]
    pub common: Common,
}

/// `parlor api`
#[derive(Debug, Clone, Args)]
pub struct Api {
    /// Listen here
    #[arg(long, value_name = "IP:PORT", value_parser = address, env = "PARLOR_LISTEN")]
    pub listen: SocketAddr,
    /// Name on the board and of the Redis channel; default `api-` and 8 random characters
    #[arg(long, value_name = "ID", env = "PARLOR_ID")]
    pub id: Option<ProcessId>,
    /// Who may open a direct conversation
    #[arg(long, value_enum, default_value_t = Dm::Open, env = "PARLOR_DM")]
    pub dm: Dm,
    /// The real parts
    #[command(flatten)]
    pub parts: Parts,
    /// Who gets in
    #[command(flatten)]
    pub edge: EdgeOptions,
    /// How much a client may do
    #[command(flatten)]
    pub limits: LimitOptions,
    /// What all roles take
    #[command(flatten)]
    pub common: Common,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_an_environment_variable() {
        for command in Cli::command().get_subcommands() {
            for option in command.get_arguments().filter(|a| !a.is_positional()) {
                let id = option.get_id().as_str();
                if id == "help" || id == "version" {
                    continue;
                }
                let variable = option.get_env().and_then(|v| v.to_str());
                let name = command.get_name();
                assert!(variable.is_some_and(|v| v.starts_with("PARLOR_")), "{name} {id}");
            }
        }
    }

    #[test]
    fn servers_are_named() {
        let good: NamedServer = "ws1=127.0.0.1:3001".parse().unwrap();
        assert_eq!((good.id.as_str(), good.address.as_str()), ("ws1", "127.0.0.1:3001"));
        for bad in ["ws1", "ws1=", "=a:1", "ws1=host", "ws1=:1", "ws1=host:99999", "a b=c:1"] {
            assert!(bad.parse::<NamedServer>().is_err(), "{bad}");
        }
    }
}
