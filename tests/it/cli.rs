//! The command line is a contract: what it prints, and its exit codes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::{Parts, Process, Stack, command, dynamodb, eventually, on_both};

on_both!(show_prints_messages, a_chat_in_a_pipe_survives_a_restart);

async fn run(arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Exit 2, nothing on stdout, and one sentence of ours on stderr that says all this.
async fn refused(arguments: &[&str], says: &[&str]) {
    let output = run(arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines.len() == 1 && stderr.starts_with("parlor: "), "{arguments:?}: {stderr}");
    assert!(says.iter().all(|part| stderr.contains(part)), "{arguments:?}: {stderr}");
}

/// Exit 2, as the parser of the command line says it.
async fn bad_usage(arguments: &[&str], says: &str) {
    let output = run(arguments).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(stderr.contains(says), "{arguments:?}: {stderr}");
}

fn fields(ready: &Value) -> Vec<&str> {
    ready.as_object().unwrap().keys().map(String::as_str).collect()
}

async fn admin(ready: &Value, path: &str) -> u16 {
    let admin = ready["admin"].as_str().unwrap();
    let api = parlor::client::Api::new(format!("http://{admin}"));
    api.get(path).await.unwrap().status
}

#[tokio::test]
async fn up_says_in_json_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("made/on/the/way");
    let arguments = ["up", "--servers", "2", "--balancer-port", "0", "--server-port", "0"];
    let more = ["--api-port", "0", "--admin-listen", "127.0.0.1:0", "--data"];
    let all = [&arguments[..], &more, &[data.to_str().unwrap()]].concat();
    let up = Process::start("up", &all.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
    let ready = up.ready().await;
    assert_eq!(fields(&ready), ["admin", "api", "balancer", "ready", "servers"]);
    assert_eq!(fields(&ready["servers"]), ["ws1", "ws2"]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(admin(&ready, path).await, 200, "{path}");
    }
    assert!(data.is_dir());
    assert_eq!(up.stop().await.code(), Some(0));
}

/// A disk that is full, or a log's reader that has gone, is no reason to stop.
#[tokio::test]
async fn a_log_that_takes_nothing_ends_nothing() {
    let ports = ["up", "--memory", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let arguments = [&ports[..], &["--admin-listen", "127.0.0.1:0"]].concat();
    let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
    let up = Process::start_logged(command(), "up", &arguments, Path::new("/dev/full"));
    let ready = up.ready().await;
    assert_eq!(admin(&ready, "/readyz").await, 200);
    assert_eq!(up.stop().await.code(), Some(0), "a clean stop");
}

#[tokio::test]
async fn every_role_says_in_json_where_it_is() {
    let Some(stack) = Stack::start(Parts::Fleet).await else { return };
    let parts = stack.real_parts();
    let start = |name: &str, arguments: &[&str]| {
        let own = arguments.iter().map(|argument| (*argument).to_owned());
        let admin = ["--admin-listen", "127.0.0.1:0"].map(str::to_owned);
        Process::start(name, &own.chain(admin).chain(parts.clone()).collect::<Vec<_>>())
    };
    let server = start("ws4", &["server", "--listen", "127.0.0.1:0", "--id", "ws4"]);
    let api = start("api2", &["api", "--listen", "127.0.0.1:0"]);
    let ready = server.ready().await;
    assert_eq!(fields(&ready), ["admin", "ready", "servers"]);
    assert_eq!(fields(&ready["servers"]), ["ws4"]);
    assert_eq!(admin(&ready, "/readyz").await, 200);
    let ready = api.ready().await;
    assert_eq!(fields(&ready), ["admin", "api", "ready"]);
    assert_eq!(admin(&ready, "/readyz").await, 200);
    // Its name is taken while it lives.
    let name = ["server", "--listen", "127.0.0.1:0", "--id", "ws4"];
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    refused(&[&name[..], &parts].concat(), &["ws4", "in use", "--id"]).await;
    assert_eq!(api.stop().await.code(), Some(0));
    assert_eq!(server.stop().await.code(), Some(0));
    stack.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let all = ["--balancer-port", "--server-port", "--api-port"];
    for option in all {
        let mut arguments = vec!["up", "--memory", "--servers", "1"];
        for other in all {
            arguments.extend([other, if other == option { &port } else { "0" }]);
        }
        refused(&arguments, &[&port, "in use", option]).await;
    }
    let address = format!("127.0.0.1:{port}");
    let balancer = ["balancer", "--listen", &address, "--server", "ws1=127.0.0.1:1"];
    refused(&balancer, &[&port, "in use", "--listen"]).await;
}

#[tokio::test]
async fn a_data_folder_in_use_is_said() {
    let stack = Stack::start(Parts::Embedded).await.unwrap();
    let data = stack.data();
    let ports = ["--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let arguments = [&["up", "--data", &data][..], &ports].concat();
    refused(&arguments, &[&data, "in use"]).await;
    // The first one does not mind.
    let mut a = stack.person("userA").await;
    assert_eq!(a.say("userB", "Hi").await, 1);
    stack.stop().await;
}

/// Its names stand on the board of that table, and its lock is on another folder: the one that
/// lives is left alone, the one that was killed is followed.
#[tokio::test]
async fn a_table_in_use_by_another_up_is_said() {
    let Some(mut stack) = Stack::start(Parts::Real).await else { return };
    let mut a = stack.at("ws1", "userA").await;
    let folder = tempfile::tempdir().unwrap();
    let ports = ["--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let data = ["--data", folder.path().to_str().unwrap()];
    let parts = stack.real_parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    refused(&[&["up"][..], &ports, &data, &parts].concat(), &["in use"]).await;
    assert_eq!(a.say("userB", "Hi").await, 1);
    stack.kill("up");
    stack.start_up().await;
    let mut b = stack.at("ws2", "userB").await;
    assert_eq!(crate::harness::texts(&b.catch_up().await), [(1, "Hi".to_owned())]);
    let begun = std::time::Instant::now();
    assert_eq!(stack.stop_one("up").await.code(), Some(0));
    stack.start_up().await;
    assert!(begun.elapsed().as_secs() < 6, "at once after a clean stop: {:?}", begun.elapsed());
    stack.stop().await;
}

#[tokio::test]
async fn bad_usage_is_exit_2() {
    for (arguments, says) in [
        (&["up", "--serverz", "3"][..], "--serverz"),
        (&["up", "--servers", "0"], "--servers"),
        (&["up", "--servers", "many"], "--servers"),
        (&["up", "--memory", "--data", "x"], "cannot be used with"),
        (&["up", "--pick", "random"], "round-robin"),
        (&["fly"], "fly"),
        (&["balancer", "--listen", "127.0.0.1:0"], "--server"),
        (&["balancer", "--listen", "127.0.0.1:0", "--server", "ws1"], "ws1=HOST:PORT"),
        (&["server"], "--listen"),
        (&["server", "--listen", "8081"], "0.0.0.0:8081 for all networks"),
        (&["api", "--listen", ":http"], "127.0.0.1:8080 for this machine"),
        (&["server", "--listen", "127.0.0.1:0", "--id", "a b"], "--id"),
        (&["table", "show", "dm:b:a"], "dm:b:a"),
        (&["table", "show"], "CONVERSATION"),
        (&["chat"], "--as"),
        (&["bench", "ten-thousand", "--users", "1"], "--users"),
    ] {
        bad_usage(arguments, says).await;
    }
    refused(&["server", "--listen", "127.0.0.1:0"], &["--redis"]).await;
    refused(&["up", "--host", "0.0.0.0", "--memory"], &["0.0.0.0", "--insecure-dev"]).await;
    let anybodys_page = ["up", "--memory", "--allow-origin", "*"];
    refused(&anybodys_page, &["--allow-origin *", "as anybody", "--jwt-secret-file"]).await;
    refused(&["table", "create"], &["--dynamodb"]).await;
    refused(&["table", "show", "dm:a:b"], &["--dynamodb", "--data"]).await;
    refused(&["table", "show", "dm:a:b", "--data", "/nowhere/at/all"], &["/nowhere/at/all"]).await;
}

#[tokio::test]
async fn a_table_is_made_and_checked() {
    let Some(url) = dynamodb() else { return };
    let name = format!("parlor-it-{:016x}", rand::random::<u64>());
    let table = async |what: &str| {
        let output = run(&["table", what, "--dynamodb", &url, "--table", &name]).await;
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, faults) = table("check").await;
    let create = format!("`parlor table create --dynamodb {url} --table {name}`");
    assert!(code == 1 && faults.contains(&create), "{code}: {faults}");
    let expected = |text: &str| (0, format!("the table {name:?} {text}\n"));
    assert_eq!(table("create").await, expected("is made"));
    assert_eq!(table("create").await, expected("is there already"));
    assert_eq!(table("check").await, expected("is as Parlor needs it"));
    let nobody = ["table", "check", "--dynamodb", "http://127.0.0.1:1", "--table", &name];
    let output = run(&nobody).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let words = "no connection to http://127.0.0.1:1: Connection refused (os error 111); check";
    assert!(said.contains(words), "{said}");
}

/// On the data of a running Parlor: a DM with its statuses, a room, nothing at all.
async fn show_prints_messages(stack: Stack) {
    assert_eq!(stack.shown("dm:userA:userB").await, ["no messages in dm:userA:userB"]);
    let mut a = stack.at("ws1", "userA").await;
    assert_eq!(a.say("userB", "one\u{1b}[2J").await, 1);
    let mut b = stack.at("ws2", "userB").await;
    b.catch_up().await;
    a.told_delivered(1).await;
    b.see("dm:userA:userB", 1).await;
    a.told_read(1).await;
    b.leave().await;
    assert_eq!(a.say("userB", "two").await, 2);
    let body = serde_json::json!({"room": "general"});
    stack.http().post("/v1/rooms?userId=userA", &body).await.unwrap().good().unwrap();
    let shown = stack.shown("dm:userA:userB").await;
    assert!(shown[0].starts_with("1 userA → userB read "), "{shown:?}");
    assert!(shown[0].ends_with("Z one\\u{1b}[2J"), "nothing steers the terminal: {shown:?}");
    assert!(shown[1].starts_with("2 userA → userB sent ") && shown[1].ends_with(" two"));
    assert_eq!(shown.len(), 2);
    let shown = stack.shown("room:general").await;
    assert!(shown.len() == 1 && shown[0].contains("userA → room:general"), "{shown:?}");
    assert!(shown[0].ends_with("[joined userA]"), "{shown:?}");
    stack.stop().await;
}

/// `parlor chat` with pipes in place of a terminal.
struct Piped {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Piped {
    fn start(stack: &Stack, user: &str, to: &str) -> Self {
        let mut command: Command = command();
        command.args(["chat", "--as", user, "--to", to, "--url", &stack.ws()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    fn type_in(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Ends the input, and gives the exit code.
    async fn end(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap().code()
    }
}

/// Plain lines in and out; the server is killed and comes back, and every line arrives once.
async fn a_chat_in_a_pipe_survives_a_restart(mut stack: Stack) {
    let mut a = Piped::start(&stack, "userA", "userB");
    let mut b = Piped::start(&stack, "userB", "userA");
    a.type_in("one");
    let heard = |expected: Vec<String>, piped: &Piped| (piped.lines() == expected).then_some(());
    let of = |user: &str, texts: &[&str]| -> Vec<String> {
        texts.iter().map(|text| format!("{user}: {text}")).collect()
    };
    let first = of("userA", &["one"]);
    eventually("userB reads it", async || heard(first.clone(), &b)).await;
    stack.kill("up");
    a.type_in("two, while nobody is there");
    a.type_in("three");
    stack.start_up().await;
    let all = of("userA", &["one", "two, while nobody is there", "three"]);
    eventually("userB reads the rest", async || heard(all.clone(), &b)).await;
    b.type_in("an answer");
    let answer = of("userB", &["an answer"]);
    eventually("userA reads it", async || heard(answer.clone(), &a)).await;
    assert_eq!(b.lines(), all, "each once");
    assert_eq!(a.end().await, Some(0));
    assert_eq!(b.end().await, Some(0));
    assert_eq!(stack.history("userA", "dm:userA:userB").await.len(), 4);
    stack.stop().await;
}
