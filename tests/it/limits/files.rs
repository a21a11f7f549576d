//! At its limit of open files a process waits, without spinning, and goes on when it can.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parlor::protocol::ErrorCode;
use serde_json::Value;

use super::{ADMIN, met};
use crate::harness::{SOON, command};
use crate::raw::{Raw, request, upgrade_head};

/// `parlor up` of one server that may have so many files. Killed when dropped.
struct Poor {
    child: Child,
    ready: Value,
    log: tempfile::NamedTempFile,
}

impl Drop for Poor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Poor {
    async fn start(files: u32, more: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let plain = command();
        let mut poor = Command::new("sh");
        // Both limits, so that it can't be raised again.
        poor.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        poor.arg(plain.get_program());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => poor.env(name, value),
                None => poor.env_remove(name),
            };
        }
        poor.args(["up", "--memory", "--servers", "1", "--balancer-port", "0"]);
        poor.args(["--server-port", "0", "--api-port", "0", "--ready-json"]).args(more);
        poor.env("PARLOR_LOG", "parlor=warn").stdout(Stdio::piped());
        poor.stderr(File::create(log.path()).unwrap());
        let mut child = poor.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            line
        });
        let line = line.await.unwrap();
        let said = || std::fs::read_to_string(log.path()).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}{}", said()));
        Self { child, ready, log }
    }

    fn server(&self) -> &str {
        self.ready["servers"]["ws1"].as_str().unwrap()
    }

    /// How often the log says so.
    fn said(&self, what: &str) -> usize {
        std::fs::read_to_string(self.log.path()).unwrap().matches(what).count()
    }

    /// What it has used of the processor, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }
}

const SAYS: &str = "no connection can be accepted";

#[tokio::test]
async fn a_process_without_files_waits_and_goes_on() {
    let poor = Poor::start(128, &[&ADMIN[..], &["--max-sockets", "1000"]].concat()).await;
    let mut friend = Raw::ready(poor.server(), "userId=friend").await;
    let mut others = Vec::new();
    while poor.said(SAYS) == 0 {
        // Those who come last wait in the system's queue.
        let mut raw = Raw::dial(poor.server()).await;
        raw.write(upgrade_head(&format!("userId=u{}", others.len()), "").as_bytes()).await;
        let _ = tokio::time::timeout(Duration::from_millis(300), raw.head()).await;
        others.push(raw);
        assert!(others.len() < 160);
    }
    let before = poor.ticks();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = poor.ticks() - before;
    assert!(used < 60, "{used} hundredths of a second in three");
    assert_eq!(poor.said(SAYS), 1, "once, and not for each connection");
    assert!(friend.is_open().await, "who is in is served");
    friend.text(r#"{"type":"message","to":"friend","message":"a note","ref":"r"}"#).await;
    let sent = |said: &Value| {
        assert_ne!(said["code"], ErrorCode::Unavailable.as_str(), "{said}");
        (said["type"] == "sent").then_some(())
    };
    friend.wait_for(sent).await;
    drop(others);
    let mut late = Raw::ready(poor.server(), "userId=late").await;
    assert!(late.is_open().await);
    assert!(met(poor.ready["admin"].as_str().unwrap(), "files").await >= 1);
}

/// What does nothing has a share of the files, and no more: who dials and says nothing, and who has
/// asked for something and stays.
#[tokio::test]
async fn connections_that_do_nothing_keep_nobody_out() {
    let poor = Poor::start(128, &ADMIN).await;
    let [front, api] = ["balancer", "api"].map(|at| poor.ready[at].as_str().unwrap());
    let admin = poor.ready["admin"].as_str().unwrap();
    let mut friend = Raw::ready(poor.server(), "userId=friend").await;
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut resting = Vec::new();
    for _ in 0..60 {
        let mut raw = Raw::dial(front).await;
        raw.write(get.as_bytes()).await;
        assert_eq!(raw.answer().await.expect("an answer").status, 200);
        resting.push(raw);
    }
    assert_eq!(request(front, get.replace("/healthz", "/readyz")).await.unwrap().status, 200);
    let mut through = Raw::ready(front, "userId=through").await;
    let mut silent = Vec::new();
    for address in [front, poor.server(), api].into_iter().cycle().take(60) {
        silent.push(Raw::dial(address).await);
    }
    // Whoever comes then is told, without having asked for anything, if few are told already.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refusal = Raw::dial(api).await.answer().await.expect("an answer");
    assert_eq!(refusal.status, 503);
    assert!((5_000..10_000).contains(&refusal.json()["retryAfterMs"].as_u64().unwrap()));
    assert_eq!(refusal.json()["retryable"], true);
    assert!(met(admin, "half_open").await >= 20);
    assert_eq!([poor.said("connections are refused"), poor.said(SAYS)], [1, 0]);
    friend.text(r#"{"type":"message","to":"through","message":"Hi","ref":"r"}"#).await;
    through.wait_for(|said| (said["message"] == "Hi").then_some(())).await;
    // They have ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(Raw::ready(front, "userId=late").await.is_open().await);
}

/// As many sockets as it may have files for, and some left for the rest.
#[tokio::test]
async fn sockets_leave_files_for_other_things() {
    let poor = Poor::start(160, &[]).await;
    // 160, less a half of it: the reserve is 128 where there are enough.
    let mut sockets = Vec::new();
    let full = loop {
        let mut raw = Raw::dial(poor.server()).await;
        let user = format!("userId=u{}", sockets.len());
        raw.write(upgrade_head(&user, "").as_bytes()).await;
        match raw.head().await.expect("an answer").status {
            101 => sockets.push(raw),
            status => break status,
        }
        assert!(sockets.len() <= 160);
    };
    assert_eq!((full, sockets.len()), (503, 80));
    let head = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let api = poor.ready["api"].as_str().unwrap();
    let answer = tokio::time::timeout(SOON, request(api, head)).await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "there is a file left for it");
    assert_eq!(poor.said(SAYS), 0);
}
