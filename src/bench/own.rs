//! Processes of a run's own: a `parlor up`, or a fleet on Redis and DynamoDB.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::auth::mint;
use crate::client::Api;
use crate::config::Secret;
use crate::protocol::Token;

/// How long a start may take.
const START_SECONDS: u64 = 60;
/// How long a stop may take; sockets are closed at an even rate.
const STOP_SECONDS: u64 = 60;
const LOOPBACK: &str = "127.0.0.1:0";
/// Limits that are looked at as anywhere, and never reached.
const AMPLE: [&str; 7] = [
    "--user-messages=1M:1M",
    "--user-frames=1M:1M",
    "--user-bytes=1000M:1000M",
    "--user-signals=1M:1M",
    "--api-requests=1M:1M",
    "--new-conversations=1M:1M",
    "--conversations-per-user=off",
];
/// More sockets than a process may hold by itself, which keeps an eighth of its files for others.
const MAX_SOCKETS: &str = "--max-sockets=19100";

/// Who gets in, and how much everybody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Who says who he is.
    #[default]
    Open,
    /// Who has a token. What is measured is not how clients are kept from it, so the limits that
    /// come with tokens are ample.
    Tokens,
    /// The same, and the limits are those of everybody: they are what is measured.
    Limits,
}

/// What was started, in the order of starting.
#[derive(Default)]
pub(super) struct Own {
    roles: Vec<Role>,
    data: Option<PathBuf>,
    /// What signs tokens, where they are in use.
    pub secret: Option<PathBuf>,
    guard: Guard,
    /// `ws://…/ws` of the balancer.
    pub url: String,
    /// `ws://…/ws` of each server.
    pub urls: Vec<String>,
    /// `http://…` of the Message API.
    pub api: String,
}

