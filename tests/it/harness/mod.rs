//! Processes of the binary on free ports, and the real parts behind them.
//!
//! A [`Stack`] is what a user would have started: `parlor up` on embedded parts, `parlor up` with
//! Redis and DynamoDB Local, or a fleet of processes. Everything ends when it is dropped.

mod cluster;
mod lasting;
mod people;
pub mod process;
mod proxy;
pub mod real;

pub use cluster::{Cluster, MASTERS};
pub use lasting::Lasting;
pub use people::{Person, texts};
pub use process::{Process, command};
pub use proxy::{Proxy, Way};
pub use real::{Listening, Redis, dynamodb, free_port};

use std::collections::BTreeMap;
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use parlor::client::{Api, ClientError};
use serde_json::Value;

/// How long anything that should happen may take; generous, since machines are busy.
pub const SOON: Duration = Duration::from_secs(10);

/// Where the parts of a stack are.
pub enum Parts {
    /// One process, durable in a folder.
    Embedded,
    /// One process of three servers on Redis and DynamoDB Local.
    Real,
    /// Balancer, servers and API as processes of their own, on Redis and DynamoDB Local.
    Fleet,
}

/// A running Parlor.
pub struct Stack {
    /// The Redis behind it, of this stack alone.
    pub redis: Option<Redis>,
    /// The Redis cluster behind it in its place, of this stack alone.
    pub cluster: Option<Cluster>,
    /// `HOST:PORT` of the balancer.
    pub balancer: String,
    /// `HOST:PORT` of each server.
    pub servers: BTreeMap<String, String>,
    /// `HOST:PORT` of the Message API.
    pub api: String,
    /// `HOST:PORT` of the admin of `parlor up`, with `--admin-listen`; else empty.
    pub admin: String,
    processes: BTreeMap<String, Process>,
    data: tempfile::TempDir,
    table: String,
    options: Vec<String>,
    /// What all processes of a fleet are given.
    shared: Vec<String>,
    fleet: bool,
}

impl Stack {
    /// Starts one; `None` where real parts are left out (`./test quick`).
    pub async fn start(parts: Parts) -> Option<Self> {
        Self::start_with(parts, &[]).await
    }

    /// The same with further options of `parlor up` (or, for a fleet, of the balancer).
    pub async fn start_with(parts: Parts, options: &[&str]) -> Option<Self> {
        Self::start_sharing(parts, options, &[]).await
    }

    /// The same with options of all processes of a fleet.
    pub async fn start_sharing(parts: Parts, options: &[&str], shared: &[&str]) -> Option<Self> {
        let redis = match parts {
            Parts::Embedded => None,
            Parts::Real | Parts::Fleet => Some(Redis::start(dynamodb()?)),
        };
        let fleet = matches!(parts, Parts::Fleet);
        Some(Self::start_on((redis, None), fleet, options, shared).await)
    }

    /// Starts a fleet on a Redis cluster, as a user who has these rights alone; `None` as above.
    pub async fn start_on_cluster(user: &str, password: &str, rule: &str) -> Option<Self> {
        let mut cluster = Cluster::start(&dynamodb()?);
        cluster.restrict(user, password, rule);
        Some(Self::start_on((None, Some(cluster)), true, &[], &[]).await)
    }

    async fn start_on(
        (redis, cluster): (Option<Redis>, Option<Cluster>),
        fleet: bool,
        options: &[&str],
        shared: &[&str],
    ) -> Self {
        let mut stack = Self {
            redis,
            cluster,
            balancer: String::new(),
            servers: BTreeMap::new(),
            api: String::new(),
            admin: String::new(),
            processes: BTreeMap::new(),
            data: tempfile::tempdir().unwrap(),
            table: format!("parlor-it-{:016x}", rand::random::<u64>()),
            options: strings(options),
            shared: strings(shared),
            fleet,
        };
        if stack.fleet {
            stack.start_fleet().await;
        } else {
            stack.start_up().await;
        }
        stack
    }

