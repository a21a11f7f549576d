//! What is measured: servers that run already, or a `parlor up` of the run's own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Common;
use crate::client::Api;

/// How long a start may take.
const START_SECONDS: u64 = 60;
/// How long a stop may take; sockets are closed at an even rate.
const STOP_SECONDS: u64 = 60;

/// Where to connect, and which processes to watch.
pub(super) struct Target {
    /// The WebSocket URL.
    pub url: String,
    /// The Message API.
    pub api: Api,
    /// The processes of the servers.
    pub pids: Vec<u32>,
    /// What was asked for.
    pub common: Common,
    started: Option<Started>,
}

struct Started {
    child: Child,
    data: PathBuf,
    /// Held open: whoever writes to a pipe without a reader fails.
    stdout: Option<Lines<BufReader<ChildStdout>>>,
}

impl Target {
    /// Starts what is to be started.
    pub async fn new(common: &Common) -> anyhow::Result<Self> {
        let (url, api) = (common.url.clone(), Api::new(common.api.as_str()));
        let (pids, common) = (common.pids.clone(), common.clone());
        let mut target = Self { url, api, pids, common, started: None };
        if target.common.start {
            target.start().await?;
        }
        Ok(target)
    }

    /// Whether the servers are the run's own: fresh, and with nobody else on them.
    pub fn is_own(&self) -> bool {
        self.started.is_some()
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        let name = format!("parlor-bench-{:016x}", rand::random::<u64>());
        let data = std::env::temp_dir().join(name);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["up", "--ready-json", "--balancer-port", "0", "--server-port", "0"]);
        command.args(["--api-port", "0", "--data"]).arg(&data);
        if let Some(redis) = &self.common.redis {
            command.args(["--redis", redis]);
        }
        if std::env::var_os("PARLOR_LOG").is_none() {
            command.env("PARLOR_LOG", "warn");
        }
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let pid = child.id();
        self.started = Some(Started { child, data, stdout: None });
        let mut lines = BufReader::new(stdout).lines();
        let limit = Duration::from_secs(START_SECONDS);
        let line = tokio::time::timeout(limit, lines.next_line()).await;
        let line = line.context("parlor up is not ready in time")??;
        let line = line.context("parlor up ended before it was ready")?;
        let ready: Value = serde_json::from_str(&line).context("not a ready line")?;
        if let Some(started) = &mut self.started {
            started.stdout = Some(lines);
        }
        let address = |role: &str| ready[role].as_str().map(str::to_owned).context("no address");
        self.url = format!("ws://{}/ws", address("balancer")?);
        self.api = Api::new(format!("http://{}", address("api")?));
        self.pids.extend(pid);
        Ok(())
    }

    /// Stops what was started, by SIGTERM; its exit code must be 0.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut started) = self.started.take() else { return Ok(()) };
        if let Some(pid) = started.child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        let limit = Duration::from_secs(STOP_SECONDS);
        let ended = tokio::time::timeout(limit, started.child.wait()).await;
        drop(started.stdout);
        let _ = tokio::fs::remove_dir_all(&started.data).await;
        let status = ended.context("parlor up does not end")??;
        anyhow::ensure!(status.success(), "parlor up ended with {status}");
        Ok(())
    }
}

#[cfg(test)]
impl Target {
    /// A server of the tests, which has no Message API.
    pub fn of_test(url: String) -> Self {
        let common = Common {
            url: url.clone(),
            api: String::new(),
            start: false,
            redis: None,
            pids: vec![std::process::id()],
            json: true,
            concurrency: 8,
        };
        let pids = common.pids.clone();
        Self { url, api: Api::new(""), pids, common, started: None }
    }
}
