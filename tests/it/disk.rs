//! The disk under `parlor up`: full, failing, damaged; and `parlor store check` on it.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use parlor::client::{Api, Send, To};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Person, Process, command, eventually, texts};

/// One server, API and balancer on a folder.
struct Up {
    process: Process,
    ready: Value,
}

impl Up {
    async fn start(data: &Path) -> Self {
        let process = Process::start("up", &arguments(data));
        let ready = process.ready().await;
        Self { process, ready }
    }

    fn at(&self, part: &str) -> Api {
        Api::new(format!("http://{}", self.ready[part].as_str().unwrap()))
    }

    async fn person(&self, user: &str) -> Person {
        let server = self.ready["servers"]["ws1"].as_str().unwrap();
        let mut person = Person::connect(&format!("ws://{server}/ws"), user).await;
        person.catch_up().await;
        person
    }

    /// `/readyz`, and what it says of the disk.
    async fn readiness(&self) -> (u16, String) {
        let answer = self.at("admin").get("/readyz").await.unwrap();
        let disk = answer.body["local"]["disk"].as_str().unwrap_or_default().to_owned();
        (answer.status, disk)
    }

    async fn history(&self, user: &str, conversation: &str) -> Result<Vec<Value>, u16> {
        let path = format!("/v1/conversations/{conversation}/messages?userId={user}&limit=500");
        let answer = self.at("api").get(&path).await.unwrap();
        match answer.body["messages"].as_array() {
            Some(messages) if answer.status == 200 => Ok(messages.clone()),
            _ => Err(answer.status),
        }
    }
}

fn arguments(data: &Path) -> Vec<String> {
    let ports = ["--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let more = ["--admin-listen", "127.0.0.1:0", "--drain-seconds", "0", "--data"];
    let all = [&["up", "--servers", "1"][..], &ports, &more, &[data.to_str().unwrap()]];
    all.concat().iter().map(|argument| (*argument).to_owned()).collect()
}

async fn parlor(arguments: &[String]) -> Output {
    let mut command = command();
    command.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What `parlor store …` says, and its exit code.
async fn store(what: &str, data: &Path) -> (i32, Vec<String>) {
    let arguments = ["store", what, "--data", data.to_str().unwrap()].map(str::to_owned);
    let output = parlor(&arguments).await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), said.lines().map(str::to_owned).collect())
}

async fn is_sound(data: &Path) {
    let (code, said) = store("check", data).await;
    assert!(code == 0 && said.len() == 1 && said[0].contains(" is sound: "), "{code} {said:?}");
}

fn to(user: &str, message: &str) -> Send {
    Send::new(To::User(user.to_owned()), message)
}

/// What was acknowledged, in order: what each history must begin with.
async fn holds(up: &Up, user: &str, conversation: &str, acked: &[String]) {
    let history = up.history(user, conversation).await.unwrap();
    let texts: Vec<&str> = history.iter().map(|m| m["message"].as_str().unwrap()).collect();
    assert!(texts.len() >= acked.len(), "{} of {} are left", texts.len(), acked.len());
    assert_eq!(texts[..acked.len()], *acked);
}

/// A file system of its own for a folder, until it is dropped. Only root may have one.
struct Small(TempDir);

impl Small {
    fn mount(kilobytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let mount = ["-t", "tmpfs", "-o", &size, "parlor-test"];
        let mounted = Command::new("mount").args(mount).arg(folder.path()).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            println!("left out: only root may mount a small file system");
            return None;
        }
        Some(Self(folder))
    }

    fn resize(&self, kilobytes: u32) {
        let size = format!("remount,size={kilobytes}k");
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", &size]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_passes() {
    let Some(disk) = Small::mount(2_000) else { return };
    let data = disk.0.path().join("data");
    let up = Up::start(&data).await;
    let (mut a, mut b) = (up.person("userA").await, up.person("userB").await);
    assert_eq!(up.readiness().await, (200, String::new()));
    let mut acked = Vec::new();
    for number in 1.. {
        assert!(number < 1_000, "it is never full");
        let text = format!("{number} {}", "x".repeat(15_000));
        let send = to("userB", &text);
        a.write(send.frame()).await;
        let answer = a.wait_for("an answer", crate::harness::SOON, |frame| match frame {
            parlor::client::ServerFrame::Sent { .. } => Some(Ok(())),
            parlor::client::ServerFrame::Error { code, .. } => Some(Err(code)),
            _ => None,
        });
        match answer.await {
            Ok(()) => acked.push(text),
            Err(code) => {
                assert_eq!(code, "unavailable");
                break;
            }
        }
    }
    assert!(acked.len() > 10, "{} were taken", acked.len());
    let (status, disk_says) = up.readiness().await;
    assert!(status == 503 && disk_says.contains("full"), "{status} {disk_says}");
    // Sockets stay, reads go on, and nothing more is acknowledged.
    assert_eq!(a.refused(&to("userC", &"y".repeat(15_000))).await, "unavailable");
    let heard = b.hear_all(acked.len()).await;
    assert_eq!(heard.last().unwrap().1, *acked.last().unwrap());
    holds(&up, "userB", "dm:userA:userB", &acked).await;
    disk.resize(40_000);
    eventually("it is ready again", async || (up.readiness().await.0 == 200).then_some(())).await;
    // What was refused may have been kept for a later try; the same socket goes on.
    assert!(a.say("userB", "there is room").await > acked.len() as u64);
    eventually("userB hears it", async || (b.hear().await.1 == "there is room").then_some(()))
        .await;
    is_sound(&data).await;
    assert_eq!(up.process.stop().await.code(), Some(0));
    is_sound(&data).await;
    let log = std::fs::metadata(data.join("parlor.sqlite-wal"));
    assert_eq!(log.map_or(0, |log| log.len()), 0, "a clean stop leaves no log");
}

