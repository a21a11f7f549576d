//! Redis for tests: the shared server that `./test` started, and servers of a test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

fn free_port() -> u16 {
    // A cluster node also takes port + 10000, so it must be a low one.
    loop {
        let port = rand::random_range(20_000..32_000);
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
