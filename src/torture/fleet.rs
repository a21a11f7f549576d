//! The processes under attack, each link between them through a fault proxy.
//!
//! ```text
//! devices → front → balancer → door of ws1 → ws1 → redis link → Redis
//!                                                → store link → DynamoDB Local
//! ```

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::RngExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::Options;
use super::http::Http;
use super::process::{Process, log_file};
use super::tcp::Tcp;
use crate::bench::resp;

/// The servers' names.
pub(super) const SERVERS: [&str; 3] = ["ws1", "ws2", "ws3"];
/// How long a server may take to send its sockets away.
const DRAIN_SECONDS: &str = "3";
/// How long Redis or DynamoDB Local may take to answer after their start.
const PART_LIMIT: Duration = Duration::from_secs(60);
/// A role that does not come up, since faults go on, is started again for so long.
const ROLE_LIMIT: Duration = Duration::from_secs(90);
/// Below the ports that the system gives to outgoing connections, so that a port stays free while
/// its process is dead.
const PORTS: std::ops::Range<u16> = 10_000..20_000;
/// The launcher that binds DynamoDB Local to loopback.
const LAUNCHER: &str = include_str!("../../tests/tools/dynamodb-local/DynamoDbLocal.java");
const BUS_KEY: &str = "torture-torture-torture-torture-torture";
/// The table of the run.
pub(super) const TABLE: &str = "parlor";

type Starts = Box<dyn Fn(&str) -> anyhow::Result<Command> + Send + Sync>;

/// A place in the fleet: one process after another.
pub(super) struct Slot {
    /// Its name.
    pub name: String,
    /// Whoever holds this may end the process; for others its end is a fault of its own.
    pub process: Mutex<Option<Process>>,
    starts: Starts,
    lives: AtomicU64,
    folder: PathBuf,
    role: bool,
}

impl Slot {
    fn new(name: &str, folder: &Path, role: bool, starts: Starts) -> Self {
        let (name, folder) = (name.to_owned(), folder.to_owned());
        let lives = AtomicU64::new(0);
        Self { name, process: Mutex::default(), starts, lives, folder, role }
    }

    /// Starts it; `renamed`: under a new id, as a pod that is replaced.
    pub async fn start(&self, renamed: bool) -> anyhow::Result<Process> {
        let lives = match renamed {
            true => self.lives.fetch_add(1, Ordering::Relaxed) + 1,
            false => self.lives.load(Ordering::Relaxed),
        };
        let id = if lives == 0 { self.name.clone() } else { format!("{}-{lives}", self.name) };
        let limit = Instant::now() + ROLE_LIMIT;
        loop {
            let command = (self.starts)(&id)?;
            if !self.role {
                return Process::program(command, &self.folder, &self.name);
            }
            let mut process = Process::role(command, &self.folder, &self.name)?;
            match process.ready().await {
                Ok(_) => return Ok(process),
                // As a supervisor does.
                Err(_) if Instant::now() < limit => sleep(Duration::from_millis(500)).await,
                Err(error) => return Err(error.context(self.last_words())),
            }
        }
    }

    /// Why it did not start: what its log ends with.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(log_file(&self.folder, &self.name)).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        let said: String = last.iter().rev().map(|line| format!("\n    {line}")).collect();
        format!("starting {}, whose log ends with:{said}", self.name)
    }

    async fn begin(&self) -> anyhow::Result<()> {
        *self.process.lock().await = Some(self.start(false).await?);
        Ok(())
    }
}

/// The links of one process to what it needs.
pub(super) struct Links {
    /// Whose.
    pub name: String,
    /// To Redis; a balancer has none.
    pub redis: Option<Tcp>,
    /// To DynamoDB.
    pub store: Http,
    /// It signs what it tells others over Redis.
    signs: bool,
}

/// See the module.
pub(super) struct Fleet {
    /// Redis, DynamoDB Local, ws1, ws2, ws3, api, balancer; or `up` alone.
    pub slots: Vec<Slot>,
    /// The links of ws1, ws2, ws3, api, balancer.
    pub links: Vec<Links>,
    /// Between the balancer and each server.
    pub doors: Vec<Tcp>,
    /// Before the balancer.
    pub front: Tcp,
    /// Where Redis is, without a proxy.
    pub redis: Option<SocketAddr>,
    /// Where each server tells what it has counted.
    pub admins: Vec<SocketAddr>,
    /// Where DynamoDB is, without a proxy.
    pub dynamodb: Option<SocketAddr>,
    /// The data folder of `parlor up`.
    pub data: Option<PathBuf>,
    /// `http://…` of the Message API, without a proxy.
    pub api: String,
}