    /// Starts `parlor up`, again after a kill: on the same ports (but for those of the servers
    /// themselves), with the same data and the same real parts.
    pub async fn start_up(&mut self) {
        let data = self.data();
        let (front, api) = (port(&self.balancer), port(&self.api));
        let mut arguments = strings(&["up", "--balancer-port", front, "--server-port", "0"]);
        arguments.extend(strings(&["--api-port", api, "--data", &data]));
        arguments.extend(self.real_parts());
        arguments.extend(self.options.clone());
        let up = Process::start("up", &arguments);
        let ready = up.ready().await;
        self.balancer = text(&ready["balancer"]);
        self.api = text(&ready["api"]);
        self.servers = addresses(&ready);
        self.admin = ready["admin"].as_str().unwrap_or_default().to_owned();
        self.processes.insert("up".to_owned(), up);
    }

    async fn start_fleet(&mut self) {
        // Made once, or every process would try.
        let made = self.parlor(&["table", "create"]).await;
        assert!(made.status.success(), "{made:?}");
        let starting = ["ws1", "ws2", "ws3"].map(|id| (id, self.spawn_server(id)));
        let api = strings(&["api", "--listen", "127.0.0.1:0"]);
        let api = [api, self.real_parts(), self.shared.clone()].concat();
        let api = Process::start("api", &api);
        for (id, server) in starting {
            self.servers.extend(addresses(&server.ready().await));
            self.processes.insert(id.to_owned(), server);
        }
        self.api = text(&api.ready().await["api"]);
        self.processes.insert("api".to_owned(), api);
        let options = self.options.clone();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let url = self.add_balancer("balancer", &options).await;
        self.balancer = url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned();
    }

    /// Starts a balancer of the fleet beside the first, and gives its WebSocket URL. It finds the
    /// servers on the board, unless the options name them.
    pub async fn add_balancer(&mut self, name: &str, options: &[&str]) -> String {
        let api = format!("http://{}", self.api);
        let mut arguments = strings(&["balancer", "--listen", "127.0.0.1:0", "--api", &api]);
        if !options.contains(&"--server") {
            arguments.extend(self.store_options());
        }
        arguments.extend(strings(options));
        arguments.extend(self.shared.clone());
        let balancer = Process::start(name, &arguments);
        let address = text(&balancer.ready().await["balancer"]);
        self.processes.insert(name.to_owned(), balancer);
        format!("ws://{address}/ws")
    }

    fn spawn_server(&self, id: &str) -> Process {
        let listen = self.servers.get(id).map_or("127.0.0.1:0", String::as_str);
        let own = strings(&["server", "--listen", listen, "--id", id]);
        Process::start(id, &[own, self.real_parts(), self.shared.clone()].concat())
    }

    /// Starts a server of a fleet again, on its old port.
    pub async fn start_server(&mut self, id: &str) {
        let server = self.spawn_server(id);
        self.servers.extend(addresses(&server.ready().await));
        self.processes.insert(id.to_owned(), server);
    }

    /// The DynamoDB Local behind it; `None` where all is embedded.
    fn dynamodb(&self) -> Option<&str> {
        let node = self.redis.as_ref().or(self.cluster.as_ref().map(Cluster::any));
        node.map(Redis::dynamodb)
    }

    fn store_options(&self) -> Vec<String> {
        match self.dynamodb() {
            Some(url) => strings(&["--dynamodb", url, "--table", &self.table]),
            None => Vec::new(),
        }
    }

    /// The options that name the real parts.
    pub fn real_parts(&self) -> Vec<String> {
        let redis = self.redis.as_ref().map(Redis::url);
        match redis.or(self.cluster.as_ref().map(Cluster::url)) {
            Some(url) => [strings(&["--redis", &url]), self.store_options()].concat(),
            None => Vec::new(),
        }
    }

