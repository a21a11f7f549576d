//! The processes under attack, their logs and their memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parlor::client::{Api, ClientOptions};
use parlor::protocol::Token;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::bus::{KEY, Signing};
use crate::harness::process::command_of;
use crate::harness::{Parts, Process, Redis, command, dynamodb};
use crate::raw::request;
use crate::token;

/// How many sockets an address may have, and open at once, where there are limits.
pub const ADDRESS_SOCKETS: usize = 100;
pub const ADDRESS_HANDSHAKES: usize = 150;

/// A running Parlor with a log file for each process, and an admin address for each part.
pub struct Fleet {
    /// The Redis behind it, of this fleet alone.
    pub redis: Option<Redis>,
    /// `HOST:PORT` of the balancer.
    pub balancer: String,
    /// `HOST:PORT` of each server.
    pub servers: BTreeMap<String, String>,
    /// `HOST:PORT` of the Message API.
    pub api: String,
    /// The DynamoDB table.
    pub table: String,
    /// Signs for the bus, as a process of the fleet does.
    pub signing: Signing,
    /// It takes tokens only.
    guarded: bool,
    build: Option<PathBuf>,
    admins: BTreeMap<String, String>,
    processes: BTreeMap<String, Process>,
    folder: tempfile::TempDir,
    unique: AtomicU64,
    /// The names of the processes that scenes have started.
    spares: Mutex<Vec<String>>,
    /// How many messages a user has stored at `friend`.
    seqs: Mutex<BTreeMap<String, u64>>,
    /// How far each log was read.
    read: Mutex<BTreeMap<String, u64>>,
}

/// In memory, where there is such a place: a disk that is shared with others stands still for
/// longer than what the bystanders may notice of an attack.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn addresses(ready: &Value) -> BTreeMap<String, String> {
    let servers = ready["servers"].as_object().unwrap();
    servers.iter().map(|(id, address)| (id.clone(), text(address))).collect()
}

impl Fleet {
    /// Starts one, of this build of the binary (`None`: as the tests are built); `None` where real
    /// parts are left out (`./test quick`).
    pub async fn start(parts: Parts, build: Option<&Path>) -> Option<Self> {
        Self::start_with(parts, build, &[], false).await
    }

    /// One that takes tokens only, and has limits. Clients come through a proxy, so that they have
    /// addresses: this machine has no limits for itself.
    pub async fn start_guarded(parts: Parts, build: Option<&Path>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwt-secret");
        fs::write(&file, token::SECRET).unwrap();
        let tokens = ["--jwt-secret-file", file.to_str().unwrap(), "--jwt-issuer", token::ISSUER];
        // Rows of some hundred exchanges should not need a thousand.
        let sockets = format!("--sockets-per-address={ADDRESS_SOCKETS}");
        let rate = format!("--handshakes-per-address=10:{ADDRESS_HANDSHAKES}");
        let limits = ["--trusted-proxy=127.0.0.1", &sockets, &rate];
        // The secret was read once all are ready.
        Self::start_with(parts, build, &[&tokens[..], &limits].concat(), true).await
    }

    async fn start_with(
        parts: Parts,
        build: Option<&Path>,
        options: &[&str],
        guarded: bool,
    ) -> Option<Self> {
        let redis = match parts {
            Parts::Embedded => None,
            Parts::Real | Parts::Fleet => Some(Redis::start(dynamodb()?)),
        };
        let folder = folder();
        fs::write(folder.path().join("bus-key"), KEY).unwrap();
        let mut fleet = Self {
            redis,
            balancer: String::new(),
            servers: BTreeMap::new(),
            api: String::new(),
            table: format!("parlor-corpus-{:016x}", rand::random::<u64>()),
            signing: Signing::new(),
            guarded,
            build: build.map(Path::to_owned),
            admins: BTreeMap::new(),
            processes: BTreeMap::new(),
            folder,
            unique: AtomicU64::new(0),
            spares: Mutex::default(),
            seqs: Mutex::default(),
            read: Mutex::default(),
        };
        match fleet.redis {
            None => fleet.start_up(options).await,
            Some(_) => fleet.start_all(options).await,
        }
        Some(fleet)
    }

