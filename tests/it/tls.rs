//! TLS at every listener, its certificate renewed while people talk, and TLS between the parts.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use parlor::client::{Client, ClientOptions};
use parlor::edge::{Stream, Upstream};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Parts, SOON, Stack, eventually};
use crate::proxies::{GREETING, Logged};

/// A certificate for this machine that is its own authority, in files.
pub struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.renew();
        files
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts another pair in place, and gives the certificate alone.
    fn renew(&self) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1", "chat.test"].map(str::to_owned).to_vec();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        std::fs::write(self.at("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.at("key.pem"), key.serialize_pem()).unwrap();
        let alone = self.at(&format!("root-{:08x}.pem", rand::random::<u32>()));
        std::fs::write(&alone, certificate.pem()).unwrap();
        alone
    }

    pub fn options(&self) -> Vec<String> {
        let path = |name| self.at(name).to_str().unwrap().to_owned();
        vec!["--tls-cert".into(), path("cert.pem"), "--tls-key".into(), path("key.pem")]
    }

    async fn up(&self, more: &[&str]) -> Logged {
        let options = self.options();
        let options: Vec<&str> =
            options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Logged::up(&options).await
    }
}

async fn dial(address: &str, root: &Path) -> std::io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    Upstream::trusting(root).unwrap().secure(stream, "localhost").await
}

/// Status line, headers and body.
async fn get(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    host: &str,
    path: &str,
) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

/// Somebody on a socket over whatever lies below.
struct Someone<S>(WebSocketStream<S>);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Someone<S> {
    async fn open(stream: S, user: &str) -> Self {
        let url = format!("ws://localhost/ws?userId={user}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut someone = Self(socket);
        someone.wait("caughtup").await;
        someone
    }

    async fn say(&mut self, to: &str, text: &str) {
        let frame = json!({"type": "message", "to": to, "message": text}).to_string();
        self.0.send(Message::text(frame)).await.unwrap();
        self.wait("sent").await;
    }

    async fn wait(&mut self, kind: &str) -> Value {
        let reading = async {
            loop {
                if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if frame["type"] == kind {
                        return frame;
                    }
                }
            }
        };
        timeout(SOON, reading).await.unwrap_or_else(|_| panic!("no {kind}"))
    }
}