impl Fleet {
    /// The slot of this name.
    pub fn slot(&self, name: &str) -> anyhow::Result<&Slot> {
        self.slots.iter().find(|slot| slot.name == name).context("no such process")
    }

    /// `ws://…/ws` for devices.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.front.address)
    }

    /// `parlor up` on a folder of its own.
    pub async fn up(folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let (data, log) = (folder.join("data"), folder.to_owned());
        let mut ports = Ports::default();
        let (balancer, api, server) = (ports.one()?, ports.one()?, ports.row(3)?);
        let arguments = data.clone();
        let starts: Starts = Box::new(move |_| {
            let mut up = parlor(&["up", "--drain-seconds", DRAIN_SECONDS])?;
            up.args(["--balancer-port", &balancer.port().to_string()]);
            up.args(["--server-port", &server.to_string(), "--api-port", &api.port().to_string()]);
            up.arg("--data").arg(&arguments);
            Ok(up)
        });
        let slot = Slot::new("up", &log, true, starts);
        slot.begin().await?;
        let front = Tcp::start(ports.one()?, balancer, seed).await?;
        Ok(Self {
            slots: vec![slot],
            links: Vec::new(),
            doors: Vec::new(),
            front,
            redis: None,
            admins: Vec::new(),
            dynamodb: None,
            data: Some(data),
            api: format!("http://{api}"),
        })
    }

    /// Redis, DynamoDB Local, three servers, API and balancer.
    pub async fn start(folder: &Path, options: &Options, seed: u64) -> anyhow::Result<Self> {
        let mut ports = Ports::default();
        let (redis, dynamodb) = (ports.one()?, ports.one()?);
        let (api, balancer) = (ports.one()?, ports.one()?);
        let mut slots = vec![
            redis_slot(folder, &options.redis_server, redis),
            dynamodb_slot(folder, &options.dynamodb_local, dynamodb)?,
        ];
        for slot in &slots {
            slot.begin().await?;
        }
        redis_answers(redis).await.context("Redis does not answer")?;
        let url = format!("http://{dynamodb}");
        create_table(&url).await?;
        // Every other fleet signs what its servers tell each other.
        let (mut links, signs) = (Vec::new(), seed % 2 == 1);
        for (number, name) in (0_u64..).zip(SERVERS.into_iter().chain(["api", "balancer"])) {
            let seed = seed.wrapping_add(number << 32);
            let redis = match name {
                "balancer" => None,
                _ => Some(Tcp::start(ports.one()?, redis, seed).await?),
            };
            let store = Http::start(ports.one()?, dynamodb, seed).await?;
            links.push(Links { name: name.to_owned(), redis, store, signs });
        }
        let (mut doors, mut admins) = (Vec::new(), Vec::new());
        for links in &links[..SERVERS.len()] {
            let (listen, door, admin) = (ports.one()?, ports.one()?, ports.one()?);
            doors.push(Tcp::start(door, listen, seed ^ u64::from(listen.port())).await?);
            slots.push(server_slot(folder, links, (listen, admin), door));
            admins.push(admin);
        }
        slots.push(api_slot(folder, &links[SERVERS.len()], api));
        slots.push(balancer_slot(folder, &links[SERVERS.len() + 1], balancer, api));
        let started = slots[2..].iter().map(Slot::begin);
        futures_util::future::try_join_all(started).await?;
        let front = Tcp::start(ports.one()?, balancer, seed ^ 1).await?;
        let (redis, dynamodb) = (Some(redis), Some(dynamodb));
        let api = format!("http://{api}");
        Ok(Self { slots, links, doors, front, redis, admins, dynamodb, data: None, api })
    }
}

fn redis_slot(folder: &Path, program: &Path, address: SocketAddr) -> Slot {
    let (program, dir) = (program.to_owned(), folder.to_owned());
    let starts: Starts = Box::new(move |_| {
        let mut command = Command::new(&program);
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]).arg("--dir").arg(&dir);
        Ok(command)
    });
    Slot::new("redis", folder, false, starts)
}

fn dynamodb_slot(folder: &Path, jars: &Path, address: SocketAddr) -> anyhow::Result<Slot> {
    let jars = jars.canonicalize()?;
    let launcher = folder.join("DynamoDbLocal.java");
    std::fs::write(&launcher, LAUNCHER)?;
    let starts: Starts = Box::new(move |_| {
        let mut java = Command::new("java");
        java.env("DDB_LOCAL_TELEMETRY", "0").arg("-Xmx768m");
        java.arg(format!("-Djava.library.path={}", jars.display()));
        java.arg("-cp").arg(jars.join("*")).arg(&launcher);
        java.args(["-port", &address.port().to_string()]);
        java.args(["-sharedDb", "-inMemory", "-disableTelemetry"]);
        Ok(java)
    });
    Ok(Slot::new("dynamodb", folder, false, starts))
}

