//! A Redis of the run's own, to be killed and started again empty.

use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a start may take.
const START: Duration = Duration::from_secs(10);

/// See the module. Killed when dropped.
pub(in crate::bench) struct OwnRedis {
    /// `redis://127.0.0.1:…`
    pub url: String,
    port: u16,
    child: Child,
}

impl OwnRedis {
    /// Starts `redis-server` on a free port, keeping nothing on disk.
    pub async fn start() -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = spawn(port).await?;
        Ok(Self { url: format!("redis://127.0.0.1:{port}"), port, child })
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("killing redis-server")
    }

    /// Starts it again, empty, on its old port; it answers when this returns.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(self.port).await?;
        Ok(())
    }
}

async fn spawn(port: u16) -> anyhow::Result<Child> {
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("redis-server is not installed")?;
    let until = Instant::now() + START;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        anyhow::ensure!(Instant::now() < until, "redis-server on port {port} does not start");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(child)
}
