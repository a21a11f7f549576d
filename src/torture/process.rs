//! A process of the fleet: started, stopped, paused, killed, started again.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// How long a start may take: a name is taken over 6 s after its last beat, and faults go on.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a process that was killed may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// A process, with its log.
pub(super) struct Process {
    child: Child,
    /// Held open: whoever writes to a pipe without a reader fails.
    stdout: Option<Lines<BufReader<ChildStdout>>>,
}

/// The log of a process: all lives of it in one file.
pub(super) fn log_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn open_log(folder: &Path, name: &str) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(log_file(folder, name))
}

impl Process {
    /// Starts a role of Parlor that says when it is ready.
    pub fn role(mut command: Command, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let log = open_log(folder, name)?;
        let mut child = command
            .arg("--ready-json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Self { child, stdout })
    }

    /// Starts another program.
    pub fn program(mut command: Command, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let log = open_log(folder, name)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { child, stdout: None })
    }

    /// Waits for the line that a role prints once it accepts.
    pub async fn ready(&mut self) -> anyhow::Result<Value> {
        let stdout = self.stdout.as_mut().context("it says nothing on stdout")?;
        let line =
            timeout(START_LIMIT, stdout.next_line()).await.context("not ready in time")??;
        let line = line.context("it ended before it was ready")?;
        serde_json::from_str(&line).context("not a ready line")
    }

    /// Its number while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.pid().context("it has ended")?.to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().await?;
        anyhow::ensure!(sent.success(), "kill -s {name} {pid}: {sent}");
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        Ok(timeout(limit, self.child.wait()).await.context("it does not end")??)
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.start_kill()?;
        self.wait(GONE_LIMIT).await
    }

    /// Whether it stands still (SIGSTOP), as the system says.
    pub fn is_stopped(&self) -> bool {
        let stat =
            self.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        let state =
            stat.as_deref().and_then(|stat| stat.rsplit_once(')')?.1.split_whitespace().next());
        state == Some("T")
    }

    /// Resident bytes and open files.
    pub fn needs(&self) -> Option<(u64, u64)> {
        let pid = self.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        Some((kib * 1_024, u64::try_from(files).ok()?))
    }
}
