//! What stands before Parlor: proxies that are trusted and others, and requests that two parsers
//! could read in two ways.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use parlor::protocol::ErrorCode::{BadRequest, Forbidden};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{SOON, command, eventually};
use crate::raw::{Answer, KEY, Raw, request, upgrade_head};

/// A role whose log is read. Killed when dropped.
pub struct Logged {
    /// Its ready line.
    pub ready: Value,
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Logged {
    /// Starts it, and waits until it accepts.
    pub async fn start(arguments: &[&str]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = command();
        command.args(arguments).arg("--ready-json").env("PARLOR_LOG", "parlor=debug");
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(File::create(log.path()).unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            line
        });
        let line = line.await.unwrap();
        let said = || std::fs::read_to_string(log.path()).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}{}", said()));
        Self { ready, child, log }
    }

    /// `parlor up` in memory, on free ports.
    pub async fn up(more: &[&str]) -> Self {
        let own =
            ["up", "--memory", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
        Self::start(&[&own[..], more].concat()).await
    }

    /// `parlor balancer` on a free port.
    pub async fn balancer(more: &[&str]) -> Self {
        Self::start(&[&["balancer", "--listen", "127.0.0.1:0"][..], more].concat()).await
    }

    pub fn front(&self) -> &str {
        self.ready["balancer"].as_str().unwrap()
    }

    pub fn server(&self) -> &str {
        self.ready["servers"]["ws1"].as_str().unwrap()
    }

    pub fn api(&self) -> &str {
        self.ready["api"].as_str().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// Waits until the log says it.
    pub async fn says(&self, what: &str) {
        eventually(what, async || self.log().contains(what).then_some(())).await;
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn opens(address: &str, user: &str, more: &str) -> u16 {
    opens_after(address, b"", user, more).await.expect("an answer")
}

/// The status of an upgrade behind these bytes; `None` where the connection just ended.
async fn opens_after(address: &str, before: &[u8], user: &str, more: &str) -> Option<u16> {
    let mut raw = Raw::dial(address).await;
    raw.write(&[before, upgrade_head(&format!("userId={user}"), more).as_bytes()].concat()).await;
    Some(raw.head().await?.status)
}

/// Clients of other machines are served without tokens.
const OPEN: &str = "--insecure-dev";

const STORY: &str = "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Real-IP: 6.6.6.6\r\n\
                     Forwarded: for=6.6.6.6\r\n";

#[tokio::test]
async fn a_client_is_where_a_trusted_proxy_says_it_is() {
    let up = Logged::up(&["--trusted-proxy", "127.0.0.1", OPEN]).await;
    for (at, user) in [(up.front(), "told-front"), (up.server(), "told-server")] {
        assert_eq!(opens(at, user, STORY).await, 101);
        up.says(&format!("client=203.0.113.7 user={user}")).await;
        assert_eq!(opens(at, &format!("{user}-itself"), "").await, 101);
        up.says(&format!("client=127.0.0.1 user={user}-itself")).await;
        assert_eq!(opens(at, user, "X-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n").await, 400);
    }
    let up = Logged::up(&["--trusted-proxy", "10.0.0.0/8", OPEN]).await;
    for (at, user) in [(up.front(), "story-front"), (up.server(), "story-server")] {
        assert_eq!(opens(at, user, STORY).await, 101);
        up.says(&format!("client=127.0.0.1 user={user}")).await;
    }
    up.says("X-Forwarded-For is not believed").await;
}

#[tokio::test]
async fn a_balancer_tells_servers_who_dialled_it_and_drops_what_clients_say() {
    let up = Logged::up(&["--trusted-proxy", "127.0.0.1", OPEN]).await;
    let (server, api) = (format!("ws1={}", up.server()), format!("http://{}", up.api()));
    let plain = ["--server", &server, "--api", &api, OPEN];
    let own = Logged::balancer(&plain).await;
    assert_eq!(opens(own.front(), "story", STORY).await, 101);
    up.says("client=127.0.0.1 user=story").await;
    let behind = [&plain[..], &["--trusted-proxy", "127.0.0.1"]].concat();
    let behind = Logged::balancer(&behind).await;
    assert_eq!(opens(behind.front(), "told", STORY).await, 101);
    up.says("client=203.0.113.7 user=told").await;

    // The name that the browser used, as the proxy has it, decides what is the same origin.
    let page = "Origin: https://chat.example.com\r\nX-Forwarded-Host: chat.example.com\r\n\
                X-Forwarded-Proto: https\r\n";
    assert_eq!(opens(behind.front(), "page", page).await, 101);
    assert_eq!(opens(own.front(), "page", page).await, 403, "anybody could say so");
    let plain = page.replace("Origin: https", "Origin: http");
    assert_eq!(opens(behind.front(), "page", &plain).await, 403, "a page without TLS");
    let get = |target: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        format!("{head}{page}\r\n")
    };
    let history = get("/v1/users/a/conversations?userId=a");
    assert_eq!(request(behind.front(), &history).await.unwrap().status, 200);
    let refused = request(own.front(), &history).await.unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (403, &Forbidden.as_str().into()));
    let connect = request(behind.front(), get("/v1/connect?userId=a")).await.unwrap();
    assert_eq!(connect.json()["url"], "wss://chat.example.com/ws");
    let secure = Some("max-age=31536000");
    assert_eq!(connect.header("strict-transport-security"), secure);
}

/// A proxy that passes everybody on stands on loopback as well.
#[tokio::test]
async fn without_tokens_whoever_is_told_to_be_elsewhere_is_turned_away() {
    let up = Logged::up(&[]).await;
    let (server, api) = (format!("ws1={}", up.server()), format!("http://{}", up.api()));
    let apart = Logged::balancer(&["--server", &server, "--api", &api]).await;
    let get = |more: &str| {
        let head = "GET /v1/users/victim/conversations?userId=victim HTTP/1.1\r\nHost: localhost";
        format!("{head}\r\nConnection: close\r\n{more}\r\n")
    };
    for (told, elsewhere) in [
        ("X-Forwarded-For: 203.0.113.7\r\n", true),
        ("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-For: ::1, 203.0.113.7\r\n", true),
        ("X-Forwarded-For: 127.0.0.1, ::1\r\n", false),
    ] {
        for at in [up.front(), up.server(), apart.front()] {
            let status = if elsewhere { 403 } else { 101 };
            assert_eq!(opens(at, "victim", told).await, status, "{told} at {at}");
        }
        for at in [up.front(), up.api(), apart.front()] {
            let answer = request(at, get(told)).await.unwrap();
            if elsewhere {
                answer.is_problem(403);
                assert!(answer.text().contains("--jwt-secret-file"), "{}", answer.text());
            } else {
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }
    }
    up.says("without tokens only this machine is served").await;
}

/// PROXY protocol, version 2: TCP over IPv4 from 203.0.113.9:4711.
const LINE: &[u8; 28] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x0a\0\0\x01\x12\x67\x01\xbb";

#[tokio::test]
async fn a_tcp_proxy_says_who_dialled_it_in_one_line() {
    let up = Logged::up(&["--proxy-protocol", "--trusted-proxy", "127.0.0.1", OPEN]).await;
    for (at, user) in [(up.front(), "line-front"), (up.server(), "line-server")] {
        assert_eq!(opens_after(at, LINE, user, "").await, Some(101));
        up.says(&format!("client=203.0.113.9 user={user}")).await;
        assert_eq!(opens_after(at, LINE, &format!("{user}-more"), STORY).await, Some(101));
        up.says(&format!("client=203.0.113.9 user={user}-more")).await;
        assert_eq!(opens_after(at, b"", user, "").await, None, "a proxy that says nothing");
        let old = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n";
        assert_eq!(opens_after(at, old, user, "").await, None, "version 1");
    }
    let get = b"GET /v1/servers?userId=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = request(up.api(), [&LINE[..], get].concat()).await.unwrap();
    assert_eq!(answer.status, 200);
    let up = Logged::up(&["--proxy-protocol", "--trusted-proxy", "10.0.0.0/8"]).await;
    assert_eq!(opens_after(up.front(), LINE, "a", "").await, Some(400), "a stranger's line");
    assert_eq!(opens_after(up.front(), b"", "a", "").await, Some(101), "a stranger is itself");
}

/// The proxy does not know who it is: what it says of itself is a stranger's word.
#[tokio::test]
async fn a_client_without_an_address_is_not_its_proxy() {
    let up = Logged::up(&["--proxy-protocol", "--trusted-proxy", "127.0.0.1", OPEN]).await;
    let unknown = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
    assert_eq!(opens_after(up.front(), unknown, "unknown", STORY).await, Some(101));
    up.says("client=0.0.0.0 user=unknown").await;
    // LOCAL is the proxy itself, of which that is not known either.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(opens_after(up.front(), local, "itself", "").await, Some(101));
    up.says("client=127.0.0.1 user=itself").await;
}

/// Connections that say nothing: an address has so many, and others are not concerned.
#[tokio::test]
async fn an_address_is_at_the_door_so_often() {
    let options = ["--proxy-protocol", "--trusted-proxy", "127.0.0.1", OPEN];
    let bounds = ["--half-open-per-address", "4", "--admin-listen", "127.0.0.1:0"];
    let up = Logged::up(&[&options[..], &bounds].concat()).await;
    let mut silent = Vec::new();
    for address in [up.front(), up.server(), up.api()].into_iter().cycle().take(12) {
        let mut raw = Raw::dial(address).await;
        raw.write(LINE).await;
        silent.push(raw);
    }
    let admin = up.ready["admin"].as_str().unwrap();
    let met = async || crate::limits::met(admin, "half_open_per_address").await;
    eventually("eight are too many", async || (met().await == 8).then_some(())).await;
    let other = LINE.map(|byte| if byte == 9 { 10 } else { byte });
    for address in [up.front(), up.server()] {
        assert_eq!(opens_after(address, LINE, "crowd", "").await, None);
        assert_eq!(opens_after(address, &other, "other", "").await, Some(101));
    }
    drop(silent);
    let free = async || opens_after(up.front(), LINE, "crowd", "").await;
    eventually("there is room again", async || (free().await == Some(101)).then_some(())).await;
}

/// A trusted proxy may keep connections for others' requests: an upgrade needs one of its own.
#[tokio::test]
async fn a_proxy_keeps_no_connection_of_the_balancer() {
    let up = Logged::up(&["--trusted-proxy", "127.0.0.1"]).await;
    let plain = Logged::up(&[]).await;
    for (at, closes) in [(up.front(), Some("close")), (plain.front(), None)] {
        for target in ["/", "/readyz", "/v1/servers?userId=a", "/nothing"] {
            let mut raw = Raw::dial(at).await;
            let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            raw.write(head.as_bytes()).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!(answer.header("connection"), closes, "{target}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn what_can_not_be_meant_is_said() {
    for (options, said) in [
        (&["--trusted-proxy", "proxy.example.com"][..], "must be an address or a network"),
        (&["--trusted-proxy", "10.0.0.0/33"], "must be an address or a network"),
        (&["--proxy-protocol"], "--trusted-proxy"),
    ] {
        let mut up = command();
        up.args(["up", "--memory", "--balancer-port", "0", "--api-port", "0"]);
        let output = up.args(["--server-port", "0"]).args(options).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

// ------------------------------------------------------------------------- two ways to read it

/// Heads that one parser takes for one request and another for two, or for another one.
fn ambiguous(method: &str, target: &str) -> Vec<String> {
    let inner = "GET /v1/servers?userId=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let with = |lines: &str, body: &str| {
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n{body}")
    };
    let both = format!("0\r\n\r\n{inner}");
    let length = both.len();
    vec![
        with(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), &both),
        with(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), &both),
        with(&format!("Content-Length: 0\r\nContent-Length: {}", inner.len()), inner),
        with(&format!("Content-Length: {0}\r\nContent-Length: {0}", inner.len()), inner),
        with(&format!("Content-Length: 0, {}", inner.len()), inner),
        with("Content-Length: +2", "{}"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &both),
        with("Transfer-Encoding: xchunked", &both),
        with("Transfer-Encoding: gzip, chunked", &both),
        with("Transfer-Encoding\t: chunked", &both),
        with("Transfer-Encoding: chunked\r\n folded", &both),
        with("X: y\nTransfer-Encoding: chunked", &both),
        with("X: y\rTransfer-Encoding: chunked", &both),
        with("X: y\0", ""),
        with("Host: elsewhere", ""),
        with("Host : localhost", ""),
        format!("{method} {target} HTTP/1.1\nHost: localhost\n\n"),
        format!("{method} http://elsewhere{target} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("{method} {target} HTTP/1.1 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ]
}

/// All that comes back until the connection ends.
async fn all(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    let reading = stream.read_to_end(&mut read);
    let ended = timeout(SOON, reading).await;
    assert!(ended.is_ok(), "not ended: {}", String::from_utf8_lossy(&read));
    String::from_utf8_lossy(&read).into_owned()
}

fn statuses(answers: &str) -> Vec<&str> {
    let lines = answers.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3));
    lines.filter(|status| status.bytes().all(|b| b.is_ascii_digit())).collect()
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read() {
    let up = Logged::up(&[]).await;
    let (server, api) = (format!("ws1={}", up.server()), format!("http://{}", up.api()));
    let apart = Logged::balancer(&["--server", &server, "--api", &api]).await;
    let behind = "GET /v1/servers?userId=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let sockets = [up.front(), up.server(), apart.front()].map(|at| (at, "GET", "/ws?userId=a"));
    let plain =
        [up.front(), up.api(), apart.front()].map(|at| (at, "POST", "/v1/messages?userId=a"));
    for (address, method, target) in sockets.into_iter().chain(plain) {
        for head in ambiguous(method, target) {
            let answers = all(address, format!("{head}{behind}").as_bytes()).await;
            assert_eq!(statuses(&answers), ["400"], "{address} {head:?}: {answers}");
        }
    }
    // The same as the second request of a connection.
    for (address, method, target) in plain {
        for head in ambiguous(method, target) {
            let answers = all(address, format!("{behind}{head}{behind}").as_bytes()).await;
            assert_eq!(statuses(&answers), ["200", "400"], "{address} {head:?}: {answers}");
        }
        let chunks = "POST /v1/messages?userId=a HTTP/1.1\r\nHost: localhost\r\n\
                      Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
                      1d\r\n{\"to\":\"userB\",\"message\":\"Hi\"}\r\n0\r\n\r\n";
        let answers = all(address, format!("{behind}{chunks}{behind}").as_bytes()).await;
        assert_eq!(statuses(&answers), ["200", "201"], "nothing is read behind chunks: {answers}");
    }
}

#[tokio::test]
async fn only_a_websocket_is_ever_spliced() {
    let up = Logged::up(&[]).await;
    let server = format!("ws1={}", up.server());
    let apart = Logged::balancer(&["--server", &server]).await;
    let behind = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head =
        |lines: &str| format!("GET /ws?userId=a HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n");
    for (lines, status) in [
        ("Connection: keep-alive", "426"),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk", "426"),
        (
            &format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n\
                   Sec-WebSocket-Key: {KEY}"
            ),
            "426",
        ),
        (
            &format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: {KEY}\r\nContent-Length: {}",
                behind.len()
            ),
            "400",
        ),
    ] {
        for address in [up.front(), apart.front()] {
            let answers = all(address, format!("{}{behind}", head(lines)).as_bytes()).await;
            assert_eq!(statuses(&answers), [status], "{address} {lines}: {answers}");
        }
    }
    // A path that only looks like the one of sockets is answered here.
    for target in ["/ws/", "/WS", "/%77s", "//ws", "/x/../ws", "/ws;a"] {
        let head = upgrade_head("userId=a", "").replace("/ws", target);
        let answer: Answer = request(apart.front(), head).await.unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (404, &"not_found".into()), "{target}");
    }
    let no_host = "GET / HTTP/1.1\r\n\r\n";
    let answer = request(up.front(), no_host).await.unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (400, &BadRequest.as_str().into()));
}

/// How long a connection may say nothing before it has got in.
pub const GREETING: Duration = Duration::from_secs(10);