#[tokio::test]
async fn every_listener_speaks_tls_and_people_talk_over_it() {
    let files = Files::new();
    let up = files.up(&["--allow-host", "chat.test"]).await;
    let root = files.at("cert.pem");
    for address in [up.front(), up.api()] {
        let path = "/v1/servers?userId=a";
        let answer = get(dial(address, &root).await.unwrap(), "localhost", path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(!answer.contains("strict-transport-security"), "others may use localhost");
        assert!(answer.contains("tls://127.0.0.1:"), "how servers are dialled: {answer}");
        let answer = get(dial(address, &root).await.unwrap(), "chat.test", path).await;
        assert!(answer.contains("strict-transport-security: max-age=31536000"), "{answer}");
    }
    // On what the balancer says itself too.
    for (name, said) in [("chat.test", true), ("localhost", false)] {
        let answer = get(dial(up.front(), &root).await.unwrap(), name, "/readyz").await;
        assert_eq!(answer.contains("strict-transport-security"), said, "{name}: {answer}");
    }
    let connect = get(dial(up.front(), &root).await.unwrap(), "chat.test", "/v1/connect?userId=a");
    assert!(connect.await.contains(r#""url":"wss://chat.test/ws""#));
    let mut a = Someone::open(dial(up.front(), &root).await.unwrap(), "userA").await;
    let mut b = Someone::open(dial(up.server(), &root).await.unwrap(), "userB").await;
    for text in ["Hi", &"long ".repeat(3_000)] {
        a.say("userB", text).await;
        assert_eq!(b.wait("message").await["message"], text);
    }
    assert_eq!(a.wait("delivered").await["seq"], 1);
    // Without TLS there is nothing to be had, and nobody else's certificate is taken for ours.
    for address in [up.front(), up.server(), up.api()] {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut read = Vec::new();
        let _ = timeout(SOON, plain.read_to_end(&mut read)).await.unwrap();
        assert!(!read.starts_with(b"HTTP"), "{read:?}");
        let other = Files::new();
        assert!(dial(address, &other.at("cert.pem")).await.is_err());
    }
}

/// More leaves in one turn than the library takes at once, for a client that only reads.
#[tokio::test]
async fn a_long_catch_up_is_not_kept_waiting() {
    let files = Files::new();
    let up = files.up(&[]).await;
    let root = files.at("cert.pem");
    let mut a = Someone::open(dial(up.server(), &root).await.unwrap(), "userA").await;
    let text = "long ".repeat(3_000);
    for _ in 0..30 {
        a.say("userB", &text).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let begun = Instant::now();
    let url = "ws://localhost/ws?userId=userB&acks=app";
    let stream = dial(up.server(), &root).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let mut b = Someone(socket);
    // As many as may be there without an ack, which this client does not give.
    for seq in 1..=17 {
        assert_eq!(b.wait("message").await["seq"], seq);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_certificate_is_renewed_under_open_sockets() {
    let files = Files::new();
    let up = files.up(&["--admin-listen", "127.0.0.1:0"]).await;
    let old = files.at("old.pem");
    std::fs::copy(files.at("cert.pem"), &old).unwrap();
    let mut a = Someone::open(dial(up.front(), &old).await.unwrap(), "userA").await;
    // A broken one changes nothing.
    std::fs::write(files.at("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    up.says("the new certificate is not good, the old one stays").await;
    assert!(dial(up.front(), &old).await.is_ok());
    // Whoever asks again is told again, and a look at its health tells it too.
    let admin = up.ready["admin"].as_str().unwrap();
    let ready =
        async || get(TcpStream::connect(admin).await.unwrap(), "localhost", "/readyz").await;
    let told = ready().await;
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("can't be renewed"), "{told}");
    let pid = up.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    let twice =
        async || (up.log().matches("is not good, the old one stays").count() == 2).then_some(());
    eventually("it is said again", twice).await;
    let new = files.renew();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    for address in [up.front(), up.server(), up.api()] {
        let renewed = async || dial(address, &new).await.ok().map(drop);
        eventually("the new certificate", renewed).await;
        assert!(dial(address, &old).await.is_err());
    }
    up.says("the certificate was renewed").await;
    assert!(!ready().await.contains("can't be renewed"));
    let metrics = get(TcpStream::connect(admin).await.unwrap(), "localhost", "/metrics").await;
    // The first second of 4096, which `rcgen` takes where it is told nothing.
    assert!(
        metrics.contains("parlor_certificate_ends_seconds{process=\"ws1\"} 67090118400"),
        "{metrics}"
    );
    a.say("userB", "still there").await;
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    up.says("the certificate is the same as before").await;
}

#[tokio::test]
async fn the_terminal_chat_speaks_tls_to_whom_it_trusts() {
    let (files, other) = (Files::new(), Files::new());
    let up = files.up(&[]).await;
    let (url, root) = (format!("wss://{}/ws", up.front()), files.at("cert.pem"));
    let chat = |url: &str, more: &[&str]| {
        let mut chat = crate::harness::command();
        chat.args(["chat", "--url", url]).args(more).stdin(Stdio::piped());
        chat.stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = move || {
            let output = chat.spawn().unwrap().wait_with_output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        tokio::task::spawn_blocking(said)
    };
    let mut b = Someone::open(dial(up.front(), &root).await.unwrap(), "userB").await;
    let mut a = crate::harness::command();
    a.args(["chat", "--url", &url, "--as", "userA", "--to", "userB", "--ca"]).arg(&root);
    let mut a = a.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    a.stdin.take().unwrap().write_all(b"by TLS\n").unwrap();
    assert_eq!(b.wait("message").await["message"], "by TLS");
    assert!(tokio::task::spawn_blocking(move || a.wait().unwrap()).await.unwrap().success());

    // Who shows a certificate of somebody else gets no token.
    let token = files.at("token");
    std::fs::write(&token, "never.shown.there").unwrap();
    let carried = ["--token-file", token.to_str().unwrap()];
    let others = other.at("cert.pem");
    for trusted in [&["--ca", others.to_str().unwrap()][..], &[]] {
        let (code, said) = chat(&url, &[&carried[..], trusted].concat()).await.unwrap();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("TLS: ") && said.contains("--ca FILE"), "{said}");
        assert!(!said.contains("can read your token"), "{said}");
    }
    let (_, said) = chat("ws://nobody.invalid:1/ws", &carried).await.unwrap();
    assert!(said.contains("can read your token: use wss://"), "{said}");
}

#[tokio::test]
async fn who_dials_by_the_wrong_scheme_is_told_the_right_one() {
    let up = Files::new().up(&[]).await;
    let plain = Stack::start(Parts::Embedded).await.unwrap();
    let by_tls = plain.ws().replace("ws://", "wss://");
    for (url, told) in
        [(format!("ws://{}/ws", up.front()), "call it wss://"), (by_tls, "call it ws://")]
    {
        let error = Client::connect(&ClientOptions::new(&url, "userC")).await.err().unwrap();
        assert!(error.to_string().contains(told), "{error}");
    }
    plain.stop().await;
}

#[tokio::test]
async fn a_listener_whose_tokens_others_can_read_says_so() {
    let files = Files::new();
    let secret = files.at("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let anywhere = ["--host", "0.0.0.0", "--jwt-secret-file", secret.to_str().unwrap()];
    let warned = "cross the network readable on their way to 0.0.0.0";
    let tls = files.options();
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    let proxy = ["--trusted-proxy", "10.0.0.1"];
    for (more, is_warned) in [(&[][..], true), (&tls, false), (&proxy, false)] {
        let up = Logged::up(&[&anywhere[..], more].concat()).await;
        assert_eq!(up.log().matches(warned).count(), usize::from(is_warned), "{more:?}");
    }
    let up = Logged::up(&anywhere[2..]).await;
    assert!(!up.log().contains("readable"), "nobody else is on loopback");
}

/// Redis does not answer yet, and whoever has renewed certificates tells all services of a machine.
#[tokio::test]
async fn sighup_ends_no_process_that_starts_or_has_no_certificate() {
    let kill = |signal: &str, pid: u32| {
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let redis = format!("redis://{}", silent.local_addr().unwrap());
    let own = ["up", "--memory", "--balancer-port", "0", "--server-port", "0", "--api-port", "0"];
    let files = Files::new();
    for options in [files.options(), Vec::new()] {
        let mut up = crate::harness::command();
        up.args(own).args(["--redis", &redis]).args(&options).stdin(Stdio::null());
        let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", up.id());
        let catches = async || {
            let status = std::fs::read_to_string(&status).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            (u64::from_str_radix(caught.trim(), 16).ok()? & 1 == 1).then_some(())
        };
        eventually("SIGHUP is caught while it starts", catches).await;
        kill("-HUP", up.id());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(up.try_wait().unwrap(), None, "{options:?}");
        kill("-TERM", up.id());
        assert_eq!(up.wait().unwrap().code(), Some(0), "{options:?}");
    }
    let plain = Logged::up(&[]).await;
    kill("-HUP", plain.pid());
    plain.says("SIGHUP changes nothing").await;
}

#[tokio::test]
async fn the_parts_of_a_fleet_speak_tls_to_each_other() {
    let files = Files::new();
    let up = files.up(&["--trusted-proxy", "127.0.0.1"]).await;
    let root = files.at("cert.pem");
    let (server, api) = (format!("ws1=tls://{}", up.server()), format!("https://{}", up.api()));
    let parts = ["--server", &server, "--api", &api];
    let ca = ["--upstream-ca", root.to_str().unwrap()];
    let plain = Logged::balancer(&[&parts[..], &ca].concat()).await;
    let options = files.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let sealed = Logged::balancer(&[&parts[..], &ca, &options].concat()).await;
    let dialled = TcpStream::connect(plain.front()).await.unwrap();
    let mut a = Someone::open(dialled, "userA").await;
    let mut b = Someone::open(dial(sealed.front(), &root).await.unwrap(), "userB").await;
    up.says("client=127.0.0.1 user=userB").await;
    let long = "long ".repeat(3_000);
    for text in ["Hi", &long] {
        a.say("userB", text).await;
        assert_eq!(b.wait("message").await["message"], text);
        b.say("userA", text).await;
        assert_eq!(a.wait("message").await["message"], text);
    }
    let answer =
        get(dial(sealed.front(), &root).await.unwrap(), "localhost", "/v1/servers?userId=a");
    assert!(answer.await.starts_with("HTTP/1.1 200"));
    // Who is not to be trusted is not talked to.
    let other = Files::new();
    let ca = ["--upstream-ca", other.folder.path().join("cert.pem").to_str().unwrap()]
        .map(str::to_owned);
    let ca: Vec<&str> = ca.iter().map(String::as_str).collect();
    let mut command = crate::harness::command();
    command.args(["balancer", "--listen", "127.0.0.1:0", "--ready-json"]).args(parts).args(&ca);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let running = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let _ = child.wait();
    assert!(running && said.is_empty(), "it waits for a server that it may trust: {said}");
}

/// They wait for nothing but each other, and that for ten seconds.
#[tokio::test]
async fn silent_handshakes_keep_nobody_from_theirs() {
    let files = Files::new();
    let up = files.up(&[]).await;
    let mut silent = Vec::new();
    for address in [up.front(), up.server()].into_iter().cycle().take(1_100) {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for address in [up.front(), up.server(), up.api()] {
        let begun = Instant::now();
        assert!(dial(address, &files.at("cert.pem")).await.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let files = Files::new();
    let up = files.up(&[]).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for address in [up.front(), up.server(), up.api()] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The beginning of a ClientHello.
        stream.write_all(b"\x16\x03\x01\x02\0\x01").await.unwrap();
        silent.push(stream);
    }
    assert!(dial(up.front(), &files.at("cert.pem")).await.is_ok(), "others get in meanwhile");
    for mut stream in silent {
        let mut read = Vec::new();
        let ended = timeout(GREETING + SOON, stream.read_to_end(&mut read)).await;
        assert!(ended.is_ok(), "it is ended");
    }
    assert!(begun.elapsed() >= GREETING / 2, "and it had its time");
}

/// Whoever takes long over one part of coming in has less for the next.
#[tokio::test]
async fn coming_in_has_ten_seconds_altogether() {
    let files = Files::new();
    let up = files.up(&[]).await;
    let (root, begun) = (&files.at("cert.pem"), Instant::now());
    let addresses = [up.front(), up.server(), up.api()];
    let coming = addresses.map(|address| async move {
        let stream = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(GREETING / 2).await;
        let trusting = Upstream::trusting(root).unwrap();
        let mut stream = trusting.secure(stream, "localhost").await.unwrap();
        stream.write_all(b"GET /ws?userId=a HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
        let mut read = Vec::new();
        let _ = timeout(GREETING * 2, stream.read_to_end(&mut read)).await.expect("it ends");
        begun.elapsed()
    });
    for took in futures_util::future::join_all(coming).await {
        assert!((9..13).contains(&took.as_secs()), "{took:?}");
    }
}

#[tokio::test]
async fn files_that_are_no_certificate_are_said() {
    let files = Files::new();
    for (name, said) in [("key.pem", "holds no certificate"), ("none.pem", "none.pem: ")] {
        let mut up = crate::harness::command();
        up.args([
            "up",
            "--memory",
            "--balancer-port",
            "0",
            "--server-port",
            "0",
            "--api-port",
            "0",
        ]);
        up.arg("--tls-cert").arg(files.at(name)).arg("--tls-key").arg(files.at("key.pem"));
        let output = up.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said) && stderr.contains("--tls-cert "), "{stderr}");
        assert!(!stderr.contains("PRIVATE"), "{stderr}");
    }
}