struct Role {
    name: String,
    child: Child,
    /// Where its metrics are.
    admin: Option<Api>,
    /// Held open: whoever writes to a pipe without a reader fails.
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Own {
    /// Nothing yet.
    fn new(guard: Guard) -> anyhow::Result<Self> {
        let secret = (guard != Guard::Open).then(new_secret).transpose()?;
        Ok(Self { secret, guard, ..Self::default() })
    }

    /// One process, with embedded parts where no Redis is given.
    pub async fn up(redis: Option<&Secret>, memory: bool, guard: Guard) -> anyhow::Result<Self> {
        let name = format!("parlor-bench-{:016x}", rand::random::<u64>());
        let data = std::env::temp_dir().join(name);
        let data = (!memory).then_some(data);
        let mut own = Self { data: data.clone(), ..Self::new(guard)? };
        let mut command = command()?;
        command.args(["up", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"]);
        match &data {
            Some(folder) => command.arg("--data").arg(folder),
            None => command.arg("--memory"),
        };
        if let Some(redis) = redis {
            take_redis(&mut command, redis);
        }
        own.spawn("up", command)?;
        let ready = own.ready("up").await?;
        own.addresses(&ready["balancer"], &ready["api"])?;
        Ok(own)
    }

    /// So many processes that know nothing of each other, of one server each, with a memory store.
    pub async fn islands(count: usize, guard: Guard) -> anyhow::Result<Self> {
        let mut own = Self::new(guard)?;
        let names: Vec<String> = (1..=count).map(|number| format!("up{number}")).collect();
        for name in &names {
            let mut command = command()?;
            // Nobody is there any more when they stop, or nobody minds.
            command.args(["up", "--servers", "1", "--memory", "--drain-seconds=1", MAX_SOCKETS]);
            command.args(["--balancer-port", "0", "--server-port", "0", "--api-port", "0"]);
            own.spawn(name, command)?;
        }
        for name in &names {
            let ready = own.ready(name).await?;
            let server = ready["servers"]["ws1"].as_str().context("no server")?;
            own.urls.push(format!("ws://{server}/ws"));
            own.addresses(&ready["balancer"], &ready["api"])?;
        }
        Ok(own)
    }

    /// Servers, the API and a balancer as processes of their own, on a table of their own.
    pub async fn fleet(
        redis: &Secret,
        dynamodb: &str,
        servers: usize,
        guard: Guard,
    ) -> anyhow::Result<Self> {
        let servers: Vec<String> = (1..=servers).map(|number| format!("ws{number}")).collect();
        let table = format!("parlor-bench-{:016x}", rand::random::<u64>());
        let store = ["--dynamodb", dynamodb, "--table", &table];
        // Made once, or every process would try.
        let made = command()?.args(["table", "create"]).args(store).output().await?;
        let said = String::from_utf8_lossy(&made.stderr);
        anyhow::ensure!(made.status.success(), "parlor table create: {said}");
        let mut own = Self::new(guard)?;
        for id in &servers {
            // A client dials its server itself: `GET /v1/connect` names this address.
            let port = std::net::TcpListener::bind(LOOPBACK)?.local_addr()?.port();
            let (listen, url) = (format!("127.0.0.1:{port}"), format!("ws://127.0.0.1:{port}/ws"));
            let mut server = command()?;
            server.args(["server", "--id", id, "--listen", &listen, "--public-url", &url]);
            server.arg(MAX_SOCKETS).args(store);
            take_redis(&mut server, redis);
            own.urls.push(url);
            own.spawn(id, server)?;
        }
        let mut api = command()?;
        api.args(["api", "--listen", LOOPBACK]).args(store);
        take_redis(&mut api, redis);
        own.spawn("api", api)?;
        for id in &servers {
            own.ready(id).await?;
        }
        let api = own.ready("api").await?["api"].clone();
        let mut balancer = command()?;
        balancer.args(["balancer", "--listen", LOOPBACK]).args(store);
        own.spawn("balancer", balancer)?;
        let ready = own.ready("balancer").await?;
        own.addresses(&ready["balancer"], &api)?;
        Ok(own)
    }

    fn addresses(&mut self, balancer: &Value, api: &Value) -> anyhow::Result<()> {
        self.url = format!("ws://{}/ws", balancer.as_str().context("no balancer")?);
        self.api = format!("http://{}", api.as_str().context("no Message API")?);
        Ok(())
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        if let Some(secret) = &self.secret {
            command.arg("--jwt-secret-file").arg(secret);
        }
        if self.guard == Guard::Tokens {
            command.args(AMPLE);
        }
        let mut child = command
            .args(["--admin-listen", LOOPBACK, "--ready-json"])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stdout = BufReader::new(stdout).lines();
        self.roles.push(Role { name: name.to_owned(), child, admin: None, stdout });
        Ok(())
    }

    async fn ready(&mut self, name: &str) -> anyhow::Result<Value> {
        let role = self.roles.iter_mut().find(|role| role.name == name).context("not started")?;
        let limit = Duration::from_secs(START_SECONDS);
        let line = tokio::time::timeout(limit, role.stdout.next_line()).await;
        let line = line.with_context(|| format!("{name} is not ready in time"))??;
        let line = line.with_context(|| format!("{name} ended before it was ready"))?;
        let ready: Value = serde_json::from_str(&line).context("not a ready line")?;
        role.admin = ready["admin"].as_str().map(|admin| Api::new(format!("http://{admin}")));
        Ok(ready)
    }

    /// What all processes have counted so far under names that begin so.
    pub async fn counted(&self, name: &str) -> anyhow::Result<f64> {
        let mut all = 0.0;
        for admin in self.roles.iter().filter_map(|role| role.admin.as_ref()) {
            let page = admin.get("/metrics").await?.good()?;
            let lines = page.as_str().context("metrics are text")?.lines();
            let counted = lines.filter(|line| line.starts_with(name));
            let numbers = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            all += numbers.sum::<f64>();
        }
        Ok(all)
    }

    /// A token that these processes take; `None` where they take none.
    pub fn token(&self, sub: &str, scope: &str) -> anyhow::Result<Option<Token>> {
        let secret = self.secret.as_ref();
        Ok(secret.map(|secret| mint::for_an_hour(secret, sub, scope)).transpose()?)
    }

    /// The processes by name.
    pub fn pids(&self) -> impl Iterator<Item = (String, u32)> {
        self.roles.iter().filter_map(|role| Some((role.name.to_owned(), role.child.id()?)))
    }

    /// `kill -9` of one process.
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let mut role = self.take(name)?;
        role.child.kill().await.with_context(|| format!("killing {name}"))
    }

    /// SIGTERM to one process, and waits for its end; its exit code must be 0.
    pub async fn terminate(&mut self, name: &str) -> anyhow::Result<()> {
        end(self.take(name)?).await.with_context(|| format!("stopping {name}"))
    }

    fn take(&mut self, name: &str) -> anyhow::Result<Role> {
        let at = self.roles.iter().position(|role| role.name == name);
        Ok(self.roles.remove(at.with_context(|| format!("no process {name}"))?))
    }

    /// Stops everything by SIGTERM, last to first; every exit code must be 0.
    pub async fn stop(self) -> anyhow::Result<()> {
        let mut ended = Ok(());
        for role in self.roles.into_iter().rev() {
            let name = role.name.clone();
            ended = ended.and(end(role).await.with_context(|| format!("stopping {name}")));
        }
        if let Some(data) = self.data {
            let _ = tokio::fs::remove_dir_all(data).await;
        }
        if let Some(secret) = self.secret {
            let _ = tokio::fs::remove_file(secret).await;
        }
        ended
    }
}

async fn end(mut role: Role) -> anyhow::Result<()> {
    if let Some(pid) = role.child.id() {
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
    }
    let limit = Duration::from_secs(STOP_SECONDS);
    let status = tokio::time::timeout(limit, role.child.wait()).await.context("no end")??;
    anyhow::ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn new_secret() -> anyhow::Result<PathBuf> {
    let name = format!("parlor-bench-{:016x}.secret", rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    mint::new_secret(&path)?;
    Ok(path)
}

/// By a variable: a command line can be read by everybody, and a password may stand in the URL.
fn take_redis(command: &mut Command, redis: &Secret) {
    command.env("PARLOR_REDIS", redis.reveal());
}

/// This very binary, quiet unless the caller's settings say otherwise.
fn command() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    if std::env::var_os("PARLOR_LOG").is_none() {
        command.env("PARLOR_LOG", "warn");
    }
    // What its memory is shared with is told only of such a process.
    command.env("PARLOR_INSPECTABLE", "1").kill_on_drop(true);
    Ok(command)
}
