//! The real parts: a Redis of the stack's own, or a cluster of them (`cluster`), and the DynamoDB
//! Local that `./test` started.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;

/// The URL of DynamoDB Local; `None` where only quick tests were asked for.
pub fn dynamodb() -> Option<String> {
    let url = std::env::var("PARLOR_TEST_DYNAMODB").ok();
    let quick = std::env::var_os("PARLOR_TEST_QUICK").is_some();
    assert!(url.is_some() || quick, "PARLOR_TEST_DYNAMODB is not set: run ./test, which starts it");
    url
}

/// An item as DynamoDB has it.
pub type Item = HashMap<String, AttributeValue>;

/// A client of it.
pub async fn client(url: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(url)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(Credentials::new("local", "local", None, None, "tests"))
        .region(Region::new("us-east-1"));
    aws_sdk_dynamodb::Client::new(&config.load().await)
}

/// A string, as an item has it.
pub fn string(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// All items of a small table, in no order.
pub async fn all_items(url: &str, table: &str) -> Vec<Item> {
    let scan = client(url).await.scan().table_name(table).consistent_read(true);
    let page = scan.send().await.unwrap();
    assert!(page.last_evaluated_key.is_none(), "more than a page");
    page.items.unwrap_or_default()
}

/// The items of a partition, in their order.
pub async fn items(url: &str, table: &str, partition: &str) -> Vec<Item> {
    let query = client(url).await.query().table_name(table).consistent_read(true);
    let query = query.key_condition_expression("pk = :pk");
    let query = query.expression_attribute_values(":pk", string(partition));
    query.send().await.unwrap().items.unwrap_or_default()
}

/// A port that nobody listens on, and 10,000 above it another: a node of a Redis cluster has both.
///
/// Both are below those that the system hands out by itself, so that no connection of another test
/// takes one before it is listened on.
pub fn free_port() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = rand::random_range(12_000..22_000);
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

/// A Redis, killed when dropped.
pub struct Redis {
    child: Child,
    port: u16,
    dynamodb: String,
    /// What the server is told beside its port.
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one on a free port.
    pub fn start(dynamodb: String) -> Self {
        Self::start_at(free_port(), Vec::new(), dynamodb)
    }

    /// Starts one on this port.
    pub(super) fn start_at(port: u16, arguments: Vec<String>, dynamodb: String) -> Self {
        let redis = Self { child: Self::spawn(port, &arguments), port, dynamodb, arguments };
        redis.wait();
        redis
    }

    fn spawn(port: u16, arguments: &[String]) -> Child {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is not installed: run ./test, which installs it")
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.cli(&["PING"]) != "PONG" {
            assert!(Instant::now() < until, "redis-server on port {} is not ready", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `redis://…`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `HOST:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The DynamoDB Local that goes with it.
    pub fn dynamodb(&self) -> &str {
        &self.dynamodb
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.client().args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A person's entry of the socket map, as `GET` shows it.
    pub fn entry(&self, user: &str) -> Option<Value> {
        let text = self.cli(&["GET", &format!("user:{user}")]);
        (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    fn client(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]);
        command
    }

    /// Listens with `redis-cli SUBSCRIBE …` or `redis-cli MONITOR`.
    pub fn listen(&self, arguments: &[&str]) -> Listening {
        let child = self.client().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        Listening::new(child)
    }

    /// Waits until all that Redis was asked before has come to somebody who listens: to everything
    /// by MONITOR, or to the channel `done` among others.
    pub fn settle(&self, listening: &Listening) {
        let mark = format!("mark-{:016x}", rand::random::<u64>());
        let until = Instant::now() + Duration::from_secs(10);
        while listening.with(&[&mark]).is_empty() {
            assert!(Instant::now() < until, "redis-cli does not print");
            self.cli(&["PUBLISH", "done", &mark]);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `STOP` hangs it, `CONT` lets it go on.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, empty, on its old port.
    pub fn start_again(&mut self) {
        self.child = Self::spawn(self.port, &self.arguments);
        self.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a `redis-cli` that listens has printed so far.
pub struct Listening {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Listening {
    fn new(mut child: Child) -> Self {
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let listening = Self { child, lines };
        let until = Instant::now() + Duration::from_secs(10);
        // `OK` of MONITOR, or the three lines that confirm a subscription.
        while listening.lines().is_empty() {
            assert!(Instant::now() < until, "redis-cli does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        listening
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The lines that contain all of these.
    pub fn with(&self, parts: &[&str]) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| parts.iter().all(|part| line.contains(part)));
        lines
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