    /// The process of this name: `up`, or `ws1`, `api`, `balancer` of a fleet.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap()
    }

    /// `kill -9` of a process: what a crash looks like.
    pub fn kill(&mut self, name: &str) {
        self.processes.remove(name).unwrap().kill();
    }

    /// Forgets a process that has ended by itself.
    pub fn stop_dead(&mut self, name: &str) {
        self.processes.remove(name);
    }

    /// SIGTERM to a process, and its exit status.
    pub async fn stop_one(&mut self, name: &str) -> ExitStatus {
        self.processes.remove(name).unwrap().stop().await
    }

    /// The WebSocket URL through the balancer.
    pub fn ws(&self) -> String {
        format!("ws://{}/ws", self.balancer)
    }

    /// The WebSocket URL of a server itself.
    pub fn ws_at(&self, server: &str) -> String {
        format!("ws://{}/ws", self.servers[server])
    }

    /// The Message API.
    pub fn http(&self) -> Api {
        Api::new(format!("http://{}", self.api))
    }

    /// A person on a server of choice.
    pub async fn at(&self, server: &str, user: &str) -> Person {
        Person::connect(&self.ws_at(server), user).await
    }

    /// A person through the balancer.
    pub async fn person(&self, user: &str) -> Person {
        Person::connect(&self.ws(), user).await
    }

    /// The data folder of `parlor up`.
    pub fn data(&self) -> String {
        self.data.path().join("data").to_str().unwrap().to_owned()
    }

    /// The options that name this stack's DynamoDB and table, or its data folder.
    pub fn where_it_is(&self) -> Vec<String> {
        match self.dynamodb() {
            Some(_) => self.store_options(),
            None => strings(&["--data", &self.data()]),
        }
    }

    /// What `parlor table show` prints, line by line, each blank a single one.
    pub async fn shown(&self, conversation: &str) -> Vec<String> {
        let output = self.parlor(&["table", "show", conversation]).await;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(squeezed).collect()
    }

    /// The items of a partition, read from DynamoDB by its own client; `None` where it is embedded.
    pub async fn items(&self, partition: &str) -> Option<Vec<real::Item>> {
        let url = self.dynamodb()?;
        Some(real::items(url, &self.table, partition).await)
    }

    /// The same for the whole table.
    pub async fn all_items(&self) -> Option<Vec<real::Item>> {
        let url = self.dynamodb()?;
        Some(real::all_items(url, &self.table).await)
    }

    /// Runs a tool of the binary on this stack's data: `table show …`.
    pub async fn parlor(&self, arguments: &[&str]) -> Output {
        let mut command = command();
        command.args(arguments).args(self.where_it_is());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// One page of history, as this user sees it; asked again while the store is too busy.
    pub async fn history(&self, user: &str, conversation: &str) -> Vec<Value> {
        let page = eventually("a page of history", async || {
            match self.http().history(user, conversation, None, 500).await {
                Ok(page) => Some(page),
                Err(ClientError::Refused { status: 503, .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
        page.await["messages"].as_array().unwrap().clone()
    }

    /// Stops everything by SIGTERM, servers last to first; all must exit with 0.
    pub async fn stop(mut self) {
        for (name, process) in std::mem::take(&mut self.processes).into_iter().rev() {
            let status = process.stop().await;
            assert!(status.success(), "{name} ended with {status}");
        }
        if self.dynamodb().is_none() {
            // Whatever a flow did: the rules of the data hold.
            let checked = self.parlor(&["store", "check"]).await;
            assert!(checked.status.success(), "{checked:?}");
        }
    }
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The port of an address that was in use before, or 0.
fn port(address: &str) -> &str {
    address.rsplit_once(':').map_or("0", |(_, port)| port)
}

fn addresses(ready: &Value) -> BTreeMap<String, String> {
    let servers = ready["servers"].as_object().unwrap();
    servers.iter().map(|(id, address)| (id.clone(), text(address))).collect()
}

/// Waits until what `a` says comes to `b` at once, and not by the slow way.
pub async fn live_again(a: &mut Person, b: &mut Person) {
    let to = b.user.clone();
    eventually("live again", async || {
        let begun = Instant::now();
        let seq = a.say(&to, "live").await;
        while b.hear().await.0 != seq {}
        (begun.elapsed() < Duration::from_millis(500)).then_some(())
    })
    .await;
}

/// Asks again until `check` gives something.
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> T {
    within(SOON, what, check).await
}

/// The same with a limit of its own.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes each flow a test on embedded parts and one on real parts.
macro_rules! on_both {
    ($($(#[$doc:meta])* $flow:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $flow() {
                let parts = $crate::harness::Parts::Embedded;
                super::$flow($crate::harness::Stack::start(parts).await.unwrap()).await;
            })+
        }
        mod real {
            $(#[tokio::test]
            async fn $flow() {
                let parts = $crate::harness::Parts::Real;
                let Some(stack) = $crate::harness::Stack::start(parts).await else { return };
                super::$flow(stack).await;
            })+
        }
    };
}
pub(crate) use on_both;
