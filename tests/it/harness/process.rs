//! One process of the binary, killed when dropped.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::SOON;

/// The binary, with none of the caller's settings.
pub fn command() -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_parlor")))
}

/// The same of another build.
pub fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("PARLOR_") || name_text.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    let level = std::env::var("PARLOR_TEST_LOG").unwrap_or_else(|_| "error".to_owned());
    command.env("PARLOR_LOG", level);
    command
}

/// A running role.
pub struct Process {
    name: String,
    child: Child,
    stdout: std::sync::Mutex<Option<BufReader<ChildStdout>>>,
}

impl Process {
    /// Starts it with `--ready-json`.
    pub fn start(name: &str, arguments: &[String]) -> Self {
        Self::start_by(command(), name, arguments)
    }

    /// The same of this build, with all that it says in a file.
    pub fn start_logged(
        mut command: Command,
        name: &str,
        arguments: &[String],
        log: &Path,
    ) -> Self {
        command.env("PARLOR_LOG", "parlor=debug").stderr(File::create(log).unwrap());
        Self::start_by(command, name, arguments)
    }

    fn start_by(mut command: Command, name: &str, arguments: &[String]) -> Self {
        // Its files and memory are looked at, by whoever runs the tests.
        command.env("PARLOR_INSPECTABLE", "1");
        command.args(arguments).arg("--ready-json").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(BufReader::new);
        Self { name: name.to_owned(), child, stdout: std::sync::Mutex::new(stdout) }
    }

    /// Waits for its ready line.
    pub async fn ready(&self) -> Value {
        // Kept open afterwards: whoever writes to a pipe without a reader fails.
        let mut stdout = self.stdout.lock().unwrap().take().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (stdout, line)
        });
        let (stdout, line) = read.await.unwrap();
        *self.stdout.lock().unwrap() = Some(stdout);
        assert!(!line.is_empty(), "{} ended before it was ready", self.name);
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["ready"], true, "{line}");
        ready
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A size of its memory in bytes, as `/proc/PID/status` names it: `VmRSS`, `VmPeak`.
    pub fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1_024
    }

    /// Sends a signal by name: `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success());
    }

    /// `kill -9`: what a crash looks like.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its exit status.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.exited().await
    }

    /// Waits until it has ended by itself.
    pub async fn exited(&mut self) -> ExitStatus {
        let until = Instant::now() + SOON * 6;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "{} does not end", self.name);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