fn server_slot(
    folder: &Path,
    links: &Links,
    (listen, admin): (SocketAddr, SocketAddr),
    door: SocketAddr,
) -> Slot {
    let parts = parts(links);
    let starts: Starts = Box::new(move |id| {
        let mut server = parlor(&["server", "--id", id, "--drain-seconds", DRAIN_SECONDS])?;
        server.args(["--listen", &listen.to_string(), "--advertise", &door.to_string()]);
        server.args(["--admin-listen", &admin.to_string()]);
        server.args(&parts);
        Ok(server)
    });
    Slot::new(&links.name, folder, true, starts)
}

fn api_slot(folder: &Path, links: &Links, listen: SocketAddr) -> Slot {
    let parts = parts(links);
    let starts: Starts = Box::new(move |id| {
        let mut api = parlor(&["api", "--id", id, "--drain-seconds", DRAIN_SECONDS])?;
        api.args(["--listen", &listen.to_string()]).args(&parts);
        Ok(api)
    });
    Slot::new(&links.name, folder, true, starts)
}

fn balancer_slot(folder: &Path, links: &Links, listen: SocketAddr, api: SocketAddr) -> Slot {
    let store = format!("http://{}", links.store.address);
    let starts: Starts = Box::new(move |_| {
        let mut balancer = parlor(&["balancer", "--drain-seconds", DRAIN_SECONDS])?;
        balancer.args(["--listen", &listen.to_string(), "--api", &format!("http://{api}")]);
        balancer.args(["--dynamodb", &store, "--table", TABLE]);
        Ok(balancer)
    });
    Slot::new(&links.name, folder, true, starts)
}

fn parts(links: &Links) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(redis) = &links.redis {
        parts.extend(["--redis".to_owned(), format!("redis://{}", redis.address)]);
    }
    if links.signs {
        parts.extend(["--bus-key".to_owned(), BUS_KEY.to_owned()]);
    }
    let store = format!("http://{}", links.store.address);
    parts.extend(["--dynamodb".to_owned(), store, "--table".to_owned(), TABLE.to_owned()]);
    parts
}

/// This very binary.
fn parlor(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // How many files it has open is looked at, which is told only of such a process.
    command.args(arguments).env("PARLOR_INSPECTABLE", "1");
    if std::env::var_os("PARLOR_LOG").is_none() {
        command.env("PARLOR_LOG", "info");
    }
    Ok(command)
}

async fn redis_answers(address: SocketAddr) -> anyhow::Result<()> {
    let limit = Instant::now() + PART_LIMIT;
    loop {
        match resp::once(address, &["PING"]).await {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < limit => sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error),
        }
    }
}

/// Tries until DynamoDB Local has started.
async fn create_table(url: &str) -> anyhow::Result<()> {
    let limit = Instant::now() + PART_LIMIT;
    loop {
        let arguments = ["table", "create", "--dynamodb", url, "--table", TABLE];
        let made = parlor(&arguments)?.kill_on_drop(true).output().await?;
        if made.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        anyhow::ensure!(Instant::now() < limit, "parlor table create: {said}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// The ports of a run: none is given out twice, for a port that was given is free until its process
/// listens there, and again while that process is dead.
#[derive(Default)]
struct Ports {
    given: HashSet<u16>,
}

impl Ports {
    fn one(&mut self) -> anyhow::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, self.row(1)?).into())
    }

    /// The first of so many ports in a row.
    fn row(&mut self, count: u16) -> anyhow::Result<u16> {
        for _ in 0..1_000 {
            let first = rand::rng().random_range(PORTS);
            let row = first..first + count;
            let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if row.clone().all(|port| !self.given.contains(&port) && is_free(port)) {
                self.given.extend(row);
                return Ok(first);
            }
        }
        anyhow::bail!("no free ports on the loopback between {} and {}", PORTS.start, PORTS.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() -> anyhow::Result<()> {
        let mut ports = Ports::default();
        let mut given = HashSet::new();
        for _ in 0..1_000 {
            let first = ports.row(3)?;
            assert!((first..first + 3).all(|port| given.insert(port)), "{first} twice");
        }
        Ok(())
    }
}