/// `strace` on a running process, until it is dropped.
struct Tracing(Child);

impl Drop for Tracing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next fsync of a running process fails, all others go well.
fn next_fsync_fails(pid: u32) -> Option<Tracing> {
    if std::env::var_os("PARLOR_TEST_QUICK").is_some() || !cfg!(target_os = "linux") {
        return None;
    }
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=fsync,fdatasync", "-e", "signal=none"]);
    strace.args(["-e", "inject=fsync,fdatasync:error=EIO:when=1", "-p", &pid.to_string()]);
    strace.stderr(Stdio::piped());
    let mut strace = Tracing(strace.spawn().expect("install strace: ./test does"));
    let mut said = [0; 8];
    // "strace: Process … attached", or why not.
    strace.0.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    for _ in 0..100 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        if !status.contains("TracerPid:\t0") {
            return Some(strace);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("left out: only root may trace a process that runs already");
    None
}

#[tokio::test]
async fn after_a_failed_fsync_nothing_is_acknowledged_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut up = Up::start(&data).await;
    let (mut a, b) = (up.person("userA").await, up.person("userB").await);
    let mut acked = Vec::new();
    for number in 1..=20 {
        let text = format!("text {number}");
        a.say("userB", &text).await;
        acked.push(text);
    }
    let Some(strace) = next_fsync_fails(up.process.pid()) else { return };
    // The same send again and again, as a client does; later fsyncs go well, and that counts for
    // nothing.
    let send = to("userB", "text 21");
    for _ in 0..3 {
        assert_eq!(a.refused(&send).await, "unavailable");
    }
    let (status, disk) = up.readiness().await;
    assert!(status == 503 && disk.contains("restart parlor"), "{status} {disk}");
    assert_eq!(a.refused(&to("userC", "to another")).await, "unavailable");
    holds(&up, "userB", "dm:userA:userB", &acked).await;
    // As a supervisor would: the end is not a clean one, and need not be.
    up.process.kill();
    drop((strace, a, b));
    let up = Up::start(&data).await;
    assert_eq!(up.readiness().await.0, 200);
    holds(&up, "userB", "dm:userA:userB", &acked).await;
    let mut a = up.person("userA").await;
    assert_eq!(a.send(&send).await, 21, "once, whether it was stored at the first try or now");
    is_sound(&data).await;
    assert_eq!(up.process.stop().await.code(), Some(0));
}

/// The place of a text in a file.
fn find(path: &Path, text: &str) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    found.expect("it stands in the file") as u64
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn file(data: &Path) -> PathBuf {
    data.join("parlor.sqlite")
}