    async fn start_up(&mut self, options: &[&str]) {
        let data = self.folder.path().join("data").to_str().unwrap().to_owned();
        let own = ["up", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
        let own = [&own[..], &["--data", &data, "--admin-listen", "127.0.0.1:0"]].concat();
        let ready = self.spawn("up", &[&own[..], options].concat()).await;
        self.balancer = text(&ready["balancer"]);
        self.api = text(&ready["api"]);
        self.servers = addresses(&ready);
    }

    async fn start_all(&mut self, options: &[&str]) {
        let parts = self.parts();
        let store: Vec<&str> = parts.iter().skip(4).map(String::as_str).collect();
        let mut create = self.command();
        let created = create.args(["table", "create"]).args(&store).output().unwrap();
        assert!(created.status.success(), "{created:?}");
        for id in ["ws1", "ws2", "ws3"] {
            self.start_server(id, options).await;
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let admin = ["--admin-listen", "127.0.0.1:0"];
        let own = ["api", "--listen", "127.0.0.1:0", "--id", "api"];
        let ready = self.spawn("api", &[&own[..], &admin, &parts, options].concat()).await;
        self.api = text(&ready["api"]);
        let api = format!("http://{}", self.api);
        let own = ["balancer", "--listen", "127.0.0.1:0", "--api", &api];
        let ready = self.spawn("balancer", &[&own[..], &admin, &store, options].concat()).await;
        self.balancer = text(&ready["balancer"]);
    }

    /// What its processes run.
    fn command(&self) -> Command {
        self.build.as_deref().map_or_else(command, command_of)
    }

    async fn start_server(&mut self, id: &str, options: &[&str]) {
        let parts = self.parts();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let own = ["server", "--listen", "127.0.0.1:0", "--id", id];
        let admin = ["--admin-listen", "127.0.0.1:0"];
        let ready = self.spawn(id, &[&own[..], &admin, &parts, options].concat()).await;
        self.servers.extend(addresses(&ready));
    }

    /// Bus key, Redis, and from the fourth on where the store is.
    pub fn parts(&self) -> Vec<String> {
        let Some(redis) = &self.redis else { return Vec::new() };
        let key = self.folder.path().join("bus-key").to_str().unwrap().to_owned();
        let named = ["--bus-key-file", &key, "--redis", &redis.url()];
        let store = ["--dynamodb", redis.dynamodb(), "--table", &self.table];
        named.iter().chain(&store).map(|part| (*part).to_owned()).collect()
    }

    async fn spawn(&mut self, name: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<String> = arguments.iter().map(|part| (*part).to_owned()).collect();
        let process = Process::start_logged(self.command(), name, &arguments, &self.log_of(name));
        let ready = process.ready().await;
        self.admins.insert(name.to_owned(), text(&ready["admin"]));
        self.processes.insert(name.to_owned(), process);
        ready
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// The balancer and a server itself: both answer for `/ws`.
    pub fn doors(&self) -> [String; 2] {
        [self.balancer.clone(), self.servers["ws2"].clone()]
    }

    /// A number that was not given before.
    pub fn next(&self) -> u64 {
        self.unique.fetch_add(1, Ordering::Relaxed)
    }

    pub fn seq_of(&self, user: &str) -> u64 {
        self.seqs.lock().unwrap().get(user).copied().unwrap_or(0)
    }

    pub fn set_seq(&self, user: &str, seq: u64) {
        self.seqs.lock().unwrap().insert(user.to_owned(), seq);
    }

    /// The WebSocket URL of a server itself.
    pub fn ws_at(&self, server: &str) -> String {
        format!("ws://{}/ws", self.servers[server])
    }

    /// The Message API.
    pub fn http(&self) -> Api {
        Api::new(format!("http://{}", self.api))
    }

    fn token(&self, user: &str) -> Option<Token> {
        self.guarded.then(|| Token::new(token::claiming(json!({"sub": user}))))
    }

    /// How somebody comes to a server.
    pub fn comes(&self, server: &str, user: &str) -> ClientOptions {
        ClientOptions::new(self.ws_at(server), user).token(self.token(user))
    }

    /// How somebody comes who knows nothing of servers.
    pub fn comes_in(&self, user: &str) -> ClientOptions {
        let url = format!("ws://{}/ws", self.balancer);
        ClientOptions::new(url, user).token(self.token(user))
    }

    /// A page of history as this user sees it.
    pub async fn history(&self, user: &str, conversation: &str) -> Vec<Value> {
        let http = self.http().token(self.token(user));
        let page = http.history(user, conversation, None, 500).await.unwrap();
        page["messages"].as_array().unwrap().clone()
    }

    /// A counter of one part, summed over the samples with all of these labels.
    pub async fn counted(&self, part: &str, family: &str, labels: &[&str]) -> f64 {
        let address = self.admins.get(part).or(self.admins.get("up")).unwrap();
        let answer = request(address, crate::case::get("/metrics", "")).await.unwrap();
        let text = answer.text();
        let of = |line: &&str| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{'))
                && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
        text.lines().filter(of).map(value).sum()
    }

    /// Who has ended, and who says that he panicked, since this was asked last.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut read = self.read.lock().unwrap();
        for (name, process) in &self.processes {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid()));
            let state = stat.ok().and_then(|stat| Some(stat.rsplit_once(") ")?.1.to_owned()));
            if state.is_none_or(|state| state.starts_with(['Z', 'X'])) {
                faults.push(format!("{name} has ended"));
            }
        }
        for name in self.names() {
            let known = read.entry(name.clone()).or_default();
            let mut log = fs::File::open(self.log_of(&name)).unwrap();
            log.seek(SeekFrom::Start(*known)).unwrap();
            let mut new = Vec::new();
            log.read_to_end(&mut new).unwrap();
            *known += new.len() as u64;
            let new = String::from_utf8_lossy(&new);
            let panics = new.lines().filter(|line| line.contains("panicked"));
            faults.extend(panics.map(|line| format!("{name}: {line}")));
        }
        faults
    }

    /// All that have a log: those of the fleet, and those of scenes.
    fn names(&self) -> Vec<String> {
        let spares = self.spares.lock().unwrap();
        self.processes.keys().chain(spares.iter()).cloned().collect()
    }

    /// All lines of all logs.
    pub fn logs(&self) -> Vec<u8> {
        self.names().iter().flat_map(|name| fs::read(self.log_of(name)).unwrap()).collect()
    }

    /// What the embedded store, if there is one, has in memory of what it holds: its writer has it
    /// all up to 64 MiB, and its readers have what they have read.
    fn stored(&self) -> u64 {
        let file = self.folder.path().join("data/parlor.sqlite");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(store) = Connection::open_with_flags(file, flags) else { return 0 };
        let number = |name| store.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        2 * (number("page_count").unwrap() * number("page_size").unwrap()) as u64
    }

    /// The resident memory of each process, in bytes, once it has stopped falling, and but for what
    /// it has stored.
    pub async fn memory(&self) -> BTreeMap<String, u64> {
        let mut least = BTreeMap::new();
        for _ in 0..10 {
            let stored = self.stored();
            for (name, process) in &self.processes {
                let now = process.memory("VmRSS").saturating_sub(stored);
                let known = least.entry(name.clone()).or_insert(now);
                *known = now.min(*known);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        least
    }

    /// The most address space that each process ever had, in bytes, summed.
    pub fn reserved(&self) -> u64 {
        self.processes.values().map(|process| process.memory("VmPeak")).sum()
    }

    /// What all processes have used of the processor, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let of = |process: &Process| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
            let rest = stat.rsplit_once(") ").unwrap().1.to_owned();
            let ticks = rest.split(' ').skip(11).take(2).map(|n| n.parse::<f64>().unwrap());
            ticks.sum::<f64>() / 100.0
        };
        self.processes.values().map(of).sum()
    }

    /// A further process that a scene may end.
    pub async fn spare(&self, arguments: &[&str]) -> (Process, Value) {
        let arguments: Vec<String> = arguments.iter().map(|part| (*part).to_owned()).collect();
        let name = format!("spare-{}", self.next());
        let process = Process::start_logged(self.command(), &name, &arguments, &self.log_of(&name));
        self.spares.lock().unwrap().push(name);
        let ready = process.ready().await;
        (process, ready)
    }

    /// Stops everything by SIGTERM; all must exit with 0.
    pub async fn stop(mut self) {
        for (name, process) in std::mem::take(&mut self.processes).into_iter().rev() {
            let status = process.stop().await;
            assert!(status.success(), "{name} ended with {status}");
        }
    }
}
