//! Redis for tests: the shared server that `./test` started, servers of a test's own, one that only
//! complains, and a wire before a server that can be cut.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Whether tests on real parts are left out (`./test quick`).
pub(crate) fn quick() -> bool {
    std::env::var_os("PARLOR_TEST_QUICK").is_some() && std::env::var("PARLOR_TEST_REDIS").is_err()
}

/// The shared server; `None` where tests on real parts are left out.
pub(crate) fn shared_url() -> Option<String> {
    match std::env::var("PARLOR_TEST_REDIS") {
        Ok(url) => Some(url),
        Err(_) if quick() => None,
        Err(_) => panic!("PARLOR_TEST_REDIS is not set: run ./test, which starts Redis"),
    }
}

/// A prefix of a test's own on the shared server.
pub(crate) fn prefix() -> String {
    format!("test-{:016x}:", rand::random::<u64>())
}

/// Less than two calls take, one after the other, that end by their time.
pub(crate) const NOT_TWO: Duration = Duration::from_millis(2 * super::CALL_MS_MAX);

fn free_port() -> u16 {
    // A cluster node also takes port + 10000. Both are below those that the system hands out by
    // itself, so that no connection of another test takes one meanwhile.
    loop {
        let port = rand::random_range(12_000..22_000);
        let both = [port, port + 10_000].map(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if both == [true, true] {
            return port;
        }
    }
}

/// A server of the test's own, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    arguments: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let mut all: Vec<String> = vec!["--bind".into(), "127.0.0.1".into(), "--save".into()];
        all.extend([String::new(), "--appendonly".into(), "no".into(), "--dir".into()]);
        all.push(folder.path().to_str().unwrap().into());
        all.extend(["--port".into(), port.to_string()]);
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        let child = spawn(&all);
        let server = Self { child, port, arguments: all, _folder: folder };
        server.wait();
        server
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while cli(self.port, &["PING"]).trim() != "PONG" {
            assert!(Instant::now() < until, "redis-server on port {} is not ready", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&self.arguments);
        self.wait();
    }

    /// `STOP` hangs it, `CONT` lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is not installed: run ./test, which installs it")
}

fn cli(port: u16, arguments: &[&str]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Three masters.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            "2000",
        ];
        let nodes: Vec<_> = (0..3).map(|_| Server::start(&arguments)).collect();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]);
        for node in &nodes {
            command.arg(format!("127.0.0.1:{}", node.port));
        }
        command.args(["--cluster-replicas", "0", "--cluster-yes"]).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
        let until = Instant::now() + Duration::from_secs(20);
        for node in &nodes {
            while !node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
                assert!(Instant::now() < until, "the cluster does not form");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Self { nodes }
    }

    pub(crate) fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }
}

/// Speaks just enough RESP to be connected to, and answers everything else with what it is told.
pub(crate) struct FakeRedis {
    pub(crate) url: String,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Says {
    complaint: Option<String>,
    /// Connections up to this one hear the complaint, later ones don't.
    up_to: usize,
    connections: usize,
}

impl FakeRedis {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let says: Arc<Mutex<Says>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let mut serving = JoinSet::new();
        let (all, count) = (says.clone(), asked.clone());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let number = {
                    let mut says = all.lock().unwrap();
                    says.connections += 1;
                    says.connections
                };
                connections.spawn(complain(socket, number, all.clone(), count.clone()));
            }
        });
        Self { url, says, asked, _serving: serving }
    }

    /// From now on every command is answered so, or with nil.
    pub(crate) fn complain(&self, complaint: Option<&str>) {
        let mut says = self.says.lock().unwrap();
        (says.complaint, says.up_to) = (complaint.map(str::to_owned), usize::MAX);
    }

    /// The same on connections that stand; those that are made later are answered with nil.
    pub(crate) fn complain_on_old_connections(&self, complaint: &str) {
        let mut says = self.says.lock().unwrap();
        (says.complaint, says.up_to) = (Some(complaint.to_owned()), says.connections);
    }

    /// How many commands were answered, without those of connecting.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn complain(
    socket: TcpStream,
    number: usize,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
) {
    let mut socket = BufReader::new(socket);
    while let Some(command) = read_command(&mut socket).await {
        let answer = match command[0].to_uppercase().as_str() {
            "HELLO" => "%1\r\n+proto\r\n:3\r\n".to_owned(),
            "CLIENT" => "+OK\r\n".to_owned(),
            "PING" => "+PONG\r\n".to_owned(),
            "INFO" => {
                let info = "maxmemory_policy:noeviction\r\n";
                format!("${}\r\n{info}\r\n", info.len())
            }
            _ => {
                asked.fetch_add(1, Ordering::Relaxed);
                let says = says.lock().unwrap();
                let complaint = says.complaint.as_ref().filter(|_| number <= says.up_to);
                complaint.map_or("_\r\n".to_owned(), |complaint| format!("{complaint}\r\n"))
            }
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// An array of bulk strings.
async fn read_command(socket: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut line = String::new();
    socket.read_line(&mut line).await.ok()?;
    let count: usize = line.trim().strip_prefix('*')?.parse().ok()?;
    for _ in 0..count {
        line.clear();
        socket.read_line(&mut line).await.ok()?;
        let length: usize = line.trim().strip_prefix('$')?.parse().ok()?;
        let mut word = vec![0; length + 2];
        socket.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Some(words)
}

/// A wire before a server, which can be cut or go dead.
pub(crate) struct Wire {
    pub(crate) url: String,
    state: watch::Sender<WireState>,
    _serving: JoinSet<()>,
}

#[derive(Clone, Copy, Default)]
struct WireState {
    /// Connections made before this count was reached are reset.
    resets: usize,
    /// Nothing comes back any more on connections made before.
    deaths: usize,
}

impl Wire {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let state = watch::Sender::new(WireState::default());
        let mut serving = JoinSet::new();
        let states = state.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(carry(socket, port, states.subscribe()));
            }
        });
        Self { url, state, _serving: serving }
    }

    /// Resets all connections.
    pub(crate) fn reset(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }

    /// Lets all connections stand, and nothing come back on them.
    pub(crate) fn go_dead(&self) {
        self.state.send_modify(|state| state.deaths += 1);
    }
}

async fn carry(socket: TcpStream, port: u16, mut states: watch::Receiver<WireState>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    socket.set_zero_linger().unwrap();
    let (mut from_client, mut to_client) = socket.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let begun = *states.borrow();
    let mut buffers = ([0; 16_384], [0; 16_384]);
    loop {
        tokio::select! {
            _ = states.changed() => {
                if states.borrow().resets != begun.resets {
                    return;
                }
            }
            read = from_client.read(&mut buffers.0) => {
                let count = read.unwrap_or(0);
                if count == 0 || to_server.write_all(&buffers.0[..count]).await.is_err() {
                    return;
                }
            }
            read = from_server.read(&mut buffers.1) => {
                let (count, dead) = (read.unwrap_or(0), states.borrow().deaths != begun.deaths);
                if count == 0 {
                    return;
                }
                if !dead && to_client.write_all(&buffers.1[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