#[tokio::test]
async fn a_damaged_entry_is_told_and_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data).await;
    let mut a = up.person("userA").await;
    for text in ["one", "a needle in B", "three"] {
        a.say("userB", text).await;
    }
    a.say("userC", "to another").await;
    is_sound(&data).await;
    assert_eq!(up.process.stop().await.code(), Some(0));
    is_sound(&data).await;
    overwrite(&file(&data), find(&file(&data), "a needle in B"), b"A");
    let damaged = async || {
        let (code, said) = store("check", &data).await;
        assert_eq!((code, said.len()), (1, 2), "{said:?}");
        let entry = "entry dm:userA:userB 2: its check sum does not hold; ";
        assert!(said[0].starts_with(entry) && said[0].contains("backup"), "{said:?}");
        assert!(said[1].contains(" is damaged: 1 fault in "), "{said:?}");
    };
    damaged().await;
    let up = Up::start(&data).await;
    // Beside a running one it says the same.
    damaged().await;
    assert_eq!(up.history("userA", "dm:userA:userB").await, Err(503));
    assert_eq!(up.history("userA", "dm:userA:userC").await.unwrap().len(), 1);
    let server = up.ready["servers"]["ws1"].as_str().unwrap();
    let mut c = Person::connect(&format!("ws://{server}/ws"), "userC").await;
    assert_eq!(c.hear().await, (1, "to another".to_owned()));
    let mut a = up.person("userA").await;
    assert_eq!(a.say("userC", "and on").await, 2);
    assert_eq!(c.hear().await, (2, "and on".to_owned()));
    let list = up.at("api").get("/v1/users/userA/conversations?userId=userA").await.unwrap();
    assert_eq!(list.status, 200, "{:?}", list.body);
    assert_eq!(up.process.stop().await.code(), Some(0));
}

/// Of two who have written to somebody away, one mailbox row is damaged: the other's message comes.
#[tokio::test]
async fn a_damaged_row_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data).await;
    // Known, so that it is not a new device that comes.
    up.person("userB").await.leave().await;
    for from in ["userA", "userC"] {
        up.person(from).await.say("userB", &format!("from {from}")).await;
    }
    assert_eq!(up.process.stop().await.code(), Some(0));
    let connection = rusqlite::Connection::open(file(&data)).unwrap();
    let damage = "UPDATE items SET crc = crc + 1 WHERE pk = 'U#userB' AND sk LIKE 'C#dm:userA:%'";
    assert_eq!(connection.execute(damage, []).unwrap(), 1);
    connection.close().unwrap();
    let up = Up::start(&data).await;
    let server = up.ready["servers"]["ws1"].as_str().unwrap();
    let mut b = Person::connect(&format!("ws://{server}/ws"), "userB").await;
    assert_eq!(texts(&b.catch_up().await), [(1, "from userC".to_owned())]);
    let (code, said) = store("check", &data).await;
    assert!(code == 1 && said[0].starts_with("item U#userB C#dm:userA:userB: "), "{said:?}");
    // What they say to each other fails by itself.
    let mut a = up.person("userA").await;
    assert_eq!(a.refused(&to("userB", "again")).await, "unavailable");
    assert_eq!(a.say("userC", "Hi").await, 1);
    assert_eq!(up.process.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_damaged_log_is_said_at_the_start_and_can_be_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut up = Up::start(&data).await;
    let mut a = up.person("userA").await;
    for number in 1..=20 {
        a.say("userB", &format!("text {number}.")).await;
    }
    up.process.kill();
    let log = data.join("parlor.sqlite-wal");
    overwrite(&log, find(&log, "text 10."), b"T");
    let refused = parlor(&arguments(&data)).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let tells = ["has lost messages", "parlor.sqlite-wal", "backup", "store accept-loss --data"];
    assert!(tells.iter().all(|part| said.contains(part)), "{said}");
    let (code, lines) = store("check", &data).await;
    let advice = format!("store accept-loss --data {}", data.display());
    let tells = |line: &String| line.contains("damaged: frame") && line.ends_with(&advice);
    assert!(code == 1 && lines.iter().any(tells), "{lines:?}");
    let (code, lines) = store("accept-loss", &data).await;
    assert!(code == 0 && lines[0].contains("parlor.sqlite-wal.damaged-1"), "{lines:?}");
    let up = Up::start(&data).await;
    let left = up.history("userA", "dm:userA:userB").await.unwrap();
    assert_eq!(left.len(), 9, "what stood before the damage");
    let mut a = up.person("userA").await;
    assert_eq!(a.say("userB", "on").await, 10);
    is_sound(&data).await;
    let (code, lines) = store("accept-loss", &data).await;
    assert!(code == 2 && lines[0].contains("in use"), "{lines:?}");
    assert_eq!(up.process.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_check_of_nothing_is_bad_usage() {
    let folder = tempfile::tempdir().unwrap();
    for what in ["check", "accept-loss"] {
        for data in [folder.path().to_owned(), folder.path().join("none")] {
            let (code, said) = store(what, &data).await;
            assert!(code == 2 && said.len() == 1 && said[0].contains("--data"), "{code} {said:?}");
        }
    }
    assert!(!folder.path().join("none").exists(), "it makes none");
}
